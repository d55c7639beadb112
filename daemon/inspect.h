/* inspect.h - what a checkpoint is and whether it would be accepted, without a daemon.
 *
 * Opens checkpoint and tokenizer exactly as a load does and asks the cpu backend what it would take; reads
 * no weights.  mamba2ctl inspect and mamba2ctl register PATH run this program with --inspect.
 * Threads: one.  Blocks on the disk.
 */
#ifndef M2_DAEMON_INSPECT_H
#define M2_DAEMON_INSPECT_H

#include <stdio.h>

#include "daemon/options.h"

/* Print to out, in the form that the options ask for.  The exit status: 0 accepted, 1 refused (the form
 * YAML then prints nothing and says why on standard error), 2 the options make no variant. */
int m2_inspect_run(const struct m2_inspect_options *options, FILE *out);

#endif
