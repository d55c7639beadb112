/* io.c - one thread, one DEALER socket: sends what is pending, receives answers, notices loss.
 *
 * Reconnection.  libzmq reconnects by itself and says so through a socket monitor.  ZMQ_IMMEDIATE keeps
 * it from queueing messages for a connection that is not there, so a message is either given to a
 * live connection or still in our list.  What was given to a connection that then broke may be lost;
 * therefore everything unanswered is sent again when the next handshake succeeds, with the same key,
 * which the daemon takes as the same request.  A request that was accepted is asked for instead.
 */
#include "client/io.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "client/answer.h"
#include "client/handle.h"

#define MONITOR "inproc://m2-monitor"

enum { ITEM_SOCKET, ITEM_MONITOR, ITEM_WAKE, ITEMS };

static void on_connected(mamba2 *m)
{
	struct m2_call *next;
	m->connected = true;
	/* questions of an earlier connection are asked anew below */
	for (struct m2_call *call = TAILQ_FIRST(&m->open); call != NULL; call = next) {
		next = TAILQ_NEXT(call, open);
		if (call->op == M2_OP_ATTACH)
			m2_call_end(m, call, M2_OK, NULL);
	}
	struct m2_call *call;
	TAILQ_FOREACH(call, &m->open, open)
	{
		if (call->op == M2_OP_ATTACH) /* what this loop itself appended */
			break;
		if (call->accepted)
			m2_call_notify(m, M2_OP_ATTACH, call);
		else
			m2_call_enqueue(m, call);
	}
	(void)pthread_cond_broadcast(&m->connection);
}

static void on_disconnected(mamba2 *m)
{
	if (!m->connected)
		return;
	m->connected = false;
	m->lost_at_ms = m2_handle_now_ms();
}

