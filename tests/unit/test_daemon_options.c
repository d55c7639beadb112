/* The command line and the environment: where things lie, and what is refused in one sentence. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/options.h"

static struct m2_options o;
static struct m2_why why;

static enum m2_err parse(const char *a, const char *b, const char *c, const char *d)
{
	char *argv[6] = {"mamba2d"};
	const char *given[] = {a, b, c, d};
	int argc = 1;
	for (int i = 0; i < 4 && given[i] != NULL; i++)
		argv[argc++] = (char *)(uintptr_t)given[i];
	why.text[0] = '\0';
	return m2_options_parse(argc, argv, &o, &why);
}

static int clear_environment(void **state)
{
	static const char *const names[] = {"RUNTIME_DIRECTORY", "STATE_DIRECTORY",
		"CONFIGURATION_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME",
		"INVOCATION_ID", "JOURNAL_STREAM", "HOME"};
	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		(void)unsetenv(names[i]);
	return 0;
}

static void directories_of_systemd_win_over_defaults(void **state)
{
	(void)state;
	(void)setenv("RUNTIME_DIRECTORY", "/run/one:/run/two", 1);
	(void)setenv("STATE_DIRECTORY", "/var/lib/one", 1);
	(void)setenv("CONFIGURATION_DIRECTORY", "/etc/one", 1);
	assert_int_equal(parse(NULL, NULL, NULL, NULL), M2_OK);
	assert_string_equal(o.runtime_dir, "/run/one");
	assert_string_equal(o.state_dir, "/var/lib/one");
	assert_string_equal(o.config_dir, "/etc/one");
	assert_int_equal(parse("--runtime-dir", "/a", "--state-dir", "/b"), M2_OK);
	assert_string_equal(o.runtime_dir, "/a");
	assert_string_equal(o.state_dir, "/b");
}

static void without_them_the_user_decides(void **state)
{
	(void)state;
	(void)setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
	(void)setenv("HOME", "/home/x", 1);
	assert_int_equal(parse(NULL, NULL, NULL, NULL), M2_OK);
	if (geteuid() == 0) {
		assert_string_equal(o.runtime_dir, "/run/mamba2d");
		assert_string_equal(o.state_dir, "/var/lib/mamba2d");
		assert_string_equal(o.config_dir, "/etc/mamba2d");
		return;
	}
	assert_string_equal(o.runtime_dir, "/run/user/7/mamba2d");
	assert_string_equal(o.state_dir, "/home/x/.local/state/mamba2d");
	assert_string_equal(o.config_dir, "/home/x/.config/mamba2d");
	(void)setenv("XDG_STATE_HOME", "/s", 1);
	assert_int_equal(parse(NULL, NULL, NULL, NULL), M2_OK);
	assert_string_equal(o.state_dir, "/s/mamba2d");
	(void)unsetenv("XDG_RUNTIME_DIR");
	assert_int_equal(parse(NULL, NULL, NULL, NULL), M2_EINVAL);
	assert_non_null(strstr(why.text, "XDG_RUNTIME_DIR"));
}

static void relative_paths_become_absolute(void **state)
{
	char here[4096];
	(void)state;
	assert_non_null(getcwd(here, sizeof here));
	assert_int_equal(parse("--variant-dir", "a/b", "--variant-dir", "/c"), M2_OK);
	assert_int_equal(o.n_variant_dirs, 2);
	assert_int_equal(strncmp(o.variant_dirs[0], here, strlen(here)), 0);
	assert_string_equal(o.variant_dirs[0] + strlen(here), "/a/b");
	assert_string_equal(o.variant_dirs[1], "/c");
}

static void a_socket_path_that_does_not_fit_is_explained(void **state)
{
	char path[120];
	(void)state;
	memset(path, 'x', sizeof path);
	path[0] = '/';
	/* 107 bytes with "/control.sock" is the most that fits */
	path[107 - 13] = '\0';
	assert_int_equal(parse("--runtime-dir", path, NULL, NULL), M2_OK);
	path[107 - 13] = 'x';
	path[107 - 12] = '\0';
	assert_int_equal(parse("--runtime-dir", path, NULL, NULL), M2_EINVAL);
	assert_non_null(strstr(why.text, "107"));
	assert_string_equal(why.field, "runtime-dir");
}

