/* generate.c - continue a prompt: text as it comes, ids, a table of log-probabilities, or JSON.
 *
 * Ctrl-C cancels and prints what came; a second one ends at once.  The handler only sets a flag: the wait
 * below is cut into slices of 100 ms so that the flag is seen.
 */
#include <json-c/json.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"

static struct {
	const char *file;
	struct ctl_ids tokens;
	struct ctl_forms forms;
	int special;
	int64_t max_tokens;
	float temperature;
	int64_t top_k;
	float top_p;
	float min_p;
	float repetition;
	float presence;
	float frequency;
	int64_t seed;
	struct ctl_texts stop;
	struct ctl_ids stop_tokens;
	struct ctl_texts bias;
	int64_t logprobs;
	int64_t completions;
	int echo;
	int ignore_eos;
	int64_t deadline_ms;
	const char *priority;
	int print_tokens;
	int stats;
} g = {.max_tokens = -1,
	.temperature = NAN,
	.top_k = -1,
	.top_p = NAN,
	.min_p = NAN,
	.repetition = NAN,
	.presence = NAN,
	.frequency = NAN,
	.seed = -1,
	.logprobs = -1,
	.completions = 1};

const struct ctl_option ctl_generate_options[] = {
	{"file", 'f', CTL_TEXT, "FILE", &g.file, "read the prompt from a file (- for stdin)"},
	{"tokens", 't', CTL_IDS, "1,2,3", &g.tokens, "the prompt as token ids"},
	{"special", 0, CTL_FLAG, NULL, &g.special,
		"special tokens written in the prompt become their ids"},
	{"chat", 0, CTL_FLAG, NULL, &g.forms.chat,
		"the prompt is a user's message: the model answers it"},
	{"system", 0, CTL_TEXT, "TEXT", &g.forms.system,
		"with --chat: what the model is told first"},
	{"messages", 0, CTL_TEXT, "FILE", &g.forms.messages,
		"a conversation instead of a prompt: JSON [{\"role\", \"content\"} ...] (- for "
		"stdin)"},
	{"suffix", 0, CTL_TEXT, "TEXT", &g.forms.suffix,
		"fill in what belongs between the prompt and this text"},
	{"max-tokens", 'n', CTL_INT, "N", &g.max_tokens, "most tokens of each completion"},
	{"temperature", 0, CTL_FLOAT, "T", &g.temperature, "0: always the most probable token"},
	{"top-k", 0, CTL_INT, "K", &g.top_k, "sample among the k most probable; 0: all"},
	{"top-p", 0, CTL_FLOAT, "P", &g.top_p,
		"sample among the fewest whose probabilities reach p; 1: all"},
	{"min-p", 0, CTL_FLOAT, "P", &g.min_p, "drop tokens below p times the most probable"},
	{"repetition-penalty", 0, CTL_FLOAT, "X", &g.repetition,
		"weaken tokens seen before; 1: off"},
	{"presence-penalty", 0, CTL_FLOAT, "X", &g.presence,
		"subtracted once from generated tokens' logits"},
	{"frequency-penalty", 0, CTL_FLOAT, "X", &g.frequency, "subtracted per occurrence"},
	{"logit-bias", 0, CTL_TEXTS, "ID:X", &g.bias, "added to the logit of a token; repeatable"},
	{"seed", 0, CTL_INT, "N", &g.seed, "same seed, same request: same tokens"},
	{"stop", 0, CTL_TEXTS, "TEXT", &g.stop, "end before this text; repeatable"},
	{"stop-tokens", 0, CTL_IDS, "1,2,3", &g.stop_tokens, "ids that end a completion"},
	{"ignore-eos", 0, CTL_FLAG, NULL, &g.ignore_eos,
		"the checkpoint's end tokens do not end a completion"},
	{"completions", 0, CTL_INT, "N", &g.completions, "how many of the same prompt (1)"},
	{"logprobs", 0, CTL_INT, "K", &g.logprobs,
		"a line per token: its log-probability, and the k most probable"},
	{"echo", 0, CTL_FLAG, NULL, &g.echo, "log-probabilities of the prompt too (with --json)"},
	{"deadline", 0, CTL_INT, "MS", &g.deadline_ms, "stop after so many milliseconds"},
	{"priority", 0, CTL_TEXT, "WORD", &g.priority,
		"low, normal or high: the order among your own requests"},
	{"print-tokens", 0, CTL_FLAG, NULL, &g.print_tokens, "print ids, separated by commas"},
	{"stats", 0, CTL_FLAG, NULL, &g.stats, "a line with counts and times on standard error"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t streaming;
static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	(void)number;
	if (!streaming || interrupted)
		_exit(CTL_INTERRUPTED); /* the daemon notices that we are gone */
	interrupted = 1;
}

/* ---- printing ---- */

static const char *const finish_names[] = {
	"running", "stop_token", "stop_string", "length", "cancelled", "deadline", "error"};

static void print_new_text(mamba2_request *r, size_t *printed)
{
	size_t bytes = 0;
	const char *text = mamba2_request_text(r, 0, &bytes);
	if (text == NULL || bytes <= *printed)
		return;
	ctl_put(text + *printed, bytes - *printed);
	(void)fflush(stdout);
	*printed = bytes;
}

static void print_ids(mamba2_request *r, int sequence)
{
	const int32_t *ids = NULL;
	const size_t count = mamba2_request_tokens(r, sequence, &ids);
	for (size_t i = 0; i < count; i++)
		(void)printf("%s%d", i > 0 ? "," : "", ids[i]);
	(void)putchar('\n');
}

static void print_logprobs(mamba2_request *r, int sequence)
{
	static const char *const heads[] = {"+LOGPROB", "+ID", "TEXT", "ALTERNATIVES", NULL};
	const int32_t *ids = NULL;
	size_t top_k = 0;
	const size_t count = mamba2_request_tokens(r, sequence, &ids);
	const float *logprobs = mamba2_request_logprobs(r, sequence);
	const char *text = mamba2_request_text(r, sequence, NULL);
	const uint32_t *ends = mamba2_request_text_ends(r, sequence);
	const int32_t *top = mamba2_request_top_ids(r, sequence, &top_k);
	const float *top_logprobs = mamba2_request_top_logprobs(r, sequence);
	struct ctl_table t;
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < count; i++) {
		char others[CTL_CELL] = "";
		for (size_t k = 0; top != NULL && k < top_k; k++) {
			const size_t used = strlen(others);
			(void)snprintf(others + used, sizeof others - used, "%s%d %.3f",
				k > 0 ? ", " : "", top[i * top_k + k],
				(double)top_logprobs[i * top_k + k]);
		}
		const uint32_t start = i > 0 && ends != NULL ? ends[i - 1] : 0;
		ctl_table_cell(&t, "%.4f", logprobs != NULL ? (double)logprobs[i] : NAN);
		ctl_table_cell(&t, "%d", ids[i]);
		if (text != NULL && ends != NULL)
			ctl_table_cell(&t, "\"%.*s\"", (int)(ends[i] - start), text + start);
		else
			ctl_table_cell(&t, "-");
		ctl_table_cell(&t, "%s", others);
	}
	ctl_table_end(&t);
}

