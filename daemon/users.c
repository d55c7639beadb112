/* users.c - see users.h.
 *
 * A user's own limits are looked for with every request: the list is short, the name service's answers are
 * kept by registry/access, and a configuration that was read again holds at once.
 */
#include "daemon/users.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/engines.h"
#include "daemon/reply.h"
#include "registry/access.h"

enum { CHAINS = 256 };

struct account {
	struct account *next;
	uint32_t uid;
	uint32_t gid;       /* of their last request */
	double tokens;      /* in the bucket; below 0: overdrawn */
	uint64_t filled_ns; /* when that was so; 0: it is full */
	uint64_t used_ns;
	uint64_t requests; /* that have ended */
	uint64_t prompt_tokens;
	uint64_t generated_tokens;
	uint64_t paused_ns;
	uint64_t refused;
};

/* A worker's last word on its users. */
struct snapshot {
	struct snapshot *next;
	const struct m2_engine *engine;
	uint32_t life;
	uint32_t n;
	struct m2_ipc_user_stats *rows;
};

struct m2_users {
	struct account *chains[CHAINS];
	uint32_t n_accounts;
	struct snapshot *snapshots;
};

struct m2_users *m2_users_create(void)
{
	return calloc(1, sizeof(struct m2_users));
}

void m2_users_destroy(struct m2_users **users)
{
	struct m2_users *u = *users;
	*users = NULL;
	if (u == NULL)
		return;
	for (int i = 0; i < CHAINS; i++)
		for (struct account *a = u->chains[i], *next; a != NULL; a = next) {
			next = a->next;
			free(a);
		}
	for (struct snapshot *p = u->snapshots, *next; p != NULL; p = next) {
		next = p->next;
		free(p->rows);
		free(p);
	}
	free(u);
}

/* ---- accounts ----------------------------------------------------------------------------------- */

static void forget_oldest(struct m2_users *u)
{
	struct account **oldest = NULL;
	for (int i = 0; i < CHAINS; i++)
		for (struct account **at = &u->chains[i]; *at != NULL; at = &(*at)->next)
			if (oldest == NULL || (*at)->used_ns < (*oldest)->used_ns)
				oldest = at;
	if (oldest == NULL)
		return;
	struct account *gone = *oldest;
	*oldest = gone->next;
	free(gone);
	u->n_accounts--;
}

/* NULL without memory: the user then goes uncounted, not unserved. */
static struct account *account_of(const struct m2_session *x)
{
	struct m2_users *u = x->s->accounts;
	const uint32_t uid = x->request.uid;
	struct account **chain = &u->chains[uid % CHAINS];
	struct account *a = *chain;
	while (a != NULL && a->uid != uid)
		a = a->next;
	if (a == NULL) {
		if (u->n_accounts >= M2_ACCOUNTS)
			forget_oldest(u);
		a = calloc(1, sizeof *a);
		if (a == NULL)
			return NULL;
		a->uid = uid;
		a->next = *chain;
		*chain = a;
		u->n_accounts++;
	}
	a->gid = x->request.gid;
	a->used_ns = m2_loop_now();
	return a;
}

double m2_users_refill(double level, int32_t limit, uint64_t then_ns, uint64_t now_ns)
{
	const double full = (double)limit;
	if (then_ns == 0)
		return full;
	const double now = level + full * (double)(now_ns - then_ns) / 60e9;
	return now < full ? now : full;
}

void m2_users_book(const struct m2_session *x, const struct m2_ipc_finished *f)
{
	struct account *a = account_of(x);
	if (a == NULL)
		return;
	a->requests++;
	a->prompt_tokens += f->prompt_tokens;
	a->generated_tokens += f->generated_tokens;
	a->paused_ns += f->paused_ns;
	const int32_t limit =
		m2_users_limits(x->s, x->request.uid, x->request.gid).tokens_per_minute;
	if (limit == 0)
		return;
	const uint64_t now = m2_loop_now();
	a->tokens = m2_users_refill(a->tokens, limit, a->filled_ns, now) -
		    (double)(f->prompt_tokens + f->generated_tokens);
	a->filled_ns = now;
}

/* ---- limits ------------------------------------------------------------------------------------- */

