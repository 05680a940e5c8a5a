/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ways in: whole blobs, many at once, and piece by piece. Digests are checked here. */
#include "fs/store/internal.h"
#include "fs/store/xxh3.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Written back to the disk in pieces of this size while more comes in, so that the sync at the end
 * is short. */
enum { WRITEBACK = 8 << 20 };

struct croft_store_writer {
	struct croft_store *store;
	struct croft_digest digest;
	struct croft_hasher *hasher;
	uint64_t size; /* so far */
	uint64_t reserved_bytes, reserved_inodes;
	unsigned char *bytes; /* small: room for all */
	int fd;               /* large: the file in tmp/ */
	uint64_t temporary;
	struct store_large_note *note; /* large: sums of whole blocks so far */
	XXH3_state_t *block;
	size_t block_used;
	struct store_cutter *cutter; /* by chunks */
	struct croft_store_blob *there; /* somebody has put it: the bytes are looked at only */
};

bool store_mismatch(const struct croft_digest *wanted, const struct croft_digest *got,
	struct croft_error *err)
{
	char wanted_text[CROFT_DIGEST_TEXT], got_text[CROFT_DIGEST_TEXT];
	croft_digest_format(wanted, '/', wanted_text);
	croft_digest_format(got, '/', got_text);
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the bytes given for blob %s are %s",
		wanted_text, got_text);
}

bool store_refuse_read_only(const struct croft_store *store, struct croft_error *err)
{
	return croft_error_set(err, CROFT_FAILED_PRECONDITION, "%s was opened read-only", store->path);
}

uint64_t store_put_lease_ms(const struct croft_store *store)
{
	return store->config.durable ? store_now_ms(store) + store->config.lease_ms : 0;
}

int store_is_there(struct croft_store *store, const struct croft_digest *digest,
	struct croft_error *err)
{
	bool found;
	if (!store_find_many(store, digest, 1, store->config.durable ? STORE_LEASE : STORE_TOUCH,
			store_put_lease_ms(store), &found, err))
		return -1;
	if (found && store->config.durable)
		store_lease_commit(store);
	return found;
}

static uint64_t note_bytes(uint64_t size)
{
	return sizeof(struct store_large_note) + (size + STORE_BLOCK - 1) / STORE_BLOCK * 8;
}

static bool open_temporary(struct croft_store_writer *writer, struct croft_error *err)
{
	struct croft_store *store = writer->store;
	pthread_mutex_lock(&store->lock);
	writer->temporary = ++store->next_temporary;
	pthread_mutex_unlock(&store->lock);
	char name[32];
	store_temporary_name(writer->temporary, name);
	writer->fd = openat(store->temporary_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (writer->fd < 0)
		return croft_error_errno(err, errno, "%s: creating tmp/%s", store->path, name);
	/* Tells at once when the disk is too full. Not every filesystem can. */
	if (fallocate(writer->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)writer->digest.size_bytes) < 0 &&
		errno != EOPNOTSUPP && errno != ENOSYS)
		return croft_error_errno(err, errno, "%s: room for a blob of %llu bytes", store->path,
			(unsigned long long)writer->digest.size_bytes);
	writer->note = croft_zalloc(note_bytes(writer->digest.size_bytes));
	writer->note->temporary = writer->temporary;
	writer->block = XXH3_createState();
	if (!writer->block)
		abort();
	XXH3_64bits_reset(writer->block);
	return true;
}

/* Who puts what is there proves that it has it, which costs nothing but the hash. */
static struct croft_store_writer *verifier(struct croft_store *store, const struct croft_digest *digest,
	struct croft_store_blob *there)
{
	struct croft_store_writer *writer = croft_zalloc(sizeof(*writer));
	writer->store = store;
	writer->digest = *digest;
	writer->fd = -1;
	writer->there = there;
	writer->hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	return writer;
}

struct croft_store_writer *croft_store_write(struct croft_store *store,
	const struct croft_digest *digest, struct croft_error *err)
{
	if (store->config.read_only) {
		store_refuse_read_only(store, err);
		return NULL;
	}
	struct croft_store_blob *there = croft_store_open_blob(store, digest, NULL);
	if (there)
		return verifier(store, digest, there);
	if (digest->size_bytes >= (uint64_t)1 << STORE_SIZE_BITS) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "a blob of %llu bytes is too large",
			(unsigned long long)digest->size_bytes);
		return NULL;
	}
	struct store_entry entry = {.size = digest->size_bytes};
	bool small = store_is_small(store, digest->size_bytes);
	uint64_t bytes = STORE_INDEX_COST;
	if (small)
		bytes += store_record_bytes(digest->size_bytes);
	else if (!store->config.chunked)
		bytes += store_entry_disk_bytes(&entry) + 2 * store_record_bytes(note_bytes(entry.size));
	/* Chunks find their room when they come. */
	uint64_t inodes = !small && !store->config.chunked;
	if (!store_reserve(store, bytes, inodes, err))
		return NULL;
	struct croft_store_writer *writer = croft_zalloc(sizeof(*writer));
	writer->store = store;
	writer->digest = *digest;
	writer->reserved_bytes = bytes;
	writer->reserved_inodes = inodes;
	writer->fd = -1;
	writer->hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	if (small)
		writer->bytes = croft_alloc((size_t)digest->size_bytes);
	else if (store->config.chunked)
		writer->cutter = store_cutter_create(store, digest->size_bytes);
	else if (!open_temporary(writer, err)) {
		croft_store_writer_abort(writer);
		return NULL;
	}
	return writer;
}

