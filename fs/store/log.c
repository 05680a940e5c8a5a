/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Group commit. Whoever finds nobody writing takes what is queued, writes and syncs it with one
 * call each, publishes it and wakes the others. A blob that somebody else is writing, or that is
 * just being removed, stays queued until that is over.
 *
 * Overwriting zeros that are on disk already syncs ten times as fast as growing a file, since no
 * metadata changes: small batches therefore leave a stretch of zeros behind them.
 *
 * The chunks of a large blob need not be on disk before the blob's recipe is. They are written at once and
 * stay unsynced, unknown to all, until the next sync of whatever comes behind them: a recipe's, anybody
 * else's, or one's who wants to store the same chunk. They are always the end of the open segment, and the
 * position up to which the log is in the index stays before them.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	BATCH_BYTES = 4 << 20,
	BATCH_ITEMS = 4096,
	ZEROS = 1 << 20,              /* written ahead by a durable store's small batches */
	ZEROS_BATCH_LIMIT = 256 << 10, /* batches above do not: writing twice would cost more */
	IN_PLACE_BYTES = 16 << 10, /* a record's, on average, from which a batch is not copied together */
	PENDING_LIMIT = 256 << 10,    /* entries; more wait for the keeper */
	CHECKPOINT_ENTRIES = 16 << 10, /* at which the keeper does not wait for its second to end */
	UNSYNCED_MOST = 64 << 20,      /* bytes; a sync that somebody waits for has no more to write than that */
};

struct batch {
	struct store_append *items[BATCH_ITEMS];
	size_t count;
	uint64_t bytes;
	bool notes;
	bool sync;        /* not all of it, or somebody waits for what is unsynced */
	bool sync_failed; /* whatever was unsynced is lost */
};

void store_large_path(const uint8_t *hash, char path[80])
{
	char text[CROFT_HASH_TEXT];
	croft_hash_format(hash, text);
	snprintf(path, 80, "%.2s/%s", text, text + 2);
}

void store_temporary_name(uint64_t number, char name[32])
{
	snprintf(name, 32, "%llx", (unsigned long long)number);
}

/* `lock` held. The item's memory may be gone as soon as the lock is given up. */
static void finish(struct croft_store *store, struct store_append *item, const struct croft_error *err)
{
	store->reserved_bytes -= item->reserved_bytes;
	store->reserved_inodes -= item->reserved_inodes;
	item->ok = !err;
	if (err)
		item->err = *err;
	item->done = true;
}

/* Has what somebody does with this blob to be over first? Who finds it WRITING while nobody writes gets on
 * by a sync. `lock` held. */
static bool is_blocked(struct croft_store *store, const struct store_append *item,
	const struct store_pending *pending)
{
	if (!pending || item->move)
		return false;
	if (pending->state != STORE_PRESENT)
		return true;
	/* One that is broken, or it would not be put again: it is replaced once the index has it. */
	if (item->kind != STORE_RECORD_RECIPE || croft_slice_equal(pending->sums, item->payload))
		return false;
	store->keeper.asked++;
	pthread_cond_signal(&store->keeper.wake);
	return true;
}

/* Moves what can be written now from the queue to the batch. `lock` held. */
static void gather(struct croft_store *store, struct batch *batch)
{
	uint64_t limit = store->segment_limit < BATCH_BYTES ? store->segment_limit : BATCH_BYTES;
	struct store_append **at = &store->log.head;
	while (*at && batch->count < BATCH_ITEMS) {
		struct store_append *item = *at;
		const struct store_pending *pending =
			store_pending_find(&store->pending, item->digest.hash);
		if (is_blocked(store, item, pending)) {
			batch->sync |= pending->state == STORE_WRITING;
			at = &item->next;
			continue;
		}
		uint64_t bytes = store_record_bytes(item->payload.size);
		if (!pending && batch->count > 0 && batch->bytes + bytes > limit)
			break;
		*at = item->next;
		if (pending) { /* stored meanwhile, or nothing to move any more */
			finish(store, item, NULL);
			continue;
		}
		store_pending_set(&store->pending, item->digest.hash, STORE_WRITING,
			&(struct store_entry){0}, CROFT_SLICE(NULL, 0));
		batch->items[batch->count++] = item;
		batch->bytes += bytes;
		batch->notes |= item->kind == STORE_RECORD_LARGE;
		batch->sync |= !item->later;
	}
	if (store->log.open && store->log.open->size - store->log.synced + batch->bytes > UNSYNCED_MOST)
		batch->sync = true;
	batch->sync &= store->config.durable;
	store->log.tail = &store->log.head;
	while (*store->log.tail)
		store->log.tail = &(*store->log.tail)->next;
}

