/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening, closing, the budget and what a store tells of itself. */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* 2: records may be compressed. What 1 wrote is as it was. */
static const uint32_t format_version = 2, oldest_format = 1;
static const uint64_t default_lease_ms = 30 * 60 * 1000;
static const uint64_t default_cold_ms = 60 * 60 * 1000;

enum {
	BUDGET_LEAST = 1 << 20,
	SEGMENT_LEAST = 128 << 10,
	SEGMENT_MOST = 256 << 20,
	INODES_FIXED = 300, /* directories, index, lock */
	INDEX_ASIDE_MOST = 16 << 20,
	DISK_MARGIN_LEAST = 2 << 20, /* kept free on the disk; it covers zeros written ahead */
	DISK_MARGIN_MOST = 64 << 20,
};

uint64_t store_now_ms(const struct croft_store *store)
{
	return store->clock_ms + (croft_now_ns() - store->opened_ns) / 1000000;
}

/* Budget --------------------------------------------------------------------------------------- */

uint64_t store_used_bytes(const struct croft_store *store)
{
	return store->segment_bytes + store->totals.large_disk_bytes + store->index_bytes +
		   store->quarantine_bytes + store_lease_bytes(store) + store->reserved_bytes;
}

uint64_t store_used_inodes(const struct croft_store *store)
{
	return store->totals.large_files + store->segments.count + store->quarantine_files +
		   store->reserved_inodes + INODES_FIXED;
}

uint64_t store_limit_bytes(const struct croft_store *store)
{
	/* One segment's worth stays free, for compaction to work in. */
	uint64_t budget = store->budget_bytes - store->segment_limit;
	return budget < store->disk_bytes ? budget : store->disk_bytes;
}

bool store_is_no_room(const struct croft_error *err)
{
	/* LMDB says EIO when the disk fills up in the middle of a write. */
	return err->code == CROFT_RESOURCE_EXHAUSTED || err->sys_errno == EIO;
}

void store_look_at_disk(struct croft_store *store)
{
	struct statvfs fs;
	if (fstatvfs(store->root_fd, &fs) < 0)
		return;
	uint64_t total = (uint64_t)fs.f_blocks * fs.f_frsize;
	uint64_t aside = store->budget_bytes / 64;
	aside = aside < INDEX_ASIDE_MOST ? aside : INDEX_ASIDE_MOST;
	aside = aside < total / 50 ? aside : total / 50;
	struct croft_error err = CROFT_ERROR_INIT;
	bool ok = store_index_set_aside(&store->index, aside, &err);
	if (fstatvfs(store->root_fd, &fs) < 0)
		return;
	uint64_t margin = total / 200, free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	margin = margin < DISK_MARGIN_LEAST ? DISK_MARGIN_LEAST
			 : margin > DISK_MARGIN_MOST ? DISK_MARGIN_MOST
										 : margin;
	CROFT_LOCKED(&store->lock);
	store->index_bytes = store_index_disk_bytes(&store->index);
	uint64_t held = store_used_bytes(store) - store->reserved_bytes + free_bytes;
	store->disk_bytes = !ok || held < margin ? 0 : held - margin;
}

static bool fits(const struct croft_store *store, uint64_t bytes, uint64_t inodes)
{
	return store_used_bytes(store) + bytes <= store_limit_bytes(store) &&
		   store_used_inodes(store) + inodes <= store->budget_inodes;
}

/* Whether the disk, of which others may have freed some, limits the store, and the keeper has looked at it for the
 * first time since then. Nothing else would make it, once nothing fits. The lock is held, not over the look. */
static bool disk_was_looked_at(struct croft_store *store, uint64_t since_ns)
{
	if (store->disk_bytes >= store->budget_bytes - store->segment_limit || store->keeper.stop ||
		store->keeper.looked_ns >= since_ns)
		return false;
	store->keeper.look = true;
	pthread_cond_signal(&store->keeper.wake);
	while (store->keeper.look && !store->keeper.stop)
		pthread_cond_wait(&store->changed, &store->lock);
	return true;
}

