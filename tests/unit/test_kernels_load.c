/* test_kernels_load.c - the loading of weights: packing and conversion bit for bit, what is read and how
 * often, and what several threads make of it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu/load.h"
#include "tests/unit/test_kernels_model.h"

enum { POISON = 0xa5 };

static uint64_t seed;
static const struct m2_backend *cpu;
static const struct m2_cpu_kernels *sets[3];
static int n_sets;

static const enum m2_dtype all_dtypes[] = {
	M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16, M2_DTYPE_F64, M2_DTYPE_INT8};
enum { RESIDENT = 3, STORED = 4, WHOLE = 4 }; /* how many of them may be which; 8 bits */

/* Ask a device for its kernels: those that the processor cannot run are never called. */
static void collect_sets(void)
{
	static const char *const isas[] = {"portable", "avx2", "avx512"};
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

static void fill_random(struct rng *rng, void *to, size_t bytes)
{
	unsigned char *at = to;
	for (size_t i = 0; i < bytes; i += 8) {
		const uint64_t bits = mix64(rng->state++);
		memcpy(at + i, &bits, bytes - i < 8 ? bytes - i : 8);
	}
}

/* ---- packing -------------------------------------------------------------------------------- */

/* Any bits, any number of rows and columns, rows further apart than they are long. */
static void check_pack(struct rng *rng, enum m2_dtype dtype, enum m2_dtype stored)
{
	const int32_t rows = rng_below(rng, 2) ? M2_PANEL : 1 + (int32_t)rng_below(rng, M2_PANEL);
	const size_t cols = 1 + rng_below(rng, rng_below(rng, 4) ? 40 : 600);
	const size_t stride = cols + rng_below(rng, 20);
	/* to the byte, so that a sanitizer sees a read beyond */
	const size_t in_bytes = ((size_t)(rows - 1) * stride + cols) * m2_dtype_bytes(stored);
	const size_t bytes = cols * M2_PANEL * m2_dtype_bytes(dtype), guard = 8 * M2_PANEL;
	float scales[M2_PANEL] = {0};
	unsigned char *in = malloc(in_bytes);
	unsigned char *want = aligned_alloc(64, (bytes + guard + 63) & ~(size_t)63);
	unsigned char *got = aligned_alloc(64, (bytes + guard + 63) & ~(size_t)63);
	assert_true(in != NULL && want != NULL && got != NULL);
	fill_random(rng, in, in_bytes);
	for (int32_t r = 0; r < rows; r++)
		scales[r] = m2_row_scale(
			in + (size_t)r * stride * m2_dtype_bytes(stored), stored, cols);
	memset(want, POISON, bytes + guard);
	m2_panel_pack(want, dtype, in, stored, stride, rows, cols, scales);
	for (size_t i = 0; i < guard; i++)
		assert_int_equal(want[bytes + i], POISON);
	for (int s = 0; s < n_sets; s++) {
		memset(got, POISON, bytes + guard);
		for (int32_t r = 0; r < rows; r++) {
			const float scale = sets[s]->scale(
				in + (size_t)r * stride * m2_dtype_bytes(stored), stored, cols);
			assert_true(scale == scales[r] || (isnan(scale) && isnan(scales[r])));
		}
		sets[s]->pack(got, dtype, in, stored, stride, rows, cols, scales);
		if (memcmp(got, want, bytes + guard) != 0)
			fail_msg("%s: %s from %s, %d rows, %zu columns", sets[s]->name,
				m2_dtype_name(dtype), m2_dtype_name(stored), rows, cols);
	}
	free(in);
	free(want);
	free(got);
}

static void every_kernel_packs_the_same_bits_and_nothing_else(void **state)
{
	(void)state;
	struct rng rng = {mix64(seed)};
	for (int to = 0; to <= WHOLE; to++)
		for (int from = 0; from < STORED; from++)
			for (int i = 0; i < 60 && (to < RESIDENT || to == WHOLE); i++)
				check_pack(&rng, all_dtypes[to], all_dtypes[from]);
}

/* Which element stands where, said once more and in other words. */
static void a_panel_holds_columns_and_bf16_in_pairs(void **state)
{
	(void)state;
	enum { COLS = 9 };
	static const int pair_rows[4] = {0, 16, 1, 17};
	uint16_t in[M2_PANEL][COLS];
	_Alignas(64) uint16_t out[COLS][M2_PANEL];
	for (int r = 0; r < M2_PANEL; r++)
		for (int c = 0; c < COLS; c++)
			in[r][c] = (uint16_t)(100 * r + c);
	for (int s = 0; s < n_sets; s++) {
		sets[s]->pack(out, M2_DTYPE_F16, in, M2_DTYPE_F16, COLS, M2_PANEL, COLS, NULL);
		for (int r = 0; r < M2_PANEL; r++)
			for (int c = 0; c < COLS; c++)
				assert_int_equal(out[c][r], 100 * r + c);
		sets[s]->pack(out, M2_DTYPE_BF16, in, M2_DTYPE_BF16, COLS, 17, COLS, NULL);
		for (int c = 0; c < COLS; c++) {
			for (int i = 0; i < 3; i++)
				assert_int_equal(out[c][i], 100 * pair_rows[i] + c);
			assert_int_equal(out[c][3], 0); /* row 17 is not there */
		}
	}
}

/* ---- conversion ----------------------------------------------------------------------------- */

static void check_convert(enum m2_dtype to, enum m2_dtype from, const void *in, size_t n)
{
	const size_t bytes = n * m2_dtype_bytes(to);
	unsigned char *want = malloc(bytes + 1), *got = malloc(bytes + 1);
	assert_true(want != NULL && got != NULL);
	m2_elements_convert(want, to, in, from, n);
	for (int s = 0; s < n_sets; s++) {
		got[bytes] = POISON;
		sets[s]->convert(got, to, in, from, n);
		if (memcmp(got, want, bytes) != 0 || got[bytes] != POISON)
			fail_msg("%s: %zu from %s to %s", sets[s]->name, n, m2_dtype_name(from),
				m2_dtype_name(to));
	}
	free(want);
	free(got);
}

static void every_half_becomes_the_same_number(void **state)
{
	(void)state;
	enum { ALL = 65536 };
	static uint16_t halves[ALL];
	for (int i = 0; i < ALL; i++)
		halves[i] = (uint16_t)i;
	for (int to = 0; to < RESIDENT; to++) {
		check_convert(all_dtypes[to], M2_DTYPE_F16, halves, ALL);
		check_convert(all_dtypes[to], M2_DTYPE_BF16, halves, ALL);
	}
}

/* Around every half and every middle of two neighbours of both formats, with both signs of infinity
 * and NaNs among them; and anywhere. */
static void floats_and_doubles_round_to_the_same_bits(void **state)
{
	(void)state;
	static const uint32_t steps[] = {
		0, 1, UINT32_MAX, 0x0fff, 0x1000, 0x1001, 0x1800, 0x7fff, 0x8000, 0x8001};
	enum { STEPS = sizeof steps / sizeof steps[0], N = 65536 * STEPS };
	struct rng rng = {mix64(seed + 1)};
	uint32_t *bits = malloc(N * sizeof *bits);
	double *wide = malloc(N * sizeof *wide);
	assert_true(bits != NULL && wide != NULL);
	for (int pass = 0; pass < 3; pass++) {
		for (uint32_t i = 0; i < 65536; i++) {
			uint32_t at = i << 16;
			if (pass == 1) {
				const float half = m2_f32_from_f16((uint16_t)i);
				memcpy(&at, &half, sizeof at);
			}
			for (size_t s = 0; s < STEPS; s++)
				bits[i * STEPS + s] = at + steps[s];
		}
		if (pass == 2)
			fill_random(&rng, bits, N * sizeof *bits);
		for (size_t i = 0; i < N; i++) {
			float x;
			memcpy(&x, &bits[i], sizeof x);
			wide[i] = (double)x * (1.0 + 0x1p-26 * (double)(i % 5));
		}
		if (pass == 2)
			fill_random(&rng, wide, N * sizeof *wide);
		for (int to = 0; to < RESIDENT; to++) {
			check_convert(all_dtypes[to], M2_DTYPE_F32, bits, N);
			check_convert(all_dtypes[to], M2_DTYPE_F64, wide, N);
		}
	}
	free(bits);
	free(wide);
}

static void rows_of_any_length_convert_and_nothing_beyond_them(void **state)
{
	(void)state;
	struct rng rng = {mix64(seed + 2)};
	for (size_t n = 0; n < 70; n++)
		for (int from = 0; from < STORED; from++) {
			unsigned char *in = malloc(n * m2_dtype_bytes(all_dtypes[from]) + 1);
			assert_non_null(in);
			/* one off, for no alignment is promised */
			fill_random(&rng, in + 1, n * m2_dtype_bytes(all_dtypes[from]));
			for (int to = 0; to < RESIDENT; to++)
				check_convert(all_dtypes[to], all_dtypes[from], in + 1, n);
			free(in);
		}
}

/* ---- regions -------------------------------------------------------------------------------- */

/* Under AddressSanitizer large regions come from the heap, which has red zones. */
#if defined(__SANITIZE_ADDRESS__)
enum { ON_HEAP = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { ON_HEAP = 1 };
#else
enum { ON_HEAP = 0 };
#endif
#else
enum { ON_HEAP = 0 };
#endif

static size_t resident_pages(void *region, size_t bytes)
{
	static unsigned char there[4096];
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = bytes / page;
	size_t n = 0;
	assert_true(pages <= sizeof there);
	assert_int_equal(mincore(region, pages * page, there), 0);
	for (size_t i = 0; i < pages; i++)
		n += there[i] & 1;
	return n;
}

static bool all_zero(const unsigned char *at, size_t bytes)
{
	return bytes == 0 || (at[0] == 0 && memcmp(at, at + 1, bytes - 1) == 0);
}

static void regions_are_zero_and_those_created_have_their_pages(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 100, (2 << 20) - 1, 2 << 20, (5 << 20) + 12345};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		const size_t bytes = sizes[i], pages = bytes / (size_t)sysconf(_SC_PAGESIZE);
		unsigned char *made = m2_region_create(bytes), *kept = m2_region_reserve(bytes);
		assert_true(made != NULL && kept != NULL);
		assert_true((uintptr_t)made % M2_CPU_ALIGN == 0);
		assert_true((uintptr_t)kept % M2_CPU_ALIGN == 0);
		assert_true(m2_region_total() == 2 * (uint64_t)bytes);
		if (bytes >= 2 << 20 && !ON_HEAP) {
			assert_true(resident_pages(made, bytes) == pages);
			assert_true(resident_pages(kept, bytes) == 0);
			m2_region_touch(kept, bytes);
			assert_true(resident_pages(kept, bytes) == pages);
		}
		assert_true(all_zero(made, bytes) && all_zero(kept, bytes));
		memset(kept, POISON, bytes);
		m2_region_touch(kept, bytes);
		for (size_t k = 0; k < bytes; k++)
			assert_true(kept[k] == POISON);
		m2_region_destroy(made, bytes);
		m2_region_destroy(kept, bytes);
		assert_true(m2_region_total() == 0);
	}
}

