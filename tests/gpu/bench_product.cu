/* bench_product.cu - every way of doing a matrix product: the same bits, and how long each takes.
 *
 * First the bits.  The yardstick is the kernel for any device (product_many.cu), which does what the
 * definition says with nothing but mma.sync; every other kernel, and every plan of Hopper's with either
 * core, must leave the same bytes: results, squares, the next product's input, on odd shapes, with groups,
 * with rows picked, in f16 and bf16.  Then the times, of the published shapes' in_proj, out_proj and head:
 * what m2_cuda_product chooses, the best plan there is, and the kernel for any device, weights cold.
 *
 *   bench_product [--bits] [--shape 2.7b] [--rows 64,256] [--all]
 *
 * --all prints every plan's time.  Ends with 1 if any bit differs.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/product.cuh"

#define TRY(call)                                                                                  \
	do {                                                                                       \
		const cudaError_t try_error = (call);                                              \
		if (try_error != cudaSuccess) {                                                    \
			printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(try_error));  \
			exit(2);                                                                   \
		}                                                                                  \
	} while (0)

enum {
	MOST_TOKENS = 8192,
	MOST_COLS = 8192,
	MOST_PLANS = 24,
	LAUNCHES = 12, /* in a graph */
	PARTS = 160
};
static const size_t weight_bytes = (size_t)1 << 31, out_floats = (size_t)MOST_TOKENS * 10624;

/* Everything on the device. */
struct bench {
	cudaStream_t stream;
	unsigned char *weights; /* random, far more than the caches hold */
	void *x;                /* [MOST_TOKENS][MOST_COLS] */
	float *squares, *bias, *norm;
	int32_t *from;
	float *before; /* what stands where results are added */
	struct {
		float *to, *squares;
		void *next;
	} out[2];                      /* of the yardstick, of who is measured */
	unsigned long long *differing; /* pinned */
	double read, multiply;
};

__device__ static uint32_t scramble(uint64_t i, uint32_t seed)
{
	uint64_t v = (i + 0x9e3779b97f4a7c15ull * (seed + 1u)) * 0xbf58476d1ce4e5b9ull;
	v ^= v >> 29;
	v *= 0x94d049bb133111ebull;
	return (uint32_t)(v >> 32);
}

/* Numbers around zero, of many sizes: half an octave of signs and twelve octaves of scale. */
template <typename T> __global__ void fill_kernel(T *to, size_t n, uint32_t seed, float low)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
		i += (size_t)gridDim.x * blockDim.x) {
		const uint32_t r = scramble(i, seed);
		const float unit = (float)(r >> 8) * 0x1p-24f;
		const float size = exp2f(-(float)(r & 7u));
		to[i] = from_float<T>(low >= 0.0f ? low + unit : (unit * 2.0f - 1.0f) * size);
	}
}
template <typename T> static void fill(T *to, size_t n, uint32_t seed, float low)
{
	fill_kernel<<<2048, 256>>>(to, n, seed, low);
	TRY(cudaGetLastError());
}

__global__ void compare_kernel(
	const uint32_t *a, const uint32_t *b, size_t n, unsigned long long *differing)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
		i += (size_t)gridDim.x * blockDim.x)
		if (a[i] != b[i])
			atomicAdd(differing, 1ull);
}

