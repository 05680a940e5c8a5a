/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading blobs, with every byte checked against the checksums it was stored with. */
#include "fs/store/internal.h"
#include "fs/store/xxh3.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Of a blob that is kept by chunks: those that were read last, whole and checked. */
enum { OPEN_CHUNKS = 4 };

struct recipe {
	struct croft_slice chunks; /* array of struct croft_digest; all pinned */
	uint64_t *starts;          /* where each begins */
	unsigned char *checked;    /* a bit per chunk: it may be sent from where it stands */
	pthread_mutex_t lock;      /* guards: below */
	struct {
		struct croft_store_blob *blob;
		size_t index;
		uint64_t turn;
	} open[OPEN_CHUNKS];
	uint64_t turn;
	struct store_segment *extent; /* with a reference; of croft_store_blob_extent */
};

struct croft_store_blob {
	struct croft_store *store;
	struct croft_digest digest;
	struct store_entry entry;
	struct store_segment *segment; /* small; with a reference */
	unsigned char *record;         /* small: header and bytes, checked */
	int fd;                        /* large; of a packed one: its bytes, for who wants them in a file */
	struct croft_slice sums;       /* large */
	unsigned char *checked;        /* large: a bit per block; atomic */
	struct recipe *recipe;
};

bool store_is_bad(struct croft_store *store, const struct croft_digest *digest,
	const struct store_entry *entry, const char *why, struct croft_error *err)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	store_quarantine(store, digest, entry, why);
	return croft_error_set(err, CROFT_DATA_LOSS, "stored blob %s is damaged (%s)", text, why);
}

static bool is_record_of(const struct store_record *record, const struct croft_digest *digest,
	const struct store_entry *entry)
{
	return record->kind == STORE_RECORD_BLOB && record->size == entry->size &&
		   (entry->packed ? store_packed_units(record->payload_size) == entry->packed
						  : record->payload_size == entry->size) &&
		   memcmp(record->hash, digest->hash, CROFT_HASH_SIZE) == 0;
}

bool store_record_is(const struct store_segment *segment, const struct croft_digest *digest,
	const struct store_entry *entry, const void *header, const void *payload)
{
	struct store_record record;
	memcpy(&record, header, STORE_HEADER);
	return is_record_of(&record, digest, entry) && store_record_check(&record, segment->number, payload);
}

bool store_record_load(const struct store_segment *segment, const struct croft_digest *digest,
	const struct store_entry *entry, void *buffer, struct croft_error *err)
{
	size_t stored = STORE_HEADER + (size_t)store_payload_bytes(entry);
	CROFT_CLEANUP_FREE unsigned char *packed = entry->packed ? croft_alloc(stored) : NULL;
	unsigned char *record = packed ? packed : buffer;
	if (!croft_pread_all(segment->fd, record, stored, entry->offset, "a segment of the store", err))
		return false;
	if (!store_record_is(segment, digest, entry, record, record + STORE_HEADER))
		return croft_error_set(err, CROFT_DATA_LOSS, "its checksum does not match");
	if (!packed)
		return true;
	struct store_record header;
	memcpy(&header, packed, STORE_HEADER);
	memcpy(buffer, packed, STORE_HEADER);
	return store_unpack(CROFT_SLICE(packed + STORE_HEADER, header.payload_size),
			   (unsigned char *)buffer + STORE_HEADER, (size_t)entry->size) ||
		   croft_error_set(err, CROFT_DATA_LOSS, "it does not unpack to its bytes");
}

bool store_record_read(struct croft_store *store, const struct store_segment *segment,
	const struct croft_digest *digest, const struct store_entry *entry, void *buffer,
	struct croft_error *err)
{
	struct croft_error why = CROFT_ERROR_INIT;
	return store_record_load(segment, digest, entry, buffer, &why) ||
		   store_is_bad(store, digest, entry, why.message, err);
}

static size_t block_count(const struct croft_store_blob *blob)
{
	return (size_t)((blob->entry.size + STORE_BLOCK - 1) / STORE_BLOCK);
}

