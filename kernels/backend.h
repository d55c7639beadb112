/* backend.h - what a device can do: the boundary between mamba2d and an arithmetic.
 *
 * A backend takes a model's weights once (load) and then runs work items (step): spans of tokens of
 * several sequences, prompt chunks and single decode steps mixed in one call.  It is deliberately
 * not a list of small operators: a backend may fuse, capture and reorder as it likes inside a step.
 *
 * What a backend may not know: files, tensor names, variants' names, users, sockets, SQL.
 *
 * Letters, as everywhere in the project:
 *   d  hidden_size             L  layers                  V  vocab_rows (padding included)
 *   H  n_heads                 P  head_dim                N  state_size
 *   G  n_groups (H % G == 0)   K  conv_kernel             Ds = H*P, width of the SSM
 *   M  mlp width inside the mixer (d_mlp, 0 nearly always)
 *   C = Ds + 2*G*N, convolution channels
 *   R = 2*M + 2*Ds + 2*G*N + H, rows of in_proj, in order z0[M] x0[M] z[Ds] x[Ds] B[GN] C[GN] dt[H]
 * Maths: Dao & Gu 2024 (arXiv 2405.21060) sections 6 and 7; kernels/ref/ is the definition here.
 *
 * Promise to keep, decided in the design: the bits of a sequence's logits, picks and state depend only
 * on its own tokens and their absolute positions - not on which other items are in the step, not on
 * the order of items, not on the number of threads, and not on how its tokens were cut into spans
 * as long as every cut lies on a multiple of M2_CHUNK (absolute position) or the cut is into single
 * tokens at the end of the prompt.  See struct m2_work.
 *
 * Threads: load, unload, park, unpark and plan may run on any thread; step and the slot functions of one model
 * only on the one thread that owns the device, never two at a time.  load may run while another
 * model steps.  step never allocates, never blocks on anything but the device's own threads.
 */
#ifndef M2_KERNELS_BACKEND_H
#define M2_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/err.h"

/* Chunk grid of prompt processing, in tokens at absolute positions of the sequence. */
enum { M2_CHUNK = 64 };

/* Steps that may be begun and not waited for. */
enum { M2_STEPS_IN_FLIGHT = 2 };

/* Everything that changes what is computed.  Checked by m2_model_desc_check; a backend may assume
 * a checked one. */
struct m2_model_desc {
	int32_t hidden_size; /* d */
	int32_t n_layers;    /* L */
	int32_t vocab_rows;  /* V */
	int32_t n_heads;     /* H */
	int32_t head_dim;    /* P */
	int32_t state_size;  /* N */
	int32_t n_groups;    /* G */
	int32_t conv_kernel; /* K, taps */
	int32_t d_mlp;       /* M */
	int32_t norm_groups; /* groups of the gated norm; divides Ds */
	bool tied_head;      /* head = embedding */
	bool proj_bias;      /* in_proj and out_proj have biases */
	bool conv_bias;
	bool gated_norm;       /* false: the scan's output is only multiplied by silu(z) */
	bool norm_before_gate; /* true: norm(y) * silu(z); false: norm(y * silu(z)) */
	bool d_per_channel;    /* D is [Ds], else [H] */
	bool a_given;          /* M2_W_A_LOG holds A = -exp(A_log) itself, as GGUF stores it */
	float norm_eps;
	float dt_min; /* clamp of dt after softplus, in prefill and in decode */
	float dt_max; /* may be INFINITY */
};

/* Widths that follow from a checked description; no overflow possible after the check. */
static inline int32_t m2_desc_d_ssm(const struct m2_model_desc *m)
{
	return m->n_heads * m->head_dim;
}
static inline int32_t m2_desc_conv_channels(const struct m2_model_desc *m)
{
	return m2_desc_d_ssm(m) + 2 * m->n_groups * m->state_size;
}
static inline int32_t m2_desc_in_rows(const struct m2_model_desc *m)
{
	return 2 * m->d_mlp + m2_desc_d_ssm(m) + m2_desc_conv_channels(m) + m->n_heads;
}
static inline int32_t m2_desc_out_cols(const struct m2_model_desc *m)
{
	return m->d_mlp + m2_desc_d_ssm(m);
}

