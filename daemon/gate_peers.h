/* gate_peers.h - which user a connection belonged to when it last spoke.
 *
 * A routing id can be taken over by another connection after the first is gone; libzmq then delivers
 * the first one's late answers to the second.  The gate therefore remembers the uid of the last message
 * from every routing id and sends an answer only where the uid still fits.  Bounded: beyond `capacity`
 * connections the one that was silent longest is forgotten, and its answers are dropped until it
 * speaks again.
 *
 * Threads: one.  Nothing blocks.
 */
#ifndef M2_DAEMON_GATE_PEERS_H
#define M2_DAEMON_GATE_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct m2_peers; /* opaque */

/* capacity >= 1.  NULL without memory. */
struct m2_peers *m2_peers_create(uint32_t capacity);
void m2_peers_destroy(struct m2_peers **peers);

/* A message from `uid` came over this endpoint and routing id (length <= 32). */
void m2_peers_note(
	struct m2_peers *peers, uint8_t endpoint, const uint8_t *id, uint8_t length, uint32_t uid);

/* Is it still that user's?  false for an unknown id too. */
bool m2_peers_match(const struct m2_peers *peers, uint8_t endpoint, const uint8_t *id,
	uint8_t length, uint32_t uid);

#endif
