/* users.h - what a user may, what they have used, and what they have at the workers now.
 *
 * Limits come from the configuration: the entry of `users` with the user's own name or number, else the first
 * entry of a group that they are in, else default_user; an entry says as much as it says, the rest is the
 * default.  A group's entry holds for each of its members by themselves, as in limits.conf(5).
 *
 * Tokens per minute are a bucket that is filled evenly and holds one minute's worth.  What a request used is
 * taken out when it ends, by whatever reason, so that nothing is estimated; the bucket may be overdrawn
 * then, and new requests are refused until it is not.  Over time the limit is exact.
 *
 * Accounts of users who are gone are kept, at most M2_ACCOUNTS of them: the longest unused goes first.
 * Threads: the supervisor's one.  May block on a look-up of names (registry/access.h).
 */
#ifndef M2_DAEMON_USERS_H
#define M2_DAEMON_USERS_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "common/err.h"
#include "daemon/ipc.h"
#include "daemon/sessions.h"
#include "daemon/supervisor.h"

enum { M2_ACCOUNTS = 4096 };

struct m2_users; /* opaque */

/* NULL without memory. */
struct m2_users *m2_users_create(void);
void m2_users_destroy(struct m2_users **users);

/* What holds for one user, every field given. */
struct m2_user_limits m2_users_limits(struct m2_supervisor *s, uint32_t uid, uint32_t gid);

/* May this request be taken?  EBUSY or ELIMIT, with the limit's name; *retry_ms: when it is worth another
 * try, 0: that is not known. */
enum m2_err m2_users_admit(struct m2_session *x, int64_t *retry_ms, struct m2_why *why);

/* Whether one more of this user's requests may wait where `waiting` of `limit` do, `own` of them theirs: the
 * rule of daemon/waiters.h among those who have work here. */
bool m2_users_may_wait(struct m2_supervisor *s, uint32_t waiting, uint32_t own, int32_t limit);

/* Weight, slots and bytes of states, for the worker. */
void m2_users_put_limits(const struct m2_session *x, struct m2_ipc_request *packet);

/* A request of theirs has ended. */
void m2_users_book(const struct m2_session *x, const struct m2_ipc_finished *finished);

/* A worker's figures of its users; M2_EPROTO if they are of a wrong length. */
enum m2_err m2_users_on_stats(
	struct m2_engine *engine, const struct m2_ipc_packet *packet, struct m2_why *why);

/* "users": a row for each who has or had work here; all = false: only of `uid`. */
void m2_users_put(struct m2_supervisor *s, struct json_object *o, bool all, uint32_t uid);

/* The clock and the bucket by themselves, for tests: what is left at now_ns of a bucket of `limit` tokens per
 * minute that held `level` at then_ns. */
double m2_users_refill(double level, int32_t limit, uint64_t then_ns, uint64_t now_ns);

#endif
