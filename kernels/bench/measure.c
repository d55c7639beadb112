/* measure.c - the loops that are timed: decoding and prompts.
 *
 * Decoding is greedy: a step picks each sequence's next token, and the next step takes it from where it is.
 * A backend may do more at some positions than at others: sequences stand at different ones, and few of them
 * take many steps to a round.
 * A round is as many steps as take some ten milliseconds; rounds go on until the figure's time is spent.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/bench/bench.h"

enum { LEAST_ROUNDS = 3, LEAST_STEPS = 4, MOST_STEPS = 200, PLACES = 16 };

double bench_now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

struct sequences {
	struct bench_run *b;
	int32_t n;             /* items of a step */
	int32_t tokens;        /* of an item */
	struct m2_work *work;  /* [n] */
	struct m2_pick *picks; /* [2][n]: of the two steps in flight */
	float *logits;         /* [n, V], NULL: stay where they are */
	int32_t *ids;          /* [tokens] of prompts; [n] of decodes */
};

static void sequences_destroy(struct sequences *s)
{
	free(s->work);
	free(s->picks);
	free(s->logits);
	free(s->ids);
}

static enum m2_err sequences_create(struct sequences *s, bool logits, struct m2_why *why)
{
	const size_t n = (size_t)s->n, tokens = n > (size_t)s->tokens ? n : (size_t)s->tokens;
	const size_t vocab = (size_t)s->b->o->desc.vocab_rows;
	s->work = calloc(n, sizeof *s->work);
	s->picks = calloc(2 * n, sizeof *s->picks);
	s->ids = calloc(tokens, sizeof *s->ids);
	s->logits = logits ? calloc(n * vocab, sizeof *s->logits) : NULL;
	if (s->work == NULL || s->picks == NULL || s->ids == NULL || (logits && s->logits == NULL))
		return m2_fail(M2_ENOMEM, why, "no memory for %zu sequences", n);
	for (size_t t = 0; t < tokens; t++)
		s->ids[t] = (int32_t)(t * 7919 % vocab);
	for (int32_t i = 0; i < s->n; i++) {
		s->work[i] = (struct m2_work){
			.slot = i,
			.n_tokens = s->tokens,
			.tokens = s->tokens > 1 ? s->ids : s->ids + i,
			.logits_first = s->tokens - (logits ? 1 : 0),
			.logits = logits ? s->logits + (size_t)i * vocab : NULL,
		};
		const enum m2_err err = s->b->backend->slot_reset(s->b->model, i);
		if (err != M2_OK)
			return m2_fail(err, why, "clearing a slot failed");
	}
	return M2_OK;
}

/* The next step of all: picks to their place of this turn, unless logits were asked for. */
static enum m2_err begin(struct sequences *s, int64_t turn, bool from_pick, struct m2_why *why)
{
	struct bench_run *b = s->b;
	for (int32_t i = 0; i < s->n; i++) {
		struct m2_work *w = &s->work[i];
		w->pick = s->logits == NULL ? &s->picks[turn % 2 * s->n + i] : NULL;
		w->from_pick = from_pick && s->logits == NULL;
	}
	const enum m2_err err = m2_backend_step_begin(b->backend, b->model, s->work, s->n, why);
	for (int32_t i = 0; i < s->n; i++)
		s->work[i].position += s->tokens;
	return err;
}

/* A round: `steps` steps, up to `ahead` begun before the oldest is waited for. */
static enum m2_err round_of(struct sequences *s, int64_t steps, int64_t ahead, bool from_pick,
	double *seconds, struct m2_why *why)
{
	struct bench_run *b = s->b;
	const double start = bench_now();
	enum m2_err err = M2_OK;
	int64_t waited = 0;
	for (int64_t t = 0; t < steps && err == M2_OK; t++) {
		err = begin(s, t, from_pick, why);
		if (err == M2_OK && t + 1 - waited == ahead) {
			err = m2_backend_step_wait(b->backend, b->model, why);
			waited++;
		}
	}
	for (; waited < steps && err == M2_OK; waited++)
		err = m2_backend_step_wait(b->backend, b->model, why);
	*seconds = (bench_now() - start) / (double)steps;
	return err;
}