static size_t block_size(const struct croft_store_blob *blob, size_t block)
{
	uint64_t left = blob->entry.size - (uint64_t)block * STORE_BLOCK;
	return left < STORE_BLOCK ? (size_t)left : STORE_BLOCK;
}

static bool block_checked(const struct croft_store_blob *blob, size_t block)
{
	return __atomic_load_n(&blob->checked[block / 8], __ATOMIC_ACQUIRE) >> (block % 8) & 1;
}

/* The whole block into the buffer. */
static bool read_block(struct croft_store_blob *blob, size_t block, unsigned char *buffer,
	struct croft_error *err)
{
	size_t size = block_size(blob, block);
	struct croft_error why = CROFT_ERROR_INIT;
	if (!croft_pread_all(blob->fd, buffer, size, (uint64_t)block * STORE_BLOCK,
			"a large blob", &why))
		return store_is_bad(blob->store, &blob->digest, &blob->entry, why.message, err);
	if (block_checked(blob, block))
		return true;
	uint64_t sum;
	memcpy(&sum, (const char *)blob->sums.data + 8 * block, 8);
	if (sum != XXH3_64bits(buffer, size))
		return store_is_bad(blob->store, &blob->digest, &blob->entry, "a checksum does not match", err);
	__atomic_fetch_or(
		&blob->checked[block / 8], (unsigned char)(1 << (block % 8)), __ATOMIC_RELEASE);
	return true;
}

static bool check_whole(struct croft_store_blob *blob, struct croft_error *err)
{
	CROFT_CLEANUP_FREE unsigned char *buffer = croft_alloc(STORE_BLOCK);
	for (size_t i = 0; i < block_count(blob); i++)
		if (!read_block(blob, i, buffer, err))
			return false;
	/* So that it is done once only. */
	struct croft_store *store = blob->store;
	if (store->config.read_only)
		return true;
	CROFT_LOCKED(&store->lock);
	blob->entry.offset = store->epoch;
	if (!store_pending_find(&store->pending, blob->digest.hash))
		store_pending_set(&store->pending, blob->digest.hash, STORE_PRESENT, &blob->entry,
			CROFT_SLICE(NULL, 0))->rewrite = true;
	return true;
}

/* Pinned by the caller. */
static bool open_large(struct croft_store_blob *blob, struct croft_error *err)
{
	struct croft_store *store = blob->store;
	char path[80];
	store_large_path(blob->digest.hash, path);
	blob->fd = openat(store->large_fd, path, O_RDONLY | O_CLOEXEC);
	if (blob->fd < 0 && errno != ENOENT)
		return croft_error_errno(err, errno, "%s: opening large/%s", store->path, path);
	if (blob->fd < 0) /* beside a running server it may just have been evicted */
		return store->config.read_only
				   ? store_not_found(&blob->digest, err)
				   : store_is_bad(store, &blob->digest, &blob->entry, "its file is missing", err);
	struct stat st;
	if (fstat(blob->fd, &st) < 0)
		return croft_error_errno(err, errno, "%s: large/%s", store->path, path);
	if ((uint64_t)st.st_size != blob->entry.size)
		return store_is_bad(store, &blob->digest, &blob->entry, "its file has another size", err);
	if (!store_find_sums(store, blob->digest.hash, &blob->sums, err))
		return false;
	if (blob->sums.size != 8 * block_count(blob))
		return store_is_bad(store, &blob->digest, &blob->entry, "its checksums are missing", err);
	blob->checked = croft_zalloc(block_count(blob) / 8 + 1);
	return blob->entry.offset == STORE_SYNCED || blob->entry.offset == store->epoch ||
		   check_whole(blob, err);
}

