/* checkpoints.c - inspect, register, verify: from files to a variant, and whether the files are still those. */
#include <json-c/json.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"
#include "common/limits.h"

/* ---- arguments for mamba2d ---- */

enum { ARGUMENTS_MAX = 32 };

struct arguments {
	size_t count;
	char *text[ARGUMENTS_MAX];
	bool failed;
};

static void add(struct arguments *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct arguments *a, const char *fmt, ...)
{
	va_list list;
	va_start(list, fmt);
	if (a->count == ARGUMENTS_MAX || vasprintf(&a->text[a->count], fmt, list) < 0)
		a->failed = true;
	else
		a->count++;
	va_end(list);
}

static int run(struct arguments *a, char **output)
{
	const int status =
		a->failed ? ctl_say(CTL_USAGE, "too many options")
			  : ctl_run_mamba2d((const char *const *)a->text, a->count, output);
	for (size_t i = 0; i < a->count; i++)
		free(a->text[i]);
	return status;
}

/* ---- inspect ---- */

static struct {
	int64_t norm_groups;
	const char *tokenizer;
} inspect;

const struct ctl_option ctl_inspect_options[] = {
	{"norm-groups", 0, CTL_INT, "N", &inspect.norm_groups,
		"groups of the gated norm (0: as the checkpoint's family says)"},
	{"tokenizer", 0, CTL_TEXT, "PATH", &inspect.tokenizer,
		"tokenizer file or its directory (default: in the checkpoint; none: without)"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

int ctl_run_inspect(struct ctl *ctl, int argc, char **argv)
{
	struct arguments a = {0};
	(void)argc;
	add(&a, "--inspect=%s", argv[0]);
	if (ctl->json != 0)
		add(&a, "--json");
	if (inspect.norm_groups != 0)
		add(&a, "--norm-groups=%lld", (long long)inspect.norm_groups);
	if (inspect.tokenizer != NULL)
		add(&a, "--tokenizer=%s", inspect.tokenizer);
	return run(&a, NULL);
}

/* ---- register ---- */

static struct {
	int replace;
	int print;
	const char *name;
	struct ctl_texts aliases;
	int64_t slots;
	const char *device;
	const char *weights;
	const char *tokenizer;
	int64_t norm_groups;
} r;

const struct ctl_option ctl_register_options[] = {
	{"replace", 0, CTL_FLAG, NULL, &r.replace, "replace a variant of this name"},
	{"name", 0, CTL_TEXT, "NAME", &r.name, "of a checkpoint: what requests call it"},
	{"alias", 0, CTL_TEXTS, "NAME", &r.aliases, "a further name; may be given again"},
	{"slots", 0, CTL_INT, "N", &r.slots, "sequences that run at once (16)"},
	{"device", 0, CTL_TEXT, "DEVICE", &r.device, "auto, cpu or cuda:N"},
	{"weights", 0, CTL_TEXT, "TYPE", &r.weights, "stored, f32, f16 or bf16"},
	{"tokenizer", 0, CTL_TEXT, "PATH", &r.tokenizer,
		"tokenizer file or its directory (default: in the checkpoint; none: without)"},
	{"norm-groups", 0, CTL_INT, "N", &r.norm_groups,
		"groups of the gated norm (0: as the checkpoint's family says)"},
	{"print", 0, CTL_FLAG, NULL, &r.print, "only print the YAML, register nothing"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

static void print_register(struct json_object *o)
{
	(void)printf("%s is registered%s\n", ctl_get(o, "name"),
		strcmp(ctl_get(o, "stale"), "true") == 0
			? "; what is resident stays as it was until it is unloaded and loaded"
			: "");
}

/* A directory or a .gguf is a checkpoint, everything else a variant file. */
static bool is_checkpoint(const char *path)
{
	struct stat st;
	const size_t n = strlen(path);
	return (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) ||
	       (n > 5 && strcmp(path + n - 5, ".gguf") == 0);
}

/* The YAML of a variant made from an inspection; the exit status. */
static int make_yaml(const char *path, char **yaml)
{
	struct arguments a = {0};
	if (r.name == NULL)
		return ctl_say(CTL_USAGE, "a checkpoint is registered under a name: --name NAME");
	add(&a, "--inspect=%s", path);
	add(&a, "--yaml");
	add(&a, "--name=%s", r.name);
	for (size_t i = 0; i < r.aliases.count; i++)
		add(&a, "--alias=%s", r.aliases.text[i]);
	if (r.slots != 0)
		add(&a, "--slots=%lld", (long long)r.slots);
	if (r.device != NULL)
		add(&a, "--device=%s", r.device);
	if (r.weights != NULL)
		add(&a, "--weights=%s", r.weights);
	if (r.tokenizer != NULL)
		add(&a, "--tokenizer=%s", r.tokenizer);
	if (r.norm_groups != 0)
		add(&a, "--norm-groups=%lld", (long long)r.norm_groups);
	return run(&a, yaml);
}

static int register_yaml(struct ctl *ctl, const char *yaml, size_t bytes, const char *source)
{
	char *json = NULL;
	const int status = ctl_connect(ctl, true, 0);
	if (status != CTL_OK)
		return status;
	return ctl_answer(ctl, mamba2_register(ctl->m, yaml, bytes, source, r.replace, &json),
		&json, print_register);
}

static int register_checkpoint(struct ctl *ctl, const char *path)
{
	char *yaml = NULL;
	int status = make_yaml(path, &yaml);
	if (status == CTL_OK && (r.print != 0 || ctl->json == 0))
		ctl_put(yaml, strlen(yaml));
	if (status == CTL_OK && r.print == 0) {
		(void)fflush(stdout);
		status = register_yaml(ctl, yaml, strlen(yaml), NULL);
	}
	free(yaml);
	return status;
}

static bool has_checkpoint_options(void)
{
	return r.name != NULL || r.aliases.count > 0 || r.slots != 0 || r.device != NULL ||
	       r.weights != NULL || r.tokenizer != NULL || r.norm_groups != 0 || r.print != 0;
}

int ctl_run_register(struct ctl *ctl, int argc, char **argv)
{
	size_t bytes = 0;
	(void)argc;
	if (is_checkpoint(argv[0]))
		return register_checkpoint(ctl, argv[0]);
	if (has_checkpoint_options())
		return ctl_say(CTL_USAGE,
			"%s is no checkpoint (a directory or a .gguf file): only --replace goes "
			"with a "
			"variant file, which says the rest itself",
			argv[0]);
	char *yaml = ctl_read_file(argv[0], M2_LIMIT_VARIANT_YAML_BYTES, &bytes);
	if (yaml == NULL)
		return CTL_FAILED;
	char *source = strcmp(argv[0], "-") == 0 ? NULL : realpath(argv[0], NULL);
	const int status = register_yaml(ctl, yaml, bytes, source);
	free(source);
	free(yaml);
	return status;
}

/* ---- verify ---- */

static int record_it;
const struct ctl_option ctl_verify_options[] = {
	{"record", 0, CTL_FLAG, NULL, &record_it,
		"what is there now is right: record it instead of what was recorded"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash != NULL ? slash + 1 : path;
}

static void print_verify_row(struct ctl_table *t, struct json_object *f)
{
	ctl_table_cell(t, "%s", base_name(ctl_get(f, "path")));
	ctl_table_cell(t, "%s", ctl_bytes((uint64_t)ctl_get_int(f, "bytes")));
	ctl_table_cell(t, "%.12s", ctl_get(f, "sha256"));
	if (ctl_get_object(f, "recorded") != NULL)
		ctl_table_cell(t, "%s: %.12s was recorded on %s", ctl_get(f, "state"),
			ctl_get(f, "recorded"), ctl_time(ctl_get_int(f, "recorded_at")));
	else if (ctl_get_object(f, "message") != NULL)
		ctl_table_cell(t, "%s: %s", ctl_get(f, "state"), ctl_get(f, "message"));
	else
		ctl_table_cell(t, "%s", ctl_get(f, "state"));
}

static void print_verify(struct json_object *o)
{
	static const char *const heads[] = {"FILE", "+SIZE", "SHA-256", "STATE", NULL};
	struct json_object *files = ctl_get_object(o, "files");
	const size_t count =
		json_object_is_type(files, json_type_array) ? json_object_array_length(files) : 0;
	const double seconds = json_object_get_double(ctl_get_object(o, "seconds"));
	const uint64_t bytes = (uint64_t)ctl_get_int(o, "bytes");
	struct ctl_table t;
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < count; i++)
		print_verify_row(&t, json_object_array_get_idx(files, i));
	ctl_table_end(&t);
	if (ctl_get_object(o, "error") != NULL)
		(void)printf("it cannot be opened: %s (%s)\n", ctl_get(o, "error.message"),
			ctl_get(o, "error.code"));
	(void)printf("%s: %s; %s read in %s\n", ctl_get(o, "name"),
		strcmp(ctl_get(o, "state"), "ok") == 0 ? "all files are as recorded"
						       : "NOT as recorded",
		ctl_bytes(bytes), ctl_rate(bytes, seconds));
}

int ctl_run_verify(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	struct ctl_progress progress = {.name = argv[0]};
	(void)argc;
	int status = ctl_connect(ctl, true, -1);
	if (status != CTL_OK)
		return status;
	const enum mamba2_error error =
		mamba2_verify(ctl->m, argv[0], record_it, ctl_progress, &progress, &json);
	ctl_progress_end(&progress);
	struct json_object *o = error == MAMBA2_OK ? ctl_read_json(json) : NULL;
	const bool good = o != NULL && strcmp(ctl_get(o, "state"), "ok") == 0;
	json_object_put(o);
	status = ctl_answer(ctl, error, &json, print_verify);
	return status == CTL_OK && !good ? CTL_FAILED : status;
}