/* Bounds (semantics report, 1.6): 1 <= L <= 1024, d <= 65536, H <= 4096, P <= 1024, N <= 1024,
 * G <= H and divides it, K in 1..16, V <= 2^24, norm_groups divides Ds, 0 <= dt_min <= dt_max,
 * eps in (0, 1), R and C fit 31 bits.  M2_EINVAL names the field. */
enum m2_err m2_model_desc_check(const struct m2_model_desc *m, struct m2_why *why);

/* Which weight.  Per layer unless marked; shapes row-major, slowest first. */
enum m2_weight {
	M2_W_EMBEDDING,  /* model: [V, d] */
	M2_W_FINAL_NORM, /* model: [d] */
	M2_W_HEAD,       /* model: [V, d]; absent when tied_head */
	M2_W_NORM,       /* [d] */
	M2_W_IN_PROJ,    /* [R, d] */
	M2_W_IN_BIAS,    /* [R]; absent unless proj_bias */
	M2_W_CONV,       /* [C, K] */
	M2_W_CONV_BIAS,  /* [C]; absent unless conv_bias */
	M2_W_DT_BIAS,    /* [H] */
	M2_W_A_LOG,      /* [H] */
	M2_W_D,          /* [H] or [Ds] */
	M2_W_GATED_NORM, /* [Ds]; absent unless gated_norm */
	M2_W_OUT_PROJ,   /* [d, M + Ds] */
	M2_W_OUT_BIAS,   /* [d]; absent unless proj_bias */
	M2_W_COUNT
};

/* Where the weights come from: asked one tensor at a time, so that the host never holds the whole
 * checkpoint twice.  layer is -1 for the model's own.  read() delivers elements [first, first + count)
 * of the tensor in row-major order, as stored: count * m2_dtype_bytes(dtype(...)) bytes.  It may be
 * called from several threads at once, and may block on a disk.  Errors travel up through load. */
struct m2_weight_source {
	void *ctx;
	enum m2_dtype (*dtype)(void *ctx, int layer, enum m2_weight which);
	enum m2_err (*read)(void *ctx, int layer, enum m2_weight which, size_t first, size_t count,
		void *dst, struct m2_why *why);
};

/* Elements of a weight under a checked description; 0 if the model has none of it. */
size_t m2_weight_elements(const struct m2_model_desc *m, enum m2_weight which);

struct m2_load_options {
	/* Of the large matrices; NONE: as stored.  INT8 (cpu and ref): rows of their own scale, see
	 * common/dtype.h; the rows of dt in in_proj stay as stored. */
	enum m2_dtype weights;
	enum m2_dtype state; /* of the SSM state; F32 is all that ref and cpu take so far */
	int32_t slots;       /* sequences with a state, 1.. */
	int32_t max_tokens;  /* most tokens, over all items, in one step, >= 1 */
	int32_t max_items;   /* most items in one step, >= 1 */
	/* May be NULL.  Called on any of load's threads, never on two at once; bytes_done only grows,
	 * and the last call of a load that succeeds says bytes_total. */
	void (*progress)(void *ctx, uint64_t bytes_done, uint64_t bytes_total);
	void *progress_ctx;
};

/* What a load takes, to the byte, and all that the model will ever take. */
struct m2_footprint {
	uint64_t weights;   /* bytes of weights resident on the device */
	uint64_t state;     /* bytes of all slots */
	uint64_t workspace; /* bytes of buffers of the step */
	uint64_t per_slot;  /* bytes of one slot; slot_save writes exactly as many */
	/* Bytes of a slot that a step of one token must read and write, the mean over many; 0: twice
	 * per_slot.  For benches. */
	uint64_t per_step;
};

/* The largest logit of a row, among the ids that may be chosen. */
struct m2_pick {
	int32_t token; /* the lowest of the ids with the largest logit; a NaN is never the largest.
	                * Always an id that may be chosen: 0 if all logits are NaN */
	float logprob; /* log softmax of it over those ids, in f32 or better, summed in an order that
	                * nothing but the row changes; NaN if any of their logits is not finite */
	float logit;   /* the logit itself */
};

/* One span of one sequence.  A step advances it from `position` to position + n_tokens.
 *
 * Within a span, tokens in whole chunks [k*M2_CHUNK, (k+1)*M2_CHUNK) that lie inside the span are
 * computed in the chunked (SSD) form and all others one by one; so the scheduler cuts prompts
 * only at multiples of M2_CHUNK, and a sequence's bits do not depend on its cuts.
 * The slot must be at `position` (m2_backend_ops.reset puts it at 0). */
