/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: the thread that moves pending entries into the index (a checkpoint) and makes room.
 * A checkpoint is one LMDB transaction, synced: entries, totals, live bytes of segments and the log
 * position that all of that stands for.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
	CHECKPOINT_MS = 1000, /* how long an entry may wait for the index */
	CHECKPOINT_ENTRIES = 16 << 10,
	SWEEP_MS = 60 * 1000,
	SMALL_STEP = 256, /* entries at once when there is little room */
};

struct change {
	uint8_t hash[CROFT_HASH_SIZE];
	uint64_t serial;
	bool gone, evicted, rewrite;
	struct store_entry entry, old;
	struct croft_slice sums; /* a copy */
};

struct live {
	uint32_t segment;
	int64_t delta;
	bool known; /* among the segments that are there */
};

struct checkpoint {
	struct change *changes;
	size_t count;
	struct store_position position;
	struct store_totals totals, delta; /* delta: to be added to the store's once committed */
	bool renamed[256];
	struct live *lives;
	size_t lives_count, lives_room;
	uint32_t *dead; /* segments without a live byte */
	size_t dead_count;
	MDB_txn *txn;
	uint64_t asked; /* by then */
	bool partial;   /* more is pending: the position stays */
	bool unseen;    /* something that a tenant had seen is gone */
};

static int by_hash(const void *a, const void *b)
{
	return memcmp(((const struct change *)a)->hash, ((const struct change *)b)->hash,
		CROFT_HASH_SIZE);
}

static void copy_change(struct change *change, const struct store_pending *pending)
{
	memcpy(change->hash, pending->hash, CROFT_HASH_SIZE);
	change->serial = pending->serial;
	change->gone = pending->state == STORE_GONE;
	change->evicted = pending->evicted;
	change->rewrite = pending->rewrite;
	change->entry = pending->entry;
	if (pending->sums.size && !change->gone)
		change->sums = store_copy(pending->sums);
}

static void subtract(struct store_totals *totals, const struct store_entry *entry)
{
	totals->blobs--;
	totals->bytes -= store_entry_bytes(entry);
	totals->large_files -= store_is_file(entry);
	totals->large_disk_bytes -= store_is_file(entry) ? store_entry_disk_bytes(entry) : 0;
}

/* Copies what is pending, up to `most`. The totals to be written are those of what will be in the
 * index then. `lock` held. */
static void gather(struct croft_store *store, struct checkpoint *work, size_t most)
{
	struct store_pending_table *pending = &store->pending;
	work->asked = store->keeper.asked;
	work->totals = store->totals;
	work->changes = croft_array(pending->settled + 1, sizeof(*work->changes));
	for (size_t i = 0; pending->settled && i < pending->room; i++)
		for (struct store_pending *at = pending->buckets[i]; at; at = at->next) {
			if (at->state == STORE_WRITING)
				continue;
			if (work->count < most) {
				copy_change(&work->changes[work->count++], at);
				continue;
			}
			work->partial = true;
			if (at->state == STORE_PRESENT && !at->rewrite)
				subtract(&work->totals, &at->entry);
		}
	memcpy(work->renamed, store->log.renamed, sizeof(work->renamed));
	memset(store->log.renamed, 0, sizeof(store->log.renamed));
	work->position = store->keeper.position;
	if (store->log.open && !work->partial)
		work->position =
			(struct store_position){store->log.open->number, store->log.synced};
}

/* Files that the log named must be where they belong for good before the log is done with them. */
static bool sync_renames(struct croft_store *store, const struct checkpoint *work,
	struct croft_error *err)
{
	for (int i = 0; store->config.durable && i < 256; i++) {
		if (!work->renamed[i])
			continue;
		char name[4];
		snprintf(name, sizeof(name), "%02x", i);
		CROFT_CLEANUP_FD int fd = openat(store->large_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || fsync(fd) < 0)
			return croft_error_errno(err, errno, "%s: syncing large/%s", store->path, name);
	}
	return true;
}

