/* test_daemon_worker.c - the whole worker, driven as the supervisor drives it: over its socket pair, with
 * the bundled demo model, its results read from the files that it made.
 *
 * The worker runs as threads of this program, so that the sanitizers see it.  Run from the root of the
 * tree; skipped by name where the demo model is not there.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/results.h"
#include "daemon/ipc.h"
#include "daemon/roles.h"

enum { PATIENCE_MS = 60000, MODEL = 7 };

static char results[256];
static char checkpoint[1024];

struct rig {
	struct m2_ipc_channel *channel;
	struct m2_worker_options options;
	pthread_t thread;
	int status;
	/* the last packet that was waited for */
	alignas(64) unsigned char fixed[4096];
	unsigned char *body;
	size_t body_bytes;
	/* kinds that came by the way */
	int seen[M2_IPC_TYPE_COUNT];
	uint64_t next_id;
};

static int make_directory(void **unused)
{
	(void)unused;
	char here[900];
	const char *tmp = getenv("TMPDIR");
	if (getcwd(here, sizeof here) == NULL)
		return -1;
	(void)snprintf(checkpoint, sizeof checkpoint, "%s/configs/demo", here);
	(void)snprintf(results, sizeof results, "%s/m2-worker-XXXXXX", tmp != NULL ? tmp : "/tmp");
	return mkdtemp(results) == NULL;
}

static int remove_directory(void **unused)
{
	(void)unused;
	return rmdir(results); /* fails if a segment was left */
}

static void *worker_thread(void *arg)
{
	struct rig *rig = arg;
	rig->status = m2_worker_main(&rig->options);
	return NULL;
}

/* ---- talking to it ----------------------------------------------------------------------------- */

/* Wait for a packet of that type, counting the others; its parts are kept in the rig. */
static void await(struct rig *rig, enum m2_ipc_type type)
{
	struct m2_why why = {.text = ""};
	for (;;) {
		struct m2_ipc_packet packet;
		bool got;
		if (m2_ipc_receive(rig->channel, &packet, &got, &why) != M2_OK)
			fail_msg("waiting for packet %d: %s", (int)type, why.text);
		if (!got) {
			struct pollfd fd = {
				.fd = m2_ipc_channel_fd(rig->channel), .events = POLLIN};
			if (poll(&fd, 1, PATIENCE_MS) != 1)
				fail_msg("no packet %d within %d ms", (int)type, PATIENCE_MS);
			continue;
		}
		rig->seen[packet.type]++;
		if (packet.type == M2_IPC_REFUSED && type != M2_IPC_REFUSED)
			fail_msg("refused: %s",
				((const struct m2_ipc_refused *)packet.fixed)->why.text);
		if (packet.type != type)
			continue;
		static const size_t sizes[M2_IPC_TYPE_COUNT] = {
			[M2_IPC_WORKER_READY] = sizeof(struct m2_ipc_worker_ready),
			[M2_IPC_LOADED] = sizeof(struct m2_ipc_loaded),
			[M2_IPC_UNLOADED] = sizeof(struct m2_ipc_unloaded),
			[M2_IPC_ACCEPTED] = sizeof(struct m2_ipc_accepted),
			[M2_IPC_TOKENS] = sizeof(struct m2_ipc_tokens),
			[M2_IPC_FINISHED] = sizeof(struct m2_ipc_finished),
			[M2_IPC_DATA] = sizeof(struct m2_ipc_data),
			[M2_IPC_REFUSED] = sizeof(struct m2_ipc_refused),
			[M2_IPC_HEARTBEAT] = sizeof(struct m2_ipc_heartbeat),
			[M2_IPC_STATS_REPLY] = sizeof(struct m2_ipc_stats),
		};
		assert_true(sizes[type] > 0);
		memcpy(rig->fixed, packet.fixed, sizes[type]);
		free(rig->body);
		rig->body = malloc(packet.body_bytes + 1);
		assert_non_null(rig->body);
		if (packet.body_bytes > 0)
			memcpy(rig->body, packet.body, packet.body_bytes);
		rig->body_bytes = packet.body_bytes;
		return;
	}
}

