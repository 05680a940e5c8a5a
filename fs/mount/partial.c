/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/partial.h"

#include "fs/chunker.h"
#include "fs/digest_map.h"
#include "fs/mount/internal.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <stdlib.h>

enum {
	KNOWN_LIMIT = 256, /* recipes that are remembered */
	AHEAD_MOST = 64,   /* chunks fetched ahead at once */
	FIRST_MOST = 16,
	PIECE_CHUNKS = 2,  /* that a piece is of, usually: few chunks are smaller than one */
};
/* A smaller blob comes in little more time than it takes to ask how it is made. */
_Static_assert(CROFT_MOUNT_PARTS_FROM == 2 * CROFT_CHUNK_MOST, "files read in parts have some");

enum chunk_state { CHUNK_UNTOUCHED, CHUNK_AHEAD /* fetched before anyone asked */, CHUNK_READ };

struct partial {
	struct croft_digest digest;
	unsigned refs;
	struct croft_digest *chunks;
	uint64_t *starts; /* where each begins, and the end */
	size_t count;
	/* Guarded by the lock of the partials: */
	uint8_t *states;
	size_t touched;       /* not CHUNK_UNTOUCHED */
	size_t ahead, useful; /* chunks fetched ahead, and how many of these were read */
	size_t window;        /* how many to fetch ahead the next time */
	size_t trigger, end;  /* reading from here on, go on fetching ahead there */
	bool counted;         /* as a file that was fetched */
	bool joining;
	struct partial *next_join;
};

struct partials {
	struct croft_store *store;
	pthread_mutex_t lock; /* guards: all below */
	struct croft_digest_map *known;
	/* Whole files become blobs on a thread of their own: their hash takes a while. */
	pthread_t thread;
	pthread_cond_t changed;
	bool running, stop;
	struct partial *joins;
};

struct partials *partials_create(struct croft_store *store)
{
	struct partials *partials = croft_zalloc(sizeof(*partials));
	partials->store = store;
	partials->known = croft_digest_map_create();
	pthread_mutex_init(&partials->lock, NULL);
	pthread_cond_init(&partials->changed, NULL);
	return partials;
}

/* `lock` held. */
static void unref(struct partial *partial)
{
	if (--partial->refs > 0)
		return;
	free(partial->chunks);
	free(partial->starts);
	free(partial->states);
	free(partial);
}

void partials_destroy(struct partials *partials)
{
	if (!partials)
		return;
	pthread_mutex_lock(&partials->lock);
	partials->stop = true;
	pthread_cond_signal(&partials->changed);
	pthread_mutex_unlock(&partials->lock);
	if (partials->running)
		pthread_join(partials->thread, NULL);
	while (partials->joins) {
		struct partial *next = partials->joins->next_join;
		unref(partials->joins);
		partials->joins = next;
	}
	size_t position = 0;
	for (struct partial *at; (at = croft_digest_map_next(partials->known, &position));)
		unref(at);
	croft_digest_map_destroy(partials->known);
	pthread_cond_destroy(&partials->changed);
	pthread_mutex_destroy(&partials->lock);
	free(partials);
}

/* Recipes ------------------------------------------------------------------------------------- */

/* One that nobody reads now. `lock` held. */
static void forget_any(struct partials *partials)
{
	size_t position = 0;
	for (struct partial *at; (at = croft_digest_map_next(partials->known, &position));)
		if (at->refs == 1) {
			croft_digest_map_remove(partials->known, &at->digest);
			unref(at);
			return;
		}
}

void partials_learn(struct partials *partials, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count)
{
	if (count == 0)
		return;
	struct partial *partial = croft_zalloc(sizeof(*partial));
	partial->digest = *digest;
	partial->refs = 1;
	partial->count = count;
	partial->chunks = croft_array(count, sizeof(*chunks));
	memcpy(partial->chunks, chunks, count * sizeof(*chunks));
	partial->states = croft_zalloc(count);
	partial->starts = croft_array(count + 1, sizeof(*partial->starts));
	for (size_t i = 0; i < count; i++)
		partial->starts[i + 1] = partial->starts[i] + chunks[i].size_bytes;
	CROFT_LOCKED(&partials->lock);
	if (croft_digest_map_get(partials->known, digest)) {
		unref(partial);
		return;
	}
	if (croft_digest_map_count(partials->known) >= KNOWN_LIMIT)
		forget_any(partials);
	*croft_digest_map_at(partials->known, digest) = partial;
}

