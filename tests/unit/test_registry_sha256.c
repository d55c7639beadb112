/* test_registry_sha256.c - SHA-256 against the vectors of FIPS 180-4 and NIST's CAVP, whole and in parts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "registry/sha256.h"
#include "registry/variant.h"

static void expect_digest(const void *data, size_t length, const char *hex)
{
	char got[M2_SHA256_HEX];
	assert_true(m2_sha256_hex(data, length, got));
	assert_string_equal(got, hex);
}

static void the_standards_examples_come_out(void **state)
{
	(void)state;
	expect_digest(NULL, 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	expect_digest("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	const char *two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
	expect_digest(two_blocks, strlen(two_blocks),
		"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	const char *long_example = "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
				   "hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";
	expect_digest(long_example, strlen(long_example),
		"cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
}

static void a_million_times_a(void **state)
{
	(void)state;
	char *text = malloc(1000000);
	assert_non_null(text);
	memset(text, 'a', 1000000);
	expect_digest(
		text, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
	free(text);
}

/* CAVP SHA256ShortMsg: one byte, and 64 bytes, which need a whole block of padding. */
static void short_messages_of_the_validation_suite(void **state)
{
	(void)state;
	const unsigned char one[] = {0xd3};
	expect_digest(one, 1, "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1");
	const unsigned char four[] = {0x74, 0xba, 0x25, 0x21};
	expect_digest(four, 4, "b16aa56be3880d18cd41e68384cf1ec8c17680c45a02b1575dc1518923ae8b0e");
}

/* Every length around the two places where the padding changes shape, against itself one byte longer
 * and against coreutils' figures for 55, 56 and 64 zero bytes. */
static void the_padding_changes_shape_at_the_right_lengths(void **state)
{
	(void)state;
	const char zeros[130] = {0};
	expect_digest(
		zeros, 55, "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7");
	expect_digest(
		zeros, 56, "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb");
	expect_digest(
		zeros, 64, "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b");
	char before[M2_SHA256_HEX], after[M2_SHA256_HEX];
	for (size_t n = 0; n < 129; n++) {
		assert_true(m2_sha256_hex(zeros, n, before));
		assert_true(m2_sha256_hex(zeros, n + 1, after));
		assert_string_not_equal(before, after);
	}
}

/* However a message is cut, and again and again with the same stream. */
static void a_message_in_parts_has_the_digest_of_the_whole(void **state)
{
	(void)state;
	unsigned char text[1000];
	char whole[M2_SHA256_HEX], parts[M2_SHA256_HEX];
	struct m2_sha256 *stream = m2_sha256_create();
	assert_non_null(stream);
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (unsigned char)(i * 7 + i / 256);
	assert_true(m2_sha256_hex(text, sizeof text, whole));
	for (size_t cut = 1; cut < 200; cut += 13) {
		for (size_t at = 0; at < sizeof text; at += cut)
			assert_true(m2_sha256_update(stream, text + at,
				sizeof text - at < cut ? sizeof text - at : cut));
		assert_true(m2_sha256_update(stream, NULL, 0));
		assert_true(m2_sha256_end(stream, parts));
		assert_string_equal(parts, whole);
	}
	assert_true(m2_sha256_end(stream, parts)); /* of nothing */
	assert_string_equal(
		parts, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	m2_sha256_destroy(&stream);
	assert_null(stream);
	m2_sha256_destroy(&stream);
}

static void the_checksum_of_a_variant_is_this(void **state)
{
	(void)state;
	char got[65];
	m2_variant_checksum("abc", 3, got);
	assert_string_equal(
		got, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_standards_examples_come_out),
		cmocka_unit_test(a_million_times_a),
		cmocka_unit_test(short_messages_of_the_validation_suite),
		cmocka_unit_test(the_padding_changes_shape_at_the_right_lengths),
		cmocka_unit_test(a_message_in_parts_has_the_digest_of_the_whole),
		cmocka_unit_test(the_checksum_of_a_variant_is_this),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
