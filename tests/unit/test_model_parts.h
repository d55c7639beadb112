/* test_model_parts.h - small tokenizer.json files composed from parts, for the tests of the tokenizer.
 *
 * The vocabulary is all 256 bytes (ids 0..255, in the order of the bytes) and a few merges, so that
 * expected ids can be read off a test.  Header only: tests are one file each.
 */
#ifndef M2_TESTS_UNIT_TEST_MODEL_PARTS_H
#define M2_TESTS_UNIT_TEST_MODEL_PARTS_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/tokenizer.h"

/* Parts of a file; NULL: the usual one. */
struct parts {
	const char *added, *normalizer, *pre_tokenizer, *post_processor, *decoder, *vocab, *merges,
		*more;
};

/* ids 256.. of the usual vocabulary */
enum { HE = 256, LL, HELL, HELLO, AA, AAAA, SPACE_W, CONTROL };

#define USUAL_VOCAB                                                                                \
	",\"he\":256,\"ll\":257,\"hell\":258,\"hello\":259,\"aa\":260,\"aaaa\":261,\"\xc4\xa0w\":" \
	"262"
#define USUAL_MERGES "\"h e\",\"l l\",\"he ll\",\"hell o\",\"a a\",\"aa aa\",\"\xc4\xa0 w\""
#define USUAL_ADDED  "{\"id\":263,\"content\":\"<s>\",\"special\":true,\"normalized\":false}"
#define BYTE_LEVEL   "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"

/* The file as a string; the caller frees. */
static inline char *compose(const struct parts *p)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	assert_non_null(out);
	(void)fprintf(out,
		"{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,"
		"\"post_processor\":%s,\"decoder\":%s,\"model\":{\"type\":\"BPE\",\"vocab\":{",
		p->added != NULL ? p->added : USUAL_ADDED,
		p->normalizer != NULL ? p->normalizer : "null",
		p->pre_tokenizer != NULL ? p->pre_tokenizer : BYTE_LEVEL,
		p->post_processor != NULL ? p->post_processor : "null",
		p->decoder != NULL ? p->decoder : "{\"type\":\"ByteLevel\"}");
	for (unsigned byte = 0; byte < 256; byte++) {
		char stand_in[5] = {0};
		(void)m2_utf8_encode(
			m2_stand_in_of_byte((unsigned char)byte), (unsigned char *)stand_in);
		(void)fprintf(out, "%s\"%s%s\":%u", byte == 0 ? "" : ",",
			byte == '"' || byte == '\\' ? "\\" : "", stand_in, byte);
	}
	(void)fprintf(out, "%s},\"merges\":[%s]%s}}", p->vocab != NULL ? p->vocab : USUAL_VOCAB,
		p->merges != NULL ? p->merges : USUAL_MERGES, p->more != NULL ? p->more : "");
	(void)fclose(out);
	return text;
}

static inline struct m2_tokenizer *make(struct parts parts)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char *text = compose(&parts);
	const enum m2_err err = m2_tokenizer_parse(text, strlen(text), "tokenizer.json", &t, &why);
	free(text);
	if (err != M2_OK)
		fail_msg("%s", why.text);
	return t;
}

static inline void refuse(struct parts parts, enum m2_err wanted, const char *word)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char *text = compose(&parts);
	const enum m2_err err = m2_tokenizer_parse(text, strlen(text), "tokenizer.json", &t, &why);
	free(text);
	if (err != wanted || strstr(why.text, word) == NULL)
		print_error("gave %s: %s\n", m2_err_code(err), why.text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(why.text, word));
	assert_non_null(strstr(why.text, "tokenizer.json"));
	assert_null(t);
}

/* text must encode to the given ids, -1 at the end. */
static inline void expect(const struct m2_tokenizer *t, unsigned flags, const char *text, ...)
{
	int32_t *ids;
	size_t count;
	struct m2_why why = {.text = ""};
	va_list wanted;
	assert_int_equal(
		m2_tokenizer_encode(t, text, strlen(text), flags, 1000, &ids, &count, &why), M2_OK);
	assert_non_null(ids);
	va_start(wanted, text);
	for (size_t i = 0; i <= count; i++) {
		const int id = va_arg(wanted, int);
		if (id != (i < count ? ids[i] : -1))
			print_error("\"%s\": id %zu is %d\n", text, i, i < count ? ids[i] : -1);
		assert_int_equal(id, i < count ? ids[i] : -1);
	}
	va_end(wanted);
	free(ids);
}

#endif
