/* test_registry_daemon_config.c - the daemon's own configuration. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "registry/daemon_config.h"
#include "tests/unit/test_registry_dir.h"

static enum m2_err parse(const char *text, struct m2_daemon_config *c, struct m2_why *why)
{
	return m2_daemon_config_parse(text, strlen(text), "mamba2d.yaml", c, why);
}

static void no_file_at_all_is_a_valid_configuration(void **state)
{
	(void)state;
	struct m2_daemon_config c, parsed;
	m2_daemon_config_init(&c);
	assert_int_equal(c.n_variant_dirs + c.n_admin_users + c.n_admin_groups, 0);
	assert_int_equal(c.n_client_users + c.n_client_groups, 0);
	assert_int_equal(c.cpu_threads, 0);
	assert_string_equal(c.cpu_isa, "auto");
	assert_string_equal(c.log_level, "info");
	assert_int_equal(c.memory_budget_bytes, 0);
	assert_int_equal(c.results_budget_bytes, INT64_C(4) << 30);
	assert_int_equal(c.results_per_user_bytes, INT64_C(2) << 30);
	assert_int_equal(c.requests_per_user, 1024);
	assert_int_equal(c.results_keep_s, 60);
	assert_int_equal(c.connections_per_user, 512);
	assert_int_equal(c.step_timeout_s, 30);
	assert_int_equal(c.drain_timeout_s, 30);
	assert_true(c.load_on_demand);
	assert_int_equal(parse("", &parsed, NULL), M2_OK);
	assert_memory_equal(&c, &parsed, sizeof c);
	assert_int_equal(parse("# nothing\n", &parsed, NULL), M2_OK);
	assert_memory_equal(&c, &parsed, sizeof c);
}

static void every_key_reaches_its_field(void **state)
{
	(void)state;
	struct m2_daemon_config c;
	struct m2_why why = {"", ""};
	const char *text = "variant_dirs: [/a, /b/c]\nload_on_demand: false\nrequests_per_user: 3\n"
			   "drain_timeout: 0s\nlog_level: debug\n"
			   "admin: {users: [a, 5], groups: [b]}\n"
			   "clients: {users: [c], groups: [d, e]}\n"
			   "cpu: {threads: 7, isa: avx2, memory_budget: 80G}\n"
			   "memory: {budgets: [cuda:0=80%, cuda=2T], stay: 5m}\n"
			   "results: {budget: 3000000, per_user: 1024K, keep: 2h}\n";
	const enum m2_err err = parse(text, &c, &why);
	assert_string_equal(why.text, "");
	assert_int_equal(err, M2_OK);
	assert_int_equal(c.n_variant_dirs, 2);
	assert_string_equal(c.variant_dirs[1], "/b/c");
	assert_false(c.load_on_demand);
	assert_int_equal(c.requests_per_user, 3);
	assert_int_equal(c.drain_timeout_s, 0);
	assert_string_equal(c.log_level, "debug");
	assert_int_equal(c.n_admin_users, 2);
	assert_string_equal(c.admin_users[1], "5");
	assert_string_equal(c.admin_groups[0], "b");
	assert_string_equal(c.client_users[0], "c");
	assert_int_equal(c.n_client_groups, 2);
	assert_string_equal(c.client_groups[1], "e");
	assert_int_equal(c.cpu_threads, 7);
	assert_string_equal(c.cpu_isa, "avx2");
	assert_int_equal(c.memory_budget_bytes, INT64_C(80) << 30);
	assert_int_equal(c.n_budgets, 2);
	assert_string_equal(c.budgets[0], "cuda:0=80%");
	assert_int_equal(c.stay_s, 300);
	assert_int_equal(c.results_budget_bytes, 3000000);
	assert_int_equal(c.results_per_user_bytes, 1 << 20);
	assert_int_equal(c.results_keep_s, 7200);
}

static void users_are_a_list_of_mappings(void **state)
{
	(void)state;
	struct m2_daemon_config c;
	struct m2_why why = {"", ""};
	assert_int_equal(
		parse("users:\n  - {name: alice, weight: 3}\n"
		      "  - name: \"@students\"\n    slots: 4\n    tokens_per_minute: 20000\n"
		      "  - {name: 1001, requests: 7, slots: default}\n"
		      "default_user: {weight: 2, slots: 8, tokens_per_minute: 9}\n",
			&c, &why),
		M2_OK);
	assert_int_equal(c.n_users, 3);
	assert_string_equal(c.users[0].name, "alice");
	assert_int_equal(c.users[0].weight, 3);
	assert_int_equal(c.users[0].slots, M2_USER_DEFAULT);
	assert_string_equal(c.users[1].name, "@students");
	assert_int_equal(c.users[1].slots, 4);
	assert_int_equal(c.users[1].tokens_per_minute, 20000);
	assert_int_equal(c.users[2].requests, 7);
	assert_int_equal(c.users[2].slots, M2_USER_DEFAULT);
	assert_int_equal(c.default_weight, 2);
	assert_int_equal(c.default_slots, 8);
	assert_int_equal(c.default_tokens_per_minute, 9);
	static const struct {
		const char *text;
		const char *says;
	} wrong[] = {
		{"users: [alice]\n", "mamba2d.yaml:1:9: users: wants a list of mappings"},
		{"users: [{weight: 2}]\n", "1:9: name: is required"},
		{"users: [{name: a, wieght: 2}]\n",
			"1:19: wieght: unknown key; did you mean weight?"},
		{"users: [{name: a, weight: 0}]\n",
			"weight: wants an integer, 1..1000 or default, not 0"},
		{"users: [{name: a, weight: 1, weight: 2}]\n", "given twice"},
		{"users: [{name: a}, {name: a, slots: 2}]\n", "a has two entries"},
		{"users: [{name: \"@\"}]\n", "entry 1 wants name"},
		{"users: [{name: a, more: {b: 1}}]\n", "unknown key"},
		{"users: [{name: [a]}]\n", "name: wants a name"},
		{"users: {name: a}\n", "wants a list"},
		{"users: [{name: &x a}]\n", "anchors"},
		{"users: [{name: a, name: b\n", "given twice"},
		{"users: [{name: a\n", "not YAML"},
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_int_not_equal(parse(wrong[i].text, &c, &why), M2_OK);
		if (strstr(why.text, wrong[i].says) == NULL)
			fail_msg("%s: \"%s\" is not in \"%s\"", wrong[i].text, wrong[i].says,
				why.text);
	}
}

static void what_is_wrong_is_refused_with_its_place(void **state)
{
	(void)state;
	const struct {
		const char *text;
		const char *why;
	} cases[] = {
		{"cpu:\n  isa: sse\n",
			"mamba2d.yaml:2:8: cpu.isa: wants auto, portable, avx2 or avx512, not sse"},
		{"cpu: {memory_budget: 1025T}\n",
			"mamba2d.yaml:1:22: cpu.memory_budget: wants bytes (K, M, G, T: powers of "
			"1024), 0..1024T, not 1025T"},
		{"cpu: {memory_budget: 9223372036854775807K}\n",
			"mamba2d.yaml:1:22: cpu.memory_budget: wants bytes (K, M, G, T: powers of "
			"1024), 0..1024T, not 9223372036854775807K"},
		{"results: {budget: 1.5G}\n", "mamba2d.yaml:1:19: results.budget: wants bytes (K, "
					      "M, G, T: powers of 1024), "
					      "1M..1024T, not 1.5G"},
		{"results: {keep: forever}\n", "mamba2d.yaml:1:17: results.keep: wants a time "
					       "(30s, 5m, 2h, 1d), 1s..1d, not "
					       "forever"},
		{"memory:\n  budgets: [cpu=8G, gpu=8G]\n",
			"mamba2d.yaml:2:12: memory.budgets: wants DEVICE=BYTES or DEVICE=SHARE% "
			"(cpu=8G, cuda:0=80%, cuda=60%), not gpu=8G"},
		{"memory: {budgets: [cpu=1G, cpu=2G]}\n",
			"mamba2d.yaml:1:19: memory.budgets: cpu has two budgets"},
		{"cpu: {memory_budget: 1G}\nmemory: {budgets: [cpu=2G]}\n",
			"mamba2d.yaml:2:19: memory.budgets: cpu has another in "
			"cpu.memory_budget: remove that one"},
		{"variant_dirs: [variants]\n",
			"mamba2d.yaml:1:16: variant_dirs: entry 1 is a relative path, and no "
			"file's directory is known: write it in full"},
		{"threads: 4\n",
			"mamba2d.yaml:1:1: threads: unknown key; did you mean cpu.threads?"},
		{"log_level: loud\n",
			"mamba2d.yaml:1:12: log_level: wants error, warn, info or debug, not loud"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct m2_daemon_config c;
		struct m2_why why;
		assert_int_equal(parse(cases[i].text, &c, &why), M2_EINVAL);
		assert_string_equal(why.text, cases[i].why);
	}
}

static void a_budget_is_bytes_or_a_share_of_its_device(void **state)
{
	(void)state;
	const uint64_t total = UINT64_C(80) << 30;
	struct m2_daemon_config c;
	assert_int_equal(parse("", &c, NULL), M2_OK);
	assert_int_equal(m2_daemon_config_budget(&c, "cpu", total), 0);
	assert_int_equal(parse("cpu: {memory_budget: 3K}\n", &c, NULL), M2_OK);
	assert_int_equal(m2_daemon_config_budget(&c, "cpu", total), 3072);
	assert_int_equal(m2_daemon_config_budget(&c, "cuda:0", total), 0);
	assert_int_equal(
		parse("memory: {budgets: [cuda=50%, cuda:1=7, cpu=1024T]}\n", &c, NULL), M2_OK);
	assert_int_equal(m2_daemon_config_budget(&c, "cpu", total), INT64_C(1) << 50);
	assert_int_equal(m2_daemon_config_budget(&c, "cuda:0", total), total / 2);
	assert_int_equal(m2_daemon_config_budget(&c, "cuda:0", 0), 0);
	assert_int_equal(m2_daemon_config_budget(&c, "cuda:1", total), 7);
	const char *wrong[] = {"cpu", "cpu=", "cpu=0", "cpu=101%", "cpu=0%", "cpu=1.5G", "cpu=-1",
		"cpu=1P", "cpu=1GB", "cpu=1025T", "cpu=99999999999999999999", "cuda:=1G",
		"cuda:64=1G", "cuda:01=1G", "=1G", "cpu=8 G", "auto=8G"};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		char text[96];
		(void)snprintf(text, sizeof text, "memory: {budgets: [\"%s\"]}\n", wrong[i]);
		assert_int_equal(parse(text, &c, NULL), M2_EINVAL);
	}
}

static void host_memory_for_parking_is_bytes_or_a_share_or_none(void **state)
{
	(void)state;
	const uint64_t total = UINT64_C(80) << 30;
	struct m2_daemon_config c;
	assert_int_equal(parse("", &c, NULL), M2_OK);
	assert_int_equal(m2_daemon_config_parked(&c, total), total / 4);
	assert_int_equal(m2_daemon_config_parked(&c, 0), 0);
	assert_int_equal(parse("memory: {parked: 64G}\n", &c, NULL), M2_OK);
	assert_int_equal(m2_daemon_config_parked(&c, total), UINT64_C(64) << 30);
	assert_int_equal(parse("memory: {parked: \"0\"}\n", &c, NULL), M2_OK);
	assert_int_equal(m2_daemon_config_parked(&c, total), 0);
	assert_int_equal(parse("memory: {parked: 0}\n", &c, NULL), M2_OK);
	assert_int_equal(m2_daemon_config_parked(&c, total), 0);
	const char *wrong[] = {"101%", "1.5G", "-1", "1P", "1GB", "cpu=8G", "8 G", "half"};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		char text[96];
		(void)snprintf(text, sizeof text, "memory: {parked: \"%s\"}\n", wrong[i]);
		assert_int_equal(parse(text, &c, NULL), M2_EINVAL);
	}
}

static void every_log_level_is_one_of_the_logs(void **state)
{
	(void)state;
	const char *levels[] = {"error", "warn", "info", "debug"};
	for (int i = 0; i < 4; i++) {
		char text[64];
		struct m2_daemon_config c;
		enum m2_log_level level;
		(void)snprintf(text, sizeof text, "log_level: %s\n", levels[i]);
		assert_int_equal(parse(text, &c, NULL), M2_OK);
		assert_true(m2_log_level_parse(c.log_level, &level));
	}
}

static void a_file_gives_its_directory_to_relative_paths(void **state)
{
	struct m2_daemon_config c;
	struct m2_why why;
	const char *path = test_path(state, "mamba2d.yaml");
	test_write(path, "variant_dirs: [variants, /etc/x]\n");
	assert_int_equal(m2_daemon_config_read(path, &c, &why), M2_OK);
	assert_string_equal(c.variant_dirs[0], test_path(state, "variants"));
	assert_string_equal(c.variant_dirs[1], "/etc/x");
	assert_int_equal(m2_daemon_config_read(test_path(state, "none"), &c, &why), M2_ENOENT);
}

/* Take the # from the key lines ("#key", "#  key"; docs are "# Text"), leave the docs. */
static char *uncommented(const char *text)
{
	char *out = malloc(strlen(text) + 1);
	assert_non_null(out);
	size_t n = 0;
	bool start = true;
	for (const char *p = text; *p != '\0'; p++) {
		const bool doc = p[0] == '#' && (p[1] == '\n' || (p[1] == ' ' && p[2] != ' '));
		if (!(start && p[0] == '#' && !doc))
			out[n++] = *p;
		start = *p == '\n';
	}
	out[n] = '\0';
	return out;
}

