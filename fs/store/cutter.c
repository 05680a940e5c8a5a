/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Puts a blob by chunks, in a row of three: what comes is gathered in a piece (and the whole is hashed, by
 * the caller); a full piece is cut and its chunks are hashed by one thread, and stored by another, which
 * also waits for the disk. Each holds one piece at most: that is the flow control. Blobs that fit one piece
 * need no thread.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"

#include <stdlib.h>

enum {
	BUFFER = 2 * CROFT_CHUNK_MOST, /* a few chunks go into the log together */
	HEAD = CROFT_CHUNK_MOST,       /* room before it for what the cut before has left over */
	MOST_CHUNKS = (HEAD + BUFFER) / CROFT_CHUNK_LEAST + 1,
};

struct piece {
	struct piece *next; /* among the idle ones */
	size_t filled;      /* of bytes, behind HEAD */
	bool last;
	struct croft_slice chunks[MOST_CHUNKS];
	struct croft_digest digests[MOST_CHUNKS];
	size_t count;
	unsigned char bytes[HEAD + BUFFER];
};

/* One thread, that does one thing to a piece at a time. */
struct stage {
	struct store_cutter *cutter;
	void (*work)(struct store_cutter *cutter, struct piece *piece);
	pthread_t thread;
	struct piece *piece; /* NULL: it waits for one */
	bool stop;
};

struct store_cutter {
	struct croft_store *store;
	uint64_t left; /* of the blob, that has not come */
	struct piece *filling;
	bool threads;
	struct stage cutting, storing;

	pthread_mutex_t lock; /* guards: idle, failed, err, and piece and stop of both stages */
	pthread_cond_t changed;
	struct piece *idle;
	bool failed;
	struct croft_error err;

	/* Of who cuts: behind the last chunk. */
	unsigned char *rest;
	size_t rest_size;
	/* Of who stores: stored, and pinned. */
	struct croft_digest *chunks;
	size_t chunk_count, chunk_room;
};

/* Stages --------------------------------------------------------------------------------------- */

static void *run_stage(void *user)
{
	struct stage *stage = user;
	struct store_cutter *cutter = stage->cutter;
	pthread_mutex_lock(&cutter->lock);
	while (!stage->stop) {
		struct piece *piece = stage->piece;
		if (!piece) {
			pthread_cond_wait(&cutter->changed, &cutter->lock);
			continue;
		}
		pthread_mutex_unlock(&cutter->lock);
		stage->work(cutter, piece);
		pthread_mutex_lock(&cutter->lock);
		stage->piece = NULL;
		pthread_cond_broadcast(&cutter->changed);
	}
	pthread_mutex_unlock(&cutter->lock);
	return NULL;
}

static bool start_stage(struct store_cutter *cutter, struct stage *stage, const char *name)
{
	stage->cutter = cutter;
	stage->stop = false;
	if (pthread_create(&stage->thread, NULL, run_stage, stage) != 0)
		return false;
	pthread_setname_np(stage->thread, name);
	return true;
}

static void stop_stage(struct store_cutter *cutter, struct stage *stage)
{
	pthread_mutex_lock(&cutter->lock);
	while (stage->piece)
		pthread_cond_wait(&cutter->changed, &cutter->lock);
	stage->stop = true;
	pthread_cond_broadcast(&cutter->changed);
	pthread_mutex_unlock(&cutter->lock);
	pthread_join(stage->thread, NULL);
}

/* Waits until the stage has room; without threads, the work is done here. */
static void give(struct store_cutter *cutter, struct stage *stage, struct piece *piece)
{
	if (!cutter->threads) {
		stage->work(cutter, piece);
		return;
	}
	CROFT_LOCKED(&cutter->lock);
	while (stage->piece)
		pthread_cond_wait(&cutter->changed, &cutter->lock);
	stage->piece = piece;
	pthread_cond_broadcast(&cutter->changed);
}

static struct piece *take_idle(struct store_cutter *cutter)
{
	pthread_mutex_lock(&cutter->lock);
	struct piece *piece = cutter->idle;
	if (piece)
		cutter->idle = piece->next;
	pthread_mutex_unlock(&cutter->lock);
	if (!piece)
		piece = croft_alloc(sizeof(*piece));
	piece->filled = 0;
	return piece;
}

/* Storing -------------------------------------------------------------------------------------- */

/* They are pinned before they are there, so that nobody evicts them until the recipe names them. */
static void pin_chunks(struct store_cutter *cutter, const struct piece *piece)
{
	struct croft_store *store = cutter->store;
	if (cutter->chunk_room - cutter->chunk_count < piece->count) {
		cutter->chunk_room = 2 * cutter->chunk_room + piece->count;
		cutter->chunks = croft_realloc(cutter->chunks, cutter->chunk_room, sizeof(*cutter->chunks));
	}
	memcpy(cutter->chunks + cutter->chunk_count, piece->digests, piece->count * sizeof(piece->digests[0]));
	cutter->chunk_count += piece->count;
	CROFT_LOCKED(&store->lock);
	for (size_t i = 0; i < piece->count; i++)
		store_pin(store, store_key(piece->digests[i].hash));
}

