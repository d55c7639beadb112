/* dispatch.c - one table from op to handler.
 *
 * A request whose key was seen before is not a new one: the answers of the first go to where the second
 * came from, and what was answered already is said again.
 */
#include "daemon/dispatch.h"

#include <assert.h>
#include <string.h>

#include "common/log.h"
#include "daemon/admin.h"
#include "daemon/checks.h"
#include "daemon/inference.h"
#include "daemon/inform.h"
#include "daemon/notify.h"
#include "daemon/reply.h"
#include "daemon/sessions.h"
#include "daemon/who.h"

static void (*const handlers[M2_OP_COUNT])(struct m2_session *session) = {
	[M2_OP_GENERATE] = m2_inference_run,
	[M2_OP_SCORE] = m2_inference_run,
	[M2_OP_TOKENIZE] = m2_inference_run,
	[M2_OP_DETOKENIZE] = m2_inference_run,
	[M2_OP_CANCEL] = m2_inference_cancel,
	[M2_OP_RELEASE] = m2_inference_release,
	[M2_OP_ATTACH] = m2_inform_attach,
	[M2_OP_LIST] = m2_inform_list,
	[M2_OP_SHOW] = m2_inform_show,
	[M2_OP_STATUS] = m2_inform_status,
	[M2_OP_PS] = m2_inform_ps,
	[M2_OP_LOAD] = m2_admin_load,
	[M2_OP_UNLOAD] = m2_admin_unload,
	[M2_OP_REGISTER] = m2_admin_register,
	[M2_OP_REMOVE] = m2_admin_remove,
	[M2_OP_RELOAD] = m2_admin_reload,
	[M2_OP_VERIFY] = m2_checks_verify,
	[M2_OP_DRAIN] = m2_admin_drain,
};

/* Refused before there is a session. */
static void refuse(struct m2_supervisor *s, const struct m2_request *r, enum m2_err err,
	const struct m2_why *why)
{
	char plain[M2_REPLY_PLAIN_BYTES];
	struct m2_ipc_reply reply = {.route = r->route, .uid = r->uid};
	size_t length = 0;
	struct json_object *o = m2_reply_error(r, err, why);
	const char *text = m2_reply_text(o, &length);
	if (text == NULL) {
		length = m2_reply_plain(r, plain);
		text = plain;
	}
	reply.header_bytes = (uint32_t)length;
	(void)m2_child_send(&s->gate, M2_IPC_GATE_REPLY, &reply, text, length);
	json_object_put(o);
}

/* The same request again: from here on it is the second message that is answered. */
static void resume(struct m2_session *x, const struct m2_request *again)
{
	struct m2_why why;
	if (x->request.op != again->op) {
		refuse(x->s, again,
			m2_fail_field(
				M2_EINVAL, &why, "key", "the key was used for another request"),
			&why);
		return;
	}
	m2_session_adopt(x, again);
	x->request.client_id = again->client_id;
	if (x->state == M2_SESSION_ENDED && m2_session_results_gone(x)) {
		refuse(x->s, again,
			m2_fail(M2_ENOENT, &why,
				"this request has ended and its results were released"),
			&why);
		return;
	}
	if (x->accepted)
		m2_session_send_accepted(x);
	if (x->state == M2_SESSION_ENDED && x->answer != NULL) {
		m2_reply_add(x->answer, "id", json_object_new_uint64(again->client_id));
		m2_session_send(x, json_object_get(x->answer), NULL, 0);
	} else if (x->state == M2_SESSION_ENDED) {
		refuse(x->s, again,
			m2_fail(M2_ENOENT, &why, "this request has ended; its answer is not kept"),
			&why);
	}
}

static void dispatch(
	struct m2_supervisor *s, const struct m2_request *r, const void *body, size_t body_bytes)
{
	struct m2_why why;
	struct m2_session *x = m2_session_find_key(s, r->uid, r->key);
	if (x != NULL) {
		resume(x, r);
		return;
	}
	x = m2_session_create(s, r, body, body_bytes);
	if (x == NULL) {
		refuse(s, r, m2_fail(M2_ENOMEM, &why, "out of memory"), &why);
		return;
	}
	const enum m2_err err = m2_who_enters(s, x, &why);
	if (err != M2_OK) {
		s->counters.refused++;
		m2_session_fail(x, err, &why);
		return;
	}
	assert(handlers[r->op] != NULL);
	handlers[r->op](x);
}

enum m2_err m2_dispatch_packet(
	struct m2_supervisor *s, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	if (packet->type == M2_IPC_GATE_READY) {
		const struct m2_ipc_hello *hello = packet->fixed;
		if (hello->version != M2_WIRE_VERSION || hello->generation != s->gate.life)
			return m2_fail(M2_EPROTO, why, "the gate is another version");
		s->gate_spoke = true;
		if (s->gate.ready) /* it says so every second */
			return M2_OK;
		s->gate.ready = true;
		m2_debug("the endpoints answer");
		m2_notify_state(s);
		return M2_OK;
	}
	const struct m2_request *r = packet->fixed;
	if (packet->body_lost) {
		struct m2_why lost;
		refuse(s, r,
			m2_fail(M2_ENOMEM, &lost, "no memory or descriptor to take the prompt"),
			&lost);
		return M2_OK;
	}
	const enum m2_err err = m2_request_check(r, packet->body_bytes, why);
	if (err != M2_OK)
		return err;
	if (m2_op_endpoint((enum m2_op)r->op) == M2_ENDPOINT_CONTROL &&
		r->route.endpoint != M2_ENDPOINT_CONTROL)
		return m2_fail(M2_EPROTO, why, "the gate let %s through the client endpoint",
			m2_op_name((enum m2_op)r->op));
	dispatch(s, r, packet->body, packet->body_bytes);
	return M2_OK;
}