static void add_live(struct checkpoint *work, const struct store_entry *entry, int sign)
{
	if (!entry->segment)
		return;
	int64_t bytes = sign * (int64_t)store_entry_disk_bytes(entry);
	for (size_t i = 0; i < work->lives_count; i++)
		if (work->lives[i].segment == entry->segment) {
			work->lives[i].delta += bytes;
			return;
		}
	if (work->lives_count == work->lives_room) {
		work->lives_room = work->lives_room ? 2 * work->lives_room : 16;
		work->lives = croft_realloc(work->lives, work->lives_room, sizeof(*work->lives));
	}
	work->lives[work->lives_count++] = (struct live){entry->segment, bytes, false};
}

static bool apply_gone(struct croft_store *store, struct checkpoint *work, struct change *change,
	struct croft_error *err)
{
	if (!store_index_remove(&store->index, work->txn, change->hash, &change->old, err) ||
		!store_seen_remove(store, work->txn, change->hash, &work->unseen, err))
		return false;
	/* One that never came into the index is as the pending table had it. */
	const struct store_entry *was = change->old.size ? &change->old : &change->entry;
	if (change->old.size)
		add_live(work, &change->old, -1);
	subtract(&work->delta, was);
	if (change->evicted) {
		work->delta.evicted_blobs++;
		work->delta.evicted_bytes += was->size;
	} else {
		work->delta.quarantined++;
	}
	return !store_is_file(was) || store_table_put(work->txn, store->index.doomed, change->hash,
									  CROFT_HASH_SIZE, NULL, 0, err);
}

static bool apply_present(struct croft_store *store, struct checkpoint *work, struct change *change,
	struct croft_error *err)
{
	if (!store_index_put(&store->index, work->txn, change->hash, &change->entry, change->sums,
			&change->old, err))
		return false;
	add_live(work, &change->entry, 1);
	if (change->old.size)
		add_live(work, &change->old, -1);
	if (change->old.size && !change->rewrite) /* stored twice at the same time */
		subtract(&work->delta, &change->old);
	return true;
}

/* Of a segment whose file is not there the index names fewer and fewer blobs, in the end none. */
static bool apply_lost(struct croft_store *store, struct checkpoint *work, const struct live *lost,
	struct croft_error *err)
{
	struct croft_slice value;
	uint32_t live;
	int found = store_table_get(work->txn, store->index.segments, &lost->segment, 4, &value, err);
	if (found <= 0 || value.size != sizeof(live))
		return found >= 0;
	memcpy(&live, value.data, sizeof(live));
	live = (uint32_t)(live + lost->delta);
	return live == 0 ? store_table_delete(work->txn, store->index.segments, &lost->segment, 4, err)
					 : store_table_put(work->txn, store->index.segments, &lost->segment, 4, &live, 4, err);
}

static bool apply_segments(struct croft_store *store, struct checkpoint *work,
	struct croft_error *err)
{
	pthread_mutex_lock(&store->lock);
	size_t count = store->segments.count;
	CROFT_CLEANUP_FREE struct live *segments = croft_array(count + 1, sizeof(*segments));
	for (size_t i = 0; i < count; i++)
		segments[i] =
			(struct live){store->segments.items[i]->number, store->segments.items[i]->live, true};
	pthread_mutex_unlock(&store->lock);
	work->dead = croft_array(count + 1, sizeof(*work->dead));
	for (size_t i = 0; i < count; i++) {
		int64_t delta = 0;
		for (size_t k = 0; k < work->lives_count; k++)
			if (work->lives[k].segment == segments[i].segment) {
				delta = work->lives[k].delta;
				work->lives[k].known = true;
			}
		uint32_t number = segments[i].segment, live = (uint32_t)(segments[i].delta + delta);
		if (live == 0 && number < work->position.segment) {
			work->dead[work->dead_count++] = number;
			if (!store_table_delete(work->txn, store->index.segments, &number, 4, err))
				return false;
		} else if (delta &&
				   !store_table_put(work->txn, store->index.segments, &number, 4, &live, 4, err)) {
			return false;
		}
	}
	for (size_t k = 0; k < work->lives_count; k++)
		if (!work->lives[k].known && !apply_lost(store, work, &work->lives[k], err))
			return false;
	return true;
}

