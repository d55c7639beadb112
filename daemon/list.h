/* list.h - doubly linked lists whose links lie in the members: no allocation, removal without a search.
 * A link is either in one list or, after m2_list_init or m2_list_remove, in none. */
#ifndef M2_DAEMON_LIST_H
#define M2_DAEMON_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct m2_link {
	struct m2_link *prev, *next;
};

/* The structure around a link. */
#define M2_LIST_OF(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

/* Over all members; the body may remove the current one, and no other. */
#define M2_LIST_EACH(list, at)                                                                     \
	for (struct m2_link *at = (list)->next, *at##_next = at->next; at != (list);               \
		at = at##_next, at##_next = at->next)

static inline void m2_list_init(struct m2_link *l)
{
	l->prev = l->next = l;
}

static inline bool m2_list_empty(const struct m2_link *list)
{
	return list->next == list;
}

static inline void m2_list_append(struct m2_link *list, struct m2_link *l)
{
	l->prev = list->prev;
	l->next = list;
	list->prev->next = l;
	list->prev = l;
}

static inline void m2_list_remove(struct m2_link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	l->prev = l->next = l;
}

#endif
