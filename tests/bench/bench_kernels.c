/* bench_kernels.c - how fast the cpu backend is, beside what the memory of this machine allows.
 *
 * Decode of 1, 8 and 32 sequences and prompts of 512 and 2048 tokens, of a published shape with
 * random weights (the numbers do not depend on them).  Everything is measured in rounds, one of each
 * kind after the other, and a round reads memory once, with as many threads and over as many bytes
 * as the model has, between the steps: on a shared machine what memory gives changes from second to
 * second.  Sequences of a batch stand at different positions, since a step does more at some of them.
 * Printed are the median of the rounds and the best; the share is the median of (bytes that a step must
 * move: weights once, and m2_footprint's per_step of each state) / time, as a part of the bandwidth
 * of the same round.  A model that fits a cache may show more than all of it, and so may a large
 * batch, whose states are written back while others are read.  Figures, not judgements.
 *
 *     bench_kernels [--shape NAME] [--dtype NAME] [--isa NAME] [--threads N] [--rounds N]
 *                   [--only decode|prefill]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/model.h"

enum {
	BATCH = 32,
	PLACES = 16,
	LONG = 2048,
	TABLE = 1 << 16,
	MOST_ROUNDS = 200,
	MOST_READ = 512 << 20
};

struct settings {
	const char *shape; /* NULL: 130m and demo */
	const char *dtype; /* NULL: bf16 and int8 */
	const char *isa;
	int32_t threads; /* 0: 1 and 2 */
	int32_t rounds;
	bool decode, prefill;
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
	static const struct {
		const char *name;
		int32_t hidden, layers;
	} larger[] = {
		{"370m", 1024, 48}, {"780m", 1536, 48}, {"1.3b", 2048, 48}, {"2.7b", 2560, 64}};
	for (size_t i = 0; i < sizeof larger / sizeof larger[0]; i++) {
		if (strcmp(name, larger[i].name) != 0)
			continue;
		m.hidden_size = larger[i].hidden;
		m.n_layers = larger[i].layers;
		m.n_heads = larger[i].hidden / 32;
	}
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

/* Memory that is read to know what memory gives. */
struct measure {
	struct reading reading;
	size_t bytes;
};

/* Bytes per second of one pass. */
static double bandwidth(struct measure *m)
{
	const double start = now();
	m2_pool_run(m->reading.device->pool, read_part, &m->reading);
	return (double)m->bytes / (now() - start);
}

static bool measure_create(struct measure *m, const struct m2_device *device, size_t bytes)
{
	m->bytes = (bytes < MOST_READ ? bytes : MOST_READ) & ~(size_t)511;
	void *memory = m2_region_create(m->bytes);
	m->reading = (struct reading){.device = device, .words = memory, .n = m->bytes / 8};
	if (memory != NULL)
		memset(memory, 1, m->bytes);
	return memory != NULL;
}

/* ---- measurements --------------------------------------------------------------------------- */

enum { B1, B8, B32, P512, P2048, KINDS };

static const struct {
	const char *name;
	int32_t batch, tokens, steps; /* steps of a round: the first of several warms up */
} kinds[KINDS] = {{"B=1", 1, 1, 17}, {"B=8", 8, 1, 3}, {"B=32", BATCH, 1, 2}, {"512", 1, 512, 1},
	{"2048", 1, LONG, 1}};

struct bench {
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_model *model;
	struct m2_footprint footprint;
	int32_t vocab_rows;
	int32_t tokens[LONG];
	float *logits;
	struct measure measure;
	double took[KINDS][MOST_ROUNDS];  /* seconds of a step */
	double share[KINDS][MOST_ROUNDS]; /* of the bandwidth */
	double limit[MOST_ROUNDS];
};

/* The mean of the later steps of a round, before which sequence i of a batch gets i tokens modulo PLACES;
 * of the only one. */
static double one_round(struct bench *b, int kind)
{
	struct m2_work items[BATCH];
	double took = 0;
	for (int32_t i = 0; i < kinds[kind].batch; i++) {
		const int32_t tokens = kinds[kind].tokens > 1 ? kinds[kind].tokens : 1 + i % PLACES;
		items[i] = (struct m2_work){
			.slot = i,
			.n_tokens = tokens,
			.tokens = b->tokens,
			.logits_first = tokens - 1,
			.logits = b->logits + (size_t)i * (size_t)b->vocab_rows,
		};
		(void)b->backend->slot_reset(b->model, i);
	}
	for (int32_t step = 0; step < kinds[kind].steps; step++) {
		const double start = now();
		if (b->backend->step(b->model, items, kinds[kind].batch, NULL) != M2_OK)
			return NAN;
		if (step > 0 || kinds[kind].steps == 1)
			took += now() - start;
		for (int32_t i = 0; i < kinds[kind].batch; i++) {
			items[i].position += items[i].n_tokens;
			items[i].n_tokens = 1;
			items[i].logits_first = 0;
		}
	}
	return took / (kinds[kind].steps > 1 ? kinds[kind].steps - 1 : 1);
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values, int32_t n)
{
	qsort(values, (size_t)n, sizeof *values, by_value);
	return values[n / 2];
}

static bool wanted(const struct settings *s, int kind)
{
	return kinds[kind].tokens > 1 ? s->prefill : s->decode;
}

