/* shim.c - preloaded into a daemon under test: makes calls of the C library fail on a test's word.
 *
 * See page.h.  A process without a page of its own is left alone.  The daemon knows nothing of this:
 * what is tested is the program that is installed.  Only functions that the daemon, libzmq, SQLite and
 * libacl reach through the dynamic linker are seen; the C library's calls of itself are not.
 */
#include <acl/libacl.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/system/faults/page.h"

#define SHOWN __attribute__((visibility("default")))

static struct rule *rules;

static bool fails(enum rule_number which)
{
	const int error = rule_fires(rules, which);
	if (error != 0)
		errno = error;
	return error != 0;
}

/* ---- which process this is ---------------------------------------------------------------------- */

/* "worker.cpu" and the like, from the command line. */
static void name_process(char *name, size_t size)
{
	char line[4096];
	const char *role = NULL;
	const char *backend = NULL;
	(void)snprintf(name, size, "none");
	FILE *f = fopen("/proc/self/cmdline", "re");
	if (f == NULL)
		return;
	const size_t n = fread(line, 1, sizeof line - 1, f);
	(void)fclose(f);
	line[n] = '\0';
	const size_t first = strlen(line);
	if (first < 7 || strcmp(line + first - 7, "mamba2d") != 0)
		return;
	for (size_t at = 0; at < n; at += strlen(line + at) + 1) {
		if (strncmp(line + at, "--role=", 7) == 0)
			role = line + at + 7;
		if (strncmp(line + at, "--backend=", 10) == 0)
			backend = line + at + 10;
	}
	if (role == NULL)
		(void)snprintf(name, size, "supervisor");
	else if (strcmp(role, "worker") == 0 && backend != NULL)
		(void)snprintf(name, size, "worker.%s", backend);
	else
		(void)snprintf(name, size, "%s", role);
}

__attribute__((constructor)) static void find_page(void)
{
	char name[64];
	char path[512];
	const char *directory = getenv("M2_FAULTS");
	if (directory == NULL)
		return;
	name_process(name, sizeof name);
	(void)snprintf(path, sizeof path, "%s/%s", directory, name);
	const int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	void *page =
		mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)close(fd);
	if (page != MAP_FAILED)
		rules = page;
}

/* ---- memory: the C library's own names, for dlsym would ask for memory itself -------------------- */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

SHOWN void *malloc(size_t bytes)
{
	return fails(RULE_malloc) ? NULL : __libc_malloc(bytes);
}

SHOWN void *calloc(size_t count, size_t bytes)
{
	return fails(RULE_calloc) ? NULL : __libc_calloc(count, bytes);
}

SHOWN void *realloc(void *old, size_t bytes)
{
	return fails(RULE_realloc) ? NULL : __libc_realloc(old, bytes);
}

SHOWN void *aligned_alloc(size_t alignment, size_t bytes)
{
	return fails(RULE_memalign) ? NULL : __libc_memalign(alignment, bytes);
}

SHOWN int posix_memalign(void **out, size_t alignment, size_t bytes)
{
	if (fails(RULE_memalign))
		return ENOMEM;
	*out = __libc_memalign(alignment, bytes);
	return *out != NULL ? 0 : ENOMEM;
}

/* ---- everything else: the next object's --------------------------------------------------------- */

/* RESULT NAME(PARAMETERS) that fails with FAILURE, else is the real one called with ARGUMENTS.  The cast by
 * way of memcpy is what POSIX asks of dlsym's result. */