static void store_piece(struct store_cutter *cutter, struct piece *piece)
{
	struct croft_error errors[MOST_CHUNKS];
	pthread_mutex_lock(&cutter->lock);
	bool failed = cutter->failed;
	pthread_mutex_unlock(&cutter->lock);
	bool ok = true;
	if (!failed && piece->count > 0) {
		pin_chunks(cutter, piece);
		ok = store_put_later(cutter->store, piece->digests, piece->chunks, piece->count, errors);
	}
	CROFT_LOCKED(&cutter->lock);
	for (size_t i = 0; !ok && i < piece->count; i++)
		if (errors[i].code)
			cutter->err = errors[i];
	cutter->failed |= !ok;
	piece->next = cutter->idle;
	cutter->idle = piece;
}

/* Cutting -------------------------------------------------------------------------------------- */

static void cut(struct store_cutter *cutter, struct piece *piece)
{
	const unsigned char *at = piece->bytes + HEAD - cutter->rest_size;
	const unsigned char *end = piece->bytes + HEAD + piece->filled;
	if (!cutter->rest)
		cutter->rest = croft_alloc(HEAD);
	memcpy(piece->bytes + HEAD - cutter->rest_size, cutter->rest, cutter->rest_size);
	piece->count = 0;
	while (at < end) {
		size_t left = (size_t)(end - at), size = croft_chunk_cut(&croft_chunking, at, left);
		/* A chunk that ends where the bytes do may be longer. */
		if (size == left && size < CROFT_CHUNK_MOST && !piece->last)
			break;
		piece->chunks[piece->count] = CROFT_SLICE(at, size);
		piece->digests[piece->count++] = croft_digest_of(at, size);
		at += size;
	}
	cutter->rest_size = (size_t)(end - at);
	memcpy(cutter->rest, at, cutter->rest_size);
	give(cutter, &cutter->storing, piece);
}

/* Without threads, each piece goes all the way at once. */
static void start_threads(struct store_cutter *cutter)
{
	if (cutter->left == 0 || cutter->threads)
		return;
	if (!start_stage(cutter, &cutter->storing, "store-writer"))
		return;
	cutter->threads = start_stage(cutter, &cutter->cutting, "store-cutter");
	if (!cutter->threads)
		stop_stage(cutter, &cutter->storing);
}

struct store_cutter *store_cutter_create(struct croft_store *store, uint64_t size)
{
	struct store_cutter *cutter = croft_zalloc(sizeof(*cutter));
	cutter->store = store;
	cutter->left = size;
	cutter->cutting.work = cut;
	cutter->storing.work = store_piece;
	pthread_mutex_init(&cutter->lock, NULL);
	pthread_cond_init(&cutter->changed, NULL);
	return cutter;
}

static bool has_failed(struct store_cutter *cutter, struct croft_error *err)
{
	CROFT_LOCKED(&cutter->lock);
	if (cutter->failed && err)
		*err = cutter->err;
	return cutter->failed;
}

bool store_cutter_append(struct store_cutter *cutter, const unsigned char *data, size_t size,
	struct croft_error *err)
{
	while (size > 0) {
		struct piece *piece = cutter->filling;
		if (!piece)
			piece = cutter->filling = take_idle(cutter);
		size_t part = BUFFER - piece->filled < size ? BUFFER - piece->filled : size;
		memcpy(piece->bytes + HEAD + piece->filled, data, part);
		piece->filled += part;
		cutter->left -= part;
		data += part;
		size -= part;
		if (piece->filled < BUFFER && cutter->left > 0)
			continue;
		if (has_failed(cutter, err))
			return false;
		piece->last = cutter->left == 0;
		cutter->filling = NULL;
		start_threads(cutter);
		give(cutter, &cutter->cutting, piece);
	}
	return true;
}

bool store_cutter_finish(struct store_cutter *cutter, const struct croft_digest **chunks,
	size_t *count, struct croft_error *err)
{
	pthread_mutex_lock(&cutter->lock);
	while (cutter->cutting.piece || cutter->storing.piece)
		pthread_cond_wait(&cutter->changed, &cutter->lock);
	pthread_mutex_unlock(&cutter->lock);
	*chunks = cutter->chunks;
	*count = cutter->chunk_count;
	return !has_failed(cutter, err);
}

void store_cutter_rest(struct store_cutter *cutter)
{
	if (cutter->threads) {
		stop_stage(cutter, &cutter->cutting);
		stop_stage(cutter, &cutter->storing);
		cutter->threads = false;
	}
	for (struct piece *next; cutter->idle; cutter->idle = next) {
		next = cutter->idle->next;
		free(cutter->idle);
	}
}

void store_cutter_destroy(struct store_cutter *cutter)
{
	if (!cutter)
		return;
	store_cutter_rest(cutter);
	pthread_mutex_lock(&cutter->store->lock);
	for (size_t i = 0; i < cutter->chunk_count; i++)
		store_unpin(cutter->store, store_key(cutter->chunks[i].hash));
	pthread_mutex_unlock(&cutter->store->lock);
	pthread_mutex_destroy(&cutter->lock);
	pthread_cond_destroy(&cutter->changed);
	free(cutter->chunks);
	free(cutter->rest);
	free(cutter->filling);
	free(cutter);
}
