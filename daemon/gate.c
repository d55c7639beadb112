/* gate.c - the process that holds the ZeroMQ sockets, and nothing else.
 *
 * libzmq can be made to abort, or to grow, by any local peer that speaks its protocol badly enough, so
 * it lives in a process whose death costs nothing: the supervisor starts another within milliseconds,
 * generations go on in their worker, clients reconnect by themselves and ask again with the same key.
 * For the same reason the gate keeps no request, opens no file, and puts a limit on its own memory: a
 * message that never ends is held inside libzmq where no option reaches it.
 *
 * Who a peer is comes from the kernel by way of libzmq's Peer-Address property of a payload frame; a
 * message without it is dropped.  Answers never wait: what a client does not take is dropped.
 *
 * When the supervisor does not keep up, the gate stops reading its sockets, so that the backlog stays in
 * the clients' own queues.
 */
#include "daemon/roles.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zmq.h>

#include "common/limits.h"
#include "daemon/gate_guard.h"
#include "daemon/gate_parse.h"
#include "daemon/gate_peers.h"
#include "daemon/ipc.h"
#include "daemon/reply.h"

enum {
	FRAMES_MAX = 3, /* routing id, header, payload */
	BURST = 64,     /* messages from one socket before the others have their turn */
	HWM_IN = 8,     /* messages of one connection that wait for us: 4 MiB each at worst */
	HWM_OUT = 1000, /* answers that wait for one client */
	HANDSHAKE_MS = 5000,
	HEARTBEAT_MS = 10000,
	HEARTBEAT_TIMEOUT_MS = 30000,
	BACKLOG = 1024,
	HEADROOM = 100000, /* bytes that must be free to take a message */
	BEAT_MS = 1000,    /* between two words of life to the supervisor */
	PEERS_MAX = 32768  /* as many connections as the guards let be, on both endpoints */
};
#define MEMORY_MAX (UINT64_C(2) << 30) /* address space; the stacks and arenas of threads count */

struct gate {
	const struct m2_gate_options *options;
	void *context;
	void *sockets[2]; /* by enum m2_endpoint */
	struct m2_ipc_channel *channel;
	struct m2_peers *peers;
	struct m2_guard *guards[2]; /* likewise */
	uint64_t beat_ns;
	bool broken; /* an answer was lost: end, so that it is asked for again */
	bool stop;
};

/* ---- starting ----------------------------------------------------------------------------------- */

/* Sanitizers reserve terabytes of address space. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZED 1
#elif __has_feature(address_sanitizer)
#define ADDRESS_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZED 1
#endif
#if defined(THREAD_SANITIZED) || defined(ADDRESS_SANITIZED) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#if defined(THREAD_SANITIZED)
/* libzmq comes without the sanitizer's instrumentation, so that what it passes between its own threads by
 * its own lock-free queues looks like a race.  Only reports with libzmq in a stack are left out. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
	return "race:libzmq.so\n";
}
#endif

static void set_limits(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	/* no core: it would hold strangers' prompts, and strangers can make this process abort */
	(void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	if (!SANITIZED)
		(void)setrlimit(RLIMIT_AS, &(struct rlimit){MEMORY_MAX, MEMORY_MAX});
}

static enum m2_err set_options(void *socket, struct m2_why *why)
{
	static const struct {
		int option;
		int value;
	} options[] = {{ZMQ_LINGER, 0}, {ZMQ_SNDHWM, HWM_OUT}, {ZMQ_RCVHWM, HWM_IN},
		{ZMQ_ROUTER_MANDATORY, 1}, {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS},
		{ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS}, {ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS},
		{ZMQ_HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS}, {ZMQ_BACKLOG, BACKLOG}};
	/* per frame; a little more than the limit, so that a slight excess gets an answer */
	const int64_t frame = M2_LIMIT_PAYLOAD_BYTES + M2_LIMIT_HEADER_BYTES;
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
		if (zmq_setsockopt(socket, options[i].option, &options[i].value,
			    sizeof options[i].value) != 0)
			return m2_fail(M2_EIO, why, "zmq option %d: %s", options[i].option,
				zmq_strerror(errno));
	if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame, sizeof frame) != 0)
		return m2_fail(M2_EIO, why, "zmq option MAXMSGSIZE: %s", zmq_strerror(errno));
	return M2_OK;
}

