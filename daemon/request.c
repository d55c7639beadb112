/* request.c - offsets in a request's body, the check that every receiver makes, and the defaults.
 *
 * Ranges are those of common/fields.def, by the table: a number is written once in the project.
 */
#include "daemon/request.h"

#include <string.h>

/* Places of the fields in the table, so that a look-up is an index. */
enum field {
#define M2_FIELD(name, type, min, max, ops, doc) F_##name,
#include "common/fields.def"
#undef M2_FIELD
};

size_t m2_request_bias_at(const struct m2_request *r)
{
	return ((size_t)r->prompt_bytes + 7) & ~(size_t)7;
}

size_t m2_request_stop_at(const struct m2_request *r)
{
	return m2_request_bias_at(r) + (size_t)r->n_logit_bias * sizeof(struct m2_logit_bias);
}

size_t m2_request_body_bytes(const struct m2_request *r)
{
	return m2_request_stop_at(r) + r->stop_bytes;
}

static const struct m2_field *field_of(enum field f)
{
	int count;
	return &m2_wire_fields(&count)[f];
}

static enum m2_err broken(struct m2_why *why, enum field f)
{
	return m2_fail_field(M2_EPROTO, why, field_of(f)->name,
		"a request between processes holds a wrong %s", field_of(f)->name);
}

static bool in_range(enum field f, double value)
{
	const struct m2_field *field = field_of(f);
	return value >= field->min && value <= field->max; /* false for NaN */
}

static bool taken_by(enum field f, uint32_t op)
{
	return (field_of(f)->ops >> op & 1) != 0;
}

static bool name_ends(const char *text, size_t size)
{
	return memchr(text, '\0', size) != NULL;
}

static enum m2_err check_header(const struct m2_request *r, struct m2_why *why)
{
	if (r->op == M2_OP_NONE || r->op >= M2_OP_COUNT)
		return broken(why, F_op);
	if (r->id > (uint64_t)field_of(F_request)->max || !in_range(F_id, (double)r->client_id))
		return broken(why, F_id);
	if (r->route.length > sizeof r->route.id || r->route.endpoint > M2_ENDPOINT_CONTROL)
		return m2_fail(M2_EPROTO, why, "a request between processes holds a wrong route");
	if (!name_ends(r->model, sizeof r->model) ||
		(taken_by(F_model, r->op) ? !m2_variant_name_valid(r->model) : r->model[0] != '\0'))
		return broken(why, F_model);
	if (!name_ends(r->source, sizeof r->source) ||
		(r->source[0] != '\0' && (!taken_by(F_source, r->op) || r->source[0] != '/')))
		return broken(why, F_source);
	if (r->request > (uint64_t)field_of(F_request)->max ||
		(r->request != 0 && !taken_by(F_request, r->op)))
		return broken(why, F_request);
	if (r->wait_s != -1 &&
		(!in_range(F_wait_s, (double)r->wait_s) || !taken_by(F_wait_s, r->op)))
		return broken(why, F_wait_s);
	if (r->priority < 0 || r->priority >= M2_PRIORITY_COUNT ||
		(r->priority != M2_PRIORITY_NORMAL && !taken_by(F_priority, r->op)))
		return broken(why, F_priority);
	if (r->deadline_ms != 0 && (!in_range(F_deadline_ms, (double)r->deadline_ms) ||
					   !taken_by(F_deadline_ms, r->op)))
		return broken(why, F_deadline_ms);
	return M2_OK;
}

static enum m2_err check_flags(const struct m2_request *r, struct m2_why *why)
{
	static const struct {
		uint32_t flag;
		enum field field;
	} flags[] = {{M2_REQUEST_SPECIAL, F_special}, {M2_REQUEST_IGNORE_EOS, F_ignore_eos},
		{M2_REQUEST_ECHO, F_echo}, {M2_REQUEST_LOGITS, F_logits},
		{M2_REQUEST_MESSAGES, F_stream}, {M2_REQUEST_REPLACE, F_replace},
		{M2_REQUEST_STOP_DAEMON, F_stop_daemon}, {M2_REQUEST_RESUME, F_resume},
		{M2_REQUEST_DRY_RUN, F_dry_run}, {M2_REQUEST_PIN, F_pin}};
	const uint32_t form = r->flags & (M2_REQUEST_TOKENS | M2_REQUEST_CHAT | M2_REQUEST_FILL);
	uint32_t known = M2_REQUEST_TOKENS | M2_REQUEST_CHAT | M2_REQUEST_FILL;
	for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
		known |= flags[i].flag;
		if ((r->flags & flags[i].flag) != 0 && !taken_by(flags[i].field, r->op))
			return broken(why, flags[i].field);
	}
	if ((r->flags & ~known) != 0)
		return m2_fail(M2_EPROTO, why, "a request between processes holds unknown flags");
	/* detokenize takes ids always, and has no field for it; at most one of the forms */
	if ((form != 0 && !taken_by(F_input, r->op) && r->op != M2_OP_DETOKENIZE) ||
		(form & (form - 1)) != 0 ||
		(form == M2_REQUEST_TOKENS && r->op == M2_OP_TOKENIZE) ||
		(form > M2_REQUEST_TOKENS && r->op == M2_OP_DETOKENIZE))
		return broken(why, F_input);
	if (form > M2_REQUEST_TOKENS && (r->flags & M2_REQUEST_SPECIAL) != 0)
		return broken(why, F_special);
	if ((r->flags & M2_REQUEST_MESSAGES) != 0 && (r->flags & M2_REQUEST_LOGITS) != 0)
		return broken(why, F_stream);
	return M2_OK;
}

