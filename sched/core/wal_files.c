/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/wal_files.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "sched/core/wal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	NAME_BYTES = 24,
	STEP = 64 << 10,
	READ_STEP = 256 << 10,
	PAUSE_MS = 2, /* between two of those */
	COLD_MOST = 4,
};

static const struct timespec PAUSE = {0, PAUSE_MS * 1000000L};

struct wal_files {
	int dirfd;
	char *path;
	struct wal_file **files;
	size_t count;

	pthread_t maker;
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t changed;
	unsigned next_name;
	bool wanted, stopping;
	bool urgent; /* somebody waits for what is wanted */
	struct wal_file *made;     /* that nobody has taken yet */
	struct croft_error failed; /* why none could be made the last time */
	struct wal_file *cold[COLD_MOST]; /* to be read, the first up to `warm_bytes` */
	size_t cold_count;
	const struct wal_file *reading; /* by the maker just now; or NULL */
	uint64_t warm_bytes;
	uint8_t *read; /* the maker's, READ_STEP bytes that nobody looks at */
};

static void name_of(unsigned number, char name[NAME_BYTES])
{
	snprintf(name, NAME_BYTES, "%08u.log", number);
}

static void close_file(struct wal_file *file)
{
	if (!file)
		return;
	if (file->fd >= 0)
		close(file->fd);
	if (file->read_fd >= 0)
		close(file->read_fd);
	free(file);
}

/* Where the file system cannot write past its cache each write is followed by a sync. */
static bool open_for_writing(struct wal_files *files, struct wal_file *file, const char *name)
{
	file->fd = openat(files->dirfd, name, O_WRONLY | O_DIRECT | O_DSYNC | O_CLOEXEC);
	file->direct = file->fd >= 0;
	if (file->fd < 0 && errno == EINVAL)
		file->fd = openat(files->dirfd, name, O_WRONLY | O_CLOEXEC);
	return file->fd >= 0;
}

static struct wal_file *open_file(struct wal_files *files, unsigned number, struct croft_error *err)
{
	char name[NAME_BYTES];
	struct stat st;
	struct wal_file *file = croft_zalloc(sizeof(*file));
	name_of(number, name);
	file->name = number;
	file->read_fd = openat(files->dirfd, name, O_RDONLY | O_CLOEXEC);
	if (file->read_fd >= 0 && open_for_writing(files, file, name) && fstat(file->fd, &st) == 0) {
		file->size = (uint64_t)st.st_size;
		return file;
	}
	croft_error_errno(err, errno, "opening the journal's %s/%s", files->path, name);
	close_file(file);
	return NULL;
}

static void add_file(struct wal_files *files, struct wal_file *file)
{
	files->files = croft_realloc(files->files, files->count + 1, sizeof(struct wal_file *));
	files->files[files->count++] = file;
}

/* New files -------------------------------------------------------------------------------------- */

static bool is_urgent(struct wal_files *files)
{
	CROFT_LOCKED(&files->lock);
	return files->urgent || files->stopping;
}

/* A little at a time, unless somebody waits for it: the disk has the journal's groups to write meanwhile, and each
 * of those is waited for. Room is taken for all of it at once and its metadata synced at the end only, since a file
 * system's own commit holds up the groups, too. */
static bool fill(struct wal_files *files, int fd, const char *name, struct croft_error *err)
{
	CROFT_CLEANUP_FREE void *zeros = croft_zalloc(STEP);
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, WAL_SEGMENT) < 0 && errno != EOPNOTSUPP)
		return croft_error_errno(err, errno, "taking room for %s", name);
	for (uint64_t at = 0; at < WAL_SEGMENT; at += STEP) {
		if (!croft_pwrite_all(fd, zeros, STEP, at, name, err))
			return false;
		if (sync_file_range(fd, (off_t)at, STEP,
				SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) < 0)
			return croft_error_errno(err, errno, "writing %s", name);
		if (!is_urgent(files))
			nanosleep(&PAUSE, NULL);
	}
	return fdatasync(fd) == 0 || croft_error_errno(err, errno, "syncing %s", name);
}

