/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to fs/store: a list of digests that grows. All zero is an empty one; its items are freed by who has it. */
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

#endif
