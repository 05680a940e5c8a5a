/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/internal.h"

#include <errno.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>

/* What an ordinary user mounted, fusermount3 unmounts. */
static int ask_fusermount(const char *path, bool lazily)
{
	char *const arguments[] = {"fusermount3", "-u", "-q", lazily ? "-z" : "--", lazily ? "--" : (char *)path,
		lazily ? (char *)path : NULL, NULL};
	pid_t child;
	int status;
	if (posix_spawnp(&child, arguments[0], NULL, NULL, arguments, environ) != 0 ||
		waitpid(child, &status, 0) != child)
		return EPERM;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EBUSY;
}

int mount_detach(const char *path, bool lazily)
{
	if (umount2(path, UMOUNT_NOFOLLOW | (lazily ? MNT_DETACH : 0)) == 0)
		return 0;
	return errno == EPERM ? ask_fusermount(path, lazily) : errno;
}