#define WRAP_AS(rule, result, name, parameters, arguments, failure)                                \
	SHOWN result name parameters                                                               \
	{                                                                                          \
		static result(*_Atomic real) parameters;                                           \
		if (real == NULL) {                                                                \
			void *found = dlsym(RTLD_NEXT, #name);                                     \
			result(*as_function) parameters;                                           \
			memcpy(&as_function, &found, sizeof found);                                \
			real = as_function;                                                        \
		}                                                                                  \
		return fails(RULE_##rule) ? (failure) : real arguments;                            \
	}
#define WRAP(result, name, parameters, arguments, failure)                                         \
	WRAP_AS(name, result, name, parameters, arguments, failure)

WRAP(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t from),
	(at, n, prot, flags, fd, from), MAP_FAILED)
WRAP(int, posix_fallocate, (int fd, off_t from, off_t n), (fd, from, n), errno)
WRAP(ssize_t, read, (int fd, void *to, size_t n), (fd, to, n), -1)
WRAP(ssize_t, pread, (int fd, void *to, size_t n, off_t from), (fd, to, n, from), -1)
WRAP_AS(pread, ssize_t, pread64, (int fd, void *to, size_t n, off64_t from), (fd, to, n, from), -1)
WRAP(ssize_t, write, (int fd, const void *from, size_t n), (fd, from, n), -1)
WRAP(ssize_t, pwrite, (int fd, const void *from, size_t n, off_t at), (fd, from, n, at), -1)
WRAP_AS(pwrite, ssize_t, pwrite64, (int fd, const void *from, size_t n, off64_t at),
	(fd, from, n, at), -1)
WRAP(int, fsync, (int fd), (fd), -1)
WRAP(int, fdatasync, (int fd), (fd), -1)
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), -1)
WRAP_AS(ftruncate, int, ftruncate64, (int fd, off64_t n), (fd, n), -1)
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), -1)
WRAP(int, socket, (int domain, int type, int protocol), (domain, type, protocol), -1)
WRAP(int, socketpair, (int domain, int type, int protocol, int pair[2]),
	(domain, type, protocol, pair), -1)
WRAP(pid_t, fork, (void), (), -1)
WRAP(int, pthread_create,
	(pthread_t * thread, const pthread_attr_t *how, void *(*start)(void *), void *arg),
	(thread, how, start, arg), errno)
WRAP(int, epoll_ctl, (int epoll, int op, int fd, struct epoll_event *event), (epoll, op, fd, event),
	-1)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), -1)
WRAP(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags), -1)
WRAP(int, unlinkat, (int directory, const char *name, int flags), (directory, name, flags), -1)
WRAP(int, acl_set_fd, (int fd, acl_t acl), (fd, acl), -1)
WRAP(ssize_t, getrandom, (void *to, size_t n, unsigned flags), (to, n, flags), -1)

/* open and openat take a mode only where they may create. */
static int open_really(int directory, const char *path, int flags, mode_t mode)
{
	static int (*_Atomic real)(int, const char *, int, ...);
	if (real == NULL) {
		void *found = dlsym(RTLD_NEXT, "openat");
		int (*as_function)(int, const char *, int, ...);
		memcpy(&as_function, &found, sizeof found);
		real = as_function;
	}
	return real(directory, path, flags, mode);
}

#define MODE_OF_LAST(flags, mode)                                                                  \
	mode_t mode = 0;                                                                           \
	if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {                                              \
		va_list list;                                                                      \
		va_start(list, flags);                                                             \
		mode = va_arg(list, mode_t);                                                       \
		va_end(list);                                                                      \
	}

SHOWN int open(const char *path, int flags, ...)
{
	MODE_OF_LAST(flags, mode)
	return fails(RULE_open) ? -1 : open_really(AT_FDCWD, path, flags, mode);
}

SHOWN int open64(const char *path, int flags, ...)
{
	MODE_OF_LAST(flags, mode)
	return fails(RULE_open) ? -1 : open_really(AT_FDCWD, path, flags, mode);
}

SHOWN int openat(int directory, const char *path, int flags, ...)
{
	MODE_OF_LAST(flags, mode)
	return fails(RULE_openat) ? -1 : open_really(directory, path, flags, mode);
}

/* ---- the wall clock jumps; the monotonic one never does ------------------------------------------ */

static time_t jump(void)
{
	if (rules == NULL || atomic_load(&rules[RULE_realtime].times) == 0)
		return 0;
	(void)atomic_fetch_add(&rules[RULE_realtime].fired, 1);
	return atomic_load(&rules[RULE_realtime].skip);
}

SHOWN int clock_gettime(clockid_t clock, struct timespec *out)
{
	static int (*_Atomic real)(clockid_t, struct timespec *);
	if (real == NULL) {
		void *found = dlsym(RTLD_NEXT, "clock_gettime");
		int (*as_function)(clockid_t, struct timespec *);
		memcpy(&as_function, &found, sizeof found);
		real = as_function;
	}
	const int result = real(clock, out);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		out->tv_sec += jump();
	return result;
}

SHOWN time_t time(time_t *out)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	if (out != NULL)
		*out = now.tv_sec;
	return now.tv_sec;
}

SHOWN int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
	struct timespec now;
	(void)zone;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	*out = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
	return 0;
}
