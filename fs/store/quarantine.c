/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What turns out to be damaged is counted missing from that moment on, so that it can be fetched or
 * uploaded again; its bytes are kept in quarantine/, as far as that is a small part of the budget.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { QUARANTINE_FILES = 1000, QUARANTINE_PART = 100 /* of the budget */ };

/* Is it still where the reader found it? `lock` held, over a read of the index: this is rare. */
static bool still_there(struct croft_store *store, const struct croft_digest *digest,
	const struct store_entry *entry)
{
	struct store_entry now;
	const struct store_pending *pending = store_pending_find(&store->pending, digest->hash);
	if (pending && pending->state == STORE_PRESENT) {
		now = pending->entry;
	} else if (pending) {
		return false;
	} else {
		MDB_txn *txn = store_read_begin(&store->index, NULL);
		int found = txn ? store_index_get(&store->index, txn, digest->hash, &now, NULL) : -1;
		store_read_end(&store->index, txn);
		if (found != 1)
			return false;
	}
	return now.segment == entry->segment && (!now.segment || now.offset == entry->offset);
}

/* `lock` held: nobody stores the blob anew while its old file is taken away. */
static void keep_large(struct croft_store *store, const struct croft_digest *digest, bool room)
{
	char from[80], to[CROFT_HASH_TEXT];
	store_large_path(digest->hash, from);
	croft_hash_format(digest->hash, to);
	if (room && renameat(store->large_fd, from, store->quarantine_fd, to) == 0) {
		struct store_entry entry = {.size = digest->size_bytes};
		store->quarantine_bytes += store_entry_disk_bytes(&entry);
		store->quarantine_files++;
	}
}

static void keep_small(struct croft_store *store, const struct croft_digest *digest,
	const struct store_entry *entry, struct store_segment *segment)
{
	char name[CROFT_HASH_TEXT];
	croft_hash_format(digest->hash, name);
	size_t size = (size_t)store_payload_bytes(entry);
	CROFT_CLEANUP_FREE void *bytes = croft_alloc(size);
	CROFT_CLEANUP_FD int fd =
		openat(store->quarantine_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	ssize_t got = pread(segment->fd, bytes, size, entry->offset + STORE_HEADER);
	if (got > 0 && !croft_write_all(fd, bytes, (size_t)got, "a quarantined blob", NULL))
		unlinkat(store->quarantine_fd, name, 0);
}

void store_quarantine(struct croft_store *store, const struct croft_digest *digest,
	const struct store_entry *entry, const char *why)
{
	if (store->config.read_only)
		return;
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	struct store_segment *segment = NULL;
	bool room;
	{
		CROFT_LOCKED(&store->lock);
		if (!still_there(store, digest, entry))
			return;
		room = store->quarantine_files < QUARANTINE_FILES &&
			   store->quarantine_bytes + entry->size < store->budget_bytes / QUARANTINE_PART;
		if (store_is_file(entry)) {
			keep_large(store, digest, room);
		} else if (entry->segment && room && (segment = store_segment_find(&store->segments, entry->segment))) {
			segment->refs++;
			store->quarantine_bytes += (entry->size + STORE_PAGE - 1) & ~(uint64_t)(STORE_PAGE - 1);
			store->quarantine_files++;
		}
		store_pending_set(
			&store->pending, digest->hash, STORE_GONE, entry, CROFT_SLICE(NULL, 0));
		store->generation++;
		store->damage++;
		/* At once: until then nobody can store it anew. */
		store->keeper.asked++;
		pthread_cond_signal(&store->keeper.wake);
	}
	croft_log(CROFT_LOG_WARNING, "%s: blob %s is damaged and counted missing from now on: %s",
		store->path, text, why);
	if (!segment)
		return;
	keep_small(store, digest, entry, segment);
	CROFT_LOCKED(&store->lock);
	store_segment_unref(store, segment);
}
