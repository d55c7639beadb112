/* variants.c - list, show, load, unload, register, remove, reload, drain. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"
#include "common/limits.h"

/* The end of most commands: print the JSON as it is, or hand the parsed answer to `human`. */
static int answer(const struct ctl *ctl, enum mamba2_error error, char **json,
	void (*human)(struct json_object *answer))
{
	if (error != MAMBA2_OK)
		return ctl_fail(ctl, error);
	int status = CTL_OK;
	if (ctl->json != 0) {
		ctl_print_json(*json);
	} else {
		struct json_object *o = ctl_read_json(*json);
		if (o == NULL)
			status = CTL_FAILED;
		else
			human(o);
		json_object_put(o);
	}
	mamba2_free(*json);
	return status;
}

/* ---- list and show ---- */

/* "a, b", or "-": into out. */
static const char *join_aliases(struct json_object *variant, char out[CTL_CELL])
{
	struct json_object *aliases = ctl_get_object(variant, "aliases");
	const size_t n = json_object_is_type(aliases, json_type_array)
				 ? json_object_array_length(aliases)
				 : 0;
	(void)snprintf(out, CTL_CELL, "%s", n == 0 ? "-" : "");
	for (size_t i = 0; i < n; i++) {
		const size_t used = strlen(out);
		(void)snprintf(out + used, CTL_CELL - used, "%s%s", i > 0 ? ", " : "",
			json_object_get_string(json_object_array_get_idx(aliases, i)));
	}
	return out;
}

static void print_list(struct json_object *o)
{
	char names[CTL_CELL];
	static const char *const heads[] = {
		"NAME", "STATE", "DEVICE", "+SLOTS", "ALIASES", "DESCRIPTION", NULL};
	struct json_object *variants = ctl_get_object(o, "variants");
	struct ctl_table t;
	const size_t count = json_object_is_type(variants, json_type_array)
				     ? json_object_array_length(variants)
				     : 0;
	if (count == 0) {
		(void)puts("no variants: register one with  mamba2ctl register FILE");
		return;
	}
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < count; i++) {
		struct json_object *v = json_object_array_get_idx(variants, i);
		ctl_table_cell(&t, "%s", ctl_get(v, "name"));
		ctl_table_cell(&t, "%s%s", ctl_get(v, "state"),
			strcmp(ctl_get(v, "stale"), "true") == 0 ? " (changed since)" : "");
		ctl_table_cell(&t, "%s", ctl_get(v, "device"));
		ctl_table_cell(&t, "%s", ctl_get(v, "slots"));
		ctl_table_cell(&t, "%s", join_aliases(v, names));
		ctl_table_cell(&t, "%s", ctl_get(v, "description"));
	}
	ctl_table_end(&t);
}

int ctl_run_list(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	(void)argv;
	const int status = ctl_connect(ctl, false, 0);
	return status != CTL_OK ? status
				: answer(ctl, mamba2_list(ctl->m, &json), &json, print_list);
}

static void print_resident(struct json_object *v)
{
	static const char *const facts[] = {"parameters", "dialect", "container", "hidden_size",
		"layers", "heads", "head_dim", "state_size", "groups", "norm_groups", "conv_kernel",
		"vocab_rows", "tokenizer_size", NULL};
	static const char *const parts[] = {
		"weights", "state", "workspace", "per_slot", "total", NULL};
	struct json_object *checkpoint = ctl_get_object(v, "resident.checkpoint");
	struct json_object *footprint = ctl_get_object(v, "resident.footprint");
	if (checkpoint != NULL)
		(void)puts("\ncheckpoint");
	for (int i = 0; checkpoint != NULL && facts[i] != NULL; i++)
		(void)printf("  %-16s %s\n", facts[i], ctl_get(checkpoint, facts[i]));
	if (footprint != NULL)
		(void)puts("\nmemory on its device");
	for (int i = 0; footprint != NULL && parts[i] != NULL; i++) {
		const int64_t bytes = ctl_get_int(footprint, parts[i]);
		(void)printf("  %-16s %lld bytes (%s)\n", parts[i], (long long)bytes,
			ctl_bytes((uint64_t)bytes));
	}
}

