/* segment.c - create, grant, charge and remove results memory; the contract is in segment.h. */
#include "daemon/segment.h"

#include <acl/libacl.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/acl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/num.h"

struct user {
	uint32_t uid;
	uint64_t segments;
	uint64_t bytes;
};

struct m2_segment_pool {
	int directory;
	uint64_t budget;      /* UINT64_MAX: none */
	uint64_t per_user;    /* likewise */
	pthread_mutex_t lock; /* guards what follows; no other lock is taken inside */
	uint64_t bytes;
	uint64_t segments;
	struct user *users; /* those that hold a segment now */
	size_t n_users;
	size_t users_room;
};

enum m2_err m2_segment_pool_create(const char *directory, int64_t budget, int64_t per_user,
	struct m2_segment_pool **out, struct m2_why *why)
{
	struct m2_segment_pool *pool = calloc(1, sizeof *pool);
	if (pool == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for the results pool");
	pool->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (pool->directory < 0) {
		free(pool);
		return m2_fail(M2_EIO, why, "results directory %s: %s", directory, strerror(errno));
	}
	pool->budget = budget > 0 ? (uint64_t)budget : UINT64_MAX;
	pool->per_user = per_user > 0 ? (uint64_t)per_user : UINT64_MAX;
	(void)pthread_mutex_init(
		&pool->lock, NULL); /* cannot fail with default attributes on Linux */
	*out = pool;
	return M2_OK;
}

void m2_segment_pool_destroy(struct m2_segment_pool **pool)
{
	struct m2_segment_pool *p = *pool;
	if (p == NULL)
		return;
	assert(p->segments == 0);
	(void)close(p->directory);
	(void)pthread_mutex_destroy(&p->lock);
	free(p->users);
	free(p);
	*pool = NULL;
}

void m2_segment_pool_usage(struct m2_segment_pool *pool, uint64_t *bytes, uint64_t *segments)
{
	(void)pthread_mutex_lock(&pool->lock);
	*bytes = pool->bytes;
	*segments = pool->segments;
	(void)pthread_mutex_unlock(&pool->lock);
}

/* ---- budgets ----------------------------------------------------------------------------------- */

/* The record of a uid, made if wanted; NULL without memory.  Few users hold results at one time. */
static struct user *user_of(struct m2_segment_pool *pool, uint32_t uid, bool make)
{
	for (size_t i = 0; i < pool->n_users; i++)
		if (pool->users[i].uid == uid)
			return &pool->users[i];
	if (!make)
		return NULL;
	if (pool->n_users == pool->users_room) {
		const size_t room = pool->users_room == 0 ? 16 : 2 * pool->users_room;
		struct user *users = reallocarray(pool->users, room, sizeof *users);
		if (users == NULL)
			return NULL;
		pool->users = users;
		pool->users_room = room;
	}
	pool->users[pool->n_users] = (struct user){.uid = uid};
	return &pool->users[pool->n_users++];
}

static enum m2_err charge_locked(
	struct m2_segment_pool *pool, uint32_t uid, size_t bytes, struct m2_why *why)
{
	if (bytes > pool->budget - pool->bytes)
		return m2_fail(M2_ENOMEM, why,
			"results memory is full: %zu bytes wanted, %llu of %llu in use", bytes,
			(unsigned long long)pool->bytes, (unsigned long long)pool->budget);
	const struct user *held = user_of(pool, uid, false);
	const uint64_t has = held != NULL ? held->bytes : 0;
	if (bytes > pool->per_user - has)
		return m2_fail(M2_EBUSY, why,
			"results memory of user %u: %zu bytes wanted, %llu of %llu in use; release "
			"finished results or ask for fewer tokens",
			uid, bytes, (unsigned long long)has, (unsigned long long)pool->per_user);
	struct user *user = user_of(pool, uid, true);
	if (user == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory to count results of user %u", uid);
	user->bytes += bytes;
	user->segments++;
	pool->bytes += bytes;
	pool->segments++;
	return M2_OK;
}

static enum m2_err charge(
	struct m2_segment_pool *pool, uint32_t uid, size_t bytes, struct m2_why *why)
{
	(void)pthread_mutex_lock(&pool->lock);
	const enum m2_err err = charge_locked(pool, uid, bytes, why);
	(void)pthread_mutex_unlock(&pool->lock);
	return err;
}

static void give_back(struct m2_segment_pool *pool, uint32_t uid, size_t bytes)
{
	(void)pthread_mutex_lock(&pool->lock);
	struct user *user = user_of(pool, uid, false);
	assert(user != NULL && user->bytes >= bytes && pool->bytes >= bytes);
	user->bytes -= bytes;
	user->segments--;
	pool->bytes -= bytes;
	pool->segments--;
	if (user->segments == 0)
		*user = pool->users[--pool->n_users];
	(void)pthread_mutex_unlock(&pool->lock);
}

/* ---- the file ---------------------------------------------------------------------------------- */

static enum m2_err fill_name(char name[M2_LIMIT_SEGMENT_NAME_BYTES], struct m2_why *why)
{
	unsigned char random[16];
	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return m2_fail(M2_EIO, why, "getrandom: %s", strerror(errno));
	int at = snprintf(
		name, M2_LIMIT_SEGMENT_NAME_BYTES, M2_SEGMENT_PREFIX "%ld-", (long)getpid());
	for (size_t i = 0; i < sizeof random; i++)
		at += snprintf(name + at, (size_t)(M2_LIMIT_SEGMENT_NAME_BYTES - at), "%02x",
			(unsigned)random[i]);
	return M2_OK;
}

/* u::rw- u:<uid>:r-- g::--- m::r-- o::---.  Without the mask entry the named one has no effect. */
static acl_t reader_acl(uint32_t uid)
{
	char text[96];
	(void)snprintf(text, sizeof text, "u::rw-,u:%u:r--,g::---,m::r--,o::---", uid);
	return acl_from_text(text);
}

static enum m2_err grant(int fd, uint32_t uid, struct m2_why *why)
{
	if (uid == geteuid())
		return M2_OK; /* the owner reads by the file's mode */
	acl_t acl = reader_acl(uid);
	if (acl == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for an access list");
	const int result = acl_set_fd(fd, acl);
	const int reason = errno;
	(void)acl_free(acl);
	if (result == 0)
		return M2_OK;
	return m2_fail(M2_EACCES, why, "results memory cannot be shared with user %u: %s%s", uid,
		strerror(reason),
		reason == EINVAL
			? " (a user namespace, such as PrivateUsers= makes, does not map the user)"
		: reason == EOPNOTSUPP ? " (the results directory must lie in a tmpfs with ACLs)"
				       : "");
}

static enum m2_err size_and_map(int fd, struct m2_segment *s, struct m2_why *why)
{
	int result;
	do
		result = posix_fallocate(fd, 0, (off_t)s->bytes);
	while (result == EINTR);
	if (result != 0)
		return m2_fail(result == ENOSPC ? M2_ENOMEM : M2_EIO, why,
			"results memory of %zu bytes: %s", s->bytes, strerror(result));
	/* MAP_POPULATE: the pages exist, and the step loop shall not take a fault for each */
	s->memory = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (s->memory == MAP_FAILED) {
		s->memory = NULL;
		return m2_fail(M2_ENOMEM, why, "mapping %zu bytes of results: %s", s->bytes,
			strerror(errno));
	}
	return M2_OK;
}

static enum m2_err make_file(struct m2_segment_pool *pool, struct m2_segment *s, struct m2_why *why)
{
	enum m2_err err = fill_name(s->name, why);
	if (err != M2_OK) {
		s->name[0] = '\0';
		return err;
	}
	const int fd = openat(
		pool->directory, s->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		err = m2_fail(errno == ENOSPC ? M2_ENOMEM : M2_EIO, why, "results file: %s",
			strerror(errno));
		s->name[0] = '\0';
		return err;
	}
	err = size_and_map(fd, s, why);
	if (err == M2_OK)
		err = grant(fd, s->uid, why);
	(void)close(fd);
	return err;
}

static enum m2_err make_anonymous(struct m2_segment *s, struct m2_why *why)
{
	s->memory = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (s->memory != MAP_FAILED)
		return M2_OK;
	s->memory = NULL;
	return m2_fail(M2_ENOMEM, why, "%zu bytes of results: %s", s->bytes, strerror(errno));
}

/* ---- life -------------------------------------------------------------------------------------- */

enum m2_err m2_segment_create(struct m2_segment_pool *pool, enum m2_segment_kind kind, uint32_t uid,
	const struct m2_results_shape *shape, size_t private_bytes, struct m2_segment *out,
	struct m2_why *why)
{
	struct m2_segment s = {.uid = uid};
	*out = (struct m2_segment){0};
	enum m2_err err = m2_results_size(shape, &s.bytes, why);
	if (err != M2_OK)
		return err;
	if (!m2_add_size(s.bytes, private_bytes, &s.charged))
		return m2_fail(M2_ELIMIT, why, "the request needs more memory than can be counted");
	err = charge(pool, uid, s.charged, why);
	if (err != M2_OK)
		return err;
	err = kind == M2_SEGMENT_FILE ? make_file(pool, &s, why) : make_anonymous(&s, why);
	if (err != M2_OK) {
		m2_segment_destroy(pool, &s);
		return err;
	}
	m2_results_format(s.memory, s.bytes, shape);
	*out = s;
	return M2_OK;
}

void m2_segment_unmap(struct m2_segment *segment)
{
	if (segment->memory != NULL)
		(void)munmap(segment->memory, segment->bytes);
	segment->memory = NULL;
}

void m2_segment_destroy(struct m2_segment_pool *pool, struct m2_segment *segment)
{
	m2_segment_unmap(segment);
	/* ENOENT is no error: whoever inherits the directory may have cleaned it */
	if (segment->name[0] != '\0')
		(void)unlinkat(pool->directory, segment->name, 0);
	if (segment->charged > 0)
		give_back(pool, segment->uid, segment->charged);
	*segment = (struct m2_segment){0};
}
