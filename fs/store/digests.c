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

/* A number of the wire format; 0 at the end. */
static uint64_t take_number(const uint8_t **at, const uint8_t *end)
{
	uint64_t number = 0;
	for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
		uint8_t byte = *(*at)++;
		number |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			break;
	}
	return number;
}

void digest_set_add_children(struct digest_set *set, struct croft_slice tree)
{
	enum { CHILDREN = 2, NUMBER = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };
	const uint8_t *at = tree.data, *end = at + tree.size;
	while (at < end) {
		uint64_t tag = take_number(&at, end), size = 0;
		switch (tag & 7) {
		case NUMBER: take_number(&at, end); break;
		case FIXED64: size = 8; break;
		case FIXED32: size = 4; break;
		case BYTES: size = take_number(&at, end); break;
		default: return;
		}
		if (size > (uint64_t)(end - at))
			return;
		if (tag == (CHILDREN << 3 | BYTES)) {
			struct croft_digest child = croft_digest_of(at, (size_t)size);
			digest_set_add(set, &child);
		}
		at += size;
	}
}
