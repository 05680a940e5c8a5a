/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power failures for tests: stands between a process and the kernel and writes down, before each change of
 * a file, what was there before, and which changes were synced. When the process is dead, power_lose makes
 * its files what a disk could have kept: of each sector any of the versions since it was last synced, of
 * each file any of its sizes since, and of the changes to directories all up to some point that is not
 * before the last that was synced. Nothing is really synced meanwhile.
 *
 * The C library's functions are defined here once more: what the program is linked with, LMDB too, calls
 * these.
 */
#ifndef CROFT_TESTS_UNIT_FS_POWER_H
#define CROFT_TESTS_UNIT_FS_POWER_H

#include "proto/base/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { POWER_SECTOR = 512 };

enum power_kind { POWER_WRITE, POWER_SYNC, POWER_CREATE, POWER_RENAME, POWER_UNLINK, POWER_MKDIR };

/* In the log, followed by old_bytes bytes of the file, or by the two paths. */
struct power_record {
	uint32_t kind, old_bytes;
	uint64_t inode;    /* of the file; POWER_SYNC: also of a directory */
	uint64_t offset;   /* POWER_SYNC: records before this one are synced */
	uint64_t size;     /* of what is written */
	uint64_t old_file, new_file; /* sizes */
	uint64_t directories[2];     /* inodes of those that change */
	uint16_t paths[2];           /* lengths with the NUL */
	uint8_t synced;              /* by itself: O_DSYNC */
	uint8_t pad[3];
};

static struct {
	int log; /* -1: nothing is written down */
	char graves[PATH_MAX];
	uint64_t count;
	unsigned grave;
	pthread_mutex_t lock;
} power = {.log = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

static inline void power_put(const struct power_record *record, const void *one, size_t one_size,
	const void *two, size_t two_size)
{
	struct iovec parts[] = {{(void *)record, sizeof(*record)}, {(void *)one, one_size},
		{(void *)two, two_size}};
	ssize_t size = (ssize_t)(sizeof(*record) + one_size + two_size);
	if (syscall(SYS_writev, power.log, parts, 3) != size)
		abort();
	power.count++;
}

/* From here on, in this process; `log` is on a folder that the store is not in. */
static inline void power_begin(const char *folder)
{
	char path[PATH_MAX + 16];
	snprintf(power.graves, sizeof(power.graves), "%s", folder);
	snprintf(path, sizeof(path), "%s/log", folder);
	power.log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (power.log < 0)
		abort();
}

static inline bool power_is_file(int fd, struct stat *st)
{
	return power.log >= 0 && fd != power.log && fstat(fd, st) == 0 && S_ISREG(st->st_mode);
}

/* Before bytes [offset, offset + size) change, or all behind offset go (size 0). */
static inline void power_before_change(int fd, const struct stat *st, uint64_t offset, uint64_t size)
{
	uint64_t file = (uint64_t)st->st_size;
	uint64_t end = size ? offset + size : file;
	/* Whole sectors, so that each has its old version in one piece. */
	uint64_t from = offset / POWER_SECTOR * POWER_SECTOR;
	uint64_t to = (end + POWER_SECTOR - 1) / POWER_SECTOR * POWER_SECTOR;
	if (to > file)
		to = file;
	size_t old = to > from ? (size_t)(to - from) : 0;
	char *bytes = malloc(old + 1), path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int reader = open(path, O_RDONLY | O_CLOEXEC);
	if (!bytes || reader < 0 || pread(reader, bytes, old, (off_t)from) != (ssize_t)old)
		abort();
	close(reader);
	struct power_record record = {.kind = POWER_WRITE, .inode = st->st_ino, .offset = from,
		.size = to > from || size ? (end > to ? end : to) - from : 0, .old_bytes = (uint32_t)old,
		.old_file = file, .new_file = size ? (end > file ? end : file) : offset};
	record.synced = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
	power_put(&record, bytes, old, NULL, 0);
	free(bytes);
}

static inline ssize_t power_write(int fd, const struct iovec *parts, int count, off_t offset)
{
	struct stat st;
	ssize_t done;
	size_t size = 0;
	for (int i = 0; i < count; i++)
		size += parts[i].iov_len;
	if (!power_is_file(fd, &st))
		return offset < 0 ? syscall(SYS_writev, fd, parts, count)
						  : syscall(SYS_pwritev, fd, parts, count, offset, 0);
	pthread_mutex_lock(&power.lock);
	fstat(fd, &st);
	off_t at = offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset;
	power_before_change(fd, &st, (uint64_t)at, size);
	done = syscall(SYS_pwritev, fd, parts, count, at, 0);
	if (offset < 0 && done > 0)
		lseek(fd, at + done, SEEK_SET);
	pthread_mutex_unlock(&power.lock);
	return done;
}

static inline int power_cut(int fd, off_t size)
{
	struct stat st;
	if (!power_is_file(fd, &st))
		return (int)syscall(SYS_ftruncate, fd, size);
	pthread_mutex_lock(&power.lock);
	fstat(fd, &st);
	power_before_change(fd, &st, (uint64_t)size, 0);
	int done = (int)syscall(SYS_ftruncate, fd, size);
	pthread_mutex_unlock(&power.lock);
	return done;
}

static inline int power_sync(int fd)
{
	struct stat st;
	if (power.log < 0)
		return (int)syscall(SYS_fsync, fd);
	if (fstat(fd, &st) < 0)
		return -1;
	pthread_mutex_lock(&power.lock);
	uint64_t before = power.count;
	pthread_mutex_unlock(&power.lock);
	usleep(2000); /* others write meanwhile, as with a real disk */
	pthread_mutex_lock(&power.lock);
	power_put(&(struct power_record){.kind = POWER_SYNC, .inode = st.st_ino, .offset = before}, NULL,
		0, NULL, 0);
	pthread_mutex_unlock(&power.lock);
	return 0;
}

/* Directories ---------------------------------------------------------------------------------- */

static inline void power_path(int dir, const char *name, char path[PATH_MAX])
{
	char link[32];
	path[0] = 0;
	if (name[0] != '/' && dir != AT_FDCWD) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
		ssize_t size = readlink(link, path, PATH_MAX - 1);
		path[size > 0 ? size : 0] = 0;
		strncat(path, "/", PATH_MAX - strlen(path) - 1);
	}
	strncat(path, name, PATH_MAX - strlen(path) - 1);
}

