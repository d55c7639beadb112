/* Packets between the processes: what arrives is what was sent, and nothing else gets through. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/ipc.h"

struct pair {
	int raw; /* the gate's end as a plain descriptor, when forged packets are wanted */
	struct m2_ipc_channel *supervisor;
	struct m2_ipc_channel *gate;
};

static int open_pair(void **state)
{
	struct pair *p = calloc(1, sizeof *p);
	int fds[2];
	assert_non_null(p);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	p->raw = dup(fds[1]);
	assert_int_equal(
		m2_ipc_channel_create(fds[0], M2_IPC_SUPERVISOR, M2_IPC_GATE, &p->supervisor, NULL),
		M2_OK);
	assert_int_equal(
		m2_ipc_channel_create(fds[1], M2_IPC_GATE, M2_IPC_SUPERVISOR, &p->gate, NULL),
		M2_OK);
	*state = p;
	return 0;
}

static int close_pair(void **state)
{
	struct pair *p = *state;
	m2_ipc_channel_destroy(&p->supervisor);
	m2_ipc_channel_destroy(&p->gate);
	if (p->raw >= 0)
		(void)close(p->raw);
	free(p);
	return 0;
}

static unsigned char *pattern(size_t bytes)
{
	unsigned char *p = malloc(bytes > 0 ? bytes : 1);
	assert_non_null(p);
	for (size_t i = 0; i < bytes; i++)
		p[i] = (unsigned char)(i * 7 + i / 251);
	return p;
}

static void a_body_of_any_size_arrives_whole_and_aligned(void **state)
{
	static const size_t sizes[] = {0, 1, 15, 16, M2_IPC_INLINE - 1, M2_IPC_INLINE,
		M2_IPC_INLINE + 1, 1 << 20, M2_LIMIT_PAYLOAD_BYTES};
	struct pair *p = *state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct m2_request r = {.id = 0, .client_id = i + 1, .op = M2_OP_GENERATE};
		unsigned char *body = pattern(sizes[i]);
		struct m2_ipc_packet packet;
		bool got;
		assert_int_equal(
			m2_ipc_send(p->gate, M2_IPC_GATE_REQUEST, &r, body, sizes[i], NULL), M2_OK);
		assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_OK);
		assert_true(got);
		assert_int_equal(packet.type, M2_IPC_GATE_REQUEST);
		assert_int_equal(packet.body_bytes, sizes[i]);
		assert_memory_equal(packet.fixed, &r, sizeof r);
		assert_int_equal((uintptr_t)packet.fixed % 16, 0);
		assert_int_equal((uintptr_t)packet.body % 16, 0);
		if (sizes[i] > 0)
			assert_memory_equal(packet.body, body, sizes[i]);
		free(body);
		assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_OK);
		assert_false(got);
	}
}

static void what_the_socket_does_not_take_is_queued_and_sent_later(void **state)
{
	struct pair *p = *state;
	unsigned char *body = pattern(M2_IPC_INLINE);
	const uint64_t count = 50;
	struct m2_ipc_packet packet;
	bool got;
	for (uint64_t i = 0; i < count; i++) {
		struct m2_request r = {.client_id = i};
		assert_int_equal(
			m2_ipc_send(p->gate, M2_IPC_GATE_REQUEST, &r, body, M2_IPC_INLINE, NULL),
			M2_OK);
	}
	assert_true(m2_ipc_channel_wants_write(p->gate)); /* or the test tests nothing */
	for (uint64_t i = 0; i < count; i++) {
		assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_OK);
		assert_true(got);
		assert_int_equal(((const struct m2_request *)packet.fixed)->client_id, i);
		assert_int_equal(m2_ipc_flush(p->gate, NULL), M2_OK);
	}
	assert_false(m2_ipc_channel_wants_write(p->gate));
	free(body);
}

