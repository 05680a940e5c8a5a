/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One stand-in: a folder with an image of a tree's names and of its small files that jobs opened, mounted, and beside it,
 * at the same paths, copies of larger ones. It loses its name before it is removed: whoever locked it and finds it by its
 * name has it whole.
 */
#include "fs/daemon/internal.h"

#include "fs/mount/directory.h"
#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum {
	ENTRIES_MOST = 1000000, /* of a tree */
	IMAGE_SHARE = 4,        /* of the budget: for an image's names, and as much for its data */
	DEPTH_MOST = 1024,
};

static int open_folder(int at, const char *name)
{
	return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

enum { NAME_SIZE = 32 };
static void name_of(const struct standin *standin, char name[NAME_SIZE], char hidden[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, "%llu", (unsigned long long)standin->number);
	snprintf(hidden, NAME_SIZE, STANDIN_HIDDEN "%llu", (unsigned long long)standin->number);
}

/* Giving up ------------------------------------------------------------------------------------- */

void standin_unmount(const char *folder, const char *name)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/trees/%s/names", folder, name) < PATH_MAX)
		umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
}

bool standin_hide(const struct standin_place *place, const struct standin *standin)
{
	char name[NAME_SIZE], hidden[NAME_SIZE];
	name_of(standin, name, hidden);
	CROFT_CLEANUP_FD int fd = open_folder(place->trees_fd, name);
	return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
		renameat(place->trees_fd, name, place->trees_fd, hidden) == 0;
}

bool standin_remove(const struct standin_place *place, const struct standin *standin, struct croft_error *err)
{
	char name[NAME_SIZE], hidden[NAME_SIZE];
	name_of(standin, name, hidden);
	standin_unmount(place->folder, hidden);
	return croft_remove_tree(place->trees_fd, hidden, err);
}

/* Of the disk, without what is mounted. */
static uint64_t disk_bytes(int at, const char *name, dev_t device, unsigned depth)
{
	struct stat stat;
	int fd = open_folder(at, name);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	uint64_t bytes = 0;
	if (fd >= 0 && !folder)
		close(fd);
	for (struct dirent *entry; folder && depth < DEPTH_MOST && (entry = readdir(folder));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
			fstatat(fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) == 0 &&
			(!device || stat.st_dev == device))
			bytes += (uint64_t)stat.st_blocks * 512 +
				(S_ISDIR(stat.st_mode) ? disk_bytes(fd, entry->d_name, stat.st_dev, depth + 1) : 0);
	if (folder)
		closedir(folder);
	return bytes;
}

uint64_t standin_disk_bytes(const struct standin_place *place, const struct standin *standin)
{
	char name[NAME_SIZE], hidden[NAME_SIZE];
	struct stat stat;
	dev_t device = fstat(place->trees_fd, &stat) == 0 ? stat.st_dev : 0;
	name_of(standin, name, hidden);
	return disk_bytes(place->trees_fd, name, device, 0);
}

/* The image ------------------------------------------------------------------------------------- */

struct imaging {
	const struct standin_place *place;
	struct standin *standin;
	standin_wants *wants;
	void *user;
	uint64_t data_room;
};

static bool reserve_image(void *user, uint64_t bytes, struct croft_error *err)
{
	struct imaging *imaging = user;
	return imaging->place->reserve(imaging->place->user, imaging->standin, bytes, err);
}

static bool get(const struct standin_place *place, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *bytes, struct croft_error *err)
{
	if (atomic_load(place->stop))
		return croft_error_set(err, CROFT_CANCELLED, "the daemon ends");
	return croft_digest_is_empty(digest) || croft_store_get(place->store, digest, arena, bytes, err);
}

static struct directory *read_directory(void *user, const struct croft_digest *digest,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes = CROFT_SLICE("", 0);
	const struct imaging *imaging = user;
	return get(imaging->place, digest, arena, &bytes, err) ? directory_decode(digest, bytes, err) : NULL;
}

static bool has_data(void *user, const struct croft_digest *digest, struct croft_slice path)
{
	struct imaging *imaging = user;
	if (digest->size_bytes > imaging->data_room || !imaging->wants(imaging->user, digest, path))
		return false;
	imaging->data_room -= digest->size_bytes;
	return true;
}

