/* bench_load.c - how fast a checkpoint becomes a resident model, beside what this machine can copy.
 *
 * A checkpoint of a published shape is written (random numbers), brought into the page cache, and
 * then, round after round:
 *   copy     as many bytes as the weights have, memory to memory, by as many threads as a load has,
 *            into memory that is fresh as a load's is (huge pages asked for, cleared by the kernel)
 *   touched  the same once more, into the same memory
 *   pread    the file, into a buffer of each thread
 *   landing  the file by pread into fresh memory, as it is: what a load does without its packing
 *   load     by the cpu backend: as stored, and converted
 * Rates are of resident bytes, the medians of the rounds; share is a load's rate over the copy's of
 * as many bytes as the weights have as stored.  Peak is VmHWM beyond what was there before and beyond
 * the model's own footprint: the page cache is no part of it.  Prints figures, judges nothing.
 *
 *     bench_load [--shape 130m|370m|780m|1.3b|2.7b] [--dtype f16|bf16|f32] [--to stored|f32|f16|bf16]
 *                [--threads N] [--isa NAME] [--rounds N] [--dir DIRECTORY] [--keep] [--json]
 */
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/memory.h"
#include "model/checkpoint.h"
#include "tests/bench/load_checkpoint.h"

enum {
	PIECE_BYTES = 256 << 10,
	SHARE_BYTES =
		8 << 20, /* a copying thread's too: two in one huge page would both clear it */
	MOST_THREADS = 4,
	MOST_ROUNDS = 64,
	TARGETS = 3,
};

struct bench {
	const struct shape *shape;
	const char *isa, *directory;
	enum m2_dtype dtype, only; /* only: the one target; F64: all of them */
	int32_t threads;
	int rounds;
	bool keep, json;

	char path[PATH_MAX];
	int fd; /* the file's own, for pread */
	uint64_t file_bytes;
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_checkpoint *checkpoint;
};

struct figures {
	double copy[MOST_ROUNDS], touched[MOST_ROUNDS], pread[MOST_ROUNDS], landing[MOST_ROUNDS];
	struct {
		enum m2_dtype to;
		const char *skipped; /* why it was not measured */
		double seconds[MOST_ROUNDS];
		struct m2_footprint footprint;
		int64_t peak; /* the largest of all rounds */
	} load[TARGETS];
};

static double now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(const double *values, int n)
{
	double sorted[MOST_ROUNDS];
	memcpy(sorted, values, (size_t)n * sizeof *values);
	qsort(sorted, (size_t)n, sizeof *sorted, by_size);
	return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* ---- a checkpoint ---------------------------------------------------------------------------- */

static void remove_files(const struct bench *b)
{
	static const char *const names[] = {"/config.json", "/model.safetensors", ""};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char path[PATH_MAX + 32];
		(void)snprintf(path, sizeof path, "%s%s", b->path, names[i]);
		(void)remove(path);
	}
}

