/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index in LMDB. Tables:
 *
 *	blobs     hash                          → struct store_entry
 *	age       used_ms (big endian), 8 bytes of the hash → nothing; the front is the least recent
 *	sums      hash                          → XXH3 of each block of a large blob
 *	segments  number                        → live bytes
 *	doomed    hash                          → nothing; large files to unlink once that is committed
 *	meta      name                          → format, position, totals, clock, boot, epoch, budget
 *	seen      hash, 16 bytes of a tenant's  → what the tenant may know of; seen.c
 *	action, failure, asset, profile         → records.c
 */
#include "fs/store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Address space only. 64 GiB hold about 500 million blobs. */
static const size_t map_bytes = (size_t)64 << 30;

#define STORE_INDEX_HINT " (`croft fsck --repair` makes a new one of what the segments hold)"

enum {
	MOST_MAPPED = 384 << 20, /* bytes of files that this process has in its memory */
	/* Transactions after which that is looked at: of up to 256 look-ups, each of which may map 64 KiB. */
	TRIM_READS = 32,
};

bool store_mdb_error(struct croft_error *err, int code, const char *what)
{
	if (code > 0)
		return croft_error_errno(err, code, "store index: %s", what);
	enum croft_code kind = CROFT_INTERNAL;
	if (code == MDB_MAP_FULL || code == MDB_READERS_FULL)
		kind = CROFT_RESOURCE_EXHAUSTED;
	else if (code == MDB_CORRUPTED || code == MDB_PAGE_NOTFOUND || code == MDB_INVALID)
		kind = CROFT_DATA_LOSS;
	return croft_error_set(err, kind, "store index: %s: %s%s", what, mdb_strerror(code),
		kind == CROFT_DATA_LOSS ? STORE_INDEX_HINT : "");
}

static bool open_tables(struct store_index *index, bool read_only, struct croft_error *err)
{
	static const char *const record_names[STORE_RECORD_TABLES] = {"action", "failure", "asset",
		"profile"};
	unsigned flags = read_only ? 0 : MDB_CREATE;
	MDB_txn *txn;
	int code = mdb_txn_begin(index->env, NULL, read_only ? MDB_RDONLY : 0, &txn);
	if (code)
		return store_mdb_error(err, code, "opening its tables");
	code = mdb_dbi_open(txn, "blobs", flags, &index->blobs);
	if (!code)
		code = mdb_dbi_open(txn, "age", flags, &index->age);
	if (!code)
		code = mdb_dbi_open(txn, "sums", flags, &index->sums);
	if (!code)
		code = mdb_dbi_open(txn, "segments", flags | MDB_INTEGERKEY, &index->segments);
	if (!code)
		code = mdb_dbi_open(txn, "doomed", flags, &index->doomed);
	if (!code)
		code = mdb_dbi_open(txn, "meta", flags, &index->meta);
	/* Older stores have none, and whoever reads only asks for nothing in it. */
	if (!code && !read_only)
		code = mdb_dbi_open(txn, "seen", flags, &index->seen);
	for (int i = 0; !code && i < STORE_RECORD_TABLES; i++)
		code = mdb_dbi_open(txn, record_names[i], flags, &index->records[i]);
	if (code) {
		mdb_txn_abort(txn);
		return store_mdb_error(err, code, "opening its tables");
	}
	code = mdb_txn_commit(txn);
	return code == 0 || store_mdb_error(err, code, "opening its tables");
}

/* LMDB does not say where it maps its file. */
static void find_map(struct store_index *index)
{
	mdb_filehandle_t fd;
	struct stat st;
	char line[512];
	mdb_env_get_fd(index->env, &fd);
	FILE *maps = fopen("/proc/self/maps", "re");
	if (!maps || fstat(fd, &st) < 0) {
		if (maps)
			fclose(maps);
		return;
	}
	while (fgets(line, sizeof(line), maps)) {
		unsigned long start, end, inode;
		unsigned major, minor;
		if (sscanf(line, "%lx-%lx %*s %*s %x:%x %lu", &start, &end, &major, &minor, &inode) == 5 &&
			inode == st.st_ino && end - start >= map_bytes) {
			index->map = (void *)start;
			index->map_size = end - start;
		}
	}
	fclose(maps);
}

void store_index_trim(struct store_index *index)
{
	unsigned long mapped_pages = 0;
	FILE *statm = index->map ? fopen("/proc/self/statm", "re") : NULL;
	if (!statm)
		return;
	if (fscanf(statm, "%*u %*u %lu", &mapped_pages) == 1 &&
		mapped_pages * (size_t)sysconf(_SC_PAGESIZE) > MOST_MAPPED)
		madvise(index->map, index->map_size, MADV_DONTNEED); /* only a hint */
	fclose(statm);
}

