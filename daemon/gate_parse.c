/* gate_parse.c - one generic checker driven by common/fields.def, one table of where values go.
 *
 * A header is taken key by key: is it a field at all, does this op take it, has it the type, is it in
 * range.  Only then is it stored.  Rules between fields (a payload that must be there, logits that
 * cannot travel as messages) follow at the end.  Duplicate keys, depth, invalid UTF-8 and NUL are
 * refused by common/json.c before any of this.
 */
#include "daemon/gate_parse.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/utf8.h"
#include "daemon/gate_check.h"

enum target {       /* how a value is stored */
	TO_NOTHING, /* has been looked at already */
	TO_U64,
	TO_I64,
	TO_I32,
	TO_F32,
	TO_FLAG,
	TO_TEXT, /* NAME or STRING into a char array with room for the maximum */
	TO_KEY,  /* 32 hex digits to 16 bytes */
	TO_INPUT,
	TO_STREAM,
	TO_STOP_TOKENS,
	TO_STOP,
	TO_BIAS,
	TO_PRIORITY
};

struct place {
	const char *field;
	enum target target;
	size_t offset;
	uint32_t bit; /* of `set`, or the flag */
};

#define AT(member) offsetof(struct m2_request, member)
static const struct place places[] = {
	{"v", TO_NOTHING, 0, 0},
	{"op", TO_NOTHING, 0, 0},
	{"id", TO_U64, AT(client_id), 0},
	{"key", TO_KEY, AT(key), 0},
	{"model", TO_TEXT, AT(model), 0},
	{"input", TO_INPUT, 0, 0},
	{"special", TO_FLAG, 0, M2_REQUEST_SPECIAL},
	{"max_tokens", TO_I32, AT(sampling.max_tokens), M2_SET_MAX_TOKENS},
	{"n", TO_I32, AT(n), 0},
	{"temperature", TO_F32, AT(sampling.temperature), M2_SET_TEMPERATURE},
	{"top_k", TO_I32, AT(sampling.top_k), M2_SET_TOP_K},
	{"top_p", TO_F32, AT(sampling.top_p), M2_SET_TOP_P},
	{"min_p", TO_F32, AT(sampling.min_p), M2_SET_MIN_P},
	{"repetition_penalty", TO_F32, AT(sampling.repetition_penalty), M2_SET_REPETITION},
	{"presence_penalty", TO_F32, AT(sampling.presence_penalty), M2_SET_PRESENCE},
	{"frequency_penalty", TO_F32, AT(sampling.frequency_penalty), M2_SET_FREQUENCY},
	{"logit_bias", TO_BIAS, 0, 0},
	{"seed", TO_U64, AT(sampling.seed), M2_SET_SEED},
	{"stop_tokens", TO_STOP_TOKENS, 0, M2_SET_STOP_TOKENS},
	{"stop", TO_STOP, 0, 0},
	{"ignore_eos", TO_FLAG, 0, M2_REQUEST_IGNORE_EOS},
	{"logprobs", TO_I32, AT(logprobs), 0},
	{"echo", TO_FLAG, 0, M2_REQUEST_ECHO},
	{"logits", TO_FLAG, 0, M2_REQUEST_LOGITS},
	{"deadline_ms", TO_I64, AT(deadline_ms), 0},
	{"priority", TO_PRIORITY, 0, 0},
	{"stream", TO_STREAM, 0, 0},
	{"request", TO_U64, AT(request), 0},
	{"target", TO_KEY, AT(target), 0},
	{"source", TO_TEXT, AT(source), 0},
	{"replace", TO_FLAG, 0, M2_REQUEST_REPLACE},
	{"wait_s", TO_I64, AT(wait_s), 0},
	{"stop_daemon", TO_FLAG, 0, M2_REQUEST_STOP_DAEMON},
	{"dry_run", TO_FLAG, 0, M2_REQUEST_DRY_RUN},
	{"pin", TO_FLAG, 0, M2_REQUEST_PIN},
	{"resume", TO_FLAG, 0, M2_REQUEST_RESUME},
};
#undef AT

