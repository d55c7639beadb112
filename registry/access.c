/* access.c - two small tables of kept answers (uid to name and groups, group name to gid), and the
 * decision.
 *
 * A table is searched in full: it is small, and a comparison is nothing beside a look-up.  A full
 * table gives up the answer that is oldest.
 */
#include "registry/access.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT_USERS = 64, KEPT_GROUPS = 128, MAX_GROUPS = 65536, MAX_RECORD = 1 << 20 };

struct kept_user {
	bool used;
	uid_t uid;
	int64_t at_ns;
	char *name;    /* NULL: the host does not know the uid */
	gid_t *groups; /* primary and supplementary */
	int n_groups;
};

struct kept_group {
	bool used;
	char name[33];
	int64_t at_ns;
	bool known;
	gid_t gid;
};

struct m2_access {
	int64_t keep_ns;
	struct kept_user users[KEPT_USERS];
	struct kept_group groups[KEPT_GROUPS];
};

static void drop_user(struct kept_user *u)
{
	free(u->name);
	free(u->groups);
	memset(u, 0, sizeof *u);
}

struct m2_access *m2_access_create(int64_t keep_ns)
{
	struct m2_access *access = calloc(1, sizeof *access);
	if (access != NULL)
		access->keep_ns = keep_ns;
	return access;
}

void m2_access_forget(struct m2_access *access)
{
	for (int i = 0; i < KEPT_USERS; i++)
		drop_user(&access->users[i]);
	memset(access->groups, 0, sizeof access->groups);
}

void m2_access_destroy(struct m2_access **access)
{
	if (*access != NULL)
		m2_access_forget(*access);
	free(*access);
	*access = NULL;
}

/* ---- look-ups ---------------------------------------------------------------------------------- */

/* Call fn with a buffer that grows until it is large enough; its error otherwise. */
static int with_buffer(int (*fn)(void *ctx, char *buffer, size_t size), void *ctx)
{
	int rc = ERANGE;
	for (size_t size = 1024; rc == ERANGE && size <= MAX_RECORD; size *= 4) {
		char *buffer = malloc(size);
		if (buffer == NULL)
			return ENOMEM;
		do
			rc = fn(ctx, buffer, size);
		while (rc == EINTR);
		free(buffer);
	}
	return rc;
}

/* The name service says "no such" in several ways (getpwnam_r(3), NOTES). */
static bool means_absent(int rc)
{
	return rc == 0 || rc == ENOENT || rc == ESRCH || rc == EBADF || rc == EPERM;
}

struct user_query {
	uid_t uid;
	char *name;
	gid_t gid;
};

static int ask_user(void *ctx, char *buffer, size_t size)
{
	struct user_query *q = ctx;
	struct passwd record;
	struct passwd *found = NULL;
	const int rc = getpwuid_r(q->uid, &record, buffer, size, &found);
	if (rc != 0 || found == NULL)
		return rc;
	q->gid = found->pw_gid;
	q->name = strdup(found->pw_name);
	return q->name == NULL ? ENOMEM : 0;
}

static bool list_groups(const char *name, gid_t primary, gid_t **out, int *count)
{
	int room = 32;
	for (;;) {
		gid_t *groups = malloc((size_t)room * sizeof *groups);
		int n = room;
		if (groups == NULL)
			return false;
		if (getgrouplist(name, primary, groups, &n) >= 0) {
			*out = groups;
			*count = n;
			return true;
		}
		free(groups);
		if (room >= MAX_GROUPS)
			return false;
		room = n > room ? n : room * 2;
	}
}

static struct kept_user *find_user(struct m2_access *access, uid_t uid, int64_t now_ns)
{
	struct kept_user *place = &access->users[0];
	for (int i = 0; i < KEPT_USERS; i++) {
		struct kept_user *u = &access->users[i];
		if (u->used && now_ns - u->at_ns >= access->keep_ns)
			drop_user(u);
		if (u->used && u->uid == uid)
			return u;
		if (place->used && (!u->used || u->at_ns < place->at_ns))
			place = u;
	}
	struct user_query q = {.uid = uid};
	const int rc = with_buffer(ask_user, &q);
	drop_user(place);
	place->uid = uid;
	place->at_ns = now_ns;
	place->used = q.name != NULL || means_absent(rc);
	place->name = q.name;
	if (q.name != NULL && !list_groups(q.name, q.gid, &place->groups, &place->n_groups))
		place->used = false; /* known for this once, without groups, and asked again */
	return place;
}