static bool is_entry_of(
	struct m2_supervisor *s, const struct m2_user_limits *entry, uint32_t uid, uint32_t gid)
{
	char name[1][33];
	const bool group = entry->name[0] == '@';
	(void)memcpy(name[0], entry->name + (group ? 1 : 0), 32);
	name[0][32] = '\0';
	const char(*const names)[33] = (const char(*)[33])name;
	const struct m2_access_list list = {.users = names,
		.n_users = group ? 0 : 1,
		.groups = names,
		.n_groups = group ? 1 : 0};
	return m2_access_allows(s->access, uid, gid, &list, (int64_t)m2_loop_now(), NULL) == M2_OK;
}

struct m2_user_limits m2_users_limits(struct m2_supervisor *s, uint32_t uid, uint32_t gid)
{
	const struct m2_daemon_config *c = &s->config;
	const struct m2_user_limits none = {"", M2_USER_DEFAULT, M2_USER_DEFAULT, M2_USER_DEFAULT,
		M2_USER_DEFAULT, M2_USER_DEFAULT};
	const struct m2_user_limits *found = NULL;
	for (int groups = 0; groups < 2 && found == NULL; groups++)
		for (int32_t i = 0; i < c->n_users && found == NULL; i++)
			if ((c->users[i].name[0] == '@') == (groups == 1) &&
				is_entry_of(s, &c->users[i], uid, gid))
				found = &c->users[i];
	struct m2_user_limits l = found != NULL ? *found : none;
	if (l.weight == M2_USER_DEFAULT)
		l.weight = c->default_weight;
	if (l.slots == M2_USER_DEFAULT)
		l.slots = c->default_slots;
	if (l.requests == M2_USER_DEFAULT)
		l.requests = c->requests_per_user;
	if (l.tokens_per_minute == M2_USER_DEFAULT)
		l.tokens_per_minute = c->default_tokens_per_minute;
	if (l.state_bytes == M2_USER_DEFAULT)
		l.state_bytes = c->default_state_bytes;
	return l;
}

void m2_users_put_limits(const struct m2_session *x, struct m2_ipc_request *packet)
{
	const struct m2_user_limits l = m2_users_limits(x->s, x->request.uid, x->request.gid);
	packet->weight = (uint32_t)l.weight;
	packet->slots = l.slots;
	packet->state_bytes = (uint64_t)l.state_bytes;
}

/* Seconds until the bucket has a token again. */
static int64_t wait_of(const struct account *a, int32_t limit, uint64_t now)
{
	const double level = m2_users_refill(a->tokens, limit, a->filled_ns, now);
	return level >= 1 ? 0 : (int64_t)((1 - level) * 60e3 / (double)limit) + 1;
}

static enum m2_err check_limits(struct m2_session *x, int64_t *retry_ms, struct m2_why *why)
{
	struct m2_supervisor *s = x->s;
	const struct m2_user_limits l = m2_users_limits(s, x->request.uid, x->request.gid);
	const struct account *a = account_of(x);
	const bool works = x->request.op == M2_OP_GENERATE || x->request.op == M2_OP_SCORE;
	if (x->user->running >= l.requests)
		return m2_fail_field(M2_EBUSY, why, "requests_per_user",
			"user %u has %d requests under way, and may have %d (requests_per_user)",
			x->request.uid, x->user->running, l.requests);
	if (!works)
		return M2_OK;
	if (l.slots > 0 && x->request.n > l.slots)
		return m2_fail_field(M2_ELIMIT, why, "n",
			"n is %d, and user %u may run %d sequences at once (slots)", x->request.n,
			x->request.uid, l.slots);
	*retry_ms = l.tokens_per_minute > 0 && a != NULL
			    ? wait_of(a, l.tokens_per_minute, m2_loop_now())
			    : 0;
	if (*retry_ms == 0)
		return M2_OK;
	return m2_fail_field(M2_EBUSY, why, "tokens_per_minute",
		"user %u has used what %d tokens per minute allow: try again in %.1f s",
		x->request.uid, l.tokens_per_minute, (double)*retry_ms / 1000);
}

enum m2_err m2_users_admit(struct m2_session *x, int64_t *retry_ms, struct m2_why *why)
{
	*retry_ms = 0;
	const enum m2_err err = check_limits(x, retry_ms, why);
	struct account *a = err != M2_OK ? account_of(x) : NULL;
	if (a != NULL)
		a->refused++;
	return err;
}

bool m2_users_may_wait(struct m2_supervisor *s, uint32_t waiting, uint32_t own, int32_t limit)
{
	uint32_t users = 0;
	if (limit <= 0)
		return false;
	if (waiting < (uint32_t)limit || own == 0)
		return true;
	M2_LIST_EACH(&s->users, at)
	users += M2_LIST_OF(at, struct m2_user, link)->running > 0;
	return own < (uint32_t)limit / (users > 0 ? users : 1);
}

