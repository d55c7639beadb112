/* watch.c - ps, status, version: what the daemon is doing. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "client/mamba2ctl/ctl.h"

static size_t length_of(struct json_object *array)
{
	return json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

static double number(struct json_object *o, const char *path)
{
	return json_object_get_double(ctl_get_object(o, path));
}

/* What becomes of its place: "pinned", "makes room", the time that keep_alive leaves it, or nothing known. */
static const char *leaves(struct json_object *r)
{
	if (strcmp(ctl_get(r, "pinned"), "true") == 0)
		return "pinned";
	if (strcmp(ctl_get(r, "makes_room"), "true") == 0)
		return "makes room";
	return ctl_get_object(r, "leaves_in_s") != NULL ? ctl_duration(number(r, "leaves_in_s"))
							: "-";
}

static void print_residents(struct json_object *array)
{
	static const char *const heads[] = {"NAME", "STATE", "DEVICE", "+WEIGHTS", "+SLOT STATE",
		"+WORKSPACE", "+PARKED", "+SLOTS", "+QUEUED", "+TOKENS/S", "+IDLE", "LEAVES IN",
		NULL};
	static const char *const bytes[] = {"weights", "state_bytes", "workspace", "parked"};
	struct ctl_table t;
	if (length_of(array) == 0) {
		(void)puts("nothing is resident");
		return;
	}
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < length_of(array); i++) {
		struct json_object *r = json_object_array_get_idx(array, i);
		const int64_t total = ctl_get_int(r, "total");
		ctl_table_cell(&t, "%s", ctl_get(r, "name"));
		if (total > 0)
			ctl_table_cell(&t, "%s %lld%%", ctl_get(r, "state"),
				(long long)(ctl_get_int(r, "done") * 100 / total));
		else
			ctl_table_cell(&t, "%s", ctl_get(r, "state"));
		ctl_table_cell(&t, "%s", ctl_get(r, "device"));
		for (size_t k = 0; k < sizeof bytes / sizeof bytes[0]; k++)
			ctl_table_cell(&t, "%s", ctl_bytes((uint64_t)ctl_get_int(r, bytes[k])));
		ctl_table_cell(&t, "%s/%s", ctl_get(r, "slots_used"), ctl_get(r, "slots"));
		ctl_table_cell(&t, "%lld",
			(long long)(ctl_get_int(r, "queued") + ctl_get_int(r, "waiting")));
		ctl_table_cell(&t, "%.1f", number(r, "tokens_per_s"));
		ctl_table_cell(&t, "%s", ctl_duration(number(r, "idle_s")));
		ctl_table_cell(&t, "%s", leaves(r));
	}
	ctl_table_end(&t);
}

static void print_requests(struct json_object *array)
{
	static const char *const heads[] = {
		"+REQUEST", "OP", "MODEL", "STATE", "+USER", "+PID", "+AGE", NULL};
	static const char *const paths[] = {"request", "op", "model", "state", "uid", "pid"};
	struct ctl_table t;
	if (length_of(array) == 0)
		return;
	(void)putchar('\n');
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < length_of(array); i++) {
		struct json_object *r = json_object_array_get_idx(array, i);
		for (size_t p = 0; p < sizeof paths / sizeof paths[0]; p++)
			ctl_table_cell(&t, "%s", ctl_get(r, paths[p]));
		ctl_table_cell(&t, "%s", ctl_duration(number(r, "age_s")));
	}
	ctl_table_end(&t);
}

static void print_users(struct json_object *array)
{
	static const char *const heads[] = {"+USER", "+WEIGHT", "+RUNNING", "+QUEUED", "+PAUSED",
		"+SLOTS", "+SLOT STATE", "+PAUSED STATE", "+FINISHED", "+REFUSED", "+PROMPT",
		"+GENERATED", NULL};
	static const char *const paths[] = {"uid", "weight", "running", "queued", "paused", "slots",
		"slot_bytes", "paused_bytes", "finished", "refused", "prompt_tokens",
		"generated_tokens"};
	struct ctl_table t;
	if (length_of(array) == 0)
		return;
	(void)putchar('\n');
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < length_of(array); i++) {
		struct json_object *u = json_object_array_get_idx(array, i);
		for (size_t p = 0; p < sizeof paths / sizeof paths[0]; p++)
			ctl_table_cell(&t, "%s",
				strstr(paths[p], "_bytes") != NULL
					? ctl_bytes((uint64_t)ctl_get_int(u, paths[p]))
					: ctl_get(u, paths[p]));
	}
	ctl_table_end(&t);
}

static const char *budget_of(struct json_object *device)
{
	const int64_t budget = ctl_get_int(device, "memory_budget");
	return budget > 0 ? ctl_bytes((uint64_t)budget) : "-";
}

