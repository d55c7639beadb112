/* test_daemon_sampler.c - the sampler against brute force that sorts, and Philox against its paper. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/sampler.h"
#include "daemon/sampler_math.h"

enum { V = 200 };

static uint64_t state;

static uint64_t next_random(void)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	uint64_t x = state;
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdu;
	return x ^ (x >> 33);
}

static double uniform(void)
{
	return (double)(next_random() >> 11) / 9007199254740992.0;
}

static struct m2_sampling plain(void)
{
	return (struct m2_sampling){
		.temperature = 1.0F, .top_p = 1.0F, .repetition_penalty = 1.0F, .seed = 7};
}

/* Rows with ties: values on a coarse grid half of the time. */
static void random_row(float *row, int n)
{
	const bool coarse = next_random() % 2 == 0;
	for (int i = 0; i < n; i++) {
		const float x = (float)(uniform() * 20 - 10);
		row[i] = coarse ? floorf(x) : x;
	}
}

static void philox_gives_the_vectors_of_its_paper(void **unused)
{
	(void)unused;
	static const struct {
		uint32_t counter[4], key[2], out[4];
	} known[] = {
		{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
			{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
			{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};
	for (size_t i = 0; i < 3; i++) {
		uint32_t out[4];
		m2_philox4x32_10(known[i].counter, known[i].key, out);
		assert_memory_equal(out, known[i].out, sizeof out);
	}
}

static void exp_and_log_agree_with_libm(void **unused)
{
	(void)unused;
	for (int i = 0; i < 20000; i++) {
		float x = (float)(-uniform() * (i % 2 ? 86.9 : 1.0)), e;
		(void)m2_exp_row(&e, &x, 1.0F, 1);
		assert_true(fabs((double)e / exp((double)x) - 1) < 2.5e-7);
		const double y = exp(uniform() * 80 - 40);
		assert_true(fabs(m2_log_positive(y) - log(y)) < 4e-16 * fmax(1, fabs(log(y))));
	}
	float edge[4] = {0.0F, -87.1F, -INFINITY, -FLT_MAX}, out[4];
	assert_true(m2_exp_row(out, edge, 1.0F, 4) == 1.0);
	assert_true(fabs(m2_log_positive(1.0)) == 0.0);
	assert_true(fabs(m2_log_positive(5e-324) - log(5e-324)) < 1e-12);
}

struct ranked {
	float value;
	int id;
};

static int by_rank(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	if (x->value < y->value || x->value > y->value)
		return x->value > y->value ? -1 : 1;
	return x->id - y->id;
}

static void ranking(const float *row, int n, struct ranked *out)
{
	for (int i = 0; i < n; i++)
		out[i] = (struct ranked){row[i], i};
	qsort(out, (size_t)n, sizeof *out, by_rank);
}

static void a_cut_by_count_keeps_the_k_first_of_a_sort(void **unused)
{
	(void)unused;
	for (int round = 0; round < 300; round++) {
		float row[V], value[V];
		int32_t ids[V];
		struct ranked rank[V];
		random_row(row, V);
		if (round % 5 == 0)
			row[round % V] = -0.0F, row[(round + 1) % V] = 0.0F;
		ranking(row, V, rank);
		for (int i = 0; i < V; i++) {
			value[i] = row[i];
			ids[i] = i;
		}
		const int k = 1 + (int)(next_random() % (V - 1));
		assert_int_equal(m2_sampler_cut(value, NULL, ids, V, k), k);
		bool kept[V] = {false};
		for (int i = 0; i < k; i++) {
			assert_true(i == 0 || ids[i] > ids[i - 1]);
			assert_true(value[i] == row[ids[i]]);
			kept[ids[i]] = true;
		}
		for (int i = 0; i < k; i++)
			assert_true(kept[rank[i].id]);
	}
}

static void a_cut_by_mass_keeps_the_fewest_that_reach_it(void **unused)
{
	(void)unused;
	for (int round = 0; round < 500; round++) {
		float row[V], value[V], weight[V];
		int32_t ids[V];
		struct ranked rank[V];
		random_row(row, V);
		ranking(row, V, rank);
		double total = 0;
		for (int i = 0; i < V; i++) {
			value[i] = row[i];
			ids[i] = i;
			weight[i] = expf(row[i] - rank[0].value);
			total += (double)weight[i];
		}
		const double p = round % 10 == 0 ? 0.0 : uniform();
		double sum = 0;
		int want = 0;
		bool close = false; /* so near to the edge that the order of adding decides */
		do {
			sum += (double)expf(rank[want].value - rank[0].value);
			close |= fabs(sum - p * total) < 1e-9 * total;
			want++;
		} while (sum < p * total && want < V);
		const int got = m2_sampler_cut(value, weight, ids, V, p * total);
		if (close && p > 0)
			continue;
		assert_int_equal(got, want);
		bool kept[V] = {false};
		for (int i = 0; i < got; i++)
			kept[ids[i]] = true;
		for (int i = 0; i < got; i++)
			assert_true(kept[rank[i].id]);
	}
}

/* The steps of sampler.h by the book: sorted, in f64.  prob[] of every id. */
static void oracle(const float *row, const struct m2_sampling *p, double *prob)
{
	struct ranked rank[V];
	double w[V], total = 0, sum = 0;
	ranking(row, V, rank);
	int n = p->top_k > 0 && p->top_k < V ? p->top_k : V;
	for (int i = 0; i < n; i++) {
		w[i] = exp(
			((double)rank[i].value - (double)rank[0].value) / (double)p->temperature);
		total += w[i];
	}
	int kept = 0;
	while (kept < n && (kept == 0 || sum < (double)p->top_p * total))
		sum += w[kept++];
	if (p->top_p >= 1.0F)
		kept = n;
	while (kept > 1 && w[kept - 1] < (double)p->min_p)
		kept--;
	total = 0;
	for (int i = 0; i < kept; i++)
		total += w[i];
	for (int i = 0; i < V; i++)
		prob[i] = 0;
	for (int i = 0; i < kept; i++)
		prob[rank[i].id] = w[i] / total;
}

static void draws_follow_the_distribution_of_the_oracle(void **unused)
{
	(void)unused;
	struct m2_sampler s;
	struct m2_counts none = {0};
	struct m2_why why;
	assert_int_equal(m2_sampler_init(&s, V, &why), M2_OK);
	static const struct {
		float temperature, top_p, min_p;
		int top_k;
	} settings[] = {{1, 1, 0, 0}, {0.7F, 1, 0, 20}, {1.5F, 0.8F, 0, 0}, {1, 1, 0.05F, 0},
		{1.2F, 0.9F, 0.02F, 50}, {3, 0.5F, 0, 5}};
	for (size_t c = 0; c < sizeof settings / sizeof settings[0]; c++) {
		struct m2_sampling p = plain();
		float row[V];
		double prob[V], chi = 0;
		int seen[V] = {0}, free_degrees = -1;
		enum { DRAWS = 20000 };
		for (int i = 0; i < V; i++)
			row[i] = (float)(uniform() * 6 - 3);
		p.temperature = settings[c].temperature;
		p.top_p = settings[c].top_p;
		p.min_p = settings[c].min_p;
		p.top_k = settings[c].top_k;
		p.seed = 1000 + c;
		oracle(row, &p, prob);
		const struct m2_sampler_rule rule = {.settings = &p, .sequence = 3};
		for (int d = 0; d < DRAWS; d++) {
			int32_t token;
			assert_int_equal(
				m2_sampler_choose(&s, row, &rule, &none, (uint64_t)d, &token, &why),
				M2_OK);
			seen[token]++;
		}
		double rest_expected = 0, rest_seen = 0;
		for (int i = 0; i < V; i++) {
			const double expected = prob[i] * DRAWS;
			assert_true(prob[i] > 0 || seen[i] == 0);
			if (expected < 5) {
				rest_expected += expected;
				rest_seen += seen[i];
				continue;
			}
			chi += (seen[i] - expected) * (seen[i] - expected) / expected;
			free_degrees++;
		}
		if (rest_expected >= 5) {
			chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) /
			       rest_expected;
			free_degrees++;
		}
		/* five standard deviations of chi-square; the seeds are fixed */
		assert_true(chi < free_degrees + 5 * sqrt(2.0 * free_degrees) + 5);
	}
	m2_sampler_finish(&s);
}

static void penalties_and_bias_follow_their_formulas(void **unused)
{
	(void)unused;
	struct m2_sampler s;
	struct m2_why why;
	assert_int_equal(m2_sampler_init(&s, V, &why), M2_OK);
	for (int round = 0; round < 400; round++) {
		struct m2_sampling p = plain();
		struct m2_counts counts;
		struct m2_logit_bias bias[4];
		float row[V], want[V];
		int prompt[V] = {0}, generated[V] = {0};
		random_row(row, V);
		p.temperature = 0;
		p.repetition_penalty = (float)(0.5 + uniform() * 2);
		p.presence_penalty = (float)(uniform() * 4 - 2);
		p.frequency_penalty = (float)(uniform() * 2 - 1);
		assert_int_equal(m2_counts_init(&counts, V, &why), M2_OK);
		for (int i = 0; i < 150; i++) {
			const int32_t id = (int32_t)(next_random() % V);
			const uint32_t made = next_random() % 2 == 0;
			m2_counts_add(&counts, id, made);
			prompt[id] = 1;
			generated[id] += (int)made;
		}
		memcpy(want, row, sizeof want);
		for (int i = 0; i < 4; i++) {
			bias[i].id = (int32_t)(next_random() %
					       (V + 20)); /* some beyond the vocabulary */
			bias[i].bias = (float)(uniform() * 10 - 5);
			if (bias[i].id < V)
				want[bias[i].id] += bias[i].bias;
		}
		int best = 0;
		for (int i = 0; i < V; i++) {
			if (prompt[i])
				want[i] = want[i] > 0 ? want[i] / p.repetition_penalty
						      : want[i] * p.repetition_penalty;
			if (generated[i])
				want[i] -= p.presence_penalty +
					   p.frequency_penalty * (float)generated[i];
			best = want[i] > want[best] ? i : best;
		}
		const struct m2_sampler_rule rule = {&p, bias, 4, 0};
		int32_t token;
		assert_int_equal(
			m2_sampler_choose(&s, row, &rule, &counts, 0, &token, &why), M2_OK);
		assert_int_equal(token, best);
		m2_counts_finish(&counts);
	}
	m2_sampler_finish(&s);
}

static void logprobs_are_a_softmax_with_its_alternatives_in_order(void **unused)
{
	(void)unused;
	struct m2_sampler s;
	struct m2_why why;
	assert_int_equal(m2_sampler_init(&s, V, &why), M2_OK);
	for (int round = 0; round < 200; round++) {
		enum { K = 12 };
		float row[V + 4], logprob, top[K];
		int32_t ids[K];
		struct ranked rank[V];
		double sum = 0;
		random_row(row, V);
		for (int i = V; i < V + 4; i++)
			row[i] = 1e9F; /* padding: no part of anything */
		ranking(row, V, rank);
		for (int i = 0; i < V; i++)
			sum += exp((double)row[i]);
		const int32_t token = (int32_t)(next_random() % V);
		assert_int_equal(
			m2_sampler_logprobs(&s, row, token, K, &logprob, ids, top, &why), M2_OK);
		assert_true(fabs((double)logprob - ((double)row[token] - log(sum))) < 2e-6);
		for (int i = 0; i < K; i++) {
			assert_int_equal(ids[i], rank[i].id);
			assert_true(
				fabs((double)top[i] - ((double)rank[i].value - log(sum))) < 2e-6);
		}
		assert_int_equal(
			m2_sampler_logprobs(&s, row, V + 1, 0, &logprob, NULL, NULL, &why), M2_OK);
		assert_true(isinf(logprob) && logprob < 0);
	}
	m2_sampler_finish(&s);
}

static void numbers_that_are_none_are_an_error_and_extremes_are_not(void **unused)
{
	(void)unused;
	struct m2_sampler s;
	struct m2_why why;
	struct m2_counts none = {0};
	assert_int_equal(m2_sampler_init(&s, V, &why), M2_OK);
	struct m2_sampling p = plain();
	const struct m2_sampler_rule rule = {.settings = &p};
	const float bad[] = {NAN, INFINITY, -INFINITY};
	float row[V], logprob;
	int32_t token;
	for (int i = 0; i < 3; i++) {
		random_row(row, V);
		row[V - 1] = bad[i];
		assert_int_equal(
			m2_sampler_choose(&s, row, &rule, &none, 0, &token, &why), M2_EDEVICE);
		assert_int_equal(
			m2_sampler_logprobs(&s, row, 0, 0, &logprob, NULL, NULL, &why), M2_EDEVICE);
	}
	/* the largest and smallest floats, and temperatures at both ends of what a float is */
	const float temperatures[] = {1e-45F, 1e-30F, 1e-3F, 100.0F};
	for (int i = 0; i < V; i++)
		row[i] = i % 2 ? FLT_MAX : -FLT_MAX;
	for (int i = 0; i < 4; i++) {
		p.temperature = temperatures[i];
		assert_int_equal(m2_sampler_choose(&s, row, &rule, &none, 5, &token, &why), M2_OK);
		assert_int_equal(token % 2, 1);
	}
	for (int i = 0; i < V; i++)
		row[i] = 4.0F;
	p.temperature = 0;
	assert_int_equal(m2_sampler_choose(&s, row, &rule, &none, 5, &token, &why), M2_OK);
	assert_int_equal(token, 0); /* the lowest of equals */
	m2_sampler_finish(&s);
}

static void the_draw_depends_on_seed_sequence_and_position_alone(void **unused)
{
	(void)unused;
	double seen[3][2];
	for (int i = 0; i < 2; i++) {
		seen[0][i] = m2_philox_uniform(1 + (uint64_t)i, 0, 0);
		seen[1][i] = m2_philox_uniform(1, (uint32_t)i, 9);
		seen[2][i] = m2_philox_uniform(1, 0, 9 + ((uint64_t)i << 32));
	}
	for (int i = 0; i < 3; i++)
		assert_true(fabs(seen[i][0] - seen[i][1]) > 0);
	double mean = 0;
	for (int i = 0; i < 10000; i++) {
		const double u = m2_philox_uniform(99, 1, (uint64_t)i);
		assert_true(u >= 0 && u < 1);
		mean += u / 10000;
	}
	assert_true(fabs(mean - 0.5) < 0.015);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(philox_gives_the_vectors_of_its_paper),
		cmocka_unit_test(exp_and_log_agree_with_libm),
		cmocka_unit_test(a_cut_by_count_keeps_the_k_first_of_a_sort),
		cmocka_unit_test(a_cut_by_mass_keeps_the_fewest_that_reach_it),
		cmocka_unit_test(draws_follow_the_distribution_of_the_oracle),
		cmocka_unit_test(penalties_and_bias_follow_their_formulas),
		cmocka_unit_test(logprobs_are_a_softmax_with_its_alternatives_in_order),
		cmocka_unit_test(numbers_that_are_none_are_an_error_and_extremes_are_not),
		cmocka_unit_test(the_draw_depends_on_seed_sequence_and_position_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