static uint64_t page_bytes(const struct store_index *index)
{
	MDB_envinfo info;
	MDB_stat stat;
	mdb_env_info(index->env, &info);
	mdb_env_stat(index->env, &stat);
	return ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
}

/* LMDB reads pages behind the end of its file where a part of that was lost, which ends the process. A few pages at the end may
 * be missing in good order: those that were given up before they were written. */
static bool has_its_pages(struct store_index *index, bool read_only, struct croft_error *err)
{
	enum { SLACK = 1 << 20 };
	mdb_filehandle_t fd;
	struct stat st;
	uint64_t bytes = page_bytes(index);
	mdb_env_get_fd(index->env, &fd);
	if (fstat(fd, &st) < 0)
		return croft_error_errno(err, errno, "store index: its size");
	if (bytes > (uint64_t)st.st_size + SLACK)
		return croft_error_set(err, CROFT_DATA_LOSS,
			"store index: its file has %lld of %llu bytes" STORE_INDEX_HINT, (long long)st.st_size,
			(unsigned long long)bytes);
	return read_only || bytes <= (uint64_t)st.st_size || ftruncate(fd, (off_t)bytes) == 0 ||
		croft_error_errno(err, errno, "store index: setting its size");
}

bool store_index_open(struct store_index *index, int dirfd, const char *path, bool read_only,
	struct croft_error *err)
{
	pthread_mutex_init(&index->readers_lock, NULL);
	if (!read_only && mkdirat(dirfd, "index", 0755) < 0 && errno != EEXIST)
		return croft_error_errno(err, errno, "making %s/index", path);
	char *place;
	if (asprintf(&place, "%s/index", path) < 0)
		abort();
	int code = mdb_env_create(&index->env);
	if (!code)
		code = mdb_env_set_mapsize(index->env, map_bytes);
	if (!code)
		code = mdb_env_set_maxdbs(index->env, 16);
	if (!code)
		code = mdb_env_set_maxreaders(index->env, 1024);
	if (!code)
		code = mdb_env_open(index->env, place,
			MDB_NOTLS | MDB_NORDAHEAD | MDB_NOMEMINIT | (read_only ? MDB_RDONLY : 0), 0644);
	free(place);
	if (code) {
		mdb_env_close(index->env);
		index->env = NULL;
		store_mdb_error(err, code, "opening it");
		return croft_error_wrap(err, "%s", path);
	}
	if (!read_only) { /* readers of processes that were killed would keep old pages from reuse */
		int dead;
		mdb_reader_check(index->env, &dead);
	}
	find_map(index);
	return (has_its_pages(index, read_only, err) && open_tables(index, read_only, err)) || croft_error_wrap(err, "%s", path);
}

void store_index_close(struct store_index *index)
{
	for (unsigned i = 0; i < index->idle_count; i++)
		mdb_txn_abort(index->idle[i]);
	index->idle_count = 0;
	if (index->env)
		mdb_env_close(index->env);
	index->env = NULL;
	pthread_mutex_destroy(&index->readers_lock);
}

uint64_t store_index_disk_bytes(const struct store_index *index)
{
	uint64_t pages = page_bytes(index);
	return pages > index->allocated ? pages : index->allocated;
}

bool store_index_set_aside(struct store_index *index, uint64_t bytes, struct croft_error *err)
{
	uint64_t pages = page_bytes(index);
	if (pages + bytes / 2 < index->allocated)
		return true;
	mdb_filehandle_t fd;
	mdb_env_get_fd(index->env, &fd);
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)(pages + bytes)) == 0)
		index->allocated = pages + bytes;
	else if (errno != EOPNOTSUPP && errno != ENOSYS)
		return croft_error_errno(err, errno, "setting room aside for the index");
	return true;
}

MDB_txn *store_read_begin(struct store_index *index, struct croft_error *err)
{
	MDB_txn *txn = NULL;
	pthread_mutex_lock(&index->readers_lock);
	if (index->idle_count > 0)
		txn = index->idle[--index->idle_count];
	pthread_mutex_unlock(&index->readers_lock);
	int code = txn ? mdb_txn_renew(txn) : mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn);
	if (!code)
		return txn;
	store_mdb_error(err, code, "starting to read");
	return NULL;
}

