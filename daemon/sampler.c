/* sampler.c - the order of operations of sampler.h, one function per step. */
#include "daemon/sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/num.h"
#include "daemon/sampler_math.h"

size_t m2_sampler_bytes(int32_t vocab)
{
	return (size_t)vocab * (2 * sizeof(float) + sizeof(int32_t));
}

enum m2_err m2_sampler_init(struct m2_sampler *sampler, int32_t vocab, struct m2_why *why)
{
	const size_t n = (size_t)vocab;
	*sampler = (struct m2_sampler){
		.vocab = vocab,
		.value = malloc(n * sizeof(float)),
		.weight = malloc(n * sizeof(float)),
		.ids = malloc(n * sizeof(int32_t)),
	};
	if (sampler->value != NULL && sampler->weight != NULL && sampler->ids != NULL)
		return M2_OK;
	m2_sampler_finish(sampler);
	return m2_fail(M2_ENOMEM, why, "no memory for sampling over %d tokens", vocab);
}

void m2_sampler_finish(struct m2_sampler *sampler)
{
	free(sampler->value);
	free(sampler->weight);
	free(sampler->ids);
	*sampler = (struct m2_sampler){0};
}

/* Copy the row to value and look at every entry once.  The largest and the lowest index of it. */
static enum m2_err take_row(
	struct m2_sampler *s, const float *logits, float *largest, struct m2_why *why)
{
	float max = -INFINITY;
	bool finite = true;
	for (int32_t i = 0; i < s->vocab; i++) {
		const float x = logits[i];
		finite &= fabsf(x) <= FLT_MAX; /* false for NaN too */
		max = x > max ? x : max;
		s->value[i] = x;
	}
	*largest = max;
	if (finite)
		return M2_OK;
	return m2_fail(M2_EDEVICE, why, "the model's logits are not finite numbers");
}

static void apply_bias(struct m2_sampler *s, const struct m2_sampler_rule *rule)
{
	for (uint32_t i = 0; i < rule->n_bias; i++)
		if (rule->bias[i].id < s->vocab)
			s->value[rule->bias[i].id] += rule->bias[i].bias;
}

static void apply_penalties(
	struct m2_sampler *s, const struct m2_sampling *p, const struct m2_counts *counts)
{
	for (uint32_t i = 0; i < counts->n; i++) {
		const struct m2_token_count *c = &counts->entry[i];
		if (c->id >= s->vocab)
			continue;
		float x = s->value[c->id];
		x = x > 0.0F ? x / p->repetition_penalty : x * p->repetition_penalty;
		if (c->generated > 0)
			x -= p->presence_penalty + p->frequency_penalty * (float)c->generated;
		s->value[c->id] = x;
	}
}

static int32_t argmax(const float *value, int32_t n)
{
	int32_t best = 0;
	for (int32_t i = 1; i < n; i++)
		if (value[i] > value[best])
			best = i;
	return best;
}

/* value[i] becomes value[i] - max (<= 0, exact enough: both are f32), weight its exp. */
static double weigh(struct m2_sampler *s, int32_t n, float max, float temperature)
{
	for (int32_t i = 0; i < n; i++)
		s->value[i] -= max;
	/* 1/T overflows for T below 2^-128: then only the largest can be drawn, as with T = 2^-126 */
	const float scale = temperature < FLT_MIN ? 1.0F / FLT_MIN : 1.0F / temperature;
	return m2_exp_row(s->weight, s->value, scale, n);
}

static int32_t drop_light(struct m2_sampler *s, int32_t n, float least)
{
	int32_t kept = 0;
	for (int32_t i = 0; i < n; i++) {
		if (s->weight[i] < least)
			continue;
		s->weight[kept] = s->weight[i];
		s->ids[kept++] = s->ids[i];
	}
	return kept;
}

static int32_t draw(const struct m2_sampler *s, int32_t n, double u)
{
	double total = 0.0;
	for (int32_t i = 0; i < n; i++)
		total += (double)s->weight[i];
	const double target = u * total;
	double sum = 0.0;
	int32_t last = 0;
	for (int32_t i = 0; i < n; i++) {
		if (s->weight[i] <= 0.0F)
			continue;
		sum += (double)s->weight[i];
		last = i;
		if (sum > target)
			break;
	}
	return s->ids[last]; /* u * total may round up to the sum: the last one that has a weight */
}