static inline uint64_t power_directory(const char *path)
{
	char copy[PATH_MAX];
	struct stat st;
	snprintf(copy, sizeof(copy), "%s", path);
	char *slash = strrchr(copy, '/');
	if (!slash)
		return 0;
	*slash = 0;
	return stat(copy, &st) == 0 ? st.st_ino : 0;
}

static inline void power_name(enum power_kind kind, const char *one, const char *two)
{
	struct power_record record = {.kind = kind, .paths = {(uint16_t)(strlen(one) + 1),
		(uint16_t)(strlen(two) + 1)}, .directories = {power_directory(one)}};
	if (kind == POWER_RENAME)
		record.directories[1] = power_directory(two);
	power_put(&record, one, record.paths[0], two, record.paths[1]);
}

static inline int power_open(int dir, const char *name, int flags, mode_t mode)
{
	if (power.log < 0 || !(flags & O_CREAT))
		return (int)syscall(SYS_openat, dir, name, flags, mode);
	pthread_mutex_lock(&power.lock);
	int fd = (int)syscall(SYS_openat, dir, name, flags & ~O_CREAT & ~O_EXCL, mode);
	if (fd >= 0 && flags & O_EXCL) {
		close(fd);
		fd = -1;
		errno = EEXIST;
	} else if (fd < 0 && errno == ENOENT) {
		char path[PATH_MAX];
		power_path(dir, name, path);
		power_name(POWER_CREATE, path, "");
		fd = (int)syscall(SYS_openat, dir, name, flags, mode);
	}
	pthread_mutex_unlock(&power.lock);
	return fd;
}

