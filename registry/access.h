/* access.h - may this peer use that list?  Users and groups by the host's name service.
 *
 * The peer is a uid and gid from the kernel.  The lists are names or decimal ids as configuration has
 * them.  Both lists empty: everyone may.  Otherwise the peer must be one of the users, or be in one of
 * the groups: its gid from the kernel, its primary group, or a supplementary one (getgrouplist).
 * An entry of digits is an id.  A name that the host does not know matches nobody.  No uid is special
 * here, root's neither.
 *
 * Look-ups may ask a network (LDAP) and block for as long as that takes; answers, negative ones too,
 * are kept for keep_ns of the clock that the caller passes in.  A look-up that fails is not kept and
 * counts as "not known": access is refused.
 *
 * Threads: one cache belongs to one thread; getpwuid_r and its kin are used.
 */
#ifndef M2_REGISTRY_ACCESS_H
#define M2_REGISTRY_ACCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* Entries are NUL-terminated, as in struct m2_variant and struct m2_daemon_config. */
struct m2_access_list {
	const char (*users)[33];
	int32_t n_users;
	const char (*groups)[33];
	int32_t n_groups;
};

struct m2_access; /* opaque */

/* NULL without memory. */
struct m2_access *m2_access_create(int64_t keep_ns);
void m2_access_destroy(struct m2_access **access);

/* Forget everything that is kept, as on a reload. */
void m2_access_forget(struct m2_access *access);

/* M2_OK, or M2_EACCES and a sentence that says what is missing: "user alice (uid 1001) is in none of the
 * groups a, b". */
enum m2_err m2_access_allows(struct m2_access *access, uid_t uid, gid_t gid,
	const struct m2_access_list *list, int64_t now_ns, struct m2_why *why);

#endif