/* What one message becomes, while it is being read. */
struct parse {
	struct m2_request *r;
	struct json_object *bias; /* borrowed from the header; copied into the body at the end */
	struct json_object *stop;
	struct m2_why *why;
};

/* ---- storing ------------------------------------------------------------------------------------ */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum m2_err store_key(const char *field, const char *text, uint8_t *out, struct m2_why *why)
{
	bool zero = true;
	for (int i = 0; i < M2_LIMIT_KEY_BYTES; i++) {
		const int high = hex_digit(text[2 * i]);
		const int low = hex_digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return m2_fail_field(
				M2_EINVAL, why, field, "%s is not 32 lower-case hex digits", field);
		out[i] = (uint8_t)(high * 16 + low);
		zero = zero && out[i] == 0;
	}
	return zero ? m2_fail_field(M2_EINVAL, why, field, "%s may not be all zeros", field)
		    : M2_OK;
}

/* A word and what it stands for; the first is the default. */
struct word {
	const char *text;
	uint32_t value;
};
static const struct word inputs[] = {{"text", 0}, {"tokens", M2_REQUEST_TOKENS},
	{"chat", M2_REQUEST_CHAT}, {"fill", M2_REQUEST_FILL}, {NULL, 0}};
static const struct word priorities[] = {{"normal", M2_PRIORITY_NORMAL}, {"low", M2_PRIORITY_LOW},
	{"high", M2_PRIORITY_HIGH}, {NULL, 0}};
static const struct word streams[] = {{"memory", 0}, {"messages", M2_REQUEST_MESSAGES}, {NULL, 0}};

/* The word's value is added to *to. */
static enum m2_err store_word(const char *field, const char *text, const struct word *words,
	uint32_t *to, struct parse *p)
{
	for (const struct word *w = words; w->text != NULL; w++)
		if (strcmp(text, w->text) == 0) {
			*to |= w->value;
			return M2_OK;
		}
	return m2_fail_field(M2_EINVAL, p->why, field,
		"%s is \"%.16s\", which is not one of its words (\"%s\", \"%s\" ...)", field, text,
		words[0].text, words[1].text);
}

static void store_stop_tokens(struct parse *p, struct json_object *value)
{
	struct m2_sampling *s = &p->r->sampling;
	s->n_stop_tokens = (int32_t)json_object_array_length(value);
	for (int32_t i = 0; i < s->n_stop_tokens; i++)
		s->stop_tokens[i] =
			(int32_t)json_object_get_int64(json_object_array_get_idx(value, (size_t)i));
}

static enum m2_err store(struct parse *p, const struct place *at, struct json_object *value)
{
	char *to = (char *)p->r + at->offset;
	int64_t n = 0;
	double d = 0;
	switch (at->target) {
	case TO_NOTHING:
		return M2_OK;
	case TO_U64: /* unsigned and signed share their bytes here: the range is 0..2^53 */
	case TO_I64:
		(void)m2_json_as_int(value, &n);
		memcpy(to, &n, sizeof n);
		break;
	case TO_I32:
		(void)m2_json_as_int(value, &n);
		memcpy(to, &(int32_t){(int32_t)n}, sizeof(int32_t));
		break;
	case TO_F32:
		(void)m2_json_as_double(value, &d);
		memcpy(to, &(float){(float)d}, sizeof(float));
		break;
	case TO_FLAG:
		if (json_object_get_boolean(value))
			p->r->flags |= at->bit;
		return M2_OK;
	case TO_TEXT:
		memcpy(to, json_object_get_string(value),
			(size_t)json_object_get_string_len(value) + 1);
		return M2_OK;
	case TO_KEY:
		return store_key(at->field, json_object_get_string(value), (uint8_t *)to, p->why);
	case TO_INPUT:
		return store_word(
			at->field, json_object_get_string(value), inputs, &p->r->flags, p);
	case TO_STREAM:
		return store_word(
			at->field, json_object_get_string(value), streams, &p->r->flags, p);
	case TO_PRIORITY: {
		uint32_t priority = 0;
		const enum m2_err err = store_word(
			at->field, json_object_get_string(value), priorities, &priority, p);
		p->r->priority = (int32_t)priority;
		return err;
	}
	case TO_STOP_TOKENS:
		store_stop_tokens(p, value);
		break;
	case TO_STOP:
		p->stop = value;
		return M2_OK;
	case TO_BIAS:
		p->bias = value;
		return M2_OK;
	}
	p->r->set |= at->bit;
	return M2_OK;
}