/* Another name for what is about to lose its own. */
static inline void power_bury(const char *path, char grave[PATH_MAX + 32])
{
	snprintf(grave, PATH_MAX + 32, "%s/%d-%u", power.graves, (int)getpid(), power.grave++);
	if (link(path, grave) < 0)
		grave[0] = 0;
}

static inline int power_rename(int from_dir, const char *from, int to_dir, const char *to)
{
	if (power.log < 0)
		return (int)syscall(SYS_renameat, from_dir, from, to_dir, to);
	char one[PATH_MAX], two[PATH_MAX], grave[PATH_MAX + 32];
	power_path(from_dir, from, one);
	power_path(to_dir, to, two);
	pthread_mutex_lock(&power.lock);
	power_bury(two, grave);
	if (grave[0])
		power_name(POWER_UNLINK, two, grave);
	power_name(POWER_RENAME, one, two);
	int done = (int)syscall(SYS_renameat, from_dir, from, to_dir, to);
	pthread_mutex_unlock(&power.lock);
	return done;
}

static inline int power_unlink(int dir, const char *name, int flags)
{
	if (power.log < 0 || flags)
		return (int)syscall(SYS_unlinkat, dir, name, flags);
	char path[PATH_MAX], grave[PATH_MAX + 32];
	power_path(dir, name, path);
	pthread_mutex_lock(&power.lock);
	power_bury(path, grave);
	if (grave[0])
		power_name(POWER_UNLINK, path, grave);
	int done = (int)syscall(SYS_unlinkat, dir, name, flags);
	pthread_mutex_unlock(&power.lock);
	return done;
}

static inline int power_mkdir(int dir, const char *name, mode_t mode)
{
	char path[PATH_MAX];
	if (power.log >= 0) {
		power_path(dir, name, path);
		pthread_mutex_lock(&power.lock);
		if (access(path, F_OK) < 0)
			power_name(POWER_MKDIR, path, "");
		pthread_mutex_unlock(&power.lock);
	}
	return (int)syscall(SYS_mkdirat, dir, name, mode);
}

/* The C library's names ------------------------------------------------------------------------ */

#define POWER_AS(name) __asm__(name) __attribute__((used, visibility("default")))
ssize_t power_c_pwrite(int fd, const void *data, size_t size, off_t offset) POWER_AS("pwrite");
ssize_t power_c_pwrite(int fd, const void *data, size_t size, off_t offset)
{
	return power_write(fd, &(struct iovec){(void *)data, size}, 1, offset);
}
ssize_t power_c_pwrite64(int fd, const void *data, size_t size, off_t offset) POWER_AS("pwrite64");
ssize_t power_c_pwrite64(int fd, const void *data, size_t size, off_t offset)
{
	return power_write(fd, &(struct iovec){(void *)data, size}, 1, offset);
}
ssize_t power_c_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
	POWER_AS("pwritev64");
ssize_t power_c_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
	return power_write(fd, parts, count, offset);
}
ssize_t power_c_writev(int fd, const struct iovec *parts, int count) POWER_AS("writev");
ssize_t power_c_writev(int fd, const struct iovec *parts, int count)
{
	return power_write(fd, parts, count, -1);
}
ssize_t power_c_write(int fd, const void *data, size_t size) POWER_AS("write");
ssize_t power_c_write(int fd, const void *data, size_t size)
{
	return power_write(fd, &(struct iovec){(void *)data, size}, 1, -1);
}
int power_c_ftruncate(int fd, off_t size) POWER_AS("ftruncate");
int power_c_ftruncate(int fd, off_t size)
{
	return power_cut(fd, size);
}
int power_c_ftruncate64(int fd, off_t size) POWER_AS("ftruncate64");
int power_c_ftruncate64(int fd, off_t size)
{
	return power_cut(fd, size);
}
int power_c_fsync(int fd) POWER_AS("fsync");
int power_c_fsync(int fd)
{
	return power_sync(fd);
}
int power_c_fdatasync(int fd) POWER_AS("fdatasync");
int power_c_fdatasync(int fd)
{
	return power_sync(fd);
}
int power_c_openat(int dir, const char *name, int flags, ...) POWER_AS("openat64");
int power_c_openat(int dir, const char *name, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	return power_open(dir, name, flags, mode);
}
int power_c_renameat(int from_dir, const char *from, int to_dir, const char *to)
	POWER_AS("renameat");