/* ---- loads ---------------------------------------------------------------------------------- */

/* A source that counts, and that fails from the nth read on. */
struct watched {
	struct random_model model;
	unsigned char *times[64][M2_W_COUNT]; /* [1 + layer]: how often each element was read */
	bool whole;                           /* loaded to 8 bits */
	size_t largest;                       /* bytes that a read may have; 0: any */
	atomic_int reads;
	int fails_from; /* -1: never */
	atomic_int too_large;
};

static void watch(struct watched *w, const struct m2_model_desc *desc, enum m2_dtype stored)
{
	*w = (struct watched){
		.model = {.desc = *desc, .seed = seed, .matrices = stored}, .fails_from = -1};
	for (int32_t layer = -1; layer < desc->n_layers; layer++)
		for (int which = 0; which < M2_W_COUNT; which++)
			w->times[layer + 1][which] =
				calloc(m2_weight_elements(desc, (enum m2_weight)which) + 1, 1);
}

static void unwatch(struct watched *w)
{
	for (size_t i = 0; i < 64; i++)
		for (size_t k = 0; k < M2_W_COUNT; k++)
			free(w->times[i][k]);
}

static enum m2_dtype watched_dtype(void *ctx, int layer, enum m2_weight which)
{
	return random_dtype(&((struct watched *)ctx)->model, layer, which);
}