static struct bench bench_create(void)
{
	struct bench b = {};
	TRY(cudaStreamCreate(&b.stream));
	TRY(cudaMalloc(&b.weights, weight_bytes));
	TRY(cudaMalloc(&b.x, (size_t)MOST_TOKENS * MOST_COLS * 2));
	TRY(cudaMalloc(&b.squares, (size_t)MOST_TOKENS * 8 * PARTS * sizeof(float)));
	TRY(cudaMalloc(&b.bias, 65536 * sizeof(float)));
	TRY(cudaMalloc(&b.norm, 65536 * sizeof(float)));
	TRY(cudaMalloc(&b.from, MOST_TOKENS * sizeof(int32_t)));
	TRY(cudaMalloc(&b.before, out_floats * sizeof(float)));
	for (int i = 0; i < 2; i++) {
		TRY(cudaMalloc(&b.out[i].to, out_floats * sizeof(float)));
		TRY(cudaMalloc(&b.out[i].squares, out_floats / 16 * sizeof(float)));
		TRY(cudaMalloc(&b.out[i].next, out_floats * 2));
	}
	TRY(cudaMallocHost(&b.differing, sizeof *b.differing));
	fill(b.squares, (size_t)MOST_TOKENS * 8 * PARTS, 3, 0.25f);
	fill(b.bias, 65536, 4, -1.0f);
	fill(b.norm, 65536, 5, 0.5f);
	fill(b.before, out_floats, 6, -1.0f);
	int32_t *from = (int32_t *)malloc(MOST_TOKENS * sizeof(int32_t));
	for (int i = 0; i < MOST_TOKENS; i++)
		from[i] = (i * 37 + 11) % 512;
	TRY(cudaMemcpy(b.from, from, MOST_TOKENS * sizeof(int32_t), cudaMemcpyHostToDevice));
	free(from);
	TRY(m2_cuda_measure_reading(b.stream, b.weights, weight_bytes, &b.read));
	TRY(m2_cuda_measure_products(b.stream, b.weights, &b.multiply));
	return b;
}

static void fill_operands(struct bench *b, enum m2_dtype type)
{
	const size_t n = (size_t)MOST_TOKENS * MOST_COLS;
	if (type == M2_DTYPE_F16) {
		fill((__half *)b->weights, weight_bytes / 2, 1, -1.0f);
		fill((__half *)b->x, n, 2, -1.0f);
	} else {
		fill((__nv_bfloat16 *)b->weights, weight_bytes / 2, 1, -1.0f);
		fill((__nv_bfloat16 *)b->x, n, 2, -1.0f);
	}
	TRY(cudaDeviceSynchronize());
}

/* ---- ways ----------------------------------------------------------------------------------- */

enum way { CHOSEN, MANY, FEW_ROWS, PLANNED };
struct doing {
	enum way way;
	struct hopper_plan plan;
};

static cudaError_t run(const struct bench *b, const struct doing *how,
	const struct m2_cuda_matrix *w, const struct m2_cuda_input *in, int32_t m,
	const struct m2_cuda_output *out)
{
	switch (how->way) {
	case CHOSEN:
		return m2_cuda_product(b->stream, w, in, m, out);
	case MANY:
		return m2_cuda_product_many(b->stream, w, in, m, out);
	case FEW_ROWS:
		return m2_cuda_product_few(b->stream, w, in, m, out);
	default:
		return how->plan.stay ? m2_cuda_product_stay(b->stream, w, in, m, out, how->plan)
				      : m2_cuda_product_wide(b->stream, w, in, m, out, how->plan);
	}
}

static void name_of(const struct doing *how, char *name, size_t size)
{
	static const char *const names[] = {"chosen", "many", "few"};
	if (how->way == PLANNED)
		snprintf(name, size, "%s%s-%d-%s", how->plan.stay ? "stay" : "wide",
			!how->plan.stay && how->plan.groups == 3 ? "3" : "", (int)how->plan.tokens,
			how->plan.wgmma ? "wgmma" : "sync");
	else
		snprintf(name, size, "%s", names[how->way]);
}

/* All ways that can do it, and make sense if that matters; returns how many. */
static int ways_of(
	const struct m2_cuda_matrix *w, int32_t m, bool sensible, bool in_order, struct doing *ways)
{
	static const int32_t stay[] = {16, 32, 64, 128}, wide[] = {64, 128};
	const int32_t k_tiles = m2_cuda_pad(w->cols) / 16;
	int n = 0;
	if (m2_cuda_few_fits(w, m))
		ways[n++] = {FEW_ROWS, {}};
	for (int core = 0; core < 2 && m2_cuda_wide_runs(); core++) {
		for (const int32_t t : stay)
			if (m2_cuda_stay_clusters(k_tiles, t) > 0 && (!sensible || m <= 8 * t) &&
				(!sensible || m >= 8))
				ways[n++] = {PLANNED, {t, true, core == 1, 1}};
		for (const int32_t t : wide)
			for (int32_t groups = 2; groups <= 3; groups++)
				if (core == 1 && in_order && (!sensible || m >= 16))
					ways[n++] = {PLANNED, {t, false, true, groups}};
	}
	return n;
}

