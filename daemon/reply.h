/* reply.h - the JSON of every answer, made from the structs that travel between the processes.
 *
 * common/PROTOCOL.md describes the shapes; this file is where they are made.  Each function returns a
 * new json_object that the caller owns (NULL without memory).  Threads: any.  Nothing blocks.
 *
 * Memory may end in the middle of an answer: then what could not be added is left out, nothing stops,
 * m2_reply_text says so, and m2_reply_plain is the answer that needs none.
 */
#ifndef M2_DAEMON_REPLY_H
#define M2_DAEMON_REPLY_H

#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

#include "common/err.h"
#include "daemon/ipc.h"
#include "daemon/request.h"

/* {"id", "key" if it has one, "event"}: the frame of every answer to r. */
struct json_object *m2_reply_new(const struct m2_request *r, const char *event);

/* {"code", "number", "field", "message"} */
struct json_object *m2_reply_error_object(enum m2_err err, const struct m2_why *why);

/* event error, complete */
struct json_object *m2_reply_error(
	const struct m2_request *r, enum m2_err err, const struct m2_why *why);

/* Into an answer: what the accepted event says.  segment: absolute path, NULL with messages. */
void m2_reply_put_accepted(
	struct json_object *o, const struct m2_ipc_accepted *a, const char *segment);

/* tokens, prompt counts, sequences and timings of a finished request; an error member if it has one. */
void m2_reply_put_finished(struct json_object *o, const struct m2_ipc_finished *f);

/* One tokens event's members.  body as ipc.h says; EPROTO if body_bytes is not what the counts say. */
enum m2_err m2_reply_put_tokens(struct json_object *o, const struct m2_ipc_tokens *t,
	const void *body, size_t body_bytes, struct m2_why *why);

/* Facts of a loaded model: checkpoint and footprint members. */
void m2_reply_put_loaded(struct json_object *o, const struct m2_ipc_loaded *l);

const char *m2_reply_finish_name(uint32_t finish); /* enum m2_finish; "length" ... */

/* Add a member or an element; takes value.  NULL anywhere: the answer is incomplete. */
void m2_reply_add(struct json_object *o, const char *name, struct json_object *value);
void m2_reply_append(struct json_object *array, struct json_object *value);

/* The answer as it is sent, valid as long as o; NULL if memory ended since the last one was made. */
const char *m2_reply_text(struct json_object *o, size_t *length);

/* The answer "no_memory" to r, made without any; its length. */
enum { M2_REPLY_PLAIN_BYTES = 320 };
size_t m2_reply_plain(const struct m2_request *r, char out[M2_REPLY_PLAIN_BYTES]);

/* Shorthands for building. */
void m2_reply_string(struct json_object *o, const char *name, const char *value);
void m2_reply_int(struct json_object *o, const char *name, int64_t value);
/* A char array from another process: ends at its size even if no NUL is in it. */
void m2_reply_bounded(struct json_object *o, const char *name, const char *text, size_t size);
void m2_reply_u64(struct json_object *o, const char *name, uint64_t value);
void m2_reply_bool(struct json_object *o, const char *name, bool value);
void m2_reply_seconds(
	struct json_object *o, const char *name, float value); /* to the millisecond */

#endif
