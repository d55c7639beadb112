/* io.h - the thread that owns the socket. */
#ifndef M2_CLIENT_IO_H
#define M2_CLIENT_IO_H

#include "client/mamba2.h"
#include "common/err.h"

/* Make the socket of m->endpoint and start the thread.  The handle is otherwise complete. */
enum m2_err m2_io_start(mamba2 *m, struct m2_why *why);

/* Stop and join: open calls end as unreachable; what gives memory back is sent first, at most
 * M2_CLIENT_FLUSH_MS. */
void m2_io_stop(mamba2 *m);

#endif