static void add_totals(struct store_totals *totals, const struct store_totals *delta)
{
	totals->blobs += delta->blobs;
	totals->bytes += delta->bytes;
	totals->large_files += delta->large_files;
	totals->large_disk_bytes += delta->large_disk_bytes;
	totals->quarantined += delta->quarantined;
	totals->evicted_blobs += delta->evicted_blobs;
	totals->evicted_bytes += delta->evicted_bytes;
}

static bool apply(struct croft_store *store, struct checkpoint *work, struct croft_error *err)
{
	MDB_dbi meta = store->index.meta;
	for (size_t i = 0; i < store->keeper.unlinked_count; i++)
		if (!store_table_delete(work->txn, store->index.doomed, store->keeper.unlinked[i],
				CROFT_HASH_SIZE, err))
			return false;
	for (size_t i = 0; i < work->count; i++)
		if (!(work->changes[i].gone ? apply_gone : apply_present)(
				store, work, &work->changes[i], err))
			return false;
	if (!apply_segments(store, work, err) ||
		(work->unseen && !store_seen_count_removal(store, work->txn, err)))
		return false;
	struct store_totals totals = work->totals;
	add_totals(&totals, &work->delta);
	uint64_t clock_ms = store_now_ms(store);
	return store_put_state(store, work->txn, 0, err) &&
		   store_table_put(work->txn, meta, STORE_META_POSITION, strlen(STORE_META_POSITION),
			   &work->position, sizeof(work->position), err) &&
		   store_table_put(work->txn, meta, STORE_META_TOTALS, strlen(STORE_META_TOTALS), &totals,
			   sizeof(totals), err) &&
		   store_table_put(work->txn, meta, STORE_META_CLOCK, strlen(STORE_META_CLOCK), &clock_ms,
			   sizeof(clock_ms), err);
}

/* What the index does not name any more goes from the disk. */
static void unlink_gone(struct croft_store *store, struct checkpoint *work)
{
	free(store->keeper.unlinked);
	store->keeper.unlinked = croft_array(work->count + 1, CROFT_HASH_SIZE);
	store->keeper.unlinked_count = 0;
	for (size_t i = 0; i < work->count; i++) {
		const struct change *change = &work->changes[i];
		const struct store_entry *was = change->old.size ? &change->old : &change->entry;
		if (!change->gone || !store_is_file(was))
			continue;
		char path[80];
		store_large_path(change->hash, path);
		if (unlinkat(store->large_fd, path, 0) < 0 && errno != ENOENT)
			croft_log(CROFT_LOG_WARNING, "%s: removing large/%s failed", store->path, path);
		else
			memcpy(store->keeper.unlinked[store->keeper.unlinked_count++], change->hash,
				CROFT_HASH_SIZE);
	}
}

/* Memory follows the index. `lock` held. */
static void settle(struct croft_store *store, struct checkpoint *work)
{
	for (size_t i = 0; i < work->count; i++) {
		const struct change *change = &work->changes[i];
		const struct store_pending *pending = store_pending_find(&store->pending, change->hash);
		if (pending && pending->serial == change->serial)
			store_pending_remove(&store->pending, change->hash);
	}
	add_totals(&store->totals, &work->delta);
	for (size_t i = 0; i < work->lives_count; i++) {
		struct store_segment *segment =
			store_segment_find(&store->segments, work->lives[i].segment);
		if (segment)
			segment->live = (uint32_t)(segment->live + work->lives[i].delta);
	}
	for (size_t i = 0; i < work->dead_count; i++)
		store_segment_remove(store, store_segment_find(&store->segments, work->dead[i]));
	store->keeper.position = work->position;
	store->index_bytes = store_index_disk_bytes(&store->index);
}

static bool commit(struct croft_store *store, struct checkpoint *work, struct croft_error *err)
{
	int code = mdb_txn_begin(store->index.env, NULL, 0, &work->txn);
	if (code)
		return store_mdb_error(err, code, "starting a checkpoint");
	if (!apply(store, work, err)) {
		mdb_txn_abort(work->txn);
		return false;
	}
	code = mdb_txn_commit(work->txn);
	return code == 0 || store_mdb_error(err, code, "committing a checkpoint");
}

