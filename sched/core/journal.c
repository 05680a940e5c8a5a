/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records live in a log (wal.h); where the newest of each key stands is known in memory. The oldest segment
 * is emptied a little with every group when the log has grown to twice what lives in it: what lives is
 * written once more, what does not is passed over.
 */
#include "sched/core/journal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"
#include "sched/core/journal_keys.h"
#include "sched/core/journal_old.h"
#include "sched/core/wal.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum {
	RETRY_MS = 500,
	GROUP_MOST = 1 << 20, /* bytes, unless a single record has more */
	MOVED_LEAST = 4 << 10, /* that may be moved from the oldest segment with a group */
	MOVED_MOST = 64 << 10,
	SEGMENTS_LEAST = 4,
	REMOVED = UINT32_MAX, /* in the place of a value's size */
};

struct put {
	struct put *next;
	struct croft_slice key, value;
	bool may_fail;
	void (*announce)(void *user, const struct croft_error *failed);
	void *user;
};

struct croft_journal {
	struct wal *wal;
	struct journal_keys *keys;
	pthread_t thread;
	void (*begin)(void *user), (*end)(void *user); /* around announcements; or NULL */
	void *around_user;
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t wanted;
	struct put *first, **last;
	bool stopping;
};

static struct put *put_create(struct croft_slice key, struct croft_slice value)
{
	struct put *put = croft_zalloc(sizeof(*put) + key.size + value.size);
	char *bytes = (char *)(put + 1);
	memcpy(bytes, key.data, key.size);
	if (value.size)
		memcpy(bytes + key.size, value.data, value.size);
	put->key = CROFT_SLICE(bytes, key.size);
	put->value = CROFT_SLICE(value.data ? bytes + key.size : NULL, value.size);
	return put;
}

/* Groups: records of two sizes, a key and a value ---------------------------------------------------- */

struct record_head {
	uint32_t key_size, value_size;
};

/* False: there is no whole record. */
static bool take_record(struct croft_slice *payload, struct croft_slice *key, struct croft_slice *value)
{
	struct record_head head;
	if (payload->size < sizeof(head))
		return false;
	memcpy(&head, payload->data, sizeof(head));
	const uint8_t *at = (const uint8_t *)payload->data + sizeof(head);
	size_t value_size = head.value_size == REMOVED ? 0 : head.value_size;
	if ((uint64_t)head.key_size + value_size > payload->size - sizeof(head))
		return false;
	*key = CROFT_SLICE(at, head.key_size);
	*value = CROFT_SLICE(head.value_size == REMOVED ? NULL : at + head.key_size, value_size);
	size_t size = sizeof(head) + head.key_size + value_size;
	*payload = CROFT_SLICE((const uint8_t *)payload->data + size, payload->size - size);
	return true;
}

/* The group that stands there counts: what its records say is known from now on. */
static bool learn_group(void *user, const struct wal_place *place, struct croft_slice payload,
	struct croft_error *err)
{
	struct croft_journal *journal = user;
	struct croft_slice rest = payload, key, value;
	while (take_record(&rest, &key, &value)) {
		if (!value.data) {
			journal_keys_remove(journal->keys, key);
			continue;
		}
		struct wal_place at = {place->segment,
			place->offset + (uint32_t)((const uint8_t *)value.data - (const uint8_t *)payload.data)};
		journal_keys_put(journal->keys, key, &at, value);
	}
	return rest.size == 0 ||
		croft_error_set(err, CROFT_DATA_LOSS, "the journal has a group that ends within a record");
}

struct group {
	struct croft_journal *journal;
	size_t size;
	size_t may_move; /* bytes from the oldest segment */
};

static size_t record_bytes(struct croft_slice key, size_t value_size)
{
	return sizeof(struct record_head) + key.size + value_size;
}

/* Returns where the value goes, which is the caller's to fill in. */
static uint8_t *add_record(struct group *group, struct croft_slice key, uint32_t value_size)
{
	size_t bytes = record_bytes(key, value_size == REMOVED ? 0 : value_size);
	uint8_t *at = wal_buffer(group->journal->wal, group->size + bytes) + group->size;
	struct record_head head = {(uint32_t)key.size, value_size};
	memcpy(at, &head, sizeof(head));
	memcpy(at + sizeof(head), key.data, key.size);
	group->size += bytes;
	return at + sizeof(head) + key.size;
}

