/* reply.c - see reply.h.  Numbers that JSON cannot say (NaN, infinity) become null. */
#include "daemon/reply.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/num.h"
#include "common/results.h"
#include "common/utf8.h"

/* Its key in hexadecimal digits, "" if it has none. */
static void key_text(const struct m2_request *r, char out[2 * M2_LIMIT_KEY_BYTES + 1])
{
	static const uint8_t none[M2_LIMIT_KEY_BYTES];
	out[0] = '\0';
	for (size_t i = 0; memcmp(r->key, none, sizeof none) != 0 && i < M2_LIMIT_KEY_BYTES; i++)
		(void)snprintf(out + 2 * i, 3, "%02x", r->key[i]);
}

/* json-c asserts that what it adds to is there, and writes what it has no memory for as null.  So every
 * addition comes through here, and an answer that lacks something is known: a thread builds one answer
 * after the other, and what was missing in one is told by the next m2_reply_text. */
static _Thread_local bool incomplete;

void m2_reply_add(struct json_object *o, const char *name, struct json_object *value)
{
	if (o != NULL && value != NULL && json_object_object_add(o, name, value) == 0)
		return;
	json_object_put(value);
	incomplete = true;
}

void m2_reply_append(struct json_object *array, struct json_object *value)
{
	if (array != NULL && value != NULL && json_object_array_add(array, value) == 0)
		return;
	json_object_put(value);
	incomplete = true;
}

const char *m2_reply_text(struct json_object *o, size_t *length)
{
	const int flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
	const char *text = o != NULL ? json_object_to_json_string_length(o, flags, length) : NULL;
	const bool whole = text != NULL && !incomplete && *length > 1 && text[*length - 1] == '}';
	incomplete = false;
	return whole ? text : NULL;
}

size_t m2_reply_plain(const struct m2_request *r, char out[M2_REPLY_PLAIN_BYTES])
{
	char key[2 * M2_LIMIT_KEY_BYTES + 1];
	key_text(r, key);
	const int n = snprintf(out, M2_REPLY_PLAIN_BYTES,
		"{\"id\":%llu%s%s%s,\"event\":\"error\",\"error\":{\"code\":\"%s\",\"number\":%d,"
		"\"field\":\"\",\"message\":\"the daemon has no memory for an answer\"}}",
		(unsigned long long)r->client_id, key[0] != '\0' ? ",\"key\":\"" : "", key,
		key[0] != '\0' ? "\"" : "", m2_err_code(M2_ENOMEM), (int)M2_ENOMEM);
	return n > 0 && n < (int)M2_REPLY_PLAIN_BYTES ? (size_t)n : 0;
}

void m2_reply_string(struct json_object *o, const char *name, const char *value)
{
	m2_reply_add(o, name, json_object_new_string(value));
}

void m2_reply_int(struct json_object *o, const char *name, int64_t value)
{
	m2_reply_add(o, name, json_object_new_int64(value));
}

void m2_reply_u64(struct json_object *o, const char *name, uint64_t value)
{
	m2_reply_add(o, name, json_object_new_uint64(value));
}

void m2_reply_bool(struct json_object *o, const char *name, bool value)
{
	m2_reply_add(o, name, json_object_new_boolean(value));
}

/* NULL, which is JSON's null, for what is no number. */
static void append_float(struct json_object *array, float value)
{
	char text[32];
	/* nine digits give every float back exactly; json-c's own seventeen are noise */
	(void)snprintf(text, sizeof text, "%.9g", (double)value);
	if (isfinite(value))
		m2_reply_append(array, json_object_new_double_s((double)value, text));
	else if (array != NULL)
		(void)json_object_array_add(array, NULL);
}

void m2_reply_seconds(struct json_object *o, const char *name, float value)
{
	char text[48];
	(void)snprintf(text, sizeof text, "%.3f", (double)value);
	m2_reply_add(o, name, json_object_new_double_s((double)value, text));
}

