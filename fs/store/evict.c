/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making room, on the keeper's thread: the least recently used blobs that nobody holds are marked
 * gone under the lock (from then on nobody finds them) and leave index and disk with the next
 * checkpoint. Segments that are mostly dead are emptied by appending what lives in them anew.
 *
 * The `age` table says what was last used when, as far as that was saved. Who turns out to have been
 * used since moves back in it instead of being evicted.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { CANDIDATES = 1024, MOVE_BYTES = 1 << 20, MOVE_ITEMS = 512, AGE_KEY = 16 };

struct candidate {
	uint8_t hash[CROFT_HASH_SIZE];
	struct store_entry entry;
};

struct scan {
	uint8_t key[AGE_KEY]; /* where to go on */
	uint64_t until_ms; /* what was used since then is not looked at: otherwise there is no end */
	bool later; /* what counts as used after now is all that is looked at */
	bool ended;
	struct candidate found[CANDIDATES];
	size_t count;
};

static uint64_t used_of(const uint8_t age[AGE_KEY])
{
	uint64_t ordered;
	memcpy(&ordered, age, 8);
	return __builtin_bswap64(ordered);
}

/* The blob that an age key stands for. */
static int blob_of(MDB_cursor *cursor, const uint8_t age[AGE_KEY], struct candidate *candidate)
{
	uint64_t used_ms = used_of(age);
	MDB_val key = {8, (void *)(age + 8)}, value;
	int code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	for (; code == 0; code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
		if (memcmp(key.mv_data, age + 8, 8) != 0)
			return MDB_NOTFOUND;
		memcpy(&candidate->entry, value.mv_data, sizeof(candidate->entry));
		memcpy(candidate->hash, key.mv_data, CROFT_HASH_SIZE);
		if (candidate->entry.used_ms == used_ms)
			return 0;
	}
	return code;
}

/* Reads the next candidates, oldest first. */
static bool scan_next(struct croft_store *store, struct scan *scan, struct croft_error *err)
{
	scan->count = 0;
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return false;
	MDB_cursor *ages = NULL, *blobs = NULL;
	int code = mdb_cursor_open(txn, store->index.age, &ages);
	if (!code)
		code = mdb_cursor_open(txn, store->index.blobs, &blobs);
	MDB_val key = {AGE_KEY, scan->key}, value;
	if (!code)
		code = mdb_cursor_get(ages, &key, &value, MDB_SET_RANGE);
	while (code == 0 && scan->count < CANDIDATES) {
		if (used_of(key.mv_data) > scan->until_ms) {
			code = MDB_NOTFOUND;
			break;
		}
		int found = blob_of(blobs, key.mv_data, &scan->found[scan->count]);
		if (found != 0 && found != MDB_NOTFOUND) {
			code = found;
			break;
		}
		scan->count += found == 0;
		memcpy(scan->key, key.mv_data, AGE_KEY);
		code = mdb_cursor_get(ages, &key, &value, MDB_NEXT);
	}
	if (code == 0)
		memcpy(scan->key, key.mv_data, AGE_KEY);
	scan->ended = code == MDB_NOTFOUND;
	if (blobs)
		mdb_cursor_close(blobs);
	if (ages)
		mdb_cursor_close(ages);
	store_read_end(&store->index, txn);
	return code == 0 || code == MDB_NOTFOUND || store_mdb_error(err, code, "looking for the oldest");
}

struct quota {
	uint64_t bytes, inodes;
};

/* `lock` held. */
static struct quota excess(const struct croft_store *store, uint64_t target_bytes,
	uint64_t target_inodes)
{
	uint64_t bytes = store_used_bytes(store), inodes = store_used_inodes(store);
	return (struct quota){bytes > target_bytes ? bytes - target_bytes : 0,
		inodes > target_inodes ? inodes - target_inodes : 0};
}

/* The scan goes on no later than where this one stands now. */
static void meet_again(struct scan *scan, const struct candidate *candidate)
{
	uint8_t key[AGE_KEY];
	uint64_t ordered = __builtin_bswap64(candidate->entry.used_ms);
	memcpy(key, &ordered, 8);
	memcpy(key + 8, candidate->hash, 8);
	if (memcmp(key, scan->key, AGE_KEY) < 0)
		memcpy(scan->key, key, AGE_KEY);
	scan->ended = false;
}