static void send_packet(struct rig *rig, enum m2_ipc_type type, const void *fixed, const void *body,
	size_t body_bytes)
{
	struct m2_why why = {.text = ""};
	if (m2_ipc_send(rig->channel, type, fixed, body, body_bytes, &why) != M2_OK ||
		m2_ipc_flush(rig->channel, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static bool open_rig(struct rig *rig)
{
	struct m2_why why;
	int pair[2];
	char path[1100];
	memset(rig, 0, sizeof *rig);
	(void)snprintf(path, sizeof path, "%s/model.safetensors", checkpoint);
	if (access(path, R_OK) != 0) {
		print_message("skipped: configs/demo has no model\n");
		return false;
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(m2_ipc_channel_create(
				 pair[0], M2_IPC_SUPERVISOR, M2_IPC_WORKER, &rig->channel, &why),
		M2_OK);
	rig->options = (struct m2_worker_options){.fd = pair[1],
		.results_dir = results,
		.backend = "cpu",
		.threads = 1,
		.isa = "auto",
		.results_budget = 64 << 20,
		.results_per_user = 48 << 20};
	assert_int_equal(pthread_create(&rig->thread, NULL, worker_thread, rig), 0);
	await(rig, M2_IPC_WORKER_READY);
	return true;
}

static void close_rig(struct rig *rig, bool politely)
{
	const struct m2_ipc_hello stop = {.version = M2_WIRE_VERSION};
	if (politely)
		send_packet(rig, M2_IPC_STOP, &stop, NULL, 0);
	else
		m2_ipc_channel_destroy(&rig->channel);
	assert_int_equal(pthread_join(rig->thread, NULL), 0);
	assert_int_equal(rig->status, politely ? 0 : 1);
	m2_ipc_channel_destroy(&rig->channel);
	free(rig->body);
}

static struct m2_variant demo_variant(int slots, int queue)
{
	struct m2_variant v;
	m2_variant_init(&v);
	(void)snprintf(v.name, sizeof v.name, "demo");
	(void)snprintf(v.checkpoint, sizeof v.checkpoint, "%s", checkpoint);
	v.slots = slots;
	v.queue = queue;
	v.weights = M2_DTYPE_F32;
	return v;
}

static struct m2_ipc_loaded load_variant(
	struct rig *rig, uint32_t model, const struct m2_variant *v, uint64_t budget)
{
	struct m2_ipc_loaded loaded;
	const struct m2_ipc_load load = {.model = model, .budget = budget};
	send_packet(rig, M2_IPC_LOAD, &load, v, sizeof *v);
	await(rig, M2_IPC_LOADED);
	memcpy(&loaded, rig->fixed, sizeof loaded);
	return loaded;
}

static struct m2_ipc_request ask(struct rig *rig, uint32_t op, const char *text, int max_tokens)
{
	struct m2_ipc_request r = {.model = MODEL, .weight = 1};
	r.request.id = ++rig->next_id;
	r.request.uid = geteuid();
	r.request.op = op;
	r.request.n = 1;
	r.request.logprobs = -1;
	r.request.wait_s = -1;
	(void)snprintf(r.request.model, sizeof r.request.model, "demo");
	r.request.prompt_bytes = (uint32_t)strlen(text);
	if (op == M2_OP_GENERATE) {
		r.request.set = M2_SET_MAX_TOKENS | M2_SET_TEMPERATURE | M2_SET_SEED;
		r.request.sampling.max_tokens = max_tokens;
		r.request.sampling.temperature = 0.8F;
		r.request.sampling.seed = 4;
	}
	return r;
}

/* The body of a request without bias and stops. */
static void send_request(struct rig *rig, const struct m2_ipc_request *r, const void *prompt)
{
	const size_t bytes = m2_request_body_bytes(&r->request);
	char *body = calloc(1, bytes + 1);
	assert_non_null(body);
	memcpy(body, prompt, r->request.prompt_bytes);
	send_packet(rig, M2_IPC_REQUEST, r, body, bytes);
	free(body);
}

static struct m2_results_header *map_results(const struct m2_ipc_accepted *a)
{
	char path[512];
	struct m2_why why = {.text = ""};
	(void)snprintf(path, sizeof path, "%s/%s", results, a->segment);
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	void *memory = mmap(NULL, a->bytes, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	(void)close(fd);
	if (m2_results_check(memory, a->bytes, &why) != M2_OK)
		fail_msg("%s", why.text);
	return memory;
}

static int count_files(void)
{
	int n = 0;
	DIR *d = opendir(results);
	assert_non_null(d);
	for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
		n += e->d_name[0] != '.';
	(void)closedir(d);
	return n;
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void a_request_is_accepted_runs_and_lies_in_its_segment_until_released(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	const struct m2_variant v = demo_variant(4, 8);
	const struct m2_ipc_loaded loaded = load_variant(&rig, MODEL, &v, 0);
	assert_int_equal(loaded.err, M2_OK);
	assert_true(loaded.tokenizer_size > 0 && loaded.parameters > 1000000);
	assert_true(rig.seen[M2_IPC_PROGRESS] >= 1);

	struct m2_ipc_request r = ask(&rig, M2_OP_GENERATE, "The old man", 20);
	r.request.n = 2;
	r.request.logprobs = 2;
	send_request(&rig, &r, "The old man");
	await(&rig, M2_IPC_ACCEPTED);
	struct m2_ipc_accepted accepted;
	memcpy(&accepted, rig.fixed, sizeof accepted);
	struct m2_results_header *h = map_results(&accepted);
	await(&rig, M2_IPC_FINISHED);
	struct m2_ipc_finished finished;
	memcpy(&finished, rig.fixed, sizeof finished);
	assert_int_equal(finished.err, M2_OK);
	assert_int_equal(finished.n_sequences, 2);
	assert_int_equal(finished.seed, 4);
	assert_int_equal(finished.prompt_tokens, h->prompt_tokens);
	assert_int_equal(
		finished.generated_tokens, finished.ends[0].tokens + finished.ends[1].tokens);
	assert_true(finished.engine_ns > 0 && finished.engine_ns < finished.total_ns);
	assert_true(finished.first_ns > finished.queue_ns);
	assert_int_equal(atomic_load(&h->state), M2_RESULTS_FINISHED);
	for (uint32_t s = 0; s < 2; s++) {
		const struct m2_results_sequence *q = m2_results_sequence(h, s);
		assert_int_equal(atomic_load(&q->published), finished.ends[s].tokens);
		assert_int_equal(atomic_load(&q->finish), finished.ends[s].finish);
		assert_true(atomic_load(&q->text_published) > 0);
	}
	assert_int_equal(count_files(), 1);
	const struct m2_ipc_cancel release = {.request = r.request.id};
	send_packet(&rig, M2_IPC_RELEASE, &release, NULL, 0);
	const struct m2_ipc_hello hello = {.version = M2_WIRE_VERSION};
	send_packet(&rig, M2_IPC_STATS, &hello, NULL, 0);
	await(&rig, M2_IPC_STATS_REPLY);
	const struct m2_ipc_stats *stats = (const void *)rig.fixed;
	assert_int_equal(stats->results_bytes, 0);
	assert_int_equal(stats->segments, 0);
	assert_int_equal(stats->n_models, 1);
	struct m2_ipc_model_stats model;
	memcpy(&model, rig.body, sizeof model);
	assert_int_equal(model.model, MODEL);
	assert_int_equal(model.slots_used, 0);
	assert_int_equal(model.requests, 1);
	assert_int_equal(model.generated_tokens, finished.generated_tokens);
	assert_int_equal(count_files(), 0);
	(void)munmap(h, accepted.bytes);
	close_rig(&rig, true);
}

static void messages_carry_what_a_segment_holds(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	const struct m2_variant v = demo_variant(4, 8);
	assert_int_equal(load_variant(&rig, MODEL, &v, 0).err, M2_OK);
	struct m2_ipc_request r = ask(&rig, M2_OP_GENERATE, "Once upon a time", 40);
	r.request.logprobs = 0;
	send_request(&rig, &r, "Once upon a time");
	await(&rig, M2_IPC_ACCEPTED);
	struct m2_ipc_accepted accepted;
	memcpy(&accepted, rig.fixed, sizeof accepted);
	struct m2_results_header *h = map_results(&accepted);
	await(&rig, M2_IPC_FINISHED);
	const struct m2_results_sequence *q = m2_results_sequence(h, 0);

	struct m2_ipc_request again = ask(&rig, M2_OP_GENERATE, "Once upon a time", 40);
	again.request.logprobs = 0;
	again.request.flags = M2_REQUEST_MESSAGES;
	send_request(&rig, &again, "Once upon a time");
	await(&rig, M2_IPC_ACCEPTED);
	assert_string_equal(((const struct m2_ipc_accepted *)(const void *)rig.fixed)->segment, "");
	uint32_t tokens = 0;
	size_t text = 0;
	while (tokens < atomic_load(&q->published) || text < atomic_load(&q->text_published)) {
		await(&rig, M2_IPC_TOKENS);
		const struct m2_ipc_tokens *t = (const void *)rig.fixed;
		assert_int_equal(t->request, again.request.id);
		assert_int_equal(t->first, tokens);
		assert_int_equal(rig.body_bytes, t->count * 8 + t->text_bytes);
		assert_memory_equal(
			rig.body, (const char *)h + q->tokens + 4 * tokens, 4 * t->count);
		assert_memory_equal(rig.body + 4 * t->count,
			(const char *)h + q->logprobs + 4 * tokens, 4 * t->count);
		assert_memory_equal(
			rig.body + 8 * t->count, (const char *)h + q->text + text, t->text_bytes);
		tokens += t->count;
		text += t->text_bytes;
	}
	await(&rig, M2_IPC_FINISHED);
	assert_int_equal(
		((const struct m2_ipc_finished *)(const void *)rig.fixed)->generated_tokens,
		tokens);
	assert_int_equal(count_files(), 1); /* of the first, which nobody released */
	(void)munmap(h, accepted.bytes);
	close_rig(&rig, true); /* and the end of the worker removes it */
}

static void text_becomes_tokens_and_tokens_become_text(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	const struct m2_variant v = demo_variant(2, 8);
	assert_int_equal(load_variant(&rig, MODEL, &v, 0).err, M2_OK);
	static const char text[] = "It was a dark and stormy night.";
	struct m2_ipc_request r = ask(&rig, M2_OP_TOKENIZE, text, 0);
	send_request(&rig, &r, text);
	await(&rig, M2_IPC_DATA);
	assert_true(rig.body_bytes >= 4 && rig.body_bytes % 4 == 0);
	int32_t ids[64];
	const size_t bytes = rig.body_bytes;
	assert_true(bytes <= sizeof ids);
	memcpy(ids, rig.body, bytes);
	r = ask(&rig, M2_OP_DETOKENIZE, "", 0);
	r.request.flags = M2_REQUEST_TOKENS;
	r.request.prompt_bytes = (uint32_t)bytes;
	send_request(&rig, &r, ids);
	await(&rig, M2_IPC_DATA);
	assert_int_equal(rig.body_bytes, sizeof text - 1);
	assert_memory_equal(rig.body, text, sizeof text - 1);
	/* a long text goes by way of a clerk: the same answer */
	char *book = malloc(200000);
	assert_non_null(book);
	for (size_t i = 0; i < 200000; i++)
		book[i] = text[i % (sizeof text - 1)];
	r = ask(&rig, M2_OP_TOKENIZE, "", 0);
	r.request.prompt_bytes = 200000;
	send_request(&rig, &r, book);
	await(&rig, M2_IPC_DATA);
	assert_true(rig.body_bytes > 20000);
	free(book);
	close_rig(&rig, true);
}

/* The demo model's tokenizer has no template; one that has is driven by tests/system/test_template.py. */
static void a_conversation_for_a_tokenizer_without_a_template_is_refused(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	const struct m2_variant v = demo_variant(2, 8);
	const struct m2_ipc_loaded loaded = load_variant(&rig, MODEL, &v, 0);
	assert_int_equal(loaded.err, M2_OK);
	assert_non_null(strstr(loaded.tokenizer, "BPE"));
	assert_string_equal(loaded.template, "");
	static const char text[] = "[{\"role\":\"user\",\"content\":\"x\"}]";
	static const uint32_t ops[] = {M2_OP_TOKENIZE, M2_OP_GENERATE, M2_OP_SCORE};
	for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
		struct m2_ipc_request r = ask(&rig, ops[i], text, 5);
		r.request.flags = M2_REQUEST_CHAT;
		send_request(&rig, &r, text);
		await(&rig, M2_IPC_REFUSED);
		const struct m2_ipc_refused *refused = (const void *)rig.fixed;
		assert_int_equal(refused->err, M2_EUNSUPPORTED);
		assert_non_null(strstr(refused->why.text, "demo has a tokenizer without"));
		assert_string_equal(refused->why.field, "input");
	}
	close_rig(&rig, true);
}

static void the_queue_is_bounded_and_a_cancel_frees_it(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	const struct m2_variant v = demo_variant(1, 2);
	assert_int_equal(load_variant(&rig, MODEL, &v, 0).err, M2_OK);
	uint64_t ids[4];
	for (int i = 0; i < 4; i++) {
		struct m2_ipc_request r = ask(&rig, M2_OP_GENERATE, "The", 20000);
		r.request.flags = M2_REQUEST_IGNORE_EOS;
		ids[i] = r.request.id;
		send_request(&rig, &r, "The");
		await(&rig, i < 3 ? M2_IPC_ACCEPTED : M2_IPC_REFUSED); /* one runs, two wait */
	}
	const struct m2_ipc_refused *refused = (const void *)rig.fixed;
	assert_int_equal(refused->request, ids[3]);
	assert_int_equal(refused->err, M2_EBUSY);
	assert_non_null(strstr(refused->why.text, "2 requests wait"));
	for (int i = 2; i >= 0; i--) {
		const struct m2_ipc_cancel cancel = {
			.request = ids[i], .reason = M2_FINISH_CANCELLED};
		send_packet(&rig, M2_IPC_CANCEL, &cancel, NULL, 0);
		await(&rig, M2_IPC_FINISHED);
		const struct m2_ipc_finished *f = (const void *)rig.fixed;
		assert_int_equal(f->request, ids[i]);
		assert_int_equal(f->err, M2_ECANCELED);
		assert_int_equal(f->ends[0].finish, M2_FINISH_CANCELLED);
	}
	struct m2_ipc_request r = ask(&rig, M2_OP_GENERATE, "The", 3);
	send_request(&rig, &r, "The");
	await(&rig, M2_IPC_ACCEPTED);
	await(&rig, M2_IPC_FINISHED);
	close_rig(&rig, true);
}

static void a_load_that_cannot_be_says_why_and_takes_nothing(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	struct m2_variant v = demo_variant(2, 2);
	struct m2_ipc_loaded loaded = load_variant(&rig, MODEL, &v, 1000);
	assert_int_equal(loaded.err, M2_ENOMEM);
	assert_non_null(strstr(loaded.why.text, "1000"));
	(void)snprintf(v.checkpoint, sizeof v.checkpoint, "/nonexistent/model");
	loaded = load_variant(&rig, MODEL + 1, &v, 0);
	assert_int_not_equal(loaded.err, M2_OK);
	assert_non_null(strstr(loaded.why.text, "/nonexistent"));
	struct m2_ipc_request r = ask(&rig, M2_OP_GENERATE, "The", 3);
	send_request(&rig, &r, "The");
	await(&rig, M2_IPC_REFUSED);
	assert_int_equal(((const struct m2_ipc_refused *)(const void *)rig.fixed)->err, M2_ENOENT);
	close_rig(&rig, true);
}

static void an_unload_waits_for_its_requests_then_cancels_them(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	const struct m2_variant v = demo_variant(2, 2);
	const struct m2_ipc_loaded a = load_variant(&rig, MODEL, &v, 0);
	const struct m2_ipc_loaded b = load_variant(&rig, MODEL + 1, &v, 0);
	assert_int_equal(a.err, M2_OK);
	assert_int_equal(b.err, M2_OK);
	struct m2_ipc_request r = ask(&rig, M2_OP_GENERATE, "The", 60000);
	r.request.flags = M2_REQUEST_IGNORE_EOS;
	send_request(&rig, &r, "The");
	await(&rig, M2_IPC_ACCEPTED);
	/* the other one, which is idle, goes at once, beside the running one */
	struct m2_ipc_unload unload = {.model = MODEL + 1, .wait_s = 30};
	send_packet(&rig, M2_IPC_UNLOAD, &unload, NULL, 0);
	await(&rig, M2_IPC_UNLOADED);
	const struct m2_ipc_unloaded *gone = (const void *)rig.fixed;
	assert_int_equal(gone->model, MODEL + 1);
	assert_int_equal(
		gone->bytes, b.footprint.weights + b.footprint.state + b.footprint.workspace);
	assert_int_equal(rig.seen[M2_IPC_FINISHED], 0);
	unload = (struct m2_ipc_unload){.model = MODEL, .wait_s = 1};
	send_packet(&rig, M2_IPC_UNLOAD, &unload, NULL, 0);
	struct m2_ipc_request late = ask(&rig, M2_OP_GENERATE, "The", 3);
	send_request(&rig, &late, "The");
	await(&rig, M2_IPC_REFUSED);
	assert_int_equal(
		((const struct m2_ipc_refused *)(const void *)rig.fixed)->err, M2_EDRAINING);
	await(&rig, M2_IPC_FINISHED);
	assert_int_equal(
		((const struct m2_ipc_finished *)(const void *)rig.fixed)->err, M2_ECANCELED);
	await(&rig, M2_IPC_UNLOADED);
	close_rig(&rig, true);
}

static void it_beats_when_idle_and_ends_with_its_supervisor(void **unused)
{
	(void)unused;
	struct rig rig;
	if (!open_rig(&rig))
		skip();
	await(&rig, M2_IPC_HEARTBEAT);
	await(&rig, M2_IPC_HEARTBEAT);
	const struct m2_variant v = demo_variant(2, 2);
	assert_int_equal(load_variant(&rig, MODEL, &v, 0).err, M2_OK);
	struct m2_ipc_request r = ask(&rig, M2_OP_GENERATE, "The", 60000);
	r.request.flags = M2_REQUEST_IGNORE_EOS;
	send_request(&rig, &r, "The");
	await(&rig, M2_IPC_ACCEPTED);
	struct m2_ipc_accepted accepted;
	memcpy(&accepted, rig.fixed, sizeof accepted);
	struct m2_results_header *h = map_results(&accepted);
	close_rig(&rig, false);
	/* whoever waits on the memory learns of it, and no file is left */
	assert_int_equal(atomic_load(&h->state), M2_RESULTS_FINISHED);
	assert_int_equal(h->error, M2_EWORKER);
	assert_int_equal(count_files(), 0);
	(void)munmap(h, accepted.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_is_accepted_runs_and_lies_in_its_segment_until_released),
		cmocka_unit_test(messages_carry_what_a_segment_holds),
		cmocka_unit_test(text_becomes_tokens_and_tokens_become_text),
		cmocka_unit_test(a_conversation_for_a_tokenizer_without_a_template_is_refused),
		cmocka_unit_test(the_queue_is_bounded_and_a_cancel_frees_it),
		cmocka_unit_test(a_load_that_cannot_be_says_why_and_takes_nothing),
		cmocka_unit_test(an_unload_waits_for_its_requests_then_cancels_them),
		cmocka_unit_test(it_beats_when_idle_and_ends_with_its_supervisor),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
