/* connect.c - which daemon, and the way to it.
 *
 * The environment is read here and nowhere else in the library.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/errors.h"
#include "client/handle.h"
#include "client/io.h"
#include "common/wire.h"

#define SYSTEM_DIR "/run/mamba2d"

enum { DEFAULT_TIMEOUT_MS = 30000 };

/* errno of connecting to the socket file as any program could; 0: somebody listens. */
static int probe(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address.sun_path)
		return ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path));
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return errno;
	int failed =
		connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
	(void)close(fd);
	return failed == EAGAIN ? 0 : failed; /* a full backlog is somebody, too */
}

static char *joined(const char *directory, const char *name)
{
	char *path = NULL;
	return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

/* The runtime directory by the rule of mamba2.h; malloc'd, NULL without memory. */
static char *find_runtime_dir(const mamba2_options *o)
{
	const char *given = o->runtime_dir != NULL ? o->runtime_dir : getenv("MAMBA2_RUNTIME_DIR");
	if (given != NULL && given[0] != '\0')
		return strdup(given);
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	if (xdg == NULL || xdg[0] == '\0' || probe(SYSTEM_DIR "/" M2_SOCKET_CLIENT) == 0)
		return strdup(SYSTEM_DIR);
	return joined(xdg, "mamba2d");
}

static mamba2 *new_handle(void)
{
	mamba2 *m = calloc(1, sizeof *m);
	if (m == NULL)
		return NULL;
	TAILQ_INIT(&m->open);
	TAILQ_INIT(&m->pending);
	m->next_id = 1;
	m->references = 1;
	m->lost_after_ms = M2_CLIENT_LOST_MS;
	m->lost_at_ms = m2_handle_now_ms();
	m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->wake_fd >= 0 && pthread_mutex_init(&m->lock, NULL) == 0) {
		if (m2_handle_init_condition(&m->connection) == 0)
			return m;
		(void)pthread_mutex_destroy(&m->lock);
	}
	if (m->wake_fd >= 0)
		(void)close(m->wake_fd);
	free(m);
	return NULL;
}

/* Names and limits of the socket; *path is malloc'd. */
static enum m2_err locate(mamba2 *m, const mamba2_options *o, char **path, struct m2_why *why)
{
	const struct sockaddr_un address = {.sun_family = AF_UNIX};
	m->timeout_ms = o->timeout_ms == 0 ? DEFAULT_TIMEOUT_MS : o->timeout_ms;
	m->runtime_dir = find_runtime_dir(o);
	*path = m->runtime_dir == NULL ? NULL
				       : joined(m->runtime_dir, o->control != 0 ? M2_SOCKET_CONTROL
										: M2_SOCKET_CLIENT);
	if (*path == NULL || asprintf(&m->endpoint, "ipc://%s", *path) < 0) {
		m->endpoint = NULL;
		return m2_fail(M2_ENOMEM, why, "out of memory");
	}
	if (strlen(*path) >= sizeof address.sun_path)
		return m2_fail_field(M2_EINVAL, why, "runtime_dir",
			"%s is longer than the %zu bytes that a socket's name may have", *path,
			sizeof address.sun_path - 1);
	if (probe(*path) == EACCES)
		return m2_fail(M2_EACCES, why, "%s: this user may not connect here", *path);
	return M2_OK;
}

static enum m2_err await_handshake(
	mamba2 *m, int64_t timeout_ms, const char *path, struct m2_why *why)
{
	const int64_t deadline = timeout_ms < 0 ? -1 : m2_handle_now_ms() + timeout_ms;
	bool in_time = true;
	pthread_mutex_lock(&m->lock);
	while (!m->connected && !m->stopped && in_time)
		in_time = m2_handle_wait(m, &m->connection, deadline);
	const bool connected = m->connected;
	pthread_mutex_unlock(&m->lock);
	if (connected)
		return M2_OK;
	const int failed = probe(path);
	return m2_fail(M2_EUNREACHABLE, why, "no daemon answers at %s%s%s", path,
		failed != 0 ? ": " : "", failed != 0 ? strerror(failed) : "");
}

enum mamba2_error mamba2_connect(const mamba2_options *options, mamba2 **out)
{
	const mamba2_options defaults = MAMBA2_OPTIONS_INIT;
	const mamba2_options *o = options != NULL ? options : &defaults;
	struct m2_why why = {"", ""};
	char *path = NULL;
	*out = NULL;
	if (o->size != sizeof *o || o->timeout_ms < -1 || o->connect_timeout_ms < -1)
		return m2_client_return(
			m2_fail(M2_EINVAL, &why, "mamba2_options were not initialised"), &why);
	mamba2 *m = new_handle();
	if (m == NULL)
		return m2_client_return(M2_ENOMEM, NULL);
	enum m2_err err = locate(m, o, &path, &why);
	if (err == M2_OK)
		err = m2_io_start(m, &why);
	if (err == M2_OK) {
		err = await_handshake(m,
			o->connect_timeout_ms == 0 ? m->timeout_ms : o->connect_timeout_ms, path,
			&why);
		if (err != M2_OK)
			m2_io_stop(m);
	}
	free(path);
	if (err != M2_OK)
		m2_handle_unreference(m);
	else
		*out = m;
	return m2_client_return(err, &why);
}

void mamba2_close(mamba2 **m)
{
	if (m == NULL || *m == NULL)
		return;
	m2_io_stop(*m);
	m2_handle_unreference(*m);
	*m = NULL;
}
