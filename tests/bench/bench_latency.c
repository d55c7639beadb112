/* bench_latency.c - the price of the plumbing: gate, supervisor, worker and results memory.
 *
 *	bench_latency RUNTIME_DIR MODEL [requests] [tokens]
 *
 * Figures, each as p50, p90, p99 and the largest, in microseconds:
 *   first    request sent -> first token published, less the time inside the engine; of which
 *   way      request sent -> the worker has it (client, gate, supervisor)
 *   admit    -> it has its results memory and its slot
 *   step     -> its first token is published, less the engine
 *   wake     token published -> the client's thread is awake and has seen it
 * One request at a time, two milliseconds apart, on an otherwise idle daemon.  It judges nothing: a benchmark prints, a test asserts.
 * Both clocks are CLOCK_MONOTONIC of one host, so differences across processes are meaningful.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "client/mamba2.h"

enum { PAUSE_NS = 2000000 };

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	const double x = *(const double *)a;
	const double y = *(const double *)b;
	return (x > y) - (x < y);
}

static void print(const char *name, double *us, size_t n)
{
	if (n == 0)
		return;
	qsort(us, n, sizeof *us, by_size);
	printf("%-6s n %6zu   p50 %8.1f   p90 %8.1f   p99 %8.1f   max %8.1f us\n", name, n,
		us[n / 2], us[n * 9 / 10], us[n * 99 / 100], us[n - 1]);
}

struct series {
	double *first;
	double *way;
	double *admit;
	double *step;
	double *wake;
	size_t n_first; /* of way, admit and step too */
	size_t n_wake;
};

/* One request; every wake-up that found new tokens is a sample. */
static enum mamba2_error measure(
	mamba2 *m, const mamba2_generate_options *options, struct series *s)
{
	mamba2_request *r = NULL;
	const uint64_t sent = now_ns();
	enum mamba2_error error = mamba2_generate(m, options, &r);
	if (error != MAMBA2_OK)
		return error;
	size_t seen = 0;
	while (!mamba2_request_finished(r)) {
		error = mamba2_request_wait(r, 10000);
		const uint64_t awake = now_ns();
		if (error != MAMBA2_OK)
			break;
		mamba2_timings t;
		mamba2_request_timings(r, &t);
		const int32_t *ids;
		const size_t count = mamba2_request_tokens(r, 0, &ids);
		/* the first tokens may have been there before we looked: that is not a wake-up */
		if (count > seen && seen > 0 && awake > t.published_at)
			s->wake[s->n_wake++] = (double)(awake - t.published_at) / 1e3;
		seen = count;
	}
	mamba2_timings t;
	mamba2_request_timings(r, &t);
	if (t.first > 0) {
		s->way[s->n_first] = (double)(int64_t)(t.received_at - sent) / 1e3;
		s->admit[s->n_first] = (double)t.queue / 1e3;
		s->step[s->n_first] = (double)(int64_t)(t.first - t.queue - t.first_engine) / 1e3;
		s->first[s->n_first++] =
			(double)(int64_t)(t.received_at + t.first - t.first_engine - sent) / 1e3;
	}
	mamba2_request_free(&r);
	return error;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: bench_latency RUNTIME_DIR MODEL [requests] [tokens]\n");
		return 2;
	}
	const size_t requests = argc > 3 ? strtoul(argv[3], NULL, 10) : 500;
	const size_t tokens = argc > 4 ? strtoul(argv[4], NULL, 10) : 32;
	mamba2_options options = MAMBA2_OPTIONS_INIT;
	options.runtime_dir = argv[1];
	mamba2 *m = NULL;
	if (mamba2_connect(&options, &m) != MAMBA2_OK) {
		fprintf(stderr, "bench_latency: %s\n", mamba2_message(NULL));
		return 1;
	}
	const int32_t prompt[] = {1, 2, 3, 4};
	mamba2_generate_options generate;
	mamba2_generate_options_init(&generate);
	generate.model = argv[2];
	generate.tokens = prompt;
	generate.n_tokens = 4;
	generate.max_tokens = (int64_t)tokens;
	generate.temperature = 0;
	generate.ignore_eos = 1;

	double *room = calloc(requests * (4 + tokens + 2), sizeof *room);
	struct series s = {.first = room,
		.way = room + requests,
		.admit = room + 2 * requests,
		.step = room + 3 * requests,
		.wake = room + 4 * requests};
	enum mamba2_error error = room != NULL ? MAMBA2_OK : MAMBA2_ENOMEM;
	for (size_t i = 0; i < requests && error == MAMBA2_OK; i++) {
		error = measure(m, &generate, &s);
		/* the last one's release is served now, not between this request and its token */
		nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
	}
	if (error != MAMBA2_OK)
		fprintf(stderr, "bench_latency: %s\n", mamba2_message(m));
	print("first", s.first, s.n_first);
	print(" way", s.way, s.n_first);
	print(" admit", s.admit, s.n_first);
	print(" step", s.step, s.n_first);
	print("wake", s.wake, s.n_wake);
	free(room);
	mamba2_close(&m);
	return error == MAMBA2_OK ? 0 : 1;
}
