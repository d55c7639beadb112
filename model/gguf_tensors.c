/* gguf_tensors.c - where a GGUF file's tensors lie, and what llama.cpp's names mean.
 *
 * Data is laid out in the order of the descriptions, each tensor padded to the alignment; an offset that
 * says otherwise is refused, so that no tensor can be another's alias and no hole is skipped.  Bytes
 * behind the last tensor are padding and are left alone, as ggml does.
 *
 * Shapes: converters keep A and D with an axis of length 1 and the gated norm as [G, Ds/G]; both lie in
 * memory as [H] and [Ds], and come out so.  Source: llama.cpp's converter for Mamba-2.
 */
#include "model/gguf_tensors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/num.h"
#include "common/utf8.h"
#include "model/tensor_names.h"

enum { MAX_TENSORS = 65536, MAX_NAME = 64, MAX_OUR_NAME = 128, MAX_DIMS = 4 };

/* ggml's types: elements of a block, and its bytes; 0: the type was withdrawn. */
static const struct type_row {
	uint32_t id;
	const char *name;
	uint16_t block, bytes;
	enum m2_dtype dtype; /* NONE: quantised, or of no use as a weight */
} types[] = {
	{0, "F32", 1, 4, M2_DTYPE_F32},
	{1, "F16", 1, 2, M2_DTYPE_F16},
	{2, "Q4_0", 32, 18, M2_DTYPE_NONE},
	{3, "Q4_1", 32, 20, M2_DTYPE_NONE},
	{4, "Q4_2", 0, 0, M2_DTYPE_NONE},
	{5, "Q4_3", 0, 0, M2_DTYPE_NONE},
	{6, "Q5_0", 32, 22, M2_DTYPE_NONE},
	{7, "Q5_1", 32, 24, M2_DTYPE_NONE},
	{8, "Q8_0", 32, 34, M2_DTYPE_NONE},
	{9, "Q8_1", 32, 40, M2_DTYPE_NONE},
	{10, "Q2_K", 256, 84, M2_DTYPE_NONE},
	{11, "Q3_K", 256, 110, M2_DTYPE_NONE},
	{12, "Q4_K", 256, 144, M2_DTYPE_NONE},
	{13, "Q5_K", 256, 176, M2_DTYPE_NONE},
	{14, "Q6_K", 256, 210, M2_DTYPE_NONE},
	{15, "Q8_K", 256, 292, M2_DTYPE_NONE},
	{16, "IQ2_XXS", 256, 66, M2_DTYPE_NONE},
	{17, "IQ2_XS", 256, 74, M2_DTYPE_NONE},
	{18, "IQ3_XXS", 256, 98, M2_DTYPE_NONE},
	{19, "IQ1_S", 256, 50, M2_DTYPE_NONE},
	{20, "IQ4_NL", 32, 18, M2_DTYPE_NONE},
	{21, "IQ3_S", 256, 110, M2_DTYPE_NONE},
	{22, "IQ2_S", 256, 82, M2_DTYPE_NONE},
	{23, "IQ4_XS", 256, 136, M2_DTYPE_NONE},
	{24, "I8", 1, 1, M2_DTYPE_NONE},
	{25, "I16", 1, 2, M2_DTYPE_NONE},
	{26, "I32", 1, 4, M2_DTYPE_NONE},
	{27, "I64", 1, 8, M2_DTYPE_NONE},
	{28, "F64", 1, 8, M2_DTYPE_F64},
	{29, "IQ1_M", 256, 56, M2_DTYPE_NONE},
	{30, "BF16", 1, 2, M2_DTYPE_BF16},
	{31, "Q4_0_4_4", 0, 0, M2_DTYPE_NONE},
	{32, "Q4_0_4_8", 0, 0, M2_DTYPE_NONE},
	{33, "Q4_0_8_8", 0, 0, M2_DTYPE_NONE},
	{34, "TQ1_0", 256, 54, M2_DTYPE_NONE},
	{35, "TQ2_0", 256, 66, M2_DTYPE_NONE},
	{36, "IQ4_NL_4_4", 0, 0, M2_DTYPE_NONE},
	{37, "IQ4_NL_4_8", 0, 0, M2_DTYPE_NONE},
	{38, "IQ4_NL_8_8", 0, 0, M2_DTYPE_NONE},
	{39, "MXFP4", 32, 17, M2_DTYPE_NONE},
	{40, "NVFP4", 64, 36, M2_DTYPE_NONE},
	{41, "Q1_0", 128, 18, M2_DTYPE_NONE},
};