/* ---- JSON ---- */

static struct json_object *float_value(float value)
{
	char text[32];
	if (!isfinite(value)) /* JSON has no NaN */
		return NULL;
	(void)snprintf(text, sizeof text, "%.9g", (double)value);
	return json_object_new_double_s((double)value, text);
}

static struct json_object *int_array(const int32_t *values, size_t count)
{
	struct json_object *array = json_object_new_array();
	for (size_t i = 0; i < count; i++)
		json_object_array_add(array, json_object_new_int(values[i]));
	return array;
}

static struct json_object *float_array(const float *values, size_t count)
{
	struct json_object *array = json_object_new_array();
	for (size_t i = 0; i < count; i++)
		json_object_array_add(array, float_value(values[i]));
	return array;
}

/* [[{"id", "logprob"} ...] ...] */
static struct json_object *top_array(
	const int32_t *ids, const float *logprobs, size_t count, size_t top_k)
{
	struct json_object *array = json_object_new_array();
	for (size_t i = 0; i < count; i++) {
		struct json_object *row = json_object_new_array();
		for (size_t k = 0; k < top_k; k++) {
			struct json_object *one = json_object_new_object();
			json_object_object_add(one, "id", json_object_new_int(ids[i * top_k + k]));
			json_object_object_add(
				one, "logprob", float_value(logprobs[i * top_k + k]));
			json_object_array_add(row, one);
		}
		json_object_array_add(array, row);
	}
	return array;
}

static struct json_object *json_completion(mamba2_request *r, int sequence)
{
	struct json_object *o = json_object_new_object();
	const int32_t *ids = NULL;
	size_t bytes = 0;
	size_t top_k = 0;
	const size_t count = mamba2_request_tokens(r, sequence, &ids);
	const char *text = mamba2_request_text(r, sequence, &bytes);
	const float *logprobs = mamba2_request_logprobs(r, sequence);
	const int32_t *top = mamba2_request_top_ids(r, sequence, &top_k);
	json_object_object_add(o, "tokens", int_array(ids, count));
	if (text != NULL)
		json_object_object_add(o, "text", json_object_new_string_len(text, (int)bytes));
	if (logprobs != NULL)
		json_object_object_add(o, "logprobs", float_array(logprobs, count));
	if (top != NULL)
		json_object_object_add(o, "top",
			top_array(top, mamba2_request_top_logprobs(r, sequence), count, top_k));
	json_object_object_add(o, "finish",
		json_object_new_string(finish_names[mamba2_request_finish(r, sequence)]));
	return o;
}

