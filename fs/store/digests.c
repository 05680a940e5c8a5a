/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/store/digests.h"

#include "fs/store/internal.h"

#include <stdlib.h>

static void grow_set(struct digest_set *set)
{
	struct digests list = set->list;
	set->room = set->room ? 2 * set->room : 256;
	free(set->slots);
	set->slots = croft_array(set->room, sizeof(*set->slots));
	set->list.count = 0;
	for (size_t i = 0; i < list.count; i++)
		digest_set_add(set, &list.items[i]);
}

static uint32_t *slot_of(const struct digest_set *set, const struct croft_digest *digest)
{
	size_t at = (size_t)(store_key(digest->hash) * 0x9e3779b97f4a7c15 >> 32);
	for (;; at++) {
		uint32_t *slot = &set->slots[at & (set->room - 1)];
		if (!*slot || croft_digest_equal(&set->list.items[*slot - 1], digest))
			return slot;
	}
}

bool digest_set_add(struct digest_set *set, const struct croft_digest *digest)
{
	if (set->list.count * 2 >= set->room)
		grow_set(set);
	uint32_t *slot = slot_of(set, digest);
	if (*slot)
		return false;
	digests_append(&set->list, digest);
	*slot = (uint32_t)set->list.count;
	return true;
}

bool digest_set_has(const struct digest_set *set, const struct croft_digest *digest)
{
	return set->room && *slot_of(set, digest);
}

void digest_set_finish(struct digest_set *set)
{
	free(set->list.items);
	free(set->slots);
}