/* ---- bits ----------------------------------------------------------------------------------- */

struct shape_of_product {
	int32_t rows, cols, m, groups;
	bool picked, next;
};

static unsigned long long differing(struct bench *b, const struct shape_of_product *s)
{
	const size_t results = (size_t)s->m * (size_t)m2_cuda_pad(s->rows);
	*b->differing = 0;
	compare_kernel<<<1024, 256, 0, b->stream>>>((const uint32_t *)b->out[0].to,
		(const uint32_t *)b->out[1].to, results, b->differing);
	if (s->next) {
		compare_kernel<<<256, 256, 0, b->stream>>>((const uint32_t *)b->out[0].squares,
			(const uint32_t *)b->out[1].squares, results / 16, b->differing);
		compare_kernel<<<512, 256, 0, b->stream>>>((const uint32_t *)b->out[0].next,
			(const uint32_t *)b->out[1].next, results / 2, b->differing);
	}
	TRY(cudaStreamSynchronize(b->stream));
	return *b->differing;
}

static struct m2_cuda_input input_of(const struct bench *b, const struct shape_of_product *s)
{
	return (struct m2_cuda_input){.x = b->x,
		.stride = m2_cuda_pad(s->cols),
		.from = s->picked ? b->from : NULL,
		.squares = b->squares,
		.groups = s->groups,
		.parts = s->groups > 1 ? s->cols / 16 / s->groups : (s->cols + 15) / 16,
		.width = s->cols / s->groups,
		.eps = 1e-5f,
		.factor = 1.5f};
}

static struct m2_cuda_output output_of(
	const struct bench *b, const struct shape_of_product *s, int which, enum m2_dtype type)
{
	struct m2_cuda_output out = {};
	out.to = b->out[which].to;
	out.stride = m2_cuda_pad(s->rows);
	if (s->next) {
		out.bias = b->bias;
		out.add = true;
		out.squares = b->out[which].squares;
		out.next = {b->out[which].next, type, m2_cuda_pad(s->rows), b->norm, 0.5f};
	}
	return out;
}

/* Runs it where every byte of the results was something else before. */
static void run_fresh(struct bench *b, const struct shape_of_product *s, enum m2_dtype type,
	const struct doing *how, int which)
{
	const size_t results = (size_t)s->m * (size_t)m2_cuda_pad(s->rows);
	const struct m2_cuda_matrix w = {b->weights, type, s->rows, s->cols};
	const struct m2_cuda_input in = input_of(b, s);
	const struct m2_cuda_output out = output_of(b, s, which, type);
	TRY(cudaMemcpyAsync(b->out[which].to, b->before, results * sizeof(float),
		cudaMemcpyDeviceToDevice, b->stream));
	TRY(cudaMemsetAsync(b->out[which].squares, 0xff, results / 16 * 4, b->stream));
	TRY(cudaMemsetAsync(b->out[which].next, 0xff, results * 2, b->stream));
	TRY(run(b, how, &w, &in, s->m, &out));
}

static int check_bits(struct bench *b, const struct shape_of_product *s, enum m2_dtype type)
{
	struct doing ways[MOST_PLANS];
	const struct m2_cuda_matrix w = {b->weights, type, s->rows, s->cols};
	const struct doing yardstick = {MANY, {}};
	const int n = ways_of(&w, s->m, false, !s->picked, ways);
	int wrong = 0;
	run_fresh(b, s, type, &yardstick, 0);
	for (int i = 0; i < n; i++) {
		char name[32];
		run_fresh(b, s, type, &ways[i], 1);
		const unsigned long long bad = differing(b, s);
		if (bad == 0)
			continue;
		name_of(&ways[i], name, sizeof name);
		printf("not ok %d x %d, %d rows, %d groups%s%s, %s: %s differs in %llu words\n",
			(int)s->rows, (int)s->cols, (int)s->m, (int)s->groups,
			s->picked ? ", picked" : "", s->next ? ", next" : "",
			type == M2_DTYPE_F16 ? "f16" : "bf16", name, bad);
		wrong++;
	}
	return wrong;
}

