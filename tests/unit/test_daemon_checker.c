/* test_daemon_checker.c - checksums: which files, what is in them, and the worker's checker thread, driven as
 * the supervisor drives it over a socket pair.
 *
 * The worker runs as threads of this program, so that the sanitizers see it.  Large files are holes.
 * Run from the root of the tree.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "daemon/file_check.h"
#include "daemon/roles.h"
#include "registry/sha256.h"
#include "tests/unit/test_registry_dir.h"
#include "tests/unit/test_sparse_checkpoint.h"

enum { PATIENCE_MS = 60000 };

static const char *const digest_of_abc =
	"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

static const struct sparse_shape tiny = {
	32, 2, 4, 16, 16, 1, 96, 96, false, true, M2_DTYPE_F16, M2_DTYPE_F32};
/* many gigabytes to read and next to nothing to open: nobody waits until it is read to its end */
static const struct sparse_shape large = {
	1024, 1, 32, 64, 16, 1, 16000000, 16000000, false, true, M2_DTYPE_BF16, M2_DTYPE_F32};

static struct m2_variant variant_of(const char *checkpoint)
{
	struct m2_variant v;
	m2_variant_init(&v);
	(void)snprintf(v.name, sizeof v.name, "one");
	(void)snprintf(v.checkpoint, sizeof v.checkpoint, "%s", checkpoint);
	return v;
}

/* ---- files ------------------------------------------------------------------------------------- */

static bool count(void *ctx, size_t bytes)
{
	*(size_t *)ctx += bytes;
	return true;
}

static bool never(void *ctx, size_t bytes)
{
	(void)ctx;
	(void)bytes;
	return false;
}

static bool truncate_it(void *ctx, size_t bytes)
{
	(void)bytes;
	return truncate(ctx, 1) == 0;
}