static void the_committed_file_is_what_the_table_says(void **state)
{
	(void)state;
	struct m2_daemon_config c, parsed;
	struct m2_why why = {"", ""};
	char *generated = m2_daemon_config_reference();
	assert_non_null(generated);
	test_reference("configs/mamba2d.yaml", generated);
	m2_daemon_config_init(&c);
	assert_int_equal(parse(generated, &parsed, &why), M2_OK);
	assert_memory_equal(&c, &parsed, sizeof c);
	/* with every key uncommented it says the same */
	char *all = uncommented(generated);
	assert_non_null(strstr(all, "\ncpu:\n"));
	assert_non_null(strstr(all, "\n  isa: auto\n"));
	const enum m2_err err = parse(all, &parsed, &why);
	assert_string_equal(why.text, "");
	assert_int_equal(err, M2_OK);
	assert_memory_equal(&c, &parsed, sizeof c);
	free(all);
	free(generated);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_file_at_all_is_a_valid_configuration),
		cmocka_unit_test(every_key_reaches_its_field),
		cmocka_unit_test(users_are_a_list_of_mappings),
		cmocka_unit_test(what_is_wrong_is_refused_with_its_place),
		cmocka_unit_test(a_budget_is_bytes_or_a_share_of_its_device),
		cmocka_unit_test(host_memory_for_parking_is_bytes_or_a_share_or_none),
		cmocka_unit_test(every_log_level_is_one_of_the_logs),
		cmocka_unit_test_setup_teardown(a_file_gives_its_directory_to_relative_paths,
			test_dir_setup, test_dir_teardown),
		cmocka_unit_test(the_committed_file_is_what_the_table_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
