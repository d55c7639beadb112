/* Fuzz target: what a gate and a worker say, into a real supervisor struct with every handler, without processes.
 *
 * Input: packets, each a byte of kind, a byte of choice, two bytes of length (little-endian), then that many bytes.
 *   kind 0   a client's header, through the gate's own parser, as what the gate sends on
 *   kind 1   a worker's packet: choice is its type; its request or model is made one that exists, by the top bit
 *   kind 2   the gate's packet by its bytes alone;  kind 3  raw bytes on the gate's channel, 4 on the worker's
 * What the supervisor sends is taken and forgotten.  A handler may say that its child broke the protocol, which
 * ends the input; nothing else may happen.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "daemon/checks.h"
#include "daemon/dispatch.h"
#include "daemon/engines.h"
#include "daemon/gate_parse.h"
#include "daemon/inform.h"
#include "daemon/residency.h"
#include "daemon/sessions.h"
#include "daemon/users.h"
#include "daemon/who.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIXED = 4096 };

static struct m2_options options;
static struct m2_store *store;
static char directory[64];

static const char demo[] = "name: demo\ncheckpoint: /nowhere\nslots: 2\naliases: [d]\n";

static void put_demo(void)
{
	struct m2_why why;
	static struct m2_variant v;
	m2_variant_init(&v);
	if (m2_variant_parse(demo, sizeof demo - 1, "demo", "/", &v, &why) != M2_OK ||
		m2_store_put(store, &v, demo, sizeof demo - 1, "", M2_ORIGIN_MANUAL, 0, true,
			&why) != M2_OK)
		abort();
}

static void set_up_once(void)
{
	char path[96];
	struct m2_why why;
	if (store != NULL)
		return;
	m2_log_init("fuzz", M2_LOG_ERROR, false);
	(void)snprintf(directory, sizeof directory, "/tmp/m2fuzz.XXXXXX");
	if (mkdtemp(directory) == NULL)
		abort();
	(void)snprintf(path, sizeof path, "%s/registry.sqlite", directory);
	(void)snprintf(options.runtime_dir, sizeof options.runtime_dir, "%s", directory);
	(void)snprintf(options.config_dir, sizeof options.config_dir, "%s", directory);
	(void)snprintf(options.backend, sizeof options.backend, "cpu");
	if (m2_store_open(path, &store, &why) != M2_OK)
		abort();
	put_demo();
}

/* ---- the supervisor ---------------------------------------------------------------------------- */

struct place {
	struct m2_supervisor *s;
	struct m2_engine *engine;
	struct m2_ipc_channel *gate; /* the other ends */
	struct m2_ipc_channel *worker;
	int gate_fd;
	int worker_fd;
	uint64_t requests[64]; /* that the worker was sent */
	uint32_t n_requests;
	uint32_t model;
	uint64_t check;
};

static enum m2_err gate_packet(void *ctx, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	return m2_dispatch_packet(ctx, packet, why);
}

static void on_watch(void *ctx, uint32_t events)
{
	(void)ctx;
	(void)events;
}

/* The child's end of a pair; *other: what a process would hold. */
static void join(struct m2_supervisor *s, struct m2_child *child, enum m2_ipc_side side,
	struct m2_ipc_channel **other, int *fd)
{
	int pair[2];
	struct m2_why why;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0 ||
		m2_ipc_channel_create(pair[0], M2_IPC_SUPERVISOR, side, &child->channel, &why) !=
			M2_OK ||
		m2_ipc_channel_create(pair[1], side, M2_IPC_SUPERVISOR, other, &why) != M2_OK)
		abort();
	*fd = pair[1];
	child->watch = (struct m2_watch){.fn = on_watch, .fd = -1};
	if (m2_loop_add(&s->loop, &child->watch, pair[0], EPOLLIN, &why) != M2_OK)
		abort();
	child->ready = true;
	child->life = 1;
}

