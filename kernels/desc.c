/* desc.c - what a model's description may say, and how large each weight is under it.
 *
 * The check stands here, and not in each backend, so that every backend may compute sizes from a
 * description without a second thought; it is written for a hostile description.
 */
#include "kernels/backend.h"

#include <limits.h>
#include <math.h>

struct bound {
	const char *field;
	int64_t value;
	int64_t low;
	int64_t high;
};

static enum m2_err check_bounds(const struct m2_model_desc *m, struct m2_why *why)
{
	const struct bound bounds[] = {
		{"hidden_size", m->hidden_size, 1, 65536},
		{"n_layers", m->n_layers, 1, 1024},
		{"vocab_rows", m->vocab_rows, 1, 1 << 24},
		{"n_heads", m->n_heads, 1, 4096},
		{"head_dim", m->head_dim, 1, 1024},
		{"state_size", m->state_size, 1, 1024},
		{"n_groups", m->n_groups, 1, m->n_heads},
		{"conv_kernel", m->conv_kernel, 1, 16},
		{"d_mlp", m->d_mlp, 0, INT32_MAX},
	};
	for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++)
		if (bounds[i].value < bounds[i].low || bounds[i].value > bounds[i].high)
			return m2_fail_field(M2_EINVAL, why, bounds[i].field,
				"%s is %lld, it must be %lld to %lld", bounds[i].field,
				(long long)bounds[i].value, (long long)bounds[i].low,
				(long long)bounds[i].high);
	return M2_OK;
}

enum m2_err m2_model_desc_check(const struct m2_model_desc *m, struct m2_why *why)
{
	enum m2_err err = check_bounds(m, why);
	if (err != M2_OK)
		return err;

	const int64_t d_ssm = (int64_t)m->n_heads * m->head_dim;
	const int64_t channels = d_ssm + 2 * (int64_t)m->n_groups * m->state_size;
	const int64_t rows = 2 * (int64_t)m->d_mlp + d_ssm + channels + m->n_heads;
	if (m->n_heads % m->n_groups != 0)
		return m2_fail_field(M2_EINVAL, why, "n_groups",
			"n_groups is %d, it must divide n_heads, %d", m->n_groups, m->n_heads);
	/* Rows are padded to panels by the backends: leave them room below 2^31. */
	if (rows > INT32_MAX - 64)
		return m2_fail_field(M2_EINVAL, why, "d_mlp",
			"in_proj would have %lld rows, more than fit 31 bits", (long long)rows);
	if (m->norm_groups < 1 || d_ssm % m->norm_groups != 0)
		return m2_fail_field(M2_EINVAL, why, "norm_groups",
			"norm_groups is %d, it must divide n_heads * head_dim, %lld",
			m->norm_groups, (long long)d_ssm);
	/* Written so that a NaN fails. */
	if (!(m->norm_eps > 0.0f && m->norm_eps < 1.0f))
		return m2_fail_field(M2_EINVAL, why, "norm_eps",
			"norm_eps is %g, it must lie between 0 and 1", (double)m->norm_eps);
	if (!(m->dt_min >= 0.0f && m->dt_min < INFINITY))
		return m2_fail_field(M2_EINVAL, why, "dt_min",
			"dt_min is %g, it must be a number of at least 0", (double)m->dt_min);
	if (!(m->dt_max >= m->dt_min))
		return m2_fail_field(M2_EINVAL, why, "dt_max",
			"dt_max is %g, it must be at least dt_min, %g", (double)m->dt_max,
			(double)m->dt_min);
	return M2_OK;
}

size_t m2_weight_elements(const struct m2_model_desc *m, enum m2_weight which)
{
	const size_t d = (size_t)m->hidden_size;
	const size_t d_ssm = (size_t)m2_desc_d_ssm(m);
	const size_t channels = (size_t)m2_desc_conv_channels(m);
	const size_t heads = (size_t)m->n_heads;

	switch (which) {
	case M2_W_EMBEDDING:
		return (size_t)m->vocab_rows * d;
	case M2_W_HEAD:
		return m->tied_head ? 0 : (size_t)m->vocab_rows * d;
	case M2_W_FINAL_NORM:
	case M2_W_NORM:
		return d;
	case M2_W_IN_PROJ:
		return (size_t)m2_desc_in_rows(m) * d;
	case M2_W_IN_BIAS:
		return m->proj_bias ? (size_t)m2_desc_in_rows(m) : 0;
	case M2_W_CONV:
		return channels * (size_t)m->conv_kernel;
	case M2_W_CONV_BIAS:
		return m->conv_bias ? channels : 0;
	case M2_W_DT_BIAS:
	case M2_W_A_LOG:
		return heads;
	case M2_W_D:
		return m->d_per_channel ? d_ssm : heads;
	case M2_W_GATED_NORM:
		return m->gated_norm ? d_ssm : 0;
	case M2_W_OUT_PROJ:
		return d * (size_t)m2_desc_out_cols(m);
	case M2_W_OUT_BIAS:
		return m->proj_bias ? d : 0;
	case M2_W_COUNT:
		break;
	}
	return 0;
}
