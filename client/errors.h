/* errors.h - how a function of libmamba2 fails: the sentence is kept for the calling thread.
 *
 * One sentence per thread, whichever handle it was about: "the last failure of this thread" needs no
 * lock, and no thread can see another's sentence change under it.
 */
#ifndef M2_CLIENT_ERRORS_H
#define M2_CLIENT_ERRORS_H

#include "client/mamba2.h"
#include "common/err.h"

/* Keep `why` (NULL: the table's advice) for mamba2_message and return err as the public number.
 * M2_OK leaves the last sentence alone. */
enum mamba2_error m2_client_return(enum m2_err err, const struct m2_why *why);

#endif
