/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking stored blobs against their SHA-256: what fsck and the scrub do.
 */
#include "fs/store/internal.h"
#include "fs/store/xxh3.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

ssize_t store_list_blobs(struct croft_store *store, const uint8_t *after,
	uint8_t (*hashes)[CROFT_HASH_SIZE], size_t room, struct croft_error *err)
{
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return -1;
	MDB_cursor *cursor;
	int code = mdb_cursor_open(txn, store->index.blobs, &cursor);
	size_t count = 0;
	if (code == 0) {
		MDB_val key = {CROFT_HASH_SIZE, (void *)after}, value;
		code = mdb_cursor_get(cursor, &key, &value, after ? MDB_SET_RANGE : MDB_FIRST);
		if (code == 0 && after && memcmp(key.mv_data, after, CROFT_HASH_SIZE) == 0)
			code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
		for (; code == 0 && count < room; code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))
			memcpy(hashes[count++], key.mv_data, CROFT_HASH_SIZE);
		mdb_cursor_close(cursor);
	}
	store_read_end(&store->index, txn);
	if (code == 0 || code == MDB_NOTFOUND)
		return (ssize_t)count;
	store_mdb_error(err, code, "listing blobs");
	return -1;
}

static int check_small(struct croft_store *store, const struct croft_digest *digest,
	const struct store_entry *entry, const struct store_segment *segment, const char **why)
{
	CROFT_CLEANUP_FREE unsigned char *buffer = croft_alloc(STORE_HEADER + (size_t)entry->size);
	struct croft_error err = CROFT_ERROR_INIT;
	if (!store_record_load(segment, digest, entry, buffer, &err)) {
		*why = err.code == CROFT_DATA_LOSS ? "its record does not match its checksum" : "its record cannot be read";
		return 0;
	}
	*why = "its bytes have another SHA-256";
	struct croft_digest got = croft_digest_of(buffer + STORE_HEADER, (size_t)entry->size);
	return croft_digest_equal(&got, digest);
}

static int check_large(struct croft_store *store, const struct croft_digest *digest,
	const char **why, struct croft_error *err)
{
	char path[80];
	store_large_path(digest->hash, path);
	CROFT_CLEANUP_FD int fd = openat(store->large_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno != ENOENT) {
		croft_error_errno(err, errno, "%s: opening large/%s", store->path, path);
		return -1;
	}
	*why = "its file is missing";
	if (fd < 0)
		return store->config.read_only ? 2 : 0; /* a server beside us may have evicted it */
	struct croft_slice sums;
	if (!store_find_sums(store, digest->hash, &sums, err))
		return -1;
	CROFT_CLEANUP_FREE void *sums_memory = (void *)sums.data;
	CROFT_CLEANUP_FREE unsigned char *buffer = croft_alloc(STORE_BLOCK);
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	int good = 1;
	*why = "its file cannot be read or is too short";
	for (uint64_t at = 0; good && at < digest->size_bytes; at += STORE_BLOCK) {
		uint64_t left = digest->size_bytes - at;
		size_t part = left < STORE_BLOCK ? (size_t)left : STORE_BLOCK;
		good = croft_pread_all(fd, buffer, part, at, "a large blob", NULL);
		croft_hasher_update(hasher, buffer, part);
		uint64_t sum = 0;
		if (at / STORE_BLOCK * 8 + 8 <= sums.size)
			memcpy(&sum, (const char *)sums.data + at / STORE_BLOCK * 8, 8);
		if (good && sum != XXH3_64bits(buffer, part)) {
			*why = "a block of its file does not match its checksum";
			good = 0;
		}
	}
	struct croft_digest got = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	if (!good)
		return 0;
	*why = "its bytes have another SHA-256";
	return croft_digest_equal(&got, digest);
}

/* The chunks are checked for themselves: this is whether they make up the blob. */
static int check_recipe(struct croft_store *store, const struct croft_digest *digest,
	const char **why, struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	struct croft_store_blob *blob = croft_store_open_blob(store, digest, &failure);
	CROFT_CLEANUP_FREE unsigned char *buffer = croft_alloc(STORE_BLOCK);
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	ssize_t got = blob ? 1 : -1;
	for (uint64_t at = 0; got > 0; at += (uint64_t)got) {
		got = croft_store_blob_read(blob, buffer, STORE_BLOCK, at, &failure);
		if (got > 0)
			croft_hasher_update(hasher, buffer, (size_t)got);
	}
	struct croft_digest sum = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	croft_store_blob_close(blob);
	*why = "its chunks have another SHA-256 together";
	if (got == 0)
		return croft_digest_equal(&sum, digest);
	/* A chunk has gone: to quarantine, or because it was not used. */
	if (failure.code == CROFT_NOT_FOUND || failure.code == CROFT_DATA_LOSS)
		return 2;
	if (err)
		*err = failure;
	return -1;
}

int store_check_blob(struct croft_store *store, const uint8_t *hash, const char **why,
	struct store_entry *entry, struct croft_error *err)
{
	struct croft_digest digest = {.size_bytes = 0};
	memcpy(digest.hash, hash, CROFT_HASH_SIZE);
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return -1;
	int found = store_index_get(&store->index, txn, hash, entry, err);
	store_read_end(&store->index, txn);
	if (found <= 0)
		return found < 0 ? -1 : 2;
	digest.size_bytes = entry->size;
	struct store_segment *segment;
	found = store_find(store, &digest, STORE_PIN, entry, &segment, err);
	if (found < 0)
		return -1;
	*why = "its segment has gone";
	if (found == 0)
		return store_is_lost(store, hash, entry) ? 0 : 2;
	int good = segment                  ? check_small(store, &digest, entry, segment, why)
			   : store_is_recipe(entry) ? check_recipe(store, &digest, why, err)
										: check_large(store, &digest, why, err);
	CROFT_LOCKED(&store->lock);
	if (segment)
		store_segment_unref(store, segment);
	store_unpin(store, store_key(hash));
	return good;
}
