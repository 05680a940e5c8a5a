/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Last uses, leases and pins of the blobs that something happened to lately; all others have only
 * what the index says. Slots are never freed one by one: the sweep builds the table anew.
 */
#include "fs/store/internal.h"

#include <stdlib.h>

void store_activity_init(struct store_activity *activity, uint64_t seed)
{
	activity->room = 1024;
	activity->slots = croft_array(activity->room, sizeof(*activity->slots));
	activity->count = 0;
	activity->seed = seed | 1;
}

void store_activity_finish(struct store_activity *activity)
{
	free(activity->slots);
	activity->slots = NULL;
}

/* Clients choose hashes, so the place of a slot depends on a seed they do not know. */
static struct store_active *slot_of(const struct store_activity *activity, uint64_t key)
{
	size_t mask = activity->room - 1;
	for (size_t i = (size_t)((key * activity->seed) >> 32) & mask;; i = (i + 1) & mask)
		if (activity->slots[i].key == key || activity->slots[i].key == 0)
			return &activity->slots[i];
}

struct store_active *store_activity_find(const struct store_activity *activity, uint64_t key)
{
	struct store_active *slot = slot_of(activity, key);
	return slot->key ? slot : NULL;
}

static void rebuild(struct store_activity *activity, size_t room,
	bool (*keep)(const struct store_active *slot, uint64_t now_ms), uint64_t now_ms)
{
	struct store_active *old = activity->slots;
	size_t old_room = activity->room;
	activity->room = room;
	activity->slots = croft_array(room, sizeof(*activity->slots));
	activity->count = 0;
	for (size_t i = 0; i < old_room; i++) {
		if (!old[i].key || (keep && !keep(&old[i], now_ms)))
			continue;
		*slot_of(activity, old[i].key) = old[i];
		activity->count++;
	}
	free(old);
}

struct store_active *store_activity_get(struct store_activity *activity, uint64_t key)
{
	struct store_active *slot = slot_of(activity, key);
	if (slot->key)
		return slot;
	if (activity->count * 4 >= activity->room * 3) {
		rebuild(activity, activity->room * 2, NULL, 0);
		slot = slot_of(activity, key);
	}
	activity->count++;
	slot->key = key;
	return slot;
}

static bool worth_keeping(const struct store_active *slot, uint64_t now_ms)
{
	return slot->pins || slot->unsaved || slot->lease_ms > now_ms;
}

void store_activity_sweep(struct store_activity *activity, uint64_t now_ms)
{
	size_t kept = 0, room = 1024;
	for (size_t i = 0; i < activity->room; i++)
		kept += activity->slots[i].key && worth_keeping(&activity->slots[i], now_ms);
	while (kept * 2 >= room)
		room *= 2;
	rebuild(activity, room, worth_keeping, now_ms);
}
