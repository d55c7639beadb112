/* ctl.h - what the commands of mamba2ctl share: the command and option tables, the connection, output.
 *
 * A command is one row in main.c's table: its words, its options, its help and its function, which
 * returns the exit status.  One command runs per process, so options may live in static variables.
 *
 * Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon answers, 130 interrupted.
 */
#ifndef M2_CTL_H
#define M2_CTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "client/mamba2.h"

struct json_object;

enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2, CTL_UNREACHABLE = 3, CTL_INTERRUPTED = 130 };

/* ---- options ---- */

enum ctl_type {
	CTL_FLAG,  /* int: 1 when given */
	CTL_INT,   /* int64_t */
	CTL_FLOAT, /* float */
	CTL_TEXT,  /* const char * */
	CTL_TEXTS, /* struct ctl_texts: may be given again */
	CTL_IDS    /* struct ctl_ids: 1,2,3 */
};

struct ctl_texts {
	const char **text;
	size_t count;
};

struct ctl_ids {
	int32_t *id; /* NULL: the option was not given */
	size_t count;
};

struct ctl_option {
	const char *name; /* without the dashes */
	char letter;      /* 0: none */
	enum ctl_type type;
	const char *value; /* what the help calls its argument; NULL for a flag */
	void *to;
	const char *help;
};

struct ctl; /* below */

struct ctl_command {
	const char *name;
	const char *arguments;            /* "NAME [TEXT]" */
	const char *summary;              /* one line */
	const char *text;                 /* what a newcomer wants to know, and examples */
	const struct ctl_option *options; /* ends with a NULL name; may be NULL */
	int min_arguments;
	int max_arguments;
	int (*run)(struct ctl *ctl, int argc, char **argv);
};

struct ctl {
	const char *runtime_dir;
	int json;
	int help;
	int version;
	int64_t connect_timeout_s;
	const struct ctl_command *command;
	mamba2 *m; /* NULL until ctl_connect */
};

extern const struct ctl_option ctl_global_options[];
extern struct ctl ctl_state; /* that the global options are stored in */
extern const struct ctl_command ctl_commands[];

/* Take the options of `own` and the global ones out of argv[0..*argc); what remains are the arguments.
 * false after a sentence on stderr. */
bool ctl_parse(const struct ctl_option *own, int *argc, char **argv);
void ctl_free_options(const struct ctl_option *own);

void ctl_help(void);
void ctl_command_help(const struct ctl_command *command);

/* ---- talking to the daemon and to the user ---- */

/* CTL_OK, or the exit status after a sentence. */
int ctl_connect(struct ctl *ctl, bool control, int64_t timeout_ms);

