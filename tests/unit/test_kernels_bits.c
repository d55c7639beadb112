/* test_kernels_bits.c - the promise of kernels/backend.h: a sequence's bits are its own.
 *
 * Everything here compares with memcmp.  Fresh random weights, tokens, orders and cuts each run, on
 * every instruction set that the processor has.  An argument names another backend to hold to it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_kernels_model.h"

enum {
	CHUNKS = 4,
	TAIL = 9,
	PROMPT = CHUNKS * M2_CHUNK + TAIL,
	DECODED = 6,
	LENGTH = PROMPT + DECODED,
	SLOTS = 16,
	OTHERS_PROMPT = 2 * M2_CHUNK + 30,
};

static uint64_t seed;
static const char *backend = "cpu";
static const char *const isas[] = {"portable", "avx2", "avx512"};
static size_t n_isas = sizeof isas / sizeof isas[0];

/* What a run left: logits of every position, and the slot as it is saved. */
struct trace {
	float *logits;
	unsigned char *saved;
	size_t logits_bytes, saved_bytes;
};

static struct trace trace_create(const struct rig *rig)
{
	struct trace t = {
		.logits_bytes = (size_t)LENGTH * (size_t)rig->desc.vocab_rows * sizeof(float),
		.saved_bytes = rig->footprint.per_slot,
	};
	t.logits = calloc(1, t.logits_bytes);
	t.saved = calloc(1, t.saved_bytes);
	assert_true(t.logits != NULL && t.saved != NULL);
	return t;
}

static void trace_destroy(struct trace *t)
{
	free(t->logits);
	free(t->saved);
}

static void assert_same(const struct trace *a, const struct trace *b)
{
	assert_int_equal(a->saved_bytes, b->saved_bytes);
	assert_memory_equal(a->logits, b->logits, a->logits_bytes);
	assert_memory_equal(a->saved, b->saved, a->saved_bytes);
}

static struct m2_work work_of(const struct rig *rig, const struct trace *t, int32_t slot,
	const int32_t *tokens, int32_t at, int32_t end)
{
	return (struct m2_work){
		.slot = slot,
		.n_tokens = end - at,
		.position = at,
		.tokens = tokens + at,
		.logits = t->logits + (size_t)at * (size_t)rig->desc.vocab_rows,
	};
}

static void step(struct rig *rig, const struct m2_work *items, int32_t count)
{
	struct m2_why why = {0};
	rig->backend->poison(rig->model);
	assert_int_equal(rig->backend->step(rig->model, items, count, &why), M2_OK);
}

/* Alone in slot 0: chunk `c` of the prompt ends a span if bit c of cuts is set; the tail comes token
 * by token if `singles`; then the decoded tokens, one by one. */
static void run_alone(
	struct rig *rig, const int32_t *tokens, unsigned cuts, bool singles, struct trace *out)
{
	int32_t at = 0;
	assert_int_equal(rig->backend->slot_reset(rig->model, 0), M2_OK);
	while (at < LENGTH) {
		int32_t end = at + 1;
		if (at < CHUNKS * M2_CHUNK) {
			end = at + M2_CHUNK;
			while (end < CHUNKS * M2_CHUNK && (cuts >> (end / M2_CHUNK - 1) & 1u) == 0)
				end += M2_CHUNK;
			const bool whole = (cuts >> (CHUNKS - 1) & 1u) == 0;
			if (end == CHUNKS * M2_CHUNK && whole && !singles)
				end = PROMPT;
		} else if (at < PROMPT && !singles) {
			end = PROMPT;
		}
		const struct m2_work work = work_of(rig, out, 0, tokens, at, end);
		step(rig, &work, 1);
		at = end;
	}
	assert_int_equal(rig->backend->slot_save(rig->model, 0, out->saved), M2_OK);
}

static bool open_on(struct rig *rig, struct random_model *r, const char *isa, int32_t threads)
{
	struct m2_why why = {0};
	const struct rig_options options = {.backend = backend,
		.isa = isa,
		.threads = threads,
		.slots = SLOTS,
		.max_tokens = 1024};
	const enum m2_err err = rig_open(rig, r, options, &why);
	if (err == M2_EUNSUPPORTED) {
		rig_close(rig);
		return false;
	}
	assert_int_equal(err, M2_OK);
	return true;
}

