/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Puts a blob by chunks. What comes is gathered in a buffer; when that is full, a thread of this cutter
 * cuts, hashes and stores it (and waits for the disk) while the next is gathered and the whole is hashed.
 * Blobs that fit one buffer need no thread.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"

#include <stdlib.h>

enum {
	BUFFER = 2 * CROFT_CHUNK_MOST, /* a few chunks go into the log together */
	HEAD = CROFT_CHUNK_MOST,       /* room before it for what the cut before has left over */
};

struct store_cutter {
	struct croft_store *store;
	uint64_t left;          /* of the blob, that has not come */
	unsigned char *filling; /* HEAD + BUFFER bytes */
	size_t filled;
	unsigned char *other; /* NULL until there is a thread */
	pthread_t thread;

	pthread_mutex_t lock; /* guards: busy, stop; the rest is the thread's while it is busy */
	pthread_cond_t changed;
	bool busy, stop;
	unsigned char *piece; /* to be cut */
	size_t piece_size;
	bool last;
	unsigned char *rest; /* in the buffer that was cut last */
	size_t rest_size;
	struct croft_digest *chunks; /* stored, and pinned */
	size_t chunk_count, chunk_room;
	bool failed;
	struct croft_error err;
};

struct store_cutter *store_cutter_create(struct croft_store *store, uint64_t size)
{
	struct store_cutter *cutter = croft_zalloc(sizeof(*cutter));
	cutter->store = store;
	cutter->left = size;
	cutter->filling = croft_alloc(HEAD + BUFFER);
	pthread_mutex_init(&cutter->lock, NULL);
	pthread_cond_init(&cutter->changed, NULL);
	return cutter;
}

/* They are pinned before they are there, so that nobody evicts them until the recipe names them. */
static bool put_chunks(struct store_cutter *cutter, const struct croft_slice *pieces, size_t count)
{
	struct croft_store *store = cutter->store;
	const struct croft_digest *chunks = cutter->chunks + cutter->chunk_count;
	pthread_mutex_lock(&store->lock);
	for (size_t i = 0; i < count; i++)
		store_pin(store, store_key(chunks[i].hash));
	pthread_mutex_unlock(&store->lock);
	cutter->chunk_count += count;
	CROFT_CLEANUP_FREE struct croft_error *errors = croft_array(count + 1, sizeof(*errors));
	if (store_put_later(store, chunks, pieces, count, errors))
		return true;
	for (size_t i = 0; i < count; i++)
		if (errors[i].code)
			cutter->err = errors[i];
	return false;
}

static void cut(struct store_cutter *cutter)
{
	struct croft_slice pieces[(HEAD + BUFFER) / CROFT_CHUNK_LEAST + 1];
	size_t count = 0, at = 0;
	while (cutter->piece_size - at >= (cutter->last ? 1 : CROFT_CHUNK_MOST)) {
		unsigned char *start = cutter->piece + at;
		size_t size = croft_chunk_cut(&croft_chunking, start, cutter->piece_size - at);
		if (cutter->chunk_count + count == cutter->chunk_room) {
			cutter->chunk_room = cutter->chunk_room ? 2 * cutter->chunk_room : 64;
			cutter->chunks =
				croft_realloc(cutter->chunks, cutter->chunk_room, sizeof(*cutter->chunks));
		}
		cutter->chunks[cutter->chunk_count + count] = croft_digest_of(start, size);
		pieces[count++] = CROFT_SLICE(start, size);
		at += size;
	}
	cutter->failed = count > 0 && !put_chunks(cutter, pieces, count);
	cutter->rest = cutter->piece + at;
	cutter->rest_size = cutter->piece_size - at;
}