static void wrong_values_name_their_option(void **state)
{
	static const char *const wrong[][2] = {{"--cpu-threads", "many"}, {"--cpu-threads", "-1"},
		{"--cpu-threads", "5000"}, {"--cpu-threads", ""}, {"--cpu-threads", "4x"},
		{"--log-level", "loud"}, {"--isa", "sse"}, {"--backend", "tpu"}};
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_int_equal(parse(wrong[i][0], wrong[i][1], NULL, NULL), M2_EINVAL);
		assert_non_null(strstr(why.text, wrong[i][0]));
	}
	assert_int_equal(parse("generate", NULL, NULL, NULL), M2_EINVAL);
	assert_non_null(strstr(why.text, "generate"));
}

static void what_is_not_given_is_left_to_the_configuration(void **state)
{
	(void)state;
	assert_int_equal(parse("--runtime-dir", "/r", NULL, NULL), M2_OK);
	assert_int_equal(o.role, M2_ROLE_SUPERVISOR);
	assert_int_equal(o.cpu_threads, -1);
	assert_string_equal(o.isa, "");
	assert_string_equal(o.log_level, "");
	assert_string_equal(o.backend, "cpu");
	assert_int_equal(o.control_gid, (uint32_t)-1);
	assert_false(o.config_given);
	assert_int_equal(parse("--cpu-threads", "0", "--isa", "avx2"), M2_OK);
	assert_int_equal(o.cpu_threads, 0);
	assert_string_equal(o.isa, "avx2");
}

static void a_child_is_told_everything_and_asks_nothing(void **state)
{
	(void)state;
	assert_int_equal(
		parse("--role=gate", "--fd=3", "--generation=9", "--control-gid=44"), M2_OK);
	assert_int_equal(o.role, M2_ROLE_GATE);
	assert_int_equal(o.fd, 3);
	assert_int_equal(o.generation, 9);
	assert_int_equal(o.control_gid, 44);
	assert_int_equal(
		parse("--role=worker", "--ordinal=2", "--results-budget=99", "--fd=3"), M2_OK);
	assert_int_equal(o.role, M2_ROLE_WORKER);
	assert_int_equal(o.ordinal, 2);
	assert_int_equal(o.results_budget, 99);
	assert_string_equal(o.runtime_dir, "");
}

static void inspect_is_a_role_without_directories(void **state)
{
	(void)state;
	assert_int_equal(parse("--inspect=/m", "--json", "--norm-groups=2", NULL), M2_OK);
	assert_int_equal(o.role, M2_ROLE_INSPECT);
	assert_string_equal(o.inspect.path, "/m");
	assert_int_equal(o.inspect.form, M2_INSPECT_JSON);
	assert_int_equal(o.inspect.norm_groups, 2);
	assert_string_equal(o.runtime_dir, "");
	assert_int_equal(parse("--inspect=m.gguf", "--tokenizer=t", NULL, NULL), M2_OK);
	assert_int_equal(o.inspect.form, M2_INSPECT_TEXT);
	assert_int_equal(o.inspect.path[0], '/');
	assert_int_equal(o.inspect.tokenizer[0], '/');
	assert_int_equal(parse("--inspect=m", "--tokenizer=none", NULL, NULL), M2_OK);
	assert_string_equal(o.inspect.tokenizer, "none");
	/* a variant needs a name, and its numbers are numbers */
	assert_int_equal(parse("--inspect=/m", "--yaml", NULL, NULL), M2_EINVAL);
	assert_non_null(strstr(why.text, "--name"));
	assert_int_equal(parse("--inspect=/m", "--yaml", "--name=a", "--alias=b"), M2_OK);
	assert_int_equal(o.inspect.n_aliases, 1);
	assert_string_equal(o.inspect.aliases[0], "b");
	assert_int_equal(parse("--inspect=/m", "--slots=0", NULL, NULL), M2_EINVAL);
	assert_int_equal(parse("--inspect=/m", "--norm-groups=-1", NULL, NULL), M2_EINVAL);
}

#define TEST(name) cmocka_unit_test_setup(name, clear_environment)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(directories_of_systemd_win_over_defaults),
		TEST(without_them_the_user_decides),
		TEST(relative_paths_become_absolute),
		TEST(a_socket_path_that_does_not_fit_is_explained),
		TEST(wrong_values_name_their_option),
		TEST(what_is_not_given_is_left_to_the_configuration),
		TEST(a_child_is_told_everything_and_asks_nothing),
		TEST(inspect_is_a_role_without_directories),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
