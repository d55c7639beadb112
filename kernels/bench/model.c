/* model.c - models of random weights: the published shapes, or any other.
 *
 * Small numbers from one table over and over: cheap to make, and no step overflows.  Speed does not
 * depend on them.
 */
#include <math.h>
#include <string.h>

#include "kernels/bench/bench.h"

enum { TABLE = 8192 };

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

bool bench_shape(const char *name, struct m2_model_desc *m)
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
			.dt_max = INFINITY,
		};
		return true;
	}
	return false;
}

/* ---- weights -------------------------------------------------------------------------------- */

struct weights {
	enum m2_dtype dtype; /* as "stored" */
	float table[TABLE];
	unsigned char packed[TABLE * 4];
};

static bool is_matrix(enum m2_weight which)
{
	return which == M2_W_EMBEDDING || which == M2_W_IN_PROJ || which == M2_W_OUT_PROJ ||
	       which == M2_W_HEAD;
}

static enum m2_dtype weight_dtype(void *ctx, int layer, enum m2_weight which)
{
	const struct weights *w = ctx;
	(void)layer;
	return is_matrix(which) ? w->dtype : M2_DTYPE_F32;
}

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

/* ---- loading -------------------------------------------------------------------------------- */

static int32_t largest(const int32_t *list, int n, int32_t below)
{
	int32_t most = 0;
	for (int i = 0; i < n; i++)
		if (list[i] > most && list[i] < below)
			most = list[i];
	return most;
}

static struct m2_load_options options_for(const struct bench_options *o, int32_t slots)
{
	const int32_t prompt = largest(o->prefill, o->n_prefill, INT32_MAX);
	return (struct m2_load_options){
		.weights = o->weights == M2_DTYPE_INT8 ? o->weights : M2_DTYPE_NONE,
		.state = o->state,
		.slots = slots,
		.max_tokens = prompt > slots ? prompt : slots,
		.max_items = slots,
	};
}

/* The largest batch of the list that the device has room for; 0: not even one fits. */
static enum m2_err choose_slots(struct bench_run *b, const struct m2_weight_source *source,
	int32_t *slots, struct m2_why *why)
{
	const struct bench_options *o = b->o;
	int32_t n = largest(o->batch, o->n_batch, INT32_MAX);
	for (n = n > 0 ? n : 1; n > 0; n = largest(o->batch, o->n_batch, n)) {
		const struct m2_load_options load = options_for(o, n);
		struct m2_footprint *f = &b->footprint;
		const enum m2_err err =
			b->backend->plan(b->device, &o->desc, source, &load, f, why);
		if (err != M2_OK)
			return err;
		*slots = n;
		if (f->weights + f->state + f->workspace <= b->info.memory_free)
			return M2_OK;
	}
	return m2_fail(M2_ENOMEM, why,
		"a batch of %d takes %llu bytes of weights, %llu of state and %llu of workspace; "
		"%llu are free",
		(int)*slots, (unsigned long long)b->footprint.weights,
		(unsigned long long)b->footprint.state, (unsigned long long)b->footprint.workspace,
		(unsigned long long)b->info.memory_free);
}

/* After a load: what the device has less than before, and what it says of the model. */
static void look_at_model(struct bench_run *b, uint64_t free_before)
{
	struct m2_device_info now;
	b->backend->info(b->device, &now);
	if (b->backend->owns_memory && now.memory_free < free_before)
		b->measured = free_before - now.memory_free;
	if (b->backend->describe != NULL)
		b->backend->describe(b->model, b->runs, sizeof b->runs);
}

enum m2_err bench_load(struct bench_run *b, struct m2_why *why)
{
	static struct weights weights;
	const struct bench_options *o = b->o;
	const struct m2_weight_source source = {&weights, weight_dtype, weight_read};
	int32_t slots = 0;
	fill_table(&weights, o->weights == M2_DTYPE_INT8 ? M2_DTYPE_BF16 : o->weights);
	enum m2_err err = choose_slots(b, &source, &slots, why);
	if (err != M2_OK)
		return err;
	const struct m2_load_options load = options_for(o, slots);
	struct m2_device_info before;
	b->backend->info(b->device, &before);
	const double start = bench_now();
	err = b->backend->load(b->device, &o->desc, &source, &load, &b->model, why);
	b->load_seconds = bench_now() - start;
	if (err == M2_OK)
		look_at_model(b, before.memory_free);
	for (int i = 0; i < o->n_batch; i++)
		b->decode[i] =
			(struct bench_figure){.n = o->batch[i], .fits = o->batch[i] <= slots};
	for (int i = 0; i < o->n_prefill; i++)
		b->prefill[i] = (struct bench_figure){.n = o->prefill[i], .fits = true};
	return err;
}

/* ---- what a step has to do ------------------------------------------------------------------ */

double bench_weight_bytes(const struct bench_run *b)
{
	const struct m2_model_desc *m = &b->o->desc;
	/* of an embedding that is not the head a step reads a few rows */
	const double rows = m->tied_head ? 0.0 : (double)m2_weight_elements(m, M2_W_EMBEDDING);
	return (double)b->footprint.weights - rows * (double)m2_dtype_bytes(b->o->weights);
}

double bench_slot_bytes(const struct bench_run *b)
{
	const struct m2_footprint *f = &b->footprint;
	return f->per_step > 0 ? (double)f->per_step : 2.0 * (double)f->per_slot;
}

double bench_layer_operations(const struct m2_model_desc *m)
{
	return 2.0 * (double)m->n_layers *
	       ((double)m2_weight_elements(m, M2_W_IN_PROJ) +
		       (double)m2_weight_elements(m, M2_W_OUT_PROJ));
}

double bench_head_operations(const struct m2_model_desc *m)
{
	return 2.0 * (double)m2_weight_elements(m, M2_W_EMBEDDING);
}