/* Marks until `wanted` would be free; false: there was nothing to mark. */
static bool mark(struct croft_store *store, struct scan *scan, struct quota wanted)
{
	struct quota marked = {0, 0};
	CROFT_LOCKED(&store->lock);
	uint64_t now_ms = store_now_ms(store);
	for (size_t i = 0; i < scan->count; i++) {
		struct candidate *candidate = &scan->found[i];
		if (marked.bytes >= wanted.bytes && marked.inodes >= wanted.inodes) {
			meet_again(scan, candidate); /* the rest is read again: it may have moved by then */
			break;
		}
		uint64_t key = store_key(candidate->hash);
		if (store_pending_find(&store->pending, candidate->hash))
			continue;
		struct store_active *active = store_activity_find(&store->activity, key);
		if (active && active->used_ms > candidate->entry.used_ms) {
			if (scan->later && active->used_ms <= now_ms)
				continue; /* it is being used, and would be met again and again */
			candidate->entry.used_ms = active->used_ms;
			active->unsaved = 0;
			store_pending_set(&store->pending, candidate->hash, STORE_PRESENT, &candidate->entry,
				CROFT_SLICE(NULL, 0))->rewrite = true;
			meet_again(scan, candidate);
			continue;
		}
		if (candidate->entry.lease_ms > now_ms || store_is_protected(store, key, now_ms))
			continue;
		store_pending_set(&store->pending, candidate->hash, STORE_GONE, &candidate->entry,
			CROFT_SLICE(NULL, 0))->evicted = true;
		store->generation++;
		marked.bytes += store_entry_disk_bytes(&candidate->entry);
		marked.inodes += store_is_file(&candidate->entry);
	}
	return marked.bytes > 0;
}

/* The closed segment with the largest dead part, when that is worth moving the rest; NULL: none.
 * With a reference. */
static struct store_segment *deadest(struct croft_store *store, unsigned dead_percent)
{
	CROFT_LOCKED(&store->lock);
	struct store_segment *best = NULL;
	double best_part = dead_percent / 100.0;
	for (size_t i = 0; i < store->segments.count; i++) {
		struct store_segment *segment = store->segments.items[i];
		if (segment->number >= store->keeper.position.segment || segment->size == 0 ||
			segment->stuck)
			continue;
		double part = (double)(segment->size - segment->live) / segment->size;
		if (part >= best_part) {
			best = segment;
			best_part = part;
		}
	}
	if (best)
		best->refs++;
	return best;
}

/* As the index knows it; newer uses are written there when they are ten minutes apart. */
static bool is_cold(const struct croft_store *store, const struct store_entry *entry)
{
	return entry->used_ms + store->config.cold_ms <= store_now_ms(store);
}

/* Adds the record at `offset` to those to be moved if the index still points at it. -1: error; 0:
 * not alive. */
static int add_live_record(struct croft_store *store, const struct store_segment *segment,
	uint32_t offset, const struct store_record *record, struct store_append *item)
{
	struct croft_digest digest = {.size_bytes = record->size};
	memcpy(digest.hash, record->hash, CROFT_HASH_SIZE);
	struct store_entry entry;
	struct croft_error err;
	int found = record->kind == STORE_RECORD_BLOB
					? store_find(store, &digest, STORE_LOOK, &entry, NULL, &err)
					: 0;
	if (found <= 0 || entry.segment != segment->number || entry.offset != offset)
		return found < 0 ? -1 : 0;
	unsigned char *buffer = croft_alloc(STORE_HEADER + (size_t)entry.size);
	if (!store_record_read(store, segment, &digest, &entry, buffer, &err)) { /* now in quarantine */
		free(buffer);
		return 0;
	}
	size_t size = (size_t)entry.size;
	unsigned char *packed =
		is_cold(store, &entry) ? store_pack(CROFT_SLICE(buffer + STORE_HEADER, size), &size) : NULL;
	if (packed) {
		free(buffer);
		buffer = packed;
	}
	*item = (struct store_append){.kind = STORE_RECORD_BLOB, .move = true, .digest = digest,
		.payload = CROFT_SLICE(buffer + STORE_HEADER, size), .entry = entry};
	return 1;
}

static bool move_items(struct croft_store *store, struct store_append *items, size_t count)
{
	bool ok = count == 0 || store_log_append(store, items, count);
	for (size_t i = 0; i < count; i++)
		free((unsigned char *)items[i].payload.data - STORE_HEADER);
	return ok;
}

/* Appends what lives in the segment anew; with the next checkpoint it is empty and goes. */
static bool compact(struct croft_store *store, struct store_segment *segment)
{
	CROFT_CLEANUP_FREE struct store_append *items = croft_array(MOVE_ITEMS, sizeof(*items));
	size_t count = 0, bytes = 0;
	bool ok = true;
	for (uint64_t at = 0; ok && at + STORE_HEADER <= segment->size;) {
		struct store_record record;
		if (!croft_pread_all(segment->fd, &record, STORE_HEADER, at, "a segment", NULL) ||
			record.segment != segment->number) {
			at += 8; /* damaged: what lives behind it is found by the next good header */
			continue;
		}
		int live = add_live_record(store, segment, (uint32_t)at, &record, &items[count]);
		if (live > 0)
			bytes += items[count++].payload.size;
		ok = live >= 0;
		at += store_record_bytes(record.payload_size);
		if (count == MOVE_ITEMS || bytes >= MOVE_BYTES) {
			ok = move_items(store, items, count) && ok;
			count = bytes = 0;
		}
	}
	return move_items(store, items, count) && ok;
}

