/* options.c - argp's table, and where things lie when nobody says otherwise.
 *
 * Three ways to run, one rule: directories that systemd made (RUNTIME_DIRECTORY and its kin) win over
 * the defaults; root and system users without a home session use /run, /var/lib and /etc; an ordinary user
 * gets everything below the XDG directories.  An option wins over all of them.
 */
#include "daemon/options.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/wire.h"

__attribute__((visibility("default"))) const char *argp_program_version = "mamba2d " M2_VERSION;

enum key {
	KEY_CONFIG = 'c',
	KEY_RUNTIME = 0x100,
	KEY_STATE,
	KEY_VARIANTS,
	KEY_LOG,
	KEY_THREADS,
	KEY_ISA,
	KEY_BACKEND,
	KEY_FOREGROUND,
	KEY_ROLE,
	KEY_FD,
	KEY_GENERATION,
	KEY_GID,
	KEY_OPEN,
	KEY_ORDINAL,
	KEY_BUDGET,
	KEY_PER_USER,
	KEY_CONNECTIONS,
	KEY_INSPECT,
	KEY_JSON,
	KEY_YAML,
	KEY_NAME,
	KEY_ALIAS,
	KEY_SLOTS,
	KEY_DEVICE,
	KEY_WEIGHTS,
	KEY_TOKENIZER,
	KEY_NORM_GROUPS,
	KEY_LAST
};

static const struct argp_option table[] = {
	{"config", KEY_CONFIG, "FILE", 0,
		"The daemon's own settings (default: mamba2d.yaml in the "
		"configuration directory, if it is there)",
		0},
	{"runtime-dir", KEY_RUNTIME, "DIR", 0, "Sockets and results memory; should be a tmpfs", 0},
	{"state-dir", KEY_STATE, "DIR", 0, "The registry's database", 0},
	{"variant-dir", KEY_VARIANTS, "DIR", 0,
		"Register every *.yaml in DIR, besides those of the configuration; may be repeated",
		0},
	{"log-level", KEY_LOG, "LEVEL", 0, "error, warn, info or debug", 0},
	{"cpu-threads", KEY_THREADS, "N", 0, "Threads of the CPU; 0: one per processor", 0},
	{"isa", KEY_ISA, "NAME", 0, "Code for the CPU: auto, portable, avx2 or avx512", 0},
	{"backend", KEY_BACKEND, "NAME", 0,
		"What runs the device \"cpu\": cpu, or ref, the slow definition, for tests", 0},
	{"foreground", KEY_FOREGROUND, NULL, 0,
		"Accepted, and always so: the daemon never forks away", 0},
	{"role", KEY_ROLE, "ROLE", OPTION_HIDDEN, "", 0},
	{"fd", KEY_FD, "N", OPTION_HIDDEN, "", 0},
	{"generation", KEY_GENERATION, "N", OPTION_HIDDEN, "", 0},
	{"control-gid", KEY_GID, "N", OPTION_HIDDEN, "", 0},
	{"control-open", KEY_OPEN, NULL, OPTION_HIDDEN, "", 0},
	{"ordinal", KEY_ORDINAL, "N", OPTION_HIDDEN, "", 0},
	{"results-budget", KEY_BUDGET, "BYTES", OPTION_HIDDEN, "", 0},
	{"results-per-user", KEY_PER_USER, "BYTES", OPTION_HIDDEN, "", 0},
	{"connections", KEY_CONNECTIONS, "N", OPTION_HIDDEN, "", 0},
	{"inspect", KEY_INSPECT, "PATH", 0,
		"Start no daemon: say what the checkpoint in PATH is and whether it would be "
		"accepted, "
		"as mamba2ctl inspect does",
		0},
	{"json", KEY_JSON, NULL, OPTION_HIDDEN, "", 0},
	{"yaml", KEY_YAML, NULL, OPTION_HIDDEN, "", 0},
	{"name", KEY_NAME, "NAME", OPTION_HIDDEN, "", 0},
	{"alias", KEY_ALIAS, "NAME", OPTION_HIDDEN, "", 0},
	{"slots", KEY_SLOTS, "N", OPTION_HIDDEN, "", 0},
	{"device", KEY_DEVICE, "DEVICE", OPTION_HIDDEN, "", 0},
	{"weights", KEY_WEIGHTS, "TYPE", OPTION_HIDDEN, "", 0},
	{"tokenizer", KEY_TOKENIZER, "PATH", OPTION_HIDDEN, "", 0},
	{"norm-groups", KEY_NORM_GROUPS, "N", OPTION_HIDDEN, "", 0},
	{0},
};