static void set_up(struct place *p)
{
	struct m2_why why;
	struct m2_supervisor *s = calloc(1, sizeof *s);
	if (s == NULL || m2_loop_init(&s->loop, &why) != M2_OK)
		abort();
	*p = (struct place){.s = s};
	s->options = &options;
	s->store = store;
	m2_daemon_config_init(&s->config);
	m2_list_init(&s->workers);
	m2_sessions_init(s);
	m2_residency_init(s);
	m2_checks_init(s);
	m2_inform_init(s);
	s->accounts = m2_users_create();
	s->results_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)snprintf(s->results_dir, sizeof s->results_dir, "%s", directory);
	p->engine = m2_engine_create(s, "cpu", "cpu", 0);
	if (s->accounts == NULL || m2_who_init(s, &why) != M2_OK || p->engine == NULL)
		abort();
	s->gate =
		(struct m2_child){.name = "gate", .loop = &s->loop, .side = M2_IPC_GATE, .ctx = s};
	s->gate.packet = gate_packet;
	s->phase = M2_PHASE_RUNNING;
	join(s, &s->gate, M2_IPC_GATE, &p->gate, &p->gate_fd);
	join(s, &p->engine->child, M2_IPC_WORKER, &p->worker, &p->worker_fd);
	p->engine->opened = true;
}

static void take_down(struct place *p)
{
	struct m2_supervisor *s = p->s;
	m2_loop_remove(&s->loop, &s->gate.watch);
	m2_ipc_channel_destroy(&s->gate.channel);
	m2_loop_remove(&s->loop, &p->engine->child.watch);
	m2_ipc_channel_destroy(&p->engine->child.channel);
	m2_checks_finish(s);
	m2_sessions_finish(s);
	m2_residency_finish(s);
	m2_engines_finish(s);
	m2_users_destroy(&s->accounts);
	m2_who_finish(s);
	(void)close(s->results_fd);
	m2_loop_finish(&s->loop);
	free(s);
	m2_ipc_channel_destroy(&p->gate);
	m2_ipc_channel_destroy(&p->worker);
	if (m2_store_get(store, "demo", NULL, NULL, NULL) != M2_OK)
		put_demo();
}

/* ---- packets ----------------------------------------------------------------------------------- */

/* What was sent to the two, and what of it is worth knowing. */
static void take_all(struct place *p)
{
	struct m2_ipc_packet packet;
	struct m2_why why;
	bool got = true;
	while (m2_ipc_receive(p->gate, &packet, &got, &why) == M2_OK && got)
		;
	got = true;
	while (m2_ipc_receive(p->worker, &packet, &got, &why) == M2_OK && got) {
		if (packet.type == M2_IPC_REQUEST)
			p->requests[p->n_requests++ % 64] =
				((const struct m2_ipc_request *)packet.fixed)->request.id;
		else if (packet.type == M2_IPC_LOAD)
			p->model = ((const struct m2_ipc_load *)packet.fixed)->model;
		else if (packet.type == M2_IPC_CHECK)
			p->check = ((const struct m2_ipc_check *)packet.fixed)->check;
	}
	(void)m2_ipc_flush(p->s->gate.channel, &why);
	(void)m2_ipc_flush(p->engine->child.channel, &why);
}

/* All that a child has said goes to its handler.  false: it broke the protocol. */
static bool deliver(struct m2_child *child)
{
	for (;;) {
		struct m2_ipc_packet packet;
		struct m2_why why = {"", ""};
		bool got;
		if (child->channel == NULL)
			return false;
		enum m2_err err = m2_ipc_receive(child->channel, &packet, &got, &why);
		if (err == M2_OK && !got)
			return true;
		if (err == M2_OK)
			err = child->packet(child->ctx, &packet, &why);
		if (err != M2_OK) {
			if (why.text[0] == '\0')
				__builtin_trap();
			return false;
		}
	}
}

