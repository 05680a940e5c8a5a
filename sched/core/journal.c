/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/journal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

enum { RETRY_MS = 500 };
/* Of address space, not of disk: a million queued operations are about a gigabyte. */
static const size_t MAP_BYTES = (size_t)16 << 30;
/* Records written after which the mapped pages, all of which count as the server's memory, are let go of. */
enum { LET_GO_EVERY = 8192 };

struct put {
	struct put *next;
	struct croft_slice key, value;
	bool may_fail;
	void (*announce)(void *user, const struct croft_error *failed);
	void *user;
};

struct croft_journal {
	MDB_env *env;
	MDB_dbi table;
	pthread_t thread;
	void *map; /* where LMDB mapped its file; NULL: not found */
	size_t written; /* since pages were let go of; the thread's own */
	void (*begin)(void *user), (*end)(void *user); /* around announcements; or NULL */
	void *around_user;
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t wanted;
	struct put *first, **last;
	bool stopping;
};

static bool lmdb_error(struct croft_error *err, int code, const char *doing)
{
	if (code == ENOSPC || code == MDB_MAP_FULL)
		return croft_error_set(
			err, CROFT_RESOURCE_EXHAUSTED, "%s: %s", doing, mdb_strerror(code));
	return croft_error_set(err, CROFT_INTERNAL, "%s: %s", doing, mdb_strerror(code));
}

static int write_one(MDB_txn *txn, MDB_dbi table, const struct put *put)
{
	MDB_val key = {put->key.size, (void *)put->key.data};
	MDB_val value = {put->value.size, (void *)put->value.data};
	if (put->value.data)
		return mdb_put(txn, table, &key, &value, 0);
	int code = mdb_del(txn, table, &key, NULL);
	return code == MDB_NOTFOUND ? 0 : code;
}

static int commit(struct croft_journal *journal, const struct put *batch)
{
	MDB_txn *txn;
	int code = mdb_txn_begin(journal->env, NULL, 0, &txn);
	if (code)
		return code;
	for (const struct put *put = batch; put && !code; put = put->next)
		code = write_one(txn, journal->table, put);
	if (!code)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return code;
}

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

/* The pages stay in the page cache, and come back when they are read. */
static void let_go(struct croft_journal *journal, const struct put *batch)
{
	for (; batch; batch = batch->next)
		journal->written++;
	if (journal->written < LET_GO_EVERY)
		return;
	journal->written = 0;
	if (journal->map)
		madvise(journal->map, MAP_BYTES, MADV_DONTNEED); /* only a hint */
}

static void commit_and_announce(struct croft_journal *journal, struct put *batch)
{
	int code;
	while (batch && (code = commit(journal, batch)) != 0) {
		struct croft_error err = CROFT_ERROR_INIT;
		lmdb_error(&err, code, "writing the journal");
		croft_log(CROFT_LOG_ERROR, "%s; trying again", err.message);
		announce_all(journal, split_failed(&batch), &err);
		struct timespec pause = {0, RETRY_MS * 1000000L};
		if (batch)
			nanosleep(&pause, NULL); /* nothing tells when a disk has room again */
	}
	let_go(journal, batch);
	announce_all(journal, batch, NULL);
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
		commit_and_announce(journal, batch);
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
	struct put *put = croft_alloc(sizeof(*put) + key.size + value.size);
	char *bytes = (char *)(put + 1);
	memcpy(bytes, key.data, key.size);
	if (value.size)
		memcpy(bytes + key.size, value.data, value.size);
	*put = (struct put){
		.key = CROFT_SLICE(bytes, key.size),
		.value = CROFT_SLICE(value.data ? bytes + key.size : NULL, value.size),
		.may_fail = may_fail,
		.announce = announce,
		.user = user,
	};
	CROFT_LOCKED(&journal->lock);
	*journal->last = put;
	journal->last = &put->next;
	pthread_cond_signal(&journal->wanted);
}

bool croft_journal_each(struct croft_journal *journal,
	bool (*record)(void *user, struct croft_slice key, struct croft_slice value,
		struct croft_error *err),
	void *user, struct croft_error *err)
{
	MDB_txn *txn;
	MDB_cursor *cursor;
	int code = mdb_txn_begin(journal->env, NULL, MDB_RDONLY, &txn);
	if (code)
		return lmdb_error(err, code, "reading the journal");
	code = mdb_cursor_open(txn, journal->table, &cursor);
	if (code) {
		mdb_txn_abort(txn);
		return lmdb_error(err, code, "reading the journal");
	}
	MDB_val key, value;
	bool ok = true;
	while (ok && (code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
		ok = record(user, CROFT_SLICE(key.mv_data, key.mv_size),
			CROFT_SLICE(value.mv_data, value.mv_size), err);
	mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	if (ok && code != MDB_NOTFOUND)
		return lmdb_error(err, code, "reading the journal");
	return ok;
}

/* LMDB does not tell where its map is. */
static void find_map(struct croft_journal *journal)
{
	int fd;
	struct stat st;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return;
	if (mdb_env_get_fd(journal->env, &fd) == 0 && fstat(fd, &st) == 0)
		while (fgets(line, sizeof(line), maps)) {
			unsigned long start, end, inode;
			unsigned major, minor;
			if (sscanf(line, "%lx-%lx %*s %*s %x:%x %lu", &start, &end, &major, &minor, &inode) == 5 &&
				inode == st.st_ino && end - start == MAP_BYTES)
				journal->map = (void *)start;
		}
	fclose(maps);
}

static bool open_table(struct croft_journal *journal, const char *path, struct croft_error *err)
{
	int code = mdb_env_create(&journal->env);
	if (code)
		return lmdb_error(err, code, "opening the journal");
	mdb_env_set_mapsize(journal->env, MAP_BYTES);
	code = mdb_env_open(journal->env, path, MDB_NORDAHEAD, 0644);
	if (code)
		return croft_error_set(err, CROFT_INTERNAL, "opening the journal in %s: %s", path,
			mdb_strerror(code));
	MDB_txn *txn;
	code = mdb_txn_begin(journal->env, NULL, 0, &txn);
	if (!code && !(code = mdb_dbi_open(txn, NULL, 0, &journal->table)))
		code = mdb_txn_commit(txn);
	if (code)
		return lmdb_error(err, code, "opening the journal");
	find_map(journal);
	return true;
}

struct croft_journal *croft_journal_open(const char *path, struct croft_error *err)
{
	if (!croft_make_directories(path, err))
		return NULL;
	struct croft_journal *journal = croft_zalloc(sizeof(*journal));
	if (!open_table(journal, path, err)) {
		mdb_env_close(journal->env);
		free(journal);
		return NULL;
	}
	pthread_mutex_init(&journal->lock, NULL);
	pthread_cond_init(&journal->wanted, NULL);
	journal->last = &journal->first;
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
	mdb_env_close(journal->env);
	pthread_cond_destroy(&journal->wanted);
	pthread_mutex_destroy(&journal->lock);
	free(journal);
}