static const struct place *find_place(const char *field)
{
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
		if (strcmp(places[i].field, field) == 0)
			return &places[i];
	return NULL;
}

static enum m2_err take_field(struct parse *p, const char *name, struct json_object *value)
{
	const struct m2_field *f = m2_wire_field(name);
	const struct place *at = find_place(name);
	if (f == NULL || at == NULL)
		return m2_fail_field(M2_EINVAL, p->why, name, "\"%.32s\" is not a field", name);
	if ((f->ops >> p->r->op & 1) == 0)
		return m2_fail_field(M2_EINVAL, p->why, name, "%s takes no \"%s\"",
			m2_op_name((enum m2_op)p->r->op), f->name);
	const enum m2_err err = m2_gate_check_value(f, value, p->why);
	return err == M2_OK ? store(p, at, value) : err;
}

/* ---- the header as a whole ---------------------------------------------------------------------- */

/* id and key first, leniently: even the refusal of everything else should reach who asked. */
static void take_identity(struct parse *p, struct json_object *header)
{
	static const char *const names[] = {"id", "key"};
	struct json_object *value;
	for (size_t i = 0; i < 2; i++) {
		if (!json_object_object_get_ex(header, names[i], &value) ||
			m2_gate_check_value(m2_wire_field(names[i]), value, NULL) != M2_OK)
			continue;
		struct parse quiet = {.r = p->r};
		if (store(&quiet, find_place(names[i]), value) != M2_OK)
			memset(p->r->key, 0, sizeof p->r->key);
	}
}

static enum m2_err take_op(struct parse *p, struct json_object *header, enum m2_endpoint endpoint)
{
	struct json_object *value;
	int64_t version;
	if (!json_object_object_get_ex(header, "v", &value) || !m2_json_as_int(value, &version) ||
		version != M2_WIRE_VERSION)
		return m2_fail_field(M2_EPROTO, p->why, "v",
			"v must be %d: this daemon speaks no other version", M2_WIRE_VERSION);
	if (!json_object_object_get_ex(header, "op", &value) ||
		!json_object_is_type(value, json_type_string))
		return m2_fail_field(M2_EINVAL, p->why, "op", "op is missing");
	const enum m2_op op = m2_op_from_name(json_object_get_string(value));
	if (op == M2_OP_NONE)
		return m2_fail_field(M2_EINVAL, p->why, "op", "\"%.16s\" is not a request",
			json_object_get_string(value));
	if (m2_op_endpoint(op) == M2_ENDPOINT_CONTROL && endpoint != M2_ENDPOINT_CONTROL)
		return m2_fail_field(M2_EACCES, p->why, "op",
			"%s is for administrators: send it to the control endpoint (%s)",
			m2_op_name(op), M2_SOCKET_CONTROL);
	p->r->op = (uint32_t)op;
	return M2_OK;
}

static bool key_given(const uint8_t *key)
{
	static const uint8_t zero[M2_LIMIT_KEY_BYTES];
	return memcmp(key, zero, sizeof zero) != 0;
}