static const char help[] =
	"Serve Mamba-2 language models to the users of this host.\v"
	"The daemon registers the variants it finds in its variant directories, loads those that "
	"say "
	"`preload: true`, and answers clients on RUNTIME/client.sock and administrators on "
	"RUNTIME/control.sock.  It stays in the foreground; SIGHUP reads configuration and "
	"variants "
	"again, SIGTERM lets running requests finish and ends.\n\n"
	"Directories, unless options or systemd say otherwise:\n"
	"  as a service   /run/mamba2d  /var/lib/mamba2d  /etc/mamba2d\n"
	"  as a user      $XDG_RUNTIME_DIR/mamba2d  ~/.local/state/mamba2d  ~/.config/mamba2d\n\n"
	"Try it:\n"
	"  mamba2d --variant-dir ./configs/demo &\n"
	"  mamba2ctl list\n"
	"  mamba2ctl generate demo \"Once upon a time\"\n";

/* ---- values ------------------------------------------------------------------------------------- */

static enum m2_err copy(
	char *out, size_t size, const char *text, const char *option, struct m2_why *why)
{
	const size_t length = strlen(text);
	if (length >= size)
		return m2_fail_field(
			M2_EINVAL, why, option, "--%s is longer than %zu bytes", option, size - 1);
	memcpy(out, text, length + 1);
	return M2_OK;
}

/* A directory or file as an absolute path: the daemon may be asked about it from anywhere. */
static enum m2_err copy_path(
	char *out, size_t size, const char *text, const char *option, struct m2_why *why)
{
	if (text[0] == '/')
		return copy(out, size, text, option, why);
	char *here = getcwd(NULL, 0);
	const int n = here != NULL ? snprintf(out, size, "%s/%s", here, text) : -1;
	free(here);
	return n >= 0 && (size_t)n < size ? M2_OK
					  : m2_fail_field(M2_EINVAL, why, option,
						    "--%s: the path is too long", option);
}

static enum m2_err number(const char *text, int64_t min, int64_t max, const char *option,
	int64_t *out, struct m2_why *why)
{
	char *end;
	errno = 0;
	const long long n = strtoll(text, &end, 10);
	if (end == text || *end != '\0' || errno != 0 || n < min || n > max)
		return m2_fail_field(M2_EINVAL, why, option,
			"--%s: \"%s\" is no number in %lld..%lld", option, text, (long long)min,
			(long long)max);
	*out = n;
	return M2_OK;
}

static enum m2_err word(char *out, size_t size, const char *text, const char *const *allowed,
	const char *option, struct m2_why *why)
{
	for (; *allowed != NULL; allowed++)
		if (strcmp(*allowed, text) == 0)
			return copy(out, size, text, option, why);
	return m2_fail_field(M2_EINVAL, why, option,
		"--%s: \"%s\" is not among the words that --help names", option, text);
}

static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const isas[] = {"auto", "portable", "avx2", "avx512", NULL};
static const char *const backends[] = {"cpu", "ref", "cuda", NULL};

struct parse {
	struct m2_options *o;
	struct m2_why *why;
	enum m2_err err;
};