static bool say_client(struct place *p, uint8_t choice, const uint8_t *at, size_t n)
{
	struct m2_request r;
	struct m2_why why = {"", ""};
	void *body = NULL;
	size_t body_bytes = 0;
	const uint8_t *end = memchr(at, '\0', n);
	const size_t header = end != NULL ? (size_t)(end - at) : n;
	const size_t payload = end != NULL ? n - header - 1 : 0;
	const enum m2_endpoint endpoint =
		(choice & 1) != 0 ? M2_ENDPOINT_CONTROL : M2_ENDPOINT_CLIENT;
	if (m2_gate_parse((const char *)at, header, end != NULL ? end + 1 : NULL, payload, endpoint,
		    &r, &body, &body_bytes, &why) != M2_OK)
		return true;
	r.route.generation = 1;
	r.route.endpoint = (uint8_t)endpoint;
	r.route.length = 4;
	r.uid = (choice & 2) != 0 ? 0 : 1000;
	r.gid = r.uid;
	r.pid = (uint32_t)getpid();
	r.received_ns = m2_loop_now();
	if ((choice & 4) != 0 && p->n_requests > 0)
		r.request = p->requests[(p->n_requests - 1) % 64];
	(void)m2_ipc_send(p->gate, M2_IPC_GATE_REQUEST, &r, body, body_bytes, &why);
	free(body);
	return deliver(&p->s->gate);
}

/* The struct's first member is the request, the model or the check that it speaks of. */
static void name_one_that_exists(const struct place *p, enum m2_ipc_type type, uint8_t *fixed)
{
	uint64_t request = p->requests[fixed[0] % 64];
	switch (type) {
	case M2_IPC_ACCEPTED:
	case M2_IPC_TOKENS:
	case M2_IPC_FINISHED:
	case M2_IPC_DATA:
	case M2_IPC_REFUSED:
		if (request == 0 && p->n_requests > 0)
			request = p->requests[0];
		memcpy(fixed, &request, sizeof request);
		break;
	case M2_IPC_CHECKED:
	case M2_IPC_CHECK_PROGRESS:
	case M2_IPC_CHECK_ENDED:
		memcpy(fixed, &p->check, sizeof p->check);
		break;
	default:
		memcpy(fixed, &p->model, sizeof p->model);
		break;
	}
}

static bool say_worker(struct place *p, uint8_t choice, const uint8_t *at, size_t n)
{
	static uint8_t fixed[FIXED];
	struct m2_why why;
	const enum m2_ipc_type type = (enum m2_ipc_type)(
		M2_IPC_WORKER_READY + (choice & 0x7f) % (M2_IPC_TYPE_COUNT - M2_IPC_WORKER_READY));
	const size_t size = m2_ipc_fixed_bytes(type, M2_IPC_WORKER);
	const size_t most = m2_ipc_body_most(type);
	if (size == 0)
		return true;
	memset(fixed, 0, sizeof fixed);
	memcpy(fixed, at, n < size ? n : size);
	if ((choice & 0x80) != 0)
		name_one_that_exists(p, type, fixed);
	const size_t body = n > size ? n - size : 0;
	(void)m2_ipc_send(p->worker, type, fixed, at + size, body < most ? body : most, &why);
	return deliver(&p->engine->child);
}

static bool say_gate(struct place *p, const uint8_t *at, size_t n)
{
	static uint8_t fixed[FIXED];
	struct m2_why why;
	const size_t size = sizeof(struct m2_request);
	memset(fixed, 0, sizeof fixed);
	memcpy(fixed, at, n < size ? n : size);
	(void)m2_ipc_send(
		p->gate, M2_IPC_GATE_REQUEST, fixed, at + size, n > size ? n - size : 0, &why);
	return deliver(&p->s->gate);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct place p;
	set_up_once();
	set_up(&p);
	bool good = true;
	while (good && size >= 4) {
		const uint8_t kind = data[0] % 5;
		const uint8_t choice = data[1];
		const size_t told = (size_t)data[2] | (size_t)data[3] << 8;
		const size_t n = told < size - 4 ? told : size - 4;
		const uint8_t *at = data + 4;
		if (kind == 0)
			good = say_client(&p, choice, at, n);
		else if (kind == 1)
			good = say_worker(&p, choice, at, n);
		else if (kind == 2)
			good = say_gate(&p, at, n);
		else {
			(void)send(kind == 3 ? p.gate_fd : p.worker_fd, at, n, MSG_DONTWAIT);
			good = deliver(kind == 3 ? &p.s->gate : &p.engine->child);
		}
		take_all(&p);
		data += 4 + n;
		size -= 4 + n;
	}
	take_down(&p);
	return 0;
}