static struct partial *partials_get(struct partials *partials, const struct croft_digest *digest)
{
	CROFT_LOCKED(&partials->lock);
	struct partial *partial = croft_digest_map_get(partials->known, digest);
	if (partial)
		partial->refs++;
	return partial;
}

static void release(struct partials *partials, struct partial *partial)
{
	CROFT_LOCKED(&partials->lock);
	unref(partial);
}

/* By someone who has a reference. `lock` held. */
static void forget(struct partials *partials, struct partial *partial)
{
	if (croft_digest_map_get(partials->known, &partial->digest) != partial)
		return;
	croft_digest_map_remove(partials->known, &partial->digest);
	partial->refs--;
}

size_t partials_ranges(struct partials *partials, const struct croft_digest *digest,
	struct croft_mount_range *ranges, size_t most)
{
	size_t count = 0;
	bool open = false;
	CROFT_LOCKED(&partials->lock);
	const struct partial *partial = croft_digest_map_get(partials->known, digest);
	for (size_t i = 0; partial && i < partial->count; i++) {
		bool read = partial->states[i] == CHUNK_READ;
		if (read && !open && count < most)
			ranges[count++] = (struct croft_mount_range){.offset = partial->starts[i]};
		if (read)
			ranges[count - 1].length = partial->starts[i + 1] - ranges[count - 1].offset;
		open = read;
	}
	return count;
}