enum fold { AS_IT_IS, FOLD_COLUMN, FOLD_GROUPS };

/* blk.N.NAME is backbone.layers.N.OURS; the model's own have their whole names here. */
static const struct name_row {
	const char *name;
	const char *ours;
	bool per_layer;
	enum fold fold;
} names[] = {
	{"token_embd.weight", "backbone.embedding.weight", false, AS_IT_IS},
	{"output_norm.weight", "backbone.norm_f.weight", false, AS_IT_IS},
	{"output.weight", "lm_head.weight", false, AS_IT_IS},
	{"attn_norm.weight", "norm.weight", true, AS_IT_IS},
	{"ssm_in.weight", "mixer.in_proj.weight", true, AS_IT_IS},
	{"ssm_in.bias", "mixer.in_proj.bias", true, AS_IT_IS},
	{"ssm_conv1d.weight", "mixer.conv1d.weight", true, AS_IT_IS},
	{"ssm_conv1d.bias", "mixer.conv1d.bias", true, AS_IT_IS},
	{"ssm_dt.bias", "mixer.dt_bias", true, AS_IT_IS},
	{"ssm_a", "mixer.A_log", true, FOLD_COLUMN},
	{"ssm_d", "mixer.D", true, FOLD_COLUMN},
	{"ssm_norm.weight", "mixer.norm.weight", true, FOLD_GROUPS},
	{"ssm_out.weight", "mixer.out_proj.weight", true, AS_IT_IS},
	{"ssm_out.bias", "mixer.out_proj.bias", true, AS_IT_IS},
};

struct reading {
	struct m2_gguf_bytes *b;
	struct m2_why *why;
	struct m2_tensor_file *file;
	size_t cap;        /* of file->tensors */
	size_t name_bytes; /* used of file->names */
	size_t name_cap;
	uint32_t alignment;
	uint64_t next; /* offset in the data that the next tensor must have */
	int64_t norm_rows;
};

/* ---- one description ---- */

/* "blk.12." without leading zeros, at most 4 digits; the rest of the name, NULL if it is none such. */
static const char *behind_block(const char *name, int *layer)
{
	if (strncmp(name, "blk.", 4) != 0)
		return NULL;
	const char *p = name + 4;
	int value = 0;
	int digits = 0;
	for (; *p >= '0' && *p <= '9' && digits < 5; p++, digits++)
		value = value * 10 + (*p - '0');
	if (digits == 0 || digits > 4 || *p != '.' || (digits > 1 && name[4] == '0'))
		return NULL;
	*layer = value;
	return p + 1;
}

/* The name that everything else knows it by.  A name that is not the format's stays as it is, to be
 * refused by name - but it may not be one that would then be taken for a weight: such a tensor would be
 * read by this format's rules (A is -exp(A_log)) without having been made by them. */
static enum m2_err translate(const struct reading *r, const char *name, char *ours, enum fold *fold)
{
	int layer = 0;
	enum m2_weight which;
	const char *rest = behind_block(name, &layer);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const struct name_row *row = &names[i];
		if (row->per_layer != (rest != NULL) ||
			strcmp(row->name, rest != NULL ? rest : name) != 0)
			continue;
		*fold = row->fold;
		if (rest != NULL)
			(void)snprintf(
				ours, MAX_OUR_NAME, "backbone.layers.%d.%s", layer, row->ours);
		else
			(void)snprintf(ours, MAX_OUR_NAME, "%s", row->ours);
		return M2_OK;
	}
	*fold = AS_IT_IS;
	(void)snprintf(ours, MAX_OUR_NAME, "%s", name);
	if (m2_tensor_role_of(name, &layer, &which) == M2_TENSOR_UNKNOWN)
		return M2_OK;
	return m2_fail(M2_EFORMAT, r->why, "%s: %s is another format's name, not GGUF's",
		r->b->what, name);
}

