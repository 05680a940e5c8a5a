/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sandbox/view.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { DIRECTORY_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

bool view_open(struct view *view, bool privileged, const char *upper, const char *const *lowers,
	struct croft_error *err)
{
	/* The other one is the job's own to set, and says nothing. */
	view->opaque = privileged ? "trusted.overlay.opaque" : "user.overlay.opaque";
	view->lower_count = 0;
	view->root.upper = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (view->root.upper < 0)
		return croft_error_errno(err, errno, "opening the writable layer %s", upper);
	for (; lowers[view->lower_count]; view->lower_count++) {
		const char *lower = lowers[view->lower_count];
		int fd = open(lower, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0) {
			croft_error_errno(err, errno, "opening the layer %s", lower);
			view_close(view);
			return false;
		}
		view->root.lowers[view->lower_count] = fd;
	}
	return true;
}

void view_leave(const struct view *view, struct view_directory *directory)
{
	if (directory->upper >= 0)
		close(directory->upper);
	for (size_t i = 0; i < view->lower_count; i++)
		if (directory->lowers[i] >= 0)
			close(directory->lowers[i]);
}

void view_close(struct view *view)
{
	view_leave(view, &view->root);
}

/* overlayfs marks a deleted name by a character device 0:0. */
static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

/* A directory that replaced another hides what lies below it, in whichever layer it is. */
static bool is_opaque(const struct view *view, int fd)
{
	char value[2];
	return fgetxattr(fd, view->opaque, value, sizeof(value)) == 1 && value[0] == 'y';
}

/* 1: it is there; 0: it is not; -1: that cannot be said. */
static int look(int dirfd, const char *name, struct stat *st, struct croft_error *err)
{
	if (dirfd < 0)
		return 0;
	if (fstatat(dirfd, name, st, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	if (errno == ENOENT || errno == ENAMETOOLONG)
		return 0;
	croft_error_errno(err, errno, "looking at %s", name);
	return -1;
}

int view_look(const struct view *view, const struct view_directory *directory, const char *name,
	struct stat *st, int *dirfd, bool *in_upper, struct croft_error *err)
{
	*in_upper = true;
	*dirfd = directory->upper;
	int found = look(directory->upper, name, st, err);
	for (size_t i = 0; found == 0 && i < view->lower_count; i++) {
		*in_upper = false;
		*dirfd = directory->lowers[i];
		found = look(directory->lowers[i], name, st, err);
	}
	return found > 0 && is_whiteout(st) ? 0 : found;
}

/* As it is: what a directory holds must not be less because it could not be opened. */
static bool open_layer(int dirfd, const char *name, int *fd, struct croft_error *err)
{
	*fd = openat(dirfd, name, DIRECTORY_FLAGS);
	if (*fd >= 0)
		return true;
	if (errno == EMFILE || errno == ENFILE)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"an output has directories nested more deeply than this agent may open files");
	return croft_error_errno(err, errno, "opening directory %s", name);
}

/* Hides: the layers below have no part in it. */
static bool descend_upper(const struct view *view, int dirfd, const char *name, int *fd, bool *hides,
	struct croft_error *err)
{
	struct stat st;
	int found = look(dirfd, name, &st, err);
	if (found <= 0)
		return found == 0;
	/* The job may have left a directory that not even its owner may open. */
	if ((st.st_mode & 0700) != 0700 && fchmodat(dirfd, name, 0700, 0) < 0)
		return croft_error_errno(err, errno, "making directory %s readable", name);
	if (!open_layer(dirfd, name, fd, err))
		return false;
	*hides = is_opaque(view, *fd);
	return true;
}

bool view_descend(const struct view *view, const struct view_directory *directory,
	const char *name, struct view_directory *child, struct croft_error *err)
{
	bool hides = false, ok = true;
	child->upper = -1;
	for (size_t i = 0; i < view->lower_count; i++)
		child->lowers[i] = -1;
	if (directory->upper >= 0)
		ok = descend_upper(view, directory->upper, name, &child->upper, &hides, err);
	for (size_t i = 0; ok && i < view->lower_count && !hides; i++) {
		struct stat st;
		int found = look(directory->lowers[i], name, &st, err);
		hides = found > 0 && !S_ISDIR(st.st_mode); /* what layers below have of that name */
		ok = found == 0 || (found > 0 && (hides ||
			open_layer(directory->lowers[i], name, &child->lowers[i], err)));
		hides |= child->lowers[i] >= 0 && is_opaque(view, child->lowers[i]);
	}
	if (!ok)
		view_leave(view, child);
	return ok;
}

/* Usage -------------------------------------------------------------------------------------------- */

struct counting {
	bool ended; /* nobody changes it any more, nor minds that it is changed */
	unsigned depth;
	uint64_t *bytes, *inodes;
};

static bool count_directory(int fd, struct counting *counting, struct croft_error *err);

static bool count_below(int dirfd, const char *name, struct counting *counting, struct croft_error *err)
{
	if (counting->depth >= VIEW_DEEPEST)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"it made directories nested more than %d deep", VIEW_DEEPEST);
	int fd = openat(dirfd, name, DIRECTORY_FLAGS);
	if (fd < 0 && errno == EACCES && counting->ended && fchmodat(dirfd, name, 0700, 0) == 0)
		fd = openat(dirfd, name, DIRECTORY_FLAGS);
	/* It went, or is no directory any more; or its owner shut himself out: the look at the end has it. */
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP ||
			(errno == EACCES && !counting->ended)))
		return true;
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s to measure it", name);
	counting->depth++;
	bool ok = count_directory(fd, counting, err);
	counting->depth--;
	return ok;
}

static bool count_entry(int dirfd, const char *name, struct counting *counting, struct croft_error *err)
{
	struct stat st;
	int found = strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? 0 : look(dirfd, name, &st, err);
	if (found <= 0)
		return found == 0;
	*counting->bytes += (uint64_t)st.st_blocks * 512;
	(*counting->inodes)++;
	return !S_ISDIR(st.st_mode) || count_below(dirfd, name, counting, err);
}

/* Closes it. */
static bool count_directory(int fd, struct counting *counting, struct croft_error *err)
{
	DIR *dir = fdopendir(fd);
	if (!dir) {
		croft_error_errno(err, errno, "reading a directory to measure it");
		close(fd);
		return false;
	}
	bool ok = true;
	struct dirent *entry;
	while (ok && (errno = 0, entry = readdir(dir)))
		ok = count_entry(fd, entry->d_name, counting, err);
	if (ok && errno)
		ok = croft_error_errno(err, errno, "reading a directory to measure it");
	closedir(dir);
	return ok;
}

bool view_usage(const char *path, bool ended, uint64_t *bytes, uint64_t *inodes, struct croft_error *err)
{
	struct counting counting = {.ended = ended, .bytes = bytes, .inodes = inodes};
	int fd = open(path, DIRECTORY_FLAGS);
	if (fd < 0)
		return errno == ENOENT || croft_error_errno(err, errno, "opening %s to measure it", path);
	return count_directory(fd, &counting, err);
}