static enum m2_err take_public(struct parse *p, int key, const char *arg)
{
	struct m2_options *o = p->o;
	int64_t n = 0;
	enum m2_err err;
	switch (key) {
	case KEY_CONFIG:
		o->config_given = true;
		return copy_path(o->config, sizeof o->config, arg, "config", p->why);
	case KEY_RUNTIME:
		return copy_path(o->runtime_dir, sizeof o->runtime_dir, arg, "runtime-dir", p->why);
	case KEY_STATE:
		return copy_path(o->state_dir, sizeof o->state_dir, arg, "state-dir", p->why);
	case KEY_VARIANTS:
		if (o->n_variant_dirs == M2_OPTION_DIRS)
			return m2_fail(M2_EINVAL, p->why, "--variant-dir more than %d times",
				M2_OPTION_DIRS);
		return copy_path(o->variant_dirs[o->n_variant_dirs++], sizeof o->variant_dirs[0],
			arg, "variant-dir", p->why);
	case KEY_LOG:
		return word(o->log_level, sizeof o->log_level, arg, levels, "log-level", p->why);
	case KEY_THREADS:
		err = number(arg, 0, 1024, "cpu-threads", &n, p->why);
		o->cpu_threads = (int32_t)n;
		return err;
	case KEY_ISA:
		return word(o->isa, sizeof o->isa, arg, isas, "isa", p->why);
	case KEY_BACKEND:
		return word(o->backend, sizeof o->backend, arg, backends, "backend", p->why);
	default:
		return M2_OK;
	}
}

static enum m2_err take_hidden(struct parse *p, int key, const char *arg)
{
	struct m2_options *o = p->o;
	int64_t n = 0;
	enum m2_err err = M2_OK;
	switch (key) {
	case KEY_ROLE:
		o->role = strcmp(arg, "gate") == 0 ? M2_ROLE_GATE : M2_ROLE_WORKER;
		return M2_OK;
	case KEY_FD:
		err = number(arg, 0, INT32_MAX, "fd", &n, p->why);
		o->fd = (int)n;
		return err;
	case KEY_GENERATION:
		err = number(arg, 0, UINT32_MAX, "generation", &n, p->why);
		o->generation = (uint32_t)n;
		return err;
	case KEY_GID:
		err = number(arg, 0, UINT32_MAX, "control-gid", &n, p->why);
		o->control_gid = (uint32_t)n;
		return err;
	case KEY_OPEN:
		o->control_open = true;
		return M2_OK;
	case KEY_ORDINAL:
		err = number(arg, 0, 1023, "ordinal", &n, p->why);
		o->ordinal = (int32_t)n;
		return err;
	case KEY_BUDGET:
		return number(arg, 0, INT64_MAX, "results-budget", &o->results_budget, p->why);
	case KEY_PER_USER:
		return number(arg, 0, INT64_MAX, "results-per-user", &o->results_per_user, p->why);
	case KEY_CONNECTIONS:
		err = number(arg, 1, 65536, "connections", &n, p->why);
		o->connections = (int32_t)n;
		return err;
	default:
		return M2_OK;
	}
}

