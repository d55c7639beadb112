/* test_results.c - the results segment: layout, hostile segments, and the doorbell across processes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/results.h"

static const struct m2_results_shape full = {.request = 42,
	.n_sequences = 3,
	.prompt_tokens = 5,
	.max_tokens = 7,
	.vocab = 11,
	.top_k = 2,
	.flags = M2_RESULTS_LOGITS | M2_RESULTS_PROMPT_LOGPROBS | M2_RESULTS_PROMPT_LOGITS |
		 M2_RESULTS_TEXT | M2_RESULTS_LOGPROBS,
	.text_per_token = 9};

static void *make(const struct m2_results_shape *shape, size_t *bytes)
{
	struct m2_why why;
	assert_int_equal(m2_results_size(shape, bytes, &why), M2_OK);
	void *segment = NULL;
	assert_int_equal(posix_memalign(&segment, 64, *bytes), 0);
	memset(segment, 0, *bytes);
	m2_results_format(segment, *bytes, shape);
	return segment;
}

struct range {
	uint64_t at;
	uint64_t bytes;
};

static void a_segment_holds_every_array_without_overlap(void **state)
{
	(void)state;
	size_t bytes;
	struct m2_results_header *h = make(&full, &bytes);
	struct m2_why why;
	assert_int_equal(m2_results_check(h, bytes, &why), M2_OK);
	struct range ranges[40] = {{0, sizeof *h}, {h->sequences, 3 * 128}, {h->prompt_ids, 5 * 4},
		{h->prompt_logprobs, 5 * 4}, {h->prompt_top_ids, 5 * 2 * 4},
		{h->prompt_top_logprobs, 5 * 2 * 4}, {h->prompt_logits, 5 * 11 * 4}};
	size_t n = 7;
	for (uint32_t i = 0; i < 3; i++) {
		const struct m2_results_sequence *q = m2_results_sequence(h, i);
		assert_int_equal(q->text_capacity, 7 * 9 + 16);
		assert_int_equal(q->stop_token, -1);
		const struct range own[] = {{q->tokens, 28}, {q->logprobs, 28}, {q->text_end, 28},
			{q->text, q->text_capacity}, {q->top_ids, 56}, {q->top_logprobs, 56},
			{q->logits, 7 * 11 * 4}};
		memcpy(ranges + n, own, sizeof own);
		n += 7;
	}
	for (size_t i = 0; i < n; i++) {
		assert_true(i == 0 || ranges[i].at >= 1024);
		assert_int_equal(ranges[i].at % 64, 0);
		assert_true(ranges[i].at + ranges[i].bytes <= bytes);
		for (size_t j = 0; j < i; j++)
			assert_true(ranges[i].at >= ranges[j].at + ranges[j].bytes ||
				    ranges[j].at >= ranges[i].at + ranges[i].bytes);
	}
	free(h);
}

static void what_was_not_asked_for_takes_no_room(void **state)
{
	(void)state;
	struct m2_results_shape bare = full;
	bare.flags = 0;
	size_t bytes;
	struct m2_results_header *h = make(&bare, &bytes);
	const struct m2_results_sequence *q = m2_results_sequence(h, 2);
	assert_true(q->tokens != 0);
	assert_true(q->logprobs == 0 && q->text == 0 && q->text_capacity == 0 && q->top_ids == 0 &&
		    q->logits == 0 && h->prompt_logits == 0 && h->prompt_logprobs == 0);
	free(h);
}

static void too_large_a_request_is_refused_not_wrapped(void **state)
{
	(void)state;
	struct m2_results_shape huge = full;
	struct m2_why why;
	size_t bytes;
	huge.max_tokens = UINT32_MAX;
	huge.vocab = UINT32_MAX;
	huge.n_sequences = UINT32_MAX;
	assert_int_equal(m2_results_size(&huge, &bytes, &why), M2_ELIMIT);
	assert_non_null(strstr(why.text, "results memory"));
	huge = full;
	huge.prompt_tokens = 60000;
	huge.vocab = 50288;
	assert_int_equal(m2_results_size(&huge, &bytes, &why), M2_ELIMIT);
}

static void a_segment_that_lies_is_refused(void **state)
{
	(void)state;
	size_t bytes;
	struct m2_why why;
	unsigned char *good = make(&full, &bytes);
	unsigned char *bad = malloc(bytes);
	assert_int_equal(m2_results_check(good, 1023, &why), M2_EFORMAT);
	assert_int_equal(m2_results_check(good, bytes - 64, &why), M2_EFORMAT);
	const size_t offsets[] = {0, offsetof(struct m2_results_header, version),
		offsetof(struct m2_results_header, n_sequences) + 2,
		offsetof(struct m2_results_header, prompt_tokens) + 2,
		offsetof(struct m2_results_header, max_tokens) + 3,
		offsetof(struct m2_results_header, vocab) + 3,
		offsetof(struct m2_results_header, top_k) + 3,
		offsetof(struct m2_results_header, sequences) + 7,
		offsetof(struct m2_results_header, prompt_ids) + 6,
		1024 + offsetof(struct m2_results_sequence, tokens) + 7,
		1024 + offsetof(struct m2_results_sequence, text_capacity) + 7,
		1024 + 256 + offsetof(struct m2_results_sequence, logits) + 5};
	for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
		memcpy(bad, good, bytes);
		bad[offsets[i]] ^= 0xff;
		assert_int_equal(m2_results_check(bad, bytes, &why), M2_EFORMAT);
	}
	free(bad);
	free(good);
}

static void finishing_happens_once(void **state)
{
	(void)state;
	size_t bytes;
	struct m2_results_header *h = make(&full, &bytes);
	m2_results_finish(h, M2_EWORKER, "the first word", 5);
	m2_results_finish(h, M2_OK, "the last word", 6);
	assert_int_equal(h->error, M2_EWORKER);
	assert_string_equal(h->message, "the first word");
	assert_int_equal(h->finished_ns, 5);
	assert_int_equal(atomic_load(&h->state), M2_RESULTS_FINISHED);
	free(h);
}

/* The reader has a read-only mapping, in another process, and sleeps in the kernel. */
static void a_reader_in_another_process_wakes(void **state)
{
	(void)state;
	size_t bytes;
	struct m2_why why;
	assert_int_equal(m2_results_size(&full, &bytes, &why), M2_OK);
	const int fd = memfd_create("results", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	struct m2_results_header *h = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(h, MAP_FAILED);
	m2_results_format(h, bytes, &full);
	const pid_t pid = fork();
	if (pid == 0) {
		const struct m2_results_header *r = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
		const uint32_t seen = atomic_load(&r->doorbell);
		const bool woke = m2_results_wait(r, seen, 5000000000);
		_exit(woke && atomic_load(
				      &m2_results_sequence((void *)(uintptr_t)r, 1)->published) == 4
				? 0
				: 1);
	}
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	atomic_store_explicit(&m2_results_sequence(h, 1)->published, 4, memory_order_release);
	m2_results_ring(h);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_false(m2_results_wait(h, atomic_load(&h->doorbell), 1000000));
	munmap(h, bytes);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_segment_holds_every_array_without_overlap),
		cmocka_unit_test(what_was_not_asked_for_takes_no_room),
		cmocka_unit_test(too_large_a_request_is_refused_not_wrapped),
		cmocka_unit_test(a_segment_that_lies_is_refused),
		cmocka_unit_test(finishing_happens_once),
		cmocka_unit_test(a_reader_in_another_process_wakes),
	};
	return cmocka_run_group_tests_name("results", tests, NULL, NULL);
}
