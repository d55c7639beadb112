/* tensor_names.c - one table of names for every dialect; they differ in prefixes and one plural. */
#include "model/tensor_names.h"

#include <stdio.h>
#include <string.h>

static const struct name_row {
	const char *name;
	enum m2_weight which;
	bool per_layer;
	bool in_backbone;
} names[] = {
	{"embeddings.weight", M2_W_EMBEDDING, false, true},
	{"embedding.weight", M2_W_EMBEDDING, false, true},
	{"norm_f.weight", M2_W_FINAL_NORM, false, true},
	{"lm_head.weight", M2_W_HEAD, false, false},
	{"norm.weight", M2_W_NORM, true, true},
	{"mixer.in_proj.weight", M2_W_IN_PROJ, true, true},
	{"mixer.in_proj.bias", M2_W_IN_BIAS, true, true},
	{"mixer.conv1d.weight", M2_W_CONV, true, true},
	{"mixer.conv1d.bias", M2_W_CONV_BIAS, true, true},
	{"mixer.dt_bias", M2_W_DT_BIAS, true, true},
	{"mixer.A_log", M2_W_A_LOG, true, true},
	{"mixer.D", M2_W_D, true, true},
	{"mixer.norm.weight", M2_W_GATED_NORM, true, true},
	{"mixer.out_proj.weight", M2_W_OUT_PROJ, true, true},
	{"mixer.out_proj.bias", M2_W_OUT_BIAS, true, true},
};

static bool skip_prefix(const char **name, const char *prefix)
{
	const size_t n = strlen(prefix);
	if (strncmp(*name, prefix, n) != 0)
		return false;
	*name += n;
	return true;
}

static bool ends_with(const char *text, const char *end)
{
	const size_t n = strlen(text);
	const size_t m = strlen(end);
	return n >= m && strcmp(text + n - m, end) == 0;
}

/* "layers.12." without leading zeros, at most 4 digits. */
static bool skip_layer(const char **name, int *layer)
{
	const char *p = *name;
	if (!skip_prefix(&p, "layers."))
		return false;
	int value = 0;
	int digits = 0;
	for (; *p >= '0' && *p <= '9' && digits < 5; p++, digits++)
		value = value * 10 + (*p - '0');
	if (digits == 0 || digits > 4 || *p != '.' || (digits > 1 && p[-digits] == '0'))
		return false;
	*layer = value;
	*name = p + 1;
	return true;
}

enum m2_tensor_role m2_tensor_role_of(const char *name, int *layer, enum m2_weight *which)
{
	if (ends_with(name, "rotary_emb.inv_freq"))
		return M2_TENSOR_IGNORED;
	(void)skip_prefix(&name, "model.");
	const bool backbone = skip_prefix(&name, "backbone.");
	*layer = -1;
	const bool per_layer = skip_layer(&name, layer);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const struct name_row *row = &names[i];
		if (row->per_layer != per_layer || (backbone && !row->in_backbone) ||
			strcmp(row->name, name) != 0)
			continue;
		*which = row->which;
		return M2_TENSOR_WEIGHT;
	}
	return M2_TENSOR_UNKNOWN;
}

void m2_tensor_usual_name(int layer, enum m2_weight which, char *out, size_t size)
{
	const struct name_row *row = names;
	while (row->which != which)
		row++;
	if (layer >= 0)
		(void)snprintf(out, size, "backbone.layers.%d.%s", layer, row->name);
	else
		(void)snprintf(out, size, "%s%s", row->in_backbone ? "backbone." : "", row->name);
}

int m2_tensor_wanted_shape(const struct m2_model_desc *m, enum m2_weight which, int64_t shape[2])
{
	const int64_t d = m->hidden_size;
	const int64_t d_ssm = m2_desc_d_ssm(m);
	const int64_t channels = m2_desc_conv_channels(m);
	const int64_t rows = m2_desc_in_rows(m);
	const struct {
		int n;
		int64_t first, second;
		bool present;
	} wanted[M2_W_COUNT] = {
		[M2_W_EMBEDDING] = {2, m->vocab_rows, d, true},
		[M2_W_FINAL_NORM] = {1, d, 0, true},
		[M2_W_HEAD] = {2, m->vocab_rows, d, !m->tied_head},
		[M2_W_NORM] = {1, d, 0, true},
		[M2_W_IN_PROJ] = {2, rows, d, true},
		[M2_W_IN_BIAS] = {1, rows, 0, m->proj_bias},
		[M2_W_CONV] = {2, channels, m->conv_kernel, true},
		[M2_W_CONV_BIAS] = {1, channels, 0, m->conv_bias},
		[M2_W_DT_BIAS] = {1, m->n_heads, 0, true},
		[M2_W_A_LOG] = {1, m->n_heads, 0, true},
		[M2_W_D] = {1, m->d_per_channel ? d_ssm : m->n_heads, 0, true},
		[M2_W_GATED_NORM] = {1, d_ssm, 0, m->gated_norm},
		[M2_W_OUT_PROJ] = {2, d, m2_desc_out_cols(m), true},
		[M2_W_OUT_BIAS] = {1, d, 0, m->proj_bias},
	};
	shape[0] = wanted[which].first;
	shape[1] = wanted[which].second;
	return wanted[which].present ? wanted[which].n : 0;
}