static enum m2_err take_inspect(struct parse *p, int key, const char *arg)
{
	struct m2_inspect_options *o = &p->o->inspect;
	int64_t n = 0;
	enum m2_err err = M2_OK;
	switch (key) {
	case KEY_INSPECT:
		p->o->role = M2_ROLE_INSPECT;
		return copy_path(o->path, sizeof o->path, arg, "inspect", p->why);
	case KEY_JSON:
		o->form = M2_INSPECT_JSON;
		return M2_OK;
	case KEY_YAML:
		o->form = M2_INSPECT_YAML;
		return M2_OK;
	case KEY_NAME:
		return copy(o->name, sizeof o->name, arg, "name", p->why);
	case KEY_ALIAS:
		if (o->n_aliases == M2_LIMIT_ALIASES)
			return m2_fail_field(M2_EINVAL, p->why, "alias",
				"--alias more than %d times", M2_LIMIT_ALIASES);
		return copy(o->aliases[o->n_aliases++], sizeof o->aliases[0], arg, "alias", p->why);
	case KEY_SLOTS:
		err = number(arg, 1, M2_LIMIT_SLOTS, "slots", &n, p->why);
		o->slots = (int32_t)n;
		return err;
	case KEY_DEVICE:
		return copy(o->device, sizeof o->device, arg, "device", p->why);
	case KEY_WEIGHTS:
		return copy(o->weights, sizeof o->weights, arg, "weights", p->why);
	case KEY_TOKENIZER:
		return strcmp(arg, "none") == 0
			       ? copy(o->tokenizer, sizeof o->tokenizer, arg, "tokenizer", p->why)
			       : copy_path(o->tokenizer, sizeof o->tokenizer, arg, "tokenizer",
					 p->why);
	default: /* KEY_NORM_GROUPS */
		err = number(arg, 0, 4096, "norm-groups", &n, p->why);
		o->norm_groups = (int32_t)n;
		return err;
	}
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct parse *p = state->input;
	if (key == ARGP_KEY_ARG) {
		p->err = m2_fail(M2_EINVAL, p->why,
			"\"%s\": mamba2d takes options only (see mamba2d --help)", arg);
		return EINVAL;
	}
	if (key != KEY_CONFIG && key < KEY_RUNTIME)
		return ARGP_ERR_UNKNOWN;
	if (key >= KEY_LAST) /* argp's own keys */
		return ARGP_ERR_UNKNOWN;
	p->err = key >= KEY_INSPECT ? take_inspect(p, key, arg)
		 : key >= KEY_ROLE  ? take_hidden(p, key, arg)
				    : take_public(p, key, arg);
	return p->err == M2_OK ? 0 : EINVAL;
}

/* ---- directories -------------------------------------------------------------------------------- */

/* systemd gives several directories separated by colons; ours is the first. */
static bool from_systemd(char *out, size_t size, const char *variable)
{
	const char *value = getenv(variable);
	if (value == NULL || value[0] != '/')
		return false;
	const size_t length = strcspn(value, ":");
	return (size_t)snprintf(out, size, "%.*s", (int)length, value) < size;
}

/* Root, and system users as systemd starts them: nobody's desktop session. */
static bool is_service(void)
{
	return geteuid() == 0 || getenv("INVOCATION_ID") != NULL;
}

static enum m2_err user_directory(
	char *out, size_t size, const char *variable, const char *below_home, struct m2_why *why)
{
	const char *base = getenv(variable);
	const char *home = getenv("HOME");
	int n;
	if (base != NULL && base[0] == '/')
		n = snprintf(out, size, "%s/mamba2d", base);
	else if (below_home != NULL && home != NULL && home[0] == '/')
		n = snprintf(out, size, "%s/%s/mamba2d", home, below_home);
	else
		return m2_fail(M2_EINVAL, why,
			"%s is not set: name the directory with an option (see mamba2d --help)",
			variable);
	return (size_t)n < size ? M2_OK : m2_fail(M2_EINVAL, why, "%s is too long", variable);
}

static enum m2_err choose_directory(char *out, size_t size, const char *systemd,
	const char *service, const char *xdg, const char *below_home, struct m2_why *why)
{
	if (out[0] != '\0' || from_systemd(out, size, systemd))
		return M2_OK;
	/* a user's own systemd service has INVOCATION_ID and XDG directories too */
	if (is_service() && (geteuid() == 0 || getenv("XDG_RUNTIME_DIR") == NULL)) {
		(void)snprintf(out, size, "%s", service);
		return M2_OK;
	}
	return user_directory(out, size, xdg, below_home, why);
}