struct m2_work {
	int32_t slot;
	int32_t n_tokens;      /* >= 1 */
	int64_t position;      /* absolute position of tokens[0] */
	const int32_t *tokens; /* [n_tokens], each in 0..V-1: checked by the caller */
	int32_t logits_first; /* logits wanted for tokens[logits_first..n_tokens); n_tokens: none */
	float *logits; /* [n_tokens - logits_first, V] f32, row stride V, caller's host memory */

	/* A greedy choice from the logits of the last token, made where the logits are; NULL: none.
	 * Independent of `logits`: where both are wanted, both are delivered. */
	struct m2_pick *pick; /* caller's host memory */
	int32_t pick_limit;   /* ids 0..pick_limit-1 may be chosen, 1..V; 0: all V */
	/* The one token (n_tokens 1, `tokens` not read) is what the slot's last step picked.  That step
	 * must have asked for a pick; it need not have been waited for (step_begin).  A pick is good
	 * until the slot's next step, reset, restore or copy onto it; no function carries it to
	 * another slot or saves it. */
	bool from_pick;
};

struct m2_device; /* an opened device of a backend */
struct m2_model;  /* weights + slots resident on a device */

struct m2_device_options {
	int32_t ordinal; /* which device of that kind: cuda:N; 0 for cpu and ref */
	int32_t threads; /* host threads of the cpu backend, 1..256; 0: one per online processor */
	const char
		*isa; /* cpu: "auto", "portable", "avx2", "avx512"; forcing one that the processor
			    lacks is M2_EUNSUPPORTED.  NULL: auto */
};

struct m2_device_info {
	char name[64];         /* "cpu", "NVIDIA H200" */
	char path[64];         /* which code runs: "avx512bf16, 2 threads" */
	uint64_t memory_total; /* bytes */
	uint64_t memory_free;
};

/* A backend: a table of functions.  Every function but `name` may be called after open.
 * A failed load leaves nothing behind.  M2_EDEVICE from step means the device is gone: the worker
 * process must end. */
struct m2_backend {
	/* sizeof(struct m2_backend) where it was compiled: one that comes from a shared object must have
	 * ours, or it is of another version of this file.  Others may leave it 0. */
	size_t bytes;

	const char *name; /* "ref", "cpu", "cuda" */

	/* Its device has memory of its own, and info.memory_free follows what is loaded to within the
	 * driver's granularity, so that a load can be measured by it.  Host memory, which everybody else
	 * on the host takes and gives meanwhile, is not. */
	bool owns_memory;

	/* May there be a device of this kind on this host?  Looks for a driver's files and opens nothing;
	 * any thread, before open too.  NULL: always. */
	bool (*present)(void);

	enum m2_err (*open)(const struct m2_device_options *options, struct m2_device **out,
		struct m2_why *why);
	void (*close)(struct m2_device **device); /* all models unloaded before; NULLs it */
	void (*info)(struct m2_device *device, struct m2_device_info *out);

	/* What load would take; M2_EUNSUPPORTED names the shape or dtype this backend cannot run. */
	enum m2_err (*plan)(struct m2_device *device, const struct m2_model_desc *desc,
		const struct m2_weight_source *source, const struct m2_load_options *options,
		struct m2_footprint *out, struct m2_why *why);
	enum m2_err (*load)(struct m2_device *device, const struct m2_model_desc *desc,
		const struct m2_weight_source *source, const struct m2_load_options *options,
		struct m2_model **out, struct m2_why *why);
	void (*unload)(struct m2_model **model); /* NULLs it */

	/* Out of the device's memory and back, both or neither; NULL: the weights are in host memory
	 * anyway (cpu, ref), and what shall leave is unloaded.
	 *
	 * park copies the weights, as they lie on the device, to host memory that the model owns, and
	 * gives all of its device memory back; *host_bytes: what that takes.  An error leaves the model as
	 * it was; M2_ENOMEM: the host has no memory for it.  unpark takes the device memory again and the
	 * host memory is given back: the same model as after its load, with the same bits, every slot
	 * zero and at position 0.  An error leaves it parked; M2_ENOMEM: the device has no room.  A parked
	 * model is unparked or unloaded and nothing else.  Both on any thread, while no step is in flight
	 * and no other function of the model runs; other models may step meanwhile. */
	enum m2_err (*park)(struct m2_model *model, uint64_t *host_bytes, struct m2_why *why);
	enum m2_err (*unpark)(struct m2_model *model, struct m2_why *why);

