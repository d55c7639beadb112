/* answer.h - what the daemon says, applied to the call it is about.
 *
 * An answer that is no JSON object, or whose id and key are not those of an open call, is ignored: it may
 * be a late answer to something that was sent twice, or not from our daemon at all.  One that names an
 * open call and is otherwise wrong ends that call with M2_EPROTO.
 */
#ifndef M2_CLIENT_ANSWER_H
#define M2_CLIENT_ANSWER_H

#include <stddef.h>

#include "client/mamba2.h"

/* One received message; payload is NULL when there is none.  IO thread only; takes the lock. */
void m2_answer_apply(mamba2 *m, const char *header, size_t header_bytes, const void *payload,
	size_t payload_bytes);

#endif
