/* model.h - a model resident in the CUDA backend; private to kernels/cuda.
 *
 * Three allocations on the device hold all of it: weights, state, workspace.  A slot is one run of
 * floats: per layer the ring of K raw columns of the convolution, [K][C]; then per layer the state
 * [H][P][N]; then, in tuned models, per layer the tokens that are held (replay.cuh): x [H][15][P], B
 * [G][15][N], dt and decay [H][16][2].  There the state is that before the slot's window of 16 tokens.
 * Nothing is allocated after load or unpark.
 */
#ifndef M2_KERNELS_CUDA_MODEL_H
#define M2_KERNELS_CUDA_MODEL_H

#include <pthread.h>

#include "kernels/backend.h"
#include "kernels/cuda/launch.h"

enum { M2_CUDA_PIECE = 8 << 20, M2_CUDA_ALIGN = 256, M2_CUDA_PIECES = 2, M2_CUDA_GRAPHS = 24 };
enum { M2_CUDA_GRAPH_ITEMS = 512 /* of the largest graph */ };
enum { M2_CUDA_WEIGHTS, M2_CUDA_STATE, M2_CUDA_WORKSPACE, M2_CUDA_REGIONS };

struct m2_device {
	int32_t ordinal;
	char name[64];
	cudaStream_t steps;
	/* the loader's: pinned pieces on the host, their copies on the device */
	pthread_mutex_t load_lock;
	cudaStream_t loads;
	void *host_piece[M2_CUDA_PIECES];
	void *piece[M2_CUDA_PIECES];
	cudaEvent_t piece_done[M2_CUDA_PIECES];
};

struct m2_cuda_layer {
	struct m2_cuda_matrix in_proj;
	struct m2_cuda_matrix out_proj;
	float *norm;
	float *in_bias; /* NULL: none; so the others */
	float *conv;
	float *conv_bias;
	float *dt_bias;
	float *a;
	float *d;
	float *gated_norm;
	float *out_bias;
};

/* What a step tells the device, one run of bytes that is copied at once. */
struct m2_cuda_orders {
	int32_t *count;                   /* [2]: items that are there; number of the step */
	struct m2_cuda_item *items;       /* [max_items] */
	int32_t *row_item;                /* [max_tokens] */
	int32_t *tokens;                  /* [max_tokens] */
	int32_t *wanted;                  /* [max_tokens] rows whose logits are wanted */
	struct m2_cuda_pick_order *picks; /* [max_tokens] what is picked from each of those */
	/* Of spans; struct m2_cuda_spans says how many there are of each. */
	int32_t *leads;             /* [max_items] */
	int32_t *tails;             /* [max_items] */
	int32_t *chunked;           /* [max_items] */
	int32_t *chunk_rows;        /* [max_tokens / 64] */
	struct m2_cuda_tile *tiles; /* [max_tokens / 8 + max_items] */
};

/* What the host needs of a step from begin to wait; two take turns. */
struct m2_cuda_flight {
	struct m2_cuda_orders orders; /* pinned, and so what comes back: */
	struct m2_pick *picks;        /* [items] */
	float *logits;                /* [host_rows][V] */
	struct m2_pick **picks_to;    /* [items] the caller's; NULL: none */
	float **logits_to;            /* [host_rows] the caller's */
	int32_t items;
	int32_t logits_sent; /* rows on their way to `logits` */
	cudaEvent_t done;
};

struct m2_cuda_graph {
	int32_t items;
	cudaGraphExec_t exec;
};

struct m2_model {
	struct m2_model_desc desc;
	struct m2_device *device;
	struct m2_footprint footprint;
	int32_t slots;
	int32_t max_tokens;
	int32_t max_items;
	bool tuned; /* the public shapes' kernels run it */

	char *regions[M2_CUDA_REGIONS]; /* their addresses never change: park.c */
	size_t reserved
		[M2_CUDA_REGIONS];    /* bytes of addresses; 0: cudaMalloc's, cannot be parked */
	bool backed[M2_CUDA_REGIONS]; /* there is memory behind them */
	void *parked;                 /* pinned host memory with the weights; NULL: not parked */
	struct m2_cuda_matrix embedding;
	struct m2_cuda_matrix head; /* the same bytes when tied */
	float *final_norm;
	struct m2_cuda_layer *layers; /* [L], host */

	size_t ring_floats; /* of one layer of one slot */
	size_t ssm_floats;
	size_t held_floats; /* 0 in models that are not tuned */
	size_t slot_floats;
	float *state;
	int64_t *position; /* [slots], host: where each slot stands */
	bool *picked; /* [slots], host: its last step has picked, and the slot is as it left it */

	struct m2_cuda_flight flights[M2_STEPS_IN_FLIGHT]; /* step n is in n % 2 */
	uint32_t begun;                                    /* number of the last step begun */
	uint32_t waited;                                   /* and waited for */
	struct m2_cuda_orders on_device;
	size_t orders_bytes;
	struct m2_cuda_spans spans; /* of the step that is being launched */
	int32_t *picks;             /* [slots], device: tokens of the last picks */