/* Pinned by the caller. A recipe that lacks a chunk is a blob that is not there. */
static bool open_recipe(struct croft_store_blob *blob, struct croft_error *err)
{
	struct croft_slice chunks;
	bool complete;
	if (!store_recipe_grip(blob->store, &blob->digest, STORE_PIN, 0, &chunks, &complete, err))
		return false;
	if (!complete) {
		free((void *)chunks.data);
		return store_not_found(&blob->digest, err);
	}
	struct recipe *recipe = blob->recipe = croft_zalloc(sizeof(*recipe));
	size_t count = store_recipe_count(chunks);
	recipe->chunks = chunks;
	recipe->starts = croft_array(count + 1, sizeof(*recipe->starts));
	for (size_t i = 0; i < count; i++)
		recipe->starts[i + 1] =
			recipe->starts[i] + ((const struct croft_digest *)chunks.data)[i].size_bytes;
	recipe->checked = croft_zalloc(count / 8 + 1);
	pthread_mutex_init(&recipe->lock, NULL);
	return recipe->starts[count] == blob->entry.size ||
		store_is_bad(blob->store, &blob->digest, &blob->entry, "its chunks have another size", err);
}

static void close_recipe(struct croft_store_blob *blob)
{
	struct recipe *recipe = blob->recipe;
	for (size_t i = 0; i < OPEN_CHUNKS; i++)
		croft_store_blob_close(recipe->open[i].blob);
	const struct croft_digest *chunks = recipe->chunks.data;
	pthread_mutex_lock(&blob->store->lock);
	if (recipe->extent)
		store_segment_unref(blob->store, recipe->extent);
	for (size_t i = 0; i < store_recipe_count(recipe->chunks); i++)
		store_unpin(blob->store, store_key(chunks[i].hash));
	pthread_mutex_unlock(&blob->store->lock);
	pthread_mutex_destroy(&recipe->lock);
	free((void *)recipe->chunks.data);
	free(recipe->starts);
	free(recipe->checked);
	free(recipe);
}

/* `lock` of the recipe held. */
static struct croft_store_blob *open_chunk(struct croft_store_blob *blob, size_t index,
	struct croft_error *err)
{
	struct recipe *recipe = blob->recipe;
	size_t oldest = 0;
	for (size_t i = 0; i < OPEN_CHUNKS; i++) {
		if (recipe->open[i].blob && recipe->open[i].index == index) {
			recipe->open[i].turn = ++recipe->turn;
			return recipe->open[i].blob;
		}
		if (recipe->open[i].turn < recipe->open[oldest].turn)
			oldest = i;
	}
	const struct croft_digest *chunk = (const struct croft_digest *)recipe->chunks.data + index;
	struct croft_store_blob *opened = croft_store_open_blob(blob->store, chunk, err);
	if (!opened) {
		/* Found bad just now: so is all that is made of it. */
		if (err && err->code == CROFT_NOT_FOUND)
			err->code = CROFT_DATA_LOSS;
		return NULL;
	}
	croft_store_blob_close(recipe->open[oldest].blob);
	recipe->open[oldest].blob = opened;
	recipe->open[oldest].index = index;
	recipe->open[oldest].turn = ++recipe->turn;
	return opened;
}

