/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking everything: every blob's SHA-256, every record's closure, and files that nothing names.
 * Repair quarantines what is bad, deletes records whose closure is not there and removes orphans. It
 * works on a store in use. Without `repair` it changes nothing itself (a damaged directory below a
 * record goes to quarantine as with any reader).
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIST = 256 };

struct fsck {
	struct croft_store *store;
	bool repair;
	void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
	void *user;
	struct croft_fsck_report *report;
	uint64_t total_bytes;
};

static bool check_one(struct fsck *fsck, const uint8_t *hash, struct croft_error *err)
{
	const char *why;
	struct store_entry entry;
	int good = store_check_blob(fsck->store, hash, &why, &entry, err);
	if (good < 0)
		return false;
	if (good == 2)
		return true;
	fsck->report->blobs_checked++;
	fsck->report->bytes_checked += store_entry_bytes(&entry);
	if (good == 0) {
		fsck->report->bad_blobs++;
		if (fsck->repair) {
			struct croft_digest digest = {.size_bytes = entry.size};
			memcpy(digest.hash, hash, CROFT_HASH_SIZE);
			store_quarantine(fsck->store, &digest, &entry, why);
			fsck->report->repaired++;
		}
	}
	if (fsck->progress)
		fsck->progress(fsck->user, fsck->report->bytes_checked, fsck->total_bytes);
	return true;
}

static bool check_blobs(struct fsck *fsck, struct croft_error *err)
{
	uint8_t hashes[LIST][CROFT_HASH_SIZE], last[CROFT_HASH_SIZE];
	ssize_t count = store_list_blobs(fsck->store, NULL, hashes, LIST, err);
	while (count > 0) {
		for (ssize_t i = 0; i < count; i++)
			if (!check_one(fsck, hashes[i], err))
				return false;
		memcpy(last, hashes[count - 1], CROFT_HASH_SIZE);
		count = store_list_blobs(fsck->store, last, hashes, LIST, err);
	}
	return count == 0;
}

/* The first record behind `key` (which is replaced); its refs in the arena. 1, 0: none, -1. */
static int next_record(struct croft_store *store, MDB_dbi table, bool begun,
	uint8_t key[CROFT_HASH_SIZE], struct croft_arena *arena, struct croft_ref **refs, size_t *count,
	bool *whole, struct croft_error *err)
{
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return -1;
	MDB_cursor *cursor;
	MDB_val mdb_key = {CROFT_HASH_SIZE, key}, value;
	int code = mdb_cursor_open(txn, table, &cursor);
	if (code == 0) {
		code = mdb_cursor_get(cursor, &mdb_key, &value, begun ? MDB_SET_RANGE : MDB_FIRST);
		if (code == 0 && begun && memcmp(mdb_key.mv_data, key, CROFT_HASH_SIZE) == 0)
			code = mdb_cursor_get(cursor, &mdb_key, &value, MDB_NEXT);
		mdb_cursor_close(cursor);
	}
	if (code == 0) {
		memcpy(key, mdb_key.mv_data, CROFT_HASH_SIZE);
		*whole =
			store_record_refs(CROFT_SLICE(value.mv_data, value.mv_size), arena, refs, count);
	}
	store_read_end(&store->index, txn);
	if (code == 0 || code == MDB_NOTFOUND)
		return code == 0;
	store_mdb_error(err, code, "listing records");
	return -1;
}

static bool delete_record(struct croft_store *store, MDB_dbi table, const uint8_t *key,
	struct croft_error *err)
{
	MDB_txn *txn;
	int code = mdb_txn_begin(store->index.env, NULL, 0, &txn);
	if (code)
		return store_mdb_error(err, code, "deleting a record");
	if (!store_table_delete(txn, table, key, CROFT_HASH_SIZE, err)) {
		mdb_txn_abort(txn);
		return false;
	}
	code = mdb_txn_commit(txn);
	return code == 0 || store_mdb_error(err, code, "deleting a record");
}

