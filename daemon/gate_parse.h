/* gate_parse.h - from the bytes of a client's message to a checked struct: pure functions.
 *
 * Everything a stranger can put into a message passes through here; no ZeroMQ, no file, no state, so
 * that a fuzzer can drive it.  What comes out passes m2_request_check.
 * Threads: any.  Nothing blocks.
 */
#ifndef M2_DAEMON_GATE_PARSE_H
#define M2_DAEMON_GATE_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/request.h"

/* header: the JSON frame.  payload: the second frame, NULL when there is none.
 *
 * *out is filled as far as understood also on failure: client_id and key are valid when the header had
 * them, for the error that echoes them; route, uid, gid, pid, id and received_ns are left zero for the
 * caller.  *body (malloc'd, caller frees, NULL when empty) has *body_bytes bytes.
 *
 * Errors, with the field: EPROTO (not JSON, another version, a missing or needless payload), EINVAL,
 * ELIMIT (too many bytes or entries), EACCES (a control op on the client endpoint), ENOMEM. */
enum m2_err m2_gate_parse(const char *header, size_t header_bytes, const void *payload,
	size_t payload_bytes, enum m2_endpoint endpoint, struct m2_request *out, void **body,
	size_t *body_bytes, struct m2_why *why);

/* libzmq's "Peer-Address" of an ipc peer: ANYTHING:uid:gid:pid, exactly three decimal fields from the
 * right.  false for anything else; then there is no service. */
bool m2_gate_peer(const char *address, uint32_t *uid, uint32_t *gid, uint32_t *pid);

#endif
