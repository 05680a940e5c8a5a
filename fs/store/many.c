/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many blobs at once. What was stored together stands together: records of one segment that are near each
 * other come with one read, each blob to where it is wanted.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <stdlib.h>
#include <sys/uio.h>

enum {
	RUN_BYTES = 256 << 10, /* of one read at most, unless a single record has more */
	GAP_BYTES = 4 << 10,   /* between records that is rather read than read around */
};

struct many {
	struct croft_store *store;
	const struct croft_digest *digests;
	croft_store_room *room;
	void *user;
	size_t first; /* index of digests[0], for `room` */
	struct croft_error *errors;
	struct store_place places[STORE_FIND_MOST];
	bool found[STORE_FIND_MOST];
	unsigned char *to[STORE_FIND_MOST];
	uint16_t order[STORE_FIND_MOST]; /* the small ones, by where they stand */
	size_t small;
	unsigned char headers[STORE_FIND_MOST][STORE_HEADER];
	unsigned char gap[GAP_BYTES];
	struct iovec parts[3 * STORE_FIND_MOST];
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
	return (uint64_t)entry->offset + STORE_HEADER + store_payload_bytes(entry);
}

/* How many records from `first` on come with one read. */
static size_t run_length(const struct many *many, size_t first)
{
	const struct store_entry *start = &many->places[many->order[first]].entry, *last = start;
	size_t count = 1;
	for (; !start->packed && first + count < many->small; count++) {
		const struct store_entry *next = &many->places[many->order[first + count]].entry;
		/* The same one may be wanted twice. */
		if (next->segment != start->segment || next->packed || next->offset < end_of(last) ||
			next->offset > end_of(last) + GAP_BYTES || end_of(next) - start->offset > RUN_BYTES)
			break;
		last = next;
	}
	return count;
}

static bool read_parts(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
	ssize_t size = 0;
	for (size_t i = 0; i < count; i++)
		size += (ssize_t)parts[i].iov_len;
	return preadv(fd, parts, (int)count, (off_t)offset) == size;
}

static bool is_record(const struct many *many, const struct store_segment *segment, size_t i)
{
	return store_record_is(
		segment, &many->digests[i], &many->places[i].entry, many->headers[i], many->to[i]);
}

/* One that is packed, too; says what is wrong, if anything is. */
static void read_alone(struct many *many, size_t i)
{
	const struct store_entry *entry = &many->places[i].entry;
	CROFT_CLEANUP_FREE unsigned char *bytes = croft_alloc(STORE_HEADER + (size_t)entry->size);
	if (store_record_read(many->store, many->places[i].segment, &many->digests[i], entry, bytes,
			&many->errors[i]))
		memcpy(many->to[i], bytes + STORE_HEADER, (size_t)entry->size);
}

static void read_run(struct many *many, size_t first, size_t count)
{
	const struct store_place *start = &many->places[many->order[first]];
	uint64_t at = start->entry.offset;
	size_t used = 0;
	for (size_t next = first; next < first + count; next++) {
		size_t i = many->order[next];
		const struct store_entry *entry = &many->places[i].entry;
		if (entry->offset > at)
			many->parts[used++] = (struct iovec){many->gap, entry->offset - at};
		many->parts[used++] = (struct iovec){many->headers[i], STORE_HEADER};
		many->parts[used++] = (struct iovec){many->to[i], (size_t)entry->size};
		at = end_of(entry);
	}
	bool read = read_parts(start->segment->fd, many->parts, used, start->entry.offset);
	for (size_t next = first; next < first + count; next++) {
		size_t i = many->order[next];
		/* One that fails in company is looked at again by itself. */
		if (!read || !is_record(many, start->segment, i))
			read_alone(many, i);
	}
}

static void release(struct many *many)
{
	CROFT_LOCKED(&many->store->lock);
	for (size_t i = 0; i < many->small; i++)
		store_segment_unref(many->store, many->places[many->order[i]].segment);
}

/* Not a record of a segment. */
static void get_other(struct many *many, size_t i)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice data;
	if (store_get(many->store, &many->digests[i], STORE_TOUCH, arena, &data, &many->errors[i]))
		memcpy(many->to[i], data.data, data.size);
}

static void read_part(struct many *many, size_t count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	bool looked = store_find_places(
		many->store, many->digests, count, STORE_TOUCH, many->found, many->places, &err);
	many->small = 0;
	for (size_t i = 0; i < count; i++) {
		bool empty = croft_digest_is_empty(&many->digests[i]);
		many->errors[i] = err;
		if (looked && !many->found[i] && !empty)
			store_not_found(&many->digests[i], &many->errors[i]);
		many->to[i] = many->room(many->user, many->first + i, &many->errors[i]);
		if (!looked || !many->found[i] || empty)
			continue;
		if (many->places[i].segment)
			many->order[many->small++] = (uint16_t)i;
		else
			get_other(many, i);
	}
	qsort_r(many->order, many->small, sizeof(many->order[0]), by_place, many->places);
	for (size_t at = 0, run; at < many->small; at += run) {
		run = run_length(many, at);
		if (many->places[many->order[at]].entry.packed)
			read_alone(many, many->order[at]);
		else
			read_run(many, at, run);
	}
	release(many);
}

bool croft_store_read_many(struct croft_store *store, const struct croft_digest *digests, size_t count,
	croft_store_room *room, void *user, struct croft_error *errors)
{
	bool ok = true;
	CROFT_CLEANUP_FREE struct many *many = croft_alloc(sizeof(*many));
	for (size_t at = 0; at < count; at += STORE_FIND_MOST) {
		size_t part = count - at < STORE_FIND_MOST ? count - at : STORE_FIND_MOST;
		many->store = store;
		many->digests = digests + at;
		many->room = room;
		many->user = user;
		many->first = at;
		many->errors = errors + at;
		read_part(many, part);
	}
	for (size_t i = 0; i < count; i++)
		ok &= errors[i].code == CROFT_OK;
	return ok;
}

struct in_arena {
	const struct croft_digest *digests;
	struct croft_arena *arena;
	struct croft_slice *data;
};

static void *room_in_arena(void *user, size_t i, const struct croft_error *err)
{
	struct in_arena *in = user;
	in->data[i] = CROFT_SLICE("", 0);
	if (err->code || croft_digest_is_empty(&in->digests[i]))
		return NULL;
	void *room = croft_arena_alloc(in->arena, (size_t)in->digests[i].size_bytes);
	in->data[i] = CROFT_SLICE(room, (size_t)in->digests[i].size_bytes);
	return room;
}

bool croft_store_get_many(struct croft_store *store, const struct croft_digest *digests,
	size_t count, struct croft_arena *arena, struct croft_slice *data, struct croft_error *errors)
{
	struct in_arena in = {digests, arena, data};
	bool ok = croft_store_read_many(store, digests, count, room_in_arena, &in, errors);
	for (size_t i = 0; !ok && i < count; i++)
		if (errors[i].code)
			data[i] = CROFT_SLICE("", 0);
	return ok;
}