/* Of one record, while the log has room for twice what lives in it: none. */
static const struct journal_key *next_to_move(const struct group *group, const struct journal_key *after)
{
	const struct croft_journal *journal = group->journal;
	uint32_t oldest = wal_oldest(journal->wal);
	uint64_t most = 2 * journal_keys_bytes(journal->keys) / WAL_SEGMENT + SEGMENTS_LEAST;
	if (wal_newest(journal->wal) - oldest < most)
		return NULL;
	const struct journal_key *key = journal_keys_next(journal->keys, oldest, after);
	/* One that is larger than all that may be moved goes alone. */
	return key && (group->size == 0 || group->size + key->size < group->may_move) ? key : NULL;
}

/* Before what is new, so that in a replay that has the last word. False: it cannot be read. */
static bool add_moved(struct group *group, struct croft_error *err)
{
	const struct journal_key *key = NULL;
	while ((key = next_to_move(group, key))) {
		uint8_t *value = add_record(group, journal_key_slice(key), key->size);
		if (!wal_read(group->journal->wal, &key->place, value, key->size, err) ||
			!journal_key_check(key, value, err))
			return false;
	}
	return true;
}

static void free_oldest(struct croft_journal *journal)
{
	while (wal_oldest(journal->wal) < wal_newest(journal->wal) &&
		!journal_keys_next(journal->keys, wal_oldest(journal->wal), NULL))
		wal_free_oldest(journal->wal);
}

/* In proportion to what is new: a segment of which half lives must be emptied while half a segment is written. All at
 * once, everybody would wait for it. */
static size_t may_move(const struct put *batch)
{
	size_t bytes = MOVED_LEAST;
	for (; batch && bytes < MOVED_MOST; batch = batch->next)
		bytes += 2 * record_bytes(batch->key, batch->value.size);
	return bytes < MOVED_MOST ? bytes : MOVED_MOST;
}

/* As many of the batch as go together; returns how many, 0 when they could not be written. */
static size_t write_group(struct croft_journal *journal, const struct put *batch, struct croft_error *err)
{
	struct group group = {.journal = journal, .may_move = may_move(batch)};
	struct wal_place place;
	size_t count = 0;
	if (!add_moved(&group, err))
		return 0;
	for (; batch && batch->value.size < REMOVED; batch = batch->next, count++) {
		if (count && group.size + record_bytes(batch->key, batch->value.size) > GROUP_MOST)
			break;
		uint8_t *value = add_record(
			&group, batch->key, batch->value.data ? (uint32_t)batch->value.size : (uint32_t)REMOVED);
		if (batch->value.size)
			memcpy(value, batch->value.data, batch->value.size);
	}
	if (!wal_write(journal->wal, group.size, &place, err) ||
		!learn_group(journal, &place, CROFT_SLICE(wal_buffer(journal->wal, 0), group.size), err))
		return 0;
	wal_shrink(journal->wal);
	free_oldest(journal);
	return count;
}

/* The thread ------------------------------------------------------------------------------------------- */

static void announce_all(struct croft_journal *journal, struct put *batch,
	const struct croft_error *failed)
{
	if (!batch)
		return;
	if (journal->begin)
		journal->begin(journal->around_user);
	while (batch) {
		struct put *next = batch->next;
		if (batch->announce)
			batch->announce(batch->user, failed);
		free(batch);
		batch = next;
	}
	if (journal->end)
		journal->end(journal->around_user);
}

/* Takes those that may fail out of the batch. */
static struct put *split_failed(struct put **batch)
{
	struct put *failed = NULL, **failed_last = &failed;
	for (struct put **at = batch; *at;) {
		struct put *put = *at;
		if (!put->may_fail) {
			at = &put->next;
			continue;
		}
		*at = put->next;
		put->next = NULL;
		*failed_last = put;
		failed_last = &put->next;
	}
	return failed;
}

/* The first of the batch, as many as were written. */
static struct put *split_written(struct put **batch, size_t count)
{
	struct put *written = *batch, **end = batch;
	while (count--)
		end = &(*end)->next;
	struct put *rest = *end;
	*end = NULL;
	*batch = rest;
	return written;
}

static void write_and_announce(struct croft_journal *journal, struct put *batch)
{
	while (batch) {
		struct croft_error err = CROFT_ERROR_INIT;
		size_t count = write_group(journal, batch, &err);
		if (count) {
			announce_all(journal, split_written(&batch, count), NULL);
			continue;
		}
		croft_error_wrap(&err, "writing the journal");
		croft_log(CROFT_LOG_ERROR, "%s; trying again", err.message);
		announce_all(journal, split_failed(&batch), &err);
		struct timespec pause = {0, RETRY_MS * 1000000L};
		if (batch)
			nanosleep(&pause, NULL); /* nothing tells when a disk has room again */
	}
}

