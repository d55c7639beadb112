/* forward.c - one token through the model, operator by operator: the definition. */
#include "kernels/ref/model.h"
#include "kernels/ref/ops.h"

/* out[d] = Mixer(u[d]); the slot's state of this layer moves on by one token. */
static void mixer(
	struct m2_model *model, int32_t slot, int32_t layer, m2_real *out, const m2_real *u)
{
	const struct m2_model_desc *m = &model->desc;
	struct M2_REF(work) *work = &model->work;
	const int32_t d_ssm = m2_desc_d_ssm(m), channels = m2_desc_conv_channels(m);
#define W(which) M2_REF(weight)(model, layer, M2_W_##which)

	M2_REF(linear)(work->zxbcdt, W(IN_PROJ), W(IN_BIAS), u, m2_desc_in_rows(m), m->hidden_size);
	const m2_real *z0 = work->zxbcdt;
	const m2_real *x0 = z0 + m->d_mlp;
	const m2_real *z = x0 + m->d_mlp;
	const m2_real *column = z + d_ssm;
	const m2_real *dt = column + channels;

	M2_REF(conv_step)
	(work->xbc, M2_REF(conv_state)(model, slot, layer), column, W(CONV), W(CONV_BIAS), channels,
		m->conv_kernel);

	const struct M2_REF(ssm_input) in = {
		.x = work->xbc,
		.b = work->xbc + d_ssm,
		.c = work->xbc + d_ssm + m->n_groups * m->state_size,
		.dt = dt,
	};
	const struct M2_REF(ssm_weights) w = {W(DT_BIAS), W(A_LOG), W(D)};
	m2_real *mlp = work->mixed, *y = work->mixed + m->d_mlp;
	M2_REF(ssm_step)(y, M2_REF(ssm_state)(model, slot, layer), &in, &w, m);

	M2_REF(gate)(y, y, z, W(GATED_NORM), m);
	for (int32_t i = 0; i < m->d_mlp; i++)
		mlp[i] = M2_REF(silu)(z0[i]) * x0[i];

	M2_REF(linear)
	(out, W(OUT_PROJ), W(OUT_BIAS), work->mixed, m->hidden_size, m2_desc_out_cols(m));
#undef W
}

void M2_REF(forward)(struct m2_model *model, int32_t slot, int32_t token, float *logits)
{
	const struct m2_model_desc *m = &model->desc;
	const m2_real eps = (m2_real)m->norm_eps;
	m2_real *residual = model->work.residual, *normed = model->work.normed;
	const m2_real *embedding = M2_REF(weight)(model, -1, M2_W_EMBEDDING);
	const m2_real *head = m->tied_head ? embedding : M2_REF(weight)(model, -1, M2_W_HEAD);

	for (int32_t i = 0; i < m->hidden_size; i++)
		residual[i] = embedding[(int64_t)token * m->hidden_size + i];
	for (int32_t layer = 0; layer < m->n_layers; layer++) {
		M2_REF(rms_norm)
		(normed, residual, M2_REF(weight)(model, layer, M2_W_NORM), m->hidden_size, 1, eps);
		mixer(model, slot, layer, model->work.out, normed);
		for (int32_t i = 0; i < m->hidden_size; i++)
			residual[i] += model->work.out[i];
	}
	if (logits == NULL)
		return;
	M2_REF(rms_norm)
	(normed, residual, M2_REF(weight)(model, -1, M2_W_FINAL_NORM), m->hidden_size, 1, eps);
	M2_REF(linear)(model->work.logits, head, NULL, normed, m->vocab_rows, m->hidden_size);
	for (int32_t i = 0; i < m->vocab_rows; i++)
		logits[i] = (float)model->work.logits[i];
}