static enum m2_err watched_read(void *ctx, int layer, enum m2_weight which, size_t first,
	size_t count, void *dst, struct m2_why *why)
{
	struct watched *w = ctx;
	const int number = atomic_fetch_add(&w->reads, 1);
	if (w->fails_from >= 0 && number >= w->fails_from)
		return m2_fail(M2_EIO, why, "the disk is gone");
	if (w->largest > 0 && count * m2_dtype_bytes(watched_dtype(ctx, layer, which)) > w->largest)
		atomic_fetch_add(&w->too_large, 1);
	const enum m2_err err = random_read(&w->model, layer, which, first, count, dst, why);
	for (size_t i = 0; err == M2_OK && i < count; i++)
		(void)__atomic_fetch_add(
			&w->times[layer + 1][which][first + i], 1, __ATOMIC_RELAXED);
	return err;
}

/* How often an element is read: once; in 8 bits, if a panel is wider than the buffer, once more for
 * the scales.  The rows of dt are not in 8 bits. */
static int times_of(const struct watched *w, enum m2_weight which, size_t i)
{
	const struct m2_model_desc *desc = &w->model.desc;
	const size_t cols =
		(size_t)(which == M2_W_OUT_PROJ ? m2_desc_out_cols(desc) : desc->hidden_size);
	const size_t dt_row = (size_t)(m2_desc_in_rows(desc) - desc->n_heads);
	const size_t panel = M2_PANEL * cols * m2_dtype_bytes(w->model.matrices);
	if (!w->whole || !m2_weight_is_matrix(which) || panel <= w->largest ||
		(which == M2_W_IN_PROJ && i / cols >= dt_row))
		return 1;
	return 2;
}

