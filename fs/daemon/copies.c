/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files made of blobs: the cache keeps small blobs many to a file and large ones as chunks, so each is
 * written out once, into the pool, and what stands in the trees shares it.
 */
#include "fs/daemon/internal.h"

#include "fs/mount/directory.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>

enum { PIECE_BYTES = 1 << 20, TRIES = 4, NAME_SIZE = CROFT_DIGEST_TEXT + 64 };

struct copies {
	struct copies_config config;
	int pool; /* -1: none is needed */
	atomic_uint_fast64_t made; /* for names of files that are not complete yet */
};

/* Does the disk share blocks between files? */
static bool can_clone(int folder)
{
	CROFT_CLEANUP_FD int from = openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	CROFT_CLEANUP_FD int to = openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return from >= 0 && to >= 0 && write(from, "x", 1) == 1 && ioctl(to, FICLONE, from) == 0;
}

struct copies *copies_create(const struct copies_config *config, struct croft_error *err)
{
	enum croft_staging staging = config->staging;
	bool clones = can_clone(config->folder);
	if (staging == CROFT_STAGING_AUTO)
		staging = clones ? CROFT_STAGING_REFLINK : CROFT_STAGING_COPY;
	if (staging == CROFT_STAGING_REFLINK && !clones) {
		croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the disk of the agent's state shares no blocks between files, as Btrfs and XFS do: "
			"--staging reflink needs that");
		return NULL;
	}
	struct copies *copies = croft_zalloc(sizeof(*copies));
	copies->config = *config;
	copies->config.staging = staging;
	copies->pool = -1;
	if (staging == CROFT_STAGING_COPY)
		return copies;
	if (mkdirat(config->folder, "files", 0700) == 0)
		copies->pool = openat(config->folder, "files", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (copies->pool >= 0)
		return copies;
	croft_error_errno(err, errno, "making a folder for staged files");
	free(copies);
	return NULL;
}

void copies_destroy(struct copies *copies)
{
	if (!copies)
		return;
	if (copies->pool >= 0)
		close(copies->pool);
	free(copies);
}

enum croft_staging copies_staging(const struct copies *copies)
{
	return copies->config.staging;
}

static struct croft_digest digest_of(const struct directory_entry *file)
{
	struct croft_digest digest = {.size_bytes = file->size};
	memcpy(digest.hash, file->hash, sizeof(digest.hash));
	return digest;
}

/* One that went from the cache since it was fetched is fetched again. */
static struct croft_store_blob *open_blob(struct copies *copies, const struct croft_digest *digest,
	struct croft_error *err)
{
	for (unsigned tries = 0;; tries++) {
		struct croft_error failed = CROFT_ERROR_INIT;
		struct croft_store_blob *blob =
			croft_store_open_blob(copies->config.store, digest, &failed);
		bool gone = failed.code == CROFT_NOT_FOUND || failed.code == CROFT_DATA_LOSS;
		if (blob)
			return blob;
		if (!gone || tries == TRIES || !copies->config.fetcher) {
			*err = failed;
			return NULL;
		}
		if (!croft_fetch_wait(copies->config.fetcher, digest, NULL, err))
			return NULL;
	}
}

static bool write_blob(struct copies *copies, const struct croft_digest *digest, int fd,
	struct croft_error *err)
{
	if (croft_digest_is_empty(digest))
		return true;
	struct croft_store_blob *blob = open_blob(copies, digest, err);
	if (!blob)
		return false;
	size_t room = digest->size_bytes < PIECE_BYTES ? (size_t)digest->size_bytes : PIECE_BYTES;
	CROFT_CLEANUP_FREE char *piece = croft_alloc(room);
	bool ok = true;
	for (uint64_t done = 0; ok && done < digest->size_bytes;) {
		if (copies->config.stop && atomic_load(copies->config.stop)) {
			ok = croft_error_set(err, CROFT_CANCELLED, "the daemon ends");
			break;
		}
		ssize_t got = croft_store_blob_read(blob, piece, room, done, err);
		if (got == 0)
			croft_error_set(err, CROFT_DATA_LOSS, "a cached blob ends early");
		ok = got > 0 && croft_write_all(fd, piece, (size_t)got, "a staged file", err);
		done += ok ? (uint64_t)got : 0;
	}
	croft_store_blob_close(blob);
	return ok;
}

static bool set_attributes(struct copies *copies, const struct directory_entry *file, int fd,
	struct croft_error *err)
{
	const struct timespec times[2] = {{.tv_sec = file->mtime_s, .tv_nsec = file->mtime_ns},
		{.tv_sec = file->mtime_s, .tv_nsec = file->mtime_ns}};
	uid_t uid = copies->config.uid;
	/* The mode last: a new owner takes set-id bits away. */
	if ((uid == 0 || fchown(fd, uid, copies->config.gid) == 0) && fchmod(fd, file->mode) == 0 &&
		futimens(fd, times) == 0)
		return true;
	return croft_error_errno(err, errno, "the attributes of a staged file");
}

