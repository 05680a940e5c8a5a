/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/unload.h"

#include "cli/output.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* One BatchReadBlobs of REAPI carries 4 MiB at most, with room for what is around the bytes. */
static const uint64_t window_bytes = 3 << 20, alone_bytes = 1 << 20;

struct listing {
	struct croft_arena *arena;
	struct listed *items;
	size_t count, room;
};

/* Mode and time; in the arena. */
static const Reapi__NodeProperties *keep_properties(const Reapi__NodeProperties *properties,
	struct croft_arena *arena)
{
	if (!properties || (!properties->unix_mode && !properties->mtime))
		return NULL;
	struct timespec mtime = croft_tree_mtime(properties);
	struct croft_tree_keep keep = {properties->unix_mode != NULL, properties->mtime != NULL};
	return croft_tree_properties(keep, keep.modes ? properties->unix_mode->value : 0, &mtime, arena);
}

static bool list_visit(void *user, struct croft_slice path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	struct listing *listing = user;
	if (listing->count == listing->room) {
		listing->room = listing->room ? listing->room * 2 : 1024;
		listing->items = croft_realloc(listing->items, listing->room, sizeof(*listing->items));
	}
	struct listed *item = &listing->items[listing->count++];
	item->path = CROFT_SLICE(croft_arena_strndup(listing->arena, path.data, path.size), path.size);
	item->entry = *entry;
	item->entry.name = item->path; /* the walk's own memory goes; the path says it all */
	item->entry.target = CROFT_SLICE(
		croft_arena_strndup(listing->arena, entry->target.data, entry->target.size),
		entry->target.size);
	item->entry.properties = keep_properties(entry->properties, listing->arena);
	return true;
}

bool list_tree(struct croft_remote *remote, const struct croft_digest *root,
	struct croft_arena *arena, struct listed **listed, size_t *count, struct croft_error *err)
{
	struct listing listing = {.arena = arena};
	struct croft_tree_source source = croft_remote_tree_source(remote);
	bool ok = croft_remote_prefetch_tree(remote, root, err) &&
		croft_tree_walk(&source, root, list_visit, &listing, err);
	if (ok) {
		*listed = croft_arena_copy(arena, listing.items, listing.count * sizeof(**listed));
		*count = listing.count;
	}
	free(listing.items);
	return ok;
}

size_t read_window(struct croft_remote *remote, const struct listed *listed, size_t count,
	struct croft_arena *arena, struct croft_slice data[WINDOW_FILES], struct croft_error *err)
{
	struct croft_digest *digests = croft_arena_array(arena, WINDOW_FILES, sizeof(*digests));
	struct croft_slice *read = croft_arena_array(arena, WINDOW_FILES, sizeof(*read));
	size_t taken = 0, asked = 0;
	uint64_t bytes = 0;
	for (; taken < count && taken < WINDOW_FILES; taken++) {
		const struct croft_tree_entry *entry = &listed[taken].entry;
		data[taken] = CROFT_SLICE("", 0);
		if (entry->kind != CROFT_ENTRY_FILE || croft_digest_is_empty(&entry->digest))
			continue;
		uint64_t size = entry->digest.size_bytes;
		if (size > alone_bytes && taken == 0) {
			data[0].data = NULL;
			return 1;
		}
		if (size > alone_bytes || bytes + size > window_bytes)
			break;
		bytes += size;
		digests[asked++] = entry->digest;
	}
	if (!croft_remote_read_many(remote, digests, asked, arena, read, err))
		return 0;
	size_t next = 0;
	for (size_t i = 0; i < taken; i++) {
		const struct croft_tree_entry *entry = &listed[i].entry;
		if (entry->kind != CROFT_ENTRY_FILE || croft_digest_is_empty(&entry->digest))
			continue;
		data[i] = read[next++];
		if (data[i].data)
			continue;
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(&entry->digest, '-', text);
		croft_error_set(err, CROFT_NOT_FOUND, "%.*s: the farm lacks its content, %s",
			(int)listed[i].path.size, (const char *)listed[i].path.data, text);
		return 0;
	}
	return taken;
}

/* To a directory --------------------------------------------------------------------------- */

struct writing {
	struct croft_remote *remote;
	const char *name;
	int dirfd;
	bool force;
	const struct listed *files; /* only files */
	size_t count;
	atomic_size_t next;
	atomic_bool failed;
	atomic_ullong done_files, done_bytes;
	pthread_mutex_t lock; /* guards: err */
	struct croft_error *err;
};

/* What the tree keeps of what stands there now. Whoever exports owns the files, who ran or imported them may be somebody
 * else: no file becomes one that runs as its owner. */
