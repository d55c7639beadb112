/* variants.c - list, show, load, unload, remove, reload, drain. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"
#include "common/limits.h"

int ctl_answer(const struct ctl *ctl, enum mamba2_error error, char **json,
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
				: ctl_answer(ctl, mamba2_list(ctl->m, &json), &json, print_list);
}

static void print_resident(struct json_object *v)
{
	static const char *const facts[] = {"parameters", "dialect", "container", "hidden_size",
		"layers", "heads", "head_dim", "state_size", "groups", "norm_groups", "conv_kernel",
		"vocab_rows", "tokenizer_size", "tokenizer", "template", NULL};
	static const char *const parts[] = {
		"weights", "state", "workspace", "per_slot", "total", "measured", NULL};
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
		if (ctl_get_object(footprint, parts[i]) == NULL)
			continue; /* measured: where the device can tell */
		(void)printf("  %-16s %lld bytes (%s)\n", parts[i], (long long)bytes,
			ctl_bytes((uint64_t)bytes));
	}
}

/* The recorded checksums of the checkpoint's files, in short. */
static void print_files(struct json_object *v)
{
	static const char *const heads[] = {
		"  FILE", "+SIZE", "SHA-256", "RECORDED", "LAST READ", "STATE", NULL};
	struct json_object *files = ctl_get_object(v, "files");
	struct ctl_table t;
	if (!json_object_is_type(files, json_type_array) || json_object_array_length(files) == 0)
		return;
	(void)puts("\nfiles");
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < json_object_array_length(files); i++) {
		struct json_object *f = json_object_array_get_idx(files, i);
		const char *path = ctl_get(f, "path");
		const char *slash = strrchr(path, '/');
		ctl_table_cell(&t, "  %s", slash != NULL ? slash + 1 : path);
		ctl_table_cell(&t, "%s", ctl_bytes((uint64_t)ctl_get_int(f, "bytes")));
		ctl_table_cell(&t, "%.12s", ctl_get(f, "sha256"));
		ctl_table_cell(&t, "%s", ctl_time(ctl_get_int(f, "recorded_at")));
		ctl_table_cell(&t, "%s", ctl_time(ctl_get_int(f, "checked_at")));
		if (ctl_get_object(f, "found") != NULL)
			ctl_table_cell(&t, "CHANGED, it is %.12s now", ctl_get(f, "found"));
		else
			ctl_table_cell(&t, "%s", ctl_get(f, "state"));
	}
	ctl_table_end(&t);
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
	if (ctl_get_object(v, "resident.runs") != NULL)
		(void)printf("%-18s %s\n", "runs by", ctl_get(v, "resident.runs"));
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
	print_files(v);
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
		       : ctl_answer(ctl, mamba2_show(ctl->m, argv[0], &json), &json, print_show);
}

/* ---- load and unload ---- */

static struct ctl_progress load_progress;

static void print_load(struct json_object *o)
{
	const double seconds = (double)ctl_get_int(o, "load_ms") / 1000;
	const bool read = load_progress.bytes > 0; /* else it was there already */
	(void)printf("%s is %s on %s: %s, loaded in %s\n", ctl_get(o, "name"), ctl_get(o, "state"),
		ctl_get(o, "device"), ctl_bytes((uint64_t)ctl_get_int(o, "footprint.total")),
		read ? ctl_rate(load_progress.bytes, seconds) : ctl_duration(seconds));
}

static void print_bytes(const char *what, struct json_object *o, const char *path)
{
	const int64_t bytes = ctl_get_int(o, path);
	(void)printf("  %-28s %16lld  (%s)\n", what, (long long)bytes, ctl_bytes((uint64_t)bytes));
}

static void print_leaves(struct json_object *o)
{
	struct json_object *leaves = ctl_get_object(o, "leaves");
	const size_t n =
		json_object_is_type(leaves, json_type_array) ? json_object_array_length(leaves) : 0;
	for (size_t i = 0; i < n; i++) {
		struct json_object *one = json_object_array_get_idx(leaves, i);
		(void)printf("  %-28s %16s  %s\n", ctl_get(one, "name"), ctl_get(one, "bytes"),
			strcmp(ctl_get(one, "running"), "true") == 0
				? "leaves when what it runs is done"
			: strcmp(ctl_get(one, "parks"), "true") == 0
				? "leaves, its weights are parked in host memory"
				: "leaves");
	}
}

