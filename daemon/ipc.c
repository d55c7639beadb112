/* ipc.c - packets over a SOCK_SEQPACKET pair: one table says what may travel, two functions move it.
 *
 * On the wire a packet is a head of 16 bytes, the fixed struct, and at the next multiple of 16 the
 * body, so that a struct in the body is aligned in the receiver's buffer.  The kernel keeps packets
 * whole (one is at most 36 KiB, below the size at which it would split them); a body that does not fit
 * travels in a memfd sealed against every change, so that its length and its bytes stay what was
 * checked.
 *
 * What this file does not do: look into structs.  Whoever receives one checks it.
 */
#include "daemon/ipc.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/num.h"

struct row {
	enum m2_ipc_side from;
	enum m2_ipc_side to;
	size_t fixed;
	size_t body_max;
};

enum {
	REQUEST_BODY_MAX = M2_LIMIT_PAYLOAD_BYTES + 8 + M2_LIMIT_LOGIT_BIAS * 8 +
			   M2_LIMIT_STOP_STRINGS * M2_LIMIT_STOP_BYTES,
	MODELS_MAX = 4096 /* models in one answer to STATS */
};

static const struct row rows[M2_IPC_TYPE_COUNT] = {
	[M2_IPC_GATE_READY] = {M2_IPC_GATE, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_hello), 0},
	[M2_IPC_GATE_REQUEST] = {M2_IPC_GATE, M2_IPC_SUPERVISOR, sizeof(struct m2_request),
		REQUEST_BODY_MAX},
	[M2_IPC_GATE_REPLY] = {M2_IPC_SUPERVISOR, M2_IPC_GATE, sizeof(struct m2_ipc_reply),
		M2_IPC_BODY_MAX},
	[M2_IPC_GATE_STOP] = {M2_IPC_SUPERVISOR, M2_IPC_GATE, sizeof(struct m2_ipc_hello), 0},
	[M2_IPC_LOAD] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_load),
		sizeof(struct m2_variant)},
	[M2_IPC_UNLOAD] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_unload), 0},
	[M2_IPC_REQUEST] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_request),
		REQUEST_BODY_MAX},
	[M2_IPC_CANCEL] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_cancel), 0},
	[M2_IPC_RELEASE] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_cancel), 0},
	[M2_IPC_STATS] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_hello), 0},
	[M2_IPC_STOP] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_hello), 0},
	[M2_IPC_CHECK] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_check),
		sizeof(struct m2_variant) + M2_IPC_KNOWN_MAX * sizeof(struct m2_ipc_file)},
	[M2_IPC_CHECK_CANCEL] = {M2_IPC_SUPERVISOR, M2_IPC_WORKER, sizeof(struct m2_ipc_cancel), 0},
	[M2_IPC_WORKER_UNABLE] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_unable),
		0},
	[M2_IPC_WORKER_READY] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR,
		sizeof(struct m2_ipc_worker_ready), 0},
	[M2_IPC_PROGRESS] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_progress), 0},
	[M2_IPC_LOADED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_loaded), 0},
	[M2_IPC_UNLOADED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_unloaded), 0},
	[M2_IPC_ACCEPTED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_accepted), 0},
	[M2_IPC_TOKENS] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_tokens),
		M2_IPC_BODY_MAX},
	[M2_IPC_FINISHED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_finished), 0},
	[M2_IPC_DATA] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_data),
		M2_IPC_BODY_MAX},
	[M2_IPC_REFUSED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_refused), 0},
	[M2_IPC_HEARTBEAT] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_heartbeat), 0},
	[M2_IPC_STATS_REPLY] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_stats),
		MODELS_MAX * sizeof(struct m2_ipc_model_stats)},
	[M2_IPC_CHECKED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_checked), 0},
	[M2_IPC_CHECK_PROGRESS] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR,
		sizeof(struct m2_ipc_check_progress), 0},
	[M2_IPC_CHECK_ENDED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_check_ended),
		0},
	[M2_IPC_USERS] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_users),
		M2_IPC_BODY_MAX},
	[M2_IPC_PLANNED] = {M2_IPC_WORKER, M2_IPC_SUPERVISOR, sizeof(struct m2_ipc_planned), 0},
};

struct head {
	uint32_t type;
	uint32_t fixed;
	uint32_t body;
	uint32_t in_memfd; /* 0 or 1 */
};