static void a_peer_that_never_reads_is_an_error_and_not_endless_memory(void **state)
{
	struct pair *p = *state;
	const size_t bytes = 1 << 20;
	unsigned char *body = pattern(bytes);
	const struct m2_request r = {.client_id = 1};
	enum m2_err err = M2_OK;
	size_t sent = 0;
	while (err == M2_OK && sent < 16 * (size_t)M2_IPC_QUEUE_BYTES) {
		err = m2_ipc_send(p->gate, M2_IPC_GATE_REQUEST, &r, body, bytes, NULL);
		sent += bytes;
	}
	assert_int_equal(err, M2_EIO);
	free(body);
}

static void a_closed_peer_is_told_apart(void **state)
{
	struct pair *p = *state;
	struct m2_ipc_packet packet;
	struct m2_why why = {"", ""};
	bool got = true;
	(void)close(p->raw);
	p->raw = -1;
	m2_ipc_channel_destroy(&p->gate);
	assert_null(p->gate);
	assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, &why), M2_EIO);
	assert_false(got);
	assert_string_equal(why.text, "peer closed");
}

/* ---- forged packets: written to the socket by hand ---------------------------------------------- */

struct forged {
	uint32_t head[4];
	unsigned char rest[sizeof(struct m2_request) + 64];
};

static size_t whole(void)
{
	return (16 + sizeof(struct m2_request) + 15) / 16 * 16;
}

static struct forged good(void)
{
	struct forged f = {.head = {M2_IPC_GATE_REQUEST, sizeof(struct m2_request), 0, 0}};
	return f;
}

static void expect_refused(struct pair *p, const struct forged *f, size_t bytes)
{
	struct m2_ipc_packet packet;
	bool got;
	assert_int_equal(send(p->raw, f, bytes, 0), (ssize_t)bytes);
	assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_EPROTO);
	assert_false(got);
}

static void a_forged_packet_is_refused_by_its_head(void **state)
{
	struct pair *p = *state;
	struct forged f = good();
	struct m2_ipc_packet packet;
	bool got;
	assert_int_equal(send(p->raw, &f, whole(), 0), (ssize_t)whole());
	assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_OK);
	assert_true(got); /* the good one passes */

	expect_refused(p, &f, 7);           /* no head */
	expect_refused(p, &f, 16);          /* no struct */
	expect_refused(p, &f, whole() - 1); /* cut */
	expect_refused(p, &f, whole() + 1); /* a byte too many */
	f.head[0] = M2_IPC_NONE;
	expect_refused(p, &f, whole());
	f.head[0] = M2_IPC_TYPE_COUNT;
	expect_refused(p, &f, whole());
	f.head[0] = UINT32_MAX;
	expect_refused(p, &f, whole());
	f.head[0] = M2_IPC_ACCEPTED; /* a worker's word, from the gate */
	expect_refused(p, &f, whole());
	f.head[0] = M2_IPC_GATE_REPLY; /* ours, coming back */
	expect_refused(p, &f, whole());
	f = good();
	f.head[1]--;
	expect_refused(p, &f, whole());
	f = good();
	f.head[2] = 1; /* a body that is not there */
	expect_refused(p, &f, whole());
	f.head[2] = UINT32_MAX;
	expect_refused(p, &f, whole());
	f = good();
	f.head[3] = 1; /* a memfd that is not there */
	f.head[2] = M2_IPC_INLINE + 1;
	expect_refused(p, &f, whole());
	f.head[3] = 2;
	expect_refused(p, &f, whole());
}

static void send_with_fd(struct pair *p, const struct forged *f, const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = {0};
	struct iovec part = {(void *)(uintptr_t)f, whole()};
	struct msghdr m = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(count * sizeof(int))};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(h), fds, count * sizeof(int));
	assert_int_equal(sendmsg(p->raw, &m, 0), (ssize_t)whole());
}

static int count_fds(void)
{
	int n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void expect_memfd_refused(
	struct pair *p, const struct forged *f, const int *fds, size_t count)
{
	struct m2_ipc_packet packet;
	bool got;
	const int before = count_fds();
	send_with_fd(p, f, fds, count);
	assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_EPROTO);
	assert_int_equal(count_fds(), before); /* what came along is closed again */
}