/* The file appears with its final mode or a narrower one: never open for a moment. */
static enum m2_err bind_socket(
	struct gate *g, enum m2_endpoint which, const char *name, mode_t mode, struct m2_why *why)
{
	char address[160];
	const int n =
		snprintf(address, sizeof address, "ipc://%s/%s", g->options->runtime_dir, name);
	if (n < 0 || n >= (int)sizeof address)
		return m2_fail(M2_EINVAL, why, "%s/%s is too long for a socket",
			g->options->runtime_dir, name);
	g->sockets[which] = zmq_socket(g->context, ZMQ_ROUTER);
	if (g->sockets[which] == NULL)
		return m2_fail(M2_EIO, why, "zmq socket: %s", zmq_strerror(errno));
	struct rlimit files = {.rlim_cur = 1024};
	(void)getrlimit(RLIMIT_NOFILE, &files);
	enum m2_err err = set_options(g->sockets[which], why);
	if (err == M2_OK)
		err = m2_guard_create(g->context, g->sockets[which],
			which == M2_ENDPOINT_CLIENT ? "client" : "control",
			g->options->connections_per_user, m2_guard_total(files.rlim_cur),
			&g->guards[which], why);
	if (err != M2_OK)
		return err;
	const mode_t before = umask(0777 & ~mode);
	const int bound = zmq_bind(g->sockets[which], address);
	const int saved = errno;
	(void)umask(before);
	if (bound != 0)
		return m2_fail(M2_EIO, why, "%s: %s", address, zmq_strerror(saved));
	return M2_OK;
}

/* An administrators' group gets the control socket only after the file is its own. */
static enum m2_err give_to_group(const struct m2_gate_options *o, struct m2_why *why)
{
	char path[160];
	if (o->control_gid == (uint32_t)-1 || o->control_open)
		return M2_OK;
	(void)snprintf(path, sizeof path, "%s/%s", o->runtime_dir, M2_SOCKET_CONTROL);
	if (chown(path, (uid_t)-1, (gid_t)o->control_gid) != 0 || chmod(path, 0660) != 0)
		return m2_fail(M2_EIO, why,
			"%s: giving it to group %u: %s (the daemon's user must be in that group)",
			path, o->control_gid, strerror(errno));
	return M2_OK;
}