/* `lock` held. */
static void make_present(struct croft_store *store, const uint8_t *hash,
	const struct store_entry *entry, struct croft_slice sums, bool move)
{
	store_pending_set(&store->pending, hash, STORE_PRESENT, entry, sums)->rewrite = move;
	if (move) {
		store->generation++;
		return;
	}
	store->totals.blobs++;
	store->totals.bytes += store_entry_bytes(entry);
	store->totals.large_files += store_is_file(entry);
	store->totals.large_disk_bytes += store_is_file(entry) ? store_entry_disk_bytes(entry) : 0;
}

/* `lock` held. */
static void publish_unsynced(struct croft_store *store)
{
	for (size_t i = 0; i < store->log.unsynced_count; i++)
		make_present(store, store->log.unsynced[i].hash, &store->log.unsynced[i].entry,
			CROFT_SLICE(NULL, 0), false);
	store->log.unsynced_count = 0;
	if (store->log.open)
		store->log.synced = store->log.open->size;
}

/* After a sync that failed nobody knows what of it is on disk, and another one would not tell. `lock` held. */
static void drop_unsynced(struct croft_store *store)
{
	struct store_segment *segment = store->log.open;
	for (size_t i = 0; i < store->log.unsynced_count; i++)
		store_pending_remove(&store->pending, store->log.unsynced[i].hash);
	store->log.unsynced_count = 0;
	if (!segment || segment->size == store->log.synced)
		return;
	store->segment_bytes -= segment->size - store->log.synced;
	segment->size = store->log.zeroed = store->log.synced;
	if (ftruncate(segment->fd, segment->size) < 0)
		croft_log(CROFT_LOG_WARNING, "%s: segment %08x could not be cut", store->path, segment->number);
}

/* `lock` held. */
static void remember_unsynced(struct croft_store *store, const struct store_append *item)
{
	if (store->log.unsynced_count == store->log.unsynced_room) {
		store->log.unsynced_room = store->log.unsynced_room ? 2 * store->log.unsynced_room : 256;
		store->log.unsynced = croft_realloc(
			store->log.unsynced, store->log.unsynced_room, sizeof(*store->log.unsynced));
	}
	struct store_unsynced *unsynced = &store->log.unsynced[store->log.unsynced_count++];
	memcpy(unsynced->hash, item->digest.hash, CROFT_HASH_SIZE);
	unsynced->entry = item->entry;
}

static bool sync_segment(struct croft_store *store, struct batch *batch, struct croft_error *err)
{
	if (!store->config.durable || fdatasync(store->log.open->fd) == 0)
		return true;
	batch->sync_failed = true;
	return croft_error_errno(err, errno, "syncing a segment of the store");
}