/* On the maker's thread. */
static struct wal_file *make_file(struct wal_files *files, unsigned number, struct croft_error *err)
{
	char name[NAME_BYTES];
	name_of(number, name);
	int fd = openat(files->dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0) {
		croft_error_errno(err, errno, "making the journal's %s/%s", files->path, name);
		return NULL;
	}
	bool ok = fill(files, fd, "a new file of the journal", err) &&
		(fsync(files->dirfd) == 0 || croft_error_errno(err, errno, "syncing %s", files->path));
	close(fd);
	struct wal_file *file = ok ? open_file(files, number, err) : NULL;
	if (!file)
		unlinkat(files->dirfd, name, 0);
	return file;
}

/* The lock is held. */
static void forget_cold(struct wal_files *files, size_t index)
{
	if (index == 0)
		files->warm_bytes = 0;
	files->cold_count--;
	memmove(&files->cold[index], &files->cold[index + 1], (files->cold_count - index) * sizeof(*files->cold));
}

/* The lock is held, but not over the reading. Whoever needs the bytes reads them; a failure is told there. */
static void warm_some(struct wal_files *files)
{
	struct wal_file *file = files->cold[0];
	uint64_t at = files->warm_bytes;
	files->reading = file;
	pthread_mutex_unlock(&files->lock);
	ssize_t got = pread(file->read_fd, files->read, READ_STEP, (off_t)at);
	nanosleep(&PAUSE, NULL);
	pthread_mutex_lock(&files->lock);
	files->reading = NULL;
	if (files->cold_count == 0 || files->cold[0] != file)
		return; /* it is not wanted any more */
	files->warm_bytes += READ_STEP;
	if (got < READ_STEP)
		forget_cold(files, 0);
}

static void *maker_thread(void *user)
{
	struct wal_files *files = user;
	pthread_mutex_lock(&files->lock);
	while (!files->stopping) {
		if (!files->wanted) {
			if (files->cold_count)
				warm_some(files);
			else
				pthread_cond_wait(&files->changed, &files->lock);
			continue;
		}
		unsigned number = files->next_name++;
		struct croft_error err = CROFT_ERROR_INIT;
		pthread_mutex_unlock(&files->lock);
		struct wal_file *file = make_file(files, number, &err);
		pthread_mutex_lock(&files->lock);
		files->wanted = false;
		files->made = file;
		files->failed = err;
		pthread_cond_broadcast(&files->changed);
	}
	pthread_mutex_unlock(&files->lock);
	return NULL;
}

void wal_files_prepare(struct wal_files *files)
{
	CROFT_LOCKED(&files->lock);
	if (files->made || files->wanted)
		return;
	files->wanted = true;
	pthread_cond_broadcast(&files->changed);
}

struct wal_file *wal_files_add(struct wal_files *files, struct croft_error *err)
{
	wal_files_prepare(files);
	CROFT_LOCKED(&files->lock);
	files->urgent = true;
	while (files->wanted)
		pthread_cond_wait(&files->changed, &files->lock);
	files->urgent = false;
	struct wal_file *file = files->made;
	files->made = NULL;
	if (file)
		add_file(files, file);
	else if (err)
		*err = files->failed;
	return file;
}

void wal_files_warm(struct wal_files *files, struct wal_file *file)
{
	CROFT_LOCKED(&files->lock);
	if (file->warm || files->cold_count == COLD_MOST)
		return;
	file->warm = true;
	files->cold[files->cold_count++] = file;
	pthread_cond_broadcast(&files->changed);
}

void wal_files_cool(struct wal_files *files, struct wal_file *file)
{
	pthread_mutex_lock(&files->lock);
	for (size_t i = files->cold_count; i-- > 0;)
		if (files->cold[i] == file)
			forget_cold(files, i);
	pthread_mutex_unlock(&files->lock);
	file->warm = false;
	posix_fadvise(file->read_fd, 0, 0, POSIX_FADV_DONTNEED); /* else each write would have to */
}

static bool is_read(struct wal_files *files, const struct wal_file *file)
{
	CROFT_LOCKED(&files->lock);
	return files->reading == file;
}

