/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/journal_old.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const size_t MAP_BYTES = (size_t)16 << 30;

static bool failed(struct croft_error *err, const char *path, int code)
{
	return croft_error_set(err, CROFT_INTERNAL, "reading the journal of an earlier version in %s: %s", path,
		mdb_strerror(code));
}

static int read_table(MDB_txn *txn, void (*record)(void *user, struct croft_slice key, struct croft_slice value),
	void *user)
{
	MDB_dbi table;
	MDB_cursor *cursor;
	MDB_val key, value;
	int code = mdb_dbi_open(txn, NULL, 0, &table);
	if (code || (code = mdb_cursor_open(txn, table, &cursor)))
		return code;
	while ((code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
		record(user, CROFT_SLICE(key.mv_data, key.mv_size), CROFT_SLICE(value.mv_data, value.mv_size));
	mdb_cursor_close(cursor);
	return code == MDB_NOTFOUND ? 0 : code;
}

bool journal_old_read(const char *path, void (*record)(void *user, struct croft_slice key, struct croft_slice value),
	void *user, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *file = NULL;
	MDB_env *env;
	MDB_txn *txn;
	if (asprintf(&file, "%s/data.mdb", path) < 0)
		abort();
	if (access(file, F_OK) < 0)
		return errno == ENOENT || croft_error_errno(err, errno, "looking for %s", file);
	int code = mdb_env_create(&env);
	if (code)
		return failed(err, path, code);
	mdb_env_set_mapsize(env, MAP_BYTES);
	code = mdb_env_open(env, path, 0, 0644);
	if (!code && !(code = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn))) {
		code = read_table(txn, record, user);
		mdb_txn_abort(txn);
	}
	mdb_env_close(env);
	return code == 0 || failed(err, path, code);
}

bool journal_old_remove(const char *path, struct croft_error *err)
{
	static const char *const names[] = {"data.mdb", "lock.mdb"};
	CROFT_CLEANUP_FD int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	for (size_t i = 0; i < 2; i++)
		if (unlinkat(dir, names[i], 0) < 0 && errno != ENOENT)
			return croft_error_errno(err, errno, "removing %s/%s", path, names[i]);
	return true;
}