static bool open_segment(struct croft_store *store, struct batch *batch, struct croft_error *err)
{
	struct store_segment *last = store->log.open;
	if (last && last->size > store->log.synced && !sync_segment(store, batch, err))
		return false;
	if (last && store->log.zeroed > last->size && ftruncate(last->fd, last->size) < 0)
		return croft_error_errno(err, errno, "%s: cutting a full segment", store->path);
	uint32_t number = store->log.last + 1;
	char name[16];
	store_segment_name(number, name);
	int fd = openat(store->segments_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return croft_error_errno(err, errno, "%s: creating segment %s", store->path, name);
	if (store->config.durable && fsync(store->segments_fd) < 0) {
		croft_error_errno(err, errno, "%s: syncing segments/", store->path);
		unlinkat(store->segments_fd, name, 0);
		close(fd);
		return false;
	}
	pthread_mutex_lock(&store->lock);
	publish_unsynced(store);
	store->log.open = store_segment_add(&store->segments, number, fd);
	store->log.last = number;
	store->log.zeroed = store->log.synced = 0;
	pthread_mutex_unlock(&store->lock);
	return true;
}

/* Headers and offsets of what is written behind one another. */
static void fill_records(struct batch *batch, const struct store_segment *segment)
{
	uint32_t offset = segment->size;
	for (size_t i = 0; i < batch->count; i++) {
		struct store_append *item = batch->items[i];
		store_record_fill(&item->record, item->kind, &item->digest, segment->number, item->payload);
		item->entry.offset = offset;
		offset += (uint32_t)store_record_bytes(item->payload.size);
	}
}

static bool write_copied(const struct batch *batch, const struct store_segment *segment, size_t zeros,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE unsigned char *buffer = croft_alloc(batch->bytes + zeros);
	unsigned char *at = buffer;
	for (size_t i = 0; i < batch->count; i++) {
		const struct store_append *item = batch->items[i];
		size_t bytes = store_record_bytes(item->payload.size);
		memcpy(at, &item->record, STORE_HEADER);
		if (item->payload.size)
			memcpy(at + STORE_HEADER, item->payload.data, item->payload.size);
		size_t used = STORE_HEADER + item->payload.size;
		memset(at + used, 0, bytes - used);
		at += bytes;
	}
	memset(at, 0, zeros);
	return croft_pwrite_all(segment->fd, buffer, batch->bytes + zeros, segment->size,
		"a segment of the store", err);
}

static bool write_vectors(int fd, struct iovec *parts, size_t count, uint64_t offset,
	struct croft_error *err)
{
	while (count > 0) {
		ssize_t put = pwritev(fd, parts, (int)(count < IOV_MAX ? count : IOV_MAX), (off_t)offset);
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return croft_error_errno(err, put < 0 ? errno : EIO, "writing a segment of the store");
		offset += (uint64_t)put;
		size_t done = (size_t)put;
		for (; count > 0 && done >= parts->iov_len; parts++, count--)
			done -= parts->iov_len;
		if (count > 0) {
			parts->iov_base = (char *)parts->iov_base + done;
			parts->iov_len -= done;
		}
	}
	return true;
}

/* From where the payloads stand: what is copied once more costs as much as all the rest when it is much. */
static bool write_in_place(const struct batch *batch, const struct store_segment *segment,
	struct croft_error *err)
{
	static const char padding[8];
	CROFT_CLEANUP_FREE struct iovec *parts = croft_array(3 * batch->count, sizeof(*parts));
	size_t count = 0;
	for (size_t i = 0; i < batch->count; i++) {
		struct store_append *item = batch->items[i];
		size_t used = STORE_HEADER + item->payload.size;
		size_t pad = store_record_bytes(item->payload.size) - used;
		parts[count++] = (struct iovec){&item->record, STORE_HEADER};
		if (item->payload.size)
			parts[count++] = (struct iovec){(void *)item->payload.data, item->payload.size};
		if (pad)
			parts[count++] = (struct iovec){(void *)padding, pad};
	}
	return write_vectors(segment->fd, parts, count, segment->size, err);
}

static bool write_at_end(struct croft_store *store, struct batch *batch, size_t zeros,
	struct croft_error *err)
{
	struct store_segment *segment = store->log.open;
	bool in_place = zeros == 0 && batch->bytes / batch->count >= IN_PLACE_BYTES;
	fill_records(batch, segment);
	if (!(in_place ? write_in_place(batch, segment, err) : write_copied(batch, segment, zeros, err)) ||
		(batch->sync && !sync_segment(store, batch, err))) {
		/* What did reach the disk would be taken for stored at a replay: harmless, it is whole. */
		if (ftruncate(segment->fd, segment->size) < 0)
			return false;
		store->log.zeroed = segment->size;
		return false;
	}
	/* So that the sync finds less to do; a hint, whose failure shows again then. */
	if (store->config.durable && !batch->sync)
		sync_file_range(segment->fd, segment->size, (off_t)batch->bytes, SYNC_FILE_RANGE_WRITE);
	uint32_t end = segment->size + (uint32_t)(batch->bytes + zeros);
	if (end > store->log.zeroed)
		store->log.zeroed = end;
	return true;
}

static bool write_batch(struct croft_store *store, struct batch *batch, struct croft_error *err)
{
	if (batch->count == 0)
		return sync_segment(store, batch, err);
	if ((!store->log.open || (store->log.open->size > 0 &&
								 store->log.open->size + batch->bytes > store->segment_limit)) &&
		!open_segment(store, batch, err))
		return false;
	/* The temporary files' names must be on disk before the log tells of them. */
	if (batch->notes && store->config.durable && fsync(store->temporary_fd) < 0)
		return croft_error_errno(err, errno, "%s: syncing tmp/", store->path);
	const struct store_segment *segment = store->log.open;
	bool zeros = batch->sync && batch->bytes <= ZEROS_BATCH_LIMIT &&
				 segment->size == store->log.synced &&
				 segment->size + batch->bytes > store->log.zeroed &&
				 segment->size + batch->bytes + ZEROS <= store->segment_limit &&
				 store->segment_limit >= 8 * ZEROS;
	if (zeros && write_at_end(store, batch, ZEROS, NULL))
		return true;
	return write_at_end(store, batch, 0, err);
}

/* Gives a large blob its place. It is named in the log, so a crash before this is mended by replay. */
static bool place_large(struct croft_store *store, struct store_append *item)
{
	const struct store_large_note *note = item->payload.data;
	char from[32], to[80];
	store_temporary_name(note->temporary, from);
	store_large_path(item->digest.hash, to);
	return renameat(store->temporary_fd, from, store->large_fd, to) == 0 ||
		   croft_error_errno(&item->err, errno, "%s: naming large/%s", store->path, to);
}

/* `lock` held. */
static void publish(struct croft_store *store, struct store_append *item, bool later)
{
	struct croft_slice sums = {NULL, 0};
	bool large = item->kind == STORE_RECORD_LARGE, recipe = item->kind == STORE_RECORD_RECIPE;
	item->entry.size = item->digest.size_bytes;
	item->entry.packed = item->kind == STORE_RECORD_BLOB && item->payload.size < item->entry.size
		? store_packed_units(item->payload.size) : 0;
	item->entry.segment = large || recipe ? 0 : store->log.open->number;
	if (recipe) {
		sums = store_copy(item->payload);
		item->entry.offset = STORE_RECIPE;
	}
	if (large) {
		sums = store_copy(CROFT_SLICE((const char *)item->payload.data + sizeof(struct store_large_note),
			item->payload.size - sizeof(struct store_large_note)));
		item->entry.offset = store->config.durable ? STORE_SYNCED : store->epoch;
		store->log.renamed[item->digest.hash[0]] = true;
	}
	if (later)
		remember_unsynced(store, item);
	else
		make_present(store, item->digest.hash, &item->entry, sums, item->move);
}

/* What was written is there, or waits for the sync that makes it so. `lock` held. */
static void publish_batch(struct croft_store *store, struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++) {
		struct store_append *item = batch->items[i];
		if (item->ok)
			publish(store, item, !batch->sync && store->config.durable);
		else
			store_pending_remove(&store->pending, item->digest.hash);
		finish(store, item, item->ok ? NULL : &item->err);
	}
	store->log.open->size += (uint32_t)batch->bytes;
	store->segment_bytes += batch->bytes;
	if (batch->sync || !store->config.durable)
		publish_unsynced(store);
}