bool store_reserve(struct croft_store *store, uint64_t bytes, uint64_t inodes,
	struct croft_error *err)
{
	CROFT_LOCKED(&store->lock);
	uint64_t asked_ns = croft_now_ns();
	bool waiting = false;
	while (!fits(store, bytes, inodes)) {
		/* All that is left was found to be in use since we asked, or a moment before. */
		uint64_t barren_ns = store->keeper.barren_ns;
		if (bytes > store_limit_bytes(store) || store->keeper.stop ||
			(barren_ns && barren_ns + 100000000 > asked_ns)) {
			if (disk_was_looked_at(store, asked_ns))
				continue;
			if (waiting) {
				store->keeper.want_bytes -= bytes;
				store->keeper.want_inodes -= inodes;
			}
			return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
				"the store %s is full: %llu of %llu bytes are used and what is left is leased",
				store->path, (unsigned long long)store_used_bytes(store),
				(unsigned long long)store_limit_bytes(store));
		}
		if (!waiting) {
			store->keeper.want_bytes += bytes;
			store->keeper.want_inodes += inodes;
			waiting = true;
		}
		pthread_cond_signal(&store->keeper.wake);
		pthread_cond_wait(&store->changed, &store->lock);
	}
	if (waiting) {
		store->keeper.want_bytes -= bytes;
		store->keeper.want_inodes -= inodes;
	}
	store->reserved_bytes += bytes;
	store->reserved_inodes += inodes;
	return true;
}

void store_unreserve(struct croft_store *store, uint64_t bytes, uint64_t inodes)
{
	if (bytes == 0 && inodes == 0)
		return;
	CROFT_LOCKED(&store->lock);
	store->reserved_bytes -= bytes;
	store->reserved_inodes -= inodes;
	pthread_cond_broadcast(&store->changed);
}

static bool set_budget(struct croft_store *store, struct croft_error *err)
{
	struct statvfs fs;
	if (fstatvfs(store->root_fd, &fs) < 0)
		return croft_error_errno(err, errno, "%s: asking for free space", store->path);
	uint64_t held = store_used_bytes(store), free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	uint64_t inodes = store_used_inodes(store);
	store->budget_bytes =
		store->config.budget_bytes ? store->config.budget_bytes : (free_bytes + held) / 10 * 9;
	if (store->config.aside_from && store->budget_bytes >= store->config.aside_from)
		store->budget_bytes -= store->budget_bytes / 8;
	/* Filesystems without a fixed number of inodes say 0. */
	uint64_t free_inodes = fs.f_files ? fs.f_favail : UINT64_MAX / 2;
	store->budget_inodes =
		store->config.budget_inodes ? store->config.budget_inodes : (free_inodes + inodes) / 10 * 9;
	if (store->budget_bytes < BUDGET_LEAST)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s: a budget of %llu bytes is below the least, 1 MiB", store->path,
			(unsigned long long)store->budget_bytes);
	uint64_t segment = store->budget_bytes / 32;
	store->segment_limit = segment < SEGMENT_LEAST  ? SEGMENT_LEAST
						   : segment > SEGMENT_MOST ? SEGMENT_MOST
													: (uint32_t)segment;
	return true;
}

/* Opening -------------------------------------------------------------------------------------- */

