/* test_registry_kill.c - kill -9 at any moment: what was acknowledged is there, and nothing is torn.
 *
 * A child puts, removes and loads in a loop, and says through a pipe what it is about to do and what
 * was acknowledged.  The parent kills it at a random moment, opens the registry, and compares it with
 * a model that knows both possible outcomes of the one operation that was under way.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <sqlite3.h>

#include "registry/store.h"
#include "registry/store_schema.h"
#include "tests/unit/test_registry_dir.h"

enum { NAMES = 6, KILLS = 20 };
enum action { PUT, REMOVE, LOAD_BEGIN, LOAD_END };

/* One message of the pipe; smaller than PIPE_BUF, so never torn itself. */
struct message {
	int32_t done; /* 0: about to, 1: acknowledged */
	int32_t action;
	int32_t name;
	int32_t generation; /* of the text that is put */
};

/* What the registry must hold. */
struct model {
	int32_t generation[NAMES]; /* 0: not registered */
	int64_t loads[NAMES];
	bool loading; /* one load at a time */
	int32_t loading_name;
};

static size_t make_text(char *text, size_t size, int32_t name, int32_t generation)
{
	const int n = snprintf(text, size,
		"name: v%d\naliases: [alias-%d-%d]\ncheckpoint: /m\ndescription: generation %d\n",
		name, name, generation, generation);
	assert_true(n > 0 && n < (int)size);
	return (size_t)n;
}

static void tell(int fd, struct message m, int32_t done)
{
	m.done = done;
	if (write(fd, &m, sizeof m) != (ssize_t)sizeof m)
		_exit(20);
}

/* The child: for ever, until it is killed.  Any refusal is a defect. */
static void work(const char *path, int fd, struct model model, unsigned seed)
{
	struct m2_store *store;
	int32_t generation = (int32_t)(seed * 100000) + 1;
	int64_t row = 0;
	srand(seed);
	if (m2_store_open(path, &store, NULL) != M2_OK)
		_exit(21);
	for (;; generation++) {
		struct message m = {0, rand() % 4, rand() % NAMES, generation};
		char name[16];
		char text[256];
		struct m2_variant v;
		enum m2_err err = M2_OK;
		if (m.action == LOAD_END && model.loading)
			m.name = model.loading_name;
		const bool there = model.generation[m.name] != 0;
		if ((m.action != PUT && !there) || (m.action == LOAD_BEGIN && model.loading) ||
			(m.action == LOAD_END && !model.loading) ||
			(m.action == REMOVE && model.loading && m.name == model.loading_name))
			continue;
		(void)snprintf(name, sizeof name, "v%d", m.name);
		tell(fd, m, 0);
		if (m.action == PUT) {
			const size_t n = make_text(text, sizeof text, m.name, generation);
			if (m2_variant_parse(text, n, "t", NULL, &v, NULL) != M2_OK)
				_exit(22);
			err = m2_store_put(
				store, &v, text, n, "", M2_ORIGIN_MANUAL, 0, there, NULL);
			model.generation[m.name] = generation;
		} else if (m.action == REMOVE) {
			err = m2_store_remove(store, name, NULL);
			model.generation[m.name] = 0;
		} else if (m.action == LOAD_BEGIN) {
			err = m2_store_load_begin(store, name, "cpu", 0, &row, NULL);
			model.loading = true;
			model.loading_name = m.name;
		} else {
			err = m2_store_load_end(store, row, 1, 1, M2_OK, NULL, NULL);
			model.loading = false;
		}
		if (err != M2_OK)
			_exit(23);
		tell(fd, m, 1);
	}
}

static void apply(struct model *model, const struct message *m)
{
	switch ((enum action)m->action) {
	case PUT:
		model->generation[m->name] = m->generation;
		break;
	case REMOVE:
		model->generation[m->name] = 0;
		model->loads[m->name] = 0;
		break;
	case LOAD_BEGIN:
		model->loading = true;
		model->loading_name = m->name;
		break;
	case LOAD_END:
		model->loading = false;
		model->loads[m->name]++;
		break;
	}
}

