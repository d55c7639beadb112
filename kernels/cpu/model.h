/* model.h - a model resident in the cpu backend; private to kernels/cpu and its tests.
 *
 * Three regions hold all of it: weights, state, workspace; this struct is the first piece of the
 * workspace.  A slot is one run of floats: struct m2_cpu_slot_head; per layer the last K-1 raw columns
 * of the convolution, oldest first, [K-1][channel_stride]; then per layer its heads (kernels.h) and per
 * group the newest B, [N][M2_RING], position p in column p % M2_RING.  Every token that is computed
 * alone leaves its row and columns, so the bytes are its tokens' alone, whatever the cuts.
 */
#ifndef M2_KERNELS_CPU_MODEL_H
#define M2_KERNELS_CPU_MODEL_H

#include <stdatomic.h>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/matrix.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/pool.h"

/* So few tokens that every thread makes the inputs of a product for itself: that takes less time
 * than to wait for whoever else would. */
enum { M2_FEW = 4 };

struct m2_device {
	const struct m2_cpu_kernels *kernels;
	struct m2_pool *pool; /* NULL: one thread */
	int32_t threads;
};

struct m2_cpu_layer {
	struct m2_matrix in_proj;
	struct m2_matrix
		dt_proj; /* the last rows of in_proj if those are kept apart; else 0 rows */
	struct m2_matrix out_proj;
	float *norm;
	float *in_bias; /* NULL: none; so the others */
	float *conv;    /* [K][channel_stride] */
	float *conv_bias;
	float *dt_bias;
	float *a; /* -exp(A_log), finite */
	float *d;
	float *gated_norm;
	float *out_bias;
};

/* Of positions since the states were written: what slot_export cannot see in them. */
struct m2_cpu_slot_head {
	_Alignas(M2_CPU_ALIGN) int32_t row; /* position % M2_RING */
};

/* Buffers of one thread, and what of its part of a phase has been taken; see share.h. */
struct m2_cpu_thread {
	_Alignas(M2_CPU_ALIGN) atomic_int taken[2];
	int32_t phase; /* its own: which of the two */
	float *tile;   /* [M2_TILE][M2_TILE_ROWS] */
	float *wide;   /* a panel as F32, [widest][M2_PANEL]; NULL if that is too large to help */
	float *packed; /* inputs of a product of at most M2_FEW tokens, as in m2_model */
	float *row;    /* the longest input of a product */
	struct m2_head_scratch head;
	float *cb; /* of replay_cb, [M2_RING][M2_RING], of row cb_row of the buffers and cb_group */
	float *bt; /* [N][M2_RING] */
	int32_t cb_row;
	int32_t cb_group;
};

/* An item of the step in progress: its tokens stand in rows `first` on of all buffers; the first
 * `lead` and those behind the chunks are replayed, `chunks` whole chunks between them. */
struct m2_cpu_item {
	int32_t slot;
	int32_t first;
	int32_t tokens;
	int32_t ring; /* row of the first in its ring */
	int32_t lead;
	int32_t chunks;
	int32_t first_chunk; /* index of the first of them in the step */
};

/* A pick of the step in progress. */
struct m2_cpu_choice {
	const struct m2_work *work;
	const float *row;
};

/* How the columns of a product's input are grouped: tiles of `size` tokens, the last one smaller. */
struct m2_cpu_tiles {
	int32_t tokens;
	int32_t size;
};

struct m2_model {
	struct m2_model_desc desc;
	struct m2_device *device;
	struct m2_footprint footprint;
	int32_t slots;
	int32_t max_tokens;
	int32_t max_items;
	bool chunked; /* prompts in the chunked form; tests and the bench also try without */

	void *regions[3]; /* weights, state, workspace */
	struct m2_matrix embedding;
	struct m2_matrix head; /* the same bytes when tied */
	float *final_norm;
	struct m2_cpu_layer *layers;

	int32_t padded_dim;
	int32_t channel_stride;
	size_t conv_floats; /* of one layer of one slot */
	size_t head_floats; /* of one head of that */
	size_t ssm_floats;  /* of all heads and groups of that */
	float *state;
	size_t slot_floats;

	/* The step in progress. */
	struct m2_cpu_item *items;     /* [max_items] */
	int32_t *tokens;               /* [max_tokens], all items' tokens in a row */
	int32_t *chunk_first;          /* [max_tokens / M2_CHUNK], first row of each whole chunk */
	int32_t *wanted;               /* [max_tokens], rows whose logits are wanted, */
	float **wanted_out;            /* and where they go */
	struct m2_cpu_choice *choices; /* [max_items], the picks of this step */
	int32_t *picked; /* [slots] 1 + what the slot's last step picked, 0: nothing */
	int32_t n_items;
	int32_t n_chunks;
	int32_t n_choices;
	struct m2_cpu_tiles all;   /* of all tokens */
	struct m2_cpu_tiles asked; /* of the wanted ones */

