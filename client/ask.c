/* ask.c - the calls that wait for one answer: tokens and text, listings, and the control endpoint. */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "client/errors.h"
#include "client/handle.h"

/* What an answer leaves behind; malloc'd parts belong to the caller. */
struct answer {
	char *json;
	void *reply;
	size_t reply_bytes;
};

struct question {
	enum m2_op op;
	const void *payload;
	size_t payload_bytes;
	int64_t extra_ms; /* that the daemon may take on top of the handle's timeout */
	mamba2_progress progress;
	void *ctx;
};

static enum mamba2_error ask(
	mamba2 *m, const struct question *q, struct m2_header *header, struct answer *out)
{
	struct m2_call *call = NULL;
	struct m2_why why = {"", ""};
	*out = (struct answer){NULL, NULL, 0};
	const int64_t timeout = m->timeout_ms < 0 ? -1 : m->timeout_ms + q->extra_ms;
	enum m2_err err =
		m2_call_create(m, q->op, header, q->payload, q->payload_bytes, &call, &why);
	if (err == M2_OK) {
		m2_call_submit(m, call);
		err = m2_call_wait(m, call, timeout, q->progress, q->ctx, &why);
		if (err == M2_OK) { /* ended: nobody else touches it */
			*out = (struct answer){call->json, call->reply, call->reply_bytes};
			call->json = NULL;
			call->reply = NULL;
		}
		m2_call_drop(m, &call, false);
	}
	return m2_client_return(err, &why);
}

/* Answers without a payload: the JSON text, if it is wanted. */
static enum mamba2_error ask_json(
	mamba2 *m, const struct question *q, struct m2_header *header, char **json)
{
	struct answer a;
	const enum mamba2_error error = ask(m, q, header, &a);
	free(a.reply);
	if (json != NULL)
		*json = a.json;
	else
		free(a.json);
	return error;
}

static enum mamba2_error ask_about(mamba2 *m, enum m2_op op, const char *model, char **json)
{
	const struct question q = {.op = op};
	struct m2_header header;
	m2_header_begin(&header, op);
	m2_header_text(&header, "model", model);
	return ask_json(m, &q, &header, json);
}

static enum mamba2_error ask_plain(mamba2 *m, enum m2_op op, char **json)
{
	const struct question q = {.op = op};
	struct m2_header header;
	m2_header_begin(&header, op);
	return ask_json(m, &q, &header, json);
}

static enum mamba2_error tokenize(mamba2 *m, const char *model, int form, const char *text,
	size_t bytes, int special, int32_t **ids, size_t *count)
{
	const struct question q = {.op = M2_OP_TOKENIZE,
		.payload = text != NULL ? text : "",
		.payload_bytes = text != NULL ? bytes : 0};
	struct m2_header header;
	struct answer a;
	*ids = NULL;
	*count = 0;
	m2_header_begin(&header, M2_OP_TOKENIZE);
	m2_header_text(&header, "model", model);
	if (form != MAMBA2_FORM_TEXT) /* a daemon of the first version has no such field here */
		m2_header_form(&header, form);
	m2_header_true(&header, "special", special != 0);
	const enum mamba2_error error = ask(m, &q, &header, &a);
	free(a.json);
	if (error == MAMBA2_OK && a.reply_bytes % sizeof **ids != 0) {
		struct m2_why why;
		free(a.reply);
		return m2_client_return(
			m2_fail(M2_EPROTO, &why, "the daemon's token ids are cut off"), &why);
	}
	*ids = a.reply;
	*count = a.reply_bytes / sizeof **ids;
	for (size_t i = 0; i < *count; i++)
		(*ids)[i] = (int32_t)le32toh((uint32_t)(*ids)[i]);
	return error;
}

enum mamba2_error mamba2_tokenize(mamba2 *m, const char *model, const char *text, size_t bytes,
	int special, int32_t **ids, size_t *count)
{
	return tokenize(m, model, MAMBA2_FORM_TEXT, text, bytes, special, ids, count);
}

enum mamba2_error mamba2_tokenize_form(mamba2 *m, const char *model, int form, const char *prompt,
	size_t bytes, int32_t **ids, size_t *count)
{
	return tokenize(m, model, form, prompt, bytes, 0, ids, count);
}

enum mamba2_error mamba2_detokenize(
	mamba2 *m, const char *model, const int32_t *ids, size_t count, char **text, size_t *bytes)
{
	struct question q = {.op = M2_OP_DETOKENIZE};
	struct m2_header header;
	struct answer a;
	struct m2_why why;
	*text = NULL;
	*bytes = 0;
	if (count > M2_LIMIT_PROMPT_TOKENS)
		return m2_client_return(
			m2_fail_field(M2_ELIMIT, &why, "tokens", "%zu tokens, the limit is %d",
				count, M2_LIMIT_PROMPT_TOKENS),
			&why);
	int32_t *wire = malloc(count * sizeof *wire + 1);
	if (wire == NULL)
		return m2_client_return(M2_ENOMEM, NULL);
	for (size_t i = 0; i < count; i++)
		wire[i] = (int32_t)htole32((uint32_t)ids[i]);
	q.payload = wire;
	q.payload_bytes = count * sizeof *wire;
	m2_header_begin(&header, M2_OP_DETOKENIZE);
	m2_header_text(&header, "model", model);
	const enum mamba2_error error = ask(m, &q, &header, &a);
	free(wire);
	free(a.json);
	*text = a.reply; /* the library ends every reply with a NUL of its own */
	*bytes = a.reply_bytes;
	return error;
}