/* The largest fixed struct and its padding; a row that outgrows it fails the assertion in send. */
enum { FIXED_MAX = 4096, PACKET_MAX = (int)sizeof(struct head) + FIXED_MAX + M2_IPC_INLINE };

_Static_assert(sizeof(struct head) == 16, "the fixed struct begins at a multiple of 16");
_Static_assert(sizeof(struct m2_ipc_request) <= FIXED_MAX, "the largest struct fits");
_Static_assert(sizeof(struct m2_ipc_finished) <= FIXED_MAX, "the largest struct fits");
_Static_assert((int)M2_IPC_BODY_MAX >= (int)REQUEST_BODY_MAX, "a request's body fits");
_Static_assert(sizeof(struct m2_ipc_checked) <= FIXED_MAX, "the largest struct fits");
_Static_assert(sizeof(struct m2_variant) + M2_IPC_KNOWN_MAX * sizeof(struct m2_ipc_file) <=
		       M2_IPC_BODY_MAX,
	"what is known of a check's files fits");
_Static_assert(sizeof(struct m2_variant) % 8 == 0, "the files behind a variant are aligned");

struct pending {
	struct pending *next;
	size_t bytes;  /* of the packet */
	size_t weight; /* what it counts in the queue's limit, its memfd included */
	int fd;        /* memfd or -1 */
	unsigned char packet[];
};

struct m2_ipc_channel {
	int fd;
	enum m2_ipc_side side;
	enum m2_ipc_side peer;
	struct pending *first;
	struct pending **last;
	size_t queued;
	void *mapping; /* of the last received packet's memfd */
	size_t mapped;
	alignas(64) unsigned char buffer[PACKET_MAX]; /* of the last packet received */
	unsigned char out[PACKET_MAX];                /* where a packet to send is put together */
};

static const struct row *find_row(uint32_t type)
{
	return type > M2_IPC_NONE && type < M2_IPC_TYPE_COUNT ? &rows[type] : NULL;
}

size_t m2_ipc_fixed_bytes(enum m2_ipc_type type, enum m2_ipc_side from)
{
	const struct row *row = find_row((uint32_t)type);
	return row != NULL && row->from == from ? row->fixed : 0;
}

size_t m2_ipc_body_most(enum m2_ipc_type type)
{
	const struct row *row = find_row((uint32_t)type);
	return row != NULL ? row->body_max : 0;
}

/* Where the body begins behind a fixed struct of that many bytes. */
static size_t body_at(size_t fixed)
{
	return (sizeof(struct head) + fixed + 15) & ~(size_t)15;
}

enum m2_err m2_ipc_channel_create(int fd, enum m2_ipc_side side, enum m2_ipc_side peer,
	struct m2_ipc_channel **out, struct m2_why *why)
{
	const int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
		return m2_fail(M2_EIO, why, "channel: %s", strerror(errno));
	struct m2_ipc_channel *c = aligned_alloc(64, sizeof *c);
	if (c == NULL)
		return m2_fail(M2_ENOMEM, why, "channel: out of memory");
	memset(c, 0, sizeof *c);
	c->fd = fd;
	c->side = side;
	c->peer = peer;
	c->last = &c->first;
	*out = c;
	return M2_OK;
}

static void unmap(struct m2_ipc_channel *c)
{
	if (c->mapping != NULL)
		(void)munmap(c->mapping, c->mapped);
	c->mapping = NULL;
}

static void drop_first(struct m2_ipc_channel *c)
{
	struct pending *p = c->first;
	c->first = p->next;
	if (c->first == NULL)
		c->last = &c->first;
	c->queued -= p->weight;
	if (p->fd >= 0)
		(void)close(p->fd);
	free(p);
}

void m2_ipc_channel_destroy(struct m2_ipc_channel **channel)
{
	struct m2_ipc_channel *c = *channel;
	if (c == NULL)
		return;
	while (c->first != NULL)
		drop_first(c);
	unmap(c);
	(void)close(c->fd);
	free(c);
	*channel = NULL;
}

int m2_ipc_channel_fd(const struct m2_ipc_channel *channel)
{
	return channel->fd;
}

bool m2_ipc_channel_wants_write(const struct m2_ipc_channel *channel)
{
	return channel->first != NULL;
}

static enum m2_err peer_closed(struct m2_why *why)
{
	return m2_fail(M2_EIO, why, "peer closed");
}

/* ---- sending ------------------------------------------------------------------------------------ */