static int check_all_bits(struct bench *b)
{
	static const struct shape_of_product shapes[] = {{768, 1536, 1, 1, false, true},
		{768, 1536, 7, 1, false, true}, {768, 1536, 33, 1, false, true},
		{768, 1536, 200, 1, false, true}, {3352, 768, 8, 1, false, false},
		{3352, 768, 65, 1, true, false}, {3352, 768, 513, 1, false, false},
		{2560, 5120, 64, 1, false, true}, {2560, 5120, 257, 1, false, true},
		{10576, 2560, 17, 1, false, false}, {10576, 2560, 256, 1, false, false},
		{10576, 2560, 2048, 1, false, false}, {2560, 5120, 1000, 1, false, true},
		{4096, 8192, 5, 8, false, true}, {4096, 8192, 100, 8, false, true},
		{1024, 2048, 300, 4, true, true}, {200, 72, 50, 1, false, false},
		{208, 100, 9, 1, true, true}, {16, 16, 130, 1, false, true},
		{50288, 768, 3, 1, true, false}, {50288, 768, 40, 1, true, false},
		{1040, 400, 129, 1, false, true}};
	static const enum m2_dtype types[] = {M2_DTYPE_F16, M2_DTYPE_BF16};
	int wrong = 0;
	for (const enum m2_dtype type : types) {
		fill_operands(b, type);
		for (const struct shape_of_product &s : shapes)
			wrong += check_bits(b, &s, type);
	}
	printf("%s: every kernel, plan and core against product_many, %zu shapes, f16 and bf16\n",
		wrong == 0 ? "ok, the same bits" : "NOT the same bits",
		sizeof shapes / sizeof shapes[0]);
	return wrong;
}

/* ---- times ---------------------------------------------------------------------------------- */

