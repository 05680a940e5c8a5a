/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Recipes: blobs that are kept as a list of chunks, each of which is a blob itself and may belong to
 * many. A recipe is worth something only together with all of its chunks: whoever finds one asks for
 * them too, and does to them what he does to it (lease, pin), so that they are used, kept and lost
 * together. One whose chunks have gone counts as missing, and leaves the index when that is noticed.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"

#include <stdlib.h>

/* Whether the index (of `txn`) and what is pending lack a chunk of the recipe that stands in the index.
 * `lock` held. */
static bool is_broken(struct croft_store *store, MDB_txn *txn, const struct croft_digest *digest,
	struct store_entry *entry)
{
	struct croft_slice recipe = {NULL, 0};
	if (store_pending_find(&store->pending, digest->hash) ||
		store_index_get(&store->index, txn, digest->hash, entry, NULL) != 1 ||
		!store_is_recipe(entry) ||
		store_table_get(txn, store->index.sums, digest->hash, CROFT_HASH_SIZE, &recipe, NULL) < 0)
		return false;
	for (size_t i = 0; i < store_recipe_count(recipe); i++) {
		struct croft_digest chunk; /* what LMDB gives stands at any address */
		struct store_entry there;
		memcpy(&chunk, (const char *)recipe.data + i * sizeof(chunk), sizeof(chunk));
		const struct store_pending *pending = store_pending_find(&store->pending, chunk.hash);
		if (pending && pending->state == STORE_PRESENT)
			continue;
		if (pending && pending->state == STORE_GONE)
			return true;
		int found = store_index_get(&store->index, txn, chunk.hash, &there, NULL);
		if (found == 0 || (found == 1 && there.segment && !store_segment_find(&store->segments, there.segment)))
			return true;
	}
	return false;
}

/* A recipe that was found without all of its chunks is marked gone, if that is still so: the lock is held
 * over the look, so that nobody stores the blob anew between it and the mark. */
static void forget_if_broken(struct croft_store *store, const struct croft_digest *digest)
{
	struct store_entry entry;
	if (store->config.read_only)
		return;
	CROFT_LOCKED(&store->lock);
	MDB_txn *txn = store_read_begin(&store->index, NULL);
	bool broken = txn && is_broken(store, txn, digest, &entry);
	store_read_end(&store->index, txn);
	if (!broken)
		return;
	store_pending_set(&store->pending, digest->hash, STORE_GONE, &entry, CROFT_SLICE(NULL, 0))->evicted =
		true;
	store->generation++;
	/* At once: until then nobody can store it anew. */
	store->keeper.asked++;
	pthread_cond_signal(&store->keeper.wake);
}

bool store_recipe_grip(struct croft_store *store, const struct croft_digest *digest,
	enum store_grip grip, uint64_t until_ms, struct croft_slice *recipe, bool *complete,
	struct croft_error *err)
{
	*complete = false;
	if (!store_find_sums(store, digest->hash, recipe, err))
		return false;
	const struct croft_digest *chunks = recipe->data;
	size_t count = store_recipe_count(*recipe);
	if (count == 0)
		return true;
	CROFT_CLEANUP_FREE bool *found = croft_array(2 * count, sizeof(*found));
	if (!store_find_parts(store, chunks, count, grip, until_ms, found, found + count, err)) {
		free((void *)recipe->data);
		*recipe = CROFT_SLICE(NULL, 0);
		return false;
	}
	*complete = true;
	for (size_t i = 0; i < count; i++)
		*complete &= found[i];
	if (!*complete)
		forget_if_broken(store, digest);
	if (*complete || grip != STORE_PIN)
		return true;
	CROFT_LOCKED(&store->lock);
	for (size_t i = 0; i < count; i++)
		if (found[i])
			store_unpin(store, store_key(chunks[i].hash));
	return true;
}

bool store_recipe_put(struct croft_store *store, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count, struct croft_error *err)
{
	size_t size = count * sizeof(*chunks);
	uint64_t bytes = store_record_bytes(size) + STORE_INDEX_COST;
	if (!store_reserve(store, bytes, 0, err))
		return false;
	struct store_append item = {
		.kind = STORE_RECORD_RECIPE,
		.digest = *digest,
		.payload = CROFT_SLICE(chunks, size),
		.entry = {.used_ms = store_now_ms(store), .lease_ms = store_put_lease_ms(store)},
		.reserved_bytes = bytes,
	};
	bool ok = store_log_append(store, &item, 1);
	if (!ok && err)
		*err = item.err;
	return ok;
}

bool croft_store_get_recipe(struct croft_store *store, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_digest **chunks, size_t *count, struct croft_error *err)
{
	bool found, is_recipe;
	uint64_t until_ms = store_now_ms(store) + store->config.lease_ms;
	if (!store_find_parts(store, digest, 1, STORE_LEASE, until_ms, &found, &is_recipe, err))
		return false;
	if (!found || croft_digest_is_empty(digest))
		return store_not_found(digest, err);
	if (!is_recipe)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION, "the blob is kept in one piece");
	struct croft_slice recipe;
	if (!store_recipe_grip(store, digest, STORE_LEASE, until_ms, &recipe, &found, err))
		return false;
	*chunks = croft_arena_copy(arena, recipe.data, recipe.size);
	*count = store_recipe_count(recipe);
	free((void *)recipe.data);
	if (!found)
		return store_not_found(digest, err);
	store_lease_commit(store);
	return true;
}

