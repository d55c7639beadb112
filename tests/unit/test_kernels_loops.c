/* test_kernels_loops.c - the inner loops of the cpu backend, one by one, against double.
 *
 * Accuracy as kernels/cpu/kernels.h states it, the same bits in every lane and tail, exact widening
 * of every 16-bit weight, and the threads' pool.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <unistd.h>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/model.h"
#include "kernels/cpu/pool.h"
#include "tests/unit/test_kernels_model.h"

static uint64_t seed;
static const struct m2_cpu_kernels *sets[3];
static int n_sets;

/* Ask a device for its kernels: those that the processor cannot run are never called. */
static void collect_sets(void)
{
	static const char *const isas[] = {"portable", "avx2", "avx512"};
	const struct m2_backend *cpu = NULL;
	assert_int_equal(m2_backend_find("cpu", &cpu, NULL), M2_OK);
	for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
		const struct m2_device_options options = {.threads = 1, .isa = isas[i]};
		struct m2_device *device = NULL;
		if (cpu->open(&options, &device, NULL) != M2_OK)
			continue;
		sets[n_sets++] = device->kernels;
		cpu->close(&device);
	}
}

/* ---- functions ------------------------------------------------------------------------------ */

/* |got - want| in units of the last place of want. */
static double ulps(float got, double want)
{
	if ((double)got == want)
		return 0.0;
	int exponent;
	(void)frexp(want, &exponent);
	exponent = exponent < -125 ? -125 : exponent;
	return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

static double silu64(double x)
{
	return x / (1.0 + exp(-x));
}

static void silu_is_within_four_ulp(void **state)
{
	(void)state;
	for (int s = 0; s < n_sets; s++) {
		const float one = 1.0f;
		for (int i = -8000; i <= 8000; i++) {
			const float x = (float)i * 0.01f + 0.0001f;
			float y;
			sets[s]->gate(&y, &one, &x, 1);
			if (ulps(y, silu64((double)x)) > 4.0)
				fail_msg("%s: silu(%.9g) is %.9g", sets[s]->name, (double)x,
					(double)y);
		}
		static const float special[] = {0.0f, -200.0f, 200.0f, 1e30f, -1e30f, 1e-30f};
		for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
			float y;
			sets[s]->gate(&y, &one, &special[i], 1);
			assert_true(fabs((double)y - silu64((double)special[i])) <=
				    1e-6 * fabs((double)special[i]));
		}
		float y;
		const float nan = NAN;
		sets[s]->gate(&y, &one, &nan, 1);
		assert_true(isnan(y));
	}
}

static void dt_is_within_four_ulp(void **state)
{
	(void)state;
	const float zero = 0.0f;
	for (int s = 0; s < n_sets; s++) {
		for (int i = -9000; i <= 3000; i++) {
			const float x = (float)i * 0.01f + 0.003f;
			float dt;
			sets[s]->dt(&dt, &x, &zero, 0.0f, INFINITY, 1);
			const double want = log1p(exp((double)x));
			/* exp's and log1p's own, one after the other */
			if (ulps(dt, want) > 4.0)
				fail_msg("%s: softplus(%.9g) is %.9g, not %.9g", sets[s]->name,
					(double)x, (double)dt, want);
		}
		const float x[] = {-100.0f, 0.0f, 50.0f, 1e4f};
		const float bias[4] = {0};
		float dt[4];
		sets[s]->dt(dt, x, bias, 0.001f, 0.1f, 4);
		assert_true(dt[0] == 0.001f && dt[1] == 0.1f && dt[2] == 0.1f && dt[3] == 0.1f);
		sets[s]->dt(dt, x, bias, 0.0f, INFINITY, 4);
		assert_true(dt[2] == 50.0f && dt[3] == 1e4f);
	}
}

