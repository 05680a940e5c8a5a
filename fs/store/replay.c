/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * After a crash: the records behind the checkpoint's log position come back into the pending table.
 * Only these are read. What is no whole record (a torn end, zeros written ahead) is skipped, and cut
 * off when nothing follows it.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Live bytes as the index has them; -1: it does not know the segment. */
static int64_t saved_live(struct croft_store *store, uint32_t number, struct croft_error *err)
{
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return -2;
	struct croft_slice value;
	int found = store_table_get(txn, store->index.segments, &number, 4, &value, err);
	uint32_t live = 0;
	if (found == 1 && value.size == 4)
		memcpy(&live, value.data, 4);
	store_read_end(&store->index, txn);
	return found < 0 ? -2 : found ? (int64_t)live : -1;
}

static void put_back(struct croft_store *store, const struct store_record *record,
	struct store_entry entry, struct croft_slice sums)
{
	const struct store_pending *known = store_pending_find(&store->pending, record->hash);
	bool large = store_is_file(&entry);
	if (!known) { /* stored twice counts once */
		store->totals.blobs++;
		store->totals.bytes += store_entry_bytes(&entry);
		store->totals.large_files += large;
		store->totals.large_disk_bytes += large ? store_entry_disk_bytes(&entry) : 0;
	}
	entry.used_ms = store_now_ms(store);
	entry.lease_ms = store->config.durable ? entry.used_ms + store->config.lease_ms : 0;
	store_pending_set(&store->pending, record->hash, STORE_PRESENT, &entry, sums);
}

static void bring_back_blob(struct croft_store *store, const struct store_record *record,
	uint32_t segment, uint32_t offset)
{
	put_back(store, record,
		(struct store_entry){.size = record->size, .segment = segment, .offset = offset,
			.packed = record->payload_size < record->size ? store_packed_units(record->payload_size) : 0},
		CROFT_SLICE(NULL, 0));
}

/* In a cache nobody knows whether all of the file got to the disk: it is of an earlier epoch.
 *
 * The file is where it belongs or still under its temporary name; otherwise it never got to the
 * disk (and nobody was told that it did). */
static void bring_back_large(struct croft_store *store, const struct store_record *record,
	const unsigned char *payload)
{
	struct store_large_note note;
	memcpy(&note, payload, sizeof(note));
	char from[32], to[80];
	store_temporary_name(note.temporary, from);
	store_large_path(record->hash, to);
	struct stat st;
	if (fstatat(store->temporary_fd, from, &st, 0) == 0 && (uint64_t)st.st_size == record->size)
		renameat(store->temporary_fd, from, store->large_fd, to);
	if (fstatat(store->large_fd, to, &st, 0) < 0 || (uint64_t)st.st_size != record->size)
		return;
	store->log.renamed[record->hash[0]] = true;
	put_back(store, record,
		(struct store_entry){.size = record->size,
			.offset = store->config.durable ? STORE_SYNCED : store->epoch - 1},
		store_copy(CROFT_SLICE(payload + sizeof(note), record->payload_size - sizeof(note))));
}

/* Whether the chunks are all there is found out when the blob is. */
static void bring_back_recipe(struct croft_store *store, const struct store_record *record,
	const unsigned char *payload)
{
	put_back(store, record, (struct store_entry){.size = record->size, .offset = STORE_RECIPE},
		store_copy(CROFT_SLICE(payload, record->payload_size)));
}

static bool has_right_size(const struct store_record *record)
{
	switch (record->kind) {
	case STORE_RECORD_BLOB:
		return record->payload_size <= record->size && record->size <= CROFT_CHUNK_MOST;
	case STORE_RECORD_LARGE:
		return record->payload_size > sizeof(struct store_large_note);
	case STORE_RECORD_RECIPE:
		return record->payload_size > 0 && record->payload_size % sizeof(struct croft_digest) == 0;
	default:
		return false;
	}
}

static bool is_record(const unsigned char *at, size_t left, uint32_t segment,
	struct store_record *record)
{
	if (left < STORE_HEADER)
		return false;
	memcpy(record, at, STORE_HEADER);
	return record->segment == segment && record->payload_size <= left - STORE_HEADER &&
		   store_record_check(record, segment, at + STORE_HEADER) && has_right_size(record);
}