	/* Its buffers, poisoned as one piece by m2_cpu_poison. */
	void *buffers;
	size_t buffer_bytes;
	size_t in_stride; /* of in_out */
	float *residual;  /* [max_tokens][d] */
	float *packed;    /* inputs of a product, tile after tile, [cols][tokens of the tile] */
	float *in_out;    /* [max_tokens][in_stride]: z0 x0 z xBC dt */
	float *xbc;       /* [max_tokens][channel_stride], after the convolution */
	float *dt;        /* [max_tokens][H] */
	float *y;         /* [max_tokens][Ds] */
	float *cb;        /* [max_tokens / M2_CHUNK][G][M2_CHUNK][M2_CHUNK] */
	float *pick_rows; /* [max_items][V], logits that only a pick is made of */
	struct m2_cpu_thread *threads;
};

/* load.c; contracts in kernels/backend.h. */
enum m2_err m2_cpu_plan(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_footprint *out, struct m2_why *why);
enum m2_err m2_cpu_load(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why);
void m2_cpu_unload(struct m2_model **model);

/* step.c; contract in kernels/backend.h. */
enum m2_err m2_cpu_step(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why);

/* The work of one thread in layer `layer` between in_proj and out_proj, and the barriers in it;
 * mixer.c.  Reads in_out, leaves out_proj's input in `packed`. */
void m2_cpu_mix(
	struct m2_model *model, const struct m2_cpu_layer *layer, int32_t index, int32_t thread);

/* Fill every buffer of the step with NaN: what a step reads, it has written. */
void m2_cpu_poison(struct m2_model *model);

static inline float *m2_cpu_slot(const struct m2_model *model, int32_t slot)
{
	return model->state + (size_t)slot * model->slot_floats;
}

static inline struct m2_cpu_slot_head *m2_cpu_slot_head(const struct m2_model *model, int32_t slot)
{
	return (struct m2_cpu_slot_head *)(void *)m2_cpu_slot(model, slot);
}

static inline float *m2_cpu_conv_state(const struct m2_model *model, int32_t slot, int32_t layer)
{
	return m2_cpu_slot(model, slot) + sizeof(struct m2_cpu_slot_head) / sizeof(float) +
	       (size_t)layer * model->conv_floats;
}

static inline float *m2_cpu_head(
	const struct m2_model *model, int32_t slot, int32_t layer, int32_t head)
{
	return m2_cpu_conv_state(model, slot, model->desc.n_layers) +
	       (size_t)layer * model->ssm_floats + (size_t)head * model->head_floats;
}

/* The newest B of a group. */
static inline float *m2_cpu_ring(
	const struct m2_model *model, int32_t slot, int32_t layer, int32_t group)
{
	return m2_cpu_head(model, slot, layer, model->desc.n_heads) +
	       (size_t)group * (size_t)model->desc.state_size * M2_RING;
}

/* The part [*first, *end) of `total` that is this thread's. */
static inline void m2_cpu_share(
	const struct m2_model *model, int32_t thread, int64_t total, int32_t *first, int32_t *end)
{
	const int64_t threads = model->device->threads;
	*first = (int32_t)(total * thread / threads);
	*end = (int32_t)(total * (thread + 1) / threads);
}

/* Where a thread puts, or finds, the inputs of a product: its own place or that of all. */
static inline float *m2_cpu_packed(
	const struct m2_model *model, const struct m2_cpu_tiles *tiles, int32_t thread)
{
	return tiles->tokens <= M2_FEW ? model->threads[thread].packed : model->packed;
}

/* The tokens whose inputs this thread makes; after that m2_cpu_inputs_done. */
static inline void m2_cpu_inputs(const struct m2_model *model, const struct m2_cpu_tiles *tiles,
	int32_t thread, int32_t *first, int32_t *end)
{
	*first = 0;
	*end = tiles->tokens;
	if (tiles->tokens > M2_FEW)
		m2_cpu_share(model, thread, tiles->tokens, first, end);
}

static inline void m2_cpu_inputs_done(
	const struct m2_model *model, const struct m2_cpu_tiles *tiles)
{
	if (tiles->tokens > M2_FEW)
		m2_pool_barrier(model->device->pool);
}

/* Put token t's input row of a product to its place in `packed`. */
static inline void m2_cpu_pack(
	float *packed, const struct m2_cpu_tiles *tiles, int32_t t, const float *row, int32_t cols)
{
	const int32_t first = t / tiles->size * tiles->size;
	const int32_t left = tiles->tokens - first;
	const size_t width = (size_t)(left < tiles->size ? left : tiles->size);
	float *to = packed + (size_t)first * (size_t)cols + (t - first);
	for (size_t i = 0; i < (size_t)cols; i++)
		to[i * width] = row[i];
}

#endif