int power_c_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return power_rename(from_dir, from, to_dir, to);
}
int power_c_unlinkat(int dir, const char *name, int flags) POWER_AS("unlinkat");
int power_c_unlinkat(int dir, const char *name, int flags)
{
	return power_unlink(dir, name, flags);
}
int power_c_mkdirat(int dir, const char *name, mode_t mode) POWER_AS("mkdirat");
int power_c_mkdirat(int dir, const char *name, mode_t mode)
{
	return power_mkdir(dir, name, mode);
}

/* Losing --------------------------------------------------------------------------------------- */

struct power_entry {
	const struct power_record *record;
	const char *data;
};

struct power_trace {
	char *bytes;
	struct power_entry *entries;
	size_t count;
	unsigned *random;
	size_t lost_sectors, lost_names;
};

static inline void power_read(struct power_trace *trace, const char *folder)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/log", folder);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		abort();
	size_t size = (size_t)st.st_size;
	trace->bytes = croft_alloc(size + 1);
	if (pread(fd, trace->bytes, size, 0) != (ssize_t)size)
		abort();
	close(fd);
	for (size_t at = 0; at + sizeof(struct power_record) <= size;) {
		struct power_record *record = (struct power_record *)(trace->bytes + at);
		struct power_record copy;
		memcpy(&copy, record, sizeof(copy));
		size_t data = (size_t)copy.old_bytes + copy.paths[0] + copy.paths[1];
		if (at + sizeof(copy) + data > size)
			break; /* cut off by the kill: what it was about was not done */
		trace->entries = croft_realloc(trace->entries, trace->count + 1, sizeof(*trace->entries));
		struct power_record *own = croft_alloc(sizeof(copy));
		*own = copy;
		trace->entries[trace->count++] =
			(struct power_entry){own, trace->bytes + at + sizeof(copy)};
		at += sizeof(copy) + data;
	}
}

static inline bool power_is_name(const struct power_record *record)
{
	return record->kind >= POWER_CREATE;
}

static inline void power_undo_name(const struct power_entry *entry)
{
	const char *one = entry->data, *two = one + entry->record->paths[0];
	switch (entry->record->kind) {
	case POWER_CREATE:
		unlink(one);
		break;
	case POWER_RENAME:
		rename(two, one);
		break;
	case POWER_UNLINK:
		if (access(one, F_OK) < 0)
			(void)!link(two, one);
		break;
	case POWER_MKDIR:
		rmdir(one);
		break;
	}
}

static inline void power_lose_names(struct power_trace *trace)
{
	size_t kept = 0; /* names before this record are on disk */
	for (size_t i = 0; i < trace->count; i++) {
		const struct power_record *sync = trace->entries[i].record;
		for (size_t j = kept; sync->kind == POWER_SYNC && j < sync->offset; j++) {
			const struct power_record *name = trace->entries[j].record;
			if (power_is_name(name) && (name->directories[0] == sync->inode ||
					name->directories[1] == sync->inode))
				kept = j + 1;
		}
	}
	kept += (size_t)rand_r(trace->random) % (trace->count - kept + 1);
	for (size_t i = trace->count; i-- > kept;)
		if (power_is_name(trace->entries[i].record)) {
			power_undo_name(&trace->entries[i]);
			trace->lost_names++;
		}
}

/* The first record of the file that is not synced. */
static inline size_t power_first_unsynced(const struct power_trace *trace, uint64_t inode)
{
	size_t first = 0;
	for (size_t i = 0; i < trace->count; i++) {
		const struct power_record *record = trace->entries[i].record;
		if (record->kind == POWER_SYNC && record->inode == inode && record->offset > first)
			first = (size_t)record->offset;
	}
	return first;
}