/* Sequence i gets i tokens, modulo PLACES. */
static enum m2_err scatter(struct sequences *s, struct m2_why *why)
{
	struct bench_run *b = s->b;
	struct m2_work *some = calloc((size_t)s->n, sizeof *some);
	enum m2_err err = M2_OK;
	if (some == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for %d sequences", s->n);
	for (int32_t place = 1; place < PLACES && err == M2_OK; place++) {
		int32_t n = 0;
		for (int32_t i = 0; i < s->n; i++) {
			if (i % PLACES < place)
				continue;
			some[n] = s->work[i];
			some[n++].logits_first = 1;
			s->work[i].position++;
		}
		if (n > 0)
			err = b->backend->step(b->model, some, n, why);
	}
	free(some);
	return err;
}

static enum m2_err rounds_of(struct sequences *s, int64_t ahead, bool decode,
	struct bench_figure *figure, struct m2_why *why)
{
	double times[BENCH_ROUNDS], once = 0.0;
	const int64_t warm = decode ? LEAST_STEPS : 1;
	enum m2_err err = decode ? scatter(s, why) : M2_OK;
	if (err == M2_OK) /* a first pick, from given tokens */
		err = round_of(s, 1, 1, false, &once, why);
	if (err == M2_OK)
		err = round_of(s, warm, ahead, decode, &once, why);
	if (err != M2_OK)
		return err;
	const double wish = s->b->o->seconds / BENCH_ROUNDS / once;
	const int64_t least = s->n < PLACES / LEAST_STEPS ? PLACES / s->n : LEAST_STEPS;
	const int64_t steps = !decode             ? 1
			      : wish < least      ? least
			      : wish > MOST_STEPS ? MOST_STEPS
						  : (int64_t)wish;
	const double until = bench_now() + s->b->o->seconds;
	int n = 0;
	while (n < BENCH_ROUNDS && (n < LEAST_ROUNDS || bench_now() < until)) {
		err = round_of(s, steps, ahead, decode, &times[n++], why);
		if (err != M2_OK)
			return err;
	}
	qsort(times, (size_t)n, sizeof times[0], by_value);
	figure->rounds = n;
	figure->seconds = times[n / 2];
	figure->fastest = times[0];
	figure->slowest = times[n - 1];
	return M2_OK;
}

enum m2_err bench_decode(struct bench_run *b, struct bench_figure *figure, struct m2_why *why)
{
	const struct bench_options *o = b->o;
	const double n = (double)figure->n;
	struct sequences s = {.b = b, .n = figure->n, .tokens = 1};
	enum m2_err err = sequences_create(&s, o->mode == BENCH_LOGITS, why);
	if (err == M2_OK)
		err = rounds_of(
			&s, o->mode == BENCH_AHEAD ? M2_STEPS_IN_FLIGHT : 1, true, figure, why);
	sequences_destroy(&s);
	figure->tokens = n;
	figure->bytes = bench_weight_bytes(b) + n * bench_slot_bytes(b);
	figure->operations =
		n * (bench_layer_operations(&o->desc) + bench_head_operations(&o->desc));
	return err;
}

/* One prompt after another in one slot: what it says does not matter, nor that it goes on. */
enum m2_err bench_prefill(struct bench_run *b, struct bench_figure *figure, struct m2_why *why)
{
	const struct m2_model_desc *m = &b->o->desc;
	const double n = (double)figure->n;
	struct sequences s = {.b = b, .n = 1, .tokens = figure->n};
	enum m2_err err = sequences_create(&s, b->o->mode == BENCH_LOGITS, why);
	if (err == M2_OK)
		err = rounds_of(&s, 1, false, figure, why);
	sequences_destroy(&s);
	figure->tokens = n;
	figure->bytes = bench_weight_bytes(b) + bench_slot_bytes(b);
	figure->operations = n * bench_layer_operations(m) + bench_head_operations(m);
	return err;
}