static bool take_lock(struct croft_store *store, struct croft_error *err)
{
	store->lock_fd = openat(store->root_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (store->lock_fd < 0)
		return croft_error_errno(err, errno, "%s: creating its lock", store->path);
	char text[32] = "";
	if (flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		ssize_t got = pread(store->lock_fd, text, sizeof(text) - 1, 0);
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the store %s is in use by process %.*s", store->path, (int)(got > 0 ? got : 0), text);
	}
	int size = snprintf(text, sizeof(text), "%d", (int)getpid());
	if (ftruncate(store->lock_fd, 0) < 0)
		return croft_error_errno(err, errno, "%s: writing its lock", store->path);
	return croft_pwrite_all(store->lock_fd, text, (size_t)size, 0, "the store's lock", err);
}

static bool open_directory(struct croft_store *store, const char *name, int *fd,
	struct croft_error *err)
{
	if (!store->config.read_only && mkdirat(store->root_fd, name, 0755) < 0 && errno != EEXIST)
		return croft_error_errno(err, errno, "%s: making %s/", store->path, name);
	*fd = openat(store->root_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *fd >= 0 || croft_error_errno(err, errno, "%s: opening %s/", store->path, name);
}

static bool open_directories(struct croft_store *store, struct croft_error *err)
{
	if (!store->config.read_only && !croft_make_directories(store->path, err))
		return false;
	store->root_fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store->root_fd < 0)
		return croft_error_errno(err, errno, "opening the store %s", store->path);
	if (!store->config.read_only && !take_lock(store, err))
		return false;
	if (!open_directory(store, "segments", &store->segments_fd, err) ||
		!open_directory(store, "large", &store->large_fd, err) ||
		!open_directory(store, "tmp", &store->temporary_fd, err) ||
		!open_directory(store, "quarantine", &store->quarantine_fd, err))
		return false;
	/* A chunked store makes no files of its own for blobs; what an older one made stays where it is. */
	for (int i = 0; !store->config.read_only && !store->config.chunked && i < 256; i++) {
		char name[4];
		snprintf(name, sizeof(name), "%02x", i);
		if (mkdirat(store->large_fd, name, 0755) < 0 && errno != EEXIST)
			return croft_error_errno(err, errno, "%s: making large/%s", store->path, name);
	}
	if (store->config.durable && !store->config.read_only &&
		(fsync(store->large_fd) < 0 || fsync(store->root_fd) < 0))
		return croft_error_errno(err, errno, "%s: syncing its directories", store->path);
	return true;
}

/* Reads a value of the `meta` table; false when it is not there or of another size. */
static bool read_meta(MDB_txn *txn, const struct store_index *index, const char *name, void *value,
	size_t size)
{
	struct croft_slice found;
	if (store_table_get(txn, index->meta, name, strlen(name), &found, NULL) != 1 ||
		found.size != size)
		return false;
	memcpy(value, found.data, size);
	return true;
}

/* Identifies this run of the machine. */
static void boot_name(char name[64])
{
	char *text;
	size_t size;
	memset(name, 0, 64);
	if (!croft_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 4096, &text, &size, NULL))
		return;
	memcpy(name, text, size < 63 ? size : 63);
	free(text);
}

static bool read_state(struct croft_store *store, struct store_position *position,
	struct croft_error *err)
{
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return false;
	uint32_t format = format_version, clean = 1;
	uint64_t clock_ms = 0;
	char boot[64], now_boot[64];
	boot_name(now_boot);
	memcpy(boot, now_boot, sizeof(boot));
	store->epoch = 1;
	read_meta(txn, &store->index, STORE_META_FORMAT, &format, sizeof(format));
	read_meta(txn, &store->index, STORE_META_EPOCH, &store->epoch, sizeof(store->epoch));
	read_meta(txn, &store->index, STORE_META_CLEAN, &clean, sizeof(clean));
	read_meta(txn, &store->index, STORE_META_BOOT, boot, sizeof(boot));
	read_meta(txn, &store->index, STORE_META_POSITION, position, sizeof(*position));
	read_meta(txn, &store->index, STORE_META_TOTALS, &store->totals, sizeof(store->totals));
	read_meta(txn, &store->index, STORE_META_CLOCK, &clock_ms, sizeof(clock_ms));
	store_read_end(&store->index, txn);
	if (format < oldest_format || format > format_version)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the store %s has format %u; this is for format %u", store->path, format,
			format_version);
	/* The machine went down and took what was not synced with it. */
	if (!clean && memcmp(boot, now_boot, sizeof(boot)) != 0)
		store->epoch++;
	if (clock_ms > store->clock_ms)
		store->clock_ms = clock_ms;
	return true;
}