struct group_query {
	const char *name;
	bool known;
	gid_t gid;
};

static int ask_group(void *ctx, char *buffer, size_t size)
{
	struct group_query *q = ctx;
	struct group record;
	struct group *found = NULL;
	const int rc = getgrnam_r(q->name, &record, buffer, size, &found);
	q->known = rc == 0 && found != NULL;
	if (q->known)
		q->gid = found->gr_gid;
	return rc;
}

static const struct kept_group *find_group(
	struct m2_access *access, const char *name, int64_t now_ns)
{
	struct kept_group *place = &access->groups[0];
	for (int i = 0; i < KEPT_GROUPS; i++) {
		struct kept_group *g = &access->groups[i];
		if (g->used && now_ns - g->at_ns >= access->keep_ns)
			memset(g, 0, sizeof *g);
		if (g->used && strcmp(g->name, name) == 0)
			return g;
		if (place->used && (!g->used || g->at_ns < place->at_ns))
			place = g;
	}
	struct group_query q = {.name = name};
	const int rc = with_buffer(ask_group, &q);
	memset(place, 0, sizeof *place);
	(void)snprintf(place->name, sizeof place->name, "%s", name);
	place->at_ns = now_ns;
	place->known = q.known;
	place->gid = q.gid;
	place->used = q.known || means_absent(rc);
	return place;
}

/* ---- the decision ------------------------------------------------------------------------------ */

/* An entry of digits only that fits an id; (uid_t)-1 is nobody's. */
static bool numeric(const char *entry, uint32_t *id)
{
	uint64_t n = 0;
	const char *p = entry;
	for (; *p >= '0' && *p <= '9' && n < UINT32_MAX; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	*id = (uint32_t)n;
	return p != entry && *p == '\0' && n < UINT32_MAX;
}

static bool is_listed_user(const struct kept_user *u, const struct m2_access_list *list)
{
	uint32_t id;
	for (int32_t i = 0; i < list->n_users; i++) {
		if (numeric(list->users[i], &id)
				? id == u->uid
				: u->name != NULL && strcmp(u->name, list->users[i]) == 0)
			return true;
	}
	return false;
}

static bool in_listed_group(struct m2_access *access, const struct kept_user *u, gid_t gid,
	const struct m2_access_list *list, int64_t now_ns)
{
	for (int32_t i = 0; i < list->n_groups; i++) {
		uint32_t wanted;
		if (!numeric(list->groups[i], &wanted)) {
			const struct kept_group *g = find_group(access, list->groups[i], now_ns);
			if (!g->known)
				continue;
			wanted = g->gid;
		}
		if (wanted == gid)
			return true;
		for (int k = 0; k < u->n_groups; k++)
			if (u->groups[k] == wanted)
				return true;
	}
	return false;
}

static void join(char *out, size_t size, const char (*entries)[33], int32_t count)
{
	size_t used = 0;
	out[0] = '\0';
	for (int32_t i = 0; i < count && used < size; i++) {
		const int n =
			snprintf(out + used, size - used, "%s%s", i == 0 ? "" : ", ", entries[i]);
		used += n > 0 ? (size_t)n : 0;
	}
	if (used >= size) /* a long list is cut visibly */
		memcpy(out + size - 4, "...", 4);
}

enum m2_err m2_access_allows(struct m2_access *access, uid_t uid, gid_t gid,
	const struct m2_access_list *list, int64_t now_ns, struct m2_why *why)
{
	char users[160];
	char groups[160];
	if (list->n_users == 0 && list->n_groups == 0)
		return M2_OK;
	const struct kept_user *u = find_user(access, uid, now_ns);
	if (is_listed_user(u, list) || in_listed_group(access, u, gid, list, now_ns))
		return M2_OK;
	join(users, sizeof users, list->users, list->n_users);
	join(groups, sizeof groups, list->groups, list->n_groups);
	const char *name = u->name != NULL ? u->name : "without a name";
	if (list->n_groups == 0)
		return m2_fail(M2_EACCES, why, "user %s (uid %u) is none of the users %s", name,
			(unsigned)uid, users);
	if (list->n_users == 0)
		return m2_fail(M2_EACCES, why, "user %s (uid %u) is in none of the groups %s", name,
			(unsigned)uid, groups);
	return m2_fail(M2_EACCES, why,
		"user %s (uid %u) is none of the users %s and in none of the groups %s", name,
		(unsigned)uid, users, groups);
}
