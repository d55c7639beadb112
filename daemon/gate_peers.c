/* gate_peers.c - a hash table over a fixed pool, threaded by age. */
#include "daemon/gate_peers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/hash.h"

#define NOBODY UINT32_MAX

enum { NONE = 0 }; /* index 0 of the pool is the list's anchor */

struct peer {
	uint8_t name[33]; /* endpoint and routing id */
	uint8_t length;   /* of name; 0: the entry is free */
	uint32_t uid;
	uint32_t chain; /* next in its bucket */
	uint32_t newer; /* in order of age, circular through the anchor */
	uint32_t older;
};

struct m2_peers {
	struct m2_hash_key key;
	uint32_t capacity;
	uint32_t used;
	uint32_t mask;
	uint32_t *buckets;
	struct peer *pool; /* [capacity + 1] */
};

struct m2_peers *m2_peers_create(uint32_t capacity)
{
	struct m2_peers *t = calloc(1, sizeof *t);
	if (t == NULL)
		return NULL;
	uint32_t buckets = 16;
	while (buckets < capacity && buckets < UINT32_C(1) << 31)
		buckets *= 2;
	t->capacity = capacity;
	t->mask = buckets - 1;
	t->buckets = calloc(buckets, sizeof *t->buckets);
	t->pool = calloc((size_t)capacity + 1, sizeof *t->pool);
	if (t->buckets == NULL || t->pool == NULL ||
		getrandom(&t->key, sizeof t->key, 0) != (ssize_t)sizeof t->key) {
		m2_peers_destroy(&t);
		return NULL;
	}
	/* all of it is taken now: memory that grows later is then something else's */
	for (uint32_t i = 0; i <= capacity; i++)
		t->pool[i].uid = NOBODY;
	return t;
}

void m2_peers_destroy(struct m2_peers **peers)
{
	if (*peers == NULL)
		return;
	free((*peers)->buckets);
	free((*peers)->pool);
	free(*peers);
	*peers = NULL;
}

static uint8_t make_name(uint8_t name[33], uint8_t endpoint, const uint8_t *id, uint8_t length)
{
	assert(length <= 32);
	name[0] = endpoint;
	memcpy(name + 1, id, length);
	return (uint8_t)(length + 1);
}

static uint32_t *bucket_of(const struct m2_peers *t, const uint8_t *name, uint8_t length)
{
	return &t->buckets[m2_hash_bytes(t->key, name, length) & t->mask];
}

static uint32_t find(const struct m2_peers *t, const uint8_t *name, uint8_t length)
{
	uint32_t i = *bucket_of(t, name, length);
	while (i != NONE &&
		(t->pool[i].length != length || memcmp(t->pool[i].name, name, length) != 0))
		i = t->pool[i].chain;
	return i;
}

static void unlink_age(struct m2_peers *t, uint32_t i)
{
	struct peer *p = &t->pool[i];
	t->pool[p->newer].older = p->older;
	t->pool[p->older].newer = p->newer;
}

static void make_newest(struct m2_peers *t, uint32_t i)
{
	struct peer *anchor = &t->pool[NONE];
	t->pool[i].older = anchor->older;
	t->pool[i].newer = NONE;
	t->pool[anchor->older].newer = i;
	anchor->older = i;
}

/* The anchor's `newer` is the oldest entry: the circle closes there. */
static uint32_t take_oldest(struct m2_peers *t)
{
	const uint32_t i = t->pool[NONE].newer;
	uint32_t *link = bucket_of(t, t->pool[i].name, t->pool[i].length);
	while (*link != i)
		link = &t->pool[*link].chain;
	*link = t->pool[i].chain;
	unlink_age(t, i);
	return i;
}

void m2_peers_note(
	struct m2_peers *t, uint8_t endpoint, const uint8_t *id, uint8_t length, uint32_t uid)
{
	uint8_t name[33];
	const uint8_t n = make_name(name, endpoint, id, length);
	uint32_t i = find(t, name, n);
	if (i != NONE) {
		unlink_age(t, i);
	} else {
		i = t->used < t->capacity ? ++t->used : take_oldest(t);
		uint32_t *bucket = bucket_of(t, name, n);
		memcpy(t->pool[i].name, name, n);
		t->pool[i].length = n;
		t->pool[i].chain = *bucket;
		*bucket = i;
	}
	t->pool[i].uid = uid;
	make_newest(t, i);
}

bool m2_peers_match(
	const struct m2_peers *t, uint8_t endpoint, const uint8_t *id, uint8_t length, uint32_t uid)
{
	uint8_t name[33];
	const uint8_t n = make_name(name, endpoint, id, length);
	const uint32_t i = find(t, name, n);
	return i != NONE && t->pool[i].uid == uid;
}