static enum m2_err seal_body(const void *body, size_t bytes, int *out, struct m2_why *why)
{
	const int fd = memfd_create("mamba2d-body", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return m2_fail(M2_ENOMEM, why, "memfd of a large message: %s", strerror(errno));
	size_t done = 0;
	while (done < bytes) {
		const ssize_t n = write(fd, (const char *)body + done, bytes - done);
		if (n < 0 && errno != EINTR)
			break;
		done += n > 0 ? (size_t)n : 0;
	}
	if (done < bytes ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) !=
			0) {
		const enum m2_err err =
			m2_fail(M2_ENOMEM, why, "memfd of a large message: %s", strerror(errno));
		(void)close(fd);
		return err;
	}
	*out = fd;
	return M2_OK;
}

/* One attempt.  *sent = false: the socket is full. */
static enum m2_err send_now(struct m2_ipc_channel *c, const unsigned char *packet, size_t bytes,
	int fd, bool *sent, struct m2_why *why)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec part = {.iov_base = (void *)(uintptr_t)packet, .iov_len = bytes};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof control.bytes;
		struct cmsghdr *h = CMSG_FIRSTHDR(&message);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &fd, sizeof(int));
	}
	for (;;) {
		if (sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
			*sent = true;
			return M2_OK;
		}
		if (errno == EINTR)
			continue;
		*sent = false;
		/* ETOOMANYREFS: too many descriptors in flight; they get through once the peer reads */
		if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS)
			return M2_OK;
		if (errno == EPIPE || errno == ECONNRESET)
			return peer_closed(why);
		return m2_fail(M2_EIO, why, "channel: %s", strerror(errno));
	}
}

enum m2_err m2_ipc_flush(struct m2_ipc_channel *c, struct m2_why *why)
{
	while (c->first != NULL) {
		const struct pending *p = c->first;
		bool sent;
		const enum m2_err err = send_now(c, p->packet, p->bytes, p->fd, &sent, why);
		if (err != M2_OK || !sent)
			return err;
		drop_first(c);
	}
	return M2_OK;
}

/* Put the packet in c->out together; its length. */
static size_t build(struct m2_ipc_channel *c, enum m2_ipc_type type, const struct row *row,
	const void *fixed, const void *body, size_t body_bytes)
{
	const bool in_memfd = body_bytes > M2_IPC_INLINE;
	const struct head head = {
		(uint32_t)type, (uint32_t)row->fixed, (uint32_t)body_bytes, in_memfd ? 1 : 0};
	memset(c->out, 0, body_at(row->fixed)); /* the padding too carries nothing of before */
	memcpy(c->out, &head, sizeof head);
	memcpy(c->out + sizeof head, fixed, row->fixed);
	if (!in_memfd && body_bytes > 0)
		memcpy(c->out + body_at(row->fixed), body, body_bytes);
	return body_at(row->fixed) + (in_memfd ? 0 : body_bytes);
}

/* Behind what waits already.  Takes fd. */
static enum m2_err queue(
	struct m2_ipc_channel *c, size_t bytes, size_t weight, int fd, struct m2_why *why)
{
	struct pending *p = malloc(sizeof *p + bytes);
	if (p == NULL) {
		if (fd >= 0)
			(void)close(fd);
		return m2_fail(M2_EIO, why, "channel: the peer does not read, and no memory");
	}
	*p = (struct pending){.bytes = bytes, .weight = weight, .fd = fd};
	memcpy(p->packet, c->out, bytes);
	*c->last = p;
	c->last = &p->next;
	c->queued += weight;
	return M2_OK;
}

/* Memory is asked for only when the socket is full: a process without any still says what it has to. */
enum m2_err m2_ipc_send(struct m2_ipc_channel *c, enum m2_ipc_type type, const void *fixed,
	const void *body, size_t body_bytes, struct m2_why *why)
{
	const struct row *row = find_row((uint32_t)type);
	assert(row != NULL && row->from == c->side && row->to == c->peer);
	assert(body_bytes <= row->body_max && row->fixed <= FIXED_MAX);
	int fd = -1;
	bool sent = false;
	enum m2_err err = m2_ipc_flush(c, why);
	if (err == M2_OK && body_bytes > M2_IPC_INLINE)
		err = seal_body(body, body_bytes, &fd, why);
	if (err != M2_OK)
		return err;
	const size_t bytes = build(c, type, row, fixed, body, body_bytes);
	const size_t weight = bytes + (fd >= 0 ? body_bytes : 0);
	if (c->first == NULL)
		err = send_now(c, c->out, bytes, fd, &sent, why);
	if (err == M2_OK && !sent && c->queued + weight <= M2_IPC_QUEUE_BYTES)
		return queue(c, bytes, weight, fd, why);
	if (err == M2_OK && !sent)
		err = m2_fail(M2_EIO, why, "the peer does not read: %zu bytes wait", c->queued);
	if (fd >= 0)
		(void)close(fd);
	return err;
}