enum m2_err m2_sampler_choose(struct m2_sampler *s, const float *logits,
	const struct m2_sampler_rule *rule, const struct m2_counts *counts, uint64_t position,
	int32_t *token, struct m2_why *why)
{
	const struct m2_sampling *p = rule->settings;
	float max;
	enum m2_err err = take_row(s, logits, &max, why);
	if (err != M2_OK)
		return err;
	apply_bias(s, rule);
	apply_penalties(s, p, counts);
	const int32_t best = argmax(s->value, s->vocab);
	if (p->temperature <= 0.0F) {
		*token = best;
		return M2_OK;
	}
	int32_t n = s->vocab;
	max = s->value[best];
	for (int32_t i = 0; i < n; i++)
		s->ids[i] = i;
	if (p->top_k > 0 && p->top_k < n)
		n = m2_sampler_cut(s->value, NULL, s->ids, n, (double)p->top_k);
	const double total = weigh(s, n, max, p->temperature);
	if (p->top_p < 1.0F)
		n = m2_sampler_cut(s->value, s->weight, s->ids, n, (double)p->top_p * total);
	if (p->min_p > 0.0F)
		n = drop_light(s, n, p->min_p); /* the largest weighs exactly 1 */
	*token = draw(s, n, m2_philox_uniform(p->seed, rule->sequence, position));
	return M2_OK;
}

/* The k largest of the row in order, by insertion: k is at most M2_LIMIT_TOP_LOGPROBS and nearly every
 * entry fails the first comparison. */
static void top_of_row(const float *logits, int32_t n, uint32_t k, int32_t *ids)
{
	uint32_t have = 0;
	for (int32_t i = 0; i < n; i++) {
		if (have == k && !(logits[i] > logits[ids[k - 1]]))
			continue;
		uint32_t at = have < k ? have++ : k - 1;
		for (; at > 0 && logits[i] > logits[ids[at - 1]]; at--)
			ids[at] = ids[at - 1];
		ids[at] = i;
	}
	for (; have < k; have++)
		ids[have] = -1;
}

enum m2_err m2_sampler_logprobs(struct m2_sampler *s, const float *logits, int32_t token,
	uint32_t top_k, float *logprob, int32_t *top_ids, float *top_logprobs, struct m2_why *why)
{
	float max;
	enum m2_err err = take_row(s, logits, &max, why);
	if (err != M2_OK)
		return err;
	for (int32_t i = 0; i < s->vocab; i++)
		s->value[i] -= max;
	const double sum = m2_exp_row(s->weight, s->value, 1.0F, s->vocab);
	const double norm = (double)max + m2_log_positive(sum); /* sum >= 1: the largest counts 1 */
	*logprob = token < s->vocab ? (float)((double)logits[token] - norm) : -INFINITY;
	if (top_k == 0)
		return M2_OK;
	top_of_row(logits, s->vocab, top_k, top_ids);
	for (uint32_t i = 0; i < top_k; i++)
		top_logprobs[i] =
			top_ids[i] < 0 ? -INFINITY : (float)((double)logits[top_ids[i]] - norm);
	return M2_OK;
}

/* ---- counts ------------------------------------------------------------------------------------ */

static bool counts_shape(size_t capacity, size_t *buckets, size_t *bytes)
{
	*buckets = 8;
	while (*buckets < 2 * capacity && *buckets <= SIZE_MAX / 4)
		*buckets *= 2;
	*bytes = 0;
	return capacity <= UINT32_MAX / 4 &&
	       m2_add_mul_size(bytes, capacity, sizeof(struct m2_token_count)) &&
	       m2_add_mul_size(bytes, *buckets, sizeof(uint32_t));
}

size_t m2_counts_bytes(size_t capacity)
{
	size_t buckets, bytes;
	return counts_shape(capacity, &buckets, &bytes) ? bytes : SIZE_MAX;
}

enum m2_err m2_counts_init(struct m2_counts *counts, size_t capacity, struct m2_why *why)
{
	size_t buckets, bytes;
	*counts = (struct m2_counts){0};
	if (counts_shape(capacity, &buckets, &bytes)) {
		counts->entry = calloc(capacity > 0 ? capacity : 1, sizeof *counts->entry);
		counts->index = calloc(buckets, sizeof *counts->index);
	}
	if (counts->entry == NULL || counts->index == NULL) {
		m2_counts_finish(counts);
		return m2_fail(M2_ENOMEM, why, "no memory to count %zu tokens", capacity);
	}
	counts->capacity = (uint32_t)capacity;
	counts->mask = (uint32_t)(buckets - 1);
	return M2_OK;
}

void m2_counts_finish(struct m2_counts *counts)
{
	free(counts->entry);
	free(counts->index);
	*counts = (struct m2_counts){0};
}

void m2_counts_add(struct m2_counts *counts, int32_t id, uint32_t generated)
{
	if (counts->index == NULL)
		return;
	uint32_t at = ((uint32_t)id * 2654435769U) >> 7 & counts->mask;
	while (counts->index[at] != 0 && counts->entry[counts->index[at] - 1].id != id)
		at = (at + 1) & counts->mask;
	if (counts->index[at] == 0) {
		assert(counts->n < counts->capacity); /* sized for every distinct id there can be */
		counts->entry[counts->n] = (struct m2_token_count){.id = id};
		counts->index[at] = ++counts->n;
	}
	counts->entry[counts->index[at] - 1].generated += generated;
}
