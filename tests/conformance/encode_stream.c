/* encode_stream.c - a tokenizer behind two pipes, for compare_tokenizers.py: not a test by itself.
 *
 *	encode_stream TOKENIZER [special|plain|decode]
 *
 * Standard input is a sequence of records, a little-endian u32 of bytes and so many bytes:
 *   special, plain   a text.  Answer: its ids, its ids with what the file's template adds, and the latter's
 *                    texts.  special: special tokens written in the text become their ids.
 *   decode           int32 ids.  Answer: their texts.
 * Texts are three: decoded at once, the same without specials, and the first once more through a stream.
 * An answer on standard output begins with a u32, 0, and then has its parts as records of the same form; or
 * with 1 and one record, the sentence of the error.
 */
#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"

enum { RECORD_MAX = 1 << 28 };

struct record {
	char *bytes;
	size_t length;
};

static void give_up(const char *sentence)
{
	(void)fprintf(stderr, "encode_stream: %s\n", sentence);
	exit(2);
}

static void *take(size_t bytes)
{
	void *p = malloc(bytes + 1);
	if (p == NULL)
		give_up("out of memory");
	return p;
}

static bool read_number(uint32_t *out)
{
	uint32_t raw;
	const size_t n = fread(&raw, 1, sizeof raw, stdin);
	if (n != 0 && n != sizeof raw)
		give_up("the input ends inside a record");
	*out = le32toh(raw);
	return n != 0;
}

static bool read_record(struct record *out)
{
	uint32_t length;
	if (!read_number(&length))
		return false;
	if (length > RECORD_MAX)
		give_up("a record is too long");
	out->length = length;
	out->bytes = take(length);
	if (fread(out->bytes, 1, length, stdin) != length)
		give_up("the input ends inside a record");
	return true;
}

static void write_number(uint32_t value)
{
	const uint32_t raw = htole32(value);
	(void)fwrite(&raw, sizeof raw, 1, stdout);
}

static void write_record(const void *bytes, size_t length)
{
	write_number((uint32_t)length);
	(void)fwrite(bytes, 1, length, stdout);
}

static void write_ids(const int32_t *ids, size_t count)
{
	write_number((uint32_t)(count * sizeof *ids));
	for (size_t i = 0; i < count; i++)
		write_number((uint32_t)ids[i]);
}

static void write_error(const struct m2_why *why)
{
	write_number(1);
	write_record(why->text, strlen(why->text));
}

/* The whole text, piece by piece. */
static void stream(
	const struct m2_tokenizer *t, const int32_t *ids, size_t count, struct record *out)
{
	struct m2_text_stream s = {.n_held = 0};
	const size_t each = m2_tokenizer_max_text(t) + 9;
	out->bytes = take((count + 1) * each + 9);
	out->length = 0;
	for (size_t i = 0; i < count; i++)
		out->length += m2_text_stream_push(&s, t, ids[i], false, out->bytes + out->length);
	out->length += m2_text_stream_flush(&s, out->bytes + out->length);
}

struct texts {
	struct record part[3];
};

static void free_texts(struct texts *texts)
{
	for (int i = 0; i < 3; i++)
		free(texts->part[i].bytes);
}

static enum m2_err decode(const struct m2_tokenizer *t, const int32_t *ids, size_t count,
	struct texts *out, struct m2_why *why)
{
	*out = (struct texts){.part = {{NULL, 0}}};
	enum m2_err err = m2_tokenizer_decode(
		t, ids, count, false, &out->part[0].bytes, &out->part[0].length, why);
	if (err == M2_OK)
		err = m2_tokenizer_decode(
			t, ids, count, true, &out->part[1].bytes, &out->part[1].length, why);
	if (err == M2_OK)
		stream(t, ids, count, &out->part[2]);
	return err;
}

static void write_texts(const struct texts *texts)
{
	for (int i = 0; i < 3; i++)
		write_record(texts->part[i].bytes, texts->part[i].length);
}

static void answer_text(const struct m2_tokenizer *t, const struct record *in, unsigned flags)
{
	struct m2_why why = {.text = ""};
	struct texts texts = {.part = {{NULL, 0}}};
	int32_t *ids[2] = {NULL, NULL};
	size_t count[2] = {0, 0};
	enum m2_err err = M2_OK;
	for (int i = 0; i < 2 && err == M2_OK; i++)
		err = m2_tokenizer_encode(t, in->bytes, in->length,
			i == 0 ? flags : flags | M2_ENCODE_TEMPLATE, RECORD_MAX, &ids[i], &count[i],
			&why);
	if (err == M2_OK)
		err = decode(t, ids[1], count[1], &texts, &why);
	if (err == M2_OK) {
		write_number(0);
		write_ids(ids[0], count[0]);
		write_ids(ids[1], count[1]);
		write_texts(&texts);
	} else {
		write_error(&why);
	}
	free(ids[0]);
	free(ids[1]);
	free_texts(&texts);
}

static void answer_ids(const struct m2_tokenizer *t, const struct record *in)
{
	struct m2_why why = {.text = ""};
	struct texts texts;
	const size_t count = in->length / sizeof(int32_t);
	int32_t *ids = take(in->length);
	for (size_t i = 0; i < count; i++) {
		uint32_t raw;
		memcpy(&raw, in->bytes + i * sizeof raw, sizeof raw);
		ids[i] = (int32_t)le32toh(raw);
	}
	if (decode(t, ids, count, &texts, &why) == M2_OK) {
		write_number(0);
		write_texts(&texts);
	} else {
		write_error(&why);
	}
	free_texts(&texts);
	free(ids);
}

int main(int argc, char **argv)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	struct record in;
	const char *mode = argc == 3 ? argv[2] : "special";
	const bool ids = strcmp(mode, "decode") == 0;
	const unsigned flags = strcmp(mode, "special") == 0 ? M2_ENCODE_SPECIAL : 0;
	if (argc < 2 || argc > 3 || (flags == 0 && !ids && strcmp(mode, "plain") != 0))
		give_up("usage: encode_stream TOKENIZER [special|plain|decode]");
	if (m2_tokenizer_open(argv[1], &t, &why) != M2_OK)
		give_up(why.text);
	while (read_record(&in)) {
		if (ids)
			answer_ids(t, &in);
		else
			answer_text(t, &in, flags);
		free(in.bytes);
	}
	m2_tokenizer_close(&t);
	if (fflush(stdout) != 0 || ferror(stdout))
		give_up("the output was not taken");
	return 0;
}
