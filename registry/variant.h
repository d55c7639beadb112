/* variant.h - one model as users name it: a checked record made from one YAML file.
 *
 * A variant says which checkpoint to run and how: where, in which types, with how many slots, who may
 * use it and what a request gets that does not say otherwise.  One table of keys (variant_keys.def)
 * defines every key: it checks files, prints them back, and generates configs/reference.yaml.
 *
 * Unknown keys, wrong types, values out of range, duplicate keys, anchors/aliases/tags and further
 * documents are refused: M2_EINVAL (or M2_EFORMAT for what is no YAML) with "FILE:LINE:COLUMN: KEY: why".
 *
 * Knows no SQL, no device, no checkpoint.  Threads: no shared state; any thread.
 */
#ifndef M2_REGISTRY_VARIANT_H
#define M2_REGISTRY_VARIANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/err.h"
#include "common/limits.h"

/* Names and aliases match this one expression, and are looked up, never joined to a path. */
#define M2_NAME_PATTERN "^[a-z0-9][a-z0-9._-]{0,63}$"

enum m2_device_kind { M2_DEVICE_AUTO, M2_DEVICE_CPU, M2_DEVICE_CUDA };

/* Generation defaults: what a request gets that leaves the field out.  Ranges: the same table as the
 * wire's (common/request.h, struct m2_sampling). */
struct m2_variant_defaults {
	int32_t max_tokens;
	float temperature;
	int32_t top_k; /* 0: all */
	float top_p;
	float min_p;
	float repetition_penalty;
	float presence_penalty;
	float frequency_penalty;
	int32_t n_stop_tokens; /* -1: the checkpoint's eos token ids */
	int32_t stop_tokens[M2_LIMIT_STOP_TOKENS];
};

struct m2_variant {
	char name[M2_LIMIT_NAME_BYTES + 1];
	int32_t n_aliases;
	char aliases[M2_LIMIT_ALIASES][M2_LIMIT_NAME_BYTES + 1];
	char description[M2_LIMIT_DESCRIPTION_BYTES + 1];
	/* Absolute after parsing: a relative path in the file is taken from the file's own directory. */
	char checkpoint[M2_LIMIT_PATH_BYTES + 1];
	char tokenizer[M2_LIMIT_PATH_BYTES +
		       1]; /* file or directory; "": in the checkpoint directory;
						    "none": tokens only */
	enum m2_device_kind device;
	int32_t device_ordinal;   /* cuda:N */
	enum m2_dtype weights;    /* NONE: as stored */
	enum m2_dtype state;      /* F32 (default); others when a backend takes them */
	int32_t slots;            /* sequences that run at once */
	int32_t max_batch_tokens; /* tokens per step, prompt chunks and decodes together */
	int32_t queue;            /* requests that may wait */
	bool preload;
	bool pinned;          /* never leaves by itself */
	int64_t keep_alive_s; /* unload after that many idle seconds; -1: never; 0: at once */
	int32_t norm_groups;  /* 0: as the checkpoint's family says */
	int32_t n_users;      /* access: empty lists of both: everyone */
	char users[M2_LIMIT_ACCESS_ENTRIES][33];
	int32_t n_groups;
	char groups[M2_LIMIT_ACCESS_ENTRIES][33];
	struct m2_variant_defaults defaults;
};

/* All fields at their defaults, name and checkpoint empty. */
void m2_variant_init(struct m2_variant *v);

/* Parse YAML text; after an error *out is undefined.  source: name for error messages.  base_dir: absolute directory that relative
 * paths are taken from (NULL: relative paths are refused).  name and checkpoint are required. */
enum m2_err m2_variant_parse(const char *text, size_t length, const char *source,
	const char *base_dir, struct m2_variant *out, struct m2_why *why);

/* Read and parse one file (<= M2_LIMIT_VARIANT_YAML_BYTES, regular); base_dir is its directory.
 * text/length, if not NULL, get the file's bytes (caller frees).  Blocks on the disk. */
enum m2_err m2_variant_read(
	const char *path, struct m2_variant *out, char **text, size_t *length, struct m2_why *why);

/* Does it match M2_NAME_PATTERN? */
bool m2_variant_name_valid(const char *name);

/* Print as YAML that parses back to an equal record: malloc'd, caller frees; NULL without memory.
 * all = false leaves out what is at its default. */
char *m2_variant_print(const struct m2_variant *v, bool all);

/* The generated reference of all keys with type, range, default and doc, as commented YAML. */
char *m2_variant_reference(void);

/* SHA-256 of the bytes as 64 hex digits and NUL: the checksum of what was registered.  Empty when there is
 * no memory for it: no registration has that. */
void m2_variant_checksum(const char *text, size_t length, char out[65]);

#endif