bool store_put_state(struct croft_store *store, MDB_txn *txn, uint32_t clean,
	struct croft_error *err)
{
	char boot[64];
	boot_name(boot);
	MDB_dbi meta = store->index.meta;
	return store_table_put(txn, meta, STORE_META_FORMAT, strlen(STORE_META_FORMAT),
			   &format_version, sizeof(format_version), err) &&
		   store_table_put(txn, meta, STORE_META_EPOCH, strlen(STORE_META_EPOCH), &store->epoch,
			   sizeof(store->epoch), err) &&
		   store_table_put(
			   txn, meta, STORE_META_CLEAN, strlen(STORE_META_CLEAN), &clean, sizeof(clean), err) &&
		   store_table_put(txn, meta, STORE_META_BUDGET, strlen(STORE_META_BUDGET), &store->budget_bytes,
			   sizeof(store->budget_bytes), err) &&
		   store_table_put(
			   txn, meta, STORE_META_BOOT, strlen(STORE_META_BOOT), boot, sizeof(boot), err);
}

/* The last that is written. When it fails, the next start takes more care than it had to. */
static void write_end(struct croft_store *store)
{
	MDB_txn *txn;
	if (mdb_txn_begin(store->index.env, NULL, 0, &txn) != 0)
		return;
	if (store_put_state(store, txn, 1, NULL))
		mdb_txn_commit(txn);
	else
		mdb_txn_abort(txn);
}

