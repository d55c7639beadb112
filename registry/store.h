/* store.h - the registry's memory: variants, who registered them, and what became of them, in SQLite.
 *
 * The schema is in registry/store_schema.c, migrated by PRAGMA user_version inside one
 * transaction per step; a database from a newer mamba2d is refused.  WAL, synchronous=FULL, foreign
 * keys, a busy timeout, prepared statements only; every change is one transaction, committed before
 * the function returns, so that what was acknowledged survives kill -9 and a power cut.
 *
 * One process, one connection: the supervisor's.  Not thread-safe: one thread.  Calls block on the
 * disk for as long as a small transaction takes.  Errors: EIO (SQLite's own text), EFORMAT (not a
 * database, corrupt, newer schema), ENOENT, EEXIST (name or alias taken, naming by whom).
 */
#ifndef M2_REGISTRY_STORE_H
#define M2_REGISTRY_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "registry/variant.h"

struct m2_store; /* opaque */

/* How a variant came to be registered. */
enum m2_origin { M2_ORIGIN_DIRECTORY = 0, M2_ORIGIN_MANUAL = 1 };

struct m2_store_entry {
	char name[M2_LIMIT_NAME_BYTES + 1];
	char checksum[65];                    /* SHA-256 of the YAML text */
	char source[M2_LIMIT_PATH_BYTES + 1]; /* file it was read from, or "" */
	enum m2_origin origin;
	int64_t registered_at;  /* seconds since 1970 */
	uint32_t registered_by; /* uid */
	int64_t last_load_at;   /* 0: never */
	int64_t last_load_ms;   /* how long the last successful load took */
	int64_t loads;          /* successful ones */
	int32_t last_error;     /* enum m2_err of the last failed load, 0: none since */
	char last_error_text[448];
};

/* Create or open the database file (0600), migrate, check integrity quickly (PRAGMA quick_check). */
enum m2_err m2_store_open(const char *path, struct m2_store **out, struct m2_why *why);
void m2_store_close(struct m2_store **store);

/* Register or (replace = true) replace.  yaml is what was parsed into v; it is stored verbatim.
 * source: an absolute path or "".  Replacing keeps the load history and forgets the last error and the
 * checksums of the files, which may be others now.
 * A name that is another's alias, or an alias that is another's name or alias: EEXIST. */
enum m2_err m2_store_put(struct m2_store *store, const struct m2_variant *v, const char *yaml,
	size_t yaml_length, const char *source, enum m2_origin origin, uid_t by, bool replace,
	struct m2_why *why);

/* Remove by name or alias. */
enum m2_err m2_store_remove(struct m2_store *store, const char *name, struct m2_why *why);

/* By name or alias.  v and entry may each be NULL.  The stored YAML is parsed again: base_dir is the
 * directory of `source`, or none.  A row whose checksum does not match is EFORMAT. */
enum m2_err m2_store_get(struct m2_store *store, const char *name, struct m2_variant *v,
	struct m2_store_entry *entry, struct m2_why *why);

/* All entries in order of name; return false from fn to stop.  fn may not call the store.  A row that is
 * damaged, or whose text this build no longer takes, is left out; the others are given, and then the
 * first such row's error is returned. */
enum m2_err m2_store_each(struct m2_store *store,
	bool (*fn)(void *ctx, const struct m2_variant *v, const struct m2_store_entry *entry),
	void *ctx, struct m2_why *why);

/* Scan one directory (absolute) of *.yaml (not hidden, regular files): put what is new or changed with
 * origin DIRECTORY, remove what came from a file of this directory that is gone.  One bad file is reported
 * through report(ctx, why) and does not stop the others; what it registered before stays.  A symbolic
 * link counts as a bad file.  Names that are taken are refused, naming the owner; a manual registration
 * is never touched.  Directory missing: reported, M2_OK, nothing changed.  report may be NULL. */
struct m2_scan_counts {
	int32_t added, changed, removed, unchanged, failed;
};
enum m2_err m2_store_scan(struct m2_store *store, const char *directory, uid_t by,
	void (*report)(void *ctx, const struct m2_why *why), void *ctx,
	struct m2_scan_counts *counts, struct m2_why *why);

/* Load history, the last thousand loads of each variant.  begin returns a row id to end with; a row
 * without an end is a load that the daemon did not survive: the next m2_store_open closes it with result
 * EWORKER and no duration, and it is the variant's last error.  end of a load whose variant was removed
 * meanwhile, or a second end: M2_ENOENT.  bytes: footprint; err M2_OK and NULL why for success. */
enum m2_err m2_store_load_begin(struct m2_store *store, const char *name, const char *device,
	uid_t by, int64_t *row, struct m2_why *why);
enum m2_err m2_store_load_end(struct m2_store *store, int64_t row, int64_t duration_ms,
	int64_t bytes, enum m2_err result, const struct m2_why *result_why, struct m2_why *why);

/* ---- files: the checksums of a variant's checkpoint and tokenizer (store_files.c) ---- */

enum { M2_STORE_FILE_PATH = M2_LIMIT_PATH_BYTES + 258 }; /* a path, '/', a file's name, NUL */

struct m2_store_file {
	char path[M2_STORE_FILE_PATH]; /* absolute */
	uint64_t bytes;                /* size and time of modification at the last look */
	int64_t mtime_ns;
	char sha256[65];     /* as recorded */
	char found[65];      /* at the last look; another one than sha256: the file has changed */
	int64_t recorded_at; /* seconds since 1970 */
	int64_t checked_at;  /* of the last look */
};

/* All files of the variant of that name or alias in order of path; malloc'd, the caller frees; NULL and
 * 0 when there are none. */
enum m2_err m2_store_files(struct m2_store *store, const char *name, struct m2_store_file **out,
	size_t *count, struct m2_why *why);

enum m2_store_seen { M2_STORE_FILE_NEW, M2_STORE_FILE_SAME, M2_STORE_FILE_CHANGED };

/* A file was read: path, bytes, mtime_ns and found of `look` count; sha256 and recorded_at become what was
 * on record before.  A first look records; a later one is held against the record, which stays unless
 * replace says that what is there now is right.
 * registration: the checksum of what was registered when the look began; another one now, or none:
 * M2_ENOENT, nothing is stored. */
enum m2_err m2_store_file_look(struct m2_store *store, const char *name, const char *registration,
	struct m2_store_file *look, bool replace, enum m2_store_seen *seen, struct m2_why *why);

/* Drop one record.  M2_ENOENT as above; a file that is not recorded: M2_OK. */
enum m2_err m2_store_file_forget(struct m2_store *store, const char *name, const char *registration,
	const char *path, struct m2_why *why);

#endif