/* One element, at every offset and in rows of every length: always the same bits. */
static void every_lane_and_tail_gives_the_same_bits(void **state)
{
	(void)state;
	enum { N = 50 };
	struct rng rng = {mix64(seed)};
	for (int s = 0; s < n_sets; s++) {
		const struct m2_cpu_kernels *k = sets[s];
		float x[N], g[N], zero[N], y[N], dt[N];
		for (int i = 0; i < N; i++) {
			x[i] = normal(mix64(rng.state++));
			g[i] = 4.0f * normal(mix64(rng.state++));
			zero[i] = 0.0f;
		}
		k->gate(y, x, g, N);
		k->dt(dt, g, zero, 0.0f, INFINITY, N);
		for (int first = 0; first < N; first++) {
			for (int n = 1; first + n <= N; n++) {
				float out[2][N + 1];
				out[0][n] = out[1][n] = 77.0f;
				k->gate(out[0], x + first, g + first, n);
				k->dt(out[1], g + first, zero, 0.0f, INFINITY, n);
				assert_memory_equal(out[0], y + first, sizeof(float) * (size_t)n);
				assert_memory_equal(out[1], dt + first, sizeof(float) * (size_t)n);
				for (int j = 0; j < 2; j++)
					assert_true(out[j][n] == 77.0f);
			}
		}
	}
}

/* ---- products ------------------------------------------------------------------------------- */

/* `panels` panels from `panel` on by some tokens, scales left out; what is asked for is nowhere. */
static void multiply(const struct m2_cpu_kernels *k, const struct m2_matrix *m, int32_t panel,
	int32_t panels, const float *x, int32_t tokens, float *out)
{
	const struct m2_product p = {
		.dtype = m->dtype,
		.panels = m2_matrix_columns(m, panel),
		.n_panels = panels,
		.panel_bytes = m2_matrix_panel_bytes(m),
		.cols = (size_t)m->cols,
		.x = x,
		.tokens = tokens,
		.out = out,
		.ask = (const void *)(uintptr_t)64,
		.ask_step = 13,
	};
	k->product(&p);
}

/* A matrix of one column that holds every 16-bit number, times 1. */
static void every_half_is_widened_exactly(void **state)
{
	(void)state;
	enum { ALL = 65536 };
	static uint16_t halves[ALL];
	for (int i = 0; i < ALL; i++)
		halves[i] = (uint16_t)i;
	static const enum m2_dtype dtypes[] = {M2_DTYPE_F16, M2_DTYPE_BF16};
	for (int d = 0; d < 2; d++) {
		struct m2_matrix m = {.dtype = dtypes[d], .rows = ALL, .cols = 1};
		const size_t bytes = m2_matrix_bytes(&m);
		m.data = m2_region_create(bytes);
		assert_non_null(m.data);
		m2_matrix_pack(&m, halves, dtypes[d]);
		for (int32_t row = 0; row < ALL; row++) {
			float want, got;
			m2_dtype_to_f32(&want, &halves[row], dtypes[d], 1);
			m2_matrix_gather(&m, row, &got);
			assert_memory_equal(&got, &want, sizeof got);
		}
		for (int s = 0; s < n_sets; s++) {
			for (size_t panel = 0; panel < m2_matrix_panels(&m); panel++) {
				const float one = 1.0f;
				float out[M2_TILE_ROWS];
				multiply(sets[s], &m, (int32_t)panel, 1, &one, 1, out);
				for (size_t r = 0; r < M2_PANEL; r++) {
					float want;
					m2_dtype_to_f32(
						&want, &halves[panel * M2_PANEL + r], dtypes[d], 1);
					assert_true(
						out[r] == want || (isnan(out[r]) && isnan(want)));
				}
			}
		}
		m2_region_destroy(m.data, bytes);
	}
}