static size_t chunk_at(const struct partial *partial, uint64_t offset)
{
	size_t low = 0, high = partial->count - 1;
	while (low < high) {
		size_t middle = (low + high + 1) / 2;
		if (partial->starts[middle] <= offset)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* Becoming a blob ----------------------------------------------------------------------------- */

/* With a reference that it gives back. `lock` held, not over the work. */
static void join(struct partials *partials, struct partial *partial)
{
	struct croft_error err = CROFT_ERROR_INIT;
	pthread_mutex_unlock(&partials->lock);
	bool ok = croft_store_put_recipe(
		partials->store, &partial->digest, partial->chunks, partial->count, &err);
	pthread_mutex_lock(&partials->lock);
	if (!ok && err.code == CROFT_INVALID_ARGUMENT)
		croft_log(CROFT_LOG_ERROR, "the origin gave chunks that are another blob: %s", err.message);
	/* What is in the store is read from there; what did not fit is asked for anew. */
	if (ok || err.code == CROFT_INVALID_ARGUMENT)
		forget(partials, partial);
	partial->joining = false;
	unref(partial);
}

static void *join_all(void *user)
{
	struct partials *partials = user;
	pthread_mutex_lock(&partials->lock);
	while (!partials->stop) {
		struct partial *partial = partials->joins;
		if (!partial) {
			pthread_cond_wait(&partials->changed, &partials->lock);
			continue;
		}
		partials->joins = partial->next_join;
		join(partials, partial);
	}
	pthread_mutex_unlock(&partials->lock);
	return NULL;
}

/* `lock` held. */
static void join_later(struct partials *partials, struct partial *partial)
{
	if (!partials->running) {
		if (pthread_create(&partials->thread, NULL, join_all, partials) != 0)
			return; /* it stays in chunks */
		pthread_setname_np(partials->thread, "fs-join");
		partials->running = true;
	}
	partial->joining = true;
	partial->refs++;
	partial->next_join = partials->joins;
	partials->joins = partial;
	pthread_cond_signal(&partials->changed);
}

/* Fetching ahead ------------------------------------------------------------------------------ */

struct plan {
	struct croft_digest chunks[AHEAD_MOST + PIECE_CHUNKS];
	size_t count;
};

/* `lock` held. */
static void touch(struct partial *partial, size_t index, enum chunk_state state)
{
	partial->touched += partial->states[index] == CHUNK_UNTOUCHED;
	partial->useful += partial->states[index] == CHUNK_AHEAD && state == CHUNK_READ;
	partial->states[index] = (uint8_t)state;
}

/* Up to a window of chunks from there on that nobody has asked for. In a file that is mostly read
 * already, those before as well. `lock` held. */
static void plan_ahead(struct partial *partial, size_t from, struct plan *plan)
{
	bool around = partial->touched * 2 > partial->count;
	for (size_t i = 0; i < partial->count && plan->count < partial->window; i++) {
		size_t at = from + i;
		if (at >= partial->count && !around)
			break;
		at %= partial->count;
		if (partial->states[at] != CHUNK_UNTOUCHED)
			continue;
		touch(partial, at, CHUNK_AHEAD);
		plan->chunks[plan->count++] = partial->chunks[at];
		partial->end = at + 1;
	}
	partial->ahead += plan->count;
	partial->trigger = from + plan->count / 2;
}

/* What the link could bring in the time of one round trip, which every further wait costs: a chunk of 512 KiB takes
 * 4 ms of a gigabit. */
static size_t first_window(const struct croft_mount *mount)
{
	uint64_t chunks = croft_fetch_round_trip_ns(mount->fetcher) / 4000000;
	return chunks < 1 ? 1 : chunks < FIRST_MOST ? (size_t)chunks : FIRST_MOST;
}

/* Somebody waits for chunks up to `last`. Each time that this happens more is fetched ahead, unless
 * less than half of what was is read. `lock` held. */
static void plan_after_miss(struct partial *partial, size_t last, size_t first_window, struct plan *plan)
{
	plan_ahead(partial, last + 1, plan);
	if (partial->useful * 2 < partial->ahead - plan->count)
		partial->window /= 2;
	else
		partial->window = partial->window == 0 ? first_window
			: partial->window * 2 < AHEAD_MOST ? partial->window * 2
											   : AHEAD_MOST;
}

/* Everything was there. `lock` held. */
static void plan_after_hit(struct partials *partials, struct partial *partial, size_t first,
	size_t last, struct plan *plan)
{
	bool ahead = false;
	for (size_t i = first; i <= last; i++) {
		ahead |= partial->states[i] == CHUNK_AHEAD;
		touch(partial, i, CHUNK_READ);
	}
	if (ahead && last >= partial->trigger && last < partial->end)
		plan_ahead(partial, partial->end, plan);
	if (partial->touched == partial->count && !partial->joining)
		join_later(partials, partial);
}

/* Reading ------------------------------------------------------------------------------------- */

struct span {
	size_t first, last; /* chunks */
	struct croft_digest *missing;
	size_t missing_count;
};

/* What is here of the wanted bytes into the buffer; notes the chunks that are not. */
static bool read_span(struct request *request, const struct partial *partial, size_t wanted,
	char *buffer, struct span *span, struct croft_error *err)
{
	struct blobs *blobs = request->mount->blobs;
	for (size_t i = span->first; i <= span->last; i++) {
		uint64_t start = partial->starts[i] > request->offset ? partial->starts[i] : request->offset;
		uint64_t end = request->offset + wanted;
		end = partial->starts[i + 1] < end ? partial->starts[i + 1] : end;
		struct open_blob *blob = blobs_open(blobs, &partial->chunks[i], err);
		ssize_t got = -1;
		if (blob) {
			got = croft_store_blob_read(blobs_blob(blob), buffer + (start - request->offset),
				(size_t)(end - start), start - partial->starts[i], err);
			blobs_release(blobs, blob, got < 0);
		}
		if (got >= 0)
			continue;
		if (err->code != CROFT_NOT_FOUND && err->code != CROFT_DATA_LOSS)
			return false;
		span->missing[span->missing_count++] = partial->chunks[i];
	}
	return true;
}

/* What came with the recipe is the answer; the chunks that it is of come behind, for who reads on. */
static enum partial_answer answer_piece(struct request *request, struct partial *partial, size_t wanted)
{
	struct croft_mount *mount = request->mount;
	struct plan plan = {.count = 0};
	size_t first = first_window(mount);
	size_t begin = chunk_at(partial, request->offset);
	size_t last = chunk_at(partial, request->offset + wanted - 1);
	pthread_mutex_lock(&mount->partials->lock);
	bool new_file = !partial->counted;
	partial->counted = true;
	plan_after_miss(partial, last, first, &plan);
	for (size_t i = begin; i <= last; i++) {
		touch(partial, i, CHUNK_READ);
		if (plan.count < AHEAD_MOST + PIECE_CHUNKS)
			plan.chunks[plan.count++] = partial->chunks[i];
	}
	pthread_mutex_unlock(&mount->partials->lock);
	uint64_t group = request_group(request);
	accounts_charge(mount->accounts, group, false, new_file, 0);
	fuse_reply_buf(request->fuse, request->piece, wanted);
	request_fetch_ahead(mount, plan.chunks, plan.count, group);
	return PARTIAL_ANSWERED;
}

static enum partial_answer answer_span(struct request *request, struct partial *partial,
	size_t wanted)
{
	struct croft_mount *mount = request->mount;
	struct croft_error err;
	struct span span = {.first = chunk_at(partial, request->offset),
		.last = chunk_at(partial, request->offset + wanted - 1)};
	CROFT_CLEANUP_FREE struct croft_digest *missing =
		croft_array(span.last - span.first + 1, sizeof(*missing));
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(wanted);
	span.missing = missing;
	if (!read_span(request, partial, wanted, buffer, &span, &err)) {
		request_fail(request, &partial->digest, &err);
		return PARTIAL_ANSWERED;
	}
	struct plan plan = {.count = 0};
	uint64_t group = request_group(request);
	size_t first = first_window(mount);
	pthread_mutex_lock(&mount->partials->lock);
	bool new_file = !partial->counted;
	partial->counted = true;
	if (span.missing_count == 0)
		plan_after_hit(mount->partials, partial, span.first, span.last, &plan);
	else
		plan_after_miss(partial, span.last, first, &plan);
	pthread_mutex_unlock(&mount->partials->lock);
	bool answered = true;
	if (span.missing_count == 0)
		fuse_reply_buf(request->fuse, buffer, wanted);
	else
		answered = request_wait_chunks(request, span.missing, span.missing_count, new_file);
	if (plan.count > 0)
		request_fetch_ahead(mount, plan.chunks, plan.count, group);
	return answered ? PARTIAL_ANSWERED : PARTIAL_WAITS;
}

enum partial_answer partial_read(struct request *request, const struct croft_digest *digest,
	size_t wanted)
{
	struct partials *partials = request->mount->partials;
	if (digest->size_bytes < CROFT_MOUNT_PARTS_FROM || !request->mount->fetcher || request->whole)
		return PARTIAL_NOT;
	struct partial *partial = partials_get(partials, digest);
	if (!partial) {
		request->whole = request->recipe_tried;
		if (request->whole)
			return PARTIAL_NOT;
		request->recipe_tried = true;
		return request_wait_recipe(request, digest) ? PARTIAL_ANSWERED : PARTIAL_WAITS;
	}
	enum partial_answer answer = PARTIAL_NOT;
	if (request->failure.code == CROFT_NOT_FOUND) {
		/* The origin keeps it otherwise by now. */
		pthread_mutex_lock(&partials->lock);
		forget(partials, partial);
		pthread_mutex_unlock(&partials->lock);
		request->failure.code = CROFT_OK;
		request->whole = true;
	} else if (request->failure.code != CROFT_OK) {
		request_fail(request, digest, &request->failure);
		answer = PARTIAL_ANSWERED;
	} else {
		answer = (request->piece ? answer_piece : answer_span)(request, partial, wanted);
	}
	release(partials, partial);
	return answer;
}
