/* test_daemon_plan.c - the worker's half of a load in two steps: what is planned to the byte is what is then
 * loaded, and what does not fit takes nothing.
 *
 * The worker runs as threads of this program and is spoken to over its socket pair.  Run from the root of the
 * tree; what wants the demo model is skipped by name where that is not there.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/ipc.h"
#include "daemon/roles.h"
#include "tests/unit/test_sparse_checkpoint.h"

enum { PATIENCE_MS = 60000 };

static char place[256]; /* results, and a checkpoint that is a hole */
static char demo[1024];

struct rig {
	struct m2_ipc_channel *channel;
	struct m2_worker_options options;
	pthread_t thread;
	int status;
	alignas(64) unsigned char fixed[4096];
};

static int make_directory(void **unused)
{
	/* mamba2-2.7b */
	static const struct sparse_shape large = {.d = 2560,
		.layers = 64,
		.heads = 80,
		.head_dim = 64,
		.state = 128,
		.groups = 1,
		.vocab = 50277,
		.rows = 50288,
		.tied = true,
		.matrices = M2_DTYPE_F16,
		.small_type = M2_DTYPE_F16};
	char here[900];
	const char *tmp = getenv("TMPDIR");
	(void)unused;
	if (getcwd(here, sizeof here) == NULL)
		return -1;
	(void)snprintf(demo, sizeof demo, "%s/configs/demo", here);
	(void)snprintf(place, sizeof place, "%s/m2-plan-XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(place) == NULL)
		return -1;
	sparse_checkpoint(place, &large);
	return 0;
}

static int remove_directory(void **unused)
{
	static const char *const files[] = {"config.json", "model.safetensors"};
	char path[512];
	(void)unused;
	for (size_t i = 0; i < 2; i++) {
		(void)snprintf(path, sizeof path, "%s/%s", place, files[i]);
		(void)unlink(path);
	}
	return rmdir(place); /* fails if a segment was left */
}

static void *worker_thread(void *arg)
{
	struct rig *rig = arg;
	rig->status = m2_worker_main(&rig->options);
	return NULL;
}

/* The next packet of a load; progress and heartbeats are passed over. */
static enum m2_ipc_type next(struct rig *rig)
{
	struct m2_why why = {.text = ""};
	static const size_t sizes[M2_IPC_TYPE_COUNT] = {
		[M2_IPC_WORKER_READY] = sizeof(struct m2_ipc_worker_ready),
		[M2_IPC_PLANNED] = sizeof(struct m2_ipc_planned),
		[M2_IPC_LOADED] = sizeof(struct m2_ipc_loaded),
		[M2_IPC_UNLOADED] = sizeof(struct m2_ipc_unloaded),
	};
	for (;;) {
		struct m2_ipc_packet packet;
		struct pollfd fd = {.fd = m2_ipc_channel_fd(rig->channel), .events = POLLIN};
		bool got;
		if (m2_ipc_receive(rig->channel, &packet, &got, &why) != M2_OK)
			return M2_IPC_NONE; /* it has ended */
		if (!got && poll(&fd, 1, PATIENCE_MS) != 1)
			fail_msg("nothing within %d ms", PATIENCE_MS);
		if (!got || sizes[packet.type] == 0)
			continue;
		memcpy(rig->fixed, packet.fixed, sizes[packet.type]);
		return packet.type;
	}
}

static void send_packet(struct rig *rig, enum m2_ipc_type type, const void *fixed, const void *body,
	size_t body_bytes)
{
	assert_int_equal(m2_ipc_send(rig->channel, type, fixed, body, body_bytes, NULL), M2_OK);
	assert_int_equal(m2_ipc_flush(rig->channel, NULL), M2_OK);
}

static void open_rig(struct rig *rig)
{
	int pair[2];
	memset(rig, 0, sizeof *rig);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(m2_ipc_channel_create(
				 pair[0], M2_IPC_SUPERVISOR, M2_IPC_WORKER, &rig->channel, NULL),
		M2_OK);
	rig->options = (struct m2_worker_options){.fd = pair[1],
		.results_dir = place,
		.backend = "cpu",
		.threads = 1,
		.isa = "auto",
		.results_budget = 1 << 20,
		.results_per_user = 1 << 20};
	assert_int_equal(pthread_create(&rig->thread, NULL, worker_thread, rig), 0);
	assert_int_equal(next(rig), M2_IPC_WORKER_READY);
}

static void close_rig(struct rig *rig, int status)
{
	const struct m2_ipc_hello stop = {.version = M2_WIRE_VERSION};
	if (status == 0)
		send_packet(rig, M2_IPC_STOP, &stop, NULL, 0);
	assert_int_equal(pthread_join(rig->thread, NULL), 0);
	assert_int_equal(rig->status, status);
	m2_ipc_channel_destroy(&rig->channel);
}

static void ask_plan(struct rig *rig, uint32_t model, const char *checkpoint, int slots)
{
	const struct m2_ipc_load load = {.model = model, .plan_only = 1};
	struct m2_variant v;
	m2_variant_init(&v);
	(void)snprintf(v.name, sizeof v.name, "it");
	(void)snprintf(v.checkpoint, sizeof v.checkpoint, "%s", checkpoint);
	(void)snprintf(v.tokenizer, sizeof v.tokenizer, "none");
	v.slots = slots;
	send_packet(rig, M2_IPC_LOAD, &load, &v, sizeof v);
}

static struct m2_ipc_planned plan(
	struct rig *rig, uint32_t model, const char *checkpoint, int slots)
{
	struct m2_ipc_planned planned;
	ask_plan(rig, model, checkpoint, slots);
	assert_int_equal(next(rig), M2_IPC_PLANNED);
	memcpy(&planned, rig->fixed, sizeof planned);
	assert_int_equal(planned.model, model);
	return planned;
}

static struct m2_ipc_loaded load_planned(struct rig *rig, uint32_t model, uint64_t budget)
{
	struct m2_ipc_loaded loaded;
	const struct m2_ipc_load load = {.model = model, .budget = budget};
	send_packet(rig, M2_IPC_LOAD, &load, NULL, 0);
	assert_int_equal(next(rig), M2_IPC_LOADED);
	memcpy(&loaded, rig->fixed, sizeof loaded);
	assert_int_equal(loaded.model, model);
	return loaded;
}

static uint64_t unload(struct rig *rig, uint32_t model)
{
	struct m2_ipc_unloaded gone;
	const struct m2_ipc_unload packet = {.model = model};
	send_packet(rig, M2_IPC_UNLOAD, &packet, NULL, 0);
	assert_int_equal(next(rig), M2_IPC_UNLOADED);
	memcpy(&gone, rig->fixed, sizeof gone);
	assert_int_equal(gone.model, model);
	return gone.bytes;
}

static bool have_demo(void)
{
	char path[1100];
	(void)snprintf(path, sizeof path, "%s/model.safetensors", demo);
	if (access(path, R_OK) == 0)
		return true;
	print_message("skipped: configs/demo has no model\n");
	return false;
}

static uint64_t total(const struct m2_footprint *f)
{
	return f->weights + f->state + f->workspace;
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void what_was_planned_is_what_is_loaded(void **unused)
{
	struct rig rig;
	(void)unused;
	if (!have_demo())
		skip();
	open_rig(&rig);
	const struct m2_ipc_planned p = plan(&rig, 1, demo, 3);
	assert_int_equal(p.err, M2_OK);
	assert_int_equal(p.footprint.state, 3 * p.footprint.per_slot);
	assert_true(p.memory_free > 0 && p.memory_free <= p.memory_total);
	assert_true(p.host > 0 && p.host < p.footprint.workspace);
	const struct m2_ipc_loaded l = load_planned(&rig, 1, total(&p.footprint));
	assert_int_equal(l.err, M2_OK);
	assert_memory_equal(&l.footprint, &p.footprint, sizeof l.footprint);
	assert_int_equal(l.host, p.host);
	assert_int_equal(unload(&rig, 1), total(&p.footprint));
	close_rig(&rig, 0);
}

static void a_plan_is_dropped_and_gives_nothing_back(void **unused)
{
	struct rig rig;
	(void)unused;
	open_rig(&rig);
	const struct m2_ipc_planned p = plan(&rig, 1, place, 16);
	assert_int_equal(p.err, M2_OK);
	assert_true(p.footprint.weights > UINT64_C(5000000000));
	assert_int_equal(unload(&rig, 1), 0);
	/* one that is asked to go while it is being planned goes when it is */
	ask_plan(&rig, 2, place, 16);
	const struct m2_ipc_unload packet = {.model = 2};
	send_packet(&rig, M2_IPC_UNLOAD, &packet, NULL, 0);
	assert_int_equal(next(&rig), M2_IPC_PLANNED);
	assert_int_equal(next(&rig), M2_IPC_UNLOADED);
	/* and one that stays planned goes with the worker */
	assert_int_equal(plan(&rig, 3, place, 16).err, M2_OK);
	close_rig(&rig, 0);
}

static void what_cannot_be_planned_is_forgotten(void **unused)
{
	struct rig rig;
	(void)unused;
	open_rig(&rig);
	const struct m2_ipc_planned p = plan(&rig, 1, "/nonexistent", 16);
	assert_int_equal(p.err, M2_ENOENT);
	assert_true(strstr(p.why.text, "/nonexistent") != NULL);
	assert_int_equal(unload(&rig, 1), 0);
	assert_int_equal(plan(&rig, 1, place, 16).err, M2_OK); /* its number is free again */
	close_rig(&rig, 0);
}

static void a_load_over_its_budget_takes_nothing(void **unused)
{
	struct rig rig;
	(void)unused;
	if (!have_demo())
		skip();
	open_rig(&rig);
	const struct m2_ipc_planned p = plan(&rig, 1, demo, 3);
	const struct m2_ipc_loaded l = load_planned(&rig, 1, total(&p.footprint) - 1);
	assert_int_equal(l.err, M2_ENOMEM);
	assert_int_equal(l.crowded, 0);
	assert_int_equal(unload(&rig, 1), 0); /* it is forgotten */
	close_rig(&rig, 0);
}

static void a_full_device_leaves_the_plan_for_another_try(void **unused)
{
	struct rig rig;
	(void)unused;
	open_rig(&rig);
	const struct m2_ipc_planned p = plan(&rig, 1, place, M2_LIMIT_SLOTS);
	assert_int_equal(p.err, M2_OK);
	if (total(&p.footprint) <= p.memory_free) {
		close_rig(&rig, 0);
		print_message("skipped: this machine has room for 4,096 sequences of 2.7b\n");
		skip();
	}
	for (int i = 0; i < 3; i++) {
		const struct m2_ipc_loaded l = load_planned(&rig, 1, total(&p.footprint));
		assert_int_equal(l.err, M2_ENOMEM);
		assert_int_equal(l.crowded, 1);
	}
	assert_int_equal(unload(&rig, 1), 0);
	close_rig(&rig, 0);
}

static void a_load_of_what_was_not_planned_breaks_the_protocol(void **unused)
{
	struct rig rig;
	const struct m2_ipc_load load = {.model = 1};
	(void)unused;
	open_rig(&rig);
	send_packet(&rig, M2_IPC_LOAD, &load, NULL, 0);
	assert_int_equal(next(&rig), M2_IPC_NONE);
	close_rig(&rig, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_planned_is_what_is_loaded),
		cmocka_unit_test(a_plan_is_dropped_and_gives_nothing_back),
		cmocka_unit_test(what_cannot_be_planned_is_forgotten),
		cmocka_unit_test(a_load_over_its_budget_takes_nothing),
		cmocka_unit_test(a_full_device_leaves_the_plan_for_another_try),
		cmocka_unit_test(a_load_of_what_was_not_planned_breaks_the_protocol),
	};
	return cmocka_run_group_tests_name("plan", tests, make_directory, remove_directory);
}
