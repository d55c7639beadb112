/* test_kernels_replay.c - a state that is written every 16th token only, seen at each of the tokens between.
 *
 * What a slot holds then is an older state and the inputs of what came since.  From outside that must not
 * show: cut anywhere, saved, restored, copied, exported, reset or left alone after any number of tokens, a
 * sequence has the same bits, and exports the definition's state.  Fresh random weights and tokens each
 * run, on every instruction set that the processor has.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/cpu/kernels.h"
#include "tests/unit/test_kernels_model.h"

#define TOLERANCE 1e-5

enum {
	SLOTS = 4,
	LONG = M2_CHUNK - 1, /* the longest that no whole chunk is in */
	LENGTH = M2_CHUNK + LONG,
	SOME = 2 * M2_RING + 3, /* every row, and two writings */
};

static uint64_t seed;
static const char *const isas[] = {"portable", "avx2", "avx512"};

/* One model on one instruction set, and a sequence for it. */
struct bed {
	struct random_model model;
	struct rig rig;
	struct rng rng;
	int32_t tokens[LENGTH];
	size_t row; /* bytes of a row of logits */
};

/* A shape with nothing round about it, fewer rows of a state than are read side by side, a published one. */
static struct m2_model_desc shape(int which)
{
	struct m2_model_desc m = plain_desc();
	m.vocab_rows = 61;
	if (which == 0) {
		m.hidden_size = 50;
		m.n_heads = 6;
		m.head_dim = 24;
		m.state_size = 21;
		m.n_groups = 3;
		m.d_mlp = 5;
	} else if (which == 1) {
		m.head_dim = 70;
		m.state_size = 3;
		m.n_layers = 1;
	} else {
		m.hidden_size = 96;
		m.n_heads = 3;
		m.head_dim = 64;
		m.state_size = 128;
		m.n_layers = 1;
	}
	return m;
}

static bool bed_open(struct bed *b, int which, const char *isa, const char *backend)
{
	struct m2_why why = {0};
	*b = (struct bed){.model = {.desc = shape(which), .seed = seed, .matrices = M2_DTYPE_BF16},
		.rng = {mix64(seed + (uint64_t)which)}};
	random_tokens(&b->rng, b->tokens, LENGTH, b->model.desc.vocab_rows);
	b->row = (size_t)b->model.desc.vocab_rows * sizeof(float);
	const struct rig_options options = {.backend = backend,
		.isa = isa,
		.threads = 1 + which % 2,
		.slots = SLOTS,
		.max_tokens = LENGTH};
	const enum m2_err err = rig_open(&b->rig, &b->model, options, &why);
	if (err == M2_EUNSUPPORTED)
		rig_close(&b->rig);
	else
		assert_int_equal(err, M2_OK);
	return err == M2_OK;
}

/* On each set and shape. */
static void on_all(void (*check)(struct bed *b))
{
	for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
		for (int which = 0; which < 3; which++) {
			struct bed b;
			if (!bed_open(&b, which, isas[i], NULL))
				continue;
			check(&b);
			rig_close(&b.rig);
		}
	}
}

static struct m2_work span_of(const struct bed *b, int32_t slot, int32_t at, int32_t end,
	const int32_t *tokens, float *rows)
{
	return (struct m2_work){
		.slot = slot,
		.n_tokens = end - at,
		.position = at,
		.tokens = tokens + at,
		.logits = rows + (size_t)at * (b->row / sizeof(float)),
	};
}

static void step(struct bed *b, const struct m2_work *items, int32_t count)
{
	struct m2_why why = {0};
	if (b->rig.backend->poison != NULL)
		b->rig.backend->poison(b->rig.model);
	assert_int_equal(b->rig.backend->step(b->rig.model, items, count, &why), M2_OK);
}

static void run(struct bed *b, int32_t slot, int32_t at, int32_t end, float *rows)
{
	const struct m2_work work = span_of(b, slot, at, end, b->tokens, rows);
	step(b, &work, 1);
}

static void run_singly(struct bed *b, int32_t slot, int32_t at, int32_t end, float *rows)
{
	for (; at < end; at++)
		run(b, slot, at, at + 1, rows);
}

