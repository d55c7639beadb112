/* gate_guard.c - see gate_guard.h.
 *
 * A monitor's event names a descriptor by its number, which may be another connection's by the time the
 * event is read.  What is asked and shut down is therefore a duplicate: the number may change hands
 * meanwhile, the duplicate stays the socket whose user was asked.
 *
 * The monitor's queue has no limit of its own: libzmq's I/O thread would otherwise wait for us while it
 * holds the lock that closing the monitor needs.
 */
#include "daemon/gate_guard.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <zmq.h>

#include "common/log.h"

enum {
	BURST = 1024,          /* events before the sockets have their turn */
	DESCRIPTORS = 1 << 20, /* the most that a connection's number can be */
	RESERVE_MOST = 1024,   /* descriptors kept free; of a low limit, a quarter */
	TOTAL_MOST = 16384     /* of one endpoint: each costs about 40 KiB of the gate's 2 GiB */
};

struct user {
	uint32_t uid;
	uint32_t connections;
	bool told; /* the log knows that it is at its limit */
};

struct m2_guard {
	void *monitor;
	const char *name;
	uint32_t per_user;
	uint32_t total;
	uint32_t connections;
	struct user *users; /* those with a connection */
	size_t n_users;
	size_t room;
	uint32_t *owners; /* [DESCRIPTORS] uid + 1 of a connection; 0: none.  Touched where used */
};

uint32_t m2_guard_total(uint64_t files)
{
	const uint64_t reserve = files / 4 < RESERVE_MOST ? files / 4 : RESERVE_MOST;
	const uint64_t each = (files - reserve) / 2;
	return each < 1 ? 1 : each < TOTAL_MOST ? (uint32_t)each : TOTAL_MOST;
}

enum m2_err m2_guard_create(void *context, void *socket, const char *name, uint32_t per_user,
	uint32_t total, struct m2_guard **out, struct m2_why *why)
{
	char address[64];
	const int unlimited = 0;
	struct m2_guard *g = calloc(1, sizeof *g);
	if (g != NULL)
		g->owners = calloc(DESCRIPTORS, sizeof *g->owners);
	if (g == NULL || g->owners == NULL) {
		free(g);
		return m2_fail(M2_ENOMEM, why, "out of memory");
	}
	g->name = name;
	g->per_user = per_user;
	g->total = total;
	(void)snprintf(address, sizeof address, "inproc://guard-%s", name);
	g->monitor = zmq_socket(context, ZMQ_PAIR);
	if (g->monitor == NULL ||
		zmq_setsockopt(g->monitor, ZMQ_RCVHWM, &unlimited, sizeof unlimited) != 0 ||
		zmq_socket_monitor(socket, address, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) !=
			0 ||
		zmq_connect(g->monitor, address) != 0) {
		const enum m2_err err =
			m2_fail(M2_EIO, why, "zmq monitor of %s: %s", name, zmq_strerror(errno));
		m2_guard_destroy(&g, socket);
		return err;
	}
	*out = g;
	return M2_OK;
}

void m2_guard_destroy(struct m2_guard **guard, void *socket)
{
	struct m2_guard *g = *guard;
	*guard = NULL;
	if (g == NULL)
		return;
	(void)zmq_socket_monitor(socket, NULL, 0);
	if (g->monitor != NULL)
		(void)zmq_close(g->monitor);
	free(g->users);
	free(g->owners);
	free(g);
}

void *m2_guard_events(const struct m2_guard *guard)
{
	return guard->monitor;
}

/* NULL without memory, and for an unknown one unless it is to be made. */
static struct user *user_of(struct m2_guard *g, uint32_t uid, bool make)
{
	for (size_t i = 0; i < g->n_users; i++)
		if (g->users[i].uid == uid)
			return &g->users[i];
	if (!make)
		return NULL;
	if (g->n_users == g->room) {
		const size_t room = g->room == 0 ? 16 : 2 * g->room;
		struct user *users = reallocarray(g->users, room, sizeof *users);
		if (users == NULL)
			return NULL;
		g->users = users;
		g->room = room;
	}
	g->users[g->n_users] = (struct user){.uid = uid};
	return &g->users[g->n_users++];
}

static void tell(struct m2_guard *g, struct user *user)
{
	if (user->connections > g->per_user && !user->told) {
		user->told = true;
		m2_warn("user %u has %u connections to the %s endpoint, and may have no more "
			"(connections_per_user)",
			user->uid, g->per_user, g->name);
	} else if (user->connections <= g->per_user) {
		m2_warn("the %s endpoint has %u connections, and takes no more", g->name, g->total);
	}
}

static void on_accepted(struct m2_guard *g, uint32_t fd)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	const int own = fd < DESCRIPTORS ? dup((int)fd) : -1;
	/* gone already; or no descriptor is left, and then libzmq will have none either */
	if (own < 0)
		return;
	const bool known = getsockopt(own, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0;
	struct user *user = known ? user_of(g, peer.uid, true) : NULL;
	if (user != NULL) {
		g->owners[fd] = peer.uid + 1;
		user->connections++;
		g->connections++;
	}
	if (user == NULL || user->connections > g->per_user || g->connections > g->total) {
		if (user != NULL)
			tell(g, user);
		(void)shutdown(own, SHUT_RDWR); /* libzmq sees its end, and closes it */
	}
	(void)close(own);
}

static void on_disconnected(struct m2_guard *g, uint32_t fd)
{
	if (fd >= DESCRIPTORS || g->owners[fd] == 0)
		return;
	struct user *user = user_of(g, g->owners[fd] - 1, false);
	g->owners[fd] = 0;
	if (user == NULL)
		return;
	g->connections--;
	user->connections--;
	if (user->connections < g->per_user / 2)
		user->told = false;
	if (user->connections == 0)
		*user = g->users[--g->n_users];
}

/* One event: a frame of six bytes, then one with the address.  false: there is none. */
static bool take_event(struct m2_guard *g)
{
	unsigned char frame[64];
	uint16_t event;
	uint32_t fd;
	int more = 0;
	size_t size = sizeof more;
	const int n = zmq_recv(g->monitor, frame, sizeof frame, ZMQ_DONTWAIT);
	if (n < 0)
		return false;
	while (zmq_getsockopt(g->monitor, ZMQ_RCVMORE, &more, &size) == 0 && more != 0)
		if (zmq_recv(g->monitor, frame + 6, sizeof frame - 6, ZMQ_DONTWAIT) < 0)
			break;
	if (n != 6)
		return true;
	memcpy(&event, frame, sizeof event);
	memcpy(&fd, frame + 2, sizeof fd);
	if (event == ZMQ_EVENT_ACCEPTED)
		on_accepted(g, fd);
	else if (event == ZMQ_EVENT_DISCONNECTED)
		on_disconnected(g, fd);
	return true;
}

void m2_guard_turn(struct m2_guard *guard)
{
	for (int i = 0; i < BURST && take_event(guard); i++)
		;
}