void wal_files_retire(struct wal_files *files, struct wal_file *file)
{
	char name[NAME_BYTES];
	if (is_read(files, file))
		return;
	name_of(file->name, name);
	if (unlinkat(files->dirfd, name, 0) < 0)
		return; /* a spare one more */
	for (size_t i = 0; i < files->count; i++)
		if (files->files[i] == file)
			files->files[i] = files->files[--files->count];
	close_file(file);
}

/* Reading, writing --------------------------------------------------------------------------------- */

uint64_t wal_file_size(const struct wal_file *file)
{
	return file->size;
}

bool wal_file_read(struct wal_file *file, uint64_t offset, void *data, size_t size, struct croft_error *err)
{
	return croft_pread_all(file->read_fd, data, size, offset, "the journal", err);
}

bool wal_file_write(struct wal_file *file, uint64_t offset, const void *data, size_t size,
	struct croft_error *err)
{
	if (!croft_pwrite_all(file->fd, data, size, offset, "the journal", err))
		return false;
	if (!file->direct && fdatasync(file->fd) < 0)
		return croft_error_errno(err, errno, "syncing the journal");
	if (offset + size > file->size)
		file->size = offset + size;
	return true;
}

/* ------------------------------------------------------------------------------------------------ */

/* One that a crash left half filled is no part of the log yet. */
static bool take_file(struct wal_files *files, const char *name, struct croft_error *err)
{
	unsigned number;
	char exact[NAME_BYTES];
	if (sscanf(name, "%8u.log", &number) != 1)
		return true;
	name_of(number, exact);
	if (strcmp(name, exact) != 0)
		return true;
	struct wal_file *file = open_file(files, number, err);
	if (!file)
		return false;
	if (number >= files->next_name)
		files->next_name = number + 1;
	if (file->size >= WAL_SEGMENT) {
		add_file(files, file);
		return true;
	}
	close_file(file);
	return unlinkat(files->dirfd, name, 0) == 0 ||
		croft_error_errno(err, errno, "removing the journal's unfinished %s/%s", files->path, name);
}

static bool take_files(struct wal_files *files, struct croft_error *err)
{
	files->dirfd = open(files->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (files->dirfd < 0)
		return croft_error_errno(err, errno, "opening the journal in %s", files->path);
	DIR *directory = opendir(files->path);
	if (!directory)
		return croft_error_errno(err, errno, "reading %s", files->path);
	bool ok = true;
	for (struct dirent *entry; ok && (entry = readdir(directory));)
		ok = take_file(files, entry->d_name, err);
	closedir(directory);
	return ok;
}

struct wal_files *wal_files_open(const char *path, struct croft_error *err)
{
	struct wal_files *files = croft_zalloc(sizeof(*files));
	files->path = croft_strdup(path);
	files->read = croft_alloc(READ_STEP);
	pthread_mutex_init(&files->lock, NULL);
	pthread_cond_init(&files->changed, NULL);
	bool ok = take_files(files, err);
	if (pthread_create(&files->maker, NULL, maker_thread, files) != 0)
		abort();
	pthread_setname_np(files->maker, "journal-room");
	if (ok)
		return files;
	wal_files_close(files);
	return NULL;
}

void wal_files_close(struct wal_files *files)
{
	if (!files)
		return;
	pthread_mutex_lock(&files->lock);
	files->stopping = true;
	pthread_cond_broadcast(&files->changed);
	pthread_mutex_unlock(&files->lock);
	pthread_join(files->maker, NULL);
	close_file(files->made);
	for (size_t i = 0; i < files->count; i++)
		close_file(files->files[i]);
	if (files->dirfd >= 0)
		close(files->dirfd);
	pthread_cond_destroy(&files->changed);
	pthread_mutex_destroy(&files->lock);
	free(files->files);
	free(files->read);
	free(files->path);
	free(files);
}

size_t wal_files_count(const struct wal_files *files)
{
	return files->count;
}

struct wal_file *wal_files_at(const struct wal_files *files, size_t index)
{
	return files->files[index];
}