static void each_element_as_often_as_it_must(const struct watched *w)
{
	const struct m2_model_desc *desc = &w->model.desc;
	for (int32_t layer = -1; layer < desc->n_layers; layer++)
		for (int which = 0; which < M2_W_COUNT; which++) {
			const bool own = m2_weight_of_model((enum m2_weight)which);
			const size_t n = m2_weight_elements(desc, (enum m2_weight)which);
			for (size_t i = 0; i < n; i++)
				if (w->times[layer + 1][which][i] !=
					(own == (layer < 0) ? times_of(w, (enum m2_weight)which, i)
							    : 0))
					fail_msg("layer %d, weight %d, element %zu: read %d times",
						layer, which, i, w->times[layer + 1][which][i]);
		}
}

/* A load cut up in its own way, over poisoned weights; a copy of what they are then. */
static unsigned char *load_again(struct m2_model *model, struct watched *w,
	const struct m2_load_options *options, const struct m2_cpu_loading *cut)
{
	const struct m2_weight_source source = {w, watched_dtype, watched_read};
	const size_t bytes = (size_t)model->footprint.weights;
	unsigned char *copy = malloc(bytes);
	struct m2_why why = {.text = ""};
	assert_non_null(copy);
	for (size_t i = 0; i < 64; i++)
		for (size_t k = 0; k < M2_W_COUNT; k++)
			if (w->times[i][k] != NULL)
				memset(w->times[i][k], 0,
					m2_weight_elements(&w->model.desc, (enum m2_weight)k));
	memset(model->regions[0], POISON, bytes);
	w->largest = cut->buffer;
	if (m2_cpu_load_weights(model, &source, options, cut, &why) != M2_OK)
		fail_msg("%s", why.text);
	assert_int_equal(atomic_load(&w->too_large), 0);
	each_element_as_often_as_it_must(w);
	memcpy(copy, model->regions[0], bytes);
	return copy;
}