static bool set_properties(int dirfd, const struct listed *item, struct croft_error *err)
{
	const struct croft_tree_entry *entry = &item->entry;
	const char *path = item->path.data;
	if (!entry->properties)
		return true;
	mode_t mode = croft_tree_mode(entry->kind, entry->executable, entry->properties) & ~(S_ISUID | S_ISGID);
	if (entry->properties->unix_mode && fchmodat(dirfd, path, mode, 0) != 0)
		return croft_error_errno(err, errno, "setting the mode of %s", path);
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, croft_tree_mtime(entry->properties)};
	if (entry->properties->mtime && utimensat(dirfd, path, times, AT_SYMLINK_NOFOLLOW) != 0)
		return croft_error_errno(err, errno, "setting the time of %s", path);
	return true;
}

static int create_file(int dirfd, const char *path, bool executable, bool force)
{
	int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(dirfd, path, flags, executable ? 0755 : 0644);
	if (fd >= 0 || errno != EEXIST || !force || !croft_remove_tree(dirfd, path, NULL))
		return fd;
	return openat(dirfd, path, flags, executable ? 0755 : 0644);
}

/* data NULL: the content is streamed. */
static bool write_file(struct croft_remote *remote, int dirfd, const struct listed *file,
	struct croft_slice data, bool force, struct croft_error *err)
{
	const char *path = file->path.data;
	CROFT_CLEANUP_FD int fd = create_file(dirfd, path, file->entry.executable, force);
	if (fd < 0)
		return croft_error_errno(err, errno, "creating %s", path);
	bool ok = data.data ? croft_write_all(fd, data.data, data.size, path, err)
			    : croft_remote_read_to_fd(remote, &file->entry.digest, fd, err);
	ok = ok && set_properties(dirfd, file, err);
	return ok || (unlinkat(dirfd, path, 0), croft_error_wrap(err, "%s", path));
}

/* Threads take spans of this many files. */
enum { SPAN = 256 };

static bool write_span(struct writing *writing, size_t from, size_t to, struct croft_arena *arena,
	struct croft_error *err)
{
	struct croft_slice *data = croft_array(WINDOW_FILES, sizeof(*data));
	bool ok = true;
	while (ok && from < to && !atomic_load(&writing->failed)) {
		croft_arena_reset(arena);
		size_t taken =
			read_window(writing->remote, writing->files + from, to - from, arena, data, err);
		ok = taken > 0;
		for (size_t i = 0; ok && i < taken; i++) {
			const struct listed *file = &writing->files[from + i];
			ok = write_file(writing->remote, writing->dirfd, file, data[i], writing->force, err);
			atomic_fetch_add(&writing->done_files, 1);
			atomic_fetch_add(&writing->done_bytes, file->entry.digest.size_bytes);
		}
		progress("%s: %llu of %zu files", writing->name,
			(unsigned long long)atomic_load(&writing->done_files), writing->count);
		from += taken;
	}
	free(data);
	return ok;
}

static void *write_files(void *user)
{
	struct writing *writing = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	while (!atomic_load(&writing->failed)) {
		size_t from = atomic_fetch_add(&writing->next, SPAN);
		if (from >= writing->count)
			break;
		size_t to = writing->count - from < SPAN ? writing->count : from + SPAN;
		struct croft_error err = CROFT_ERROR_INIT;
		if (write_span(writing, from, to, arena, &err))
			continue;
		CROFT_LOCKED(&writing->lock);
		if (!atomic_exchange(&writing->failed, true) && writing->err)
			*writing->err = err;
	}
	return NULL;
}

static bool write_all_files(struct writing *writing)
{
	pthread_t threads[8];
	size_t started = 0, wanted = writing->count / SPAN < 7 ? writing->count / SPAN : 7;
	for (size_t i = 0; i < wanted; i++)
		if (pthread_create(&threads[started], NULL, write_files, writing) == 0)
			pthread_setname_np(threads[started++], "export");
	write_files(writing);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	progress_clear();
	return !writing->failed;
}

static bool make_symlink(int dirfd, const char *path, const char *target, bool force,
	struct croft_error *err)
{
	if (symlinkat(target, dirfd, path) == 0)
		return true;
	int failure = errno;
	if (failure == EEXIST && force && croft_remove_tree(dirfd, path, err) &&
		symlinkat(target, dirfd, path) == 0)
		return true;
	return croft_error_errno(err, failure, "making the symlink %s", path);
}

static bool make_directory(int dirfd, const char *path, bool force, struct croft_error *err)
{
	struct stat st;
	if (mkdirat(dirfd, path, 0755) == 0)
		return true;
	int failure = errno;
	if (failure == EEXIST && force && fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (S_ISDIR(st.st_mode))
			return true;
		if (croft_remove_tree(dirfd, path, err) && mkdirat(dirfd, path, 0755) == 0)
			return true;
	}
	return croft_error_errno(err, failure, "making the directory %s", path);
}

