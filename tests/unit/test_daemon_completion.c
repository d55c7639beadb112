/* test_daemon_completion.c - text that streams, and strings that end it, against a search of the whole. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/completion.h"

static uint64_t state = 1;

static unsigned below(unsigned n)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(state >> 33) % n;
}

enum { TEXT = 200, STOPS = 4 };

struct stops_case {
	char bytes[STOPS * 8];
	uint16_t length[STOPS];
	uint32_t at[STOPS];
	uint32_t n;
};

/* Few letters and short strings, so that matches overlap and borders matter. */
static struct stops_case random_stops(unsigned letters)
{
	struct stops_case c = {.n = 1 + below(STOPS)};
	uint32_t at = 0;
	for (uint32_t i = 0; i < c.n; i++) {
		c.at[i] = at;
		c.length[i] = (uint16_t)(1 + below(7));
		for (unsigned j = 0; j < c.length[i]; j++)
			c.bytes[at++] = (char)('a' + below(letters));
	}
	return c;
}

/* First end, longest there, lowest index: -1 if no string is in the text. */
static int search(const struct stops_case *c, const char *text, size_t length, size_t *begin)
{
	for (size_t end = 1; end <= length; end++) {
		int found = -1;
		for (uint32_t i = 0; i < c->n; i++)
			if (c->length[i] <= end &&
				memcmp(text + end - c->length[i], c->bytes + c->at[i],
					c->length[i]) == 0 &&
				(found < 0 || c->length[i] > c->length[found]))
				found = (int)i;
		if (found >= 0) {
			*begin = end - c->length[found];
			return found;
		}
	}
	return -1;
}

/* The longest suffix that is a proper prefix of a stop string. */
static size_t must_hold(const struct stops_case *c, const char *text, size_t length)
{
	size_t hold = 0;
	for (uint32_t i = 0; i < c->n; i++)
		for (size_t k = 1; k < c->length[i] && k <= length; k++)
			if (memcmp(text + length - k, c->bytes + c->at[i], k) == 0 && k > hold)
				hold = k;
	return hold;
}

static void text_ends_before_the_first_match_however_it_is_cut(void **unused)
{
	(void)unused;
	int matches = 0;
	for (int round = 0; round < 5000; round++) {
		const unsigned letters = 2 + below(3);
		const struct stops_case c = random_stops(letters);
		char text[TEXT], out[TEXT];
		struct m2_stops stops;
		struct m2_completion completion;
		struct m2_why why;
		size_t begin = 0, at = 0;
		for (int i = 0; i < TEXT; i++)
			text[i] = (char)('a' + below(letters + 1));
		const int want = search(&c, text, TEXT, &begin);
		assert_int_equal(m2_stops_init(&stops, c.bytes, c.length, c.n, &why), M2_OK);
		m2_completion_init(&completion, out, sizeof out);
		bool stopped = false;
		while (at < TEXT && !stopped) {
			const size_t shown = completion.shown;
			size_t piece = 1 + below(9);
			piece = piece < TEXT - at ? piece : TEXT - at;
			stopped = m2_completion_append(&completion, &stops, text + at, piece);
			at += piece;
			assert_true(completion.shown >= shown);
			assert_memory_equal(out, text, completion.shown);
			if (!stopped)
				assert_int_equal(completion.shown, at - must_hold(&c, text, at));
		}
		assert_int_equal(stopped, want >= 0);
		assert_int_equal(completion.stop, want);
		if (!stopped)
			m2_completion_end(&completion);
		assert_int_equal(completion.shown, stopped ? begin : TEXT);
		matches += stopped;
		m2_stops_finish(&stops);
	}
	assert_true(matches > 1000 && matches < 4999);
}

static void a_match_leaves_nothing_of_itself_in_the_buffer(void **unused)
{
	(void)unused;
	struct m2_stops stops;
	struct m2_completion c;
	struct m2_why why;
	const uint16_t length[] = {3};
	char out[16];
	memset(out, 'x', sizeof out);
	assert_int_equal(m2_stops_init(&stops, "END", length, 1, &why), M2_OK);
	m2_completion_init(&c, out, sizeof out);
	assert_false(m2_completion_append(&c, &stops, "abE", 3));
	assert_int_equal(c.shown, 2);
	assert_true(m2_completion_append(&c, &stops, "NDtail", 6));
	assert_int_equal(c.shown, 2);
	assert_memory_equal(out, "ab\0\0\0", 5);
	m2_stops_finish(&stops);
}

static void text_beyond_the_capacity_is_dropped_and_told(void **unused)
{
	(void)unused;
	const struct m2_stops none = {0};
	struct m2_completion c;
	char out[4];
	m2_completion_init(&c, out, sizeof out);
	assert_false(m2_completion_append(&c, &none, "abcdef", 6));
	assert_true(c.overflow);
	assert_int_equal(c.written, 4);
}

static void an_unfinished_character_becomes_its_replacement_at_the_end(void **unused)
{
	(void)unused;
	const struct m2_stops none = {0};
	struct m2_completion c;
	char out[16];
	m2_completion_init(&c, out, sizeof out);
	(void)m2_completion_append(&c, &none, "a", 1);
	c.stream.held[0] = 0xE2; /* the first two bytes of a euro sign */
	c.stream.held[1] = 0x82;
	c.stream.n_held = 2;
	m2_completion_end(&c);
	assert_int_equal(c.shown, 4);
	assert_memory_equal(out, "a\xEF\xBF\xBD", 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_ends_before_the_first_match_however_it_is_cut),
		cmocka_unit_test(a_match_leaves_nothing_of_itself_in_the_buffer),
		cmocka_unit_test(text_beyond_the_capacity_is_dropped_and_told),
		cmocka_unit_test(an_unfinished_character_becomes_its_replacement_at_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