static void *cut_on(void *user)
{
	struct store_cutter *cutter = user;
	pthread_mutex_lock(&cutter->lock);
	while (!cutter->stop) {
		if (!cutter->busy) {
			pthread_cond_wait(&cutter->changed, &cutter->lock);
			continue;
		}
		pthread_mutex_unlock(&cutter->lock);
		cut(cutter);
		pthread_mutex_lock(&cutter->lock);
		cutter->busy = false;
		pthread_cond_broadcast(&cutter->changed);
	}
	pthread_mutex_unlock(&cutter->lock);
	return NULL;
}

static void wait_idle(struct store_cutter *cutter)
{
	CROFT_LOCKED(&cutter->lock);
	while (cutter->busy)
		pthread_cond_wait(&cutter->changed, &cutter->lock);
}

/* Without a thread, the cutting is done here. */
static void start_thread(struct store_cutter *cutter)
{
	unsigned char *other = croft_alloc(HEAD + BUFFER);
	if (pthread_create(&cutter->thread, NULL, cut_on, cutter) == 0) {
		pthread_setname_np(cutter->thread, "store-cutter");
		cutter->other = other;
	} else {
		free(other);
	}
}

/* The filled buffer is cut, by the thread if there is one. */
static bool hand_over(struct store_cutter *cutter, struct croft_error *err)
{
	wait_idle(cutter);
	if (cutter->failed) {
		if (err)
			*err = cutter->err;
		return false;
	}
	cutter->last = cutter->left == 0;
	if (!cutter->last && !cutter->other)
		start_thread(cutter);
	cutter->piece = cutter->filling + HEAD - cutter->rest_size;
	cutter->piece_size = cutter->rest_size + cutter->filled;
	memmove(cutter->piece, cutter->rest ? cutter->rest : cutter->piece, cutter->rest_size);
	cutter->filled = 0;
	if (!cutter->other) {
		cut(cutter);
		/* Out of the way of what is gathered next. */
		unsigned char *aside = cutter->filling + HEAD - cutter->rest_size;
		memmove(aside, cutter->rest, cutter->rest_size);
		cutter->rest = aside;
		return true;
	}
	unsigned char *full = cutter->filling;
	cutter->filling = cutter->other;
	cutter->other = full;
	CROFT_LOCKED(&cutter->lock);
	cutter->busy = true;
	pthread_cond_broadcast(&cutter->changed);
	return true;
}

bool store_cutter_append(struct store_cutter *cutter, const unsigned char *data, size_t size,
	struct croft_error *err)
{
	while (size > 0) {
		size_t part = BUFFER - cutter->filled < size ? BUFFER - cutter->filled : size;
		memcpy(cutter->filling + HEAD + cutter->filled, data, part);
		cutter->filled += part;
		cutter->left -= part;
		data += part;
		size -= part;
		if ((cutter->filled == BUFFER || cutter->left == 0) && !hand_over(cutter, err))
			return false;
	}
	return true;
}

bool store_cutter_finish(struct store_cutter *cutter, const struct croft_digest **chunks,
	size_t *count, struct croft_error *err)
{
	wait_idle(cutter);
	*chunks = cutter->chunks;
	*count = cutter->chunk_count;
	if (cutter->failed && err)
		*err = cutter->err;
	return !cutter->failed;
}

void store_cutter_destroy(struct store_cutter *cutter)
{
	if (!cutter)
		return;
	if (cutter->other) {
		pthread_mutex_lock(&cutter->lock);
		cutter->stop = true;
		pthread_cond_broadcast(&cutter->changed);
		pthread_mutex_unlock(&cutter->lock);
		pthread_join(cutter->thread, NULL);
	}
	pthread_mutex_lock(&cutter->store->lock);
	for (size_t i = 0; i < cutter->chunk_count; i++)
		store_unpin(cutter->store, store_key(cutter->chunks[i].hash));
	pthread_mutex_unlock(&cutter->store->lock);
	pthread_mutex_destroy(&cutter->lock);
	pthread_cond_destroy(&cutter->changed);
	free(cutter->chunks);
	free(cutter->other);
	free(cutter->filling);
	free(cutter);
}