/* Directories and symlinks, in walk order; the files are gathered at the front of `listed`. A symlink
 * never stands on the way to another entry of one tree, so nothing is written through one. */
static bool make_skeleton(int dirfd, struct listed *listed, size_t count, bool force,
	size_t *file_count, struct croft_error *err)
{
	*file_count = 0;
	for (size_t i = 0; i < count; i++) {
		const struct listed *item = &listed[i];
		bool ok = true;
		if (item->entry.kind == CROFT_ENTRY_DIRECTORY)
			ok = make_directory(dirfd, item->path.data, force, err);
		else if (item->entry.kind == CROFT_ENTRY_SYMLINK)
			ok = make_symlink(dirfd, item->path.data, item->entry.target.data, force, err) &&
				set_properties(dirfd, item, err);
		else
			listed[(*file_count)++] = *item;
		if (!ok)
			return false;
	}
	return true;
}

/* True also for what cannot be listed: creating files in it then says why. */
static bool is_empty(const char *path)
{
	DIR *dir = opendir(path);
	bool empty = true;
	for (struct dirent *entry; dir && empty && (entry = readdir(dir));)
		empty = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
	if (dir)
		closedir(dir);
	return empty;
}

static int open_target(const char *path, bool force, struct croft_error *err)
{
	if (!croft_make_directories(path, err))
		return -1;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		croft_error_errno(err, errno, "opening %s", path);
		return -1;
	}
	if (force || is_empty(path))
		return fd;
	close(fd);
	croft_error_set(err, CROFT_FAILED_PRECONDITION,
		"%s is not empty; --force writes over what is there", path);
	return -1;
}

/* The directories that have properties, in walk order, before make_skeleton moves things about; and the tree's root before
 * them. */
static bool gather_directories(struct croft_remote *remote, const struct croft_digest *root,
	const struct listed *listed, size_t count, struct croft_arena *arena, struct listed **directories,
	size_t *directory_count, struct croft_error *err)
{
	struct croft_tree_source source = croft_remote_tree_source(remote);
	struct listed top = {.path = croft_slice_str("."), .entry = {.kind = CROFT_ENTRY_DIRECTORY}};
	if (!croft_tree_root_properties(&source, root, arena, &top.entry.properties, err))
		return false;
	*directories = croft_arena_array(arena, count + 1, sizeof(**directories));
	*directory_count = 0;
	(*directories)[(*directory_count)++] = top;
	for (size_t i = 0; i < count; i++)
		if (listed[i].entry.kind == CROFT_ENTRY_DIRECTORY && listed[i].entry.properties)
			(*directories)[(*directory_count)++] = listed[i];
	return true;
}

/* When nothing is written below them any more: what is inside first. */
static bool finish_directories(int dirfd, const struct listed *directories, size_t count, struct croft_error *err)
{
	while (count > 0)
		if (!set_properties(dirfd, &directories[--count], err))
			return false;
	return true;
}

static bool unload_directory(struct croft_remote *remote, const struct croft_digest *root,
	const char *path, bool force, struct unload_stat *stat, struct croft_error *err)
{
	CROFT_CLEANUP_FD int dirfd = open_target(path, force, err);
	if (dirfd < 0)
		return false;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct listed *listed, *directories;
	size_t count, directory_count;
	if (!list_tree(remote, root, arena, &listed, &count, err) ||
		!gather_directories(remote, root, listed, count, arena, &directories, &directory_count, err))
		return false;
	struct writing writing = {.remote = remote, .name = path, .dirfd = dirfd, .force = force,
		.files = listed, .err = err, .lock = PTHREAD_MUTEX_INITIALIZER};
	if (!make_skeleton(dirfd, listed, count, force, &writing.count, err) ||
		!write_all_files(&writing) ||
		!finish_directories(dirfd, directories, directory_count, err))
		return croft_error_wrap(err, "%s", path);
	stat->files += writing.done_files;
	stat->bytes += writing.done_bytes;
	return true;
}

bool unload_to_path(struct croft_remote *remote, const struct croft_tree_entry *entry,
	const char *path, bool force, struct unload_stat *stat, struct croft_error *err)
{
	if (entry->kind == CROFT_ENTRY_DIRECTORY)
		return unload_directory(remote, &entry->digest, path, force, stat, err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct listed one = {croft_slice_str(path), *entry};
	if (entry->kind == CROFT_ENTRY_SYMLINK)
		return make_symlink(AT_FDCWD, path,
			croft_arena_strndup(arena, entry->target.data, entry->target.size), force, err);
	stat->files++;
	stat->bytes += entry->digest.size_bytes;
	return write_file(remote, AT_FDCWD, &one, (struct croft_slice){NULL, 0}, force, err);
}
