/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sandbox/view.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { DIRECTORY_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

bool view_open(struct view *view, const char *upper, const char *const *lowers,
	struct croft_error *err)
{
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

/* A directory that replaced another hides what lies below it. */
static bool is_opaque(int fd)
{
	char value[2];
	return (fgetxattr(fd, "trusted.overlay.opaque", value, sizeof(value)) == 1 && value[0] == 'y') ||
		(fgetxattr(fd, "user.overlay.opaque", value, sizeof(value)) == 1 && value[0] == 'y');
}

bool view_look(const struct view *view, const struct view_directory *directory, const char *name,
	struct stat *st, int *dirfd, bool *in_upper)
{
	*in_upper = false;
	if (directory->upper >= 0 && fstatat(directory->upper, name, st, AT_SYMLINK_NOFOLLOW) == 0) {
		*dirfd = directory->upper;
		*in_upper = true;
		return !is_whiteout(st);
	}
	for (size_t i = 0; i < view->lower_count; i++) {
		if (directory->lowers[i] < 0 ||
			fstatat(directory->lowers[i], name, st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		*dirfd = directory->lowers[i];
		return !is_whiteout(st);
	}
	return false;
}

void view_descend(const struct view *view, const struct view_directory *directory,
	const char *name, struct view_directory *child)
{
	bool hidden = false;
	child->upper = -1;
	for (size_t i = 0; i < view->lower_count; i++)
		child->lowers[i] = -1;
	if (directory->upper >= 0) {
		/* The job may have left a directory that not even its owner may open. */
		fchmodat(directory->upper, name, 0700, 0);
		child->upper = openat(directory->upper, name, DIRECTORY_FLAGS);
		if (child->upper < 0 && errno == EMFILE)
			return;
		hidden = child->upper >= 0 && is_opaque(child->upper);
	}
	for (size_t i = 0; i < view->lower_count && !hidden; i++) {
		struct stat st;
		if (directory->lowers[i] < 0 ||
			fstatat(directory->lowers[i], name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (!S_ISDIR(st.st_mode))
			break; /* hides what layers below have of that name */
		child->lowers[i] = openat(directory->lowers[i], name, DIRECTORY_FLAGS);
	}
}

static void add_usage(int fd, uint64_t *bytes, uint64_t *inodes)
{
	DIR *dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return;
	}
	for (struct dirent *entry; (entry = readdir(dir));) {
		struct stat st;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
			fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		*bytes += (uint64_t)st.st_blocks * 512;
		(*inodes)++;
		int child = S_ISDIR(st.st_mode) ? openat(fd, entry->d_name, DIRECTORY_FLAGS) : -1;
		if (child >= 0)
			add_usage(child, bytes, inodes);
	}
	closedir(dir);
}

void view_usage(const char *path, uint64_t *bytes, uint64_t *inodes)
{
	int fd = open(path, DIRECTORY_FLAGS);
	if (fd >= 0)
		add_usage(fd, bytes, inodes);
}
