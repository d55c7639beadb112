/* answer.c - see answer.h.  common/PROTOCOL.md says what each event carries. */
#include "client/answer.h"

#include <stdlib.h>
#include <string.h>

#include "client/handle.h"
#include "common/json.h"

static const int64_t largest =
	9007199254740991; /* 2^53 - 1, what every JSON reader keeps exactly */

struct answer {
	struct json_object *object;
	const char *text;
	size_t text_bytes;
	const void *payload;
	size_t payload_bytes;
};

static const char *string_at(struct json_object *object, const char *key)
{
	const char *text = "";
	if (m2_json_get_string(object, key, M2_LIMIT_HEADER_BYTES, &text, NULL, NULL, NULL) !=
		M2_OK)
		return "";
	return text;
}

static int64_t number_at(struct json_object *object, const char *key)
{
	int64_t number = -1;
	if (m2_json_get_int(object, key, 0, largest, &number, NULL, NULL) != M2_OK)
		return -1;
	return number;
}

static struct m2_call *find(mamba2 *m, struct json_object *object)
{
	const int64_t id = number_at(object, "id");
	const char *key = string_at(object, "key");
	struct m2_call *call;
	TAILQ_FOREACH(call, &m->open, open)
	if ((int64_t)call->id == id)
		return strcmp(call->key, key) == 0 ? call : NULL;
	return NULL;
}

static void end_malformed(mamba2 *m, struct m2_call *call, const char *what)
{
	struct m2_why why;
	(void)m2_fail(M2_EPROTO, &why, "the daemon's answer to %s %s", m2_op_name(call->op), what);
	m2_call_end(m, call, M2_EPROTO, &why);
}

static char *copy_bytes(const void *bytes, size_t n)
{
	char *copy = malloc(n + 1);
	if (copy != NULL && n > 0)
		memcpy(copy, bytes, n);
	if (copy != NULL)
		copy[n] = '\0';
	return copy;
}

/* The object under "error" as an error and its sentence; M2_OK when there is none. */
static enum m2_err error_in(struct json_object *object, struct m2_why *why)
{
	struct json_object *error = NULL;
	if (m2_json_get_object(object, "error", &error, NULL, NULL) != M2_OK || error == NULL)
		return M2_OK;
	enum m2_err err = m2_err_from_code(string_at(error, "code"));
	if (err == M2_OK)
		return M2_OK;
	const char *message = string_at(error, "message");
	return m2_fail_field(err, why, string_at(error, "field"), "%s",
		message[0] != '\0' ? message : m2_err_advice(err));
}

static void on_accepted(mamba2 *m, struct m2_call *call, struct json_object *object)
{
	if (call->op != M2_OP_GENERATE && call->op != M2_OP_SCORE) {
		end_malformed(m, call, "is \"accepted\", which it cannot be");
		return;
	}
	if (call->accepted) /* asked twice after a reconnection */
		return;
	const int64_t request = number_at(object, "request");
	const int64_t bytes = number_at(object, "bytes");
	const char *segment = string_at(object, "segment");
	if (request < 1 || bytes < 1 || segment[0] == '\0') {
		end_malformed(m, call, "names no results memory");
		return;
	}
	call->segment = copy_bytes(segment, strlen(segment));
	if (call->segment == NULL) {
		m2_call_end(m, call, M2_ENOMEM, NULL);
		return;
	}
	call->request = (uint64_t)request;
	call->segment_bytes = (uint64_t)bytes;
	call->accepted = true;
	if (call->is_pending) { /* from here on it is asked for, not sent again */
		call->is_pending = false;
		TAILQ_REMOVE(&m->pending, call, pending);
	}
	free(call->payload);
	call->payload = NULL;
	call->payload_bytes = 0;
	if (call->dropped)
		m2_call_notify(m, M2_OP_CANCEL, call);
	(void)pthread_cond_broadcast(&call->changed);
}