void store_read_end(struct store_index *index, MDB_txn *txn)
{
	if (!txn)
		return;
	mdb_txn_reset(txn);
	if (__atomic_add_fetch(&index->reads, 1, __ATOMIC_RELAXED) % TRIM_READS == 0)
		store_index_trim(index);
	pthread_mutex_lock(&index->readers_lock);
	bool kept = index->idle_count < sizeof(index->idle) / sizeof(index->idle[0]);
	if (kept)
		index->idle[index->idle_count++] = txn;
	pthread_mutex_unlock(&index->readers_lock);
	if (!kept)
		mdb_txn_abort(txn);
}

int store_table_get(MDB_txn *txn, MDB_dbi table, const void *key, size_t key_size,
	struct croft_slice *value, struct croft_error *err)
{
	MDB_val mdb_key = {key_size, (void *)key}, mdb_value;
	int code = mdb_get(txn, table, &mdb_key, &mdb_value);
	if (code == MDB_NOTFOUND)
		return 0;
	if (code) {
		store_mdb_error(err, code, "reading");
		return -1;
	}
	*value = CROFT_SLICE(mdb_value.mv_data, mdb_value.mv_size);
	return 1;
}

bool store_table_put(MDB_txn *txn, MDB_dbi table, const void *key, size_t key_size,
	const void *value, size_t value_size, struct croft_error *err)
{
	MDB_val mdb_key = {key_size, (void *)key}, mdb_value = {value_size, (void *)value};
	int code = mdb_put(txn, table, &mdb_key, &mdb_value, 0);
	return code == 0 || store_mdb_error(err, code, "writing");
}

bool store_table_delete(MDB_txn *txn, MDB_dbi table, const void *key, size_t key_size,
	struct croft_error *err)
{
	MDB_val mdb_key = {key_size, (void *)key};
	int code = mdb_del(txn, table, &mdb_key, NULL);
	return code == 0 || code == MDB_NOTFOUND || store_mdb_error(err, code, "deleting");
}

int store_index_get(struct store_index *index, MDB_txn *txn, const uint8_t *hash,
	struct store_entry *entry, struct croft_error *err)
{
	struct croft_slice value;
	int found = store_table_get(txn, index->blobs, hash, CROFT_HASH_SIZE, &value, err);
	if (found <= 0)
		return found;
	if (value.size != sizeof(*entry)) {
		croft_error_set(err, CROFT_DATA_LOSS, "store index: an entry of %zu bytes" STORE_INDEX_HINT, value.size);
		return -1;
	}
	memcpy(entry, value.data, sizeof(*entry));
	return 1;
}

enum { AGE_KEY = 16 };
static void age_key(uint8_t key[AGE_KEY], uint64_t used_ms, const uint8_t *hash)
{
	uint64_t ordered = __builtin_bswap64(used_ms);
	memcpy(key, &ordered, 8);
	memcpy(key + 8, hash, 8);
}

bool store_index_put(struct store_index *index, MDB_txn *txn, const uint8_t *hash,
	const struct store_entry *entry, struct croft_slice sums, struct store_entry *old,
	struct croft_error *err)
{
	*old = (struct store_entry){0};
	uint8_t key[AGE_KEY];
	int found = store_index_get(index, txn, hash, old, err);
	if (found < 0)
		return false;
	if (found && old->used_ms != entry->used_ms) {
		age_key(key, old->used_ms, hash);
		if (!store_table_delete(txn, index->age, key, AGE_KEY, err))
			return false;
	}
	age_key(key, entry->used_ms, hash);
	if (!store_table_put(txn, index->blobs, hash, CROFT_HASH_SIZE, entry, sizeof(*entry), err) ||
		!store_table_put(txn, index->age, key, AGE_KEY, NULL, 0, err))
		return false;
	return !sums.size ||
		   store_table_put(txn, index->sums, hash, CROFT_HASH_SIZE, sums.data, sums.size, err);
}

bool store_index_remove(struct store_index *index, MDB_txn *txn, const uint8_t *hash,
	struct store_entry *old, struct croft_error *err)
{
	*old = (struct store_entry){0};
	int found = store_index_get(index, txn, hash, old, err);
	if (found <= 0)
		return found == 0;
	uint8_t key[AGE_KEY];
	age_key(key, old->used_ms, hash);
	return store_table_delete(txn, index->age, key, AGE_KEY, err) &&
		   store_table_delete(txn, index->blobs, hash, CROFT_HASH_SIZE, err) &&
		   (old->segment || store_table_delete(txn, index->sums, hash, CROFT_HASH_SIZE, err));
}
