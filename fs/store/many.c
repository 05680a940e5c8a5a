/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many blobs at once. What was stored together stands together: records of one segment that are near each
 * other come with one read.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <stdlib.h>

enum {
	RUN_BYTES = 256 << 10, /* of one read at most, unless a single record has more */
	GAP_BYTES = 4 << 10,   /* between records that is rather read than read around */
};

struct many {
	struct croft_store *store;
	const struct croft_digest *digests;
	struct croft_arena *arena;
	struct croft_slice *data;
	struct croft_error *errors;
	struct store_place places[STORE_FIND_MOST];
	bool found[STORE_FIND_MOST];
	uint16_t order[STORE_FIND_MOST]; /* the small ones, by where they stand */
	size_t small;
};

static int by_place(const void *a, const void *b, void *user)
{
	const struct store_place *places = user;
	const struct store_entry *left = &places[*(const uint16_t *)a].entry;
	const struct store_entry *right = &places[*(const uint16_t *)b].entry;
	if (left->segment != right->segment)
		return left->segment < right->segment ? -1 : 1;
	return (left->offset > right->offset) - (left->offset < right->offset);
}

static uint64_t end_of(const struct store_entry *entry)
{
	return (uint64_t)entry->offset + STORE_HEADER + entry->size;
}

/* How many records from `first` on come with one read. */
static size_t run_length(const struct many *many, size_t first)
{
	const struct store_entry *start = &many->places[many->order[first]].entry, *last = start;
	size_t count = 1;
	for (; first + count < many->small; count++) {
		const struct store_entry *next = &many->places[many->order[first + count]].entry;
		if (next->segment != start->segment || next->offset > end_of(last) + GAP_BYTES ||
			end_of(next) - start->offset > RUN_BYTES)
			break;
		if (end_of(next) > end_of(last))
			last = next;
	}
	return count;
}

static void read_alone(struct many *many, size_t i)
{
	const struct store_entry *entry = &many->places[i].entry;
	unsigned char *bytes = croft_arena_alloc(many->arena, STORE_HEADER + (size_t)entry->size);
	if (store_record_read(many->store, many->places[i].segment, &many->digests[i], entry, bytes,
			&many->errors[i]))
		many->data[i] = CROFT_SLICE(bytes + STORE_HEADER, (size_t)entry->size);
}

static void read_run(struct many *many, size_t first, size_t count)
{
	const struct store_place *start = &many->places[many->order[first]];
	uint64_t end = 0;
	for (size_t i = 0; i < count; i++) {
		uint64_t one = end_of(&many->places[many->order[first + i]].entry);
		end = one > end ? one : end;
	}
	unsigned char *bytes =
		croft_arena_alloc(many->arena, (size_t)(end - start->entry.offset));
	bool read = count > 1 &&
				croft_pread_all(start->segment->fd, bytes, (size_t)(end - start->entry.offset),
					start->entry.offset, "a segment of the store", NULL);
	for (size_t at = first; at < first + count; at++) {
		size_t i = many->order[at];
		const struct store_entry *entry = &many->places[i].entry;
		unsigned char *record = bytes + (entry->offset - start->entry.offset);
		/* One that fails in company is looked at again by itself, which says what is wrong. */
		if (read && store_record_is(start->segment, &many->digests[i], entry, record))
			many->data[i] = CROFT_SLICE(record + STORE_HEADER, (size_t)entry->size);
		else
			read_alone(many, i);
	}
}

static void release(struct many *many)
{
	CROFT_LOCKED(&many->store->lock);
	for (size_t i = 0; i < many->small; i++)
		store_segment_unref(many->store, many->places[many->order[i]].segment);
}

static void get_part(struct many *many, size_t count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	bool looked = store_find_places(
		many->store, many->digests, count, STORE_TOUCH, many->found, many->places, &err);
	many->small = 0;
	for (size_t i = 0; i < count; i++) {
		many->errors[i] = err;
		many->data[i] = CROFT_SLICE("", 0);
		if (!looked || croft_digest_is_empty(&many->digests[i]))
			continue;
		if (!many->found[i])
			store_not_found(&many->digests[i], &many->errors[i]);
		else if (many->places[i].segment)
			many->order[many->small++] = (uint16_t)i;
		else
			store_get(many->store, &many->digests[i], STORE_TOUCH, many->arena, &many->data[i],
				&many->errors[i]);
	}
	qsort_r(many->order, many->small, sizeof(many->order[0]), by_place, many->places);
	for (size_t at = 0, run; at < many->small; at += run) {
		run = run_length(many, at);
		read_run(many, at, run);
	}
	release(many);
}

bool croft_store_get_many(struct croft_store *store, const struct croft_digest *digests,
	size_t count, struct croft_arena *arena, struct croft_slice *data, struct croft_error *errors)
{
	bool ok = true;
	CROFT_CLEANUP_FREE struct many *many = croft_alloc(sizeof(*many));
	for (size_t at = 0; at < count; at += STORE_FIND_MOST) {
		size_t part = count - at < STORE_FIND_MOST ? count - at : STORE_FIND_MOST;
		many->store = store;
		many->digests = digests + at;
		many->arena = arena;
		many->data = data + at;
		many->errors = errors + at;
		get_part(many, part);
	}
	for (size_t i = 0; i < count; i++)
		ok &= errors[i].code == CROFT_OK;
	return ok;
}