static enum m2_err start(struct gate *g, struct m2_why *why)
{
	const struct m2_gate_options *o = g->options;
	const struct m2_ipc_hello hello = {M2_WIRE_VERSION, o->generation};
	struct m2_why group_why;
	enum m2_err err =
		m2_ipc_channel_create(o->fd, M2_IPC_GATE, M2_IPC_SUPERVISOR, &g->channel, why);
	if (err != M2_OK)
		return err;
	g->peers = m2_peers_create(PEERS_MAX);
	g->context = zmq_ctx_new();
	if (g->peers == NULL || g->context == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	err = bind_socket(g, M2_ENDPOINT_CLIENT, M2_SOCKET_CLIENT, 0666, why);
	if (err == M2_OK)
		err = bind_socket(g, M2_ENDPOINT_CONTROL, M2_SOCKET_CONTROL,
			o->control_open ? 0666 : 0600, why);
	if (err != M2_OK)
		return err;
	/* the daemon's own user can still administer: say it and go on */
	if (give_to_group(o, &group_why) != M2_OK)
		m2_warn("%s", group_why.text);
	return m2_ipc_send(g->channel, M2_IPC_GATE_READY, &hello, NULL, 0, why);
}

/* ---- out ---------------------------------------------------------------------------------------- */

/* What a client does not take is dropped: it is gone, or does not read, and asks again if it wants.  What we
 * have no memory for would be waited for: this gate ends, and the next one is asked again. */
static void send_frames(struct gate *g, const struct m2_route *to, const void *header,
	size_t header_bytes, const void *payload, size_t payload_bytes)
{
	void *socket = g->sockets[to->endpoint];
	const bool more = payload_bytes > 0;
	bool sent = zmq_send(socket, to->id, to->length, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0;
	if (!sent && (errno == EAGAIN || errno == EHOSTUNREACH)) {
		m2_debug("answer dropped: %s", zmq_strerror(errno));
		return;
	}
	sent = sent &&
	       zmq_send(socket, header, header_bytes, (more ? ZMQ_SNDMORE : 0) | ZMQ_DONTWAIT) >= 0;
	sent = sent && (!more || zmq_send(socket, payload, payload_bytes, ZMQ_DONTWAIT) >= 0);
	if (!sent && !g->broken) {
		g->broken = true;
		m2_error("an answer could not be sent: %s", zmq_strerror(errno));
	}
}

static void deliver(struct gate *g, const struct m2_ipc_packet *packet)
{
	struct m2_ipc_reply r;
	memcpy(&r, packet->fixed, sizeof r);
	if ((size_t)r.header_bytes + r.payload_bytes != packet->body_bytes ||
		r.route.length > sizeof r.route.id || r.route.endpoint > M2_ENDPOINT_CONTROL ||
		r.route.generation != g->options->generation)
		return;
	if (!m2_peers_match(g->peers, r.route.endpoint, r.route.id, r.route.length, r.uid)) {
		m2_debug("answer dropped: its connection belongs to someone else now");
		return;
	}
	send_frames(g, &r.route, packet->body, r.header_bytes,
		(const char *)packet->body + r.header_bytes, r.payload_bytes);
}

static void refuse(
	struct gate *g, const struct m2_request *r, enum m2_err err, const struct m2_why *why)
{
	char plain[M2_REPLY_PLAIN_BYTES];
	struct json_object *o = m2_reply_error(r, err, why);
	size_t length = 0;
	const char *text = m2_reply_text(o, &length);
	if (text == NULL) {
		length = m2_reply_plain(r, plain);
		text = plain;
	}
	send_frames(g, &r->route, text, length, NULL, 0);
	json_object_put(o);
}

/* ---- in ----------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One whole message: its frames, as far as there is room, and how many there were. */
static bool receive_frames(void *socket, zmq_msg_t frames[FRAMES_MAX], int *count)
{
	*count = 0;
	for (bool more = true; more; (*count)++) {
		zmq_msg_t surplus;
		zmq_msg_t *frame = *count < FRAMES_MAX ? &frames[*count] : &surplus;
		(void)zmq_msg_init(frame);
		/* after the first frame the others are there: libzmq hands over whole messages */
		if (zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) < 0) {
			(void)zmq_msg_close(frame);
			return false;
		}
		more = zmq_msg_more(frame) != 0;
		if (*count >= FRAMES_MAX)
			(void)zmq_msg_close(frame);
		if (*count == INT32_MAX)
			return false;
	}
	return true;
}

static enum m2_err handle_message(
	struct gate *g, enum m2_endpoint endpoint, zmq_msg_t *frames, int count, struct m2_why *why)
{
	struct m2_request r;
	struct m2_why refusal = {.text = ""};
	void *body = NULL;
	size_t body_bytes = 0;
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	const size_t id_bytes = zmq_msg_size(&frames[0]);
	if (count < 2 || id_bytes > sizeof r.route.id ||
		!m2_gate_peer(zmq_msg_gets(&frames[1], "Peer-Address"), &uid, &gid, &pid)) {
		m2_debug("message dropped: no peer address, or no header");
		return M2_OK;
	}
	const bool payload = count > 2;
	enum m2_err err = m2_gate_parse(zmq_msg_data(&frames[1]), zmq_msg_size(&frames[1]),
		payload ? zmq_msg_data(&frames[2]) : NULL, payload ? zmq_msg_size(&frames[2]) : 0,
		endpoint, &r, &body, &body_bytes, &refusal);
	if (err == M2_OK && count > FRAMES_MAX)
		err = m2_fail(
			M2_EPROTO, &refusal, "a message has a header and at most one payload");
	r.route.generation = g->options->generation;
	r.route.endpoint = (uint8_t)endpoint;
	r.route.length = (uint8_t)id_bytes;
	memcpy(r.route.id, zmq_msg_data(&frames[0]), id_bytes);
	r.uid = uid;
	r.gid = gid;
	r.pid = pid;
	r.received_ns = now_ns();
	m2_peers_note(g->peers, r.route.endpoint, r.route.id, r.route.length, uid);
	if (err != M2_OK) {
		refuse(g, &r, err, &refusal);
		free(body);
		return M2_OK;
	}
	err = m2_ipc_send(g->channel, M2_IPC_GATE_REQUEST, &r, body, body_bytes, why);
	free(body);
	if (err == M2_ENOMEM) { /* for this one body: the channel is whole */
		refuse(g, &r, err, why);
		return M2_OK;
	}
	return err;
}

/* A gate short of memory gives way to a new one before it loses anybody's words. */
static bool has_headroom(void)
{
	void *volatile room = malloc(HEADROOM);
	const bool found = room != NULL;
	free(room);
	return found;
}

static enum m2_err read_socket(struct gate *g, enum m2_endpoint endpoint, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	if (!has_headroom())
		return m2_fail(
			M2_ENOMEM, why, "this gate is out of memory, and gives way to another");
	/* stop as soon as the supervisor does not take what there is: back-pressure, not a queue */
	for (int i = 0; i < BURST && err == M2_OK && !m2_ipc_channel_wants_write(g->channel); i++) {
		zmq_msg_t frames[FRAMES_MAX];
		int count;
		const bool whole = receive_frames(g->sockets[endpoint], frames, &count);
		if (whole)
			err = handle_message(g, endpoint, frames, count, why);
		else if (errno != EAGAIN && errno != EINTR)
			err = m2_fail(M2_EIO, why, "zmq receive: %s", zmq_strerror(errno));
		for (int f = 0; f < count && f < FRAMES_MAX; f++)
			(void)zmq_msg_close(&frames[f]);
		if (!whole)
			break;
	}
	return err;
}

static enum m2_err read_channel(struct gate *g, struct m2_why *why)
{
	for (int i = 0; i < BURST && !g->stop; i++) {
		struct m2_ipc_packet packet;
		bool got;
		const enum m2_err err = m2_ipc_receive(g->channel, &packet, &got, why);
		if (err != M2_OK || !got)
			return err;
		if (packet.type == M2_IPC_GATE_STOP)
			g->stop = true;
		else if (packet.body_lost)
			g->broken = true;
		else
			deliver(g, &packet);
	}
	return M2_OK;
}

/* ---- the loop ----------------------------------------------------------------------------------- */

/* The supervisor ends a gate that is silent: a loop that hangs answers nobody. */
static enum m2_err beat(struct gate *g, struct m2_why *why)
{
	const struct m2_ipc_hello hello = {M2_WIRE_VERSION, g->options->generation};
	const uint64_t now = now_ns();
	/* while it does not read, what waits already says that we live */
	if (now - g->beat_ns < BEAT_MS * UINT64_C(1000000) ||
		m2_ipc_channel_wants_write(g->channel))
		return M2_OK;
	g->beat_ns = now;
	return m2_ipc_send(g->channel, M2_IPC_GATE_READY, &hello, NULL, 0, why);
}

static enum m2_err turn(struct gate *g, struct m2_why *why)
{
	const bool full = m2_ipc_channel_wants_write(g->channel);
	zmq_pollitem_t items[5] = {
		{NULL, m2_ipc_channel_fd(g->channel),
			(short)(full ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN), 0},
		{m2_guard_events(g->guards[M2_ENDPOINT_CLIENT]), 0, ZMQ_POLLIN, 0},
		{m2_guard_events(g->guards[M2_ENDPOINT_CONTROL]), 0, ZMQ_POLLIN, 0},
		{g->sockets[M2_ENDPOINT_CONTROL], 0, ZMQ_POLLIN, 0},
		{g->sockets[M2_ENDPOINT_CLIENT], 0, ZMQ_POLLIN, 0},
	};
	if (zmq_poll(items, full ? 3 : 5, BEAT_MS) < 0)
		return errno == EINTR ? M2_OK
				      : m2_fail(M2_EIO, why, "zmq poll: %s", zmq_strerror(errno));
	for (int i = 1; i <= 2; i++)
		if (items[i].revents != 0)
			m2_guard_turn(g->guards[i - 1]);
	enum m2_err err = beat(g, why);
	if (err == M2_OK && items[0].revents != 0) {
		err = m2_ipc_flush(g->channel, why);
		if (err == M2_OK)
			err = read_channel(g, why);
	}
	if (err == M2_OK && (items[3].revents & ZMQ_POLLIN) != 0)
		err = read_socket(g, M2_ENDPOINT_CONTROL, why);
	if (err == M2_OK && (items[4].revents & ZMQ_POLLIN) != 0)
		err = read_socket(g, M2_ENDPOINT_CLIENT, why);
	if (err == M2_OK && g->broken)
		err = m2_fail(
			M2_ENOMEM, why, "this gate has lost an answer, and gives way to another");
	return err;
}

static void finish(struct gate *g)
{
	for (int i = 0; i < 2; i++) {
		if (g->sockets[i] == NULL)
			continue;
		m2_guard_destroy(&g->guards[i], g->sockets[i]);
		(void)zmq_close(g->sockets[i]);
	}
	if (g->context != NULL)
		(void)zmq_ctx_term(g->context);
	m2_peers_destroy(&g->peers);
	m2_ipc_channel_destroy(&g->channel);
}

int m2_gate_main(const struct m2_gate_options *options)
{
	struct gate g = {.options = options};
	struct m2_why why = {.text = ""};
	(void)prctl(PR_SET_NAME, "mamba2d-gate");
	set_limits();
	enum m2_err err = start(&g, &why);
	while (err == M2_OK && !g.stop)
		err = turn(&g, &why);
	/* the supervisor's end is an order to end, not a failure */
	if (err != M2_OK && strcmp(why.text, "peer closed") != 0)
		m2_error("%s", why.text);
	finish(&g);
	return err == M2_OK ? 0 : 1;
}
