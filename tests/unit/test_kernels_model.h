/* test_kernels_model.h - models with fresh random weights, and a bench to run them on.
 *
 * Weights are a function of (seed, layer, which, index), so nothing is stored and any two backends
 * read the same numbers.  Scales are those of a trained model's start: activations stay near 1, dt
 * between 0.001 and 0.1 and more, so every term of the recurrence counts.
 */
#ifndef M2_TESTS_UNIT_TEST_KERNELS_MODEL_H
#define M2_TESTS_UNIT_TEST_KERNELS_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

/* ---- random numbers ------------------------------------------------------------------------- */

static inline uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* The seed of this run: fresh, printed, and set by M2_SEED to see a run again. */
static inline uint64_t run_seed(void)
{
	const char *given = getenv("M2_SEED");
	struct timespec now;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	const uint64_t seed =
		given != NULL ? strtoull(given, NULL, 0) : mix64((uint64_t)now.tv_nsec) % 1000000u;
	(void)fprintf(stderr, "# M2_SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

struct rng {
	uint64_t state;
};

static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
	r->state++;
	return (uint32_t)(mix64(r->state) >> 33) % n;
}

/* -1 to 1, and about normal with variance 1. */
static inline double uniform(uint64_t bits)
{
	return (double)(int64_t)bits * 0x1p-63;
}

static inline float normal(uint64_t bits)
{
	double sum = 0;
	for (int i = 0; i < 4; i++)
		sum += (double)(bits >> 16 * i & 0xffffu) * 0x1p-16 - 0.5;
	return (float)(sum * 1.7320508);
}

/* ---- weights -------------------------------------------------------------------------------- */

struct random_model {
	struct m2_model_desc desc;
	uint64_t seed;
	enum m2_dtype matrices; /* as stored; vectors are stored as f32 */
	float noise; /* relative, on the numbers of matrices: to see what a rounding costs; 0: none */
};

static inline float random_weight(
	const struct random_model *r, enum m2_weight which, uint64_t bits, uint64_t more)
{
	const float n = normal(bits);
	switch (which) {
	case M2_W_IN_PROJ:
		return n / sqrtf((float)r->desc.hidden_size);
	case M2_W_OUT_PROJ:
		return n / sqrtf((float)m2_desc_out_cols(&r->desc));
	case M2_W_HEAD:
		return n / sqrtf((float)r->desc.hidden_size);
	case M2_W_CONV:
		return n / sqrtf((float)r->desc.conv_kernel);
	case M2_W_NORM:
	case M2_W_FINAL_NORM:
	case M2_W_GATED_NORM:
	case M2_W_D:
		return 1.0f + 0.2f * n;
	case M2_W_A_LOG: /* A from -1 to -16 */
		return (float)((uniform(more) + 1) * 1.386294);
	case M2_W_DT_BIAS: /* dt from 0.001 to 1 */
		return (float)(-3.5 + 3.5 * uniform(more));
	case M2_W_IN_BIAS:
	case M2_W_OUT_BIAS:
	case M2_W_CONV_BIAS:
		return 0.1f * n;
	default:
		return n;
	}
}

static inline enum m2_dtype random_dtype(void *ctx, int layer, enum m2_weight which)
{
	const struct random_model *r = ctx;
	(void)layer;
	const bool matrix = which == M2_W_EMBEDDING || which == M2_W_HEAD ||
			    which == M2_W_IN_PROJ || which == M2_W_OUT_PROJ;
	return matrix ? r->matrices : M2_DTYPE_F32;
}

static inline enum m2_err random_read(void *ctx, int layer, enum m2_weight which, size_t first,
	size_t count, void *dst, struct m2_why *why)
{
	const struct random_model *r = ctx;
	const enum m2_dtype dtype = random_dtype(ctx, layer, which);
	const size_t size = m2_dtype_bytes(dtype), n = m2_weight_elements(&r->desc, which);
	const uint64_t key = mix64(r->seed ^ mix64((uint64_t)(layer + 1) << 8 | (uint64_t)which));
	if (first > n || count > n - first)
		return m2_fail(M2_EINTERNAL, why, "asked for %zu elements from %zu of %zu", count,
			first, n);
	for (size_t i = 0; i < count; i++) {
		const uint64_t bits = mix64(key + first + i);
		float value = random_weight(r, which, bits, bits << 17 | bits >> 47);
		value += value * r->noise * normal(mix64(bits + 1));
		m2_dtype_from_f32((char *)dst + i * size, dtype, &value, 1);
	}
	return M2_OK;
}

static inline struct m2_weight_source random_source(struct random_model *r)
{
	return (struct m2_weight_source){.ctx = r, .dtype = random_dtype, .read = random_read};
}

/* ---- shapes --------------------------------------------------------------------------------- */

/* The common shape of trained models, small; tests change what they are about. */
static inline struct m2_model_desc plain_desc(void)
{
	return (struct m2_model_desc){
		.hidden_size = 64,
		.n_layers = 2,
		.vocab_rows = 131,
		.n_heads = 4,
		.head_dim = 32,
		.state_size = 16,
		.n_groups = 1,
		.conv_kernel = 4,
		.norm_groups = 1,
		.tied_head = true,
		.conv_bias = true,
		.gated_norm = true,
		.norm_eps = 1e-5f,
		.dt_max = INFINITY,
	};
}

/* Any shape and any set of switches, small enough for the definition. */
static inline struct m2_model_desc random_desc(struct rng *r)
{
	struct m2_model_desc m = plain_desc();
	m.n_groups = 1 + (int32_t)rng_below(r, 3);
	m.n_heads = m.n_groups * (1 + (int32_t)rng_below(r, 3));
	m.head_dim = 1 + (int32_t)rng_below(r, 90);
	m.state_size = 1 + (int32_t)rng_below(r, 70);
	m.hidden_size = 1 + (int32_t)rng_below(r, 150);
	m.conv_kernel = 1 + (int32_t)rng_below(r, 6);
	m.vocab_rows = 2 + (int32_t)rng_below(r, 200);
	m.n_layers = 1 + (int32_t)rng_below(r, 3);
	m.d_mlp = rng_below(r, 2) ? (int32_t)rng_below(r, 50) : 0;
	m.norm_groups = rng_below(r, 2) ? m.n_groups : 1;
	m.tied_head = rng_below(r, 2);
	m.proj_bias = rng_below(r, 2);
	m.conv_bias = rng_below(r, 2);
	m.gated_norm = rng_below(r, 4) != 0;
	m.norm_before_gate = rng_below(r, 2);
	m.d_per_channel = rng_below(r, 2);
	if (rng_below(r, 2)) {
		m.dt_min = 0.01f;
		m.dt_max = 0.3f;
	}
	return m;
}

/* ---- a model on a device -------------------------------------------------------------------- */

struct rig {
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_model *model;
	struct m2_model_desc desc;
	struct m2_footprint footprint;
	int32_t slots;
};

struct rig_options {
	const char *backend; /* NULL: cpu */
	const char *isa;
	int32_t threads; /* 0: 1 */
	enum m2_dtype weights;
	int32_t slots;      /* 0: 1 */
	int32_t max_tokens; /* 0: 512 */
};

static inline enum m2_err rig_open(
	struct rig *rig, struct random_model *r, struct rig_options o, struct m2_why *why)
{
	const struct m2_device_options device = {
		.threads = o.threads > 0 ? o.threads : 1, .isa = o.isa};
	const struct m2_weight_source source = random_source(r);
	const struct m2_load_options load = {
		.weights = o.weights,
		.state = M2_DTYPE_F32,
		.slots = o.slots > 0 ? o.slots : 1,
		.max_tokens = o.max_tokens > 0 ? o.max_tokens : 512,
		.max_items = o.slots > 0 ? o.slots : 1,
	};
	*rig = (struct rig){.desc = r->desc, .slots = load.slots};
	enum m2_err err =
		m2_backend_find(o.backend != NULL ? o.backend : "cpu", &rig->backend, why);
	if (err == M2_OK)
		err = rig->backend->open(&device, &rig->device, why);
	if (err == M2_OK)
		err = rig->backend->plan(
			rig->device, &r->desc, &source, &load, &rig->footprint, why);
	if (err == M2_OK)
		err = rig->backend->load(rig->device, &r->desc, &source, &load, &rig->model, why);
	return err;
}

static inline void rig_close(struct rig *rig)
{
	if (rig->model != NULL)
		rig->backend->unload(&rig->model);
	if (rig->device != NULL)
		rig->backend->close(&rig->device);
}

static inline void random_tokens(struct rng *r, int32_t *tokens, int32_t n, int32_t vocab)
{
	for (int32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)rng_below(r, (uint32_t)vocab);
}

/* ||a - b|| / ||b||; infinite if a has a NaN. */
static inline double relative_error(const float *a, const float *b, size_t n)
{
	double diff = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		const double d = (double)a[i] - (double)b[i];
		diff += d * d;
		norm += (double)b[i] * (double)b[i];
	}
	if (isnan(diff))
		return INFINITY;
	return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

#endif