static const char *outcome_says(const char *outcome)
{
	static const struct {
		const char *outcome;
		const char *says;
	} rows[] = {{"loads", "would be loaded at once"},
		{"evicts", "would be loaded, and others would leave for it,"},
		{"waits", "would wait for others to make room"}, {"refused", "would be refused"},
		{"resident", "is resident already"}, {"under way", "is on its way already"}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		if (strcmp(rows[i].outcome, outcome) == 0)
			return rows[i].says;
	return outcome;
}

static void print_dry_run(struct json_object *o)
{
	(void)printf("%s %s on %s\n", ctl_get(o, "name"), outcome_says(ctl_get(o, "outcome")),
		ctl_get(o, "device"));
	if (ctl_get_object(o, "refusal") != NULL)
		(void)printf(
			"%s (%s)\n", ctl_get(o, "refusal.message"), ctl_get(o, "refusal.code"));
	if (ctl_get_int(o, "parked") > 0)
		(void)puts("it comes back from host memory, where its weights are parked");
	print_leaves(o);
	if (ctl_get_object(o, "footprint") != NULL) {
		(void)puts("\nbytes that it takes");
		print_bytes("weights", o, "footprint.weights");
		print_bytes("state of all slots", o, "footprint.state");
		print_bytes("workspace", o, "footprint.workspace");
		print_bytes("in all, on its device", o, "footprint.total");
		print_bytes("host memory of its lane", o, "footprint.host");
	}
	(void)puts("\nbytes that there are");
	print_bytes("of the device", o, "memory_total");
	print_bytes("free", o, "memory_free");
	print_bytes("held by mamba2d", o, "memory_models");
	print_bytes("used by others", o, "memory_others");
	if (ctl_get_int(o, "memory_parked") > 0)
		print_bytes("parked in host memory", o, "memory_parked");
	if (ctl_get_int(o, "memory_budget") > 0)
		print_bytes("budget", o, "memory_budget");
	if (ctl_get_object(o, "budget_left") != NULL)
		print_bytes("left of the budget", o, "budget_left");
	if (ctl_get_int(o, "missing") > 0)
		print_bytes("missing", o, "missing");
}

static int dry_run;
static int pin;
const struct ctl_option ctl_load_options[] = {
	{"dry-run", 0, CTL_FLAG, NULL, &dry_run, "only say, to the byte, what would happen"},
	{"pin", 0, CTL_FLAG, NULL, &pin, "it never leaves by itself, until it is unloaded"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

int ctl_run_load(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	const int options =
		(dry_run != 0 ? MAMBA2_LOAD_DRY_RUN : 0) | (pin != 0 ? MAMBA2_LOAD_PIN : 0);
	(void)argc;
	const int status = ctl_connect(ctl, true, -1); /* a large model takes what it takes */
	if (status != CTL_OK)
		return status;
	load_progress.name = argv[0];
	const enum mamba2_error error =
		mamba2_load_with(ctl->m, argv[0], options, ctl_progress, &load_progress, &json);
	ctl_progress_end(&load_progress);
	return ctl_answer(ctl, error, &json, dry_run != 0 ? print_dry_run : print_load);
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
	return status != CTL_OK
		       ? status
		       : ctl_answer(ctl, mamba2_unload(ctl->m, argv[0], unload_wait, &json), &json,
				 print_unload);
}

/* ---- registry ---- */

static void print_remove(struct json_object *o)
{
	(void)printf("%s is removed\n", ctl_get(o, "name"));
}

int ctl_run_remove(struct ctl *ctl, int argc, char **argv)
{
	char *json = NULL;
	(void)argc;
	const int status = ctl_connect(ctl, true, -1);
	return status != CTL_OK ? status
				: ctl_answer(ctl, mamba2_remove(ctl->m, argv[0], &json), &json,
					  print_remove);
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
	return status != CTL_OK
		       ? status
		       : ctl_answer(ctl, mamba2_reload(ctl->m, &json), &json, print_reload);
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
		       : ctl_answer(ctl,
				 mamba2_drain(ctl->m, drain.wait, drain.stop, drain.resume, &json),
				 &json, print_drain);
}