static bool read_data(void *user, const struct croft_digest *digest, void *to, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes;
	const struct imaging *imaging = user;
	if (!get(imaging->place, digest, arena, &bytes, err))
		return false;
	memcpy(to, bytes.data, bytes.size);
	return true;
}

static bool make_image(const struct standin_place *place, struct imaging *imaging, int folder,
	const struct croft_digest *root, struct croft_error *err)
{
	const struct erofs_source source = {
		.read = read_directory,
		.reserve = reserve_image,
		.data_size_most = HOT_SMALL_MOST,
		.has_data = has_data,
		.read_data = read_data,
		.user = imaging,
		.uid = place->uid,
		.gid = place->gid,
		.entries_at_most = ENTRIES_MOST,
		.bytes_at_most = 2 * (place->budget_bytes / IMAGE_SHARE),
	};
	CROFT_CLEANUP_FD int fd = openat(folder, "image", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd >= 0 ? erofs_write(fd, root, &source, err) : croft_error_errno(err, errno, "making an image of names");
}

static bool mount_image(const struct standin_place *place, const char *name, struct croft_error *err)
{
	char image[PATH_MAX], names[PATH_MAX];
	if (snprintf(image, sizeof(image), "%s/trees/%s/image", place->folder, name) >= PATH_MAX ||
		snprintf(names, sizeof(names), "%s/trees/%s/names", place->folder, name) >= PATH_MAX)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: too long a path", place->folder);
	return mount(image, names, "erofs", MS_RDONLY | MS_NODEV | MS_NOSUID | MS_NOATIME, "noacl") == 0 ||
		croft_error_errno(err, errno, "mounting %s", image);
}

bool standin_make(const struct standin_place *place, struct standin *standin,
	const struct croft_digest *root, standin_wants *wants, void *user, struct croft_error *err)
{
	char name[NAME_SIZE], hidden[NAME_SIZE];
	struct imaging imaging = {place, standin, wants, user, .data_room = place->budget_bytes / IMAGE_SHARE};
	name_of(standin, name, hidden);
	CROFT_CLEANUP_FD int fd =
		mkdirat(place->trees_fd, name, 0700) == 0 ? open_folder(place->trees_fd, name) : -1;
	if (fd < 0 || mkdirat(fd, "names", 0755) != 0 || mkdirat(fd, "files", 0755) != 0)
		return croft_error_errno(err, errno, "making a folder for a stand-in");
	if (make_image(place, &imaging, fd, root, err) && mount_image(place, name, err))
		return true;
	if (standin_hide(place, standin))
		standin_remove(place, standin, NULL);
	return false;
}

/* Copies ---------------------------------------------------------------------------------------- */

/* The directories on the way to a file. */
static bool make_way(const struct standin_place *place, struct standin *standin, int files,
	const char *path, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *way = croft_strdup(path);
	for (char *slash = strchr(way, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdirat(files, way, 0755) == 0) {
			if (!place->reserve(place->user, standin, copies_size(0), err))
				return false;
		} else if (errno != EEXIST) {
			return croft_error_errno(err, errno, "making a folder of a stand-in");
		}
		*slash = '/';
	}
	return true;
}

bool standin_copy(const struct standin_place *place, struct standin *standin, const char *path,
	const struct croft_digest *digest, struct croft_error *err)
{
	char name[NAME_SIZE], hidden[NAME_SIZE];
	/* Mode and time are the image's to tell. */
	struct directory_entry entry = {.kind = NODE_FILE, .size = digest->size_bytes, .mode = 0444};
	memcpy(entry.hash, digest->hash, sizeof(entry.hash));
	name_of(standin, name, hidden);
	CROFT_CLEANUP_FD int folder = open_folder(place->trees_fd, name);
	CROFT_CLEANUP_FD int files = folder < 0 ? -1 : open_folder(folder, "files");
	if (files < 0)
		return croft_error_errno(err, errno, "opening a stand-in's folder");
	if (!make_way(place, standin, files, path, err))
		return false;
	bool ok = copies_put(place->copies, &entry, folder, "new", standin, err) &&
		(renameat(folder, "new", files, path) == 0 ||
			croft_error_errno(err, errno, "naming a file of a stand-in"));
	unlinkat(folder, "new", 0);
	return ok;
}