static const struct m2_cpu_loading cuts[] = {
	{1, 8 << 20, 256 << 10, 1 << 20}, {4, 8 << 20, 256 << 10, 1 << 20},
	{4, 1, 1, 1 << 20},        /* a panel at a time */
	{3, 1, 0, 1024},           /* some columns of a panel at a time */
	{2, 32 << 10, 4096, 8192}, /* some panels of narrow matrices, columns of wide ones */
};

static struct m2_device *open_device(const char *isa, int32_t threads)
{
	const struct m2_device_options options = {.threads = threads, .isa = isa};
	struct m2_device *device = NULL;
	assert_int_equal(cpu->open(&options, &device, NULL), M2_OK);
	return device;
}

/* One model, by all kernels, threads and cuts: always the same bytes, each element read once. */
static void check_cuts(const struct m2_model_desc *desc, enum m2_dtype stored, enum m2_dtype to)
{
	unsigned char *want = NULL;
	const struct m2_load_options options = {
		.weights = to, .state = M2_DTYPE_F32, .slots = 1, .max_tokens = 1, .max_items = 1};
	struct watched w;
	watch(&w, desc, stored);
	w.whole = to == M2_DTYPE_INT8;
	for (int s = 0; s < n_sets; s++) {
		const struct m2_weight_source source = {&w, watched_dtype, watched_read};
		struct m2_device *device = open_device(sets[s]->name, 1);
		struct m2_model *model = NULL;
		w.largest = 0; /* this one is cut as usual */
		assert_int_equal(cpu->load(device, desc, &source, &options, &model, NULL), M2_OK);
		for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
			unsigned char *got = load_again(model, &w, &options, &cuts[i]);
			if (want == NULL) {
				want = got;
				continue;
			}
			if (memcmp(got, want, (size_t)model->footprint.weights) != 0)
				fail_msg("%s, cut %zu: other bits", sets[s]->name, i);
			free(got);
		}
		cpu->unload(&model);
		cpu->close(&device);
	}
	free(want);
	unwatch(&w);
}

static void threads_and_pieces_change_no_bit_and_read_everything_once(void **state)
{
	(void)state;
	struct rng rng = {mix64(seed + 3)};
	static const enum m2_dtype to[] = {
		M2_DTYPE_NONE, M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16, M2_DTYPE_INT8};
	for (int i = 0; i < 7; i++) {
		struct m2_model_desc desc = random_desc(&rng);
		desc.hidden_size = 1 + (int32_t)rng_below(&rng, 60);
		desc.head_dim = 1 + (int32_t)rng_below(&rng, 20);
		desc.vocab_rows = 2 + (int32_t)rng_below(&rng, 100);
		if (i < 2) { /* biases everywhere: the last weight of a layer is its out bias */
			desc.proj_bias = desc.conv_bias = desc.gated_norm = true;
			desc.tied_head = i == 0;
		}
		check_cuts(&desc, all_dtypes[(unsigned)i % STORED],
			i % 3 == 0 ? M2_DTYPE_INT8 : to[rng_below(&rng, 5)]);
	}
}

/* ---- failure and progress ------------------------------------------------------------------- */

static int threads_listed(void)
{
	int n = 0;
	DIR *dir = opendir("/proc/self/task");
	assert_non_null(dir);
	for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
		n += e->d_name[0] != '.';
	(void)closedir(dir);
	return n;
}