enum mamba2_error mamba2_list(mamba2 *m, char **json)
{
	return ask_plain(m, M2_OP_LIST, json);
}

enum mamba2_error mamba2_show(mamba2 *m, const char *model, char **json)
{
	return ask_about(m, M2_OP_SHOW, model, json);
}

enum mamba2_error mamba2_status(mamba2 *m, char **json)
{
	return ask_plain(m, M2_OP_STATUS, json);
}

enum mamba2_error mamba2_ps(mamba2 *m, char **json)
{
	return ask_plain(m, M2_OP_PS, json);
}

enum mamba2_error mamba2_cancel(mamba2 *m, uint64_t number)
{
	const struct question q = {.op = M2_OP_CANCEL};
	struct m2_header header;
	m2_header_begin(&header, M2_OP_CANCEL);
	m2_header_int(&header, "request", number > INT64_MAX ? 0 : (int64_t)number);
	return ask_json(m, &q, &header, NULL);
}

enum mamba2_error mamba2_load_with(
	mamba2 *m, const char *model, int options, mamba2_progress progress, void *ctx, char **json)
{
	const struct question q = {.op = M2_OP_LOAD, .progress = progress, .ctx = ctx};
	struct m2_header header;
	m2_header_begin(&header, M2_OP_LOAD);
	m2_header_text(&header, "model", model);
	m2_header_true(&header, "dry_run", (options & MAMBA2_LOAD_DRY_RUN) != 0);
	m2_header_true(&header, "pin", (options & MAMBA2_LOAD_PIN) != 0);
	return ask_json(m, &q, &header, json);
}

enum mamba2_error mamba2_load(
	mamba2 *m, const char *model, mamba2_progress progress, void *ctx, char **json)
{
	return mamba2_load_with(m, model, 0, progress, ctx, json);
}

enum mamba2_error mamba2_unload(mamba2 *m, const char *model, int64_t wait_s, char **json)
{
	struct question q = {.op = M2_OP_UNLOAD};
	struct m2_header header;
	m2_header_begin(&header, M2_OP_UNLOAD);
	m2_header_text(&header, "model", model);
	if (wait_s >= 0)
		m2_header_int(&header, "wait_s", wait_s);
	q.extra_ms = header.err == M2_OK && wait_s > 0 ? wait_s * 1000 : 0;
	return ask_json(m, &q, &header, json);
}

enum mamba2_error mamba2_register(
	mamba2 *m, const char *yaml, size_t bytes, const char *source, int replace, char **json)
{
	const struct question q = {.op = M2_OP_REGISTER, .payload = yaml, .payload_bytes = bytes};
	struct m2_header header;
	m2_header_begin(&header, M2_OP_REGISTER);
	if (source != NULL)
		m2_header_text(&header, "source", source);
	m2_header_true(&header, "replace", replace != 0);
	return ask_json(m, &q, &header, json);
}

enum mamba2_error mamba2_verify(
	mamba2 *m, const char *model, int record, mamba2_progress progress, void *ctx, char **json)
{
	const struct question q = {.op = M2_OP_VERIFY, .progress = progress, .ctx = ctx};
	struct m2_header header;
	m2_header_begin(&header, M2_OP_VERIFY);
	m2_header_text(&header, "model", model);
	m2_header_true(&header, "replace", record != 0);
	return ask_json(m, &q, &header, json);
}

enum mamba2_error mamba2_remove(mamba2 *m, const char *model, char **json)
{
	return ask_about(m, M2_OP_REMOVE, model, json);
}

enum mamba2_error mamba2_reload(mamba2 *m, char **json)
{
	return ask_plain(m, M2_OP_RELOAD, json);
}

enum mamba2_error mamba2_drain(mamba2 *m, int64_t wait_s, int stop_daemon, int resume, char **json)
{
	struct question q = {.op = M2_OP_DRAIN};
	struct m2_header header;
	m2_header_begin(&header, M2_OP_DRAIN);
	if (wait_s >= 0)
		m2_header_int(&header, "wait_s", wait_s);
	m2_header_true(&header, "stop_daemon", stop_daemon != 0);
	m2_header_true(&header, "resume", resume != 0);
	q.extra_ms = header.err == M2_OK && wait_s > 0 ? wait_s * 1000 : 0;
	return ask_json(m, &q, &header, json);
}