static void print_show(struct json_object *o)
{
	struct json_object *v = ctl_get_object(o, "variant");
	char names[CTL_CELL];
	(void)printf("%-18s %s\n%-18s %s\n%-18s %s\n", "name", ctl_get(v, "name"), "description",
		ctl_get(v, "description"), "aliases", join_aliases(v, names));
	(void)printf("%-18s %s%s\n%-18s %s\n%-18s %s\n", "state", ctl_get(v, "state"),
		strcmp(ctl_get(v, "stale"), "true") == 0 ? " (registered anew since it was loaded)"
							 : "",
		"device", ctl_get(v, "device"), "slots", ctl_get(v, "slots"));
	if (ctl_get_object(v, "resident") != NULL)
		(void)printf("%-18s %s, weights %s, %s\n", "runs on", ctl_get(v, "resident.device"),
			ctl_get(v, "resident.weights"), ctl_get(v, "resident.path"));
	print_resident(v);
	(void)puts("\nregistration");
	(void)printf("  %-16s %s, by user %s (%s)\n", "registered",
		ctl_time(ctl_get_int(v, "registration.registered_at")),
		ctl_get(v, "registration.registered_by"), ctl_get(v, "registration.origin"));
	(void)printf("  %-16s %s\n  %-16s %s\n", "source", ctl_get(v, "registration.source"),
		"checksum", ctl_get(v, "registration.checksum"));
	(void)printf("  %-16s %s, last %s\n", "loads", ctl_get(v, "registration.loads"),
		ctl_time(ctl_get_int(v, "registration.last_load_at")));
	if (ctl_get_object(v, "registration.last_error") != NULL)
		(void)printf("  %-16s %s (%s)\n", "last error",
			ctl_get(v, "registration.last_error.message"),
			ctl_get(v, "registration.last_error.code"));
	if (ctl_get_object(v, "yaml") != NULL) {
		const char *yaml = ctl_get(v, "yaml");
		(void)puts("\nconfiguration");
		ctl_put(yaml, strlen(yaml));
	}
}

int ctl_run_show(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	const int status = ctl_connect(ctl, false, 0);
	return status != CTL_OK
		       ? status
		       : answer(ctl, mamba2_show(ctl->m, argv[0], &json), &json, print_show);
}

/* ---- load and unload ---- */

static void show_progress(void *ctx, uint64_t done, uint64_t total, const char *what)
{
	if (!isatty(STDERR_FILENO))
		return;
	if (total > 0)
		(void)fprintf(stderr, "\r\033[K%s: %3.0f%%  %s of %s  %.40s", (const char *)ctx,
			100.0 * (double)done / (double)total, ctl_bytes(done), ctl_bytes(total),
			what);
	else
		(void)fprintf(stderr, "\r\033[K%s: %.40s", (const char *)ctx, what);
}

static void print_load(struct json_object *o)
{
	(void)printf("%s is %s on %s: %s, loaded in %s\n", ctl_get(o, "name"), ctl_get(o, "state"),
		ctl_get(o, "device"), ctl_bytes((uint64_t)ctl_get_int(o, "footprint.total")),
		ctl_duration((double)ctl_get_int(o, "load_ms") / 1000));
}

int ctl_run_load(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	const int status = ctl_connect(ctl, true, -1); /* a large model takes what it takes */
	if (status != CTL_OK)
		return status;
	const enum mamba2_error error = mamba2_load(ctl->m, argv[0], show_progress, argv[0], &json);
	if (isatty(STDERR_FILENO))
		(void)fputs("\r\033[K", stderr);
	return answer(ctl, error, &json, print_load);
}