/* A thread that has been joined may be listed a moment longer. */
static bool threads_become(int wanted)
{
	const time_t until = time(NULL) + 10;
	while (threads_listed() != wanted && time(NULL) < until)
		(void)sched_yield();
	return threads_listed() == wanted;
}

static void a_read_that_fails_stops_all_threads_and_leaves_nothing(void **state)
{
	(void)state;
	const struct m2_model_desc desc = plain_desc();
	const struct m2_load_options options = {
		.state = M2_DTYPE_F32, .slots = 1, .max_tokens = 1, .max_items = 1};
	struct m2_device *device = open_device(NULL, 4);
	const int alive = threads_listed(); /* the device's, and a sanitizer's */
	struct watched w;
	watch(&w, &desc, M2_DTYPE_F16);
	const struct m2_weight_source source = {&w, watched_dtype, watched_read};
	struct m2_model *model = NULL;
	assert_int_equal(cpu->load(device, &desc, &source, &options, &model, NULL), M2_OK);
	cpu->unload(&model);
	const int reads = atomic_load(&w.reads);
	assert_true(threads_become(alive));
	assert_true(reads > 10);
	for (int n = 0; n < reads; n++) {
		struct m2_why why = {.text = ""};
		atomic_store(&w.reads, 0);
		w.fails_from = n;
		model = (struct m2_model *)&w;
		assert_int_equal(cpu->load(device, &desc, &source, &options, &model, &why), M2_EIO);
		assert_null(model);
		assert_string_equal(why.text, "the disk is gone");
		assert_int_equal(m2_region_total(), 0);
		assert_true(threads_become(alive));
		/* a thread that has failed reads no more */
		assert_true(atomic_load(&w.reads) > n && atomic_load(&w.reads) <= n + 4);
	}
	w.fails_from = 0;
	assert_int_equal(cpu->load(device, &desc, &source, &options, &model, NULL), M2_EIO);
	unwatch(&w);
	cpu->close(&device);
}

struct told {
	uint64_t done, total; /* plain: a call beside another would be a race */
	int calls;
	atomic_int inside;
};

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct told *t = ctx;
	assert_int_equal(atomic_fetch_add(&t->inside, 1), 0);
	assert_true(done >= t->done && done <= total);
	t->done = done;
	t->total = total;
	t->calls++;
	atomic_fetch_sub(&t->inside, 1);
}

static void progress_of_many_threads_is_one_story(void **state)
{
	(void)state;
	struct m2_model_desc desc = plain_desc();
	desc.n_layers = 6;
	struct told told = {0};
	struct random_model r = {.desc = desc, .seed = seed, .matrices = M2_DTYPE_BF16};
	const struct m2_weight_source source = random_source(&r);
	const struct m2_load_options options = {.state = M2_DTYPE_F32,
		.slots = 1,
		.max_tokens = 1,
		.max_items = 1,
		.progress = on_progress,
		.progress_ctx = &told};
	struct m2_device *device = open_device(NULL, 4);
	struct m2_model *model = NULL;
	assert_int_equal(cpu->load(device, &desc, &source, &options, &model, NULL), M2_OK);
	assert_true(told.done == told.total && told.total == model->footprint.weights);
	assert_true(told.calls > 6 * 6);
	cpu->unload(&model);
	cpu->close(&device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kernel_packs_the_same_bits_and_nothing_else),
		cmocka_unit_test(a_panel_holds_columns_and_bf16_in_pairs),
		cmocka_unit_test(every_half_becomes_the_same_number),
		cmocka_unit_test(floats_and_doubles_round_to_the_same_bits),
		cmocka_unit_test(rows_of_any_length_convert_and_nothing_beyond_them),
		cmocka_unit_test(regions_are_zero_and_those_created_have_their_pages),
		cmocka_unit_test(threads_and_pieces_change_no_bit_and_read_everything_once),
		cmocka_unit_test(a_read_that_fails_stops_all_threads_and_leaves_nothing),
		cmocka_unit_test(progress_of_many_threads_is_one_story),
	};
	seed = run_seed();
	collect_sets();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