/* A shape with nothing round about it, and one with the published widths. */
static struct m2_model_desc shape(int which)
{
	struct m2_model_desc m = plain_desc();
	if (which == 0) {
		m.hidden_size = 50;
		m.n_heads = 6;
		m.head_dim = 24;
		m.state_size = 21;
		m.n_groups = 3;
		m.norm_groups = 3;
		m.d_mlp = 5;
		m.vocab_rows = 131;
	} else {
		m.hidden_size = 96;
		m.n_heads = 3;
		m.head_dim = 64;
		m.state_size = 128;
		m.vocab_rows = 100;
		m.n_layers = 1;
	}
	return m;
}

static struct random_model model_of(int which)
{
	return (struct random_model){.desc = shape(which),
		.seed = seed + (uint64_t)which,
		.matrices = which == 0 ? M2_DTYPE_F32 : M2_DTYPE_BF16};
}

/* ---- cuts ----------------------------------------------------------------------------------- */

static void check_cuts(struct random_model *r, const char *isa)
{
	struct rng rng = {mix64(seed + 1)};
	struct rig rig;
	int32_t tokens[LENGTH];
	if (!open_on(&rig, r, isa, 1))
		return;
	random_tokens(&rng, tokens, LENGTH, r->desc.vocab_rows);
	struct trace whole = trace_create(&rig), cut = trace_create(&rig);
	run_alone(&rig, tokens, 0, false, &whole);
	for (unsigned cuts = 0; cuts < 1u << CHUNKS; cuts++) {
		run_alone(&rig, tokens, cuts, cuts % 2 == 0, &cut);
		assert_same(&cut, &whole);
	}
	trace_destroy(&whole);
	trace_destroy(&cut);
	rig_close(&rig);
}

static void a_prompt_may_be_cut_at_any_chunk_and_end_in_single_tokens(void **state)
{
	(void)state;
	for (int which = 0; which < 2; which++) {
		struct random_model r = model_of(which);
		for (size_t i = 0; i < n_isas; i++)
			check_cuts(&r, isas[i]);
	}
}

/* From a cut inside a chunk the rest of that chunk goes by the recurrence, and the grid of whole
 * chunks is the sequence's, not the span's: one span or many single tokens up to it. */
static void check_grid(struct random_model *r, const char *isa)
{
	enum { INSIDE = M2_CHUNK + 6, NEXT = 2 * M2_CHUNK };
	struct rng rng = {mix64(seed + 5)};
	struct rig rig;
	int32_t tokens[LENGTH];
	if (!open_on(&rig, r, isa, 1))
		return;
	random_tokens(&rng, tokens, LENGTH, r->desc.vocab_rows);
	struct trace one = trace_create(&rig), many = trace_create(&rig);
	struct m2_work work = work_of(&rig, &one, 0, tokens, 0, INSIDE);
	step(&rig, &work, 1);
	work = work_of(&rig, &one, 0, tokens, INSIDE, LENGTH);
	step(&rig, &work, 1);
	assert_int_equal(rig.backend->slot_save(rig.model, 0, one.saved), M2_OK);
	for (int32_t at = 0; at < LENGTH;) {
		int32_t end = at < M2_CHUNK ? M2_CHUNK : at < NEXT ? at + 1 : LENGTH;
		work = work_of(&rig, &many, 1, tokens, at, end);
		step(&rig, &work, 1);
		at = end;
	}
	assert_int_equal(rig.backend->slot_save(rig.model, 1, many.saved), M2_OK);
	assert_same(&one, &many);
	trace_destroy(&one);
	trace_destroy(&many);
	rig_close(&rig);
}

static void the_grid_of_chunks_is_the_sequences_own(void **state)
{
	(void)state;
	struct random_model r = model_of(0);
	for (size_t i = 0; i < n_isas; i++)
		check_grid(&r, isas[i]);
}

/* ---- threads -------------------------------------------------------------------------------- */

