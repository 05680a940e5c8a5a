/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Large blobs by chunks: window by window, what the server lacks is sent, and at last it is told how
 * they make up the blob. Of a new version of something that it has, only what differs travels.
 */
#include "fs/remote/internal.h"

#include "fs/chunker.h"
#include "proto/base/arena.h"
#include "proto/base/cleanup.h"

#include <pthread.h>

enum {
	WINDOW = 8 * CROFT_CHUNK_MOST, /* one question each */
	WINDOW_CHUNKS = WINDOW / CROFT_CHUNK_LEAST + 1,
};

struct cutting {
	struct croft_remote *remote;
	uint64_t batch_bytes;
	uint8_t *window;
	size_t filled; /* bytes in it */
	struct croft_digest *chunks; /* all so far */
	size_t count;
	uint64_t sent_bytes;
	struct croft_hasher *whole; /* of the blob; NULL: its digest is known */
};

/* Those of the window from `first` on that the server lacks, in batches. */
static bool send_missing(struct cutting *cutting, size_t first, const size_t *starts,
	struct croft_error *err)
{
	const struct croft_digest *chunks = cutting->chunks + first;
	size_t count = cutting->count - first, batched = 0;
	bool missing[WINDOW_CHUNKS];
	struct croft_digest digests[WINDOW_CHUNKS];
	struct croft_slice data[WINDOW_CHUNKS];
	if (!croft_remote_find_missing(cutting->remote, chunks, count, missing, err))
		return false;
	uint64_t bytes = 0;
	for (size_t i = 0; i < count; i++) {
		if (!missing[i])
			continue;
		uint64_t cost = chunks[i].size_bytes + REMOTE_ENTRY_BYTES;
		if (batched > 0 && bytes + cost > cutting->batch_bytes) {
			if (!remote_batch_update(cutting->remote, digests, data, batched, err))
				return false;
			batched = 0;
			bytes = 0;
		}
		digests[batched] = chunks[i];
		data[batched++] = CROFT_SLICE(cutting->window + starts[i], (size_t)chunks[i].size_bytes);
		bytes += cost;
		cutting->sent_bytes += chunks[i].size_bytes;
	}
	return batched == 0 || remote_batch_update(cutting->remote, digests, data, batched, err);
}

/* Cuts the window as far as it goes, and sends what the server lacks of that. */
static bool cut_window(struct cutting *cutting, bool last, size_t *cut, struct croft_error *err)
{
	size_t starts[WINDOW_CHUNKS], first = cutting->count, at = 0;
	while (cutting->filled - at >= (last ? 1 : CROFT_CHUNK_MOST)) {
		size_t size =
			croft_chunk_cut(&croft_chunking, cutting->window + at, cutting->filled - at);
		starts[cutting->count - first] = at;
		cutting->chunks[cutting->count++] = croft_digest_of(cutting->window + at, size);
		at += size;
	}
	*cut = at;
	return send_missing(cutting, first, starts, err);
}

static bool splice(struct cutting *cutting, const struct croft_digest *digest,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__SpliceBlobRequest request = REAPI__SPLICE_BLOB_REQUEST__INIT;
	request.instance_name = cutting->remote->instance_name;
	request.blob_digest = croft_digest_to_message(digest, arena);
	request.chunking_function = REAPI__CHUNKING_FUNCTION__VALUE__FAST_CDC_2020;
	request.n_chunk_digests = cutting->count;
	request.chunk_digests = croft_arena_array(arena, cutting->count, sizeof(void *));
	for (size_t i = 0; i < cutting->count; i++)
		request.chunk_digests[i] = croft_digest_to_message(&cutting->chunks[i], arena);
	return croft_remote_call(cutting->remote, REMOTE_CAS "SpliceBlob", &request.base,
		&reapi__splice_blob_response__descriptor, arena, err);
}

/* The whole blob's digest, while its chunks are hashed and travel. */
struct hashing {
	struct croft_hasher *hasher;
	const uint8_t *data;
	size_t size;
};

static void *hash(void *user)
{
	struct hashing *hashing = user;
	croft_hasher_update(hashing->hasher, hashing->data, hashing->size);
	return NULL;
}

/* Of the window's bytes those from `fresh` on are new; what is not cut (nothing, when it is the last) moves to its
 * front. */
static bool take_window(struct cutting *cutting, size_t fresh, bool last, struct croft_error *err)
{
	struct hashing hashing = {cutting->whole, cutting->window + fresh, cutting->filled - fresh};
	pthread_t thread;
	size_t cut;
	bool beside = cutting->whole && pthread_create(&thread, NULL, hash, &hashing) == 0;
	if (cutting->whole && !beside)
		hash(&hashing);
	bool ok = cut_window(cutting, last, &cut, err);
	if (beside)
		pthread_join(thread, NULL);
	memmove(cutting->window, cutting->window + cut, cutting->filled - cut);
	cutting->filled -= cut;
	return ok;
}

/* `read` is asked for each byte once, in order. */
static bool write_chunks(struct cutting *cutting, uint64_t size_bytes, remote_reader *read, void *user,
	struct croft_error *err)
{
	for (uint64_t at = 0; at < size_bytes;) {
		uint64_t left = size_bytes - at;
		size_t fresh = cutting->filled, room = WINDOW - fresh, part = left < room ? (size_t)left : room;
		if (!read(user, cutting->window + fresh, part, at, err))
			return false;
		cutting->filled += part;
		at += part;
		if (!take_window(cutting, fresh, at == size_bytes, err))
			return false;
	}
	return true;
}

bool remote_chunks_write(struct croft_remote *remote, const struct croft_digest *digest,
	uint64_t batch_bytes, remote_reader *read, void *user, uint64_t *sent_bytes,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE uint8_t *window = croft_alloc(WINDOW);
	CROFT_CLEANUP_FREE struct croft_digest *chunks =
		croft_array((size_t)(digest->size_bytes / CROFT_CHUNK_LEAST) + 1, sizeof(*chunks));
	struct cutting cutting = {
		.remote = remote, .batch_bytes = batch_bytes, .window = window, .chunks = chunks};
	if (!write_chunks(&cutting, digest->size_bytes, read, user, err))
		return false;
	*sent_bytes = cutting.sent_bytes;
	return splice(&cutting, digest, err);
}

bool remote_chunks_write_unhashed(struct croft_remote *remote, uint64_t size_bytes, uint64_t batch_bytes,
	remote_reader *read, void *user, struct croft_digest *digest, uint64_t *sent_bytes, struct croft_error *err)
{
	CROFT_CLEANUP_FREE uint8_t *window = croft_alloc(WINDOW);
	CROFT_CLEANUP_FREE struct croft_digest *chunks =
		croft_array((size_t)(size_bytes / CROFT_CHUNK_LEAST) + 1, sizeof(*chunks));
	struct cutting cutting = {.remote = remote, .batch_bytes = batch_bytes, .window = window, .chunks = chunks,
		.whole = croft_hasher_create(CROFT_DIGEST_SHA256)};
	bool ok = write_chunks(&cutting, size_bytes, read, user, err);
	*digest = croft_hasher_finish(cutting.whole);
	croft_hasher_destroy(cutting.whole);
	*sent_bytes = cutting.sent_bytes;
	return ok && splice(&cutting, digest, err);
}