static void a_body_in_a_memfd_must_be_sealed_and_of_the_announced_size(void **state)
{
	struct pair *p = *state;
	const size_t bytes = M2_IPC_INLINE + 4096;
	const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	struct forged f = good();
	struct m2_ipc_packet packet;
	bool got;
	f.head[2] = (uint32_t)bytes;
	f.head[3] = 1;
	const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	expect_memfd_refused(p, &f, &fd, 1); /* the sender could still change it */
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	expect_memfd_refused(p, &f, &fd, 1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, all), 0);
	f.head[2]++;
	expect_memfd_refused(p, &f, &fd, 1);
	f.head[2]--;
	expect_memfd_refused(p, &f, (const int[]){fd, fd}, 2);
	f.head[3] = 0;
	f.head[2] = 0;
	expect_memfd_refused(p, &f, &fd, 1); /* a descriptor nobody announced */
	f.head[3] = 1;
	f.head[2] = (uint32_t)bytes;
	send_with_fd(p, &f, &fd, 1);
	assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_OK);
	assert_true(got);
	assert_int_equal(packet.body_bytes, bytes);
	const int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
	expect_memfd_refused(p, &f, &file, 1);
	(void)close(file);
	(void)close(fd);
}

/* The receiver has no descriptor left: the body is lost, and nothing else. */
static void a_body_that_finds_no_descriptor_is_lost_alone(void **state)
{
	struct pair *p = *state;
	const size_t bytes = M2_IPC_INLINE + 1;
	struct m2_request r = {.client_id = 7, .op = M2_OP_GENERATE};
	unsigned char *body = pattern(bytes);
	struct rlimit files;
	struct m2_ipc_packet packet;
	bool got;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	assert_int_equal(m2_ipc_send(p->gate, M2_IPC_GATE_REQUEST, &r, body, bytes, NULL), M2_OK);
	const struct rlimit none = {0, files.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	const enum m2_err err = m2_ipc_receive(p->supervisor, &packet, &got, NULL);
	const enum m2_err sent = m2_ipc_send(p->gate, M2_IPC_GATE_REQUEST, &r, body, bytes, NULL);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	assert_int_equal(err, M2_OK);
	assert_true(got && packet.body_lost);
	assert_int_equal(packet.body_bytes, 0);
	assert_int_equal(((const struct m2_request *)packet.fixed)->client_id, 7);
	/* nor could one be sent: that too costs this one message */
	assert_int_equal(sent, M2_ENOMEM);
	assert_int_equal(m2_ipc_send(p->gate, M2_IPC_GATE_REQUEST, &r, body, bytes, NULL), M2_OK);
	assert_int_equal(m2_ipc_receive(p->supervisor, &packet, &got, NULL), M2_OK);
	assert_true(got && !packet.body_lost);
	assert_memory_equal(packet.body, body, bytes);
	free(body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_body_of_any_size_arrives_whole_and_aligned, open_pair, close_pair),
		cmocka_unit_test_setup_teardown(
			what_the_socket_does_not_take_is_queued_and_sent_later, open_pair,
			close_pair),
		cmocka_unit_test_setup_teardown(
			a_peer_that_never_reads_is_an_error_and_not_endless_memory, open_pair,
			close_pair),
		cmocka_unit_test_setup_teardown(
			a_body_that_finds_no_descriptor_is_lost_alone, open_pair, close_pair),
		cmocka_unit_test_setup_teardown(a_closed_peer_is_told_apart, open_pair, close_pair),
		cmocka_unit_test_setup_teardown(
			a_forged_packet_is_refused_by_its_head, open_pair, close_pair),
		cmocka_unit_test_setup_teardown(
			a_body_in_a_memfd_must_be_sealed_and_of_the_announced_size, open_pair,
			close_pair),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