/* ---- what workers say --------------------------------------------------------------------------- */

enum m2_err m2_users_on_stats(
	struct m2_engine *engine, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_users *head = packet->fixed;
	struct m2_users *u = engine->s->accounts;
	struct snapshot *p = u->snapshots;
	if (packet->body_bytes != head->n_users * sizeof(struct m2_ipc_user_stats))
		return m2_fail(M2_EPROTO, why, "figures of users of wrong length");
	struct m2_ipc_user_stats *rows = malloc(packet->body_bytes > 0 ? packet->body_bytes : 1);
	while (p != NULL && p->engine != engine)
		p = p->next;
	if (p == NULL && (p = calloc(1, sizeof *p)) != NULL) {
		p->engine = engine;
		p->next = u->snapshots;
		u->snapshots = p;
	}
	if (rows == NULL || p == NULL) {
		free(rows);
		return M2_OK; /* figures are not worth more */
	}
	if (packet->body_bytes > 0)
		memcpy(rows, packet->body, packet->body_bytes);
	free(p->rows);
	p->rows = rows;
	p->n = head->n_users;
	p->life = engine->child.life;
	return M2_OK;
}

static struct m2_ipc_user_stats now_of(const struct m2_users *u, uint32_t uid)
{
	struct m2_ipc_user_stats sum = {.uid = uid};
	for (const struct snapshot *p = u->snapshots; p != NULL; p = p->next) {
		if (!p->engine->child.ready || p->engine->child.life != p->life)
			continue; /* another process: what the old one said is no more */
		for (uint32_t i = 0; i < p->n; i++) {
			if (p->rows[i].uid != uid)
				continue;
			sum.queued += p->rows[i].queued;
			sum.running += p->rows[i].running;
			sum.paused += p->rows[i].paused;
			sum.slots += p->rows[i].slots;
			sum.slot_bytes += p->rows[i].slot_bytes;
			sum.paused_bytes += p->rows[i].paused_bytes;
			sum.prompt_tokens += p->rows[i].prompt_tokens;
			sum.generated_tokens += p->rows[i].generated_tokens;
			sum.work += p->rows[i].work;
		}
	}
	return sum;
}

static void put_user(struct m2_supervisor *s, struct json_object *rows, const struct account *a)
{
	struct json_object *o = json_object_new_object();
	const struct m2_ipc_user_stats now = now_of(s->accounts, a->uid);
	const struct m2_user_limits l = m2_users_limits(s, a->uid, a->gid);
	m2_reply_u64(o, "uid", a->uid);
	m2_reply_int(o, "weight", l.weight);
	m2_reply_int(o, "queued", now.queued);
	m2_reply_int(o, "running", now.running);
	m2_reply_int(o, "paused", now.paused);
	m2_reply_int(o, "slots", now.slots);
	m2_reply_int(o, "slots_limit", l.slots);
	m2_reply_u64(o, "slot_bytes", now.slot_bytes);
	m2_reply_u64(o, "paused_bytes", now.paused_bytes);
	m2_reply_int(o, "state_bytes_limit", l.state_bytes);
	/* of what runs too, since the workers know the user; below: of what has ended */
	m2_reply_u64(o, "served_tokens", now.prompt_tokens + now.generated_tokens);
	m2_reply_u64(o, "served_work", now.work);
	m2_reply_u64(o, "finished", a->requests);
	m2_reply_u64(o, "refused", a->refused);
	m2_reply_u64(o, "prompt_tokens", a->prompt_tokens);
	m2_reply_u64(o, "generated_tokens", a->generated_tokens);
	m2_reply_seconds(o, "paused_s", (float)((double)a->paused_ns / 1e9));
	m2_reply_int(o, "tokens_per_minute", l.tokens_per_minute);
	if (l.tokens_per_minute > 0)
		m2_reply_int(o, "tokens_left",
			(int64_t)m2_users_refill(
				a->tokens, l.tokens_per_minute, a->filled_ns, m2_loop_now()));
	m2_reply_append(rows, o);
}

void m2_users_put(struct m2_supervisor *s, struct json_object *o, bool all, uint32_t uid)
{
	struct json_object *rows = json_object_new_array();
	for (int i = 0; i < CHAINS; i++)
		for (const struct account *a = s->accounts->chains[i]; a != NULL; a = a->next)
			if (all || a->uid == uid)
				put_user(s, rows, a);
	m2_reply_add(o, "users", rows);
}
