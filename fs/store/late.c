/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Late records: their caller has them in a log of its own, so they are found from memory at once and written to the
 * index by the keeper. One is forgotten here only when the index has it on disk: who looks here first, then there,
 * finds it at any time.
 *
 * Names are hashes: a thousand records written together would change a thousand pages all over the index, and the
 * one who waits for the disk meanwhile would wait for all of them. So they are written in rounds, a step with the
 * next few values of the first byte of the name at a time: what came to one part of the tree in a round shares its
 * pages, and no step is long.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <stdlib.h>

enum {
	LATE_MS = 1000,       /* how long one waits before the first step */
	STEP_MS = 25,         /* between two; a round is 6.4 s at most */
	STEP_LEAST = 128,     /* records of one step, if there are as many */
	LATE_MOST = 64 << 20, /* bytes that may wait */
};

struct croft_late_record {
	struct croft_digest name; /* of the key; its size: the table */
	void *bytes;              /* as they are stored */
	size_t size;
	uint64_t number;
	TAILQ_ENTRY(croft_late_record) link; /* in the order in which they were published */
	bool writing;  /* a step has it */
	bool replaced; /* meanwhile: not in the map any more */
};

void store_late_init(struct croft_store *store)
{
	for (size_t i = 0; i < STORE_LATE_PARTS; i++)
		store->late.parts[i] = croft_digest_map_create();
	TAILQ_INIT(&store->late.order);
	pthread_mutex_init(&store->late.writing, NULL);
}

static void late_free(struct croft_late_record *late)
{
	free(late->bytes);
	free(late);
}

void store_late_finish(struct croft_store *store)
{
	struct croft_late_record *late;
	while ((late = TAILQ_FIRST(&store->late.order))) {
		TAILQ_REMOVE(&store->late.order, late, link);
		late_free(late);
	}
	for (size_t i = 0; i < STORE_LATE_PARTS; i++)
		croft_digest_map_destroy(store->late.parts[i]);
	pthread_mutex_destroy(&store->late.writing);
}

static struct croft_digest_map *part_of(struct croft_store *store, const uint8_t *hash)
{
	return store->late.parts[hash[0]];
}

static struct croft_digest name_of(enum croft_record_table table, const uint8_t *hash)
{
	struct croft_digest name = {.size_bytes = table};
	memcpy(name.hash, hash, CROFT_HASH_SIZE);
	return name;
}

bool store_late_has(struct croft_store *store, enum croft_record_table table, const uint8_t *hash)
{
	struct croft_digest name = name_of(table, hash);
	CROFT_LOCKED(&store->lock);
	return croft_digest_map_get(part_of(store, hash), &name) != NULL;
}

bool store_late_get(struct croft_store *store, enum croft_record_table table, const uint8_t *hash,
	struct croft_arena *arena, struct croft_slice *stored)
{
	struct croft_digest name = name_of(table, hash);
	CROFT_LOCKED(&store->lock);
	const struct croft_late_record *late = croft_digest_map_get(part_of(store, hash), &name);
	if (!late)
		return false;
	*stored = CROFT_SLICE(croft_arena_copy(arena, late->bytes, late->size), late->size);
	return true;
}

/* Callers ---------------------------------------------------------------------------------------- */

/* Where they cannot be written down, no more are taken on. */
static bool has_room(struct croft_store *store, struct croft_error *err)
{
	pthread_mutex_lock(&store->lock);
	bool room = store->late.bytes < LATE_MOST;
	pthread_mutex_unlock(&store->lock);
	return room || store_late_write(store, err);
}

void croft_store_record_prepare(struct croft_store *store, struct croft_record *records, size_t count,
	struct croft_late_record **late)
{
	size_t ready = 0;
	for (size_t i = 0; i < count; i++) {
		struct croft_record *record = &records[i];
		struct croft_late_record own = {0};
		late[i] = NULL;
		record->failed = (struct croft_error)CROFT_ERROR_INIT;
		record->ok = has_room(store, &record->failed) &&
			store_record_prepare(store, record, &own.bytes, &own.size, &record->failed);
		if (!record->ok)
			continue;
		own.name = croft_digest_of(record->key.data, record->key.size);
		own.name.size_bytes = record->table;
		late[i] = croft_alloc(sizeof(own));
		*late[i] = own;
		ready++;
	}
	if (ready)
		store_lease_commit(store);
}

void croft_store_record_drop(struct croft_store *store, struct croft_late_record *late)
{
	if (!late)
		return;
	store_unreserve(store, 2 * late->size, 0);
	late_free(late);
}

/* `lock` held. */
static void leave(struct croft_store *store, struct croft_late_record *late)
{
	TAILQ_REMOVE(&store->late.order, late, link);
	store->late.count--;
	store->late.bytes -= late->size;
}

