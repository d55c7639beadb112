/* test_model_unicode.c - normalisation against utf8proc's own, and scanners against their patterns in PCRE2.
 *
 * Both are written by hand here for the sake of time bounds, so both are held against the slow
 * definition on text made to hit their edges.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/pretokenize.h"
#include "model/unicode.h"

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state >> 32) % n);
}

/* Characters where the pattern or the normalisation has an edge.  All older than Unicode 13, so that
 * the two libraries agree on what they are; U+180E is white space to PCRE2 alone. */
static uint32_t random_character(void)
{
	static const uint32_t edges[] = {' ', ' ', ' ', '\n', '\t', '\r', '\'', '\'', 's', 't', 'r',
		'e', 'v', 'l', 'd', 'm', 'S', 'a', 'L', 'R', 'E', '1', '_', '!', '/', 0x17f, 0x1c5,
		0x2b0, 0x85, 0xa0, 0x2003, 0x3000, 0x2028, 0x200b, 0x200d, 0xb2, 0xbd, 0x2160, 0xe9,
		0x301, 0x323, 0x327, 0x338, 0x1100, 0x1161, 0x11a8, 0xac00, 0x212b, 0x958, 0x9bc,
		0x1f600, 0x4e2d, 0x627, 0x64b, 0x1d15e, 0xfb1d, 0x344, 0x1e69, 0x73, 0x1c, 0x0b};
	if (random_below(4) != 0)
		return edges[random_below(sizeof edges / sizeof *edges)];
	const uint32_t blocks[] = {0x20, 0xc0, 0x300, 0x400, 0x5d0, 0x1e00, 0xac00};
	return blocks[random_below(7)] + random_below(0x60);
}

static size_t random_text(char *out, size_t characters)
{
	size_t n = 0;
	for (size_t i = 0; i < characters; i++)
		n += (size_t)m2_utf8_encode(random_character(), (unsigned char *)out + n);
	return n;
}

static void forms_equal_utf8proc_on_random_text(void **state)
{
	static const struct {
		enum m2_unicode_form form;
		int options;
	} forms[] = {{M2_NFC, UTF8PROC_COMPOSE}, {M2_NFD, UTF8PROC_DECOMPOSE},
		{M2_NFKC, UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
		{M2_NFKD, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
	(void)state;
	for (int round = 0; round < 24000; round++) {
		char text[256];
		char *ours;
		size_t ours_length;
		utf8proc_uint8_t *theirs = NULL;
		struct m2_why why;
		const int k = round % 4;
		const size_t n = random_text(text, 1 + random_below(40));
		const utf8proc_ssize_t m =
			utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &theirs,
				(utf8proc_option_t)(UTF8PROC_STABLE | forms[k].options));
		assert_true(m >= 0);
		assert_int_equal(
			m2_unicode_normalize(forms[k].form, text, n, &ours, &ours_length, &why),
			M2_OK);
		const char *result = ours != NULL ? ours : text;
		assert_int_equal(ours != NULL ? ours_length : n, m);
		assert_memory_equal(result, theirs, (size_t)m);
		free(ours);
		free(theirs);
	}
}

/* Where utf8proc is wrong: U+11A7 is no final consonant of Hangul. */
static void an_open_syllable_does_not_swallow_the_place_of_its_final(void **state)
{
	static const char text[] = "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa7\xe1\x84\x80\xe1\x85\xa1";
	static const char wanted[] = "\xea\xb0\x80\xe1\x86\xa7\xea\xb0\x80";
	char *out;
	size_t length;
	struct m2_why why;
	(void)state;
	assert_int_equal(
		m2_unicode_normalize(M2_NFC, text, sizeof text - 1, &out, &length, &why), M2_OK);
	assert_int_equal(length, sizeof wanted - 1);
	assert_memory_equal(out, wanted, length);
	free(out);
}

/* U+1ABF came with Unicode 13.0, U+11935, U+11930 and their composition with 13.0 too: by the tables that
 * the reference tokenizers have they neither move nor compose. */
static void what_came_after_unicode_9_stays_as_it_is(void **state)
{
	static const char *const texts[] = {"a\xe1\xaa\xbf\xcc\x81", "a\xcc\xa7\xe1\xaa\xbf",
		"\xf0\x91\xa4\xb5\xf0\x91\xa4\xb0", "\xf0\x91\xa4\xb8"};
	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		char *out;
		size_t length;
		struct m2_why why;
		assert_int_equal(m2_unicode_normalize(
					 M2_NFC, texts[i], strlen(texts[i]), &out, &length, &why),
			M2_OK);
		assert_int_equal(length, strlen(texts[i]));
		assert_memory_equal(out, texts[i], length);
		free(out);
	}
}

static void lower_case_is_each_characters_own(void **state)
{
	char *out;
	size_t length;
	struct m2_why why;
	(void)state;
	/* A, U+0130 (two characters), Sigma (not final), a title case letter */
	assert_int_equal(
		m2_unicode_lower("A\xc4\xb0\xce\xa3\xc7\x85", 7, &out, &length, &why), M2_OK);
	assert_int_equal(length, 8);
	assert_memory_equal(out, "ai\xcc\x87\xcf\x83\xc7\x86", 8);
	free(out);
}

static void a_megabyte_of_marks_in_the_wrong_order_is_normalised_at_once(void **state)
{
	(void)state;
	const size_t n = 1 << 20;
	char *text = malloc(n);
	char *out;
	size_t length;
	struct timespec from;
	struct timespec to;
	struct m2_why why;
	assert_non_null(text);
	/* the second half sorts before the first: swapping neighbours would take minutes */
	for (size_t i = 0; i < n; i += 2)
		memcpy(text + i, i < n / 2 ? "\xcc\x81" : "\xcc\xb8", 2); /* classes 230 and 1 */
	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	assert_int_equal(m2_unicode_normalize(M2_NFC, text, n, &out, &length, &why), M2_OK);
	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	assert_non_null(out);
	assert_int_equal(length, n);
	assert_memory_equal(out, "\xcc\xb8", 2);
	assert_memory_equal(out + n - 2, "\xcc\x81", 2);
	assert_true(to.tv_sec - from.tv_sec < 5);
	free(out);
	free(text);
}

static void ascii_and_latin_need_no_normalising(void **state)
{
	char *out;
	size_t length;
	struct m2_why why;
	(void)state;
	assert_int_equal(
		m2_unicode_normalize(M2_NFC, "plain \xc3\xa9", 8, &out, &length, &why), M2_OK);
	assert_null(out);
	assert_int_equal(m2_unicode_normalize(M2_NFC, "e\xcc\x81", 3, &out, &length, &why), M2_OK);
	assert_int_equal(length, 2);
	assert_memory_equal(out, "\xc3\xa9", 2);
	free(out);
}

static void compare_scanner(const struct m2_pattern *pattern, int rounds)
{
	int error;
	size_t at_error;
	pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern->text, PCRE2_ZERO_TERMINATED,
		PCRE2_UTF | PCRE2_UCP, &error, &at_error, NULL);
	assert_non_null(code);
	pcre2_match_data *match = pcre2_match_data_create(4, NULL);
	for (int round = 0; round < rounds; round++) {
		char text[256];
		const size_t n = random_text(text, 1 + random_below(40));
		for (size_t at = 0; at < n;) {
			const int rc = pcre2_match(
				code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, NULL);
			assert_true(rc > 0);
			const size_t *where = pcre2_get_ovector_pointer(match);
			assert_int_equal(where[0], at);
			const size_t end = pattern->scan(text, n, at);
			if (end != where[1])
				print_error("%s: \"%.*s\" at %zu: %zu, the pattern says %zu\n",
					pattern->name, (int)n, text, at, end, where[1]);
			assert_int_equal(end, where[1]);
			at = end;
		}
	}
	pcre2_match_data_free(match);
	pcre2_code_free(code);
}