/* What must be there, and what excludes what. */
static enum m2_err check_together(struct parse *p, const char *payload, size_t payload_bytes)
{
	struct m2_request *r = p->r;
	const uint32_t op = r->op;
	const char *missing = NULL;
	const bool long_running = op == M2_OP_GENERATE || op == M2_OP_SCORE;
	const bool takes_payload = long_running || op == M2_OP_TOKENIZE || op == M2_OP_DETOKENIZE ||
				   op == M2_OP_REGISTER;
	if (long_running && !key_given(r->key))
		missing = "key";
	else if (r->model[0] == '\0' && (m2_wire_field("model")->ops >> op & 1) != 0)
		missing = "model";
	else if (op == M2_OP_ATTACH && !key_given(r->target))
		missing = "target";
	else if (op == M2_OP_RELEASE && r->request == 0)
		missing = "request";
	else if (op == M2_OP_CANCEL && r->request == 0 && !key_given(r->target))
		missing = "request";
	if (missing != NULL)
		return m2_fail_field(M2_EINVAL, p->why, missing, "%s needs \"%s\"",
			m2_op_name((enum m2_op)op), missing);
	if ((r->flags & M2_REQUEST_MESSAGES) != 0 && (r->flags & M2_REQUEST_LOGITS) != 0)
		return m2_fail_field(M2_EINVAL, p->why, "stream",
			"logits are delivered in memory only, not as messages");
	if (r->source[0] != '\0' && r->source[0] != '/')
		return m2_fail_field(M2_EINVAL, p->why, "source", "source is not an absolute path");
	if (op == M2_OP_TOKENIZE && (r->flags & M2_REQUEST_TOKENS) != 0)
		return m2_fail_field(M2_EINVAL, p->why, "input", "tokenize takes no token ids");
	if ((r->flags & (M2_REQUEST_CHAT | M2_REQUEST_FILL)) != 0 &&
		(r->flags & M2_REQUEST_SPECIAL) != 0)
		return m2_fail_field(M2_EINVAL, p->why, "special",
			"a template's texts are plain text: \"special\" is for the input \"text\"");

	if (takes_payload != (payload != NULL))
		return m2_fail(M2_EPROTO, p->why, "%s %s a payload frame",
			m2_op_name((enum m2_op)op), takes_payload ? "needs" : "takes no");
	if (op == M2_OP_DETOKENIZE)
		r->flags |= M2_REQUEST_TOKENS;
	if ((r->flags & M2_REQUEST_TOKENS) != 0 && payload_bytes % 4 != 0)
		return m2_fail_field(M2_EINVAL, p->why, "input",
			"the payload has %zu bytes: not a whole number of int32 tokens",
			payload_bytes);
	if (takes_payload && (r->flags & M2_REQUEST_TOKENS) == 0 &&
		!m2_utf8_valid(payload, payload_bytes))
		return m2_fail_field(M2_EINVAL, p->why, "input", "the payload is not valid UTF-8");
	return M2_OK;
}

/* prompt | bias | stop strings, as daemon/request.h says. */
static enum m2_err build_body(
	struct parse *p, const char *payload, size_t payload_bytes, void **body, size_t *body_bytes)
{
	struct m2_request *r = p->r;
	r->prompt_bytes = (uint32_t)payload_bytes;
	r->n_logit_bias = p->bias != NULL ? (uint32_t)json_object_array_length(p->bias) : 0;
	r->n_stop = p->stop != NULL ? (uint32_t)json_object_array_length(p->stop) : 0;
	for (uint32_t i = 0; i < r->n_stop; i++) {
		r->stop_length[i] =
			(uint16_t)json_object_get_string_len(json_object_array_get_idx(p->stop, i));
		r->stop_bytes += r->stop_length[i];
	}
	*body_bytes = m2_request_body_bytes(r);
	if (*body_bytes == 0)
		return M2_OK;
	char *bytes = calloc(1, *body_bytes);
	if (bytes == NULL)
		return m2_fail(M2_ENOMEM, p->why, "out of memory");
	if (payload_bytes > 0)
		memcpy(bytes, payload, payload_bytes);
	struct m2_logit_bias *bias =
		(struct m2_logit_bias *)(void *)(bytes + m2_request_bias_at(r));
	for (uint32_t i = 0; i < r->n_logit_bias; i++) {
		struct json_object *pair = json_object_array_get_idx(p->bias, i);
		double value = 0;
		(void)m2_json_as_double(json_object_array_get_idx(pair, 1), &value);
		bias[i].id = (int32_t)json_object_get_int64(json_object_array_get_idx(pair, 0));
		bias[i].bias = (float)value;
	}
	char *at = bytes + m2_request_stop_at(r);
	for (uint32_t i = 0; i < r->n_stop; at += r->stop_length[i], i++)
		memcpy(at, json_object_get_string(json_object_array_get_idx(p->stop, i)),
			r->stop_length[i]);
	*body = bytes;
	return M2_OK;
}