static void *journal_thread(void *user)
{
	struct croft_journal *journal = user;
	pthread_mutex_lock(&journal->lock);
	for (;;) {
		while (!journal->first && !journal->stopping)
			pthread_cond_wait(&journal->wanted, &journal->lock);
		struct put *batch = journal->first;
		if (!batch)
			break;
		journal->first = NULL;
		journal->last = &journal->first;
		pthread_mutex_unlock(&journal->lock);
		write_and_announce(journal, batch);
		pthread_mutex_lock(&journal->lock);
	}
	pthread_mutex_unlock(&journal->lock);
	return NULL;
}

void croft_journal_around(struct croft_journal *journal, void (*begin)(void *user),
	void (*end)(void *user), void *user)
{
	CROFT_LOCKED(&journal->lock);
	journal->begin = begin;
	journal->end = end;
	journal->around_user = user;
}

void croft_journal_put(struct croft_journal *journal, struct croft_slice key,
	struct croft_slice value, bool may_fail,
	void (*announce)(void *user, const struct croft_error *failed), void *user)
{
	struct put *put = put_create(key, value);
	put->may_fail = may_fail;
	put->announce = announce;
	put->user = user;
	CROFT_LOCKED(&journal->lock);
	if (!journal->first)
		pthread_cond_signal(&journal->wanted);
	*journal->last = put;
	journal->last = &put->next;
}

bool croft_journal_each(struct croft_journal *journal,
	bool (*record)(void *user, struct croft_slice key, struct croft_slice value,
		struct croft_error *err),
	void *user, struct croft_error *err)
{
	size_t count;
	CROFT_CLEANUP_FREE const struct journal_key **keys = journal_keys_sorted(journal->keys, &count);
	CROFT_CLEANUP_FREE uint8_t *value = NULL;
	size_t room = 0;
	for (size_t i = 0; i < count; i++) {
		const struct journal_key *key = keys[i];
		if (key->size >= room) {
			room = 2 * (size_t)key->size + 1;
			value = croft_realloc(value, room, 1);
		}
		if (!wal_read(journal->wal, &key->place, value, key->size, err) ||
			!journal_key_check(key, value, err))
			return croft_error_wrap(err, "reading the journal"), false;
		if (!record(user, journal_key_slice(key), CROFT_SLICE(value, key->size), err))
			return false;
	}
	return true;
}

/* What an earlier version left ------------------------------------------------------------------------- */

static void take_old_record(void *user, struct croft_slice key, struct croft_slice value)
{
	struct croft_journal *journal = user;
	*journal->last = put_create(key, value);
	journal->last = &(*journal->last)->next;
}

/* It is removed when all of it is in the log: after a crash before that it is taken once more. */
static bool take_old(struct croft_journal *journal, const char *path, struct croft_error *err)
{
	bool ok = journal_old_read(path, take_old_record, journal, err);
	struct put *batch = journal->first;
	journal->first = NULL;
	journal->last = &journal->first;
	while (batch) {
		size_t count = ok ? write_group(journal, batch, err) : 0;
		ok = count > 0;
		for (struct put *put = split_written(&batch, ok ? count : 1), *next; put; put = next) {
			next = put->next;
			free(put);
		}
	}
	return ok && journal_old_remove(path, err);
}

struct croft_journal *croft_journal_open(const char *path, struct croft_error *err)
{
	if (!croft_make_directories(path, err))
		return NULL;
	struct croft_journal *journal = croft_zalloc(sizeof(*journal));
	journal->keys = journal_keys_create();
	journal->wal = wal_open(path, learn_group, journal, err);
	journal->last = &journal->first;
	if (!journal->wal || !take_old(journal, path, err)) {
		wal_close(journal->wal);
		journal_keys_destroy(journal->keys);
		free(journal);
		return NULL;
	}
	pthread_mutex_init(&journal->lock, NULL);
	pthread_cond_init(&journal->wanted, NULL);
	if (pthread_create(&journal->thread, NULL, journal_thread, journal) != 0)
		abort();
	pthread_setname_np(journal->thread, "journal");
	return journal;
}

void croft_journal_close(struct croft_journal *journal)
{
	if (!journal)
		return;
	pthread_mutex_lock(&journal->lock);
	journal->stopping = true;
	pthread_cond_signal(&journal->wanted);
	pthread_mutex_unlock(&journal->lock);
	pthread_join(journal->thread, NULL);
	wal_close(journal->wal);
	journal_keys_destroy(journal->keys);
	pthread_cond_destroy(&journal->wanted);
	pthread_mutex_destroy(&journal->lock);
	free(journal);
}
