/* flood.c - a hostile client: malformed, mutated and random messages, and garbage instead of a handshake.
 *
 *	flood SOCKET_PATH MESSAGES SEED
 *
 * Sends MESSAGES messages of ten kinds over a few ZeroMQ connections (a new one now and then), reads and
 * drops whatever comes back, and every 500 messages opens a raw connection and writes garbage where a
 * handshake should be.  Prints how many it sent.  The daemon's behaviour is judged by the caller.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

static uint64_t seed;

static uint64_t draw(void) /* splitmix64 */
{
	uint64_t z = (seed += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static size_t below(size_t n)
{
	return (size_t)(draw() % n);
}

static const char *const good[] = {
	"{\"v\":1,\"op\":\"generate\",\"id\":1,\"key\":\"%032llx\",\"model\":\"demo\",\"input\":"
	"\"text\","
	"\"max_tokens\":1}",
	"{\"v\":1,\"op\":\"list\",\"id\":2,\"key\":\"%032llx\"}",
	"{\"v\":1,\"op\":\"score\",\"id\":3,\"key\":\"%032llx\",\"model\":\"demo\",\"input\":"
	"\"tokens\","
	"\"logprobs\":3}",
	"{\"v\":1,\"op\":\"cancel\",\"id\":4,\"key\":\"%032llx\",\"request\":77}",
	"{\"v\":1,\"op\":\"attach\",\"id\":5,\"key\":\"%032llx\",\"target\":"
	"\"00000000000000000000000000000001\"}",
	"{\"v\":1,\"op\":\"load\",\"id\":6,\"key\":\"%032llx\",\"model\":\"demo\"}",
};

static size_t header(char *out, size_t size)
{
	const int n = snprintf(
		out, size, good[below(sizeof good / sizeof good[0])], (unsigned long long)draw());
	return (size_t)n;
}

static void noise(char *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (char)draw();
}

/* One message in `kind`; returns the number of frames sent. */
static void send_one(void *socket, int kind)
{
	static char buffer[1 << 20];
	char extra[64];
	size_t n = header(buffer, sizeof buffer);
	noise(extra, sizeof extra);
	switch (kind) {
	case 0: /* random bytes */
		n = below(2000);
		noise(buffer, n);
		break;
	case 1: /* cut short */
		n = below(n);
		break;
	case 2: /* some bytes changed */
		for (int i = 0; i < 3; i++)
			buffer[below(n)] = (char)draw();
		break;
	case 3: /* a digit where it matters */
		for (size_t i = 0; i < n; i++)
			if (buffer[i] >= '0' && buffer[i] <= '9' && below(8) == 0)
				buffer[i] = "0123456789-.e"[below(13)];
		break;
	case 4: /* deep */
		n = 1000 + below(5000);
		memset(buffer, below(2) ? '[' : '{', n);
		break;
	case 5: /* as large as allowed, and larger */
		n = 60000 + below(20000);
		memset(buffer, ' ', n);
		break;
	case 6: /* empty */
		n = 0;
		break;
	default: /* well-formed, with a payload that is none */
		(void)zmq_send(socket, buffer, n, ZMQ_SNDMORE | ZMQ_DONTWAIT);
		(void)zmq_send(socket, extra, below(sizeof extra), ZMQ_DONTWAIT);
		return;
	case 8: /* too many frames */
		for (size_t i = below(20); i > 0; i--)
			(void)zmq_send(socket, buffer, n, ZMQ_SNDMORE | ZMQ_DONTWAIT);
		break;
	}
	(void)zmq_send(socket, buffer, n, ZMQ_DONTWAIT);
}

static void drop_answers(void *socket)
{
	char sink[65536];
	while (zmq_recv(socket, sink, sizeof sink, ZMQ_DONTWAIT) >= 0) {
		/* nothing is done with it */
	}
}

static void garbage_handshake(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	(void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
		char bytes[512];
		noise(bytes, sizeof bytes);
		if (below(2))
			memcpy(bytes, "\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL", 16);
		(void)!send(fd, bytes, below(sizeof bytes), MSG_NOSIGNAL);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: flood SOCKET_PATH MESSAGES SEED\n");
		return 2;
	}
	const long messages = strtol(argv[2], NULL, 10);
	seed = strtoull(argv[3], NULL, 10);
	char endpoint[200];
	(void)snprintf(endpoint, sizeof endpoint, "ipc://%s", argv[1]);
	void *context = zmq_ctx_new();
	void *socket = NULL;
	long sent = 0;
	for (; sent < messages; sent++) {
		if (socket == NULL || below(2000) == 0) {
			if (socket != NULL)
				zmq_close(socket);
			socket = zmq_socket(context, ZMQ_DEALER);
			const int linger = 1000;
			const int hwm = 100;
			const int timeout = 20000;
			zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
			zmq_setsockopt(socket, ZMQ_SNDHWM, &hwm, sizeof hwm);
			zmq_setsockopt(socket, ZMQ_SNDTIMEO, &timeout, sizeof timeout);
			if (zmq_connect(socket, endpoint) != 0)
				return 1;
		}
		/* wait for room, so that what is counted was really handed over */
		zmq_pollitem_t item = {.socket = socket, .events = ZMQ_POLLOUT};
		if (zmq_poll(&item, 1, 20000) <= 0)
			break;
		send_one(socket, (int)below(10));
		if (below(16) == 0)
			drop_answers(socket);
		if (sent % 500 == 0)
			garbage_handshake(argv[1]);
	}
	if (socket != NULL)
		zmq_close(socket);
	zmq_ctx_term(context);
	printf("%ld\n", sent);
	return 0;
}
