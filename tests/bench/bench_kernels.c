/* bench_kernels.c - how fast the cpu backend is, beside what the memory of this machine allows.
 *
 * For two shapes (mamba2-130m and the bundled demo model), f32 and bf16, 1 and 2 threads: decode of
 * 1, 8 and 32 sequences, a prompt of 512 tokens in the chunked form and by the recurrence alone.
 * Share: bytes that a step must move (weights once, each state read and written) over its time, as
 * a part of the read bandwidth measured with as many threads over as many bytes as the model has.
 * A model that fits a cache may show more than all of it.  Weights are random; the numbers do not
 * depend on them.  Prints figures, judges nothing.
 *
 *     bench_kernels [--isa NAME] [--threads N] [--seconds S]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/model.h"

enum { PROMPT = 512, BATCH = 32, TABLE = 1 << 16 };

struct settings {
	const char *isa;
	int32_t threads; /* 0: 1 and 2 */
	double seconds;  /* of each measurement */
};

static double now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- a model of random weights -------------------------------------------------------------- */

struct weights {
	struct m2_model_desc desc;
	enum m2_dtype dtype;
	float table[TABLE];
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
static enum m2_err weight_read(void *ctx, int layer, enum m2_weight which, size_t first, size_t n,
	void *dst, struct m2_why *why)
{
	const struct weights *w = ctx;
	const enum m2_dtype dtype = weight_dtype(ctx, layer, which);
	const size_t size = m2_dtype_bytes(dtype);
	(void)first;
	(void)why;
	for (size_t done = 0; done < n && done < TABLE; done += TABLE)
		m2_dtype_from_f32(dst, dtype, w->table, n < TABLE ? n : TABLE);
	for (size_t done = TABLE; done < n; done += TABLE)
		memcpy((char *)dst + done * size, dst,
			(n - done < TABLE ? n - done : TABLE) * size);
	return M2_OK;
}

static struct m2_model_desc shape(const char *name)
{
	struct m2_model_desc m = {
		.hidden_size = 768,
		.n_layers = 24,
		.vocab_rows = 50288,
		.n_heads = 24,
		.head_dim = 64,
		.state_size = 128,
		.n_groups = 1,
		.conv_kernel = 4,
		.norm_groups = 1,
		.tied_head = true,
		.conv_bias = true,
		.gated_norm = true,
		.norm_eps = 1e-5f,
		.dt_max = INFINITY,
	};
	if (strcmp(name, "demo") == 0) {
		m.hidden_size = 256;
		m.n_layers = 8;
		m.vocab_rows = 2048;
		m.n_heads = 8;
		m.state_size = 64;
	}
	return m;
}

/* ---- bandwidth ------------------------------------------------------------------------------ */

struct reading {
	const struct m2_device *device;
	const uint64_t *words;
	size_t n; /* a multiple of 64 */
	uint64_t sums[256][8];
};

typedef uint64_t wide __attribute__((vector_size(16)));

/* Four places at a time and asking ahead: one plain walk gets half of what the memory can give. */
static void read_part(void *ctx, int32_t thread)
{
	enum { STREAMS = 4, LINE = 64, AHEAD = 1024 };
	struct reading *r = ctx;
	const size_t threads = (size_t)r->device->threads;
	const size_t lines = r->n / 8 / threads / STREAMS; /* of one stream */
	const char *first = (const char *)r->words + (size_t)thread * STREAMS * lines * LINE;
	wide sum[4] = {{0}, {0}, {0}, {0}};
	for (size_t line = 0; line < lines; line++) {
		for (size_t stream = 0; stream < STREAMS; stream++) {
			const char *at = first + (stream * lines + line) * LINE;
			const wide *words = (const wide *)(const void *)at;
			__builtin_prefetch(at + AHEAD);
			for (int i = 0; i < 4; i++)
				sum[i] += words[i];
		}
	}
	memcpy(r->sums[thread], sum, sizeof sum);
}

/* Bytes per second of reading `bytes` bytes over and over, the best of several passes. */
static double bandwidth(const struct m2_device *device, size_t bytes)
{
	static struct reading r;
	bytes &= ~(size_t)511;
	void *memory = m2_region_create(bytes);
	double best = 0;
	if (memory == NULL)
		return NAN;
	memset(memory, 1, bytes);
	r = (struct reading){.device = device, .words = memory, .n = bytes / 8};
	const double until = now() + 0.4;
	for (int pass = 0; pass < 5 || now() < until; pass++) {
		const double start = now();
		m2_pool_run(device->pool, read_part, &r);
		const double rate = (double)bytes / (now() - start);
		best = rate > best ? rate : best;
	}
	m2_region_destroy(memory, bytes);
	return best;
}

/* ---- measurements --------------------------------------------------------------------------- */

struct bench {
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_model *model;
	struct m2_footprint footprint;
	int32_t vocab_rows;
	int32_t tokens[PROMPT];
	float *logits;
	double seconds;
};

/* The shortest step of `batch` sequences, one token each. */
static double decode(struct bench *b, int32_t batch)
{
	struct m2_work items[BATCH];
	double best = INFINITY;
	for (int32_t i = 0; i < batch; i++) {
		items[i] = (struct m2_work){
			.slot = i,
			.n_tokens = 1,
			.tokens = &b->tokens[i],
			.logits = b->logits + (size_t)i * (size_t)b->vocab_rows,
		};
		(void)b->backend->slot_reset(b->model, i);
	}
	const double until = now() + b->seconds;
	for (int64_t position = 0; position < 4 || now() < until; position++) {
		for (int32_t i = 0; i < batch; i++)
			items[i].position = position;
		const double start = now();
		if (b->backend->step(b->model, items, batch, NULL) != M2_OK)
			return NAN;
		const double took = now() - start;
		best = took < best ? took : best;
	}
	return best;
}

static double prefill(struct bench *b, bool chunked)
{
	double best = INFINITY;
	b->model->chunked = chunked;
	const double until = now() + b->seconds;
	for (int pass = 0; pass < 2 || now() < until; pass++) {
		const struct m2_work work = {
			.n_tokens = PROMPT,
			.tokens = b->tokens,
			.logits_first = PROMPT - 1,
			.logits = b->logits,
		};
		(void)b->backend->slot_reset(b->model, 0);
		const double start = now();
		if (b->backend->step(b->model, &work, 1, NULL) != M2_OK)
			return NAN;
		const double took = now() - start;
		best = took < best ? took : best;
	}
	b->model->chunked = true;
	return best;
}

static void report(struct bench *b, const char *name, const struct weights *w)
{
	static const int32_t batches[] = {1, 8, BATCH};
	enum { BATCHES = sizeof batches / sizeof batches[0] };
	const double weights = (double)b->footprint.weights;
	double took[BATCHES], limit = bandwidth(b->device, (size_t)weights);

	for (int i = 0; i < BATCHES; i++)
		took[i] = decode(b, batches[i]);
	/* Before and after: on a shared machine either may meet a neighbour. */
	limit = fmax(limit, bandwidth(b->device, (size_t)weights));
	(void)printf("%-5s %-5s %d thread%s %6.1f GB/s", name, m2_dtype_name(w->dtype),
		b->device->threads, b->device->threads == 1 ? " " : "s", limit * 1e-9);
	for (int i = 0; i < BATCHES; i++) {
		const double bytes = weights + 2.0 * batches[i] * (double)b->footprint.per_slot;
		(void)printf(
			" | %8.1f %3.0f%%", batches[i] / took[i], 100.0 * bytes / took[i] / limit);
	}
	(void)fflush(stdout);
	(void)printf(" | %8.1f", PROMPT / prefill(b, true));
	(void)printf(" %8.1f\n", PROMPT / prefill(b, false));
	(void)fflush(stdout);
}

static int run(const struct settings *s, const char *name, struct weights *w, int32_t threads)
{
	const struct m2_weight_source source = {w, weight_dtype, weight_read};
	const struct m2_load_options load = {
		.state = M2_DTYPE_F32, .slots = BATCH, .max_tokens = PROMPT, .max_items = BATCH};
	const struct m2_device_options device = {.threads = threads, .isa = s->isa};
	struct bench b = {.vocab_rows = w->desc.vocab_rows, .seconds = s->seconds};
	struct m2_why why = {0};

	for (int32_t i = 0; i < PROMPT; i++)
		b.tokens[i] = i * 7 % w->desc.vocab_rows;
	b.logits = malloc(BATCH * (size_t)w->desc.vocab_rows * sizeof(float));
	enum m2_err err = m2_backend_find("cpu", &b.backend, &why);
	if (err == M2_OK)
		err = b.backend->open(&device, &b.device, &why);
	if (err == M2_OK)
		err = b.backend->plan(b.device, &w->desc, &source, &load, &b.footprint, &why);
	if (err == M2_OK)
		err = b.backend->load(b.device, &w->desc, &source, &load, &b.model, &why);
	if (err == M2_OK && b.logits != NULL)
		report(&b, name, w);
	else
		(void)fprintf(stderr, "bench_kernels: %s\n", why.text);
	free(b.logits);
	if (b.model != NULL)
		b.backend->unload(&b.model);
	if (b.device != NULL)
		b.backend->close(&b.device);
	return err == M2_OK ? 0 : 1;
}

static int parse(int argc, char **argv, struct settings *s)
{
	for (int i = 1; i < argc; i += 2) {
		if (i + 1 < argc && strcmp(argv[i], "--isa") == 0)
			s->isa = argv[i + 1];
		else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0)
			s->threads = (int32_t)strtol(argv[i + 1], NULL, 10);
		else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0)
			s->seconds = strtod(argv[i + 1], NULL);
		else
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"130m", "demo"};
	static const enum m2_dtype dtypes[] = {M2_DTYPE_BF16, M2_DTYPE_F32};
	struct settings s = {.isa = "auto", .seconds = 0.3};
	static struct weights w;
	int failed = 0;

	if (parse(argc, argv, &s) != 0) {
		(void)fprintf(
			stderr, "usage: bench_kernels [--isa NAME] [--threads N] [--seconds S]\n");
		return 2;
	}
	for (uint32_t i = 0, x = 1; i < TABLE; i++, x = x * 1664525u + 1013904223u)
		w.table[i] = ((float)(x >> 8) * 0x1p-23f - 1.0f) * 0.06f;
	(void)printf(
		"isa %s; tok/s and share of the bandwidth at a batch of 1, 8, 32; prompt of %d "
		"tokens, tok/s, chunked and recurrent\n",
		s.isa, PROMPT);
	for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
		w.desc = shape(names[n]);
		for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
			w.dtype = dtypes[d];
			for (int32_t threads = 1; threads <= 2; threads++)
				if (s.threads == 0 || threads == 1)
					failed |= run(&s, names[n], &w,
						s.threads > 0 ? s.threads : threads);
		}
	}
	return failed;
}