static enum m2_err parse_header(struct parse *p, struct json_object *header, const char *payload,
	size_t payload_bytes, enum m2_endpoint endpoint)
{
	if (!json_object_is_type(header, json_type_object))
		return m2_fail(M2_EPROTO, p->why, "the header is not a JSON object");
	take_identity(p, header);
	enum m2_err err = take_op(p, header, endpoint);
	if (err != M2_OK)
		return err;
	json_object_object_foreach(header, name, value)
	{
		err = take_field(p, name, value);
		if (err != M2_OK)
			return err;
	}
	return check_together(p, payload, payload_bytes);
}

enum m2_err m2_gate_parse(const char *header, size_t header_bytes, const void *payload,
	size_t payload_bytes, enum m2_endpoint endpoint, struct m2_request *out, void **body,
	size_t *body_bytes, struct m2_why *why)
{
	struct parse p = {.r = out, .why = why};
	struct json_object *object = NULL;
	memset(out, 0, sizeof *out);
	out->n = 1;
	out->logprobs = -1;
	out->wait_s = -1;
	*body = NULL;
	*body_bytes = 0;
	if (header_bytes > M2_LIMIT_HEADER_BYTES)
		return m2_fail(M2_ELIMIT, why, "the header has %zu bytes, more than %d",
			header_bytes, M2_LIMIT_HEADER_BYTES);
	if (payload_bytes > M2_LIMIT_PAYLOAD_BYTES)
		return m2_fail(M2_ELIMIT, why, "the payload has %zu bytes, more than %d",
			payload_bytes, M2_LIMIT_PAYLOAD_BYTES);
	enum m2_err err =
		m2_json_parse(header, header_bytes, M2_LIMIT_JSON_DEPTH, "header", &object, why);
	if (err != M2_OK)
		return err == M2_EFORMAT ? M2_EPROTO : err;
	err = parse_header(&p, object, payload, payload_bytes, endpoint);
	if (err == M2_OK)
		err = build_body(&p, payload, payload_bytes, body, body_bytes);
	json_object_put(object);
	return err;
}

/* ---- who it is ---------------------------------------------------------------------------------- */

/* The decimal number between `from` and `end`. */
static bool read_number(const char *from, const char *end, uint32_t *out)
{
	uint64_t n = 0;
	if (from == end || end - from > 10)
		return false;
	for (; from < end; from++) {
		if (*from < '0' || *from > '9')
			return false;
		n = n * 10 + (uint64_t)(*from - '0');
	}
	*out = (uint32_t)n;
	return n <= UINT32_MAX;
}

bool m2_gate_peer(const char *address, uint32_t *uid, uint32_t *gid, uint32_t *pid)
{
	uint32_t *const fields[3] = {pid, gid, uid};
	if (address == NULL)
		return false;
	const char *end = address + strlen(address);
	for (int i = 0; i < 3; i++) {
		const char *colon = memrchr(address, ':', (size_t)(end - address));
		if (colon == NULL || !read_number(colon + 1, end, fields[i]))
			return false;
		end = colon;
	}
	return true;
}
