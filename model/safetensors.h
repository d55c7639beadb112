/* safetensors.h - reading safetensors files that may be hostile.
 *
 * Layout: u64 little-endian header length, JSON header, data.  Every rule of the reference reader and
 * ours (semantics report 5.1: no holes, no overlap, exact end, no duplicate names, bounded depth,
 * dims, names and counts) is checked before a tensor can be read.
 *
 * Threads: no shared state.  Blocks on the disk.
 */
#ifndef M2_MODEL_SAFETENSORS_H
#define M2_MODEL_SAFETENSORS_H

#include "model/tensor_file.h"

/* Check a header alone (for the fuzzer and for in-memory tests): data_bytes is what follows it. */
enum m2_err m2_safetensors_parse_header(const char *json, size_t length, uint64_t data_bytes,
	const char *what, struct m2_tensor_file **out, struct m2_why *why);

/* dirfd/name: opened with O_NOFOLLOW not set (hub caches link), regular files only. */
enum m2_err m2_safetensors_open(
	int dirfd, const char *name, struct m2_tensor_file **out, struct m2_why *why);

#endif