/* Microseconds of one product among many in a graph, other weights each time. */
static double time_of(struct bench *b, const struct m2_cuda_matrix *like, int32_t m, bool next,
	bool picked, const struct doing *how)
{
	const struct shape_of_product s = {like->rows, like->cols, m, 1, picked, next};
	const struct m2_cuda_input in = input_of(b, &s);
	const struct m2_cuda_output out = output_of(b, &s, 1, like->dtype);
	const size_t bytes = m2_cuda_matrix_bytes(like), fit = weight_bytes / bytes;
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	cudaEvent_t begin, end;
	float best = 1e30f, ms;
	TRY(cudaEventCreate(&begin));
	TRY(cudaEventCreate(&end));
	TRY(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
	for (size_t i = 0; i < LAUNCHES; i++) {
		struct m2_cuda_matrix w = *like;
		w.data = b->weights + i % fit * bytes;
		TRY(run(b, how, &w, &in, m, &out));
	}
	TRY(cudaStreamEndCapture(b->stream, &graph));
	TRY(cudaGraphInstantiate(&exec, graph, 0));
	for (int i = 0; i < 3; i++) {
		TRY(cudaEventRecord(begin, b->stream));
		TRY(cudaGraphLaunch(exec, b->stream));
		TRY(cudaEventRecord(end, b->stream));
		TRY(cudaEventSynchronize(end));
		TRY(cudaEventElapsedTime(&ms, begin, end));
		best = i > 0 && ms < best ? ms : best;
	}
	TRY(cudaGraphExecDestroy(exec));
	TRY(cudaGraphDestroy(graph));
	TRY(cudaEventDestroy(begin));
	TRY(cudaEventDestroy(end));
	return 1e3 * (double)best / LAUNCHES;
}

static void print_line(struct bench *b, const struct m2_cuda_matrix *w, int32_t m, bool next,
	bool picked, bool all)
{
	struct doing ways[MOST_PLANS];
	const struct doing chosen = {CHOSEN, {}}, many = {MANY, {}};
	const struct hopper_plan plan =
		m2_cuda_product_plan(w->rows, m2_cuda_pad(w->cols) / 16, m, !picked);
	const int n = ways_of(w, m, true, !picked, ways);
	const double us = time_of(b, w, m, next, picked, &chosen);
	const double flops = 2.0 * m * w->rows * w->cols;
	const double bytes = (double)m2_cuda_matrix_bytes(w);
	double best[2] = {1e30, 1e30}; /* of either core */
	char names[2][32] = {"-", "-"}, name[32];
	struct doing how = {m2_cuda_few_fits(w, m) ? FEW_ROWS
			    : plan.tokens > 0      ? PLANNED
						   : MANY,
		plan};
	name_of(&how, name, sizeof name);
	printf("%5d %-14s %8.2f us %5.2f TB/s %3.0f%% %6.1f TFLOP/s %3.0f%%", (int)m, name, us,
		bytes / us * 1e-6, 100.0 * bytes / us * 1e6 / b->read, flops / us * 1e-6,
		100.0 * flops / us * 1e6 / b->multiply);
	for (int i = 0; i < n; i++) {
		const double t = time_of(b, w, m, next, picked, &ways[i]);
		const int core = ways[i].way == PLANNED && ways[i].plan.wgmma;
		char other[32];
		name_of(&ways[i], other, sizeof other);
		if (all)
			printf("\n        %-14s %8.2f us", other, t);
		if (t < best[core]) {
			best[core] = t;
			snprintf(names[core], sizeof names[core], "%s", other);
		}
	}
	if (all)
		printf("\n       ");
	printf(" | best %-13s %8.2f, %-14s %8.2f | many %8.2f\n", names[0],
		best[0] < 1e30 ? best[0] : 0.0, names[1], best[1] < 1e30 ? best[1] : 0.0,
		time_of(b, w, m, next, picked, &many));
}

static const struct {
	const char *name;
	int32_t hidden, in_rows;
} models[] = {{"130m", 768, 3352}, {"370m", 1024, 4384}, {"780m", 1536, 6448}, {"1.3b", 2048, 8512},
	{"2.7b", 2560, 10576}};

static void print_times(struct bench *b, const char *shape, const char *rows, bool all)
{
	printf("limits measured here: %.2f TB/s read, %.0f TFLOP/s; percentages are of these\n",
		b->read * 1e-12, b->multiply * 1e-12);
	for (const auto &model : models) {
		if (shape != NULL && strcmp(shape, model.name) != 0)
			continue;
		const struct m2_cuda_matrix matrices[] = {
			{b->weights, M2_DTYPE_BF16, model.in_rows, model.hidden},
			{b->weights, M2_DTYPE_BF16, model.hidden, 2 * model.hidden},
			{b->weights, M2_DTYPE_BF16, 50288, model.hidden}};
		static const char *const names[] = {"in_proj", "out_proj", "head"};
		for (int i = 0; i < 3; i++) {
			printf("%s %s %d x %d, %.1f MB\n", model.name, names[i],
				(int)matrices[i].rows, (int)matrices[i].cols,
				(double)m2_cuda_matrix_bytes(&matrices[i]) * 1e-6);
			for (const char *at = rows; *at != '\0';) {
				char *end;
				const long m = strtol(at, &end, 10);
				const size_t most = out_floats / (size_t)matrices[i].rows;
				if (end == at || m < 1 || m > MOST_TOKENS)
					exit(2);
				if ((size_t)m <= most && !(i == 2 && m > 256))
					print_line(b, &matrices[i], (int32_t)m, i == 1, false, all);
				at = *end == ',' ? end + 1 : end;
			}
		}
	}
}

int main(int argc, char **argv)
{
	const char *shape = NULL, *rows = "1,8,16,32,64,128,256,512,2048";
	bool all = false, bits_only = false;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--all") == 0)
			all = true;
		else if (strcmp(argv[i], "--bits") == 0)
			bits_only = true;
		else if (strcmp(argv[i], "--shape") == 0 && i + 1 < argc)
			shape = argv[++i];
		else if (strcmp(argv[i], "--rows") == 0 && i + 1 < argc)
			rows = argv[++i];
		else {
			printf("usage: bench_product [--bits] [--all] [--shape NAME] [--rows "
			       "M,M]\n");
			return 2;
		}
	}
	struct bench b = bench_create();
	const int wrong = check_all_bits(&b);
	fflush(stdout);
	if (!bits_only)
		print_times(&b, shape, rows, all);
	return wrong != 0;
}
