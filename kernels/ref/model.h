/* model.h - a model resident in the definition's backend; private to kernels/ref.
 *
 * Weights are m2_real arrays in the shapes of enum m2_weight.  A slot is one array: per layer the
 * convolution's window [K-1, C], then per layer the state [H, P, N].
 */
#ifndef M2_KERNELS_REF_MODEL_H
#define M2_KERNELS_REF_MODEL_H

#include "kernels/backend.h"
#include "kernels/ref/real.h"

/* Buffers of one token. */
struct M2_REF(work) {
	m2_real *residual; /* [d] */
	m2_real *normed;   /* [d] */
	m2_real *zxbcdt;   /* [R] */
	m2_real *xbc;      /* [C] */
	m2_real *mixed;    /* [M + Ds] */
	m2_real *out;      /* [d] */
	m2_real *logits;   /* [V] */
};

struct m2_model {
	struct m2_model_desc desc;
	int32_t slots;
	size_t conv_elements; /* of one layer of one slot */
	size_t ssm_elements;
	m2_real **weights; /* [L + 1][M2_W_COUNT]; the model's own at row L; NULL: absent */
	m2_real *states;   /* [slots][L * (conv + ssm)] */
	m2_real *buffers;  /* what `work` points into */
	float *row;        /* [V] logits that only a pick is made of */
	int32_t *picks;    /* [slots] the last pick of each; -1: it has none */
	struct M2_REF(work) work;
};

static inline const m2_real *M2_REF(weight)(
	const struct m2_model *model, int32_t layer, enum m2_weight which)
{
	const int32_t row = layer < 0 ? model->desc.n_layers : layer;
	return model->weights[(size_t)row * M2_W_COUNT + which];
}

static inline size_t M2_REF(slot_elements)(const struct m2_model *model)
{
	return (size_t)model->desc.n_layers * (model->conv_elements + model->ssm_elements);
}

static inline m2_real *M2_REF(conv_state)(const struct m2_model *model, int32_t slot, int32_t layer)
{
	return model->states + (size_t)slot * M2_REF(slot_elements)(model) +
	       (size_t)layer * model->conv_elements;
}

static inline m2_real *M2_REF(ssm_state)(const struct m2_model *model, int32_t slot, int32_t layer)
{
	return M2_REF(conv_state)(model, slot, 0) +
	       (size_t)model->desc.n_layers * model->conv_elements +
	       (size_t)layer * model->ssm_elements;
}

/* One token through the whole model: moves the slot on by one.  logits [V], NULL: not wanted. */
void M2_REF(forward)(struct m2_model *model, int32_t slot, int32_t token, float *logits);

/* The backend's table entries that live in model.c; contracts in kernels/backend.h. */
enum m2_err M2_REF(plan)(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_footprint *out, struct m2_why *why);
enum m2_err M2_REF(load)(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why);
void M2_REF(unload)(struct m2_model **model);

#endif
