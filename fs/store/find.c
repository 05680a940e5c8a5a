/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding blobs. The pending table is asked under the lock, then the index without it, and then what
 * is to be done to the blob (lease, pin) is done under the lock if nothing has gone from its place
 * meanwhile; otherwise the question is asked again.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"

#include <fcntl.h>
#include <stdlib.h>

bool store_not_found(const struct croft_digest *digest, struct croft_error *err)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	return croft_error_set(err, CROFT_NOT_FOUND, "blob %s is not in the store", text);
}

void store_pin(struct croft_store *store, uint64_t key)
{
	store_activity_get(&store->activity, key)->pins++;
}

void store_unpin(struct croft_store *store, uint64_t key)
{
	struct store_active *active = store_activity_find(&store->activity, key);
	if (active && active->pins > 0)
		active->pins--;
}

static struct store_active *touch(struct croft_store *store, uint64_t key)
{
	struct store_active *active = store_activity_get(&store->activity, key);
	store_use(active, store_now_ms(store));
	return active;
}

bool store_is_protected(const struct croft_store *store, uint64_t key, uint64_t now_ms)
{
	const struct store_active *active = store_activity_find(&store->activity, key);
	return active && (active->pins > 0 || active->lease_ms > now_ms);
}

/* `lock` held. */
static void take(struct croft_store *store, const uint8_t *hash, enum store_grip grip,
	uint64_t until_ms)
{
	if (store->config.read_only)
		return;
	switch (grip) {
	case STORE_LOOK:
		break;
	case STORE_TOUCH:
		touch(store, store_key(hash));
		break;
	case STORE_LEASE:
		store_lease(
			store, store_key(hash), until_ms, until_ms + store->config.lease_ms / 2);
		break;
	case STORE_PIN:
		store_pin(store, store_key(hash));
		break;
	case STORE_OPEN:
		touch(store, store_key(hash))->pins++;
		break;
	}
}

enum { CHUNK = STORE_FIND_MOST, RETRIES = 4 };

enum answer { ABSENT, PRESENT, ASK_INDEX };

/* `lock` held. */
static enum answer ask_pending(const struct croft_store *store, const uint8_t *hash,
	struct store_entry *entry)
{
	const struct store_pending *pending = store_pending_find(&store->pending, hash);
	if (!pending || pending->state == STORE_WRITING)
		return ASK_INDEX;
	*entry = pending->entry;
	return pending->state == STORE_PRESENT ? PRESENT : ABSENT;
}

static bool ask_index(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum answer *answers, struct store_entry *entries, struct croft_error *err)
{
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return false;
	bool ok = true;
	for (size_t i = 0; ok && i < count; i++) {
		if (answers[i] != ASK_INDEX)
			continue;
		int found = store_index_get(&store->index, txn, digests[i].hash, &entries[i], err);
		ok = found >= 0;
		answers[i] = found == 1 ? PRESENT : ABSENT;
	}
	store_read_end(&store->index, txn);
	return ok;
}

/* A segment that this process does not know: tools that only read open them when they need them.
 * `lock` held. */
