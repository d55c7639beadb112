/* main.c - mamba2-bench: the engine alone, with random weights, against the machine's own limits.
 *
 * No files, no sockets, no tokenizer: a model of a published shape (or any other), decode at several batch
 * sizes and prompts of several lengths, to the last token's pick.  One load serves all figures.
 */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bench/bench.h"

/* Dimensions given one by one; 0: as the shape has it. */
struct dimensions {
	int32_t d_model, layers, heads, head_dim, state_size, groups, vocab;
};

struct arguments {
	struct bench_options o;
	struct dimensions given;
};

enum { D_MODEL = 256, LAYERS, HEADS, HEAD_DIM, STATE_SIZE, GROUPS, VOCAB, STATE, JSON, WAIT };
enum { LOGITS = WAIT + 1, ISA, SECONDS };

static const struct argp_option argp_options[] = {
	{"shape", 's', "NAME", 0, "130m, 370m, 780m, 1.3b, 2.7b or 7b (130m)", 1},
	{"d-model", D_MODEL, "N", 0, "dimensions that differ from the shape's", 2},
	{"layers", LAYERS, "N", 0, NULL, 2},
	{"heads", HEADS, "N", 0, NULL, 2},
	{"head-dim", HEAD_DIM, "N", 0, NULL, 2},
	{"state-size", STATE_SIZE, "N", 0, NULL, 2},
	{"groups", GROUPS, "N", 0, NULL, 2},
	{"vocab", VOCAB, "N", 0, NULL, 2},
	{"device", 'd', "DEVICE", 0, "cpu, ref or cuda:N (cpu)", 3},
	{"threads", 'j', "N", 0, "of the cpu (all processors)", 3},
	{"isa", ISA, "NAME", 0, "of the cpu: auto, portable, avx2, avx512", 3},
	{"dtype", 't', "TYPE", 0, "weights: f32, f16, bf16 or int8 (bf16)", 4},
	{"state", STATE, "TYPE", 0, "state: f32, bf16 or int8 (f32)", 4},
	{"batch", 'b', "N,...", 0, "decode that many sequences at once; 0: none", 5},
	{"prefill", 'p', "N,...", 0, "prompts of that many tokens; 0: none", 5},
	{"wait", WAIT, NULL, 0, "wait for each step before the next begins", 6},
	{"logits", LOGITS, NULL, 0, "bring logits to the host instead of picks", 6},
	{"seconds", SECONDS, "S", 0, "about what each figure takes (0.2)", 6},
	{"json", JSON, NULL, 0, "one JSON object instead of a table", 7},
	{0},
};

static int32_t number(struct argp_state *state, const char *text, long least, long most)
{
	char *end;
	const long value = strtol(text, &end, 10);
	if (end == text || *end != '\0' || value < least || value > most)
		argp_error(state, "\"%s\" is not a number from %ld to %ld", text, least, most);
	return (int32_t)value;
}

/* "1,8,64"; "0" is an empty list. */
static int numbers(struct argp_state *state, const char *text, int32_t *out)
{
	int n = 0;
	if (strcmp(text, "0") == 0)
		return 0;
	for (const char *p = text; *p != '\0';) {
		char *end;
		const long value = strtol(p, &end, 10);
		const bool more = *end == ',' && end[1] != '\0';
		if (end == p || value < 1 || value > 1 << 20 || n == BENCH_LIST ||
			(*end != '\0' && !more))
			argp_error(state, "\"%s\" is not a list of up to %d numbers", text,
				BENCH_LIST);
		out[n++] = (int32_t)value;
		p = more ? end + 1 : end;
	}
	return n;
}

static enum m2_dtype dtype(struct argp_state *state, const char *text)
{
	static const enum m2_dtype all[] = {
		M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16, M2_DTYPE_INT8};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (strcmp(text, m2_dtype_name(all[i])) == 0)
			return all[i];
	argp_error(state, "there is no type \"%s\"; there are f32, f16, bf16 and int8", text);
	return M2_DTYPE_NONE;
}

