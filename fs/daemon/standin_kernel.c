/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether this kernel can do what stand-ins need, tried on a small one: EROFS from a file (Linux 6.12), and an overlay
 * that finds the data of its lower files in layers below without further options, so that what a job changes is
 * copied up as in any other (6.16). And such an overlay may be a layer of a job's own, as one of the tree may.
 */
#include "fs/daemon/internal.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "fs/mount/directory.h"

static const char text[] = "one stands in for the other";

/* A directory with one file. */
static struct directory *read_directory(void *user, const struct croft_digest *digest,
	struct croft_error *err)
{
	const struct croft_slice *bytes = user;
	return directory_decode(digest, *bytes, err);
}

static bool reserve(void *user, uint64_t bytes, struct croft_error *err)
{
	return true;
}

static bool write_image(int folder, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest file = croft_digest_of(text, sizeof(text));
	Reapi__FileNode node = REAPI__FILE_NODE__INIT, *nodes[] = {&node};
	Reapi__Directory directory = REAPI__DIRECTORY__INIT;
	node.name = "file";
	node.digest = croft_digest_to_message(&file, arena);
	directory.files = nodes;
	directory.n_files = 1;
	size_t size = reapi__directory__get_packed_size(&directory);
	uint8_t *packed = croft_arena_alloc(arena, size);
	reapi__directory__pack(&directory, packed);
	struct croft_slice bytes = CROFT_SLICE(packed, size);
	struct croft_digest root = croft_digest_of(packed, size);
	struct erofs_source source = {.read = read_directory, .reserve = reserve, .user = &bytes, .entries_at_most = 1, .bytes_at_most = 1 << 20};
	CROFT_CLEANUP_FD int fd = openat(folder, "image", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return fd >= 0 ? erofs_write(fd, &root, &source, err)
		       : croft_error_errno(err, errno, "making an image of names");
}

static int mount_image(int folder)
{
	char path[64];
	CROFT_CLEANUP_FD int fs = fsopen("erofs", FSOPEN_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d/image", folder);
	return fs >= 0 && fsconfig(fs, FSCONFIG_SET_STRING, "source", path, 0) == 0 &&
			fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) == 0 &&
			fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0
		? fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY)
		: -1;
}

/* Of folder/upper, where they are given. */
static bool set_upper(int fs, int folder)
{
	char upper[64], work[64];
	snprintf(upper, sizeof(upper), "/proc/self/fd/%d/upper", folder);
	snprintf(work, sizeof(work), "/proc/self/fd/%d/work", folder);
	return fsconfig(fs, FSCONFIG_SET_STRING, "upperdir", upper, 0) == 0 &&
		fsconfig(fs, FSCONFIG_SET_STRING, "workdir", work, 0) == 0;
}

/* As a job's (sandbox/root.c). */
static int mount_overlay(int folder, int names, int files)
{
	CROFT_CLEANUP_FD int fs = fsopen("overlay", FSOPEN_CLOEXEC);
	return fs >= 0 && fsconfig(fs, FSCONFIG_SET_STRING, "metacopy", "off", 0) == 0 &&
			fsconfig(fs, FSCONFIG_SET_STRING, "redirect_dir", "nofollow", 0) == 0 &&
			fsconfig(fs, FSCONFIG_SET_FD, "lowerdir+", NULL, names) == 0 &&
			fsconfig(fs, FSCONFIG_SET_FD, "datadir+", NULL, files) == 0 && set_upper(fs, folder) &&
			fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0
		? fsmount(fs, FSMOUNT_CLOEXEC, 0)
		: -1;
}

static bool can_be_layer(int overlay, int other)
{
	CROFT_CLEANUP_FD int fs = fsopen("overlay", FSOPEN_CLOEXEC);
	return fs >= 0 && fsconfig(fs, FSCONFIG_SET_FD, "lowerdir+", NULL, overlay) == 0 &&
		fsconfig(fs, FSCONFIG_SET_FD, "lowerdir+", NULL, other) == 0 &&
		fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0;
}

static bool try(int folder, int files, struct croft_error *err)
{
	char read_text[sizeof(text)];
	if (!write_image(folder, err))
		return false;
	CROFT_CLEANUP_FD int names = mount_image(folder);
	CROFT_CLEANUP_FD int overlay = names < 0 ? -1 : mount_overlay(folder, names, files);
	CROFT_CLEANUP_FD int file = overlay < 0 ? -1 : openat(overlay, "file", O_RDONLY | O_CLOEXEC);
	if (file < 0 || read(file, read_text, sizeof(read_text)) != sizeof(text) ||
		memcmp(read_text, text, sizeof(text)) != 0 || !can_be_layer(overlay, files))
		return croft_error_set(err, CROFT_UNIMPLEMENTED, "the kernel cannot");
	return true;
}

bool standin_can_be(int folder, struct croft_error *err)
{
	static const char *const names[] = {"try", "try/files", "try/upper", "try/work"};
	if (!croft_remove_tree(folder, "try", err))
		return false;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (mkdirat(folder, names[i], 0700) != 0)
			return croft_error_errno(err, errno, "making a folder to try stand-ins in");
	CROFT_CLEANUP_FD int tried = openat(folder, "try", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CROFT_CLEANUP_FD int files = openat(folder, "try/files", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CROFT_CLEANUP_FD int file = openat(files, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	bool ok = tried < 0 || files < 0 || file < 0
		? croft_error_errno(err, errno, "making a file to try stand-ins with")
		: croft_write_all(file, text, sizeof(text), "a file", err) && try(tried, files, err);
	return croft_remove_tree(folder, "try", err) && ok;
}