/* "mamba2ctl: sentence (code)" on stderr; the exit status that goes with it. */
int ctl_fail(const struct ctl *ctl, enum mamba2_error error);
int ctl_say(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The end of most commands: print the JSON answer as it is, or hand it parsed to `human`; frees it.  The exit
 * status. */
int ctl_answer(const struct ctl *ctl, enum mamba2_error error, char **json,
	void (*human)(struct json_object *answer));

/* Everything printed really arrived?  CTL_OK or CTL_FAILED with a sentence. */
int ctl_flush(int status);

/* Text that is not ours on stdout; on a terminal without control characters other than newline and
 * tab, which could otherwise do things to it. */
void ctl_put(const char *text, size_t bytes);

/* ---- JSON that the daemon sent ---- */

/* Print it (as it came) or NULL-check and parse it.  NULL after a sentence. */
void ctl_print_json(const char *json);
struct json_object *ctl_read_json(const char *json);

/* The member at "a.b.c" as text, "-" when absent or empty.  Valid as long as the object. */
const char *ctl_get(struct json_object *object, const char *path);
int64_t ctl_get_int(struct json_object *object, const char *path); /* 0 when absent */
struct json_object *ctl_get_object(struct json_object *object, const char *path); /* NULL */

/* ---- tables ---- */

enum { CTL_COLUMNS = 12, CTL_CELL = 160 };

struct ctl_table {
	int columns;
	bool right[CTL_COLUMNS]; /* numbers */
	size_t rows;
	char (*cells)[CTL_CELL]; /* rows * columns */
};

/* heads: "NAME", "+SLOTS" (a plus aligns right), ... NULL */
void ctl_table_begin(struct ctl_table *t, const char *const *heads);
void ctl_table_cell(struct ctl_table *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void ctl_table_end(struct ctl_table *t); /* prints and frees */

/* "27.1 MiB"; "3 h 12 min": into a buffer that the next call but three overwrites. */
const char *ctl_bytes(uint64_t bytes);
const char *ctl_duration(double seconds);
const char *ctl_time(int64_t unix_seconds);

/* ---- progress ---- */

struct ctl_progress {
	const char *name; /* set by the caller, the rest zero */
	uint64_t bytes;   /* done, so far */
	int terminal;     /* -1: nothing is drawn */
	char what[64];
	/* two marks that the rate is taken from */
	uint64_t done[2];
	double time[2];
};

/* A mamba2_progress whose ctx is a struct ctl_progress. */
void ctl_progress(void *ctx, uint64_t done, uint64_t total, const char *what);
void ctl_progress_end(const struct ctl_progress *p);  /* takes the line away */
const char *ctl_rate(uint64_t bytes, double seconds); /* "3.10 s, 1.74 GB/s"; until the next call */

/* ---- running the daemon's program, for what needs no daemon ---- */

/* Run the mamba2d that lies beside this program (or in ../sbin, or in PATH) with arguments[0..count).
 * output NULL: it writes to our standard output; else what it wrote, malloc'd and NUL-terminated.
 * Its exit status, or CTL_FAILED after a sentence. */
int ctl_run_mamba2d(const char *const *arguments, size_t count, char **output);

/* ---- input ---- */

/* A whole file, "-" or NULL for stdin; malloc'd and NUL-terminated.  NULL after a sentence. */
char *ctl_read_file(const char *path, size_t most, size_t *bytes);

/* The prompt: the argument, or --file, or stdin when it is no terminal.  malloc'd; NULL after a sentence.
 * A newline at the end of a file or stdin is taken off unless it is all there is. */
char *ctl_prompt(const char *argument, const char *file, size_t *bytes);

/* What makes a prompt a conversation or a gap. */
struct ctl_forms {
	int chat;
	const char *system;
	const char *messages; /* a file */
	const char *suffix;
};

struct ctl_form_prompt {
	int form;   /* enum mamba2_form */
	char *text; /* malloc'd; NULL: token ids are given instead */
	size_t bytes;
};

/* The prompt as ctl_prompt reads it, in the form that the options ask for.  tokens: ids are given.
 * CTL_OK, or the exit status after a sentence. */
int ctl_form_prompt(const struct ctl_forms *forms, bool tokens, const char *argument,
	const char *file, struct ctl_form_prompt *out);

/* "1,2,3" (spaces allowed). false when it is something else. */
bool ctl_parse_ids(const char *text, struct ctl_ids *out);

/* F32 matrix `name` [rows, columns] as a safetensors file: written beside it, then renamed. */
int ctl_write_safetensors(
	const char *path, const char *name, const float *data, size_t rows, size_t columns);

/* ---- commands ---- */
int ctl_run_list(struct ctl *ctl, int argc, char **argv);
int ctl_run_show(struct ctl *ctl, int argc, char **argv);
int ctl_run_load(struct ctl *ctl, int argc, char **argv);
int ctl_run_unload(struct ctl *ctl, int argc, char **argv);
int ctl_run_register(struct ctl *ctl, int argc, char **argv);
int ctl_run_inspect(struct ctl *ctl, int argc, char **argv);
int ctl_run_verify(struct ctl *ctl, int argc, char **argv);
int ctl_run_remove(struct ctl *ctl, int argc, char **argv);
int ctl_run_reload(struct ctl *ctl, int argc, char **argv);
int ctl_run_drain(struct ctl *ctl, int argc, char **argv);
int ctl_run_ps(struct ctl *ctl, int argc, char **argv);
int ctl_run_cancel(struct ctl *ctl, int argc, char **argv);
int ctl_run_status(struct ctl *ctl, int argc, char **argv);
int ctl_run_version(struct ctl *ctl, int argc, char **argv);
int ctl_run_generate(struct ctl *ctl, int argc, char **argv);
int ctl_run_score(struct ctl *ctl, int argc, char **argv);
int ctl_run_tokenize(struct ctl *ctl, int argc, char **argv);
int ctl_run_detokenize(struct ctl *ctl, int argc, char **argv);

extern const struct ctl_option ctl_load_options[];
extern const struct ctl_option ctl_unload_options[];
extern const struct ctl_option ctl_register_options[];
extern const struct ctl_option ctl_inspect_options[];
extern const struct ctl_option ctl_verify_options[];
extern const struct ctl_option ctl_cancel_options[];
extern const struct ctl_option ctl_drain_options[];
extern const struct ctl_option ctl_generate_options[];
extern const struct ctl_option ctl_score_options[];
extern const struct ctl_option ctl_tokenize_options[];
extern const struct ctl_option ctl_detokenize_options[];

#endif