/* Putting together ---------------------------------------------------------------------------- */

static bool check_sizes(const struct croft_digest *digest, const struct croft_digest *chunks,
	size_t count, struct croft_error *err)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < count; i++)
		if (__builtin_add_overflow(sum, chunks[i].size_bytes, &sum))
			sum = UINT64_MAX;
	return (sum == digest->size_bytes && sum < (uint64_t)1 << STORE_SIZE_BITS) ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the chunks have %llu bytes together, the blob has %llu (16 TiB at most)", (unsigned long long)sum,
			(unsigned long long)digest->size_bytes);
}

/* Other people's pieces are kept as they are when they are not much larger or smaller than ours. */
static bool are_chunks(const struct croft_digest *chunks, size_t count)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < count; i++) {
		if (chunks[i].size_bytes == 0 || chunks[i].size_bytes > CROFT_CHUNK_MOST)
			return false;
		sum += chunks[i].size_bytes;
	}
	return sum / CROFT_CHUNK_LEAST * 2 + 1 >= count;
}

/* Hands the chunks' bytes on in their order. */
static bool for_each(struct croft_store *store, const struct croft_digest *chunks, size_t count,
	bool (*take)(void *user, struct croft_slice bytes, struct croft_error *err), void *user,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	for (size_t i = 0; i < count; i++) {
		struct croft_slice bytes;
		if (!store_get(store, &chunks[i], STORE_LOOK, arena, &bytes, err) || !take(user, bytes, err))
			return false;
		croft_arena_reset(arena);
	}
	return true;
}

static bool into_hasher(void *user, struct croft_slice bytes, struct croft_error *err)
{
	croft_hasher_update(user, bytes.data, bytes.size);
	return true;
}

static bool into_writer(void *user, struct croft_slice bytes, struct croft_error *err)
{
	return croft_store_writer_append(user, bytes.data, bytes.size, err);
}

static bool check_hash(struct croft_store *store, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count, struct croft_error *err)
{
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	bool ok = for_each(store, chunks, count, into_hasher, hasher, err);
	struct croft_digest got = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	return ok && (croft_digest_equal(&got, digest) || store_mismatch(digest, &got, err));
}

static bool put_together(struct croft_store *store, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count, struct croft_error *err)
{
	struct croft_store_writer *writer = croft_store_write(store, digest, err);
	if (!writer)
		return false;
	if (for_each(store, chunks, count, into_writer, writer, err))
		return croft_store_writer_commit(writer, err);
	croft_store_writer_abort(writer);
	return false;
}

/* Pins all, or says which is missing. */
static bool pin_chunks(struct croft_store *store, const struct croft_digest *chunks, size_t count,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE bool *found = croft_array(2 * count + 1, sizeof(*found));
	if (!store_find_parts(store, chunks, count, STORE_PIN, 0, found, found + count, err))
		return false;
	const struct croft_digest *missing = NULL;
	for (size_t i = 0; i < count && !missing; i++)
		if (!found[i])
			missing = &chunks[i];
	if (!missing)
		return true;
	CROFT_LOCKED(&store->lock);
	for (size_t i = 0; i < count; i++)
		if (found[i])
			store_unpin(store, store_key(chunks[i].hash));
	return store_not_found(missing, err);
}

/* As the blob will be. */
static bool lease_chunks(struct croft_store *store, const struct croft_digest *chunks, size_t count,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE bool *found = croft_array(count + 1, sizeof(*found));
	enum store_grip grip = store->config.durable ? STORE_LEASE : STORE_TOUCH;
	if (!store_find_many(store, chunks, count, grip, store_put_lease_ms(store), found, err))
		return false;
	if (store->config.durable)
		store_lease_commit(store);
	return true;
}

bool croft_store_put_recipe(struct croft_store *store, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count, struct croft_error *err)
{
	if (store->config.read_only)
		return store_refuse_read_only(store, err);
	if (!check_sizes(digest, chunks, count, err))
		return false;
	int there = store_is_there(store, digest, err);
	if (there != 0)
		return there > 0;
	if (!pin_chunks(store, chunks, count, err))
		return false;
	bool ok;
	if (!store->config.chunked || store_is_small(store, digest->size_bytes) ||
		!are_chunks(chunks, count)) {
		ok = put_together(store, digest, chunks, count, err);
	} else {
		ok = check_hash(store, digest, chunks, count, err) &&
			lease_chunks(store, chunks, count, err) &&
			store_recipe_put(store, digest, chunks, count, err);
	}
	CROFT_LOCKED(&store->lock);
	for (size_t i = 0; i < count; i++)
		store_unpin(store, store_key(chunks[i].hash));
	return ok;
}