/* Does the registry hold exactly this? */
static bool matches(struct m2_store *store, const struct model *model)
{
	for (int32_t i = 0; i < NAMES; i++) {
		char name[32], wanted[32];
		struct m2_variant v;
		struct m2_store_entry e;
		(void)snprintf(name, sizeof name, "v%d", i);
		const enum m2_err err = m2_store_get(store, name, &v, &e, NULL);
		if (model->generation[i] == 0) {
			if (err != M2_ENOENT)
				return false;
			continue;
		}
		(void)snprintf(wanted, sizeof wanted, "generation %d", model->generation[i]);
		if (err != M2_OK || strcmp(v.description, wanted) != 0 ||
			e.loads != model->loads[i])
			return false;
		/* an open load was closed as interrupted by the opening */
		if (model->loading && model->loading_name == i && e.last_error != M2_EWORKER)
			return false;
		(void)snprintf(name, sizeof name, "alias-%d-%d", i, model->generation[i]);
		if (m2_store_get(store, name, NULL, NULL, NULL) != M2_OK)
			return false;
	}
	return true;
}

static void check_integrity(const char *path)
{
	sqlite3 *db = NULL;
	sqlite3_stmt *s = NULL;
	int64_t names = -1, orphans = -1;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	assert_string_equal((const char *)sqlite3_column_text(s, 0), "ok");
	assert_int_equal(sqlite3_finalize(s), SQLITE_OK);
	assert_int_equal(m2_store_query_int(db, path,
				 "SELECT (SELECT count(*) FROM names) - 2 * (SELECT count(*) FROM "
				 "variants)",
				 &names, NULL),
		M2_OK);
	assert_int_equal(names, 0); /* one name and one alias each */
	assert_int_equal(m2_store_query_int(db, path,
				 "SELECT count(*) FROM pragma_foreign_key_check", &orphans, NULL),
		M2_OK);
	assert_int_equal(orphans, 0);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Read messages until the moment, kill, read what is left; true when the last one had begun only. */
static bool run_and_kill(pid_t child, int fd, int64_t after_us, struct model *model,
	struct message *under_way, int *acknowledged)
{
	struct message m;
	bool begun = false;
	bool killed = false;
	int64_t moment = 0; /* counted from the first message: before it the child only opens */
	for (;;) {
		if (!killed && moment != 0 && now_us() >= moment) {
			kill(child, SIGKILL);
			killed = true;
		}
		struct pollfd p = {fd, POLLIN, 0};
		const struct timespec millisecond = {0, 1000000};
		if (!killed && ppoll(&p, 1, moment != 0 ? &millisecond : NULL, NULL) == 0)
			continue;
		const ssize_t n = read(fd, &m, sizeof m);
		if (n == 0)
			return begun;
		assert_int_equal(n, sizeof m);
		if (moment == 0)
			moment = now_us() + after_us;
		begun = m.done == 0;
		*under_way = m;
		if (m.done == 1) {
			apply(model, &m);
			(*acknowledged)++;
		}
	}
}

static void what_was_acknowledged_survives_kill_9(void **state)
{
	struct model model;
	const char *path = test_path(state, "registry.db");
	int acknowledged = 0;
	int in_the_middle = 0;
	memset(&model, 0, sizeof model);
	for (unsigned round = 0; round < KILLS; round++) {
		int ends[2];
		int status;
		struct message under_way = {0, 0, 0, 0};
		assert_int_equal(pipe(ends), 0);
		const pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			close(ends[0]);
			work(path, ends[1], model, round + 1);
		}
		close(ends[1]);
		srand(1000 + round);
		const bool begun = run_and_kill(
			child, ends[0], rand() % 60000, &model, &under_way, &acknowledged);
		close(ends[0]);
		assert_int_equal(waitpid(child, &status, 0), child);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			fail_msg("the child ended by itself: status %x", (unsigned)status);

		struct m2_store *store = NULL;
		struct m2_why why = {"", ""};
		if (m2_store_open(path, &store, &why) != M2_OK)
			fail_msg("round %u: %s", round, why.text);
		struct model after = model;
		if (begun)
			apply(&after, &under_way);
		const bool as_before = matches(store, &model);
		const bool as_after = begun && matches(store, &after);
		if (!as_before && !as_after)
			fail_msg("round %u: the registry is not what was acknowledged", round);
		if (!as_before)
			model = after;
		model.loading = false; /* closed by the opening */
		in_the_middle += begun;
		m2_store_close(&store);
		check_integrity(path);
	}
	print_message("# %d operations acknowledged, %d of %d kills inside one\n", acknowledged,
		in_the_middle, KILLS);
	assert_true(acknowledged > KILLS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			what_was_acknowledged_survives_kill_9, test_dir_setup, test_dir_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