/* What a sector was before the record. */
static inline void power_old_sector(const struct power_entry *entry, uint64_t sector, char *bytes)
{
	uint64_t at = sector * POWER_SECTOR - entry->record->offset;
	memset(bytes, 0, POWER_SECTOR);
	if (at < entry->record->old_bytes) {
		size_t left = entry->record->old_bytes - (size_t)at;
		memcpy(bytes, entry->data + at, left < POWER_SECTOR ? left : POWER_SECTOR);
	}
}

static inline bool power_touches(const struct power_record *record, uint64_t inode, uint64_t sector)
{
	return record->kind == POWER_WRITE && record->inode == inode &&
		sector * POWER_SECTOR >= record->offset &&
		sector * POWER_SECTOR < record->offset + record->size;
}

static inline void power_lose_sector(struct power_trace *trace, int fd, uint64_t inode,
	uint64_t sector, const size_t *records, size_t count, uint64_t file)
{
	size_t versions[64], known = 0;
	for (size_t i = 0; i < count && known < 64; i++) {
		const struct power_record *record = trace->entries[records[i]].record;
		if (!power_touches(record, inode, sector))
			continue;
		if (record->synced)
			known = 0;
		else
			versions[known++] = records[i];
	}
	size_t choice = known ? (size_t)rand_r(trace->random) % (known + 1) : 0;
	if (choice == known || sector * POWER_SECTOR >= file)
		return;
	char bytes[POWER_SECTOR];
	power_old_sector(&trace->entries[versions[choice]], sector, bytes);
	uint64_t left = file - sector * POWER_SECTOR;
	if (pwrite(fd, bytes, left < POWER_SECTOR ? (size_t)left : POWER_SECTOR,
			(off_t)(sector * POWER_SECTOR)) < 0)
		abort();
	trace->lost_sectors++;
}

static struct power_trace *power_losing;

static inline int power_lose_file(const char *path, const struct stat *st, int type, struct FTW *where)
{
	struct power_trace *trace = power_losing;
	if (type != FTW_F || strstr(path, "lock"))
		return 0;
	size_t *records = croft_array(trace->count + 1, sizeof(*records)), count = 0;
	uint64_t lowest = UINT64_MAX, highest = 0, size = (uint64_t)st->st_size;
	bool sized = false;
	for (size_t i = power_first_unsynced(trace, st->st_ino); i < trace->count; i++) {
		const struct power_record *record = trace->entries[i].record;
		if (record->kind != POWER_WRITE || record->inode != st->st_ino)
			continue;
		records[count++] = i;
		if (record->offset < lowest)
			lowest = record->offset;
		if (record->offset + record->size > highest)
			highest = record->offset + record->size;
		if (record->synced)
			size = (uint64_t)st->st_size, sized = false;
		else if (!sized && rand_r(trace->random) % 3 == 0)
			size = record->old_file, sized = true;
	}
	if (count > 0) {
		int fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
			abort();
		for (uint64_t sector = lowest / POWER_SECTOR; sector * POWER_SECTOR < highest; sector++)
			power_lose_sector(trace, fd, st->st_ino, sector, records, count, size);
		close(fd);
	}
	free(records);
	return 0;
}

/* After the process that began has been killed. `folder` is what it was given, `store` its files. */
static inline void power_lose(const char *folder, const char *store, unsigned *random)
{
	struct power_trace trace = {.random = random};
	power_read(&trace, folder);
	power_lose_names(&trace);
	power_losing = &trace;
	if (nftw(store, power_lose_file, 32, FTW_PHYS) != 0)
		abort();
	if (getenv("CROFT_POWER"))
		printf("lost %zu sectors, %zu names of %zu records\n", trace.lost_sectors, trace.lost_names,
			trace.count);
	for (size_t i = 0; i < trace.count; i++)
		free((void *)trace.entries[i].record);
	free(trace.entries);
	free(trace.bytes);
}

#endif