/* `lock` held. */
static void drop_batch(struct croft_store *store, struct batch *batch, const struct croft_error *err)
{
	for (size_t i = 0; i < batch->count; i++) {
		store_pending_remove(&store->pending, batch->items[i]->digest.hash);
		finish(store, batch->items[i], err);
	}
	if (batch->sync_failed)
		drop_unsynced(store);
	store->keeper.asked++; /* to look at the disk */
	pthread_cond_signal(&store->keeper.wake);
}

/* Writes one batch. `lock` held before and after, not meanwhile. */
static void lead(struct croft_store *store, bool sync)
{
	struct batch *batch = croft_alloc(sizeof(*batch));
	batch->count = 0;
	batch->bytes = 0;
	batch->notes = batch->sync_failed = false;
	batch->sync = sync;
	gather(store, batch);
	if (batch->count == 0 && !(batch->sync && store->log.unsynced_count > 0)) {
		free(batch);
		pthread_cond_broadcast(&store->changed);
		return;
	}
	store->log.writing = true;
	pthread_mutex_unlock(&store->lock);

	struct croft_error err = CROFT_ERROR_INIT;
	bool ok = write_batch(store, batch, &err);
	for (size_t i = 0; ok && i < batch->count; i++)
		batch->items[i]->ok =
			batch->items[i]->kind != STORE_RECORD_LARGE || place_large(store, batch->items[i]);

	pthread_mutex_lock(&store->lock);
	bool idle = store->pending.settled == 0;
	if (ok)
		publish_batch(store, batch);
	else
		drop_batch(store, batch, &err);
	store->log.writing = false;
	if (idle || store->pending.settled >= CHECKPOINT_ENTRIES)
		pthread_cond_signal(&store->keeper.wake);
	pthread_cond_broadcast(&store->changed);
	free(batch);
}

/* `lock` held. */
static bool all_done(const struct store_append *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!items[i].done)
			return false;
	return true;
}

/* `lock` held. */
static bool can_lead(struct croft_store *store)
{
	if (store->log.writing)
		return false;
	for (const struct store_append *item = store->log.head; item; item = item->next) {
		const struct store_pending *pending =
			store_pending_find(&store->pending, item->digest.hash);
		if (!is_blocked(store, item, pending) || pending->state == STORE_WRITING)
			return true;
	}
	return false;
}

bool store_log_append(struct croft_store *store, struct store_append *items, size_t count)
{
	CROFT_LOCKED(&store->lock);
	while (store->pending.settled > PENDING_LIMIT && !store->keeper.failure.code && !items[0].move)
		pthread_cond_wait(&store->changed, &store->lock);
	for (size_t i = 0; i < count; i++) {
		items[i].next = NULL;
		items[i].done = items[i].ok = false;
		items[i].err = CROFT_ERROR_INIT;
		*store->log.tail = &items[i];
		store->log.tail = &items[i].next;
	}
	while (!all_done(items, count)) {
		if (can_lead(store))
			lead(store, false);
		else
			pthread_cond_wait(&store->changed, &store->lock);
	}
	bool ok = true;
	for (size_t i = 0; i < count; i++)
		ok &= items[i].ok;
	return ok;
}

void store_log_sync(struct croft_store *store)
{
	CROFT_LOCKED(&store->lock);
	while (store->log.writing)
		pthread_cond_wait(&store->changed, &store->lock);
	if (store->log.unsynced_count > 0)
		lead(store, true);
}