/* All numbers of tokens, one panel or two: the bits of a single token on a single panel. */
static void check_tiles(const struct m2_cpu_kernels *k, const struct m2_matrix *m, struct rng *rng)
{
	const size_t cols = (size_t)m->cols;
	float *wide = aligned_alloc(64, cols * M2_PANEL * sizeof(float));
	float *x = malloc(cols * M2_TILE * sizeof(float)), *one = malloc(cols * sizeof(float));
	assert_true(x != NULL && one != NULL && wide != NULL);
	for (int32_t tokens = 1; tokens <= M2_TILE; tokens++) {
		float out[M2_TILE * M2_TILE_ROWS], single[M2_TILE_ROWS];
		float widened[M2_TILE_ROWS];
		for (size_t i = 0; i < cols * (size_t)tokens; i++)
			x[i] = normal(mix64(rng->state++));
		multiply(k, m, 0, 2, x, tokens, out);
		for (int32_t t = 0; t < tokens; t++) {
			for (size_t i = 0; i < cols; i++)
				one[i] = x[i * (size_t)tokens + (size_t)t];
			for (int32_t p = 0; p < 2; p++)
				multiply(k, m, p, 1, one, 1, single + p * M2_PANEL);
			assert_memory_equal(single, out + t * M2_TILE_ROWS, sizeof single);
			for (int32_t p = 0; p < 2; p++) {
				const struct m2_matrix as_f32 = {
					wide, M2_DTYPE_F32, M2_PANEL, m->cols};
				k->widen(wide, m->dtype, m2_matrix_columns(m, p), cols);
				multiply(k, &as_f32, 0, 1, one, 1, widened + p * M2_PANEL);
			}
			assert_memory_equal(single, widened, sizeof single);
			if (m->dtype == M2_DTYPE_INT8)
				for (int32_t r = 0; r < m->rows; r++)
					single[r] *= ((const float *)m2_matrix_panel(
						m, r / M2_PANEL))[r % M2_PANEL];
			for (int32_t row = 0; row < m->rows; row += 9) {
				float *weights = malloc(cols * sizeof(float));
				double want = 0, size = 0;
				assert_non_null(weights);
				m2_matrix_gather(m, row, weights);
				for (size_t i = 0; i < cols; i++) {
					const double term = (double)weights[i] * (double)one[i];
					want += term;
					size += fabs(term);
				}
				assert_true(fabs((double)single[row] - want) <= 1e-6 * size);
				free(weights);
			}
		}
	}
	free(x);
	free(one);
	free(wide);
}

static void a_tile_of_any_size_gives_the_bits_of_one_token(void **state)
{
	(void)state;
	static const enum m2_dtype dtypes[] = {
		M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16, M2_DTYPE_INT8};
	struct rng rng = {mix64(seed + 1)};
	for (int d = 0; d < 4; d++) {
		struct m2_matrix m = {.dtype = dtypes[d], .rows = 61, .cols = 77};
		const size_t bytes = m2_matrix_bytes(&m);
		float weights[61 * 77];
		for (size_t i = 0; i < 61 * 77; i++)
			weights[i] = normal(mix64(rng.state++));
		m.data = m2_region_create(bytes);
		assert_non_null(m.data);
		m2_matrix_pack(&m, weights, M2_DTYPE_F32);
		for (int s = 0; s < n_sets; s++)
			check_tiles(sets[s], &m, &rng);
		m2_region_destroy(m.data, bytes);
	}
}

/* ---- pool ----------------------------------------------------------------------------------- */

enum { ROUNDS = 50 };

struct meeting {
	struct m2_pool *pool;
	int32_t threads;
	int32_t values[8]; /* one per thread, read by all others between barriers */
	atomic_int wrong;
};

static void meet(void *ctx, int32_t thread)
{
	struct meeting *m = ctx;
	for (int32_t round = 0; round < ROUNDS; round++) {
		m->values[thread] += round + 1;
		m2_pool_barrier(m->pool);
		for (int32_t i = 0; i < m->threads; i++)
			if (m->values[i] != m->values[thread])
				atomic_fetch_add(&m->wrong, 1);
		m2_pool_barrier(m->pool);
	}
}

static void threads_meet_at_barriers_awake_or_asleep(void **state)
{
	(void)state;
	for (int32_t threads = 1; threads <= 5; threads += 2) {
		struct meeting m = {.threads = threads};
		assert_int_equal(m2_pool_create(threads, &m.pool, NULL), M2_OK);
		assert_true((m.pool == NULL) == (threads == 1));
		for (int run = 0; run < 20; run++) {
			memset(m.values, 0, sizeof m.values);
			m2_pool_run(m.pool, meet, &m);
			for (int32_t i = 0; i < threads; i++)
				assert_int_equal(m.values[i], ROUNDS * (ROUNDS + 1) / 2);
			if (run % 4 == 0)
				(void)usleep(1000); /* long enough for the others to fall asleep */
		}
		assert_int_equal(atomic_load(&m.wrong), 0);
		m2_pool_destroy(&m.pool);
		assert_null(m.pool);
		m2_pool_destroy(&m.pool);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(silu_is_within_four_ulp),
		cmocka_unit_test(dt_is_within_four_ulp),
		cmocka_unit_test(every_lane_and_tail_gives_the_same_bits),
		cmocka_unit_test(every_half_is_widened_exactly),
		cmocka_unit_test(a_tile_of_any_size_gives_the_bits_of_one_token),
		cmocka_unit_test(threads_meet_at_barriers_awake_or_asleep),
	};
	seed = run_seed();
	collect_sets();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