static bool compact_one(struct croft_store *store, unsigned dead_percent)
{
	struct store_segment *segment = deadest(store, dead_percent);
	if (!segment)
		return false;
	uint32_t number = segment->number;
	bool ok = compact(store, segment);
	pthread_mutex_lock(&store->lock);
	store_segment_unref(store, segment);
	pthread_mutex_unlock(&store->lock);
	if (!ok || !store_checkpoint(store, NULL))
		return false;
	CROFT_LOCKED(&store->lock);
	segment = store_segment_find(&store->segments, number);
	if (segment)
		segment->stuck = true;
	return !segment;
}

/* What counts as used later than it was goes when all else is gone. */
static void scan_later(struct croft_store *store, struct scan *scan)
{
	uint64_t ordered = __builtin_bswap64(store_now_ms(store) + 1);
	memset(scan->key, 0, AGE_KEY);
	memcpy(scan->key, &ordered, sizeof(ordered));
	scan->until_ms = UINT64_MAX;
	scan->later = true;
	scan->ended = false;
}

bool store_evict(struct croft_store *store, uint64_t target_bytes, uint64_t target_inodes)
{
	CROFT_CLEANUP_FREE struct scan *scan = croft_zalloc(sizeof(*scan));
	bool progress = false;
	scan->until_ms = store_now_ms(store);
	/* What is still pending cannot be evicted. */
	if (!store_checkpoint(store, NULL))
		return false;
	for (;;) {
		pthread_mutex_lock(&store->lock);
		struct quota wanted = excess(store, target_bytes, target_inodes);
		pthread_mutex_unlock(&store->lock);
		if (wanted.bytes == 0 && wanted.inodes == 0)
			return true;
		if (wanted.bytes && compact_one(store, 50)) {
			progress = true;
		} else if (!scan->ended) {
			if (!scan_next(store, scan, NULL))
				return false;
			progress |= mark(store, scan, wanted);
			if (!store_checkpoint(store, NULL))
				return false;
		} else if (wanted.bytes && compact_one(store, 10)) {
			continue;
		} else if (!scan->later) {
			scan_later(store, scan);
		} else {
			/* Writers may have used up what was freed: then there is another round. */
			return progress;
		}
	}
}

/* Uses ----------------------------------------------------------------------------------------- */

enum { USE_GRAIN_MS = 10 * 60 * 1000, SAVE_CHUNK = 1024 };

/* Finds the blob of a key and, if its saved use is old enough, takes the new one over. */
static bool save_use(struct croft_store *store, MDB_cursor *blobs, uint64_t key, uint64_t used_ms,
	uint64_t grain_ms)
{
	struct candidate candidate;
	MDB_val prefix = {8, &key}, value;
	int code = mdb_cursor_get(blobs, &prefix, &value, MDB_SET_RANGE);
	if (code || memcmp(prefix.mv_data, &key, 8) != 0)
		return code == 0 || code == MDB_NOTFOUND;
	memcpy(&candidate.entry, value.mv_data, sizeof(candidate.entry));
	memcpy(candidate.hash, prefix.mv_data, CROFT_HASH_SIZE);
	if (used_ms < candidate.entry.used_ms + grain_ms)
		return true;
	candidate.entry.used_ms = used_ms;
	CROFT_LOCKED(&store->lock);
	if (store_pending_find(&store->pending, candidate.hash)) /* somebody else changes it: next time */
		store_use(store_activity_get(&store->activity, key), used_ms);
	else
		store_pending_set(&store->pending, candidate.hash, STORE_PRESENT, &candidate.entry,
			CROFT_SLICE(NULL, 0))->rewrite = true;
	return true;
}

bool store_save_uses(struct croft_store *store, bool all, struct croft_error *err)
{
	struct {
		uint64_t key, used_ms;
	} *uses = NULL;
	size_t count = 0;
	pthread_mutex_lock(&store->lock);
	uses = croft_array(store->activity.count + 1, sizeof(*uses));
	for (size_t i = 0; i < store->activity.room; i++) {
		struct store_active *active = &store->activity.slots[i];
		if (!active->key || !active->unsaved)
			continue;
		uses[count].key = active->key;
		uses[count++].used_ms = active->used_ms;
		active->unsaved = 0;
	}
	pthread_mutex_unlock(&store->lock);
	/* What was put and used just now is found in the index only after this. */
	bool ok = count == 0 || store_checkpoint(store, err);
	for (size_t at = 0; ok && at < count; at += SAVE_CHUNK) {
		MDB_txn *txn = store_read_begin(&store->index, err);
		MDB_cursor *blobs = NULL;
		int code = txn ? mdb_cursor_open(txn, store->index.blobs, &blobs) : -1;
		for (size_t i = at; code == 0 && i < count && i < at + SAVE_CHUNK; i++)
			ok &= save_use(store, blobs, uses[i].key, uses[i].used_ms, all ? 1 : USE_GRAIN_MS);
		if (blobs)
			mdb_cursor_close(blobs);
		store_read_end(&store->index, txn);
		ok = ok && code == 0 && store_checkpoint(store, err);
	}
	free(uses);
	return ok;
}