	/* Buffers of a step, poisoned as one piece by m2_cuda_poison. */
	char *buffers;
	size_t buffer_bytes;
	int32_t rows; /* that the buffers hold: max_tokens or the largest graph's items */
	int32_t in_stride;
	int32_t logits_rows;     /* logits are made this many rows at a time, */
	int32_t host_rows;       /* and so many travel at a time */
	float *residual;         /* [rows][d] */
	float *residual_squares; /* [rows][d / 16] */
	void *residual_input;    /* [rows][pad(d)] of the next product's type */
	float *in_out;           /* [rows][in_stride] */
	float *xbc;              /* [rows][C] */
	float *y; /* [rows][Ds]; in tuned models the states before chunks: exactly as many bytes */
	float *chunk_steps;   /* [rows / 64][H][M2_CUDA_STEPS] */
	void *mixed_input;    /* [rows][pad(out_cols)] of out_proj's type */
	float *mixed_squares; /* [rows][H] */
	float *logits;        /* [logits_rows][V] */
	void *pick_parts;     /* [logits_rows][m2_cuda_pick_bytes(V)] */

	/* Steps of single tokens as graphs, one for up to `items` items each, ascending. */
	int32_t n_graphs;
	struct m2_cuda_graph graphs[M2_CUDA_GRAPHS];
};

/* load.c; contracts in kernels/backend.h. */
enum m2_err m2_cuda_plan(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_footprint *out, struct m2_why *why);
enum m2_err m2_cuda_load(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why);
void m2_cuda_unload(struct m2_model **model);

/* park.c: memory of a region, which may be taken away and put back behind its addresses; all of them, and what
 * is parked, given back; contracts of the other two in kernels/backend.h. */
enum m2_err m2_cuda_region_take(
	struct m2_model *model, int region, uint64_t bytes, struct m2_why *why);
void m2_cuda_regions_free(struct m2_model *model);
enum m2_err m2_cuda_park(struct m2_model *model, uint64_t *host_bytes, struct m2_why *why);
enum m2_err m2_cuda_unpark(struct m2_model *model, struct m2_why *why);

/* fill.c: the weights of a laid-out model, through the device's pieces. */
enum m2_err m2_cuda_fill(struct m2_model *model, const struct m2_weight_source *source,
	const struct m2_load_options *options, struct m2_why *why);

/* Numbers of items that graphs are made for, ascending; the first that holds `items`. */
int32_t m2_cuda_graph_items(int32_t items);

/* graph.c: capture the steps of single tokens, from the orders to the picks; destroy them. */
enum m2_err m2_cuda_graphs_create(struct m2_model *model, struct m2_why *why);
void m2_cuda_graphs_destroy(struct m2_model *model);

/* All layers for the orders that lie on the device: rows of spans, or `one`: n items of a token each. */
cudaError_t m2_cuda_layers(
	struct m2_model *model, cudaStream_t stream, int32_t items, int32_t rows, bool one);
/* Final norm and head of rows wanted[0..n); NULL: of rows 0..n-1. */
cudaError_t m2_cuda_head(struct m2_model *model, cudaStream_t stream, const int32_t *wanted,
	int32_t n, const struct m2_cuda_output *out);

/* Picks from the first n rows of `logits`, by the orders from number `first` on. */
cudaError_t m2_cuda_pick_rows(
	struct m2_model *model, cudaStream_t stream, int32_t first, int32_t n);

/* step.c, flight.c; contracts in kernels/backend.h. */
enum m2_err m2_cuda_step_begin(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why);
enum m2_err m2_cuda_step_wait(struct m2_model *model, struct m2_why *why);
enum m2_err m2_cuda_step(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why);

/* flight.c: a row of logits on its way to the caller's memory, until wait or until the pinned rows are
 * full; then it waits. */
cudaError_t m2_cuda_flight_send(
	struct m2_model *model, struct m2_cuda_flight *flight, const float *row, float *to);
/* Host memory and events of both flights; safe on zeroed ones. */
cudaError_t m2_cuda_flights_create(struct m2_model *model);
void m2_cuda_flights_destroy(struct m2_model *model);
/* The arrays of orders in a run of memory, NULL: only counted.  load.c. */
struct m2_cuda_orders m2_cuda_orders_at(const struct m2_model *model, char *base, size_t *bytes);

/* Fill every buffer of the step with NaN: what a step reads, it has written.  For tests. */
void m2_cuda_poison(struct m2_model *model);

/* M2_EDEVICE in words, of what was being done. */
enum m2_err m2_cuda_failed(cudaError_t error, const char *what, struct m2_why *why);

static inline float *m2_cuda_slot(const struct m2_model *model, int32_t slot)
{
	return model->state + (size_t)slot * model->slot_floats;
}

#endif