static void reset(struct bed *b, int32_t slot)
{
	assert_int_equal(b->rig.backend->slot_reset(b->rig.model, slot), M2_OK);
}

static void *fresh(size_t bytes)
{
	void *p = calloc(1, bytes);
	assert_non_null(p);
	return p;
}

/* The slot's bytes; the caller's. */
static unsigned char *saved(struct bed *b, int32_t slot)
{
	unsigned char *bytes = fresh(b->rig.footprint.per_slot);
	assert_int_equal(b->rig.backend->slot_save(b->rig.model, slot, bytes), M2_OK);
	return bytes;
}

static void assert_slot_is(struct bed *b, int32_t slot, const unsigned char *want)
{
	unsigned char *got = saved(b, slot);
	assert_memory_equal(got, want, b->rig.footprint.per_slot);
	free(got);
}

/* ---- cuts ----------------------------------------------------------------------------------- */

/* Tokens [from, from + LONG), which hold no whole chunk, in spans of any length. */
static void check_cuts_from(struct bed *b, int32_t from)
{
	const int32_t end = from + LONG;
	float *want = fresh(LENGTH * b->row), *got = fresh(LENGTH * b->row);
	reset(b, 0);
	if (from > 0)
		run(b, 0, 0, from, want);
	run_singly(b, 0, from, end, want);
	unsigned char *bytes = saved(b, 0);
	for (int round = 0; round < 12; round++) {
		memcpy(got, want, (size_t)from * b->row);
		reset(b, 1);
		if (from > 0)
			run(b, 1, 0, from, got);
		for (int32_t at = from; at < end;) {
			/* whole, on the ring's edges, beside them, then anywhere */
			const int32_t sizes[] = {LONG, M2_RING, M2_RING - 1, M2_RING + 1};
			int32_t n = round < 4 ? sizes[round] : 1 + (int32_t)rng_below(&b->rng, 40);
			n = n < end - at ? n : end - at;
			run(b, 1, at, at + n, got);
			at += n;
		}
		assert_memory_equal(got, want, (size_t)end * b->row);
		assert_slot_is(b, 1, bytes);
	}
	free(bytes);
	free(want);
	free(got);
}

static void check_cuts(struct bed *b)
{
	check_cuts_from(b, 0);
	check_cuts_from(b, M2_CHUNK);
}

static void between_chunks_any_cut_gives_the_bits_of_single_tokens(void **state)
{
	(void)state;
	on_all(check_cuts);
}

/* ---- slots ---------------------------------------------------------------------------------- */

/* After each number of tokens slot 0 is copied to 1 and restored into 2; all three go on in one step,
 * and slot 3, a copy as well, goes another way, which nobody else may feel. */
static void check_copies(struct bed *b)
{
	const struct m2_backend *cpu = b->rig.backend;
	float *rows[SLOTS], *want = fresh(LENGTH * b->row);
	int32_t other[LENGTH];
	random_tokens(&b->rng, other, LENGTH, b->model.desc.vocab_rows);
	for (int i = 0; i < SLOTS; i++)
		rows[i] = fresh(LENGTH * b->row);
	reset(b, 1);
	run_singly(b, 1, 0, SOME, want);
	unsigned char *last = saved(b, 1);
	reset(b, 0);
	for (int32_t at = 0; at < SOME; at++) {
		unsigned char *bytes = saved(b, 0);
		assert_int_equal(cpu->slot_copy(b->rig.model, 1, 0), M2_OK);
		assert_int_equal(cpu->slot_copy(b->rig.model, 3, 0), M2_OK);
		assert_int_equal(cpu->slot_restore(b->rig.model, 2, bytes), M2_OK);
		assert_slot_is(b, 1, bytes);
		free(bytes);
		struct m2_work items[SLOTS];
		for (int32_t i = 0; i < SLOTS; i++)
			items[i] = span_of(b, i, at, at + 1, i == 3 ? other : b->tokens, rows[i]);
		step(b, items, SLOTS);
		bytes = saved(b, 0);
		for (int32_t i = 0; i < 3; i++) {
			const size_t place = (size_t)at * (b->row / sizeof(float));
			assert_memory_equal(rows[i] + place, want + place, b->row);
			assert_slot_is(b, i, bytes);
		}
		free(bytes);
	}
	assert_slot_is(b, 0, last);
	free(last);
	free(want);
	for (int i = 0; i < SLOTS; i++)
		free(rows[i]);
}