/* Read what the monitor has to say: frames of {u16 event, u32 value} and address. */
static void read_monitor(mamba2 *m)
{
	for (;;) {
		unsigned char event[6];
		uint16_t number;
		const int n = zmq_recv(m->monitor, event, sizeof event, ZMQ_DONTWAIT);
		if (n < 0)
			return;
		(void)zmq_recv(m->monitor, NULL, 0, ZMQ_DONTWAIT); /* the address */
		if (n != (int)sizeof event)
			continue;
		memcpy(&number, event, sizeof number);
		pthread_mutex_lock(&m->lock);
		if (number == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
			on_connected(m);
		else if (number == ZMQ_EVENT_DISCONNECTED)
			on_disconnected(m);
		pthread_mutex_unlock(&m->lock);
	}
}

static void send_pending(mamba2 *m)
{
	pthread_mutex_lock(&m->lock);
	while (m->connected && !TAILQ_EMPTY(&m->pending)) {
		struct m2_call *call = TAILQ_FIRST(&m->pending);
		const bool two = call->payload != NULL;
		if (zmq_send(m->socket, call->header, call->header_bytes,
			    ZMQ_DONTWAIT | (two ? ZMQ_SNDMORE : 0)) < 0)
			break; /* no room: POLLOUT will say when */
		/* after a first part the second always fits: libzmq counts whole messages */
		if (two)
			(void)zmq_send(m->socket, call->payload, call->payload_bytes, ZMQ_DONTWAIT);
		TAILQ_REMOVE(&m->pending, call, pending);
		call->is_pending = false;
	}
	pthread_mutex_unlock(&m->lock);
}

/* One message of any number of frames; false when there is none.  Only one or two frames count. */
static bool receive_one(mamba2 *m)
{
	zmq_msg_t frames[2];
	int count = 0;
	bool more = true;
	for (; more; count++) {
		zmq_msg_t part;
		(void)zmq_msg_init(&part);
		if (zmq_msg_recv(&part, m->socket, ZMQ_DONTWAIT) < 0) {
			(void)zmq_msg_close(&part);
			break;
		}
		more = zmq_msg_more(&part) != 0;
		if (count < 2) {
			(void)zmq_msg_init(&frames[count]);
			(void)zmq_msg_move(&frames[count], &part);
		}
		(void)zmq_msg_close(&part);
	}
	const bool two = count == 2;
	if (!more && count >= 1 && count <= 2)
		m2_answer_apply(m, zmq_msg_data(&frames[0]), zmq_msg_size(&frames[0]),
			two ? zmq_msg_data(&frames[1]) : NULL, two ? zmq_msg_size(&frames[1]) : 0);
	for (int i = 0; i < count && i < 2; i++)
		(void)zmq_msg_close(&frames[i]);
	return count > 0;
}

static void end_all(mamba2 *m, const char *sentence)
{
	struct m2_why why;
	(void)m2_fail(M2_EUNREACHABLE, &why, "%s %s", sentence, m->endpoint);
	while (!TAILQ_EMPTY(&m->open))
		m2_call_end(m, TAILQ_FIRST(&m->open), M2_EUNREACHABLE, &why);
}

/* Nothing left to say that gives memory back? */
static bool flushed(mamba2 *m)
{
	struct m2_call *call;
	TAILQ_FOREACH(call, &m->open, open)
	if (call->dropped)
		return false;
	return true;
}

/* Judge the time: ends what is lost; returns how long to sleep in ms (-1: until something comes), or
 * -2 when the thread is done.  *poll_out: there is something to send. */
static long look_at_clock(mamba2 *m, bool *poll_out)
{
	int64_t sleep = -1;
	pthread_mutex_lock(&m->lock);
	const int64_t now = m2_handle_now_ms();
	if (!m->connected && !TAILQ_EMPTY(&m->open)) {
		sleep = m->lost_at_ms + m->lost_after_ms - now;
		if (sleep <= 0) {
			end_all(m, "the daemon went away and did not come back at");
			sleep = -1;
		}
	}
	if (m->closing) {
		sleep = m->closing_at_ms + M2_CLIENT_FLUSH_MS - now;
		if (sleep <= 0 || !m->connected || flushed(m))
			sleep = -2;
	}
	*poll_out = m->connected && !TAILQ_EMPTY(&m->pending);
	pthread_mutex_unlock(&m->lock);
	return (long)sleep;
}

static void *io_main(void *handle)
{
	mamba2 *m = handle;
	bool poll_out;
	long sleep;
	while ((sleep = look_at_clock(m, &poll_out)) != -2) {
		zmq_pollitem_t items[ITEMS] = {
			[ITEM_SOCKET] = {.socket = m->socket,
				.events = (short)(ZMQ_POLLIN | (poll_out ? ZMQ_POLLOUT : 0))},
			[ITEM_MONITOR] = {.socket = m->monitor, .events = ZMQ_POLLIN},
			[ITEM_WAKE] = {.fd = m->wake_fd, .events = ZMQ_POLLIN}};
		if (zmq_poll(items, ITEMS, sleep) < 0 && errno != EINTR)
			break;
		if (items[ITEM_WAKE].revents != 0) {
			eventfd_t count;
			(void)eventfd_read(m->wake_fd, &count);
		}
		/* answers first: those that came before a disconnection need not be asked for */
		while ((items[ITEM_SOCKET].revents & ZMQ_POLLIN) != 0 && receive_one(m))
			;
		if (items[ITEM_MONITOR].revents != 0)
			read_monitor(m);
		send_pending(m);
	}
	pthread_mutex_lock(&m->lock);
	m->stopped = true;
	m->connected = false;
	end_all(m, "the connection was closed to");
	(void)pthread_cond_broadcast(&m->connection);
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

static bool set(void *socket, int option, int value)
{
	return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static bool set_up(mamba2 *m)
{
	const int64_t largest = M2_CLIENT_MESSAGE_BYTES;
	m->zmq = zmq_ctx_new();
	if (m->zmq == NULL)
		return false;
	m->socket = zmq_socket(m->zmq, ZMQ_DEALER);
	m->monitor = zmq_socket(m->zmq, ZMQ_PAIR);
	return m->socket != NULL && m->monitor != NULL && set(m->socket, ZMQ_LINGER, 0) &&
	       set(m->monitor, ZMQ_LINGER, 0) && set(m->socket, ZMQ_IMMEDIATE, 1) &&
	       set(m->socket, ZMQ_RECONNECT_IVL, 20) &&
	       set(m->socket, ZMQ_RECONNECT_IVL_MAX, 250) &&
	       set(m->socket, ZMQ_HEARTBEAT_IVL, 2000) &&
	       set(m->socket, ZMQ_HEARTBEAT_TIMEOUT, 6000) && set(m->socket, ZMQ_SNDHWM, 0) &&
	       set(m->socket, ZMQ_RCVHWM, 0) &&
	       zmq_setsockopt(m->socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) == 0 &&
	       zmq_socket_monitor(m->socket, MONITOR,
		       ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) == 0 &&
	       zmq_connect(m->monitor, MONITOR) == 0 && zmq_connect(m->socket, m->endpoint) == 0;
}

static void tear_down(mamba2 *m)
{
	if (m->socket != NULL) {
		(void)zmq_socket_monitor(m->socket, NULL, 0);
		(void)zmq_close(m->socket);
	}
	if (m->monitor != NULL)
		(void)zmq_close(m->monitor);
	if (m->zmq != NULL)
		(void)zmq_ctx_term(m->zmq);
	m->socket = m->monitor = m->zmq = NULL;
}

enum m2_err m2_io_start(mamba2 *m, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	if (!set_up(m)) {
		err = m2_fail(M2_EIO, why, "%s: %s", m->endpoint, zmq_strerror(errno));
	} else {
		/* the application's signals are for its own threads; a new thread inherits the mask */
		sigset_t all;
		sigset_t before;
		(void)sigfillset(&all);
		(void)pthread_sigmask(SIG_SETMASK, &all, &before);
		const int failed = pthread_create(&m->thread, NULL, io_main, m);
		(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
		if (failed != 0)
			err = m2_fail(M2_EIO, why, "cannot start a thread: %s", strerror(failed));
	}
	if (err != M2_OK)
		tear_down(m);
	return err;
}

void m2_io_stop(mamba2 *m)
{
	pthread_mutex_lock(&m->lock);
	m->closing = true;
	m->closing_at_ms = m2_handle_now_ms();
	pthread_mutex_unlock(&m->lock);
	m2_handle_wake(m);
	(void)pthread_join(m->thread, NULL);
	tear_down(m);
}