/* Returns the end of the last whole record. */
static uint32_t replay_bytes(struct croft_store *store, const unsigned char *bytes, size_t size,
	uint32_t segment, uint32_t from)
{
	uint32_t end = from;
	for (size_t at = from; at + STORE_HEADER <= size;) {
		struct store_record record;
		if (!is_record(bytes + at, size - at, segment, &record)) {
			at += 8;
			continue;
		}
		if (record.kind == STORE_RECORD_BLOB)
			bring_back_blob(store, &record, segment, (uint32_t)at);
		else if (record.kind == STORE_RECORD_RECIPE)
			bring_back_recipe(store, &record, bytes + at + STORE_HEADER);
		else
			bring_back_large(store, &record, bytes + at + STORE_HEADER);
		at += store_record_bytes(record.payload_size);
		end = (uint32_t)at;
	}
	return end;
}

static bool replay_segment(struct croft_store *store, struct store_segment *segment, uint32_t from,
	struct croft_error *err)
{
	struct stat st;
	if (fstat(segment->fd, &st) < 0)
		return croft_error_errno(err, errno, "%s: segment %08x", store->path, segment->number);
	size_t size = (size_t)st.st_size;
	uint32_t end = from;
	if (size > from) {
		void *bytes = mmap(NULL, size, PROT_READ, MAP_SHARED, segment->fd, 0);
		if (bytes == MAP_FAILED)
			return croft_error_errno(
				err, errno, "%s: mapping segment %08x", store->path, segment->number);
		end = replay_bytes(store, bytes, size, segment->number, from);
		munmap(bytes, size);
	}
	if (size > end && ftruncate(segment->fd, end) < 0)
		return croft_error_errno(
			err, errno, "%s: cutting segment %08x", store->path, segment->number);
	/* After a crash of the process alone, what nobody had synced is there all the same. From now on it is
	 * told of. */
	if (store->config.durable && end > from && fdatasync(segment->fd) < 0)
		return croft_error_errno(
			err, errno, "%s: syncing segment %08x", store->path, segment->number);
	segment->size = end;
	return true;
}

static bool open_segment(struct croft_store *store, uint32_t number,
	struct store_position position, struct croft_error *err)
{
	char name[16];
	store_segment_name(number, name);
	int64_t live = saved_live(store, number, err);
	if (live < -1)
		return false;
	if (live == -1 && number < position.segment) { /* its last blob went, then came the crash */
		unlinkat(store->segments_fd, name, 0);
		return true;
	}
	int fd = openat(store->segments_fd, name, O_RDWR | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0) {
		croft_error_errno(err, errno, "%s: opening segment %s", store->path, name);
		if (fd >= 0)
			close(fd);
		return false;
	}
	struct store_segment *segment = store_segment_add(&store->segments, number, fd);
	segment->live = live > 0 ? (uint32_t)live : 0;
	segment->size = (uint32_t)st.st_size;
	if (number >= position.segment &&
		!replay_segment(store, segment, number == position.segment ? position.offset : 0, err))
		return false;
	store->segment_bytes += segment->size;
	return true;
}

/* Segments that the index names and that are not there. What they held counts as missing. */
static bool look_for_lost(struct croft_store *store, struct croft_error *err)
{
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return false;
	MDB_cursor *cursor;
	MDB_val key, value;
	int code = mdb_cursor_open(txn, store->index.segments, &cursor);
	for (MDB_cursor_op op = MDB_FIRST; code == 0 && mdb_cursor_get(cursor, &key, &value, op) == 0; op = MDB_NEXT) {
		uint32_t number;
		memcpy(&number, key.mv_data, sizeof(number));
		if (!store_segment_find(&store->segments, number))
			croft_log(CROFT_LOG_WARNING,
				"%s: segments/%08x has gone: what it held counts as missing (`croft fsck` says how much)",
				store->path, number);
	}
	if (code == 0)
		mdb_cursor_close(cursor);
	store_read_end(&store->index, txn);
	return code == 0 || store_mdb_error(err, code, "listing segments");
}

bool store_replay(struct croft_store *store, struct store_position position,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE uint32_t *numbers = NULL;
	size_t count;
	if (!store_list_numbered(store->segments_fd, &numbers, &count, err))
		return croft_error_wrap(err, "%s: segments/", store->path);
	store->log.last = position.segment;
	for (size_t i = 0; i < count; i++) {
		if (numbers[i] > store->log.last)
			store->log.last = numbers[i];
		if (!open_segment(store, numbers[i], position, err))
			return false;
	}
	if (store->segments.count) {
		struct store_segment *last = store->segments.items[store->segments.count - 1];
		if (last->number == store->log.last && last->number >= position.segment) {
			store->log.open = last;
			store->log.zeroed = store->log.synced = last->size;
		}
	}
	return look_for_lost(store, err);
}