static void report(struct bench *b, const struct settings *s, const char *shape, const char *dtype)
{
	const double weights = (double)b->footprint.weights;
	for (int32_t round = -1; round < s->rounds; round++) {
		const int32_t at = round < 0 ? 0 : round; /* the first warms up */
		b->limit[at] = bandwidth(&b->measure);
		for (int kind = 0; kind < KINDS; kind++) {
			if (!wanted(s, kind))
				continue;
			const double bytes =
				weights + kinds[kind].batch * (double)b->footprint.per_step;
			b->took[kind][at] = one_round(b, kind);
			b->share[kind][at] = bytes / b->took[kind][at] / b->limit[at];
		}
	}
	(void)printf("%-5s %-5s %d thread%s %5.1f GB/s", shape, dtype, b->device->threads,
		b->device->threads == 1 ? " " : "s", median(b->limit, s->rounds) * 1e-9);
	for (int kind = 0; kind < KINDS; kind++) {
		if (!wanted(s, kind))
			continue;
		const double tokens = kinds[kind].batch * kinds[kind].tokens;
		const double usual = median(b->took[kind], s->rounds);
		(void)printf(" | %s %.1f (%.1f)", kinds[kind].name, tokens / usual,
			tokens / b->took[kind][0]);
		if (kinds[kind].tokens == 1)
			(void)printf(" %.0f%%", 100.0 * median(b->share[kind], s->rounds));
	}
	(void)printf("\n");
	(void)fflush(stdout);
}

static int run(const struct settings *s, const char *shape, const char *dtype, struct weights *w,
	int32_t threads)
{
	const struct m2_weight_source source = {w, weight_dtype, weight_read};
	const struct m2_load_options load = {
		.weights = strcmp(dtype, "int8") == 0 ? M2_DTYPE_INT8 : M2_DTYPE_NONE,
		.state = M2_DTYPE_F32,
		.slots = s->decode ? BATCH : 1,
		.max_tokens = s->prefill ? LONG : BATCH * PLACES,
		.max_items = BATCH};
	const struct m2_device_options device = {.threads = threads, .isa = s->isa};
	static struct bench b;
	struct m2_why why = {0};

	b = (struct bench){.vocab_rows = w->desc.vocab_rows};
	for (int32_t i = 0; i < LONG; i++)
		b.tokens[i] = i * 7 % w->desc.vocab_rows;
	b.logits = malloc(BATCH * (size_t)w->desc.vocab_rows * sizeof(float));
	enum m2_err err = m2_backend_find("cpu", &b.backend, &why);
	if (err == M2_OK)
		err = b.backend->open(&device, &b.device, &why);
	if (err == M2_OK)
		err = b.backend->plan(b.device, &w->desc, &source, &load, &b.footprint, &why);
	if (err == M2_OK)
		err = b.backend->load(b.device, &w->desc, &source, &load, &b.model, &why);
	if (err == M2_OK && b.logits != NULL &&
		measure_create(&b.measure, b.device, (size_t)b.footprint.weights)) {
		report(&b, s, shape, dtype);
		m2_region_destroy((void *)(uintptr_t)b.measure.reading.words, b.measure.bytes);
	} else {
		(void)fprintf(stderr, "bench_kernels: %s\n", why.text);
	}
	free(b.logits);
	if (b.model != NULL)
		b.backend->unload(&b.model);
	if (b.device != NULL)
		b.backend->close(&b.device);
	return err == M2_OK ? 0 : 1;
}

static int parse(int argc, char **argv, struct settings *s)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--isa") == 0)
			s->isa = argv[i + 1];
		else if (strcmp(argv[i], "--shape") == 0)
			s->shape = argv[i + 1];
		else if (strcmp(argv[i], "--dtype") == 0)
			s->dtype = argv[i + 1];
		else if (strcmp(argv[i], "--threads") == 0)
			s->threads = (int32_t)strtol(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--rounds") == 0)
			s->rounds = (int32_t)strtol(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--only") == 0)
			s->decode = !(s->prefill = strcmp(argv[i + 1], "prefill") == 0);
		else
			return 1;
	}
	return argc % 2 == 0 || s->rounds < 1 || s->rounds > MOST_ROUNDS;
}

static bool is_asked(const char *asked, const char *name, bool usual)
{
	return asked != NULL ? strcmp(asked, name) == 0 : usual;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"130m", "demo", "370m", "780m", "1.3b", "2.7b"};
	static const char *const dtypes[] = {"bf16", "int8", "f16", "f32"};
	struct settings s = {.isa = "auto", .rounds = 15, .decode = true, .prefill = true};
	static struct weights w;
	int failed = 0;

	if (parse(argc, argv, &s) != 0) {
		(void)fprintf(stderr,
			"usage: bench_kernels [--shape NAME] [--dtype NAME] [--isa NAME] "
			"[--threads N] [--rounds 1..%d] [--only decode|prefill]\n",
			MOST_ROUNDS);
		return 2;
	}
	for (uint32_t i = 0, x = 1; i < TABLE; i++, x = x * 1664525u + 1013904223u)
		w.table[i] = ((float)(x >> 8) * 0x1p-23f - 1.0f) * 0.06f;
	(void)printf("isa %s; tok/s: median (best) of %d rounds, median share of the bandwidth\n",
		s.isa, s.rounds);
	for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
		if (!is_asked(s.shape, names[n], n < 2))
			continue;
		w.desc = shape(names[n]);
		for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
			if (!is_asked(s.dtype, dtypes[d], d < 2))
				continue;
			w.dtype = d == 3 ? M2_DTYPE_F32 : d == 2 ? M2_DTYPE_F16 : M2_DTYPE_BF16;
			for (int32_t threads = 1; threads <= 2; threads++)
				if (s.threads == 0 || threads == 1)
					failed |= run(&s, names[n], dtypes[d], &w,
						s.threads > 0 ? s.threads : threads);
		}
	}
	return failed;
}