static enum m2_err check_sampling(const struct m2_request *r, struct m2_why *why)
{
	const struct m2_sampling *s = &r->sampling;
	const struct {
		uint32_t set;
		enum field field;
		double value;
	} numbers[] = {{M2_SET_MAX_TOKENS, F_max_tokens, s->max_tokens},
		{M2_SET_TEMPERATURE, F_temperature, (double)s->temperature},
		{M2_SET_TOP_K, F_top_k, s->top_k}, {M2_SET_TOP_P, F_top_p, (double)s->top_p},
		{M2_SET_MIN_P, F_min_p, (double)s->min_p},
		{M2_SET_REPETITION, F_repetition_penalty, (double)s->repetition_penalty},
		{M2_SET_PRESENCE, F_presence_penalty, (double)s->presence_penalty},
		{M2_SET_FREQUENCY, F_frequency_penalty, (double)s->frequency_penalty},
		{M2_SET_SEED, F_seed, (double)s->seed}};
	uint32_t known = M2_SET_STOP_TOKENS;
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		known |= numbers[i].set;
		/* a float of 0.01f may lie below 0.01 by its rounding */
		const double value = numbers[i].value;
		if ((r->set & numbers[i].set) != 0 && !in_range(numbers[i].field, value) &&
			!in_range(numbers[i].field, value * (1 + 1e-6)))
			return broken(why, numbers[i].field);
	}
	if ((r->set & ~known) != 0 || (r->set != 0 && r->op != M2_OP_GENERATE))
		return m2_fail(M2_EPROTO, why, "a request between processes sets unknown fields");
	if ((r->set & M2_SET_STOP_TOKENS) != 0) {
		if (s->n_stop_tokens < 0 || s->n_stop_tokens > M2_LIMIT_STOP_TOKENS)
			return broken(why, F_stop_tokens);
		for (int32_t i = 0; i < s->n_stop_tokens; i++)
			if (!in_range(F_stop_tokens, s->stop_tokens[i]))
				return broken(why, F_stop_tokens);
	}
	if (!in_range(F_n, r->n) || (r->n != 1 && !taken_by(F_n, r->op)))
		return broken(why, F_n);
	if (!in_range(F_logprobs, r->logprobs) ||
		(r->logprobs != -1 && !taken_by(F_logprobs, r->op)))
		return broken(why, F_logprobs);
	return M2_OK;
}

static enum m2_err check_body(const struct m2_request *r, size_t body_bytes, struct m2_why *why)
{
	const bool payload = r->op == M2_OP_GENERATE || r->op == M2_OP_SCORE ||
			     r->op == M2_OP_TOKENIZE || r->op == M2_OP_DETOKENIZE ||
			     r->op == M2_OP_REGISTER;
	size_t stop_bytes = 0;
	if (r->prompt_bytes > M2_LIMIT_PAYLOAD_BYTES || (r->prompt_bytes != 0 && !payload) ||
		((r->flags & M2_REQUEST_TOKENS) != 0 && r->prompt_bytes % 4 != 0))
		return m2_fail(M2_EPROTO, why, "a request between processes holds a wrong payload");
	if (r->n_logit_bias > M2_LIMIT_LOGIT_BIAS ||
		(r->n_logit_bias != 0 && !taken_by(F_logit_bias, r->op)))
		return broken(why, F_logit_bias);
	if (r->n_stop > M2_LIMIT_STOP_STRINGS || (r->n_stop != 0 && !taken_by(F_stop, r->op)))
		return broken(why, F_stop);
	for (uint32_t i = 0; i < r->n_stop; i++) {
		if (!in_range(F_stop, r->stop_length[i]))
			return broken(why, F_stop);
		stop_bytes += r->stop_length[i];
	}
	if (r->stop_bytes != stop_bytes || body_bytes != m2_request_body_bytes(r))
		return m2_fail(M2_EPROTO, why,
			"a request between processes has a body of %zu bytes, %zu expected",
			body_bytes, m2_request_body_bytes(r));
	return M2_OK;
}

enum m2_err m2_request_check(const struct m2_request *r, size_t body_bytes, struct m2_why *why)
{
	enum m2_err err = check_header(r, why);
	if (err == M2_OK)
		err = check_flags(r, why);
	if (err == M2_OK)
		err = check_sampling(r, why);
	if (err == M2_OK)
		err = check_body(r, body_bytes, why);
	return err;
}

void m2_request_apply_defaults(struct m2_request *r, const struct m2_variant *v)
{
	const struct m2_variant_defaults *d = &v->defaults;
	struct m2_sampling *s = &r->sampling;
#define DEFAULT(bit, field)                                                                        \
	if ((r->set & (bit)) == 0)                                                                 \
	s->field = d->field
	DEFAULT(M2_SET_MAX_TOKENS, max_tokens);
	DEFAULT(M2_SET_TEMPERATURE, temperature);
	DEFAULT(M2_SET_TOP_K, top_k);
	DEFAULT(M2_SET_TOP_P, top_p);
	DEFAULT(M2_SET_MIN_P, min_p);
	DEFAULT(M2_SET_REPETITION, repetition_penalty);
	DEFAULT(M2_SET_PRESENCE, presence_penalty);
	DEFAULT(M2_SET_FREQUENCY, frequency_penalty);
#undef DEFAULT
	if ((r->set & M2_SET_STOP_TOKENS) == 0) {
		s->n_stop_tokens = d->n_stop_tokens;
		memcpy(s->stop_tokens, d->stop_tokens, sizeof s->stop_tokens);
	}
}