/* Files that were being written when the last process ended. */
static bool clear_temporary(struct croft_store *store, struct croft_error *err)
{
	int fd = openat(store->temporary_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir)
		return croft_error_errno(err, errno, "%s: listing tmp/", store->path);
	for (struct dirent *entry; (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			unlinkat(store->temporary_fd, entry->d_name, 0);
	closedir(dir);
	return true;
}

/* Large files that left the index just before the end; unless they were stored anew since. */
static bool unlink_doomed(struct croft_store *store, struct croft_error *err)
{
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return false;
	MDB_cursor *cursor;
	MDB_val key, value;
	int code = mdb_cursor_open(txn, store->index.doomed, &cursor);
	bool ok = code == 0;
	for (MDB_cursor_op op = MDB_FIRST; ok && mdb_cursor_get(cursor, &key, &value, op) == 0;
		 op = MDB_NEXT) {
		struct store_entry entry;
		int found = store_index_get(&store->index, txn, key.mv_data, &entry, err);
		ok = found >= 0;
		if (found != 0 || store_pending_find(&store->pending, key.mv_data))
			continue;
		char path[80];
		store_large_path(key.mv_data, path);
		unlinkat(store->large_fd, path, 0);
	}
	if (code == 0)
		mdb_cursor_close(cursor);
	else
		store_mdb_error(err, code, "reading what is to be removed");
	store_read_end(&store->index, txn);
	if (!ok)
		return false;
	/* If the disk has no room for this they are looked at again next time. */
	if (mdb_txn_begin(store->index.env, NULL, 0, &txn) == 0) {
		if (mdb_drop(txn, store->index.doomed, 0) == 0)
			mdb_txn_commit(txn);
		else
			mdb_txn_abort(txn);
	}
	return true;
}

/* A full disk must not keep a store from being read. */
static bool first_checkpoint(struct croft_store *store, struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	store_look_at_disk(store);
	if (store_checkpoint(store, &failure))
		return true;
	if (store_is_no_room(&failure)) {
		croft_log(CROFT_LOG_WARNING, "%s: no room to change anything: %s", store->path,
			failure.message);
		return true;
	}
	if (err)
		*err = failure;
	return false;
}

static bool count_quarantine(struct croft_store *store, struct croft_error *err)
{
	int fd = openat(store->quarantine_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir)
		return croft_error_errno(err, errno, "%s: listing quarantine/", store->path);
	struct stat st;
	for (struct dirent *entry; (entry = readdir(dir));)
		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
			store->quarantine_files++;
			store->quarantine_bytes += (uint64_t)st.st_blocks * 512;
		}
	closedir(dir);
	return true;
}

static bool start(struct croft_store *store, struct croft_error *err)
{
	if (!open_directories(store, err) ||
		!store_index_open(&store->index, store->root_fd, store->path, store->config.read_only, err))
		return false;
	struct store_position position = {1, 0};
	if (!read_state(store, &position, err))
		return false;
	store->index_bytes = store_index_disk_bytes(&store->index);
	if (store->config.read_only)
		return true;
	store->keeper.position = position;
	return count_quarantine(store, err) && store_leases_open(store, err) &&
		   store_replay(store, position, err) &&
		   clear_temporary(store, err) && unlink_doomed(store, err) && set_budget(store, err) &&
		   first_checkpoint(store, err) && store_keeper_start(store, err) && store_scrub_start(store, err);
}

static void init(struct croft_store *store, const struct croft_store_config *config)
{
	store->config = *config;
	if (!store->config.lease_ms)
		store->config.lease_ms = default_lease_ms;
	if (!store->config.cold_ms)
		store->config.cold_ms = default_cold_ms;
	store->path = croft_strdup(config->path);
	store->config.path = store->path;
	store->root_fd = store->segments_fd = store->large_fd = store->temporary_fd =
		store->quarantine_fd = store->lock_fd = -1;
	store->opened_ns = croft_now_ns();
	store->clock_ms = (uint64_t)(croft_unix_ns() / 1000000);
	store->log.tail = &store->log.head;
	store->disk_bytes = UINT64_MAX;
	uint64_t seeds[2];
	if (getrandom(seeds, sizeof(seeds), 0) != sizeof(seeds))
		abort();
	store_activity_init(&store->activity, seeds[0]);
	store_pending_init(&store->pending, seeds[1]);
	store_closures_init(store);
	pthread_mutex_init(&store->lock, NULL);
	pthread_cond_init(&store->changed, NULL);
	pthread_cond_init(&store->records.done, NULL);
	store->records.last = &store->records.first;
	pthread_cond_init(&store->seen.written, NULL);
	store->seen.last = &store->seen.first;
	store_late_init(store);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&store->keeper.wake, &monotonic);
	pthread_cond_init(&store->scrub.wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

static void destroy(struct croft_store *store)
{
	for (size_t i = 0; i < store->segments.count; i++) {
		close(store->segments.items[i]->fd);
		free(store->segments.items[i]);
	}
	free(store->segments.items);
	if (store->index.env)
		store_index_close(&store->index);
	store_leases_close(store);
	store_closures_finish(store);
	store_activity_finish(&store->activity);
	store_pending_finish(&store->pending);
	store_late_finish(store);
	free(store->keeper.unlinked);
	free(store->log.unsynced);
	const int fds[] = {store->segments_fd, store->large_fd, store->temporary_fd,
		store->quarantine_fd, store->root_fd, store->lock_fd};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_cond_destroy(&store->keeper.wake);
	pthread_cond_destroy(&store->scrub.wake);
	pthread_cond_destroy(&store->changed);
	pthread_cond_destroy(&store->records.done);
	pthread_cond_destroy(&store->seen.written);
	pthread_mutex_destroy(&store->lock);
	free(store->path);
	free(store);
}

struct croft_store *croft_store_open(const struct croft_store_config *config,
	struct croft_error *err)
{
	struct croft_store *store = croft_zalloc(sizeof(*store));
	init(store, config);
	if (start(store, err))
		return store;
	destroy(store);
	return NULL;
}

void croft_store_close(struct croft_store *store)
{
	if (!store)
		return;
	store_scrub_stop(store);
	if (store->keeper.running) {
		store_keeper_stop(store);
		store_late_write(store, NULL); /* else their callers put them again */
		store_log_sync(store);
		/* The keeper is gone: this thread is it now. What fails here is done by the next replay. */
		if (store_save_uses(store, true, NULL) && store_checkpoint(store, NULL))
			write_end(store);
	}
	destroy(store);
}

bool croft_store_set_index_aside(const char *path, struct croft_error *err)
{
	struct croft_store store = {.path = (char *)path, .lock_fd = -1};
	CROFT_CLEANUP_FD int root_fd = store.root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root_fd < 0)
		return croft_error_errno(err, errno, "opening the store %s", path);
	bool ok = take_lock(&store, err);
	CROFT_CLEANUP_FD int lock_fd = store.lock_fd;
	(void)lock_fd;
	static const char old[] = "index.damaged";
	if (!ok || (faccessat(root_fd, old, F_OK, 0) == 0 && !croft_remove_tree(root_fd, old, err)))
		return false;
	return renameat(root_fd, "index", root_fd, old) == 0 ||
		croft_error_errno(err, errno, "%s: moving index/ to %s/", path, old);
}

/* What whoever writes to a store counts as it goes along: the files that are there now. */
static uint64_t files_bytes(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir)
		return 0;
	struct stat st;
	uint64_t bytes = 0;
	for (struct dirent *entry; (entry = readdir(dir));)
		if (fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
			bytes += (uint64_t)st.st_size;
	closedir(dir);
	return bytes;
}

static void count_files(struct croft_store *store)
{
	CROFT_CLEANUP_FD int leases_fd = openat(store->root_fd, "leases", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	store->segment_bytes = files_bytes(store->segments_fd) + files_bytes(leases_fd);
	store->quarantine_bytes = files_bytes(store->quarantine_fd);
}

/* Care ----------------------------------------------------------------------------------------- */

static uint64_t entries_of(MDB_txn *txn, MDB_dbi table)
{
	MDB_stat stat;
	return mdb_stat(txn, table, &stat) == 0 ? stat.ms_entries : 0;
}

void croft_store_stat(struct croft_store *store, struct croft_store_stat *stat)
{
	*stat = (struct croft_store_stat){0};
	MDB_txn *txn = store_read_begin(&store->index, NULL);
	if (txn) {
		stat->records_action = entries_of(txn, store->index.records[CROFT_RECORD_ACTION]);
		stat->records_asset = entries_of(txn, store->index.records[CROFT_RECORD_ASSET]);
		if (store->config.read_only) {
			read_meta(
				txn, &store->index, STORE_META_TOTALS, &store->totals, sizeof(store->totals));
			read_meta(txn, &store->index, STORE_META_BUDGET, &store->budget_bytes,
				sizeof(store->budget_bytes));
		}
		store_read_end(&store->index, txn);
	}
	if (store->config.read_only)
		count_files(store);
	CROFT_LOCKED(&store->lock);
	uint64_t now_ms = store_now_ms(store);
	for (size_t i = 0; i < store->activity.room; i++) {
		const struct store_active *active = &store->activity.slots[i];
		stat->leased_blobs += active->key && (active->pins || active->lease_ms > now_ms);
	}
	stat->blobs = store->totals.blobs;
	stat->bytes = store->totals.bytes;
	stat->disk_bytes = store_used_bytes(store);
	stat->budget_bytes = store->budget_bytes;
	stat->quarantined = store->totals.quarantined;
	stat->evicted_blobs = store->totals.evicted_blobs;
	stat->evicted_bytes = store->totals.evicted_bytes;
}

bool croft_store_collect(struct croft_store *store, uint64_t target_bytes, uint64_t *freed_bytes,
	uint64_t *freed_blobs, struct croft_error *err)
{
	if (store->config.read_only)
		return croft_error_set(
			err, CROFT_FAILED_PRECONDITION, "%s was opened read-only", store->path);
	CROFT_LOCKED(&store->lock);
	while (store->keeper.collect)
		pthread_cond_wait(&store->changed, &store->lock);
	uint64_t bytes = store_used_bytes(store), blobs = store->totals.evicted_blobs;
	store->keeper.collect = true;
	store->keeper.collect_bytes =
		target_bytes ? target_bytes : store_limit_bytes(store);
	pthread_cond_signal(&store->keeper.wake);
	while (store->keeper.collect)
		pthread_cond_wait(&store->changed, &store->lock);
	uint64_t after = store_used_bytes(store);
	if (freed_bytes)
		*freed_bytes = bytes > after ? bytes - after : 0;
	if (freed_blobs)
		*freed_blobs = store->totals.evicted_blobs - blobs;
	if (store->keeper.failure.code && err)
		*err = store->keeper.failure;
	return !store->keeper.failure.code;
}
