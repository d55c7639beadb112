/* score.c - how probable a model finds a text: a table per token, totals, or the full logits in a file. */
#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/mamba2ctl/ctl.h"

static struct {
	const char *file;
	struct ctl_ids tokens;
	int special;
	int64_t top;
	const char *logits;
	int quiet;
} s;
const struct ctl_option ctl_score_options[] = {
	{"file", 'f', CTL_TEXT, "FILE", &s.file, "read the text from a file (- for stdin)"},
	{"tokens", 't', CTL_IDS, "1,2,3", &s.tokens, "the text as token ids"},
	{"special", 0, CTL_FLAG, NULL, &s.special,
		"special tokens written in the text become their ids"},
	{"top", 0, CTL_INT, "K", &s.top, "and the k most probable at each position"},
	{"logits", 0, CTL_TEXT, "FILE", &s.logits,
		"write all logits, F32 [tokens, vocabulary], as safetensors"},
	{"quiet", 'q', CTL_FLAG, NULL, &s.quiet, "only the totals"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

struct scored {
	const int32_t *ids;
	const float *logprobs;
	const int32_t *top_ids;
	const float *top_logprobs;
	size_t count;
	size_t top_k;
	double total;      /* natural log, of all but the first */
	size_t text_bytes; /* of all tokens but the first; 0: not known */
};

/* Text of one token, malloc'd; NULL without a tokenizer.  *bytes is what it adds to a text. */
static char *token_text(const struct ctl *ctl, const char *model, int32_t id, size_t *bytes)
{
	char *text = NULL;
	if (mamba2_detokenize(ctl->m, model, &id, 1, &text, bytes) != MAMBA2_OK)
		*bytes = 0;
	return text;
}

static void add_up(const struct ctl *ctl, const char *model, size_t prompt_bytes, struct scored *x)
{
	size_t first = 0;
	char *text = NULL;
	for (size_t i = 1; i < x->count; i++)
		x->total += (double)x->logprobs[i];
	if (prompt_bytes == 0 && x->count > 0) { /* from ids: the text is what they say */
		if (mamba2_detokenize(ctl->m, model, x->ids, x->count, &text, &prompt_bytes) !=
			MAMBA2_OK)
			prompt_bytes = 0;
		mamba2_free(text);
	}
	if (prompt_bytes > 0)
		mamba2_free(token_text(ctl, model, x->ids[0], &first));
	x->text_bytes = first < prompt_bytes ? prompt_bytes - first : 0;
}

static void print_table(const struct ctl *ctl, const char *model, const struct scored *x)
{
	static const char *const heads[] = {
		"+POSITION", "+ID", "TEXT", "+LOGPROB", "MOST PROBABLE", NULL};
	struct ctl_table t;
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < x->count; i++) {
		char top[CTL_CELL] = "";
		size_t bytes = 0;
		char *text = token_text(ctl, model, x->ids[i], &bytes);
		for (size_t k = 0; i > 0 && k < x->top_k; k++) {
			const size_t used = strlen(top);
			(void)snprintf(top + used, sizeof top - used, "%s%d %.3f",
				k > 0 ? ", " : "", x->top_ids[i * x->top_k + k],
				(double)x->top_logprobs[i * x->top_k + k]);
		}
		ctl_table_cell(&t, "%zu", i);
		ctl_table_cell(&t, "%d", x->ids[i]);
		if (text != NULL)
			ctl_table_cell(&t, "\"%.*s\"", (int)bytes, text);
		else
			ctl_table_cell(&t, "-");
		if (i > 0)
			ctl_table_cell(&t, "%.4f", (double)x->logprobs[i]);
		else
			ctl_table_cell(&t, "-");
		ctl_table_cell(&t, "%s", top);
		mamba2_free(text);
	}
	ctl_table_end(&t);
	(void)putchar('\n');
}

static void print_totals(const struct scored *x)
{
	const size_t n = x->count > 0 ? x->count - 1 : 0;
	(void)printf("%zu tokens, %zu scored: log-probability %.4f", x->count, n, x->total);
	if (n > 0)
		(void)printf(", %.4f per token, perplexity %.3f", x->total / (double)n,
			exp(-x->total / (double)n));
	if (x->text_bytes > 0)
		(void)printf(", %.4f bits per byte", -x->total / log(2) / (double)x->text_bytes);
	(void)putchar('\n');
}

static struct json_object *number(double value)
{
	char text[32];
	if (!isfinite(value))
		return NULL;
	(void)snprintf(text, sizeof text, "%.9g", value);
	return json_object_new_double_s(value, text);
}

static void print_json(const char *model, const struct scored *x)
{
	struct json_object *o = json_object_new_object();
	struct json_object *ids = json_object_new_array();
	struct json_object *logprobs = json_object_new_array();
	struct json_object *top = json_object_new_array();
	for (size_t i = 0; i < x->count; i++) {
		struct json_object *row = json_object_new_array();
		json_object_array_add(ids, json_object_new_int(x->ids[i]));
		json_object_array_add(logprobs, number((double)x->logprobs[i]));
		for (size_t k = 0; i > 0 && k < x->top_k; k++) {
			struct json_object *one = json_object_new_object();
			json_object_object_add(
				one, "id", json_object_new_int(x->top_ids[i * x->top_k + k]));
			json_object_object_add(
				one, "logprob", number((double)x->top_logprobs[i * x->top_k + k]));
			json_object_array_add(row, one);
		}
		json_object_array_add(top, row);
	}
	json_object_object_add(o, "model", json_object_new_string(model));
	json_object_object_add(o, "tokens", ids);
	json_object_object_add(o, "logprobs", logprobs);
	if (x->top_k > 0)
		json_object_object_add(o, "top", top);
	else
		json_object_put(top);
	json_object_object_add(o, "total", number(x->total));
	if (x->text_bytes > 0)
		json_object_object_add(
			o, "bits_per_byte", number(-x->total / log(2) / (double)x->text_bytes));
	ctl_print_json(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

static int write_logits(mamba2_request *r)
{
	size_t vocab = 0;
	const float *logits = mamba2_request_prompt_logits(r, &vocab);
	const size_t rows = mamba2_request_prompt(r, NULL);
	if (logits == NULL || mamba2_request_prompt_scored(r) != rows)
		return ctl_say(CTL_FAILED, "the daemon gave no logits of all positions (protocol)");
	return ctl_write_safetensors(s.logits, "logits", logits, rows, vocab);
}

static int report(const struct ctl *ctl, const char *model, size_t prompt_bytes, mamba2_request *r)
{
	struct scored x = {.count = mamba2_request_prompt_scored(r)};
	(void)mamba2_request_prompt(r, &x.ids);
	x.logprobs = mamba2_request_prompt_logprobs(r);
	x.top_ids = mamba2_request_prompt_top_ids(r, &x.top_k);
	x.top_logprobs = mamba2_request_prompt_top_logprobs(r);
	if (x.ids == NULL || x.logprobs == NULL)
		return ctl_say(CTL_FAILED, "the daemon gave no log-probabilities (protocol)");
	add_up(ctl, model, prompt_bytes, &x);
	if (ctl->json != 0) {
		print_json(model, &x);
		return CTL_OK;
	}
	if (s.quiet == 0)
		print_table(ctl, model, &x);
	print_totals(&x);
	return CTL_OK;
}

static int score(struct ctl *ctl, const char *model, const char *prompt, size_t bytes)
{
	mamba2_score_options o;
	mamba2_request *r = NULL;
	mamba2_score_options_init(&o);
	o.model = model;
	o.prompt = prompt;
	o.prompt_bytes = bytes;
	o.tokens = s.tokens.id;
	o.n_tokens = s.tokens.count;
	o.special = s.special;
	o.top = s.top > INT32_MAX ? INT32_MAX : (int32_t)s.top;
	o.logits = s.logits != NULL;
	enum mamba2_error error = mamba2_score(ctl->m, &o, &r);
	while (error == MAMBA2_OK && !mamba2_request_finished(r))
		error = mamba2_request_wait(r, -1);
	if (error == MAMBA2_OK)
		error = mamba2_request_result(r, NULL);
	const int status = error != MAMBA2_OK ? ctl_fail(ctl, error)
			   : s.logits != NULL ? write_logits(r)
					      : report(ctl, model, bytes, r);
	mamba2_request_free(&r);
	return status;
}

int ctl_run_score(struct ctl *ctl, int argc, char **argv)
{
	const char *argument = argc > 1 ? argv[1] : NULL;
	char *prompt = NULL;
	size_t bytes = 0;
	if (s.tokens.id != NULL && (argument != NULL || s.file != NULL))
		return ctl_say(CTL_USAGE, "a text and --tokens: which of the two?");
	if (s.tokens.id == NULL && (prompt = ctl_prompt(argument, s.file, &bytes)) == NULL)
		return argument != NULL && s.file != NULL ? CTL_USAGE : CTL_FAILED;
	int status = ctl_connect(ctl, false, -1);
	if (status == CTL_OK)
		status = score(ctl, argv[0], prompt, bytes);
	free(prompt);
	return status;
}