static struct json_object *json_prompt(mamba2_request *r)
{
	struct json_object *o = json_object_new_object();
	const int32_t *ids = NULL;
	size_t top_k = 0;
	const size_t count = mamba2_request_prompt(r, &ids);
	const size_t scored = mamba2_request_prompt_scored(r);
	const float *logprobs = mamba2_request_prompt_logprobs(r);
	const int32_t *top = mamba2_request_prompt_top_ids(r, &top_k);
	json_object_object_add(o, "tokens", int_array(ids, count));
	if (logprobs != NULL)
		json_object_object_add(o, "logprobs", float_array(logprobs, scored));
	if (top != NULL)
		json_object_object_add(o, "top",
			top_array(top, mamba2_request_prompt_top_logprobs(r), scored, top_k));
	return o;
}

static void print_json(mamba2_request *r, const char *model, int completions)
{
	struct json_object *o = json_object_new_object();
	struct json_object *all = json_object_new_array();
	struct json_object *times = json_object_new_object();
	mamba2_timings t;
	mamba2_request_timings(r, &t);
	json_object_object_add(o, "model", json_object_new_string(model));
	json_object_object_add(o, "prompt", json_prompt(r));
	for (int i = 0; i < completions; i++)
		json_object_array_add(all, json_completion(r, i));
	json_object_object_add(o, "completions", all);
	json_object_object_add(o, "seed", json_object_new_uint64(t.seed));
	json_object_object_add(times, "queue_ns", json_object_new_uint64(t.queue));
	json_object_object_add(times, "first_ns", json_object_new_uint64(t.first));
	json_object_object_add(times, "total_ns", json_object_new_uint64(t.total));
	json_object_object_add(times, "engine_ns", json_object_new_uint64(t.engine));
	json_object_object_add(
		times, "paused_ns", json_object_new_uint64(mamba2_request_paused(r, NULL)));
	json_object_object_add(o, "timings", times);
	ctl_print_json(json_object_to_json_string_ext(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

/* ---- the run ---- */

static bool read_bias(mamba2_logit_bias **out)
{
	*out = calloc(g.bias.count + 1, sizeof **out);
	for (size_t i = 0; *out != NULL && i < g.bias.count; i++) {
		char *end = NULL;
		const char *text = g.bias.text[i];
		const long id = strtol(text, &end, 10);
		if (end == text || *end != ':' || id < 0 || id > INT32_MAX)
			return false;
		const char *number = end + 1;
		(*out)[i] = (mamba2_logit_bias){(int32_t)id, strtof(number, &end)};
		if (end == number || *end != '\0')
			return false;
	}
	return *out != NULL;
}

/* -1: it is none. */
static int priority_of(const char *word)
{
	if (word == NULL || strcmp(word, "normal") == 0)
		return MAMBA2_PRIORITY_NORMAL;
	if (strcmp(word, "low") == 0)
		return MAMBA2_PRIORITY_LOW;
	return strcmp(word, "high") == 0 ? MAMBA2_PRIORITY_HIGH : -1;
}

static void fill(mamba2_generate_options *o, const char *model,
	const struct ctl_form_prompt *prompt, const mamba2_logit_bias *bias)
{
	mamba2_generate_options_init(o);
	o->model = model;
	o->form = prompt->form;
	o->prompt = prompt->text;
	o->prompt_bytes = prompt->bytes;
	o->tokens = g.tokens.id;
	o->n_tokens = g.tokens.count;
	o->special = g.special;
	o->max_tokens = g.max_tokens;
	o->n = g.completions > INT32_MAX ? INT32_MAX : (int32_t)g.completions;
	o->temperature = g.temperature;
	o->top_k = g.top_k;
	o->top_p = g.top_p;
	o->min_p = g.min_p;
	o->repetition_penalty = g.repetition;
	o->presence_penalty = g.presence;
	o->frequency_penalty = g.frequency;
	o->logit_bias = bias;
	o->n_logit_bias = g.bias.count;
	o->seed = g.seed;
	o->stop_tokens = g.stop_tokens.id;
	o->n_stop_tokens = g.stop_tokens.count;
	o->stop = g.stop.text;
	o->n_stop = g.stop.count;
	o->ignore_eos = g.ignore_eos;
	o->logprobs = g.logprobs > INT32_MAX ? INT32_MAX : (int32_t)g.logprobs;
	o->echo = g.echo;
	o->deadline_ms = g.deadline_ms;
	o->priority = priority_of(g.priority);
}

/* Follow it to its end, printing text as it comes where that is what is wanted. */
static void follow(mamba2_request *r, bool text, size_t *printed)
{
	bool cancelled = false;
	while (!mamba2_request_finished(r)) {
		(void)mamba2_request_wait(r, 100);
		if (interrupted && !cancelled) {
			cancelled = true;
			(void)mamba2_request_cancel(r);
		}
		if (text)
			print_new_text(r, printed);
	}
	if (text)
		print_new_text(r, printed);
}

static void print_all(const struct ctl *ctl, mamba2_request *r, const char *model, size_t printed)
{
	const int completions = (int)g.completions;
	size_t bytes = 0;
	if (ctl->json != 0) {
		print_json(r, model, completions);
		return;
	}
	for (int i = 0; i < completions; i++) {
		const char *text = mamba2_request_text(r, i, &bytes);
		if (completions > 1 && g.print_tokens == 0)
			(void)printf("%s--- %d (%s)\n", i > 0 ? "\n" : "", i + 1,
				finish_names[mamba2_request_finish(r, i)]);
		if (g.print_tokens != 0 || (text == NULL && g.logprobs < 0)) {
			print_ids(r, i);
		} else if (g.logprobs >= 0) {
			print_logprobs(r, i);
		} else { /* the first `printed` bytes have been streamed */
			ctl_put(text + printed, bytes - printed);
			if (bytes == 0 || text[bytes - 1] != '\n')
				(void)putchar('\n');
		}
	}
}

static void print_stats(mamba2_request *r)
{
	size_t count = 0;
	mamba2_timings t;
	mamba2_request_timings(r, &t);
	for (int i = 0; i < (int)g.completions; i++)
		count += mamba2_request_tokens(r, i, NULL);
	const double seconds = (double)t.total / 1e9;
	const double decode = seconds - (double)t.first / 1e9;
	(void)fflush(stdout);
	(void)fprintf(stderr,
		"%zu prompt tokens, %zu generated (%s), first after %.1f ms, %.2f s in all, "
		"%.1f tokens/s, seed %llu\n",
		mamba2_request_prompt(r, NULL), count, finish_names[mamba2_request_finish(r, 0)],
		(double)t.first / 1e6, seconds, decode > 0 ? (double)count / decode : 0.0,
		(unsigned long long)t.seed);
}

static int generate(struct ctl *ctl, const mamba2_generate_options *o)
{
	mamba2_request *r = NULL;
	size_t printed = 0;
	enum mamba2_error error = mamba2_generate(ctl->m, o, &r);
	if (error != MAMBA2_OK)
		return ctl_fail(ctl, error);
	streaming = 1;
	follow(r, ctl->json == 0 && g.print_tokens == 0 && g.logprobs < 0 && g.completions == 1,
		&printed);
	print_all(ctl, r, o->model, printed);
	if (g.stats != 0)
		print_stats(r);
	error = mamba2_request_result(r, NULL);
	int status = CTL_OK;
	if (interrupted)
		status = CTL_INTERRUPTED;
	else if (error != MAMBA2_OK)
		status = ctl_fail(ctl, error);
	mamba2_request_free(&r);
	return status;
}

int ctl_run_generate(struct ctl *ctl, int argc, char **argv)
{
	mamba2_generate_options o;
	mamba2_logit_bias *bias = NULL;
	struct ctl_form_prompt prompt = {.form = MAMBA2_FORM_TEXT};
	const char *argument = argc > 1 ? argv[1] : NULL;
	if (g.tokens.id != NULL && (argument != NULL || g.file != NULL))
		return ctl_say(CTL_USAGE, "a text and --tokens: which of the two?");
	int status = ctl_form_prompt(&g.forms, g.tokens.id != NULL, argument, g.file, &prompt);
	if (status == CTL_OK && !read_bias(&bias))
		status = ctl_say(CTL_USAGE, "--logit-bias wants ID:NUMBER, as in 5:-1.5");
	if (status == CTL_OK && priority_of(g.priority) < 0)
		status = ctl_say(CTL_USAGE, "--priority wants low, normal or high");
	if (status == CTL_OK) {
		const struct sigaction action = {.sa_handler = on_interrupt};
		(void)sigaction(SIGINT, &action, NULL);
		status = ctl_connect(ctl, false, -1);
	}
	if (status == CTL_OK) {
		fill(&o, argv[0], &prompt, bias);
		status = generate(ctl, &o);
	}
	free(bias);
	free(prompt.text);
	return status;
}
