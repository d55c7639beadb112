/* main.c - mamba2-bench: the engine alone, with random weights, against the machine's own limits.
 *
 * No files, no sockets, no tokenizer: a model of a published shape (or any other) with cheap random
 * numbers, decode at several batch sizes and prompts of several lengths.  A figure is the median of
 * rounds.  Bytes are those a step must move: weights once, each sequence's state read and written.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

enum { TABLE = 8192, LIST = 16, ROUNDS = 7 };

struct options {
	const char *shape;
	const char *device;
	enum m2_dtype dtype;
	int32_t batch[LIST];
	int n_batch;
	int32_t prefill[LIST];
	int n_prefill;
	int32_t steps;
	bool logits;
};

static double now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the model ------------------------------------------------------------------------------ */

static const struct {
	const char *name;
	int32_t hidden, layers, groups, vocab;
	bool tied;
} shapes[] = {
	{"130m", 768, 24, 1, 50288, true},
	{"370m", 1024, 48, 1, 50288, true},
	{"780m", 1536, 48, 1, 50288, true},
	{"1.3b", 2048, 48, 1, 50288, true},
	{"2.7b", 2560, 64, 1, 50288, true},
	{"7b", 4096, 64, 8, 32768, false},
};

static bool shape_of(const char *name, struct m2_model_desc *m)
{
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
		if (strcmp(shapes[i].name, name) != 0)
			continue;
		*m = (struct m2_model_desc){
			.hidden_size = shapes[i].hidden,
			.n_layers = shapes[i].layers,
			.vocab_rows = shapes[i].vocab,
			.n_heads = shapes[i].hidden / 32,
			.head_dim = 64,
			.state_size = 128,
			.n_groups = shapes[i].groups,
			.conv_kernel = 4,
			.norm_groups = shapes[i].groups,
			.tied_head = shapes[i].tied,
			.conv_bias = true,
			.gated_norm = true,
			.norm_eps = 1e-5f,
			.dt_max = __builtin_inff(),
		};
		return true;
	}
	return false;
}

struct weights {
	enum m2_dtype dtype;
	float table[TABLE];
	unsigned char packed[TABLE * 4];
};

static enum m2_dtype weight_dtype(void *ctx, int layer, enum m2_weight which)
{
	const struct weights *w = ctx;
	(void)layer;
	const bool matrix = which == M2_W_EMBEDDING || which == M2_W_IN_PROJ ||
			    which == M2_W_OUT_PROJ || which == M2_W_HEAD;
	return matrix ? w->dtype : M2_DTYPE_F32;
}

/* Small random numbers over and over: cheap to make, and no step overflows. */
static enum m2_err weight_read(void *ctx, int layer, enum m2_weight which, size_t first,
	size_t count, void *dst, struct m2_why *why)
{
	const struct weights *w = ctx;
	const enum m2_dtype dtype = weight_dtype(ctx, layer, which);
	const size_t size = m2_dtype_bytes(dtype);
	const void *from = dtype == M2_DTYPE_F32 ? (const void *)w->table : (const void *)w->packed;
	(void)first;
	(void)why;
	for (size_t done = 0; done < count; done += TABLE)
		memcpy((char *)dst + done * size, from,
			(count - done < TABLE ? count - done : TABLE) * size);
	return M2_OK;
}

static void fill_table(struct weights *w, enum m2_dtype dtype)
{
	uint64_t x = 88172645463325252u;
	w->dtype = dtype;
	for (int i = 0; i < TABLE; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		w->table[i] = (float)((double)(int64_t)x * 0x1p-63 * 0.04);
	}
	m2_dtype_from_f32(w->packed, dtype, w->table, TABLE);
}

/* ---- measuring ------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

struct bench {
	const struct options *o;
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_model_desc desc;
	struct weights weights;
};

/* What a measurement needs beside the model: items spans of the same tokens. */
struct spans {
	struct m2_work *work;
	int32_t *ids;
	float *logits;
};

