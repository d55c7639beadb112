/* inference.h - the ops that a worker runs (generate, score, tokenize, detokenize), and those about them
 * (cancel, release).  Threads: the supervisor's one. */
#ifndef M2_DAEMON_INFERENCE_H
#define M2_DAEMON_INFERENCE_H

#include "daemon/sessions.h"

void m2_inference_run(struct m2_session *session);
void m2_inference_cancel(struct m2_session *session);
void m2_inference_release(struct m2_session *session);

#endif
