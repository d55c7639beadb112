/* tokenizer_checks.h - what must hold of any tokenizer that was taken in, whatever its file says.
 * For the fuzz targets of both formats; header only. */
#ifndef M2_TESTS_FUZZ_TOKENIZER_CHECKS_H
#define M2_TESTS_FUZZ_TOKENIZER_CHECKS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/tokenizer.h"

static inline void require(int holds)
{
	if (!holds)
		abort();
}

/* Streaming, token by token, gives what decoding at once gives, within the promised bounds. */
static inline void check_stream(
	const struct m2_tokenizer *t, const int32_t *ids, size_t count, int skip)
{
	char *whole;
	size_t length;
	size_t at = 0;
	struct m2_why why;
	struct m2_text_stream stream = {.n_held = 0};
	require(m2_tokenizer_decode(t, ids, count, skip != 0, &whole, &length, &why) == M2_OK);
	require(m2_utf8_valid(whole, length));
	require(length <= count * m2_tokenizer_max_text(t));
	char *out = malloc(m2_tokenizer_max_text(t) + 9);
	require(out != NULL);
	for (size_t i = 0; i < count; i++) {
		const size_t n = m2_text_stream_push(&stream, t, ids[i], skip != 0, out);
		require(n <= m2_tokenizer_max_text(t) + 9 && at + n <= length);
		require(m2_utf8_valid(out, n) && memcmp(out, whole + at, n) == 0);
		at += n;
	}
	const size_t n = m2_text_stream_flush(&stream, out);
	require(at + n == length && memcmp(out, whole + at, n) == 0);
	free(out);
	free(whole);
}

static inline void check_encode(
	const struct m2_tokenizer *t, const char *text, size_t length, unsigned flags)
{
	int32_t *ids = NULL;
	size_t count = 0;
	struct m2_why why = {.text = ""};
	const enum m2_err err =
		m2_tokenizer_encode(t, text, length, flags, 4096, &ids, &count, &why);
	if (err != M2_OK) {
		require(why.text[0] != '\0');
		return;
	}
	require(ids != NULL && count <= 4096);
	for (size_t i = 0; i < count; i++)
		require(ids[i] >= 0 && ids[i] < m2_tokenizer_size(t));
	check_stream(t, ids, count, 0);
	check_stream(t, ids, count, 1);
	free(ids);
}

/* A text on all flags, and any ids at all, as a model may choose them. */
static inline void check_all(const struct m2_tokenizer *t, const char *text, size_t length,
	const uint8_t *data, size_t size)
{
	static const char usual[] =
		"Hello  w\xc3\xb6rld, it's e\xcc\x81 1234 <s> ab  \n\t \xf0\x9f\x98\x80 "
		"\xe2\x96\x81"
		"a\xe2\x80\x94";
	for (unsigned flags = 0; flags < 4; flags++) {
		check_encode(t, usual, sizeof usual - 1, flags);
		if (text != NULL)
			check_encode(t, text, length, flags);
	}
	int32_t ids[64];
	size_t n = 0;
	for (; n < 64 && n < size; n++)
		ids[n] = (int32_t)(data[n] * 257u % (unsigned)m2_tokenizer_size(t));
	check_stream(t, ids, n, 0);
	check_stream(t, ids, n, 1);
	require(m2_tokenizer_bos(t) < m2_tokenizer_size(t));
	require(m2_tokenizer_eos(t) < m2_tokenizer_size(t));
	require(m2_tokenizer_special(t, usual, 5) < m2_tokenizer_size(t));
	require(m2_tokenizer_kind(t)[0] != '\0' && m2_tokenizer_path(t)[0] == '\0');
}

#endif