static size_t chunk_at(const struct recipe *recipe, uint64_t offset)
{
	size_t low = 0, high = store_recipe_count(recipe->chunks) - 1;
	while (low < high) {
		size_t middle = (low + high + 1) / 2;
		if (recipe->starts[middle] <= offset)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* `lock` of the recipe held. */
static bool is_open(const struct recipe *recipe, size_t index)
{
	for (size_t i = 0; i < OPEN_CHUNKS; i++)
		if (recipe->open[i].blob && recipe->open[i].index == index)
			return true;
	return false;
}

/* A whole chunk to where it is wanted, without a copy of it that is kept; false: it is to be opened instead,
 * which also says what is wrong with it. */
static bool read_chunk(struct croft_store_blob *blob, size_t index, unsigned char *buffer)
{
	struct croft_store *store = blob->store;
	const struct croft_digest *chunk = (const struct croft_digest *)blob->recipe->chunks.data + index;
	struct store_entry entry;
	struct store_segment *segment;
	unsigned char header[STORE_HEADER];
	if (store_find(store, chunk, STORE_LOOK, &entry, &segment, NULL) != 1 || !segment)
		return false;
	struct iovec parts[] = {{header, STORE_HEADER}, {buffer, (size_t)entry.size}};
	bool ok = !entry.packed &&
		preadv(segment->fd, parts, 2, entry.offset) == (ssize_t)(STORE_HEADER + entry.size) &&
		store_record_is(segment, chunk, &entry, header, buffer);
	pthread_mutex_lock(&store->lock);
	store_segment_unref(store, segment);
	pthread_mutex_unlock(&store->lock);
	return ok;
}

static bool read_recipe(struct croft_store_blob *blob, unsigned char *buffer, size_t size,
	uint64_t offset, struct croft_error *err)
{
	struct recipe *recipe = blob->recipe;
	CROFT_LOCKED(&recipe->lock);
	for (size_t index = chunk_at(recipe, offset); size > 0; index++) {
		uint64_t whole = recipe->starts[index + 1] - recipe->starts[index];
		if (offset == recipe->starts[index] && whole <= size && !is_open(recipe, index) &&
			read_chunk(blob, index, buffer)) {
			buffer += whole;
			offset += whole;
			size -= (size_t)whole;
			continue;
		}
		struct croft_store_blob *chunk = open_chunk(blob, index, err);
		uint64_t inside = offset - recipe->starts[index];
		ssize_t got = chunk ? croft_store_blob_read(chunk, buffer, size, inside, err) : -1;
		if (got <= 0)
			return false;
		buffer += got;
		offset += (uint64_t)got;
		size -= (size_t)got;
	}
	return true;
}

struct croft_store_blob *croft_store_open_blob(struct croft_store *store,
	const struct croft_digest *digest, struct croft_error *err)
{
	struct croft_store_blob *blob = croft_zalloc(sizeof(*blob));
	blob->store = store;
	blob->digest = *digest;
	blob->fd = -1;
	if (croft_digest_is_empty(digest))
		return blob;
	int found = store_find(store, digest, STORE_OPEN, &blob->entry, &blob->segment, err);
	bool ok = found > 0;
	if (found == 0)
		store_not_found(digest, err);
	if (ok && blob->segment) {
		blob->record = croft_alloc(STORE_HEADER + blob->entry.size);
		ok = store_record_read(store, blob->segment, digest, &blob->entry, blob->record, err);
	} else if (ok && store_is_recipe(&blob->entry)) {
		ok = open_recipe(blob, err);
	} else if (ok) {
		ok = open_large(blob, err);
	}
	if (ok)
		return blob;
	if (found <= 0) { /* nothing was pinned */
		free(blob);
		return NULL;
	}
	croft_store_blob_close(blob);
	return NULL;
}

static bool read_large(struct croft_store_blob *blob, unsigned char *buffer, size_t size,
	uint64_t offset, struct croft_error *err)
{
	CROFT_CLEANUP_FREE unsigned char *aside = NULL;
	while (size > 0) {
		size_t block = (size_t)(offset / STORE_BLOCK), skip = (size_t)(offset % STORE_BLOCK);
		size_t part = block_size(blob, block) - skip;
		if (part > size)
			part = size;
		if (block_checked(blob, block)) {
			/* Runs of checked blocks need no stop at their borders. */
			while (part < size && block_checked(blob, ++block))
				part += block_size(blob, block);
			part = part < size ? part : size;
			struct croft_error why = CROFT_ERROR_INIT;
			if (!croft_pread_all(blob->fd, buffer, part, offset, "a large blob", &why))
				return store_is_bad(blob->store, &blob->digest, &blob->entry, why.message, err);
		} else if (part == block_size(blob, block)) {
			if (!read_block(blob, block, buffer, err))
				return false;
		} else {
			if (!aside)
				aside = croft_alloc(STORE_BLOCK);
			if (!read_block(blob, block, aside, err))
				return false;
			memcpy(buffer, aside + skip, part);
		}
		buffer += part;
		offset += part;
		size -= part;
	}
	return true;
}

size_t croft_store_blob_run(const struct croft_store_blob *blob, uint64_t offset, size_t most)
{
	if (offset >= blob->entry.size)
		return 0;
	uint64_t end = blob->entry.size;
	if (blob->recipe) {
		const uint64_t *starts = blob->recipe->starts;
		size_t next = chunk_at(blob->recipe, offset) + 1, count = store_recipe_count(blob->recipe->chunks);
		while (next < count && starts[next + 1] - offset <= most)
			next++;
		end = starts[next];
	}
	return end - offset < most ? (size_t)(end - offset) : most;
}

ssize_t croft_store_blob_read(struct croft_store_blob *blob, void *buffer, size_t size,
	uint64_t offset, struct croft_error *err)
{
	if (offset >= blob->entry.size)
		return 0;
	if (size > blob->entry.size - offset)
		size = (size_t)(blob->entry.size - offset);
	if (blob->record) {
		memcpy(buffer, blob->record + STORE_HEADER + offset, size);
		return (ssize_t)size;
	}
	bool ok = blob->recipe ? read_recipe(blob, buffer, size, offset, err)
						   : read_large(blob, buffer, size, offset, err);
	return ok ? (ssize_t)size : -1;
}

/* -1: the machine has no room for it. */
static int unpacked_file(struct croft_store_blob *blob)
{
	if (blob->fd >= 0)
		return blob->fd;
	CROFT_CLEANUP_FD int fd = memfd_create("croft-blob", MFD_CLOEXEC);
	if (fd >= 0 && croft_write_all(fd, blob->record + STORE_HEADER, blob->entry.size, "a blob in memory", NULL)) {
		blob->fd = fd;
		fd = -1;
	}
	return blob->fd;
}

int croft_store_blob_fd(struct croft_store_blob *blob, uint64_t *offset)
{
	if (blob->entry.packed) {
		*offset = 0;
		return unpacked_file(blob);
	}
	*offset = blob->segment ? blob->entry.offset + STORE_HEADER : 0;
	return blob->segment ? blob->segment->fd : blob->fd;
}

static int chunk_extent(struct croft_store_blob *blob, size_t index, uint64_t *file_offset)
{
	struct recipe *recipe = blob->recipe;
	struct croft_store *store = blob->store;
	const struct croft_digest *chunk = (const struct croft_digest *)recipe->chunks.data + index;
	struct store_entry entry;
	struct store_segment *segment;
	/* It is pinned already. */
	if (store_find(store, chunk, STORE_LOOK, &entry, &segment, NULL) != 1)
		return -1;
	if (segment && entry.packed) {
		CROFT_LOCKED(&store->lock);
		store_segment_unref(store, segment);
		segment = NULL;
	}
	if (!segment) {
		CROFT_LOCKED(&recipe->lock);
		struct croft_store_blob *opened = open_chunk(blob, index, NULL);
		return opened ? croft_store_blob_fd(opened, file_offset) : -1;
	}
	CROFT_LOCKED(&store->lock);
	if (recipe->extent)
		store_segment_unref(store, recipe->extent);
	recipe->extent = segment;
	*file_offset = entry.offset + STORE_HEADER;
	return segment->fd;
}

int croft_store_blob_extent(struct croft_store_blob *blob, uint64_t offset, uint64_t *file_offset,
	uint64_t *size)
{
	if (offset >= blob->entry.size)
		return -1;
	uint64_t start = 0;
	*size = blob->entry.size - offset;
	int fd;
	if (blob->recipe) {
		size_t index = chunk_at(blob->recipe, offset);
		start = blob->recipe->starts[index];
		*size = blob->recipe->starts[index + 1] - offset;
		fd = chunk_extent(blob, index, file_offset);
	} else {
		fd = croft_store_blob_fd(blob, file_offset);
		if (blob->checked && *size > STORE_BLOCK - offset % STORE_BLOCK)
			*size = STORE_BLOCK - offset % STORE_BLOCK;
	}
	*file_offset += offset - start;
	return fd;
}

bool croft_store_blob_checked(const struct croft_store_blob *blob, uint64_t offset)
{
	if (offset >= blob->entry.size)
		return true;
	if (blob->checked)
		return block_checked(blob, (size_t)(offset / STORE_BLOCK));
	if (!blob->recipe)
		return true; /* when it was opened */
	size_t index = chunk_at(blob->recipe, offset);
	return blob->recipe->checked[index / 8] >> (index % 8) & 1;
}

static bool check_chunk(struct croft_store_blob *blob, size_t index, struct croft_error *err)
{
	struct croft_store *store = blob->store;
	const struct croft_digest *chunk = (const struct croft_digest *)blob->recipe->chunks.data + index;
	struct store_entry entry;
	struct store_segment *segment;
	int found = store_find(store, chunk, STORE_LOOK, &entry, &segment, err);
	if (found < 0)
		return false;
	if (found == 0) /* it is pinned: found bad meanwhile */
		return croft_error_set(err, CROFT_DATA_LOSS, "a chunk of the blob has gone");
	/* Of what is packed, or in a file of its own, what is sent is checked when it is opened. */
	bool good = true;
	if (segment && !entry.packed) {
		struct store_record record;
		good = croft_pread_all(segment->fd, &record, STORE_HEADER, entry.offset, "a segment of the store", NULL) &&
			is_record_of(&record, chunk, &entry) && store_record_check_in_place(&record, segment, entry.offset);
	}
	if (segment) {
		CROFT_LOCKED(&store->lock);
		store_segment_unref(store, segment);
	}
	if (!good)
		return store_is_bad(store, chunk, &entry, "its checksum does not match", err);
	blob->recipe->checked[index / 8] |= (unsigned char)(1 << (index % 8));
	return true;
}

bool croft_store_blob_check(struct croft_store_blob *blob, uint64_t offset, struct croft_error *err)
{
	if (croft_store_blob_checked(blob, offset))
		return true;
	if (blob->recipe)
		return check_chunk(blob, chunk_at(blob->recipe, offset), err);
	CROFT_CLEANUP_FREE unsigned char *buffer = croft_alloc(STORE_BLOCK);
	return read_block(blob, (size_t)(offset / STORE_BLOCK), buffer, err);
}

void croft_store_blob_close(struct croft_store_blob *blob)
{
	if (!blob)
		return;
	if (!croft_digest_is_empty(&blob->digest)) {
		struct croft_store *store = blob->store;
		if (blob->fd >= 0)
			close(blob->fd);
		if (blob->recipe)
			close_recipe(blob);
		CROFT_LOCKED(&store->lock);
		if (blob->segment)
			store_segment_unref(store, blob->segment);
		if (!store->config.read_only)
			store_unpin(store, store_key(blob->digest.hash));
	}
	free((void *)blob->sums.data);
	free(blob->checked);
	free(blob->record);
	free(blob);
}

static bool get_large(struct croft_store *store, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err)
{
	struct croft_store_blob *blob = croft_store_open_blob(store, digest, err);
	if (!blob)
		return false;
	unsigned char *bytes = croft_arena_alloc(arena, (size_t)digest->size_bytes);
	bool ok = croft_store_blob_read(blob, bytes, (size_t)digest->size_bytes, 0, err) >= 0;
	croft_store_blob_close(blob);
	*data = CROFT_SLICE(bytes, (size_t)digest->size_bytes);
	return ok;
}

bool croft_store_get(struct croft_store *store, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err)
{
	return store_get(store, digest, STORE_TOUCH, arena, data, err);
}

bool store_get(struct croft_store *store, const struct croft_digest *digest, enum store_grip grip,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err)
{
	if (croft_digest_is_empty(digest)) {
		*data = CROFT_SLICE("", 0);
		return true;
	}
	struct store_entry entry;
	struct store_segment *segment;
	int found = store_find(store, digest, grip, &entry, &segment, err);
	if (found <= 0)
		return found == 0 && store_not_found(digest, err);
	if (!segment)
		return get_large(store, digest, arena, data, err);
	unsigned char *buffer = croft_arena_alloc(arena, STORE_HEADER + (size_t)entry.size);
	bool ok = store_record_read(store, segment, digest, &entry, buffer, err);
	pthread_mutex_lock(&store->lock);
	store_segment_unref(store, segment);
	pthread_mutex_unlock(&store->lock);
	*data = CROFT_SLICE(buffer + STORE_HEADER, (size_t)entry.size);
	return ok;
}