static enum m2_err spans_create(
	const struct bench *b, int32_t items, int32_t tokens, struct spans *s, struct m2_why *why)
{
	const size_t vocab = (size_t)b->desc.vocab_rows;
	s->work = calloc((size_t)items, sizeof *s->work);
	s->ids = calloc((size_t)tokens, sizeof *s->ids);
	s->logits = calloc((size_t)items * vocab, sizeof *s->logits);
	if (s->work == NULL || s->ids == NULL || s->logits == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for %d spans", (int)items);
	for (int32_t t = 0; t < tokens; t++)
		s->ids[t] = (int32_t)((int64_t)t * 7919 % b->desc.vocab_rows);
	for (int32_t i = 0; i < items; i++)
		s->work[i] = (struct m2_work){.slot = i,
			.n_tokens = tokens,
			.tokens = s->ids,
			.logits_first = b->o->logits ? tokens - 1 : tokens,
			.logits = s->logits + (size_t)i * vocab};
	return M2_OK;
}

static void spans_destroy(struct spans *s)
{
	free(s->work);
	free(s->ids);
	free(s->logits);
}

/* Seconds of one step, the median of rounds of `steps`; the first round warms up. */
static enum m2_err time_steps(struct bench *b, struct m2_model *model, const struct spans *s,
	int32_t items, int32_t steps, double *seconds, struct m2_why *why)
{
	double times[ROUNDS];
	for (int round = -1; round < ROUNDS; round++) {
		const double start = now();
		for (int32_t step = 0; step < steps; step++) {
			const enum m2_err err = b->backend->step(model, s->work, items, why);
			if (err != M2_OK)
				return err;
			for (int32_t i = 0; i < items; i++)
				s->work[i].position += s->work[i].n_tokens;
		}
		if (round >= 0)
			times[round] = (now() - start) / (double)steps;
	}
	qsort(times, ROUNDS, sizeof times[0], by_value);
	*seconds = times[ROUNDS / 2];
	return M2_OK;
}

/* A step of `items` spans of `tokens` tokens on a model of its own. */
static enum m2_err measure(struct bench *b, int32_t items, int32_t tokens, int32_t steps,
	double *seconds, struct m2_footprint *footprint, struct m2_why *why)
{
	const struct m2_weight_source source = {&b->weights, weight_dtype, weight_read};
	const struct m2_load_options load = {.slots = items,
		.max_tokens = items * tokens,
		.max_items = items,
		.state = M2_DTYPE_F32};
	struct m2_model *model = NULL;
	struct spans s = {.work = NULL};
	enum m2_err err = b->backend->plan(b->device, &b->desc, &source, &load, footprint, why);
	if (err == M2_OK)
		err = b->backend->load(b->device, &b->desc, &source, &load, &model, why);
	if (err != M2_OK)
		return err;
	err = spans_create(b, items, tokens, &s, why);
	if (err == M2_OK)
		err = time_steps(b, model, &s, items, steps, seconds, why);
	spans_destroy(&s);
	b->backend->unload(&model);
	return err;
}

static enum m2_err run(struct bench *b, struct m2_why *why)
{
	struct m2_footprint f;
	double s = 0.0;
	for (int i = 0; i < b->o->n_batch; i++) {
		const int32_t n = b->o->batch[i];
		const enum m2_err err = measure(b, n, 1, b->o->steps, &s, &f, why);
		if (err != M2_OK)
			return err;
		const double bytes = (double)f.weights + 2.0 * (double)n * (double)f.per_slot;
		(void)printf("%-6s decode B=%-4d %9.3f ms %10.0f tok/s %8.0f GB/s\n", b->o->shape,
			(int)n, s * 1e3, n / s, bytes / s * 1e-9);
		(void)fflush(stdout);
	}
	for (int i = 0; i < b->o->n_prefill; i++) {
		const int32_t n = b->o->prefill[i];
		const enum m2_err err = measure(b, 1, n, 1, &s, &f, why);
		if (err != M2_OK)
			return err;
		(void)printf("%-6s prompt %-6d %9.3f ms %10.0f tok/s\n", b->o->shape, (int)n,
			s * 1e3, n / s);
		(void)fflush(stdout);
	}
	return M2_OK;
}

/* ---- options -------------------------------------------------------------------------------- */

static const struct argp_option argp_options[] = {
	{"shape", 's', "NAME", 0, "130m, 370m, 780m, 1.3b, 2.7b or 7b", 0},
	{"device", 'd', "DEVICE", 0, "cpu, ref or cuda:N (cpu)", 0},
	{"dtype", 't', "TYPE", 0, "weights: f32, f16 or bf16 (bf16)", 0},
	{"batch", 'b', "N,...", 0, "decode that many sequences at once", 0},
	{"prefill", 'p', "N,...", 0, "prompts of that many tokens", 0},
	{"steps", 'n', "N", 0, "steps of a round (20)", 0},
	{"no-logits", 'l', NULL, 0, "without the head", 0},
	{0},
};

static int numbers(const char *text, int32_t *out)
{
	int n = 0;
	char *end;
	for (const char *p = text; n < LIST && *p != '\0'; p = *end == ',' ? end + 1 : end) {
		const long value = strtol(p, &end, 10);
		if (end == p || value < 1 || value > 1 << 20)
			return 0;
		out[n++] = (int32_t)value;
	}
	return n;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	switch (key) {
	case 's':
		o->shape = arg;
		return 0;
	case 'd':
		o->device = arg;
		return 0;
	case 't':
		o->dtype = strcmp(arg, "f32") == 0   ? M2_DTYPE_F32
			   : strcmp(arg, "f16") == 0 ? M2_DTYPE_F16
						     : M2_DTYPE_BF16;
		return 0;
	case 'b':
		if ((o->n_batch = numbers(arg, o->batch)) == 0)
			argp_error(state, "--batch: numbers separated by commas");
		return 0;
	case 'p':
		if ((o->n_prefill = numbers(arg, o->prefill)) == 0)
			argp_error(state, "--prefill: numbers separated by commas");
		return 0;
	case 'n':
		o->steps = (int32_t)strtol(arg, NULL, 10);
		return o->steps > 0 ? 0 : EINVAL;
	case 'l':
		o->logits = false;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = {argp_options, take, NULL,
		"Measure the engine with random weights.", NULL, NULL, NULL};
	static struct bench b;
	static struct options o = {.shape = "130m",
		.device = "cpu",
		.dtype = M2_DTYPE_BF16,
		.steps = 20,
		.logits = true};
	struct m2_why why = {.text = ""};
	if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0)
		return 2;
	if (!shape_of(o.shape, &b.desc)) {
		(void)fprintf(stderr, "mamba2-bench: no shape named %s\n", o.shape);
		return 2;
	}
	b.o = &o;
	fill_table(&b.weights, o.dtype);
	const bool cuda = strncmp(o.device, "cuda", 4) == 0;
	const struct m2_device_options device = {
		.ordinal = cuda && o.device[4] == ':' ? atoi(o.device + 5) : 0};
	enum m2_err err = m2_backend_find(cuda ? "cuda" : o.device, &b.backend, &why);
	if (err == M2_OK)
		err = b.backend->open(&device, &b.device, &why);
	if (err == M2_OK)
		err = run(&b, &why);
	if (b.device != NULL)
		b.backend->close(&b.device);
	if (err != M2_OK)
		(void)fprintf(stderr, "mamba2-bench: %s\n", why.text);
	return err == M2_OK ? 0 : 1;
}
