/* cases.h - the stored cases of ../shared/cases, for the programs that hold arithmetic against them.
 *
 * Each case is a small checkpoint with tokens, logits, greedy continuation and final states that a
 * float64 reference computed.  M2_SHARED moves ../shared; a case that is absent is skipped by name.
 * Header only: two test programs share it, and tests are one file each.
 */
#ifndef M2_TESTS_CONFORMANCE_CASES_H
#define M2_TESTS_CONFORMANCE_CASES_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/checkpoint.h"
#include "model/safetensors.h"

/* Largest relative L2 distance that is called equal, with weights f32 and with weights as stored.  The
 * expected values were computed in float64 from the stored values, and f16 and bf16 widen to f32
 * exactly, so both runs differ from them by the rounding of f32 arithmetic alone: at most 2.2e-6 for
 * the worst single row of logits, over every backend and instruction set.  Ten times that is still far
 * below what any wrong formula gives (test_controls.c). */
#define CASE_TOLERANCE 2e-5

struct case_name {
	const char *directory;
	const char *expected;
};

static const struct case_name case_names[] = {
	{"fla-base", "expected.safetensors"},
	{"fla-groups-normfirst-bias", "expected.safetensors"},
	{"fla-nonorm-noconvbias-tied", "expected.safetensors"},
	{"fla-wide-long", "expected.safetensors"},
	{"hf-groups2", "expected.safetensors"},
	{"hf-groups2", "expected_norm_groups_1.safetensors"},
	{"hf-sharded", "expected.safetensors"},
	{"odd-sizes", "expected.safetensors"},
	{"ssm-bin", "expected.safetensors"},
	{"ssm-bin-f16-mlp", "expected.safetensors"},
};
enum { N_CASES = sizeof case_names / sizeof *case_names };

/* An opened case.  Everything is owned by it. */
struct case_data {
	char words[128]; /* which one, for messages */
	struct m2_checkpoint *checkpoint;
	const struct m2_model_desc *desc;
	int32_t *tokens; /* [n_tokens] */
	int32_t n_tokens;
	float *logits; /* [n_rows, V] */
	int32_t n_rows;
	int32_t *positions; /* [n_rows] of the tokens */
	int32_t *greedy;    /* [n_greedy] */
	int32_t n_greedy;
	float *ssm;  /* [L, H, P, N] */
	float *conv; /* [L, K, C] */
};

static inline size_t case_ssm_size(const struct m2_model_desc *m)
{
	return (size_t)m->n_layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size;
}

/* Elements of K-1 columns over all layers. */
static inline size_t case_conv_size(const struct m2_model_desc *m)
{
	return (size_t)m->n_layers * (size_t)(m->conv_kernel - 1) *
	       (size_t)m2_desc_conv_channels(m);
}

/* |a - b| / |b| */
static inline double relative_l2(const float *a, const float *b, size_t n)
{
	double difference = 0.0;
	double norm = 0.0;
	for (size_t i = 0; i < n; i++) {
		const double d = (double)a[i] - (double)b[i];
		difference += d * d;
		norm += (double)b[i] * (double)b[i];
	}
	if (!isfinite(difference)) /* a NaN must not compare as close */
		return INFINITY;
	return norm > 0.0 ? sqrt(difference / norm) : sqrt(difference);
}

/* The whole tensor as raw 4-byte values; *count its elements.  NULL if there is none. */
static inline void *case_tensor(
	const struct m2_tensor_file *file, const char *name, const char *dtype, size_t *count)
{
	struct m2_why why;
	const struct m2_tensor *t = m2_tensor_file_find(file, name);
	if (t == NULL)
		return NULL;
	assert_string_equal(t->dtype_name, dtype);
	void *data = malloc((size_t)t->bytes + 1);
	assert_non_null(data);
	assert_int_equal(m2_tensor_file_read(file, t, 0, data, (size_t)t->bytes, &why), M2_OK);
	*count = (size_t)t->bytes / 4;
	return data;
}

static inline void case_read_expected(
	struct case_data *c, const struct m2_tensor_file *file, int32_t *norm_groups)
{
	size_t n = 0;
	c->tokens = case_tensor(file, "tokens", "I32", &n);
	c->n_tokens = (int32_t)n;
	const struct m2_tensor *logits = m2_tensor_file_find(file, "logits");
	assert_non_null(logits);
	assert_int_equal(logits->n_dims, 2);
	c->n_rows = (int32_t)logits->shape[0];
	c->logits = case_tensor(file, "logits", "F32", &n);
	c->greedy = case_tensor(file, "greedy", "I32", &n);
	c->n_greedy = (int32_t)n;
	c->ssm = case_tensor(file, "ssm_state", "F32", &n);
	c->conv = case_tensor(file, "conv_state", "F32", &n);
	assert_true(c->tokens != NULL && c->greedy != NULL && c->ssm != NULL && c->conv != NULL);
	c->positions = case_tensor(file, "positions", "I32", &n);
	if (c->positions == NULL) { /* every one */
		c->positions = malloc((size_t)c->n_rows * sizeof *c->positions);
		assert_non_null(c->positions);
		for (int32_t i = 0; i < c->n_rows; i++)
			c->positions[i] = i;
	}
	int32_t *groups = case_tensor(file, "norm_groups", "I32", &n);
	*norm_groups = groups != NULL ? groups[0] : 0;
	free(groups);
}

static inline void case_close(struct case_data *c)
{
	m2_checkpoint_close(&c->checkpoint);
	free(c->tokens);
	free(c->logits);
	free(c->positions);
	free(c->greedy);
	free(c->ssm);
	free(c->conv);
	*c = (struct case_data){.n_tokens = 0};
}

/* False, with a message that names it, when the case is absent. */
static inline bool case_open(const struct case_name *name, struct case_data *c)
{
	char directory[4096];
	struct m2_tensor_file *file = NULL;
	struct m2_why why = {.text = ""};
	int32_t norm_groups;
	const char *shared = getenv("M2_SHARED");
	*c = (struct case_data){.n_tokens = 0};
	(void)snprintf(directory, sizeof directory, "%s/cases/%s",
		shared != NULL ? shared : "../shared", name->directory);
	(void)snprintf(c->words, sizeof c->words, "%s/%s", name->directory, name->expected);
	const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		print_message("skipped: the case %s is absent\n", c->words);
		return false;
	}
	if (m2_safetensors_open(fd, name->expected, &file, &why) != M2_OK)
		fail_msg("%s: %s", c->words, why.text);
	close(fd);
	case_read_expected(c, file, &norm_groups);
	m2_tensor_file_close(&file);
	if (m2_checkpoint_open(directory, norm_groups, &c->checkpoint, &why) != M2_OK)
		fail_msg("%s: %s", c->words, why.text);
	c->desc = &m2_checkpoint_config(c->checkpoint)->desc;
	return true;
}

/* Stored conv states have K columns; K-1 of them are the state.  [L, K-1, C], malloc'd. */
static inline float *case_wanted_conv(const struct case_data *c)
{
	const size_t k = (size_t)c->desc->conv_kernel;
	const size_t width = (size_t)m2_desc_conv_channels(c->desc);
	float *out = malloc((case_conv_size(c->desc) + 1) * sizeof *out);
	assert_non_null(out);
	for (size_t layer = 0; layer < (size_t)c->desc->n_layers; layer++)
		memcpy(out + layer * (k - 1) * width, c->conv + (layer * k + 1) * width,
			(k - 1) * width * sizeof *out);
	return out;
}

static inline int32_t case_argmax(const float *logits, int32_t n)
{
	int32_t best = 0;
	for (int32_t i = 1; i < n; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}

#endif