/* ---- receiving ---------------------------------------------------------------------------------- */

/* The descriptors that came with a message: the first goes to *out, a second is a violation. */
static bool take_descriptors(struct msghdr *message, int *out)
{
	bool good = true;
	*out = -1;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(message); h != NULL; h = CMSG_NXTHDR(message, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		const size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
			if (*out < 0) {
				*out = fd;
			} else {
				(void)close(fd);
				good = false;
			}
		}
	}
	return good;
}

static enum m2_err map_body(struct m2_ipc_channel *c, int fd, size_t bytes, struct m2_why *why)
{
	const int needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	struct stat st;
	const int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & needed) != needed || fstat(fd, &st) != 0 ||
		(size_t)st.st_size != bytes)
		return m2_fail(
			M2_EPROTO, why, "channel: the body's memfd is not what was announced");
	/* private: before Linux 6.7 a write-sealed memfd refuses shared mappings, read-only ones too */
	void *mapping = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	c->mapping = mapping != MAP_FAILED ? mapping : NULL;
	c->mapped = bytes;
	return M2_OK;
}

/* Everything about the packet of `bytes` bytes in the buffer, against the table.  cut: descriptors came
 * with it that found no room here. */
static enum m2_err check_packet(struct m2_ipc_channel *c, size_t bytes, int fd, bool cut,
	struct m2_ipc_packet *out, struct m2_why *why)
{
	struct head head;
	if (bytes < sizeof head)
		return m2_fail(M2_EPROTO, why, "channel: a packet of %zu bytes", bytes);
	memcpy(&head, c->buffer, sizeof head);
	const struct row *row = find_row(head.type);
	if (row == NULL || row->from != c->peer || row->to != c->side)
		return m2_fail(M2_EPROTO, why, "channel: type %u is not for this end", head.type);
	const size_t at = body_at(row->fixed);
	const bool sized = head.in_memfd == 0 ? head.body <= M2_IPC_INLINE &&
							bytes == at + head.body && fd < 0 && !cut
					      : head.in_memfd == 1 && head.body > M2_IPC_INLINE &&
							bytes == at && (fd >= 0) != cut;
	if (head.fixed != row->fixed || head.body > row->body_max || !sized)
		return m2_fail(M2_EPROTO, why, "channel: type %u with wrong sizes", head.type);
	if (head.in_memfd != 0 && !cut) {
		const enum m2_err err = map_body(c, fd, head.body, why);
		if (err != M2_OK)
			return err;
	}
	*out = (struct m2_ipc_packet){.type = (enum m2_ipc_type)head.type,
		.fixed = c->buffer + sizeof head,
		.body = head.in_memfd != 0 ? c->mapping : c->buffer + at,
		.body_bytes = head.body,
		.body_lost = head.in_memfd != 0 && c->mapping == NULL};
	if (out->body_lost)
		out->body_bytes = 0;
	return M2_OK;
}

enum m2_err m2_ipc_receive(
	struct m2_ipc_channel *c, struct m2_ipc_packet *out, bool *got, struct m2_why *why)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec part = {.iov_base = c->buffer, .iov_len = sizeof c->buffer};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control.bytes};
	ssize_t n;

	*got = false;
	unmap(c);
	do
		n = recvmsg(c->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return M2_OK;
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return peer_closed(why);
	if (n < 0)
		return m2_fail(M2_EIO, why, "channel: %s", strerror(errno));

	int fd;
	const bool good = take_descriptors(&message, &fd) && (message.msg_flags & MSG_TRUNC) == 0;
	/* the kernel leaves descriptors out where the process may have no more of them */
	const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;
	const enum m2_err err = good ? check_packet(c, (size_t)n, fd, cut, out, why)
				     : m2_fail(M2_EPROTO, why, "channel: a packet that was cut");
	if (fd >= 0)
		(void)close(fd);
	*got = err == M2_OK;
	return err;
}