static void print_devices(struct json_object *array)
{
	static const char *const heads[] = {"DEVICE", "BACKEND", "+TOTAL", "+FREE", "+OURS",
		"+OTHERS", "+BUDGET", "CODE", "NAME", NULL};
	static const char *const bytes[] = {
		"memory_total", "memory_free", "memory_models", "memory_others"};
	struct ctl_table t;
	if (length_of(array) == 0)
		return;
	(void)putchar('\n');
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < length_of(array); i++) {
		struct json_object *d = json_object_array_get_idx(array, i);
		ctl_table_cell(&t, "%s", ctl_get(d, "device"));
		ctl_table_cell(&t, "%s", ctl_get(d, "backend"));
		for (size_t k = 0; k < sizeof bytes / sizeof bytes[0]; k++)
			ctl_table_cell(&t, "%s", ctl_bytes((uint64_t)ctl_get_int(d, bytes[k])));
		ctl_table_cell(&t, "%s", budget_of(d));
		ctl_table_cell(&t, "%s", ctl_get(d, "path"));
		ctl_table_cell(&t, "%s", ctl_get(d, "name"));
	}
	ctl_table_end(&t);
}

static void print_ps(struct json_object *o)
{
	print_residents(ctl_get_object(o, "models"));
	print_devices(ctl_get_object(o, "devices"));
	print_users(ctl_get_object(o, "users"));
	print_requests(ctl_get_object(o, "requests"));
}

static void print_processes(struct json_object *array)
{
	static const char *const heads[] = {
		"PROCESS", "+PID", "STATE", "+RESTARTS", "+UPTIME", NULL};
	struct ctl_table t;
	ctl_table_begin(&t, heads);
	for (size_t i = 0; i < length_of(array); i++) {
		struct json_object *p = json_object_array_get_idx(array, i);
		ctl_table_cell(&t, "%s", ctl_get(p, "role"));
		ctl_table_cell(&t, "%s", ctl_get(p, "pid"));
		ctl_table_cell(&t, "%s", ctl_get(p, "state"));
		ctl_table_cell(&t, "%s", ctl_get(p, "restarts"));
		ctl_table_cell(&t, "%s", ctl_duration(number(p, "uptime_s")));
	}
	ctl_table_end(&t);
}

static void print_status(struct json_object *o)
{
	struct json_object *counters = ctl_get_object(o, "counters");
	(void)printf("mamba2d %s, %s for %s (since %s); %s resident, %s running\n\n",
		ctl_get(o, "version"), ctl_get(o, "state"), ctl_duration(number(o, "uptime_s")),
		ctl_time(ctl_get_int(o, "started_at")), ctl_get(o, "resident"),
		ctl_get(o, "running"));
	print_processes(ctl_get_object(o, "processes"));
	print_devices(ctl_get_object(o, "devices"));
	if (!json_object_is_type(counters, json_type_object))
		return;
	(void)putchar('\n');
	json_object_object_foreach(counters, key, value)
	{
		(void)printf("%-20s %s\n", key, json_object_get_string(value));
	}
}

static int ask(struct ctl *ctl, enum mamba2_error (*question)(mamba2 *, char **),
	void (*human)(struct json_object *))
{
	char *json = NULL;
	int status = ctl_connect(ctl, false, 0);
	if (status != CTL_OK)
		return status;
	const enum mamba2_error error = question(ctl->m, &json);
	if (error != MAMBA2_OK)
		return ctl_fail(ctl, error);
	struct json_object *o = ctl->json != 0 ? NULL : ctl_read_json(json);
	if (ctl->json != 0)
		ctl_print_json(json);
	else if (o != NULL)
		human(o);
	else
		status = CTL_FAILED;
	json_object_put(o);
	mamba2_free(json);
	return status;
}

int ctl_run_ps(struct ctl *ctl, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return ask(ctl, mamba2_ps, print_ps);
}

static int everyones;
const struct ctl_option ctl_cancel_options[] = {
	{"admin", 0, CTL_FLAG, NULL, &everyones, "as an administrator: anyone's request"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

int ctl_run_cancel(struct ctl *ctl, int argc, char **argv)
{
	char *end = NULL;
	(void)argc;
	errno = 0;
	const unsigned long long number = strtoull(argv[0], &end, 10);
	if (end == argv[0] || *end != '\0' || errno != 0 || argv[0][0] == '-')
		return ctl_say(CTL_USAGE, "cancel wants the number of a request, as ps shows it");
	const int status = ctl_connect(ctl, everyones != 0, 0);
	if (status != CTL_OK)
		return status;
	const enum mamba2_error error = mamba2_cancel(ctl->m, number);
	return error == MAMBA2_OK ? CTL_OK : ctl_fail(ctl, error);
}

int ctl_run_status(struct ctl *ctl, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return ask(ctl, mamba2_status, print_status);
}

static void print_version(struct json_object *o)
{
	(void)printf("mamba2d %s\n", ctl_get(o, "version"));
}

int ctl_run_version(struct ctl *ctl, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (ctl->json == 0) {
		(void)printf("mamba2ctl %s\n", mamba2_version());
		(void)fflush(stdout);
	}
	return ask(ctl, mamba2_status, print_version);
}