static void copies_at_every_row_of_the_ring_go_on_alike(void **state)
{
	(void)state;
	on_all(check_copies);
}

/* A slot that stands after any number of tokens is not touched by the steps of others. */
static void check_rest(struct bed *b)
{
	float *rows = fresh(LENGTH * b->row);
	for (int32_t stands = 0; stands <= M2_RING; stands++) {
		reset(b, 1);
		run_singly(b, 1, 0, stands, rows);
		unsigned char *bytes = saved(b, 1);
		reset(b, 0);
		reset(b, 2);
		run(b, 0, 0, SOME, rows);
		run_singly(b, 2, 0, M2_RING + 1, rows);
		assert_slot_is(b, 1, bytes);
		free(bytes);
	}
	free(rows);
}

static void slots_that_are_not_named_stay_as_they_are(void **state)
{
	(void)state;
	on_all(check_rest);
}

/* Whatever another sequence left in the ring. */
static void check_reset(struct bed *b)
{
	float *want = fresh(LENGTH * b->row), *got = fresh(LENGTH * b->row);
	run_singly(b, 0, 0, M2_RING + 2, want);
	unsigned char *bytes = saved(b, 0);
	for (int32_t before = 0; before <= M2_RING; before++) {
		int32_t other[M2_RING];
		random_tokens(&b->rng, other, M2_RING, b->model.desc.vocab_rows);
		reset(b, 1);
		if (before > 0) {
			const struct m2_work work = span_of(b, 1, 0, before, other, got);
			step(b, &work, 1);
		}
		reset(b, 1);
		run_singly(b, 1, 0, M2_RING + 2, got);
		assert_memory_equal(got, want, (M2_RING + 2) * b->row);
		assert_slot_is(b, 1, bytes);
	}
	free(bytes);
	free(want);
	free(got);
}

static void a_reset_slot_knows_nothing_of_what_was_before(void **state)
{
	(void)state;
	on_all(check_reset);
}

/* ---- export --------------------------------------------------------------------------------- */

static size_t ssm_elements(const struct m2_model_desc *m)
{
	return (size_t)m->n_layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size;
}

static void check_export(struct bed *b, struct bed *definition)
{
	const size_t n = ssm_elements(&b->model.desc);
	float *rows = fresh(LENGTH * b->row), *got = fresh(n * sizeof(float));
	float *want = fresh(n * sizeof(float));
	reset(b, 0);
	reset(definition, 0);
	for (int32_t at = 0; at < SOME; at++) {
		run_singly(b, 0, at, at + 1, rows);
		run_singly(definition, 0, at, at + 1, rows);
		unsigned char *bytes = saved(b, 0);
		assert_int_equal(b->rig.backend->slot_export(b->rig.model, 0, NULL, got), M2_OK);
		assert_int_equal(
			definition->rig.backend->slot_export(definition->rig.model, 0, NULL, want),
			M2_OK);
		const double error = relative_error(got, want, n);
		if (!(error <= TOLERANCE))
			fail_msg("after %d tokens the state is %.2e off", at + 1, error);
		assert_slot_is(b, 0, bytes);
		free(bytes);
	}
	free(rows);
	free(got);
	free(want);
}

static void an_export_at_every_row_is_the_definitions_state(void **state)
{
	(void)state;
	for (int which = 0; which < 3; which++) {
		struct bed definition;
		assert_true(bed_open(&definition, which, NULL, "ref64"));
		for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
			struct bed b;
			if (!bed_open(&b, which, isas[i], NULL))
				continue;
			check_export(&b, &definition);
			rig_close(&b.rig);
		}
		rig_close(&definition.rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(between_chunks_any_cut_gives_the_bits_of_single_tokens),
		cmocka_unit_test(copies_at_every_row_of_the_ring_go_on_alike),
		cmocka_unit_test(slots_that_are_not_named_stay_as_they_are),
		cmocka_unit_test(a_reset_slot_knows_nothing_of_what_was_before),
		cmocka_unit_test(an_export_at_every_row_is_the_definitions_state),
	};
	seed = run_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