/* False: not all that the refs reach is there. */
static bool is_complete(struct croft_store *store, const struct croft_ref *refs, size_t count)
{
	struct croft_hold *hold = croft_store_hold(store, refs, count, NULL);
	croft_store_release(hold);
	return hold != NULL;
}

static bool check_records(struct fsck *fsck, MDB_dbi table, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	uint8_t key[CROFT_HASH_SIZE];
	struct croft_ref *refs;
	size_t count;
	bool begun = false, whole;
	int found;
	while ((found = next_record(
				fsck->store, table, begun, key, arena, &refs, &count, &whole, err)) > 0) {
		begun = true;
		if (!whole || !is_complete(fsck->store, refs, count)) {
			fsck->report->dangling_records++;
			if (fsck->repair && !delete_record(fsck->store, table, key, err))
				return false;
			fsck->report->repaired += fsck->repair;
		}
		croft_arena_reset(arena);
	}
	return found == 0;
}

/* A file of large/ that neither the index nor the log names. It is removed under the lock, so that
 * nobody can be putting it there just now. */
static bool check_file(struct fsck *fsck, int dir_fd, const char *directory, const char *name,
	struct croft_error *err)
{
	struct croft_store *store = fsck->store;
	char text[CROFT_HASH_TEXT];
	uint8_t hash[CROFT_HASH_SIZE];
	snprintf(text, sizeof(text), "%s%s", directory, name);
	bool named = strlen(name) == CROFT_HASH_TEXT - 3 &&
				 croft_hash_parse(CROFT_SLICE(text, CROFT_HASH_TEXT - 1), hash);
	CROFT_LOCKED(&store->lock);
	if (named && store_pending_find(&store->pending, hash))
		return true;
	struct store_entry entry;
	MDB_txn *txn = store_read_begin(&store->index, err);
	int found = !txn ? -1 : named ? store_index_get(&store->index, txn, hash, &entry, err) : 0;
	store_read_end(&store->index, txn);
	if (found < 0)
		return false;
	if (found == 1 && store_is_file(&entry))
		return true;
	fsck->report->orphans++;
	if (fsck->repair && unlinkat(dir_fd, name, 0) == 0)
		fsck->report->repaired++;
	return true;
}

static bool check_files(struct fsck *fsck, struct croft_error *err)
{
	bool ok = true;
	for (int i = 0; ok && i < 256; i++) {
		char name[4];
		snprintf(name, sizeof(name), "%02x", i);
		int fd = openat(fsck->store->large_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT) /* a chunked store has none */
			continue;
		DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
		if (!dir)
			return croft_error_errno(err, errno, "%s: listing large/%s", fsck->store->path, name);
		for (struct dirent *entry; ok && (entry = readdir(dir));)
			if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
				ok = check_file(fsck, fd, name, entry->d_name, err);
		closedir(dir);
	}
	return ok;
}

bool croft_store_fsck(struct croft_store *store, bool repair,
	void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes), void *user,
	struct croft_fsck_report *report, struct croft_error *err)
{
	*report = (struct croft_fsck_report){0};
	if (repair && store->config.read_only)
		return croft_error_set(
			err, CROFT_FAILED_PRECONDITION, "%s was opened read-only", store->path);
	struct fsck fsck = {store, repair, progress, user, report, 0};
	/* What is pending is checked as well. */
	if (!store->config.read_only && (!store_late_write(store, err) || !store_flush(store, err)))
		return false;
	struct croft_store_stat stat;
	croft_store_stat(store, &stat);
	fsck.total_bytes = stat.bytes;
	if (!check_blobs(&fsck, err))
		return false;
	/* Of a store that another process writes to, the newest blobs are in its memory only. */
	if (store->config.read_only)
		return true;
	for (int i = 0; i < STORE_RECORD_TABLES; i++)
		if (!check_records(&fsck, store->index.records[i], err))
			return false;
	return check_files(&fsck, err) && (!repair || store_flush(store, err));
}