static enum m2_err take_name(struct reading *r, char *name)
{
	size_t at = 0;
	size_t length = 0;
	const enum m2_err err =
		m2_gguf_bytes_string(r->b, MAX_NAME, "a tensor's name", &at, &length);
	if (err != M2_OK)
		return err;
	memcpy(name, r->b->data + at, length);
	name[length] = '\0';
	bool good = length > 0 && m2_utf8_valid(name, length);
	for (size_t i = 0; i < length && good; i++)
		good = (unsigned char)name[i] >= ' ' && name[i] != 0x7f;
	if (!good)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the tensor's name at byte %zu is empty, not UTF-8, or has a control "
			"character",
			r->b->what, at);
	return M2_OK;
}

static enum m2_err take_shape(struct reading *r, const char *name, struct m2_tensor *t)
{
	uint32_t n = 0;
	enum m2_err err = m2_gguf_bytes_u32(r->b, &n);
	if (err == M2_OK && (n < 1 || n > MAX_DIMS))
		err = m2_fail(M2_EFORMAT, r->why, "%s: %s has %u dimensions, outside 1..%d",
			r->b->what, name, n, MAX_DIMS);
	if (err != M2_OK)
		return err;
	t->n_dims = (int32_t)n;
	for (uint32_t i = 0; i < n && err == M2_OK; i++) {
		uint64_t size = 0;
		err = m2_gguf_bytes_u64(r->b, &size);
		if (err == M2_OK && (size < 1 || size > INT64_MAX))
			err = m2_fail(M2_EFORMAT, r->why,
				"%s: %s has a dimension of %llu, outside 1..2^63-1", r->b->what,
				name, (unsigned long long)size);
		/* the format begins with the innermost */
		t->shape[n - 1 - i] = (int64_t)size;
	}
	return err;
}

/* The type, and with the shape the bytes. */
static enum m2_err take_type(struct reading *r, const char *name, struct m2_tensor *t)
{
	uint32_t id = 0;
	const struct type_row *type = NULL;
	const enum m2_err err = m2_gguf_bytes_u32(r->b, &id);
	if (err != M2_OK)
		return err;
	for (size_t i = 0; i < sizeof types / sizeof *types && type == NULL; i++)
		if (types[i].id == id)
			type = &types[i];
	if (type == NULL || type->block == 0)
		return m2_fail(M2_EFORMAT, r->why, "%s: %s has the %s type %u%s%s", r->b->what,
			name, type == NULL ? "unknown" : "withdrawn", id, type == NULL ? "" : ", ",
			type == NULL ? "" : type->name);
	t->dtype = type->dtype;
	(void)snprintf(t->dtype_name, sizeof t->dtype_name, "%s", type->name);
	const uint64_t row = (uint64_t)t->shape[t->n_dims - 1];
	if (row % type->block != 0)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: %s has rows of %llu elements, no multiple of the %d in a block of %s",
			r->b->what, name, (unsigned long long)row, type->block, type->name);
	uint64_t bytes = row / type->block;
	bool fits = !__builtin_mul_overflow(bytes, (uint64_t)type->bytes, &bytes);
	for (int32_t i = 0; i + 1 < t->n_dims && fits; i++)
		fits = !__builtin_mul_overflow(bytes, (uint64_t)t->shape[i], &bytes);
	/* more than any file, and offsets added to it stay in 64 bits */
	if (!fits || bytes > INT64_MAX)
		return m2_fail(
			M2_EFORMAT, r->why, "%s: the size of %s overflows", r->b->what, name);
	t->bytes = bytes;
	return M2_OK;
}

/* The place must be where the tensors before it end. */
static enum m2_err take_place(struct reading *r, const char *name, struct m2_tensor *t)
{
	uint64_t offset = 0;
	const enum m2_err err = m2_gguf_bytes_u64(r->b, &offset);
	if (err != M2_OK)
		return err;
	if (offset != r->next)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the data of %s begins at %llu, the data before it ends at %llu",
			r->b->what, name, (unsigned long long)offset, (unsigned long long)r->next);
	size_t end = 0;
	if (!m2_add_size(offset, t->bytes, &end) || !m2_round_up_size(end, r->alignment, &end))
		return m2_fail(
			M2_EFORMAT, r->why, "%s: the place of %s overflows", r->b->what, name);
	t->begin = offset;
	r->next = end;
	return M2_OK;
}