static int64_t unload_wait = -1;
const struct ctl_option ctl_unload_options[] = {
	{"wait", 0, CTL_INT, "SECONDS", &unload_wait, "how long running requests may finish (30)"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

static void print_unload(struct json_object *o)
{
	(void)printf("%s is unloaded: %s given back\n", ctl_get(o, "name"),
		ctl_bytes((uint64_t)ctl_get_int(o, "bytes")));
}

int ctl_run_unload(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	const int status = ctl_connect(ctl, true, -1);
	return status != CTL_OK ? status
				: answer(ctl, mamba2_unload(ctl->m, argv[0], unload_wait, &json),
					  &json, print_unload);
}

/* ---- registry ---- */

static int replace_it;
const struct ctl_option ctl_register_options[] = {
	{"replace", 0, CTL_FLAG, NULL, &replace_it, "replace a variant of this name"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

static void print_register(struct json_object *o)
{
	(void)printf("%s is registered%s\n", ctl_get(o, "name"),
		strcmp(ctl_get(o, "stale"), "true") == 0
			? "; what is resident stays as it was until it is unloaded and loaded"
			: "");
}

int ctl_run_register(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	size_t bytes = 0;
	(void)argc;
	char *yaml = ctl_read_file(argv[0], M2_LIMIT_VARIANT_YAML_BYTES, &bytes);
	if (yaml == NULL)
		return CTL_FAILED;
	char *source = strcmp(argv[0], "-") == 0 ? NULL : realpath(argv[0], NULL);
	int status = ctl_connect(ctl, true, 0);
	if (status == CTL_OK)
		status =
			answer(ctl, mamba2_register(ctl->m, yaml, bytes, source, replace_it, &json),
				&json, print_register);
	free(source);
	free(yaml);
	return status;
}

static void print_remove(struct json_object *o)
{
	(void)printf("%s is removed\n", ctl_get(o, "name"));
}

int ctl_run_remove(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	const int status = ctl_connect(ctl, true, -1);
	return status != CTL_OK
		       ? status
		       : answer(ctl, mamba2_remove(ctl->m, argv[0], &json), &json, print_remove);
}

static void print_reload(struct json_object *o)
{
	struct json_object *problems = ctl_get_object(o, "problems");
	(void)printf("variants: %s added, %s changed, %s removed, %s unchanged, %s refused\n",
		ctl_get(o, "added"), ctl_get(o, "changed"), ctl_get(o, "removed"),
		ctl_get(o, "unchanged"), ctl_get(o, "failed"));
	if (!json_object_is_type(problems, json_type_array))
		return;
	for (size_t i = 0; i < json_object_array_length(problems); i++)
		(void)printf(
			"  %s\n", json_object_get_string(json_object_array_get_idx(problems, i)));
}

int ctl_run_reload(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	(void)argv;
	const int status = ctl_connect(ctl, true, -1);
	return status != CTL_OK ? status
				: answer(ctl, mamba2_reload(ctl->m, &json), &json, print_reload);
}

/* ---- drain ---- */

static struct {
	int stop;
	int resume;
	int64_t wait;
} drain = {.wait = -1};
const struct ctl_option ctl_drain_options[] = {
	{"stop", 0, CTL_FLAG, NULL, &drain.stop, "end the daemon when its work is done"},
	{"resume", 0, CTL_FLAG, NULL, &drain.resume, "accept work again"},
	{"wait", 0, CTL_INT, "SECONDS", &drain.wait, "how long running requests may finish (30)"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

static void print_drain(struct json_object *o)
{
	(void)printf("the daemon is %s\n", ctl_get(o, "state"));
}

int ctl_run_drain(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	(void)argv;
	const int status = ctl_connect(ctl, true, -1);
	return status != CTL_OK
		       ? status
		       : answer(ctl,
				 mamba2_drain(ctl->m, drain.wait, drain.stop, drain.resume, &json),
				 &json, print_drain);
}