static void checkpoint_free(struct checkpoint *work)
{
	for (size_t i = 0; i < work->count; i++)
		free((void *)work->changes[i].sums.data);
	free(work->changes);
	free(work->lives);
	free(work->dead);
}

/* One transaction. */
static bool step(struct croft_store *store, size_t most, bool *partial, struct croft_error *err)
{
	struct checkpoint work = {0};
	pthread_mutex_lock(&store->lock);
	gather(store, &work, most);
	pthread_mutex_unlock(&store->lock);
	*partial = work.partial;
	/* In key order the tree's pages are touched once each. */
	qsort(work.changes, work.count, sizeof(*work.changes), by_hash);

	bool ok = sync_renames(store, &work, err) && commit(store, &work, err);
	if (ok)
		unlink_gone(store, &work);

	pthread_mutex_lock(&store->lock);
	if (ok)
		settle(store, &work);
	/* Before the index forgets that these are doomed their names must be gone for good. */
	for (size_t i = 0; ok && i < store->keeper.unlinked_count; i++)
		store->log.renamed[store->keeper.unlinked[i][0]] = true;
	for (int i = 0; !ok && i < 256; i++)
		store->log.renamed[i] |= work.renamed[i];
	if (ok && !work.partial) {
		store->keeper.done = work.asked;
		store->keeper.failure = CROFT_ERROR_INIT;
	}
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->lock);
	checkpoint_free(&work);
	return ok;
}

bool store_checkpoint(struct croft_store *store, struct croft_error *err)
{
	pthread_mutex_lock(&store->lock);
	uint64_t asked = store->keeper.asked;
	pthread_mutex_unlock(&store->lock);
	struct croft_error failure = CROFT_ERROR_INIT;
	size_t most = SIZE_MAX;
	bool ok, partial;
	do {
		ok = step(store, most, &partial, &failure);
		if (!ok && most > SMALL_STEP && store_is_no_room(&failure)) {
			most = SMALL_STEP; /* each step gives back the pages that it replaced */
			ok = partial = true;
		}
	} while (ok && partial);
	store_look_at_disk(store);
	store_index_trim(&store->index);
	if (ok)
		return true;
	pthread_mutex_lock(&store->lock);
	store->keeper.done = asked > store->keeper.done ? asked : store->keeper.done;
	store->keeper.failure = failure;
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->lock);
	if (err)
		*err = failure;
	return false;
}

bool store_flush(struct croft_store *store, struct croft_error *err)
{
	CROFT_LOCKED(&store->lock);
	uint64_t mine = ++store->keeper.asked;
	pthread_cond_signal(&store->keeper.wake);
	while (store->keeper.done < mine)
		pthread_cond_wait(&store->changed, &store->lock);
	if (store->keeper.failure.code && err)
		*err = store->keeper.failure;
	return !store->keeper.failure.code;
}

/* Room for who waits, and some before anyone has to. False: nothing to be done. `lock` held. */
static bool pressed(struct croft_store *store, uint64_t *target_bytes, uint64_t *target_inodes)
{
	uint64_t limit = store_limit_bytes(store);
	uint64_t used = store_used_bytes(store) + store->keeper.want_bytes;
	uint64_t inodes = store_used_inodes(store) + store->keeper.want_inodes;
	uint64_t now_ns = croft_now_ns();
	if (store->keeper.barren_ns && now_ns - store->keeper.barren_ns < 100000000)
		return false;
	if (used <= limit - limit / 50 && inodes <= store->budget_inodes - store->budget_inodes / 50)
		return false;
	uint64_t low = limit - limit / 25, low_inodes = store->budget_inodes - store->budget_inodes / 25;
	*target_bytes = low > store->keeper.want_bytes ? low - store->keeper.want_bytes : 0;
	*target_inodes =
		low_inodes > store->keeper.want_inodes ? low_inodes - store->keeper.want_inodes : 0;
	return true;
}

static void make_room(struct croft_store *store, uint64_t target_bytes, uint64_t target_inodes)
{
	uint64_t began_ns = croft_now_ns();
	bool ok = store_evict(store, target_bytes, target_inodes);
	CROFT_LOCKED(&store->lock);
	store->keeper.barren_ns = ok ? 0 : began_ns;
	pthread_cond_broadcast(&store->changed);
}