static void fold_axes(struct reading *r, enum fold fold, struct m2_tensor *t)
{
	if (fold == FOLD_COLUMN && t->n_dims == 2 && t->shape[1] == 1)
		t->n_dims = 1;
	if (fold != FOLD_GROUPS)
		return;
	const int64_t rows = t->n_dims == 2 ? t->shape[0] : 1;
	r->norm_rows = r->norm_rows == 0 || r->norm_rows == rows ? rows : -1;
	if (t->n_dims == 2) {
		t->shape[0] *= t->shape[1]; /* no overflow: the bytes were computed from it */
		t->n_dims = 1;
	}
}

/* ---- all of them ---- */

static enum m2_err keep(struct reading *r, const char *name, const struct m2_tensor *t)
{
	struct m2_tensor_file *f = r->file;
	const size_t bytes = strlen(name) + 1;
	if (f->count == r->cap) {
		const size_t cap = r->cap == 0 ? 64 : r->cap * 2;
		struct m2_tensor *grown = realloc(f->tensors, cap * sizeof *grown);
		if (grown == NULL)
			return m2_fail(M2_ENOMEM, r->why, "%s: out of memory", f->what);
		f->tensors = grown;
		r->cap = cap;
	}
	if (bytes > r->name_cap - r->name_bytes) {
		const size_t cap = 2 * (r->name_cap + MAX_OUR_NAME);
		char *grown = realloc(f->names, cap);
		if (grown == NULL)
			return m2_fail(M2_ENOMEM, r->why, "%s: out of memory", f->what);
		f->names = grown;
		r->name_cap = cap;
	}
	memcpy(f->names + r->name_bytes, name, bytes);
	r->name_bytes += bytes;
	f->tensors[f->count++] = *t;
	return M2_OK;
}

static enum m2_err take_tensor(struct reading *r)
{
	struct m2_tensor t = {.name = NULL};
	char name[MAX_NAME + 1];
	char ours[MAX_OUR_NAME];
	enum fold fold = AS_IT_IS;
	enum m2_err err = take_name(r, name);
	if (err == M2_OK)
		err = translate(r, name, ours, &fold);
	if (err == M2_OK)
		err = take_shape(r, name, &t);
	if (err == M2_OK)
		err = take_type(r, name, &t);
	if (err == M2_OK)
		err = take_place(r, name, &t);
	if (err != M2_OK)
		return err;
	fold_axes(r, fold, &t);
	return keep(r, ours, &t);
}

/* From offsets in the data to places in the file, all of them inside it. */
static enum m2_err settle(struct reading *r)
{
	struct m2_tensor_file *f = r->file;
	size_t data = 0;
	if (!m2_round_up_size(r->b->at, r->alignment, &data))
		return m2_fail(M2_EFORMAT, r->why, "%s: its header is too long", f->what);
	const char *name = f->names; /* only now do the names stay where they are */
	for (size_t i = 0; i < f->count; i++) {
		struct m2_tensor *t = &f->tensors[i];
		t->name = name;
		name += strlen(name) + 1;
		if (!m2_add_size(data, t->begin, &t->begin) || t->begin > r->b->file_bytes ||
			t->bytes > r->b->file_bytes - t->begin)
			return m2_fail(M2_EFORMAT, r->why,
				"%s: the data of %s ends behind the file's %llu bytes: it is cut "
				"short",
				f->what, t->name, (unsigned long long)r->b->file_bytes);
	}
	return m2_tensor_file_sort(f, r->why);
}

enum m2_err m2_gguf_tensors_read(struct m2_gguf_bytes *bytes, uint64_t n, uint32_t alignment,
	struct m2_tensor_file *file, int64_t *norm_rows, struct m2_why *why)
{
	struct reading r = {.b = bytes, .why = why, .file = file, .alignment = alignment};
	if (n > MAX_TENSORS)
		return m2_fail(M2_ELIMIT, why, "%s: %llu tensors, more than %d", file->what,
			(unsigned long long)n, MAX_TENSORS);
	for (uint64_t i = 0; i < n; i++) {
		const enum m2_err err = take_tensor(&r);
		if (err != M2_OK)
			return err;
	}
	*norm_rows = r.norm_rows;
	return settle(&r);
}