struct json_object *m2_reply_new(const struct m2_request *r, const char *event)
{
	char key[2 * M2_LIMIT_KEY_BYTES + 1];
	struct json_object *o = json_object_new_object();
	m2_reply_u64(o, "id", r->client_id);
	key_text(r, key);
	if (key[0] != '\0')
		m2_reply_string(o, "key", key);
	m2_reply_string(o, "event", event);
	return o;
}

struct json_object *m2_reply_error_object(enum m2_err err, const struct m2_why *why)
{
	struct json_object *o = json_object_new_object();
	m2_reply_string(o, "code", m2_err_code(err));
	m2_reply_int(o, "number", err);
	m2_reply_string(o, "field", why->field);
	m2_reply_string(o, "message",
		m2_utf8_valid(why->text, strlen(why->text)) ? why->text : m2_err_advice(err));
	return o;
}

struct json_object *m2_reply_error(
	const struct m2_request *r, enum m2_err err, const struct m2_why *why)
{
	struct json_object *o = m2_reply_new(r, "error");
	m2_reply_add(o, "error", m2_reply_error_object(err, why));
	return o;
}

void m2_reply_put_accepted(
	struct json_object *o, const struct m2_ipc_accepted *a, const char *segment)
{
	m2_reply_u64(o, "request", a->request);
	m2_reply_u64(o, "prompt_tokens", a->prompt_tokens);
	if (segment != NULL) {
		m2_reply_string(o, "segment", segment);
		m2_reply_u64(o, "bytes", a->bytes);
	}
}

const char *m2_reply_finish_name(uint32_t finish)
{
	static const char *const names[] = {[M2_FINISH_RUNNING] = "running",
		[M2_FINISH_STOP_TOKEN] = "stop_token",
		[M2_FINISH_STOP_STRING] = "stop_string",
		[M2_FINISH_LENGTH] = "length",
		[M2_FINISH_CANCELLED] = "cancelled",
		[M2_FINISH_DEADLINE] = "deadline",
		[M2_FINISH_ERROR] = "error"};
	return finish < sizeof names / sizeof names[0] ? names[finish] : "error";
}

static struct json_object *new_sequence(const struct m2_ipc_sequence_end *end)
{
	struct json_object *o = json_object_new_object();
	m2_reply_u64(o, "tokens", end->tokens);
	m2_reply_string(o, "finish", m2_reply_finish_name(end->finish));
	if (end->finish == M2_FINISH_STOP_TOKEN)
		m2_reply_int(o, "stop_token", end->stop_token);
	if (end->finish == M2_FINISH_STOP_STRING)
		m2_reply_int(o, "stop_string", end->stop_string);
	return o;
}

void m2_reply_put_finished(struct json_object *o, const struct m2_ipc_finished *f)
{
	struct json_object *sequences = json_object_new_array();
	struct json_object *timings = json_object_new_object();
	m2_reply_u64(o, "request", f->request);
	if (f->err != M2_OK) {
		struct m2_why why = f->why;
		why.field[sizeof why.field - 1] = '\0';
		why.text[sizeof why.text - 1] = '\0';
		m2_reply_add(
			o, "error", m2_reply_error_object(m2_err_from_number((long)f->err), &why));
	}
	m2_reply_u64(o, "prompt_tokens", f->prompt_tokens);
	m2_reply_u64(o, "generated_tokens", f->generated_tokens);
	m2_reply_u64(o, "seed", f->seed);
	for (uint32_t i = 0; i < f->n_sequences && i < M2_LIMIT_COMPLETIONS; i++)
		m2_reply_append(sequences, new_sequence(&f->ends[i]));
	m2_reply_add(o, "sequences", sequences);
	m2_reply_u64(timings, "queue_ns", f->queue_ns);
	m2_reply_u64(timings, "first_ns", f->first_ns);
	m2_reply_u64(timings, "total_ns", f->total_ns);
	m2_reply_u64(timings, "engine_ns", f->engine_ns);
	m2_reply_u64(timings, "paused_ns", f->paused_ns);
	m2_reply_u64(timings, "pauses", f->pauses);
	m2_reply_add(o, "timings", timings);
}