static void a_file_has_its_checksum_size_and_time(void **state)
{
	struct m2_ipc_file file;
	char sha256[65];
	struct stat st;
	size_t seen = 0;
	const char *path = test_path(state, "abc");
	test_write(path, "abc");
	assert_int_equal(m2_file_checksum(path, count, &seen, &file, sha256, NULL), M2_OK);
	assert_string_equal(sha256, digest_of_abc);
	assert_int_equal(seen, 3);
	assert_int_equal(file.bytes, 3);
	assert_string_equal(file.path, path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(
		file.mtime_ns, (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
	struct m2_ipc_file again;
	assert_int_equal(m2_file_look(path, &again, NULL), M2_OK);
	assert_memory_equal(&again, &file, sizeof file);
}

static void what_cannot_be_read_is_told_apart(void **state)
{
	struct m2_ipc_file file;
	char sha256[65];
	struct m2_why why;
	size_t seen = 0;
	const char *path = test_path(state, "nothing");
	assert_int_equal(m2_file_checksum(path, count, &seen, &file, sha256, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, "nothing"));
	assert_int_equal(m2_file_look(path, &file, &why), M2_ENOENT);
	assert_int_equal(m2_file_look(test_path(state, "."), &file, &why), M2_EFORMAT);
	assert_int_not_equal(
		m2_file_checksum(test_path(state, "."), count, &seen, &file, sha256, &why), M2_OK);
	/* nobody waits */
	path = test_path(state, "abc");
	test_write(path, "abc");
	assert_int_equal(m2_file_checksum(path, never, NULL, &file, sha256, &why), M2_ECANCELED);
	/* and one that becomes another while it is read has no checksum */
	assert_int_equal(
		m2_file_checksum(path, truncate_it, (void *)(uintptr_t)path, &file, sha256, &why),
		M2_EIO);
	assert_non_null(strstr(why.text, "changed while it was read"));
}

static void the_list_names_every_file_once(void **state)
{
	struct m2_file_list list = {0};
	struct m2_why why = {"", ""};
	char directory[900];
	char expected[1000];
	(void)snprintf(directory, sizeof directory, "%s", test_path(state, "m"));
	assert_int_equal(mkdir(directory, 0700), 0);
	sparse_checkpoint(directory, &tiny);
	const struct m2_variant v = variant_of(directory);
	assert_int_equal(m2_file_list_fill(&list, &v, &why), M2_OK);
	assert_int_equal(list.count, 2);
	(void)snprintf(expected, sizeof expected, "%s/config.json", directory);
	assert_string_equal(list.paths[0], expected);
	(void)snprintf(expected, sizeof expected, "%s/model.safetensors", directory);
	assert_string_equal(list.paths[1], expected);
	assert_int_equal(m2_file_list_add(&list, expected, &why), M2_OK);
	assert_int_equal(list.count, 2);
	m2_file_list_finish(&list);
	/* what cannot be opened says so, and has no files */
	const struct m2_variant none = variant_of(test_path(state, "nowhere"));
	assert_int_equal(m2_file_list_fill(&list, &none, &why), M2_ENOENT);
	assert_int_equal(list.count, 0);
	m2_file_list_finish(&list);
}

/* ---- the worker -------------------------------------------------------------------------------- */

struct rig {
	struct m2_ipc_channel *channel;
	struct m2_worker_options options;
	pthread_t thread;
	char results[300];
	int status;
};

static void *worker_thread(void *arg)
{
	struct rig *rig = arg;
	rig->status = m2_worker_main(&rig->options);
	return NULL;
}

/* The next packet of a check; what else comes is passed over. */
static struct m2_ipc_packet next(struct rig *rig)
{
	struct m2_why why = {"", ""};
	for (;;) {
		struct m2_ipc_packet packet;
		bool got;
		if (m2_ipc_receive(rig->channel, &packet, &got, &why) != M2_OK)
			fail_msg("%s", why.text);
		if (got && (packet.type == M2_IPC_CHECKED || packet.type == M2_IPC_CHECK_ENDED ||
				   packet.type == M2_IPC_CHECK_PROGRESS))
			return packet;
		struct pollfd fd = {.fd = m2_ipc_channel_fd(rig->channel), .events = POLLIN};
		if (!got && poll(&fd, 1, PATIENCE_MS) != 1)
			fail_msg("no packet within %d ms", PATIENCE_MS);
	}
}

static struct rig *start(void **state)
{
	int pair[2];
	struct rig *rig = calloc(1, sizeof *rig);
	assert_non_null(rig);
	(void)snprintf(rig->results, sizeof rig->results, "%s", test_path(state, "results"));
	assert_int_equal(mkdir(rig->results, 0700), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(m2_ipc_channel_create(
				 pair[0], M2_IPC_SUPERVISOR, M2_IPC_WORKER, &rig->channel, NULL),
		M2_OK);
	rig->options = (struct m2_worker_options){.fd = pair[1],
		.results_dir = rig->results,
		.backend = "cpu",
		.threads = 1,
		.isa = "auto",
		.results_budget = 1 << 20,
		.results_per_user = 1 << 20};
	assert_int_equal(pthread_create(&rig->thread, NULL, worker_thread, rig), 0);
	return rig;
}

static void stop(struct rig *rig)
{
	const struct m2_ipc_hello hello = {0};
	assert_int_equal(m2_ipc_send(rig->channel, M2_IPC_STOP, &hello, NULL, 0, NULL), M2_OK);
	assert_int_equal(pthread_join(rig->thread, NULL), 0);
	assert_int_equal(rig->status, 0);
	m2_ipc_channel_destroy(&rig->channel);
	free(rig);
}

static void send_check(struct rig *rig, uint64_t id, const char *checkpoint, bool every,
	uint32_t model, const struct m2_ipc_file *known, uint32_t n_known)
{
	const struct m2_ipc_check packet = {
		.check = id, .model = model, .every = every, .n_known = n_known};
	const struct m2_variant v = variant_of(checkpoint);
	const size_t bytes = sizeof v + n_known * sizeof *known;
	unsigned char *body = malloc(bytes);
	assert_non_null(body);
	memcpy(body, &v, sizeof v);
	if (n_known > 0)
		memcpy(body + sizeof v, known, n_known * sizeof *known);
	assert_int_equal(
		m2_ipc_send(rig->channel, M2_IPC_CHECK, &packet, body, bytes, NULL), M2_OK);
	free(body);
}

/* Directory DIR/name with a checkpoint of that shape; its path, kept until the next but seven. */
static const char *make(void **state, const char *name, const struct sparse_shape *shape)
{
	const char *path = test_path(state, name);
	assert_int_equal(mkdir(path, 0700), 0);
	sparse_checkpoint(path, shape);
	return path;
}

static void every_file_is_told_and_then_the_end(void **state)
{
	const char *path = make(state, "tiny", &tiny);
	struct m2_ipc_file gone = {.bytes = 7};
	char seen[3][M2_IPC_FILE_PATH];
	(void)snprintf(gone.path, sizeof gone.path, "%s", test_path(state, "gone"));
	struct rig *rig = start(state);
	send_check(rig, 5, path, true, 0, &gone, 1);
	for (int i = 0; i < 3;) {
		const struct m2_ipc_packet p = next(rig);
		if (p.type == M2_IPC_CHECK_PROGRESS)
			continue;
		assert_int_equal(p.type, M2_IPC_CHECKED);
		const struct m2_ipc_checked *c = p.fixed;
		assert_int_equal(c->check, 5);
		memcpy(seen[i], c->file.path, sizeof seen[i]);
		/* the third is known from before, and missing */
		assert_int_equal(c->err, i == 2 ? M2_ENOENT : M2_OK);
		if (i == 0) { /* the config's checksum is that of its text */
			size_t length;
			char expected[65];
			char *text = test_read(c->file.path, &length);
			assert_true(m2_sha256_hex(text, length, expected));
			assert_string_equal(c->sha256, expected);
			assert_int_equal(c->file.bytes, length);
			free(text);
		}
		i++;
	}
	assert_non_null(strstr(seen[0], "/config.json"));
	assert_non_null(strstr(seen[1], "/model.safetensors"));
	assert_string_equal(seen[2], gone.path);
	struct m2_ipc_packet p = next(rig);
	while (p.type == M2_IPC_CHECK_PROGRESS)
		p = next(rig);
	assert_int_equal(p.type, M2_IPC_CHECK_ENDED);
	assert_int_equal(((const struct m2_ipc_check_ended *)p.fixed)->err, M2_OK);
	stop(rig);
}

static void what_is_known_and_unchanged_is_not_read_again(void **state)
{
	char path[900];
	struct m2_ipc_file known[2];
	(void)snprintf(path, sizeof path, "%s", make(state, "tiny", &tiny));
	const char *config = test_path(state, "tiny/config.json");
	assert_int_equal(m2_file_look(config, &known[0], NULL), M2_OK);
	assert_int_equal(
		m2_file_look(test_path(state, "tiny/model.safetensors"), &known[1], NULL), M2_OK);
	struct rig *rig = start(state);
	send_check(rig, 1, path, false, 3, known, 2);
	assert_int_equal(next(rig).type, M2_IPC_CHECK_ENDED);
	known[0].mtime_ns++; /* another time: it is read */
	send_check(rig, 2, path, false, 3, known, 2);
	struct m2_ipc_packet p = next(rig);
	assert_int_equal(p.type, M2_IPC_CHECKED);
	assert_string_equal(((const struct m2_ipc_checked *)p.fixed)->file.path, config);
	assert_int_equal(next(rig).type, M2_IPC_CHECK_ENDED);
	stop(rig);
}

static void a_checkpoint_that_cannot_be_opened_is_told_with_what_is_known_of_it(void **state)
{
	struct m2_ipc_file known;
	const char *file = test_path(state, "kept");
	test_write(file, "abc");
	assert_int_equal(m2_file_look(file, &known, NULL), M2_OK);
	struct rig *rig = start(state);
	send_check(rig, 1, test_path(state, "nowhere"), true, 0, &known, 1);
	struct m2_ipc_packet p = next(rig);
	while (p.type == M2_IPC_CHECK_PROGRESS)
		p = next(rig);
	assert_int_equal(p.type, M2_IPC_CHECKED);
	assert_string_equal(((const struct m2_ipc_checked *)p.fixed)->sha256, digest_of_abc);
	p = next(rig);
	assert_int_equal(p.type, M2_IPC_CHECK_ENDED);
	assert_int_equal(((const struct m2_ipc_check_ended *)p.fixed)->err, M2_ENOENT);
	assert_non_null(strstr(((const struct m2_ipc_check_ended *)p.fixed)->why.text, "nowhere"));
	stop(rig);
}

/* A background check of a large file steps back for a person's, and then goes on with that file. */
static void a_person_does_not_wait_for_the_background(void **state)
{
	char paths[2][900];
	int files = 0;
	(void)snprintf(paths[0], sizeof paths[0], "%s", make(state, "large", &large));
	(void)snprintf(paths[1], sizeof paths[1], "%s", make(state, "tiny", &tiny));
	struct rig *rig = start(state);
	send_check(rig, 1, paths[0], false, 3, NULL, 0);
	struct m2_ipc_packet p = next(rig);
	assert_int_equal(p.type, M2_IPC_CHECKED); /* its config: now it reads the large file */
	files++;
	send_check(rig, 2, paths[1], true, 0, NULL, 0);
	bool person_ended = false;
	for (;;) {
		p = next(rig);
		if (p.type == M2_IPC_CHECKED) {
			const struct m2_ipc_checked *c = p.fixed;
			if (c->check == 1) {
				assert_true(person_ended);
				files++;
			}
		} else if (p.type == M2_IPC_CHECK_ENDED) {
			const struct m2_ipc_check_ended *e = p.fixed;
			assert_int_equal(e->err, M2_OK);
			if (e->check == 1)
				break;
			person_ended = true;
			/* and now its end is near; whether it noticed the change is not the matter */
			assert_int_equal(
				truncate(test_path(state, "large/model.safetensors"), 9), 0);
		}
	}
	assert_int_equal(files, 2);
	stop(rig);
}

static void expect_cancelled(struct rig *rig, uint64_t check)
{
	struct m2_ipc_packet p = next(rig);
	while (p.type != M2_IPC_CHECK_ENDED)
		p = next(rig);
	const struct m2_ipc_check_ended *e = p.fixed;
	assert_int_equal(e->check, check);
	assert_int_equal(e->err, M2_ECANCELED);
}

static void a_check_ends_when_it_is_cancelled_wherever_it_is(void **state)
{
	char path[900];
	(void)snprintf(path, sizeof path, "%s", make(state, "large", &large));
	struct rig *rig = start(state);
	send_check(rig, 1, path, true, 0, NULL, 0);
	while (next(rig).type != M2_IPC_CHECKED) /* it runs */
		;
	send_check(rig, 2, path, true, 0, NULL, 0); /* this one waits */
	struct m2_ipc_cancel cancel = {.request = 2};
	assert_int_equal(
		m2_ipc_send(rig->channel, M2_IPC_CHECK_CANCEL, &cancel, NULL, 0, NULL), M2_OK);
	expect_cancelled(rig, 2);
	cancel.request = 1;
	assert_int_equal(
		m2_ipc_send(rig->channel, M2_IPC_CHECK_CANCEL, &cancel, NULL, 0, NULL), M2_OK);
	expect_cancelled(rig, 1);
	/* nothing of that number any more: nothing happens, and the next check runs */
	assert_int_equal(
		m2_ipc_send(rig->channel, M2_IPC_CHECK_CANCEL, &cancel, NULL, 0, NULL), M2_OK);
	send_check(rig, 3, path, true, 0, NULL, 0);
	while (next(rig).type != M2_IPC_CHECKED)
		;
	stop(rig); /* in the middle of it */
}

/* A load says what it does, in order, and how far it is; the check behind it ends with the model. */
static void a_load_tells_its_parts_and_its_check_leaves_with_it(void **state)
{
	static const char *const parts[] = {"checking tensors", "tokenizer", "reading weights"};
	char here[900];
	char path[1000];
	size_t part = 0;
	const struct m2_ipc_load load = {.model = 3};
	assert_non_null(getcwd(here, sizeof here));
	(void)snprintf(path, sizeof path, "%s/configs/demo", here);
	const struct m2_variant v = variant_of(path);
	struct rig *rig = start(state);
	assert_int_equal(m2_ipc_send(rig->channel, M2_IPC_LOAD, &load, &v, sizeof v, NULL), M2_OK);
	uint64_t done = 0;
	uint64_t total = 0;
	for (bool loaded = false; !loaded;) {
		struct m2_ipc_packet p = {0};
		bool got = false;
		struct pollfd fd = {.fd = m2_ipc_channel_fd(rig->channel), .events = POLLIN};
		assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
		assert_int_equal(m2_ipc_receive(rig->channel, &p, &got, NULL), M2_OK);
		if (got && p.type == M2_IPC_PROGRESS) {
			const struct m2_ipc_progress *progress = p.fixed;
			while (part < 3 && strcmp(parts[part], progress->what) != 0)
				part++;
			assert_true(part < 3);
			done = progress->done;
			total = progress->total;
		} else if (got && p.type == M2_IPC_LOADED) {
			assert_int_equal(((const struct m2_ipc_loaded *)p.fixed)->err, M2_OK);
			loaded = true;
		}
	}
	assert_int_equal(part, 2);
	assert_true(total > 1000000 && done == total);
	(void)snprintf(path, sizeof path, "%s", make(state, "large", &large));
	send_check(rig, 1, path, false, 3, NULL, 0);
	while (next(rig).type != M2_IPC_CHECKED)
		;
	const struct m2_ipc_unload unload = {.model = 3};
	assert_int_equal(m2_ipc_send(rig->channel, M2_IPC_UNLOAD, &unload, NULL, 0, NULL), M2_OK);
	expect_cancelled(rig, 1);
	stop(rig);
}

static void a_packet_of_wrong_length_ends_the_worker(void **state)
{
	struct rig *rig = start(state);
	const struct m2_ipc_check packet = {.check = 1, .n_known = 2};
	const struct m2_variant v = variant_of("/nowhere");
	assert_int_equal(
		m2_ipc_send(rig->channel, M2_IPC_CHECK, &packet, &v, sizeof v, NULL), M2_OK);
	assert_int_equal(pthread_join(rig->thread, NULL), 0);
	assert_int_equal(rig->status, 1);
	m2_ipc_channel_destroy(&rig->channel);
	free(rig);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_dir_setup, test_dir_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_file_has_its_checksum_size_and_time),
		TEST(what_cannot_be_read_is_told_apart),
		TEST(the_list_names_every_file_once),
		TEST(every_file_is_told_and_then_the_end),
		TEST(what_is_known_and_unchanged_is_not_read_again),
		TEST(a_checkpoint_that_cannot_be_opened_is_told_with_what_is_known_of_it),
		TEST(a_person_does_not_wait_for_the_background),
		TEST(a_check_ends_when_it_is_cancelled_wherever_it_is),
		TEST(a_load_tells_its_parts_and_its_check_leaves_with_it),
		TEST(a_packet_of_wrong_length_ends_the_worker),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