static void on_progress(struct m2_call *call, struct json_object *object)
{
	const int64_t done = number_at(object, "done");
	const int64_t total = number_at(object, "total");
	const char *what = string_at(object, "what");
	call->progress++;
	call->done = done < 0 ? 0 : (uint64_t)done;
	call->total = total < 0 ? 0 : (uint64_t)total;
	const size_t length = strnlen(what, sizeof call->what - 1);
	memcpy(call->what, what, length);
	call->what[length] = '\0';
	(void)pthread_cond_broadcast(&call->changed);
}

static void on_finished(mamba2 *m, struct m2_call *call, struct json_object *object)
{
	struct m2_why why = {"", ""};
	const enum m2_err err = error_in(object, &why);
	if (!call->accepted && err == M2_OK)
		end_malformed(m, call, "says that it finished before it was accepted");
	else
		m2_call_end(m, call, err, &why);
}

static void on_result(mamba2 *m, struct m2_call *call, const struct answer *a)
{
	if (call->op == M2_OP_GENERATE || call->op == M2_OP_SCORE) {
		end_malformed(m, call, "is a \"result\", which it cannot be");
		return;
	}
	if (!call->dropped) {
		call->json = copy_bytes(a->text, a->text_bytes);
		call->reply = copy_bytes(a->payload, a->payload_bytes);
		call->reply_bytes = a->payload_bytes;
		if (call->json == NULL || call->reply == NULL) {
			m2_call_end(m, call, M2_ENOMEM, NULL);
			return;
		}
	}
	m2_call_end(m, call, M2_OK, NULL);
}

static void on_error(mamba2 *m, struct m2_call *call, struct json_object *object)
{
	struct m2_why why = {"", ""};
	const enum m2_err err = error_in(object, &why);
	if (err == M2_OK)
		end_malformed(m, call, "is an error without a code");
	else
		m2_call_end(m, call, err, &why);
}

/* The answer to `attach`: what became of another call.  That it runs needs no action: its own closing
 * message follows.  That nobody knows it means that the daemon started anew. */
static void on_attach(mamba2 *m, struct m2_call *attach, struct json_object *object)
{
	struct m2_why why = {"", ""};
	const char *state = string_at(object, "state");
	const uint64_t about = attach->about;
	struct m2_call *call;
	m2_call_end(m, attach, M2_OK, NULL);
	TAILQ_FOREACH(call, &m->open, open)
	if (call->id == about)
		break;
	if (call == NULL)
		return;
	if (strcmp(state, "unknown") == 0) {
		(void)m2_fail(M2_EWORKER, &why,
			"the daemon was restarted while the request ran: send it again");
		m2_call_end(m, call, M2_EWORKER, &why);
	} else if (strcmp(state, "finished") == 0) {
		const enum m2_err err = error_in(object, &why); /* how it ended */
		m2_call_end(m, call, err, &why);
	}
}

void m2_answer_apply(mamba2 *m, const char *header, size_t header_bytes, const void *payload,
	size_t payload_bytes)
{
	struct answer a = {NULL, header, header_bytes, payload, payload_bytes};
	if (m2_json_parse(header, header_bytes, M2_LIMIT_JSON_DEPTH, "answer", &a.object, NULL) !=
		M2_OK)
		return;
	pthread_mutex_lock(&m->lock);
	struct m2_call *call = find(m, a.object);
	const char *event = string_at(a.object, "event");
	if (call == NULL)
		;
	else if (call->op == M2_OP_ATTACH)
		on_attach(m, call, a.object);
	else if (strcmp(event, "accepted") == 0)
		on_accepted(m, call, a.object);
	else if (strcmp(event, "progress") == 0)
		on_progress(call, a.object);
	else if (strcmp(event, "finished") == 0)
		on_finished(m, call, a.object);
	else if (strcmp(event, "result") == 0)
		on_result(m, call, &a);
	else if (strcmp(event, "error") == 0)
		on_error(m, call, a.object);
	else if (strcmp(event, "tokens") != 0)
		end_malformed(m, call, "has no event that this library knows");
	pthread_mutex_unlock(&m->lock);
	json_object_put(a.object);
}