static error_t take_dimension(int key, const char *arg, struct argp_state *state)
{
	struct dimensions *g = &((struct arguments *)state->input)->given;
	int32_t *const places[] = {&g->d_model, &g->layers, &g->heads, &g->head_dim, &g->state_size,
		&g->groups, &g->vocab};
	*places[key - D_MODEL] = number(state, arg, 1, 1 << 24);
	return 0;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct bench_options *o = &((struct arguments *)state->input)->o;
	if (key >= D_MODEL && key <= VOCAB)
		return take_dimension(key, arg, state);
	switch (key) {
	case 's':
		o->shape = arg;
		return 0;
	case 'd':
		o->device = arg;
		return 0;
	case 'j':
		o->threads = number(state, arg, 1, 256);
		return 0;
	case ISA:
		o->isa = arg;
		return 0;
	case 't':
		o->weights = dtype(state, arg);
		return 0;
	case STATE:
		o->state = dtype(state, arg);
		return 0;
	case 'b':
		o->n_batch = numbers(state, arg, o->batch);
		return 0;
	case 'p':
		o->n_prefill = numbers(state, arg, o->prefill);
		return 0;
	case WAIT:
		o->mode = BENCH_WAIT;
		return 0;
	case LOGITS:
		o->mode = BENCH_LOGITS;
		return 0;
	case SECONDS:
		o->seconds = strtod(arg, NULL);
		return o->seconds > 0.0 && o->seconds <= 3600.0 ? 0 : EINVAL;
	case JSON:
		o->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- what to run ---------------------------------------------------------------------------- */

static void set(int32_t *to, int32_t given)
{
	if (given > 0)
		*to = given;
}

/* The shape, and what differs from it.  A width alone brings the heads that it usually has. */
static enum m2_err describe(struct arguments *a, struct m2_why *why)
{
	struct m2_model_desc *m = &a->o.desc;
	const struct dimensions *g = &a->given;
	const struct dimensions none = {0};
	if (!bench_shape(a->o.shape, m))
		return m2_fail_field(
			M2_EINVAL, why, "shape", "there is no shape \"%s\"", a->o.shape);
	set(&m->hidden_size, g->d_model);
	set(&m->n_layers, g->layers);
	set(&m->head_dim, g->head_dim);
	if (g->d_model > 0 || g->head_dim > 0)
		m->n_heads = 2 * m->hidden_size / m->head_dim;
	set(&m->n_heads, g->heads);
	set(&m->state_size, g->state_size);
	set(&m->n_groups, g->groups);
	set(&m->norm_groups, g->groups);
	set(&m->vocab_rows, g->vocab);
	if (memcmp(g, &none, sizeof none) != 0)
		a->o.shape = "custom";
	return m2_model_desc_check(m, why);
}

static enum m2_err open_device(struct bench_run *b, struct m2_why *why)
{
	const struct bench_options *o = b->o;
	const bool cuda = strncmp(o->device, "cuda", 4) == 0;
	const struct m2_device_options options = {
		.ordinal =
			cuda && o->device[4] == ':' ? (int32_t)strtol(o->device + 5, NULL, 10) : 0,
		.threads = o->threads,
		.isa = o->isa,
	};
	enum m2_err err = m2_backend_find(cuda ? "cuda" : o->device, &b->backend, why);
	if (err == M2_OK)
		err = b->backend->open(&options, &b->device, why);
	if (err == M2_OK)
		b->backend->info(b->device, &b->info);
	return err;
}

static enum m2_err run(struct bench_run *b, struct m2_why *why)
{
	const struct bench_options *o = b->o;
	enum m2_err err = open_device(b, why);
	if (err == M2_OK)
		err = bench_measure_limits(b, why);
	if (err == M2_OK)
		err = bench_load(b, why);
	if (err == M2_OK && !o->json)
		bench_report_head(b);
	for (int i = 0; i < o->n_batch && err == M2_OK; i++) {
		if (b->decode[i].fits)
			err = bench_decode(b, &b->decode[i], why);
		if (err == M2_OK && !o->json)
			bench_report_decode(b, &b->decode[i]);
	}
	for (int i = 0; i < o->n_prefill && err == M2_OK; i++) {
		err = bench_prefill(b, &b->prefill[i], why);
		if (err == M2_OK && !o->json)
			bench_report_prefill(b, &b->prefill[i]);
	}
	if (err == M2_OK && o->json)
		bench_report_json(b);
	return err;
}

/* What is measured when nothing is said: on a GPU the figures of record, elsewhere what ends soon. */
static void set_defaults(struct bench_options *o)
{
	static const int32_t gpu_batch[] = {1, 8, 64, 256}, gpu_prefill[] = {512, 2048, 8192};
	static const int32_t cpu_batch[] = {1, 8, 32}, cpu_prefill[] = {512};
	const bool gpu = strncmp(o->device, "cuda", 4) == 0;
	if (o->n_batch < 0) {
		o->n_batch = gpu ? 4 : 3;
		memcpy(o->batch, gpu ? gpu_batch : cpu_batch, (size_t)o->n_batch * sizeof(int32_t));
	}
	if (o->n_prefill < 0) {
		o->n_prefill = gpu ? 3 : 1;
		memcpy(o->prefill, gpu ? gpu_prefill : cpu_prefill,
			(size_t)o->n_prefill * sizeof(int32_t));
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = {argp_options, take, NULL,
		"Measure the engine with random weights.", NULL, NULL, NULL};
	static struct arguments a = {.o = {.shape = "130m",
					     .device = "cpu",
					     .weights = M2_DTYPE_BF16,
					     .state = M2_DTYPE_F32,
					     .n_batch = -1,
					     .n_prefill = -1,
					     .seconds = 0.2}};
	static struct bench_run b = {.o = &a.o};
	struct m2_why why = {.text = ""};
	if (argp_parse(&argp, argc, argv, 0, NULL, &a) != 0)
		return 2;
	set_defaults(&a.o);
	enum m2_err err = describe(&a, &why);
	if (err == M2_OK)
		err = run(&b, &why);
	if (b.model != NULL)
		b.backend->unload(&b.model);
	if (b.device != NULL)
		b.backend->close(&b.device);
	if (err != M2_OK)
		(void)fprintf(stderr, "mamba2-bench: %s\n", why.text);
	return err == M2_OK ? 0 : 1;
}