static void sum_blocks(struct croft_store_writer *writer, const unsigned char *data, size_t size)
{
	uint64_t at = writer->size;
	while (size > 0) {
		size_t part = STORE_BLOCK - writer->block_used;
		if (part > size)
			part = size;
		XXH3_64bits_update(writer->block, data, part);
		writer->block_used += part;
		data += part;
		size -= part;
		at += part;
		if (writer->block_used == STORE_BLOCK || at == writer->digest.size_bytes) {
			writer->note->sums[(at - 1) / STORE_BLOCK] = XXH3_64bits_digest(writer->block);
			XXH3_64bits_reset(writer->block);
			writer->block_used = 0;
		}
	}
}

bool croft_store_writer_append(struct croft_store_writer *writer, const void *data, size_t size,
	struct croft_error *err)
{
	if (size > writer->digest.size_bytes - writer->size) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(&writer->digest, '/', text);
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "more bytes than blob %s has", text);
	}
	if (size == 0)
		return true;
	croft_hasher_update(writer->hasher, data, size);
	if (writer->there) {
		/* nothing to write */
	} else if (writer->bytes) {
		memcpy(writer->bytes + writer->size, data, size);
	} else if (writer->cutter) {
		if (!store_cutter_append(writer->cutter, data, size, err))
			return false;
	} else {
		if (!croft_pwrite_all(writer->fd, data, size, writer->size, "a large blob", err))
			return false;
		sum_blocks(writer, data, size);
		uint64_t before = writer->size / WRITEBACK, after = (writer->size + size) / WRITEBACK;
		if (before != after) /* a hint: its failure shows again at the sync */
			sync_file_range(writer->fd, (off_t)(before * WRITEBACK),
				(off_t)((after - before) * WRITEBACK), SYNC_FILE_RANGE_WRITE);
	}
	writer->size += size;
	return true;
}

uint64_t croft_store_writer_size(const struct croft_store_writer *writer)
{
	return writer->size;
}

void croft_store_writer_rest(struct croft_store_writer *writer)
{
	if (writer->cutter)
		store_cutter_rest(writer->cutter);
}

static void destroy(struct croft_store_writer *writer)
{
	if (writer->fd >= 0) {
		close(writer->fd);
		char name[32]; /* not there any more when the file has got its place */
		store_temporary_name(writer->temporary, name);
		unlinkat(writer->store->temporary_fd, name, 0);
	}
	store_unreserve(writer->store, writer->reserved_bytes, writer->reserved_inodes);
	store_cutter_destroy(writer->cutter);
	croft_store_blob_close(writer->there);
	croft_hasher_destroy(writer->hasher);
	XXH3_freeState(writer->block);
	free(writer->note);
	free(writer->bytes);
	free(writer);
}

void croft_store_writer_abort(struct croft_store_writer *writer)
{
	if (writer)
		destroy(writer);
}

/* The recipe was synced, and with it its chunks, unless a sync before failed. */
static bool are_there(struct croft_store *store, const struct croft_digest *chunks, size_t count,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE bool *found = croft_array(count + 1, sizeof(*found));
	if (!store_find_many(store, chunks, count, STORE_LOOK, 0, found, err))
		return false;
	for (size_t i = 0; i < count; i++)
		if (!found[i])
			return croft_error_set(err, CROFT_UNAVAILABLE,
				"%s: a part of the blob was lost while it was stored: the disk failed", store->path);
	return true;
}

