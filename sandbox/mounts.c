/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mount namespace of our own. In a chroot its root is not the one that we see: there the kernel
 * makes no user namespaces and changes no root, so what we see is made the namespace's root first.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool same_place(const struct statx *a, const struct statx *b)
{
	return a->stx_mnt_id == b->stx_mnt_id && a->stx_ino == b->stx_ino &&
		a->stx_dev_major == b->stx_dev_major && a->stx_dev_minor == b->stx_dev_minor;
}

/* From the directory that we see as "/" to the namespace's root, with `below` (anything under it) as
 * our root meanwhile, so that ".." does not end at what is to be left. 1: there was a way up, 0: we
 * are there already, -1. */
static int climb(int seen, const char *below)
{
	struct statx here, above;
	int climbed = 0;
	if (chroot(below) < 0 || fchdir(seen) < 0)
		return -1;
	for (;;) {
		if (statx(AT_FDCWD, ".", 0, STATX_INO | STATX_MNT_ID, &here) < 0 || chdir("..") < 0 ||
			statx(AT_FDCWD, ".", 0, STATX_INO | STATX_MNT_ID, &above) < 0)
			return -1;
		if (same_place(&here, &above))
			return chroot(".") < 0 ? -1 : climbed;
		climbed = 1;
	}
}

/* "\\040" and such (proc_pid_mountinfo(5)), in place. */
static void unescape(char *text)
{
	char *to = text;
	for (const char *from = text; *from; to++) {
		bool escaped = from[0] == '\\' && from[1] && from[2] && from[3];
		*to = escaped ? (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0')) : *from;
		from += escaped ? 4 : 1;
	}
	*to = '\0';
}

static bool stands_below(const char *path, const char *top)
{
	size_t size = strcmp(top, "/") == 0 ? 0 : strlen(top);
	return strncmp(path, top, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

/* The kernel's own views, and what we work in. */
static bool is_needed(const struct launcher_context *context, const char *point)
{
	return stands_below(context->state, point) ||
		(context->staging && stands_below(context->staging, point)) ||
		stands_below(point, "/proc") || stands_below(point, "/sys") || stands_below(point, "/dev");
}

/* Where the host's mounts are private, those that it unmounts would live on here for as long as we do: a disk could
 * not be taken out, the process behind a FUSE mount would not end. Layers are looked up in the host's namespace. */
static void let_go_of_the_hosts(const struct launcher_context *context)
{
	CROFT_CLEANUP_FREE char **points = NULL;
	CROFT_CLEANUP_FREE char *line = NULL;
	size_t count = 0, room = 0, line_room = 0;
	FILE *list = fopen("/proc/self/mountinfo", "re");
	while (list && getline(&line, &line_room, list) > 0) {
		char *point = NULL;
		if (sscanf(line, "%*s %*s %*s %*s %ms", &point) != 1)
			continue;
		unescape(point);
		if (count == room)
			points = croft_realloc(points, room = room * 2 + 64, sizeof(*points));
		points[count++] = point;
	}
	if (list)
		fclose(list);
	/* The last ones first: they stand upon the others. */
	while (count > 0) {
		char *point = points[--count];
		if (!is_needed(context, point))
			umount2(point, MNT_DETACH | UMOUNT_NOFOLLOW);
		free(point);
	}
}

static bool leave_namespace(const struct launcher_context *context, struct croft_error *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return croft_error_errno(err, errno, "leaving the host's mount namespace");
	CROFT_CLEANUP_FD int seen = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (seen < 0)
		return croft_error_errno(err, errno, "opening /");
	int climbed = climb(seen, context->state);
	if (climbed < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return croft_error_errno(err, errno, "finding the root of the mount namespace");
	if (!climbed)
		return true;
	CROFT_CLEANUP_FD int tree =
		open_tree(seen, "", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0 ||
		move_mount(tree, "", seen, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ||
		fchdir(tree) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
		chdir("/") < 0)
		return croft_error_errno(err, errno, "making the chroot the root of a mount namespace");
	return true;
}

bool mounts_own(const struct launcher_context *context, struct croft_error *err)
{
	if (!leave_namespace(context, err))
		return false;
	let_go_of_the_hosts(context);
	return true;
}
