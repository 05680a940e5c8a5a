/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to fs/store: lists of digests that grow, and sets. All zero is an empty one; a list's items are freed by
 * who has it. */
#ifndef CROFT_FS_STORE_DIGESTS_H
#define CROFT_FS_STORE_DIGESTS_H

#include "fs/digest.h"
#include "proto/base/arena.h"

struct digests {
	struct croft_digest *items;
	size_t count, room;
};

static inline void digests_append(struct digests *list, const struct croft_digest *digest)
{
	if (list->count == list->room) {
		list->room = list->room ? 2 * list->room : 64;
		list->items = croft_realloc(list->items, list->room, sizeof(*list->items));
	}
	list->items[list->count++] = *digest;
}

/* A set of digests: a list, and an open-addressed table of places in it. */
struct digest_set {
	struct digests list;
	uint32_t *slots; /* index + 1 */
	size_t room;
};

/* False when it was there. */
bool digest_set_add(struct digest_set *set, const struct croft_digest *digest);
bool digest_set_has(const struct digest_set *set, const struct croft_digest *digest);
/* Those of the Directories that a Tree holds: of their bytes as they came, since that is what others name them by. The Tree was
 * decoded before. */
void digest_set_add_children(struct digest_set *set, struct croft_slice tree);
void digest_set_finish(struct digest_set *set);

#endif