static bool publish(struct croft_store_writer *writer, struct croft_error *err)
{
	struct croft_store *store = writer->store;
	if (croft_digest_is_empty(&writer->digest))
		return true;
	int there = store_is_there(store, &writer->digest, err);
	if (there != 0)
		return there > 0;
	if (writer->there)
		return croft_error_set(err, CROFT_UNAVAILABLE,
			"%s: the blob, which was there, turned out to be damaged meanwhile: send it again", store->path);
	if (writer->cutter) {
		const struct croft_digest *chunks;
		size_t count;
		return store_cutter_finish(writer->cutter, &chunks, &count, err) &&
			store_recipe_put(store, &writer->digest, chunks, count, err) &&
			are_there(store, chunks, count, err);
	}
	if (writer->fd >= 0 && store->config.durable && fdatasync(writer->fd) < 0)
		return croft_error_errno(err, errno, "%s: syncing a large blob", store->path);
	struct store_append item = {
		.kind = writer->fd < 0 ? STORE_RECORD_BLOB : STORE_RECORD_LARGE,
		.digest = writer->digest,
		.payload = writer->fd < 0
					   ? CROFT_SLICE(writer->bytes, (size_t)writer->size)
					   : CROFT_SLICE(writer->note, (size_t)note_bytes(writer->digest.size_bytes)),
		.entry = {.used_ms = store_now_ms(store), .lease_ms = store_put_lease_ms(store)},
		.reserved_bytes = writer->reserved_bytes,
		.reserved_inodes = writer->reserved_inodes,
	};
	writer->reserved_bytes = writer->reserved_inodes = 0;
	bool ok = store_log_append(store, &item, 1);
	if (!ok && err)
		*err = item.err;
	return ok;
}

bool croft_store_writer_commit(struct croft_store_writer *writer, struct croft_error *err)
{
	struct croft_digest digest = croft_hasher_finish(writer->hasher);
	bool ok = (croft_digest_equal(&digest, &writer->digest) ||
				  store_mismatch(&writer->digest, &digest, err)) &&
			  publish(writer, err);
	destroy(writer);
	return ok;
}

static bool put_large(struct croft_store *store, const struct croft_digest *digest,
	struct croft_slice data, struct croft_error *err)
{
	struct croft_store_writer *writer = croft_store_write(store, digest, err);
	if (!writer)
		return false;
	if (!croft_store_writer_append(writer, data.data, data.size, err)) {
		croft_store_writer_abort(writer);
		return false;
	}
	return croft_store_writer_commit(writer, err);
}

/* What can be told before anything is written: 1 to be stored, 0 all is well, -1 refused. */
static int prepare(struct croft_store *store, const struct croft_digest *digest,
	struct croft_slice data, struct croft_error *err)
{
	if (data.size != digest->size_bytes) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(digest, '/', text);
		croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "%zu bytes were given for blob %s", data.size, text);
		return -1;
	}
	struct croft_digest got = croft_digest_of(data.data, data.size);
	if (!croft_digest_equal(&got, digest)) {
		store_mismatch(digest, &got, err);
		return -1;
	}
	return !croft_digest_is_empty(digest);
}

/* later: as in struct store_append; and the digests were computed from the data just now. */
static bool put_many(struct croft_store *store, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count, bool later, struct croft_error *errors)
{
	CROFT_CLEANUP_FREE struct store_append *items = croft_array(count + 1, sizeof(*items));
	CROFT_CLEANUP_FREE size_t *origin = croft_array(count + 1, sizeof(*origin));
	size_t wanted = 0;
	bool ok = true;
	for (size_t i = 0; i < count; i++) {
		errors[i] = CROFT_ERROR_INIT;
		int todo = store->config.read_only ? (store_refuse_read_only(store, &errors[i]), -1)
				   : later                  ? 1
											: prepare(store, &digests[i], data[i], &errors[i]);
		if (todo > 0) {
			int there = store_is_there(store, &digests[i], &errors[i]);
			todo = there < 0 ? -1 : !there;
		}
		if (todo > 0 && !store_is_small(store, data[i].size)) {
			todo = put_large(store, &digests[i], data[i], &errors[i]) ? 0 : -1;
		} else if (todo > 0) {
			uint64_t bytes = store_record_bytes(data[i].size) + STORE_INDEX_COST;
			if (!store_reserve(store, bytes, 0, &errors[i])) {
				ok = false;
				continue;
			}
			items[wanted] = (struct store_append){.kind = STORE_RECORD_BLOB,
				.later = later,
				.digest = digests[i],
				.payload = data[i],
				.entry = {.used_ms = store_now_ms(store), .lease_ms = store_put_lease_ms(store)},
				.reserved_bytes = bytes};
			origin[wanted++] = i;
		}
		ok &= todo >= 0;
	}
	if (wanted == 0 || store_log_append(store, items, wanted))
		return ok;
	for (size_t i = 0; i < wanted; i++)
		if (!items[i].ok)
			errors[origin[i]] = items[i].err;
	return false;
}

bool croft_store_put_many(struct croft_store *store, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count, struct croft_error *errors)
{
	return put_many(store, digests, data, count, false, errors);
}

bool store_put_later(struct croft_store *store, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count, struct croft_error *errors)
{
	return put_many(store, digests, data, count, true, errors);
}

bool croft_store_put(struct croft_store *store, const struct croft_digest *digest,
	struct croft_slice data, struct croft_error *err)
{
	struct croft_error failure;
	if (croft_store_put_many(store, digest, &data, 1, &failure))
		return true;
	if (err)
		*err = failure;
	return false;
}
