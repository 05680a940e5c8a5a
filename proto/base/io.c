/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/base/io.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

bool croft_write_all(int fd, const void *data, size_t size, const char *what,
	struct croft_error *err)
{
	for (const char *at = data; size > 0;) {
		ssize_t done = write(fd, at, size);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return croft_error_errno(err, errno, "writing %s", what);
		at += done;
		size -= (size_t)done;
	}
	return true;
}

bool croft_pwrite_all(int fd, const void *data, size_t size, uint64_t offset, const char *what,
	struct croft_error *err)
{
	for (const char *at = data; size > 0;) {
		ssize_t done = pwrite(fd, at, size, (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return croft_error_errno(err, errno, "writing %s", what);
		at += done;
		offset += (uint64_t)done;
		size -= (size_t)done;
	}
	return true;
}

bool croft_read_all(int fd, void *data, size_t size, const char *what, struct croft_error *err)
{
	for (char *at = data; size > 0;) {
		ssize_t done = read(fd, at, size);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return croft_error_errno(err, errno, "reading %s", what);
		if (done == 0)
			return croft_error_set(err, CROFT_DATA_LOSS, "reading %s: %zu bytes short", what, size);
		at += done;
		size -= (size_t)done;
	}
	return true;
}

bool croft_pread_all(int fd, void *data, size_t size, uint64_t offset, const char *what,
	struct croft_error *err)
{
	for (char *at = data; size > 0;) {
		ssize_t done = pread(fd, at, size, (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return croft_error_errno(err, errno, "reading %s", what);
		if (done == 0)
			return croft_error_set(err, CROFT_DATA_LOSS, "reading %s: %zu bytes short", what, size);
		at += done;
		offset += (uint64_t)done;
		size -= (size_t)done;
	}
	return true;
}

bool croft_read_file(int dirfd, const char *path, size_t limit, char **data, size_t *size,
	struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	size_t room = 4096, used = 0;
	CROFT_CLEANUP_FREE char *text = croft_alloc(room);
	for (;;) {
		ssize_t done = read(fd, text + used, room - used - 1);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return croft_error_errno(err, errno, "reading %s", path);
		if (done == 0)
			break;
		used += (size_t)done;
		if (used > limit)
			return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
				"reading %s: it is larger than %zu bytes", path, limit);
		if (room - used < 2)
			text = croft_realloc(text, room *= 2, 1);
	}
	text[used] = '\0';
	*data = text;
	*size = used;
	text = NULL;
	return true;
}

static bool sync_parent(int dirfd, const char *path, struct croft_error *err)
{
	const char *slash = strrchr(path, '/');
	CROFT_CLEANUP_FREE char *parent = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	CROFT_CLEANUP_FD int fd = openat(dirfd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return croft_error_errno(err, errno, "syncing the directory of %s", path);
	return true;
}

bool croft_write_file(int dirfd, const char *path, const void *data, size_t size, int mode,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *temporary = NULL;
	if (asprintf(&temporary, "%s.tmp", path) < 0)
		abort();
	CROFT_CLEANUP_FD int fd =
		openat(dirfd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)mode);
	if (fd < 0)
		return croft_error_errno(err, errno, "creating %s", temporary);
	if (!croft_write_all(fd, data, size, temporary, err))
		return false;
	if (fdatasync(fd) < 0 || renameat(dirfd, temporary, dirfd, path) < 0)
		return croft_error_errno(err, errno, "replacing %s", path);
	return sync_parent(dirfd, path, err);
}

bool croft_make_directories(const char *path, struct croft_error *err)
{
	char partial[PATH_MAX];
	size_t size = strlen(path) + 1;
	if (size > sizeof(partial))
		return croft_error_errno(err, ENAMETOOLONG, "making directory %.100s…", path);
	memcpy(partial, path, size);
	for (char *at = partial + 1;; at++) {
		if (*at != '/' && *at != '\0')
			continue;
		char end = *at;
		*at = '\0';
		if (mkdir(partial, 0755) < 0 && errno != EEXIST)
			return croft_error_errno(err, errno, "making directory %s", partial);
		*at = end;
		if (end == '\0')
			return true;
	}
}

/* A tree may be deeper than there are descriptors: what lies deep is moved to its top first. */
enum { REMOVE_DEPTH = 200 };
struct removal {
	dev_t device; /* of the top */
	int top;      /* -1: not opened yet */
	unsigned depth, moved;
};

static bool remove_entry(int dirfd, const char *name, struct removal *removal, struct croft_error *err);

/* `fd` stays open. */
static bool remove_children(int fd, struct removal *removal, struct croft_error *err)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir) {
		int failure = errno;
		if (copy >= 0)
			close(copy);
		return croft_error_errno(err, failure, "listing a directory to remove");
	}
	bool ok = true;
	for (struct dirent *entry; ok && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			ok = remove_entry(fd, entry->d_name, removal, err);
	closedir(dir);
	return ok;
}

static bool move_up(int dirfd, const char *name, struct removal *removal)
{
	char moved[64];
	snprintf(moved, sizeof(moved), ".croft-removed-%d-%u", getpid(), removal->moved);
	/* Moving changes "..": it is to be writable. */
	if (renameat(dirfd, name, removal->top, moved) < 0 &&
		(errno != EACCES || fchmodat(dirfd, name, 0700, 0) < 0 ||
			renameat(dirfd, name, removal->top, moved) < 0))
		return false;
	removal->moved++;
	return true;
}

static bool remove_opened(int fd, struct removal *removal, struct croft_error *err)
{
	if (removal->top >= 0)
		return remove_children(fd, removal, err);
	unsigned moved;
	bool ok;
	removal->top = fd;
	do {
		moved = removal->moved;
		ok = remove_children(fd, removal, err);
	} while (ok && removal->moved != moved);
	return ok;
}

static bool remove_entry(int dirfd, const char *name, struct removal *removal, struct croft_error *err)
{
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return true;
	if (errno != EISDIR && errno != EPERM)
		return croft_error_errno(err, errno, "removing %s", name);
	if (removal->depth >= REMOVE_DEPTH && move_up(dirfd, name, removal))
		return true;
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == EACCES && fchmodat(dirfd, name, 0700, 0) == 0)
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "removing %s", name);
	struct stat st;
	if (fstat(fd, &st) < 0 || (removal->device && st.st_dev != removal->device)) {
		close(fd);
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"removing %s: something is mounted there", name);
	}
	removal->device = st.st_dev;
	if ((st.st_mode & 0700) != 0700)
		fchmod(fd, 0700);
	removal->depth++;
	bool ok = remove_opened(fd, removal, err);
	removal->depth--;
	close(fd);
	if (ok && unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return croft_error_errno(err, errno, "removing directory %s", name);
	return ok;
}

bool croft_remove_tree(int dirfd, const char *path, struct croft_error *err)
{
	struct removal removal = {.top = -1};
	return remove_entry(dirfd, path, &removal, err);
}

uint64_t croft_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int64_t croft_unix_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
