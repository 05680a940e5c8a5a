/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an overlay is made of instead of an input root that shows the same: an image of its names and attributes
 * (croft_sandbox_spec's standin). Whatever is the matter with it, the job gets the input root itself.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

void standin_close(struct standin *standin)
{
	int *trees[] = {&standin->names, &standin->files};
	for (size_t i = 0; i < sizeof(trees) / sizeof(*trees); i++) {
		if (*trees[i] >= 0)
			close(*trees[i]);
		*trees[i] = -1;
	}
}

static int open_below(const char *folder, const char *name)
{
	CROFT_CLEANUP_FREE char *path = NULL;
	if (asprintf(&path, "%s/%s", folder, name) < 0)
		abort();
	return open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

/* Where the image is not mounted any more there is an empty directory. */
static bool is_image(int names)
{
	struct statfs fs;
	return fstatfs(names, &fs) == 0 && fs.f_type == EROFS_SUPER_MAGIC_V1;
}

void standin_open(const struct launcher_context *context, const char *folder, struct standin *standin)
{
	/* Of an overlay without privileges the image's attributes would be none: its files would be holes. */
	if (!folder || !context->privileged)
		return;
	standin->names = open_below(folder, "names");
	standin->files = open_below(folder, "files");
	if (standin->names < 0 || standin->files < 0 || !is_image(standin->names))
		standin_close(standin);
}

/* Owners are the names' to tell. */
void standin_protect(const struct launcher_context *context, unsigned cell, struct standin *standin)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (standin->names >= 0 &&
		!(root_forbid_writing(standin->names, "a stand-in", &err) &&
			root_forbid_writing(standin->files, "a stand-in", &err) &&
			root_map_owners(context, cell, standin->names, "a stand-in", &err)))
		standin_close(standin);
}

bool standin_add(int fs, const struct standin *standin, int tree)
{
	return fsconfig(fs, FSCONFIG_SET_FD, "lowerdir+", NULL, standin->names) == 0 &&
		fsconfig(fs, FSCONFIG_SET_FD, "datadir+", NULL, standin->files) == 0 &&
		fsconfig(fs, FSCONFIG_SET_FD, "datadir+", NULL, tree) == 0;
}