	/* Which of the backend's code runs the model, in a few words for people, cut to size with its NUL.
	 * Any thread, not while it is parked.  NULL: nothing to say. */
	void (*describe)(struct m2_model *model, char *out, size_t size);

	/* Run the items (distinct slots; count <= max_items; sum of n_tokens <= max_tokens).
	 * Returns when all logits are written. */
	enum m2_err (*step)(struct m2_model *model, const struct m2_work *items, int32_t count,
		struct m2_why *why);

	/* A step in two halves, both or neither; NULL: the backend is synchronous, and
	 * m2_backend_step_begin and _wait (below) do with step alone.
	 *
	 * begin returns once the step is queued: items and their tokens have been copied, what `logits`
	 * and `pick` point at must live until wait.  wait returns when the picks and logits of the
	 * oldest step begun and not waited for are written.  At most M2_STEPS_IN_FLIGHT are begun and
	 * not waited for; one of more logits than the backend buffers waits for most of them in begin.
	 * Positions and slot functions follow the order of begins: a slot function called while steps
	 * are in flight takes effect behind them and before what is begun after it.  `step` is for when
	 * none is in flight; unload drops what is.  An error of either half as from step; after one
	 * other than M2_EDEVICE from begin the step was not begun.
	 *
	 * A scheduler of greedy sequences hides its own work and the way to the device behind the
	 * device's with two steps in flight:
	 *     begin(first step: prompts and tokens of the host, each with `pick`)
	 *     loop: begin(next step: the same sequences with from_pick, newcomers with their tokens)
	 *           wait; publish the picks of the waited step
	 * A sequence whose waited pick ends it (an end token, a stop string) is in the step already
	 * begun once more: its pick there is ignored, and its slot is reset as ever, which takes effect
	 * behind that step.  One that needs its token on the host first (sampling with a temperature,
	 * penalties, a mask) is left out of the step that is begun before its logits have come. */
	enum m2_err (*step_begin)(struct m2_model *model, const struct m2_work *items,
		int32_t count, struct m2_why *why);
	enum m2_err (*step_wait)(struct m2_model *model, struct m2_why *why);

	/* Slots.  reset: all zero, position 0 (also how one user's state is kept from the next).
	 * copy: dst becomes src, for forks.  save and restore: exactly per_slot bytes, host memory;
	 * the bytes are private to this backend, build and model. */
	enum m2_err (*slot_reset)(struct m2_model *model, int32_t slot);
	enum m2_err (*slot_copy)(struct m2_model *model, int32_t dst, int32_t src);
	enum m2_err (*slot_save)(struct m2_model *model, int32_t slot, void *dst);
	enum m2_err (*slot_restore)(struct m2_model *model, int32_t slot, const void *src);

	/* The state in the definition's form, for tests and tools: conv [L, K-1, C] raw columns before
	 * the convolution, oldest first, and ssm [L, H, P, N], both f32 host memory; NULL: not wanted. */
	enum m2_err (*slot_export)(struct m2_model *model, int32_t slot, float *conv, float *ssm);

	/* For tests: fill every buffer of a step with NaN, since what a step reads it must have
	 * written.  NULL: the backend has none. */
	void (*poison)(struct m2_model *model);

	/* What the device can do at most, measured now, with memory of its own for the while: bytes
	 * read per second, and floating-point operations per second (a multiply-add is two) of 16-bit
	 * matrix products with f32 sums.  For benches, while nothing else runs.  NULL: not measured. */
	enum m2_err (*measure)(struct m2_device *device, double *bytes_per_second,
		double *operations_per_second, struct m2_why *why);
};

/* The two halves of a step on any backend.  On a synchronous one begin runs the step: its results are
 * there when it returns, and wait has nothing to do. */
enum m2_err m2_backend_step_begin(const struct m2_backend *backend, struct m2_model *model,
	const struct m2_work *items, int32_t count, struct m2_why *why);
enum m2_err m2_backend_step_wait(
	const struct m2_backend *backend, struct m2_model *model, struct m2_why *why);

/* "ref" or "cpu", always there; "cuda" when its shared object is found beside the program or in the
 * library directory (opened on first ask).  M2_EUNSUPPORTED with the reason otherwise. */
enum m2_err m2_backend_find(const char *name, const struct m2_backend **out, struct m2_why *why);

#endif