static void check_threads(struct random_model *r, const char *isa)
{
	static const int32_t counts[] = {1, 2, 3, 7};
	struct rng rng = {mix64(seed + 2)};
	struct trace traces[4];
	struct rig rig;
	int32_t tokens[LENGTH];
	random_tokens(&rng, tokens, LENGTH, r->desc.vocab_rows);
	for (int i = 0; i < 4; i++) {
		if (!open_on(&rig, r, isa, counts[i]))
			return;
		traces[i] = trace_create(&rig);
		run_alone(&rig, tokens, 2, false, &traces[i]);
		rig_close(&rig);
	}
	for (int i = 1; i < 4; i++)
		assert_same(&traces[i], &traces[0]);
	for (int i = 0; i < 4; i++)
		trace_destroy(&traces[i]);
}

static void the_number_of_threads_changes_nothing(void **state)
{
	(void)state;
	for (int which = 0; which < 2; which++) {
		struct random_model r = model_of(which);
		for (size_t i = 0; i < n_isas; i++)
			check_threads(&r, isas[i]);
	}
}

/* ---- company -------------------------------------------------------------------------------- */

/* Sequences that come and go beside the one that is watched. */
struct crowd {
	int32_t at[SLOTS];
	int32_t tokens[SLOTS][OTHERS_PROMPT];
	struct trace trace; /* where their logits go */
};

static void crowd_enter(struct rig *rig, struct crowd *crowd, int32_t slot, struct rng *rng)
{
	assert_int_equal(rig->backend->slot_reset(rig->model, slot), M2_OK);
	random_tokens(rng, crowd->tokens[slot], OTHERS_PROMPT, rig->desc.vocab_rows);
	crowd->at[slot] = 0;
}

/* The next span of another sequence: a chunk, or single tokens; NaN is none of its business. */
static struct m2_work crowd_span(
	struct rig *rig, struct crowd *crowd, int32_t slot, struct rng *rng)
{
	if (crowd->at[slot] == OTHERS_PROMPT)
		crowd_enter(rig, crowd, slot, rng);
	const int32_t at = crowd->at[slot];
	int32_t end = at + 1;
	if (at % M2_CHUNK == 0 && at + M2_CHUNK <= OTHERS_PROMPT && rng_below(rng, 2))
		end = at + M2_CHUNK;
	crowd->at[slot] = end;
	struct m2_work work = work_of(rig, &crowd->trace, slot, crowd->tokens[slot], at, end);
	work.logits_first = (int32_t)rng_below(rng, (uint32_t)(end - at) + 1);
	return work;
}

/* The sequence in slot `own`, the others around it in random number and order. */
static void run_in_company(
	struct rig *rig, const int32_t *tokens, struct rng *rng, struct trace *out)
{
	struct crowd *crowd = calloc(1, sizeof *crowd);
	assert_non_null(crowd);
	crowd->trace = trace_create(rig);
	const int32_t own = (int32_t)rng_below(rng, SLOTS);
	for (int32_t slot = 0; slot < SLOTS; slot++)
		crowd_enter(rig, crowd, slot, rng);
	for (int32_t at = 0; at < LENGTH;) {
		struct m2_work items[SLOTS];
		int32_t count = 0, end = at + 1;
		if (at < CHUNKS * M2_CHUNK)
			end = at + M2_CHUNK;
		for (int32_t slot = 0; slot < SLOTS; slot++)
			if (slot == own)
				items[count++] = work_of(rig, out, own, tokens, at, end);
			else if (rng_below(rng, 3))
				items[count++] = crowd_span(rig, crowd, slot, rng);
		for (int32_t i = count - 1; i > 0; i--) {
			const int32_t j = (int32_t)rng_below(rng, (uint32_t)i + 1);
			const struct m2_work swap = items[i];
			items[i] = items[j];
			items[j] = swap;
		}
		step(rig, items, count);
		at = end;
	}
	assert_int_equal(rig->backend->slot_save(rig->model, own, out->saved), M2_OK);
	trace_destroy(&crowd->trace);
	free(crowd);
}

static void check_company(struct random_model *r, const char *isa, int32_t threads)
{
	struct rng rng = {mix64(seed + 3)};
	struct rig rig;
	int32_t tokens[LENGTH];
	if (!open_on(&rig, r, isa, threads))
		return;
	random_tokens(&rng, tokens, LENGTH, r->desc.vocab_rows);
	struct trace alone = trace_create(&rig), among = trace_create(&rig);
	run_alone(&rig, tokens, 0, false, &alone);
	for (int i = 0; i < 3; i++) {
		run_in_company(&rig, tokens, &rng, &among);
		assert_same(&among, &alone);
	}
	trace_destroy(&alone);
	trace_destroy(&among);
	rig_close(&rig);
}