static void sweep(struct croft_store *store)
{
	store->keeper.swept_ms = store_now_ms(store);
	store_save_uses(store, false, NULL);
	store_leases_sweep(store);
	store_lease_commit(store);
	CROFT_LOCKED(&store->lock);
	store_closures_sweep(store, store->keeper.swept_ms);
	store_activity_sweep(&store->activity, store->keeper.swept_ms);
}

static void wait_until(struct croft_store *store, uint64_t deadline_ns)
{
	struct timespec until = {(time_t)(deadline_ns / 1000000000), (long)(deadline_ns % 1000000000)};
	pthread_cond_timedwait(&store->keeper.wake, &store->lock, &until);
}

static void write_late(struct croft_store *store)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!store_late_step(store, &err))
		croft_log(CROFT_LOG_WARNING, "%s: records wait to be written: %s", store->path, err.message);
}

static void *keep(void *user)
{
	struct croft_store *store = user;
	uint64_t target_bytes, target_inodes;
	pthread_mutex_lock(&store->lock);
	while (!store->keeper.stop) {
		if (store->keeper.look) {
			pthread_mutex_unlock(&store->lock);
			store_look_at_disk(store);
			pthread_mutex_lock(&store->lock);
			store->keeper.look = false;
			store->keeper.looked_ns = croft_now_ns();
			pthread_cond_broadcast(&store->changed);
		}
		uint64_t now_ns = croft_now_ns(), now_ms = store_now_ms(store);
		if (store->pending.settled == 0)
			store->keeper.first_ns = 0;
		else if (!store->keeper.first_ns)
			store->keeper.first_ns = now_ns;
		uint64_t due_ns = store->keeper.first_ns
							  ? store->keeper.first_ns + (uint64_t)CHECKPOINT_MS * 1000000
							  : UINT64_MAX;
		bool collect = store->keeper.collect;
		bool room = pressed(store, &target_bytes, &target_inodes);
		if (collect) {
			target_bytes = store->keeper.collect_bytes;
			target_inodes = store->budget_inodes;
			room = true;
		}
		bool due = store->keeper.asked > store->keeper.done || now_ns >= due_ns ||
				   (store->pending.settled >= CHECKPOINT_ENTRIES && !store->keeper.failure.code);
		bool stale = now_ms - store->keeper.swept_ms >= SWEEP_MS;
		bool late = store->late.due_ns && now_ns >= store->late.due_ns;
		if (!room && !due && !stale && !late) {
			uint64_t until_ns = now_ns + (uint64_t)SWEEP_MS * 1000000;
			until_ns = due_ns < until_ns ? due_ns : until_ns;
			if (store->late.due_ns && store->late.due_ns < until_ns)
				until_ns = store->late.due_ns;
			wait_until(store, until_ns);
			continue;
		}
		pthread_mutex_unlock(&store->lock);
		if (late)
			write_late(store);
		if (due) {
			store->keeper.first_ns = 0;
			struct croft_error err = CROFT_ERROR_INIT;
			if (!store_checkpoint(store, &err))
				croft_log(CROFT_LOG_WARNING, "%s: %s", store->path, err.message);
		}
		if (room)
			make_room(store, target_bytes, target_inodes);
		if (stale)
			sweep(store);
		pthread_mutex_lock(&store->lock);
		if (collect) {
			store->keeper.collect = false;
			pthread_cond_broadcast(&store->changed);
		}
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

bool store_keeper_start(struct croft_store *store, struct croft_error *err)
{
	int code = pthread_create(&store->keeper.thread, NULL, keep, store);
	if (code)
		return croft_error_errno(err, code, "starting the store's keeper");
	pthread_setname_np(store->keeper.thread, "store-keeper");
	store->keeper.running = true;
	return true;
}

void store_keeper_stop(struct croft_store *store)
{
	if (!store->keeper.running)
		return;
	pthread_mutex_lock(&store->lock);
	store->keeper.stop = true;
	pthread_cond_signal(&store->keeper.wake);
	pthread_mutex_unlock(&store->lock);
	pthread_join(store->keeper.thread, NULL);
	store->keeper.running = false;
}