static void the_scanners_cut_where_their_patterns_do(void **state)
{
	(void)state;
	for (const struct m2_pattern *p = m2_patterns; p->name != NULL; p++) {
		assert_ptr_equal(m2_pattern_find(p->text, strlen(p->text)), p);
		compare_scanner(p, 8000);
	}
	assert_null(m2_pattern_find("\\s+", 3));
}

static void every_byte_has_its_own_stand_in(void **state)
{
	bool seen[0x200] = {false};
	unsigned char out[4];
	(void)state;
	for (unsigned byte = 0; byte < 256; byte++) {
		const uint32_t code = m2_stand_in_of_byte((unsigned char)byte);
		assert_true(code < 0x200 && !seen[code]);
		seen[code] = true;
		assert_int_equal(m2_byte_of_stand_in(code), byte);
	}
	assert_int_equal(m2_stand_in_of_byte(' '), 0x120);
	assert_int_equal(m2_stand_in_of_byte('\n'), 0x10a);
	assert_int_equal(m2_stand_in_of_byte(0xad), 0x143);
	assert_int_equal(m2_stand_in_of_byte(0x7f), 0x121);
	assert_int_equal(m2_byte_of_stand_in(' '), -1);
	assert_int_equal(m2_byte_of_stand_in(0x144), -1);
	assert_int_equal(m2_bytes_of_stand_ins("\xc4\xa0"
					       "a",
				 3, out),
		2);
	assert_memory_equal(out, " a", 2);
	assert_int_equal(m2_bytes_of_stand_ins("a b", 3, out), -1);
}

static void word_characters_are_letters_marks_digits_and_connectors(void **state)
{
	size_t size;
	(void)state;
	assert_true(m2_char_is_word('a') && m2_char_is_word('_') && m2_char_is_word('0'));
	assert_true(m2_char_is_word(0x301) && m2_char_is_word(0x200d) && m2_char_is_word(0x2160));
	assert_false(m2_char_is_word(' ') || m2_char_is_word('-') || m2_char_is_word(0xb2));
	assert_int_equal(m2_utf8_last("a\xe6\xbc\xa2", 4, &size), 0x6f22);
	assert_int_equal(size, 3);
	assert_int_equal(m2_utf8_last("a", 1, &size), 'a');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_equal_utf8proc_on_random_text),
		cmocka_unit_test(an_open_syllable_does_not_swallow_the_place_of_its_final),
		cmocka_unit_test(what_came_after_unicode_9_stays_as_it_is),
		cmocka_unit_test(lower_case_is_each_characters_own),
		cmocka_unit_test(a_megabyte_of_marks_in_the_wrong_order_is_normalised_at_once),
		cmocka_unit_test(ascii_and_latin_need_no_normalising),
		cmocka_unit_test(the_scanners_cut_where_their_patterns_do),
		cmocka_unit_test(every_byte_has_its_own_stand_in),
		cmocka_unit_test(word_characters_are_letters_marks_digits_and_connectors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
