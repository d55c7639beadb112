/* who.h - may this user do that: the configuration's and the variants' lists, asked of registry/access.
 *
 * Administrators are root, the daemon's own user, and whoever the configuration names.  They may use
 * every variant.  Threads: the supervisor's one.  A question about names reads the account database, which
 * may block where it lies on a network; answers are kept for half a minute.
 */
#ifndef M2_DAEMON_WHO_H
#define M2_DAEMON_WHO_H

#include <stdbool.h>

#include "common/err.h"
#include "daemon/sessions.h"
#include "daemon/supervisor.h"

enum m2_err m2_who_init(struct m2_supervisor *s, struct m2_why *why);
void m2_who_finish(struct m2_supervisor *s);

/* May it speak here at all: client users on the client endpoint, administrators on the control one.
 * M2_EACCES says what is missing. */
enum m2_err m2_who_enters(
	struct m2_supervisor *s, const struct m2_session *session, struct m2_why *why);

bool m2_who_admin(struct m2_supervisor *s, const struct m2_session *session);

/* M2_OK or M2_EACCES, field "model". */
enum m2_err m2_who_uses(struct m2_supervisor *s, const struct m2_session *session,
	const struct m2_variant *v, struct m2_why *why);

/* What was remembered is asked again: the configuration changed. */
void m2_who_forget(struct m2_supervisor *s);

#endif