/* The nameless file that fd is, under a name, and config.json beside it. */
static bool name_checkpoint(struct bench *b)
{
	char path[PATH_MAX + 32], nameless[64];
	(void)snprintf(b->path, sizeof b->path, "%.3000s/bench_load.XXXXXX", b->directory);
	if (mkdtemp(b->path) == NULL)
		return fail(b->path);
	(void)snprintf(path, sizeof path, "%s/model.safetensors", b->path);
	(void)snprintf(nameless, sizeof nameless, "/proc/self/fd/%d", b->fd);
	return linkat(AT_FDCWD, nameless, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0
		       ? write_config(b->path, b->shape)
		       : fail(path);
}

/* Written without a name, named to be opened, and the names removed again: what is open stays, and a
 * bench that is interrupted leaves no gigabytes behind. */
static bool make_checkpoint(struct bench *b)
{
	struct m2_why why = {.text = ""};
	struct stat st = {0};
	b->fd = open(b->directory, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (b->fd < 0)
		return fail(b->directory);
	if (!write_tensors(b->fd, b->shape, b->dtype))
		return false;
	bool ok = fstat(b->fd, &st) == 0 && name_checkpoint(b);
	b->file_bytes = (uint64_t)st.st_size;
	if (ok && m2_checkpoint_open(b->path, 0, &b->checkpoint, &why) != M2_OK) {
		(void)fprintf(stderr, "bench_load: %s\n", why.text);
		ok = false;
	}
	if (!b->keep || !ok)
		remove_files(b);
	else
		(void)fprintf(stderr, "bench_load: the checkpoint stays in %s\n", b->path);
	return ok;
}

/* ---- what the machine can do ----------------------------------------------------------------- */

struct walk {
	int fd; /* -1: copy */
	const unsigned char *from;
	unsigned char *to; /* NULL: a buffer of each thread */
	size_t bytes;
	atomic_size_t next;
	atomic_bool failed;
};

static bool read_piece(struct walk *w, unsigned char *buffer, size_t at, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		const ssize_t n = pread(w->fd, buffer + done, bytes - done, (off_t)(at + done));
		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

static void *walk_shares(void *ctx)
{
	struct walk *w = ctx;
	unsigned char *buffer = malloc(PIECE_BYTES);
	size_t share;
	while (buffer != NULL && (share = atomic_fetch_add(&w->next, SHARE_BYTES)) < w->bytes) {
		const size_t left = w->bytes - share, end = left < SHARE_BYTES ? left : SHARE_BYTES;
		for (size_t i = 0; i < end; i += PIECE_BYTES) {
			const size_t at = share + i,
				     n = end - i < PIECE_BYTES ? end - i : PIECE_BYTES;
			if (w->fd < 0)
				memcpy(w->to + at, w->from + at, n);
			else if (!read_piece(w, w->to != NULL ? w->to + at : buffer, at, n))
				atomic_store(&w->failed, true);
		}
	}
	if (buffer == NULL)
		atomic_store(&w->failed, true);
	free(buffer);
	return NULL;
}

/* Bytes per second; NAN if something failed. */
static double walk_rate(struct walk *w, int32_t threads)
{
	pthread_t others[MOST_THREADS];
	int32_t started = 0;
	atomic_store(&w->next, 0);
	const double start = now();
	while (started < threads - 1 && pthread_create(&others[started], NULL, walk_shares, w) == 0)
		started++;
	(void)walk_shares(w);
	for (int32_t i = 0; i < started; i++)
		(void)pthread_join(others[i], NULL);
	const double took = now() - start;
	return started == threads - 1 && !atomic_load(&w->failed) ? (double)w->bytes / took : NAN;
}

/* Take and give back memory, so that what is taken next is the kernel's fresh memory and no more: the
 * host of a virtual machine may have taken free pages back, and is slow to return them. */
static void claim_memory(size_t bytes)
{
	void *memory = m2_region_create(bytes);
	m2_region_destroy(memory, bytes);
}

/* Bring back what memory pressure may have pushed out of the page cache. */
static bool warm_file(const struct bench *b)
{
	struct walk file = {.fd = b->fd, .bytes = (size_t)b->file_bytes};
	return !isnan(walk_rate(&file, b->threads)) || fail("reading the checkpoint");
}

static bool measure_machine(const struct bench *b, size_t bytes, struct figures *f, int round)
{
	struct walk file = {.fd = b->fd, .bytes = (size_t)b->file_bytes};
	unsigned char *from = m2_region_reserve(bytes);
	if (from == NULL)
		return fail("memory to copy from");
	memset(from, 1, bytes);
	claim_memory(bytes);
	unsigned char *to = m2_region_reserve(bytes);
	struct walk memory = {.fd = -1, .from = from, .to = to, .bytes = bytes};
	if (to != NULL) {
		f->copy[round] = walk_rate(&memory, b->threads);
		f->touched[round] = walk_rate(&memory, b->threads);
	}
	m2_region_destroy(from, bytes);
	m2_region_destroy(to, bytes);
	(void)warm_file(b);
	f->pread[round] = walk_rate(&file, b->threads);
	claim_memory(file.bytes);
	file.to = m2_region_reserve(file.bytes);
	if (to == NULL || file.to == NULL)
		return fail("memory to copy to");
	f->landing[round] = walk_rate(&file, b->threads);
	m2_region_destroy(file.to, file.bytes);
	return !isnan(f->copy[round] + f->touched[round] + f->pread[round] + f->landing[round]) ||
	       fail("threads or reads");
}

/* ---- loading ---------------------------------------------------------------------------------- */

/* A number of bytes from a file of "Name:   123 kB" lines; -1 if it is not there. */
static int64_t kernel_says(const char *path, const char *name)
{
	char line[256];
	long long kib = -1;
	FILE *file = fopen(path, "re");
	while (file != NULL && kib < 0 && fgets(line, sizeof line, file) != NULL)
		if (strncmp(line, name, strlen(name)) == 0)
			(void)sscanf(line + strlen(name), ": %lld kB", &kib);
	if (file != NULL)
		(void)fclose(file);
	return kib < 0 ? -1 : (int64_t)kib * 1024;
}

static void forget_peak(void)
{
	FILE *file = fopen("/proc/self/clear_refs", "we");
	if (file != NULL) {
		(void)fputs("5", file);
		(void)fclose(file);
	}
}

static struct m2_load_options options_for(const struct bench *b, enum m2_dtype to)
{
	return (struct m2_load_options){
		.weights = to == b->dtype ? M2_DTYPE_NONE : to,
		.state = M2_DTYPE_F32,
		.slots = 1,
		.max_tokens = M2_CHUNK,
		.max_items = 1,
	};
}

/* Seconds of one load; NAN if it failed.  *peak: VmHWM beyond the model. */
static double load_once(
	const struct bench *b, enum m2_dtype to, const struct m2_footprint *f, int64_t *peak)
{
	const struct m2_weight_source source = m2_checkpoint_source(b->checkpoint);
	const struct m2_load_options options = options_for(b, to);
	const struct m2_model_desc *desc = &m2_checkpoint_config(b->checkpoint)->desc;
	struct m2_why why = {.text = ""};
	struct m2_model *model = NULL;
	claim_memory((size_t)(f->weights + f->state));
	(void)warm_file(b);
	forget_peak();
	const int64_t before = kernel_says("/proc/self/status", "VmRSS");
	const double start = now();
	const enum m2_err err = b->backend->load(b->device, desc, &source, &options, &model, &why);
	const double took = now() - start;
	const int64_t after = kernel_says("/proc/self/status", "VmHWM");
	if (err != M2_OK) {
		(void)fprintf(stderr, "bench_load: %s\n", why.text);
		return NAN;
	}
	*peak = after - before - (int64_t)(f->weights + f->state + f->workspace);
	b->backend->unload(&model);
	return took;
}

static bool plan_targets(const struct bench *b, struct figures *f)
{
	const struct m2_weight_source source = m2_checkpoint_source(b->checkpoint);
	const enum m2_dtype wanted[TARGETS] = {b->dtype,
		b->dtype == M2_DTYPE_F32 ? M2_DTYPE_F16 : M2_DTYPE_F32,
		b->dtype == M2_DTYPE_BF16 ? M2_DTYPE_F16 : M2_DTYPE_BF16};
	/* What may be taken without pushing the file out of the page cache. */
	const int64_t room = kernel_says("/proc/meminfo", "MemAvailable") - (int64_t)b->file_bytes -
			     ((int64_t)1 << 29);
	for (int i = 0; i < TARGETS; i++) {
		struct m2_why why = {.text = ""};
		struct m2_footprint *plan = &f->load[i].footprint;
		const struct m2_load_options options = options_for(b, wanted[i]);
		f->load[i].to = wanted[i];
		if (b->backend->plan(b->device, &m2_checkpoint_config(b->checkpoint)->desc, &source,
			    &options, plan, &why) != M2_OK) {
			(void)fprintf(stderr, "bench_load: %s\n", why.text);
			return false;
		}
		const int64_t bytes = (int64_t)(plan->weights + plan->state + plan->workspace);
		if (b->only != M2_DTYPE_F64 && b->only != wanted[i])
			f->load[i].skipped = "not asked for";
		else if (bytes > room)
			f->load[i].skipped = "not enough memory beside the page cache";
	}
	if (2 * (int64_t)f->load[0].footprint.weights <= room)
		return true;
	(void)fprintf(stderr,
		"bench_load: a copy of %.1f GB needs twice that beside the page "
		"cache: take a smaller --shape\n",
		(double)f->load[0].footprint.weights * 1e-9);
	return false;
}

/* ---- report ----------------------------------------------------------------------------------- */

static void report_text(const struct bench *b, const struct figures *f)
{
	const double copy = median(f->copy, b->rounds);
	(void)printf("%s %s: %.2f GB, %d thread%s, isa %s, medians of %d rounds\n", b->shape->name,
		m2_dtype_name(b->dtype), (double)b->file_bytes * 1e-9, b->threads,
		b->threads == 1 ? "" : "s", b->isa, b->rounds);
	(void)printf("copy into fresh memory    %6.2f GB/s\n", copy * 1e-9);
	(void)printf(
		"copy into touched memory  %6.2f GB/s\n", median(f->touched, b->rounds) * 1e-9);
	(void)printf("pread into a buffer       %6.2f GB/s\n", median(f->pread, b->rounds) * 1e-9);
	(void)printf(
		"pread into fresh memory   %6.2f GB/s\n", median(f->landing, b->rounds) * 1e-9);
	for (int i = 0; i < TARGETS; i++) {
		const char *to = m2_dtype_name(f->load[i].to);
		if (f->load[i].skipped != NULL) {
			(void)printf("load to %-4s  skipped: %s\n", to, f->load[i].skipped);
			continue;
		}
		const double took = median(f->load[i].seconds, b->rounds);
		const double rate = (double)f->load[i].footprint.weights / took;
		(void)printf(
			"load to %-4s  %6.3f s      %6.2f GB/s  %4.0f%% of the copy, peak beyond "
			"the model %.1f MB\n",
			to, took, rate * 1e-9, 100 * rate / copy, (double)f->load[i].peak * 1e-6);
	}
}

static void report_json(const struct bench *b, const struct figures *f)
{
	const double copy = median(f->copy, b->rounds);
	(void)printf("{\"shape\":\"%s\",\"dtype\":\"%s\",\"file_bytes\":%llu,\"threads\":%d,"
		     "\"isa\":\"%s\",\"rounds\":%d,\"copy_fresh\":%.0f,\"copy_touched\":%.0f,"
		     "\"pread\":%.0f,\"pread_fresh\":%.0f,\"loads\":[",
		b->shape->name, m2_dtype_name(b->dtype), (unsigned long long)b->file_bytes,
		b->threads, b->isa, b->rounds, copy, median(f->touched, b->rounds),
		median(f->pread, b->rounds), median(f->landing, b->rounds));
	const char *comma = "";
	for (int i = 0; i < TARGETS; i++) {
		if (f->load[i].skipped != NULL)
			continue;
		const double took = median(f->load[i].seconds, b->rounds);
		const double weights = (double)f->load[i].footprint.weights;
		(void)printf("%s{\"to\":\"%s\",\"weights\":%.0f,\"seconds\":%.4f,\"rate\":%.0f,"
			     "\"share\":%.3f,\"peak_beyond\":%lld}",
			comma, m2_dtype_name(f->load[i].to), weights, took, weights / took,
			weights / took / copy, (long long)f->load[i].peak);
		comma = ",";
	}
	(void)printf("]}\n");
}

/* ---- main ------------------------------------------------------------------------------------- */

static bool measure(const struct bench *b)
{
	static struct figures f;
	if (!plan_targets(b, &f))
		return false;
	for (int round = 0; round < b->rounds; round++) {
		if (!measure_machine(b, (size_t)f.load[0].footprint.weights, &f, round))
			return false;
		for (int i = 0; i < TARGETS; i++) {
			int64_t peak = 0;
			if (f.load[i].skipped != NULL)
				continue;
			f.load[i].seconds[round] =
				load_once(b, f.load[i].to, &f.load[i].footprint, &peak);
			if (isnan(f.load[i].seconds[round]))
				return false;
			f.load[i].peak = peak > f.load[i].peak ? peak : f.load[i].peak;
		}
	}
	if (b->json)
		report_json(b, &f);
	else
		report_text(b, &f);
	return true;
}

static bool run(struct bench *b)
{
	struct m2_why why = {.text = ""};
	const struct m2_device_options device = {.threads = b->threads, .isa = b->isa};
	enum m2_err err = m2_backend_find("cpu", &b->backend, &why);
	if (err == M2_OK)
		err = b->backend->open(&device, &b->device, &why);
	if (err != M2_OK) {
		(void)fprintf(stderr, "bench_load: %s\n", why.text);
		return false;
	}
	const bool ok = make_checkpoint(b) && measure(b);
	if (b->checkpoint != NULL)
		m2_checkpoint_close(&b->checkpoint);
	if (b->fd >= 0)
		(void)close(b->fd);
	b->backend->close(&b->device);
	return ok;
}

static bool parse_dtype(const char *text, enum m2_dtype *out)
{
	for (enum m2_dtype d = M2_DTYPE_F32; d <= M2_DTYPE_BF16; d++)
		if (strcmp(text, m2_dtype_name(d)) == 0) {
			*out = d;
			return true;
		}
	return false;
}

static bool parse_shape(const char *text, struct bench *b)
{
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
		if (strcmp(text, shapes[i].name) == 0) {
			b->shape = &shapes[i];
			return true;
		}
	return false;
}

static bool parse(int argc, char **argv, struct bench *b)
{
	bool ok = true, stored = false;
	for (int i = 1; i < argc && ok; i++) {
		const char *key = argv[i];
		if (strcmp(key, "--keep") == 0 || strcmp(key, "--json") == 0) {
			*(key[2] == 'k' ? &b->keep : &b->json) = true;
			continue;
		}
		const char *value = ++i < argc ? argv[i] : "";
		if (strcmp(key, "--shape") == 0)
			ok = parse_shape(value, b);
		else if (strcmp(key, "--dtype") == 0)
			ok = parse_dtype(value, &b->dtype);
		else if (strcmp(key, "--to") == 0)
			ok = (stored = strcmp(value, "stored") == 0) ||
			     parse_dtype(value, &b->only);
		else if (strcmp(key, "--isa") == 0)
			b->isa = value;
		else if (strcmp(key, "--dir") == 0)
			b->directory = value;
		else if (strcmp(key, "--threads") == 0)
			b->threads = (int32_t)strtol(value, NULL, 10);
		else if (strcmp(key, "--rounds") == 0)
			b->rounds = (int)strtol(value, NULL, 10);
		else
			ok = false;
	}
	if (stored)
		b->only = b->dtype;
	return ok && b->threads >= 1 && b->threads <= MOST_THREADS && b->rounds >= 1 &&
	       b->rounds <= MOST_ROUNDS;
}

int main(int argc, char **argv)
{
	const char *temporary = getenv("TMPDIR");
	const long online = sysconf(_SC_NPROCESSORS_ONLN);
	struct bench b = {
		.isa = "auto",
		.directory = temporary != NULL ? temporary : "/tmp",
		.dtype = M2_DTYPE_F16,
		.only = M2_DTYPE_F64,
		.threads = online < 1              ? 1
			   : online < MOST_THREADS ? (int32_t)online
						   : MOST_THREADS,
		.rounds = 5,
		.fd = -1,
	};
	(void)parse_shape("2.7b", &b);
	if (!parse(argc, argv, &b)) {
		(void)fprintf(stderr,
			"usage: bench_load [--shape 130m|370m|780m|1.3b|2.7b] [--dtype "
			"f16|bf16|f32] "
			"[--to stored|f32|f16|bf16]\n"
			"                  [--threads 1..4] [--isa NAME] [--rounds 1..64] [--dir "
			"DIRECTORY] [--keep] [--json]\n");
		return 2;
	}
	return run(&b) ? 0 : 1;
}