/* A new file with the bytes, taken from `from` (-1: from the cache). */
static bool make_file(struct copies *copies, const struct directory_entry *file, int from,
	int directory, const char *name, struct croft_error *err)
{
	struct croft_digest digest = digest_of(file);
	CROFT_CLEANUP_FD int fd = openat(directory, name,
		O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "making the staged file %s", name);
	if (from >= 0 && ioctl(fd, FICLONE, from) != 0)
		return croft_error_errno(err, errno, "cloning the staged file %s", name);
	return (from >= 0 || write_blob(copies, &digest, fd, err)) &&
		set_attributes(copies, file, fd, err);
}

static void name_in_pool(const struct directory_entry *file, char name[NAME_SIZE])
{
	char text[CROFT_DIGEST_TEXT];
	struct croft_digest digest = digest_of(file);
	croft_digest_format(&digest, '-', text);
	snprintf(name, NAME_SIZE, "%s-%o-%lld.%u", text, file->mode, (long long)file->mtime_s,
		file->mtime_ns);
}

static bool add_to_pool(struct copies *copies, const struct directory_entry *file,
	const char *pooled, struct croft_error *err)
{
	char unready[32];
	snprintf(unready, sizeof(unready), "new-%llu",
		(unsigned long long)atomic_fetch_add(&copies->made, 1));
	if (!copies->config.reserve(copies->config.user, NULL, copies_size(file->size), err))
		return false;
	bool ok = make_file(copies, file, -1, copies->pool, unready, err);
	bool named = ok && linkat(copies->pool, unready, copies->pool, pooled, 0) == 0;
	/* Another thread's is as good. */
	if (ok && !named && errno != EEXIST)
		ok = croft_error_errno(err, errno, "naming a staged file");
	unlinkat(copies->pool, unready, 0);
	if (!named)
		copies->config.release(copies->config.user, copies_size(file->size));
	return ok;
}

/* True: done; false with errno ENOENT: it is not in the pool; with EMLINK: it has all the names that it can
 * have. */
static bool share(struct copies *copies, const struct directory_entry *file, const char *pooled,
	int directory, const char *name, struct croft_error *err)
{
	if (copies->config.staging == CROFT_STAGING_HARDLINK) {
		if (linkat(copies->pool, pooled, directory, name, 0) == 0)
			return true;
		int number = errno;
		croft_error_errno(err, number, "giving a staged file the name %s", name);
		errno = number;
		return false;
	}
	CROFT_CLEANUP_FD int from = openat(copies->pool, pooled, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0) {
		int number = errno;
		croft_error_errno(err, number, "opening a staged file");
		errno = number;
		return false;
	}
	bool ok = make_file(copies, file, from, directory, name, err);
	errno = 0;
	return ok;
}

bool copies_put(struct copies *copies, const struct directory_entry *file, int directory,
	const char *name, void *tree, struct croft_error *err)
{
	char pooled[NAME_SIZE];
	bool linked = copies->config.staging == CROFT_STAGING_HARDLINK;
	if ((!linked || file->size == 0) &&
		!copies->config.reserve(copies->config.user, tree, copies_size(file->size), err))
		return false;
	if (copies->config.staging == CROFT_STAGING_COPY || file->size == 0)
		return make_file(copies, file, -1, directory, name, err);
	name_in_pool(file, pooled);
	/* What nobody uses may be swept away between these two. */
	for (unsigned tries = 0; tries < TRIES; tries++) {
		struct croft_error failed = CROFT_ERROR_INIT;
		if (share(copies, file, pooled, directory, name, &failed))
			return true;
		if (errno == EMLINK)
			return copies->config.reserve(copies->config.user, tree,
				       copies_size(file->size), err) &&
				make_file(copies, file, -1, directory, name, err);
		if (errno != ENOENT) {
			*err = failed;
			return false;
		}
		if (!add_to_pool(copies, file, pooled, err))
			return false;
	}
	return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
		"the staged file %s was removed as often as it was made", name);
}

uint64_t copies_sweep(struct copies *copies)
{
	uint64_t freed = 0;
	int fd = copies->pool < 0 ? -1 : openat(copies->pool, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	if (!folder)
		return 0;
	for (struct dirent *entry; (entry = readdir(folder));) {
		struct stat stat;
		if (entry->d_name[0] == '.' || strncmp(entry->d_name, "new-", 4) == 0 ||
			fstatat(copies->pool, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) != 0 ||
			stat.st_nlink != 1 || unlinkat(copies->pool, entry->d_name, 0) != 0)
			continue;
		freed += copies_size((uint64_t)stat.st_size);
	}
	closedir(folder);
	return freed;
}