enum m2_err m2_reply_put_tokens(struct json_object *o, const struct m2_ipc_tokens *t,
	const void *body, size_t body_bytes, struct m2_why *why)
{
	const char *at = body;
	size_t expected = t->text_bytes;
	if (!m2_add_mul_size(&expected, t->count, t->has_logprobs != 0 ? 8 : 4) ||
		expected != body_bytes)
		return m2_fail(M2_EPROTO, why, "a tokens packet of wrong length");
	struct json_object *tokens = json_object_new_array();
	m2_reply_u64(o, "request", t->request);
	m2_reply_u64(o, "sequence", t->sequence);
	m2_reply_u64(o, "first", t->first);
	for (uint32_t i = 0; i < t->count; i++, at += 4) {
		int32_t id;
		memcpy(&id, at, sizeof id);
		m2_reply_append(tokens, json_object_new_int(id));
	}
	m2_reply_add(o, "tokens", tokens);
	if (t->has_logprobs != 0) {
		struct json_object *logprobs = json_object_new_array();
		for (uint32_t i = 0; i < t->count; i++, at += 4) {
			float value;
			memcpy(&value, at, sizeof value);
			append_float(logprobs, value);
		}
		m2_reply_add(o, "logprobs", logprobs);
	}
	/* whole characters only is the worker's promise; a broken one must not break the JSON */
	if (m2_utf8_valid(at, t->text_bytes))
		m2_reply_add(o, "text", json_object_new_string_len(at, (int)t->text_bytes));
	return M2_OK;
}

void m2_reply_bounded(struct json_object *o, const char *name, const char *text, size_t size)
{
	const size_t length = strnlen(text, size);
	if (m2_utf8_valid(text, length))
		m2_reply_add(o, name, json_object_new_string_len(text, (int)length));
}

void m2_reply_put_loaded(struct json_object *o, const struct m2_ipc_loaded *l)
{
	struct json_object *c = json_object_new_object();
	struct json_object *f = json_object_new_object();
	const struct m2_model_desc *d = &l->desc;
	m2_reply_bounded(c, "dialect", l->dialect, sizeof l->dialect);
	m2_reply_bounded(c, "container", l->container, sizeof l->container);
	m2_reply_u64(c, "parameters", l->parameters);
	m2_reply_int(c, "hidden_size", d->hidden_size);
	m2_reply_int(c, "layers", d->n_layers);
	m2_reply_int(c, "heads", d->n_heads);
	m2_reply_int(c, "head_dim", d->head_dim);
	m2_reply_int(c, "state_size", d->state_size);
	m2_reply_int(c, "groups", d->n_groups);
	m2_reply_int(c, "conv_kernel", d->conv_kernel);
	m2_reply_int(c, "norm_groups", d->norm_groups);
	m2_reply_int(c, "vocab_rows", d->vocab_rows);
	m2_reply_int(c, "vocab_size", l->vocab_size);
	m2_reply_int(c, "tokenizer_size", l->tokenizer_size);
	m2_reply_bounded(c, "tokenizer", l->tokenizer, sizeof l->tokenizer);
	m2_reply_bounded(c, "template", l->template, sizeof l->template);
	m2_reply_add(o, "checkpoint", c);
	m2_reply_bounded(o, "weights", l->weights, sizeof l->weights);
	m2_reply_bounded(o, "path", l->path, sizeof l->path);
	if (l->runs[0] != '\0')
		m2_reply_bounded(o, "runs", l->runs, sizeof l->runs);
	m2_reply_u64(o, "load_ms", l->load_ms);
	m2_reply_u64(f, "weights", l->footprint.weights);
	m2_reply_u64(f, "state", l->footprint.state);
	m2_reply_u64(f, "workspace", l->footprint.workspace);
	m2_reply_u64(f, "per_slot", l->footprint.per_slot);
	m2_reply_u64(f, "host", l->host);
	m2_reply_u64(
		f, "total", l->footprint.weights + l->footprint.state + l->footprint.workspace);
	if (l->measured > 0)
		m2_reply_u64(f, "measured", l->measured);
	m2_reply_add(o, "footprint", f);
}