static void alone_or_among_fifteen_others_is_the_same(void **state)
{
	(void)state;
	for (int which = 0; which < 2; which++) {
		struct random_model r = model_of(which);
		for (size_t i = 0; i < n_isas; i++)
			for (int32_t threads = 1; threads <= 2; threads++)
				check_company(&r, isas[i], threads);
	}
}

/* ---- slots ---------------------------------------------------------------------------------- */

/* Save after the prompt, copy to another slot, restore into a third: all go on alike. */
static void check_slots(const char *isa)
{
	struct random_model r = model_of(0);
	struct rng rng = {mix64(seed + 4)};
	struct rig rig;
	int32_t tokens[LENGTH];
	if (!open_on(&rig, &r, isa, 1))
		return;
	const struct m2_backend *b = rig.backend;
	random_tokens(&rng, tokens, LENGTH, r.desc.vocab_rows);
	struct trace traces[3];
	for (int i = 0; i < 3; i++)
		traces[i] = trace_create(&rig);
	const struct m2_work prompt = work_of(&rig, &traces[0], 4, tokens, 0, PROMPT);
	step(&rig, &prompt, 1);
	assert_int_equal(b->slot_save(rig.model, 4, traces[0].saved), M2_OK);
	assert_int_equal(b->slot_copy(rig.model, 9, 4), M2_OK);
	assert_int_equal(b->slot_restore(rig.model, 2, traces[0].saved), M2_OK);

	static const int32_t slots[] = {4, 9, 2};
	for (int i = 0; i < 3; i++) {
		memcpy(traces[i].logits, traces[0].logits, traces[0].logits_bytes);
		const struct m2_work rest =
			work_of(&rig, &traces[i], slots[i], tokens, PROMPT, LENGTH);
		step(&rig, &rest, 1);
		assert_int_equal(b->slot_save(rig.model, slots[i], traces[i].saved), M2_OK);
	}
	for (int i = 1; i < 3; i++)
		assert_same(&traces[i], &traces[0]);
	for (int i = 0; i < 3; i++)
		trace_destroy(&traces[i]);
	rig_close(&rig);
}

static void copies_and_restored_slots_go_on_bit_for_bit(void **state)
{
	(void)state;
	for (size_t i = 0; i < n_isas; i++)
		check_slots(isas[i]);
}

static void a_reset_slot_exports_zeros(void **state)
{
	(void)state;
	struct random_model r = model_of(0);
	struct rig rig;
	int32_t tokens[LENGTH] = {0};
	assert_true(open_on(&rig, &r, isas[0], 1));
	struct trace t = trace_create(&rig);
	const struct m2_work work = work_of(&rig, &t, 0, tokens, 0, PROMPT);
	step(&rig, &work, 1);
	const size_t n = rig.footprint.per_slot / sizeof(float);
	float *conv = calloc(n, sizeof(float)), *ssm = calloc(n, sizeof(float));
	assert_true(conv != NULL && ssm != NULL);
	assert_int_equal(rig.backend->slot_export(rig.model, 0, conv, ssm), M2_OK);
	assert_true(conv[0] != 0.0f && ssm[0] != 0.0f);
	assert_int_equal(rig.backend->slot_reset(rig.model, 0), M2_OK);
	assert_int_equal(rig.backend->slot_export(rig.model, 0, conv, ssm), M2_OK);
	for (size_t i = 0; i < n; i++)
		assert_true(conv[i] == 0.0f && ssm[i] == 0.0f);
	assert_int_equal(rig.backend->slot_export(rig.model, 0, NULL, NULL), M2_OK);
	free(conv);
	free(ssm);
	trace_destroy(&t);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		backend = argv[1];
		n_isas = 1; /* theirs have none to choose */
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_prompt_may_be_cut_at_any_chunk_and_end_in_single_tokens),
		cmocka_unit_test(the_grid_of_chunks_is_the_sequences_own),
		cmocka_unit_test(the_number_of_threads_changes_nothing),
		cmocka_unit_test(alone_or_among_fifteen_others_is_the_same),
		cmocka_unit_test(copies_and_restored_slots_go_on_bit_for_bit),
		cmocka_unit_test(a_reset_slot_exports_zeros),
	};
	seed = run_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