static enum m2_err choose_directories(struct m2_options *o, struct m2_why *why)
{
	enum m2_err err = choose_directory(o->runtime_dir, sizeof o->runtime_dir,
		"RUNTIME_DIRECTORY", "/run/mamba2d", "XDG_RUNTIME_DIR", NULL, why);
	if (err == M2_OK)
		err = choose_directory(o->state_dir, sizeof o->state_dir, "STATE_DIRECTORY",
			"/var/lib/mamba2d", "XDG_STATE_HOME", ".local/state", why);
	if (err == M2_OK)
		err = choose_directory(o->config_dir, sizeof o->config_dir,
			"CONFIGURATION_DIRECTORY", "/etc/mamba2d", "XDG_CONFIG_HOME", ".config",
			why);
	if (err != M2_OK || o->config[0] != '\0')
		return err;
	if ((size_t)snprintf(o->config, sizeof o->config, "%s/mamba2d.yaml", o->config_dir) >=
			sizeof o->config ||
		access(o->config, F_OK) != 0)
		o->config[0] = '\0';
	return M2_OK;
}

/* sockaddr_un holds 107 bytes and a NUL; libzmq would only say "name too long". */
static enum m2_err check_socket_path(const struct m2_options *o, struct m2_why *why)
{
	const size_t longest = strlen(o->runtime_dir) + 1 + strlen(M2_SOCKET_CONTROL);
	const size_t limit = sizeof((struct sockaddr_un *)NULL)->sun_path - 1;
	if (longest > limit)
		return m2_fail_field(M2_EINVAL, why, "runtime-dir",
			"the socket %.60s.../%s would have %zu bytes, more than the %zu that a "
			"Unix "
			"socket's name may have: choose a shorter --runtime-dir",
			o->runtime_dir, M2_SOCKET_CONTROL, longest, limit);
	return M2_OK;
}

/* systemd says which device and inode its journal stream is; only then are "<6>" prefixes wanted. */
static bool is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	struct stat st;
	unsigned long long device;
	unsigned long long inode;
	return stream != NULL && fstat(STDERR_FILENO, &st) == 0 &&
	       sscanf(stream, "%llu:%llu", &device, &inode) == 2 && device == st.st_dev &&
	       inode == st.st_ino;
}

/* A path, or @NAME in the abstract namespace; anything else is not for us. */
static void take_notify_socket(struct m2_options *o)
{
	const char *address = getenv("NOTIFY_SOCKET");
	if (address != NULL && (address[0] == '/' || address[0] == '@') && address[1] != '\0' &&
		strlen(address) < sizeof o->notify_socket)
		(void)snprintf(o->notify_socket, sizeof o->notify_socket, "%s", address);
}

enum m2_err m2_options_parse(int argc, char **argv, struct m2_options *out, struct m2_why *why)
{
	static const struct argp argp = {table, take, NULL, help, NULL, NULL, NULL};
	*out = (struct m2_options){.cpu_threads = -1, .fd = -1, .control_gid = (uint32_t)-1};
	struct parse p = {.o = out, .why = why};
	(void)snprintf(out->backend, sizeof out->backend, "cpu");
	const error_t failed = argp_parse(&argp, argc, argv, 0, NULL, &p);
	if (p.err != M2_OK)
		return p.err;
	if (failed != 0)
		return m2_fail(M2_EINVAL, why, "options: %s", strerror(failed));
	out->journal = is_journal();
	take_notify_socket(out);
	if (out->role == M2_ROLE_WORKER || out->role == M2_ROLE_GATE)
		return M2_OK; /* the supervisor told them everything */
	if (out->role == M2_ROLE_INSPECT) {
		if (out->inspect.form == M2_INSPECT_YAML && out->inspect.name[0] == '\0')
			return m2_fail_field(M2_EINVAL, why, "name", "--yaml needs --name NAME");
		return M2_OK; /* it has no directories */
	}
	const enum m2_err err = choose_directories(out, why);
	return err == M2_OK ? check_socket_path(out, why) : err;
}