static struct store_segment *open_segment(struct croft_store *store, uint32_t number)
{
	char name[16];
	store_segment_name(number, name);
	int fd = openat(store->segments_fd, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? NULL : store_segment_add(&store->segments, number, fd);
}

/* False: it has gone. `lock` held. */
static bool take_segment(struct croft_store *store, const struct store_entry *entry,
	struct store_segment **segment)
{
	*segment = NULL;
	if (!entry->segment)
		return true;
	*segment = store_segment_find(&store->segments, entry->segment);
	if (!*segment && store->config.read_only)
		*segment = open_segment(store, entry->segment);
	if (*segment)
		(*segment)->refs++;
	return *segment != NULL;
}

/* The segment that the index names has a file. Otherwise somebody took that away, or the disk lost it, and the blob counts as
 * missing. `lock` held, with nothing moved since the index was read. */
static bool has_segment(const struct croft_store *store, const struct store_entry *entry)
{
	return !entry->segment || store->config.read_only || store_segment_find(&store->segments, entry->segment);
}

/* One round for up to CHUNK digests. False with err->code OK: something moved, again. When
 * `settled`, the lock is held over reading the index. */
static bool find_round(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum store_grip grip, uint64_t until_ms, bool settled, bool *found, bool *recipes,
	struct store_place *places, struct croft_error *err)
{
	enum answer answers[CHUNK];
	struct store_entry entries[CHUNK];
	bool index_wanted = false;
	pthread_mutex_lock(&store->lock);
	uint64_t generation = store->generation;
	for (size_t i = 0; i < count; i++) {
		answers[i] = ask_pending(store, digests[i].hash, &entries[i]);
		index_wanted |= answers[i] == ASK_INDEX;
	}
	if (index_wanted) {
		if (!settled)
			pthread_mutex_unlock(&store->lock);
		bool ok = ask_index(store, digests, count, answers, entries, err);
		if (!settled)
			pthread_mutex_lock(&store->lock);
		if (!ok || generation != store->generation) {
			pthread_mutex_unlock(&store->lock);
			return false;
		}
	}
	for (size_t i = 0; i < count; i++) {
		found[i] = answers[i] == PRESENT && entries[i].size == digests[i].size_bytes &&
			has_segment(store, &entries[i]);
		if (recipes)
			recipes[i] = found[i] && store_is_recipe(&entries[i]);
		if (found[i] && places) {
			places[i].entry = entries[i];
			found[i] = take_segment(store, &entries[i], &places[i].segment);
		}
		if (found[i])
			take(store, digests[i].hash, grip, until_ms);
	}
	pthread_mutex_unlock(&store->lock);
	return true;
}

bool store_find_parts(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum store_grip grip, uint64_t until_ms, bool *found, bool *recipes, struct croft_error *err)
{
	for (size_t at = 0; at < count;) {
		size_t part = count - at < CHUNK ? count - at : CHUNK;
		struct croft_error failure = CROFT_ERROR_INIT;
		bool ok = false;
		for (int i = 0; !ok && !failure.code && i <= RETRIES; i++)
			ok = find_round(store, digests + at, part, grip, until_ms, i == RETRIES, found + at,
				recipes + at, NULL, &failure);
		if (!ok) {
			for (size_t i = 0; grip == STORE_PIN && i < at; i++) {
				if (!found[i])
					continue;
				CROFT_LOCKED(&store->lock);
				store_unpin(store, store_key(digests[i].hash));
			}
			if (err)
				*err = failure;
			return false;
		}
		at += part;
	}
	return true;
}

bool store_find_many(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum store_grip grip, uint64_t until_ms, bool *found, struct croft_error *err)
{
	CROFT_CLEANUP_FREE bool *recipes = croft_array(count + 1, sizeof(*recipes));
	if (!store_find_parts(store, digests, count, grip, until_ms, found, recipes, err))
		return false;
	for (size_t i = 0; i < count; i++) {
		struct croft_slice recipe;
		if (!recipes[i])
			continue;
		if (!store_recipe_grip(store, &digests[i], grip, until_ms, &recipe, &found[i], err))
			return false;
		free((void *)recipe.data);
	}
	return true;
}

bool store_find_places(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum store_grip grip, bool *found, struct store_place *places, struct croft_error *err)
{
	bool ok = false;
	for (int i = 0; !ok && !err->code && i <= RETRIES; i++)
		ok = find_round(store, digests, count, grip, 0, i == RETRIES, found, NULL, places, err);
	return ok;
}

int store_find(struct croft_store *store, const struct croft_digest *digest, enum store_grip grip,
	struct store_entry *entry, struct store_segment **segment, struct croft_error *err)
{
	for (int round = 0;; round++) {
		enum answer answer;
		pthread_mutex_lock(&store->lock);
		uint64_t generation = store->generation;
		answer = ask_pending(store, digest->hash, entry);
		if (answer == ASK_INDEX) {
			if (round < RETRIES)
				pthread_mutex_unlock(&store->lock);
			bool ok = ask_index(store, digest, 1, &answer, entry, err);
			if (round < RETRIES)
				pthread_mutex_lock(&store->lock);
			if (!ok) {
				pthread_mutex_unlock(&store->lock);
				return -1;
			}
			if (generation != store->generation) {
				pthread_mutex_unlock(&store->lock);
				continue;
			}
		}
		int found = answer == PRESENT && entry->size == digest->size_bytes && has_segment(store, entry);
		found = found && (!segment || take_segment(store, entry, segment));
		if (found)
			take(store, digest->hash, grip, 0);
		pthread_mutex_unlock(&store->lock);
		return found;
	}
}

bool store_find_sums(struct croft_store *store, const uint8_t *hash, struct croft_slice *sums,
	struct croft_error *err)
{
	*sums = CROFT_SLICE(NULL, 0);
	struct croft_slice found = {NULL, 0};
	pthread_mutex_lock(&store->lock);
	const struct store_pending *pending = store_pending_find(&store->pending, hash);
	if (pending && pending->state == STORE_PRESENT && pending->sums.size)
		*sums = store_copy(pending->sums);
	pthread_mutex_unlock(&store->lock);
	if (sums->size)
		return true;
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return false;
	int code = store_table_get(txn, store->index.sums, hash, CROFT_HASH_SIZE, &found, err);
	if (code == 1)
		*sums = store_copy(found);
	store_read_end(&store->index, txn);
	return code >= 0;
}

bool croft_store_find_hash(struct croft_store *store, const uint8_t hash[CROFT_HASH_SIZE],
	struct croft_digest *digest, struct croft_error *err)
{
	struct croft_digest found = croft_digest_empty;
	struct store_entry entry = {0};
	if (memcmp(hash, croft_digest_empty.hash, CROFT_HASH_SIZE) == 0) {
		*digest = croft_digest_empty;
		return true;
	}
	memcpy(found.hash, hash, CROFT_HASH_SIZE);
	pthread_mutex_lock(&store->lock);
	enum answer answer = ask_pending(store, hash, &entry);
	pthread_mutex_unlock(&store->lock);
	/* Where the blob is may change meanwhile; how large it is does not. */
	if (answer == ASK_INDEX && !ask_index(store, &found, 1, &answer, &entry, err))
		return false;
	bool there = answer == PRESENT;
	if (there && entry.segment) {
		pthread_mutex_lock(&store->lock);
		there = has_segment(store, &entry);
		pthread_mutex_unlock(&store->lock);
		found.size_bytes = entry.size;
		/* Gone, or moved since. */
		if (!there && !croft_store_has(store, &found, 1, &there, err))
			return false;
	}
	if (!there) {
		char text[CROFT_HASH_TEXT];
		croft_hash_format(hash, text);
		return croft_error_set(err, CROFT_NOT_FOUND, "blob %s is not in the store", text);
	}
	found.size_bytes = entry.size;
	*digest = found;
	return true;
}

bool store_is_lost(struct croft_store *store, const uint8_t *hash, struct store_entry *entry)
{
	if (store->config.read_only) /* a server beside us may have moved it */
		return false;
	CROFT_LOCKED(&store->lock);
	MDB_txn *txn = store_pending_find(&store->pending, hash) ? NULL : store_read_begin(&store->index, NULL);
	bool found = txn && store_index_get(&store->index, txn, hash, entry, NULL) == 1;
	store_read_end(&store->index, txn);
	return found && !has_segment(store, entry);
}

bool croft_store_has(struct croft_store *store, const struct croft_digest *digests, size_t count,
	bool *there, struct croft_error *err)
{
	return store_find_many(store, digests, count, STORE_LOOK, 0, there, err);
}