uint64_t croft_store_record_publish(struct croft_store *store, struct croft_late_record *late)
{
	pthread_mutex_lock(&store->lock);
	void **place = croft_digest_map_at(part_of(store, late->name.hash), &late->name);
	struct croft_late_record *old = *place;
	*place = late;
	if (old) {
		leave(store, old);
		old->replaced = true;
		if (old->writing)
			old = NULL; /* it is let go of by who writes it */
	}
	TAILQ_INSERT_TAIL(&store->late.order, late, link);
	store->late.count++;
	store->late.bytes += late->size;
	uint64_t number = late->number = ++store->late.published;
	if (!store->late.due_ns) {
		store->late.due_ns = croft_now_ns() + LATE_MS * UINT64_C(1000000);
		pthread_cond_signal(&store->keeper.wake);
	}
	pthread_mutex_unlock(&store->lock);
	croft_store_record_drop(store, old);
	return number;
}

uint64_t croft_store_records_indexed(struct croft_store *store)
{
	CROFT_LOCKED(&store->lock);
	const struct croft_late_record *oldest = TAILQ_FIRST(&store->late.order);
	return oldest ? oldest->number - 1 : store->late.published;
}

/* Writing ---------------------------------------------------------------------------------------- */

struct late_batch {
	struct croft_late_record **records;
	size_t count;
};

/* Of the parts that are next, until there are enough of them. `lock` held. */
static struct late_batch gather(struct croft_store *store, size_t least)
{
	struct late_batch batch = {croft_array(store->late.count + 1, sizeof(void *)), 0};
	for (size_t i = 0; i < STORE_LATE_PARTS && batch.count < least; i++) {
		size_t position = 0;
		struct croft_late_record *late;
		while ((late = croft_digest_map_next(store->late.parts[store->late.next_part], &position))) {
			late->writing = true;
			batch.records[batch.count++] = late;
		}
		store->late.next_part = (store->late.next_part + 1) % STORE_LATE_PARTS;
	}
	return batch;
}

static int by_name(const void *a, const void *b)
{
	const struct croft_late_record *const *one = a, *const *other = b;
	return memcmp((*one)->name.hash, (*other)->name.hash, CROFT_HASH_SIZE);
}

static bool commit(struct croft_store *store, const struct late_batch *batch, struct croft_error *err)
{
	MDB_txn *txn;
	int code = mdb_txn_begin(store->index.env, NULL, 0, &txn);
	if (code)
		return store_mdb_error(err, code, "writing records");
	for (size_t i = 0; i < batch->count; i++) {
		const struct croft_late_record *late = batch->records[i];
		if (!store_table_put(txn, store->index.records[late->name.size_bytes], late->name.hash,
				CROFT_HASH_SIZE, late->bytes, late->size, err)) {
			mdb_txn_abort(txn);
			return false;
		}
	}
	code = mdb_txn_commit(txn);
	return code == 0 || store_mdb_error(err, code, "committing records");
}

/* `lock` held; returns the bytes that were set aside for what does not wait any more. */
static uint64_t settle(struct croft_store *store, const struct late_batch *batch, bool ok)
{
	uint64_t reserved = 0;
	for (size_t i = 0; i < batch->count; i++) {
		struct croft_late_record *late = batch->records[i];
		late->writing = false;
		if (!ok && !late->replaced)
			continue;
		if (!late->replaced) {
			croft_digest_map_remove(part_of(store, late->name.hash), &late->name);
			leave(store, late);
		}
		reserved += 2 * late->size;
		late_free(late);
	}
	unsigned pause_ms = ok ? STEP_MS : LATE_MS;
	store->late.due_ns = store->late.count ? croft_now_ns() + pause_ms * UINT64_C(1000000) : 0;
	return reserved;
}

static bool write_some(struct croft_store *store, size_t least, struct croft_error *err)
{
	CROFT_LOCKED(&store->late.writing);
	pthread_mutex_lock(&store->lock);
	struct late_batch batch = gather(store, least);
	pthread_mutex_unlock(&store->lock);
	/* In key order the tree's pages are touched once each. */
	qsort(batch.records, batch.count, sizeof(*batch.records), by_name);
	bool ok = batch.count == 0 || commit(store, &batch, err);
	pthread_mutex_lock(&store->lock);
	uint64_t reserved = settle(store, &batch, ok);
	pthread_mutex_unlock(&store->lock);
	store_unreserve(store, reserved, 0);
	free(batch.records);
	return ok;
}

bool store_late_step(struct croft_store *store, struct croft_error *err)
{
	return write_some(store, STEP_LEAST, err);
}

bool store_late_write(struct croft_store *store, struct croft_error *err)
{
	return write_some(store, SIZE_MAX, err);
}
