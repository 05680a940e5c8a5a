/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/load.h"

#include "cli/output.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

void load_init(struct load *load, struct croft_remote *remote, const struct croft_tree_source *source)
{
	*load = (struct load){
		.builder = croft_tree_builder_create(source),
		.upload = croft_upload_create(remote),
		.spool_fd = -1,
	};
}

void load_finish(struct load *load)
{
	croft_upload_destroy(load->upload);
	croft_tree_builder_destroy(load->builder);
	for (size_t i = 0; i < load->directory_count; i++)
		close(load->directories[i]);
	free(load->directories);
	if (load->spool_fd >= 0)
		close(load->spool_fd);
	struct croft_error err = CROFT_ERROR_INIT;
	if (load->spool && !croft_remove_tree(AT_FDCWD, load->spool, &err))
		warn("%s", err.message);
	free(load->spool);
}

bool load_path(struct load *load, const char *path, const char *under, struct croft_error *err)
{
	struct stat st;
	if (!strcmp(path, "-"))
		return load_archive(load, path, under, err);
	if (stat(path, &st) < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	if (S_ISDIR(st.st_mode))
		return load_directory(load, path, under, err);
	if (S_ISREG(st.st_mode))
		return load_archive(load, path, under, err);
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"%s is neither a directory nor an archive", path);
}

/* Walking ---------------------------------------------------------------------------------- */

struct found_file {
	const char *path; /* relative to the directory that is loaded; in the arena */
	uint64_t size_bytes; /* as the walk saw it */
	bool executable;
	const Reapi__NodeProperties *properties; /* in the arena; or NULL */
	struct croft_digest digest; /* once hashed */
};

struct walk {
	struct load *load;
	const char *name; /* of the directory, for messages */
	const char *under;
	int dirfd;
	struct croft_arena *arena;
	struct found_file *files;
	size_t file_count, file_room;
};

static struct croft_slice place(struct walk *walk, const char *path)
{
	if (!*walk->under)
		return croft_slice_str(path);
	return croft_slice_str(croft_arena_printf(walk->arena, "%s%s%s", walk->under,
		*path ? "/" : "", path));
}

static const Reapi__NodeProperties *properties_of(struct walk *walk, const struct stat *st)
{
	return croft_tree_properties(walk->load->keep, st->st_mode, &st->st_mtim, walk->arena);
}

static void found_regular(struct walk *walk, const char *path, const struct stat *st)
{
	if (walk->file_count == walk->file_room) {
		walk->file_room = walk->file_room ? walk->file_room * 2 : 1024;
		walk->files = croft_realloc(walk->files, walk->file_room, sizeof(*walk->files));
	}
	walk->files[walk->file_count++] = (struct found_file){
		.path = path, .size_bytes = (uint64_t)st->st_size, .executable = st->st_mode & 0100,
		.properties = properties_of(walk, st)};
}

static bool found_symlink(struct walk *walk, int dirfd, const char *name, const char *path,
	const struct stat *st, struct croft_error *err)
{
	char target[PATH_MAX + 1];
	ssize_t size = readlinkat(dirfd, name, target, sizeof(target));
	if (size < 0)
		return croft_error_errno(err, errno, "reading the symlink %s/%s", walk->name, path);
	struct croft_tree_entry entry = {.kind = CROFT_ENTRY_SYMLINK,
		.target = CROFT_SLICE(target, (size_t)size), .properties = properties_of(walk, st)};
	return croft_tree_builder_add(walk->load->builder, place(walk, path), &entry, err);
}

static bool walk_directory(struct walk *walk, int fd, const char *path, struct croft_error *err);

static bool found(struct walk *walk, int dirfd, const char *name, const char *path,
	struct croft_error *err)
{
	struct stat st;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return croft_error_errno(err, errno, "looking at %s/%s", walk->name, path);
	if (S_ISREG(st.st_mode)) {
		found_regular(walk, path, &st);
		return true;
	}
	if (S_ISLNK(st.st_mode))
		return found_symlink(walk, dirfd, name, path, &st, err);
	if (!S_ISDIR(st.st_mode)) {
		warn("%s/%s is left out: a tree cannot hold a %s", walk->name, path,
			S_ISFIFO(st.st_mode) ? "fifo" : S_ISSOCK(st.st_mode) ? "socket" : "device");
		walk->load->skipped++;
		return true;
	}
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s/%s", walk->name, path);
	return walk_directory(walk, fd, path, err);
}

/* Takes the descriptor. */
static bool walk_directory(struct walk *walk, int fd, const char *path, struct croft_error *err)
{
	struct stat st;
	DIR *dir = fstat(fd, &st) == 0 ? fdopendir(fd) : NULL;
	if (!dir) {
		croft_error_errno(err, errno, "listing %s/%s", walk->name, path);
		close(fd);
		return false;
	}
	struct croft_tree_entry entry = {.kind = CROFT_ENTRY_DIRECTORY, .digest = croft_digest_empty,
		.properties = properties_of(walk, &st)};
	bool ok = croft_tree_builder_add(walk->load->builder, place(walk, path), &entry, err);
	while (ok) {
		errno = 0;
		struct dirent *next = readdir(dir);
		if (!next) {
			ok = errno == 0 || croft_error_errno(err, errno, "listing %s/%s", walk->name, path);
			break;
		}
		if (strcmp(next->d_name, ".") && strcmp(next->d_name, ".."))
			ok = found(walk, dirfd(dir), next->d_name,
				croft_arena_printf(walk->arena, "%s%s%s", path, *path ? "/" : "",
					next->d_name),
				err);
	}
	closedir(dir);
	return ok;
}

/* Hashing ---------------------------------------------------------------------------------- */

struct hashing {
	struct walk *walk;
	atomic_size_t next;
	atomic_bool failed;
	pthread_mutex_t lock; /* guards: err */
	struct croft_error *err;
};

static bool hash_file(struct walk *walk, struct found_file *file, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd =
		openat(walk->dirfd, file->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s/%s", walk->name, file->path);
	if (!croft_digest_of_fd(fd, &file->digest, err))
		return croft_error_wrap(err, "%s/%s", walk->name, file->path);
	return true;
}

static void *hash_files(void *user)
{
	struct hashing *hashing = user;
	struct walk *walk = hashing->walk;
	while (!atomic_load(&hashing->failed)) {
		size_t at = atomic_fetch_add(&hashing->next, 1);
		if (at >= walk->file_count)
			break;
		struct croft_error err = CROFT_ERROR_INIT;
		progress("%s: hashing %zu of %zu files", walk->name, at, walk->file_count);
		if (hash_file(walk, &walk->files[at], &err))
			continue;
		CROFT_LOCKED(&hashing->lock);
		if (!atomic_exchange(&hashing->failed, true) && hashing->err)
			*hashing->err = err;
	}
	return NULL;
}

static bool hash_all(struct walk *walk, struct croft_error *err)
{
	struct hashing hashing = {.walk = walk, .err = err, .lock = PTHREAD_MUTEX_INITIALIZER};
	long cpus = walk->load->threads ? walk->load->threads : sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[16];
	size_t started = 0;
	/* A few files are hashed before a thread has started. */
	for (long i = 1; i < cpus && i < 16 && walk->file_count > 16; i++)
		if (pthread_create(&threads[started], NULL, hash_files, &hashing) == 0)
			pthread_setname_np(threads[started++], "hash");
	hash_files(&hashing);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	return !hashing.failed;
}

static bool add_files(struct walk *walk, struct croft_error *err)
{
	struct load *load = walk->load;
	for (size_t i = 0; i < walk->file_count; i++) {
		const struct found_file *file = &walk->files[i];
		struct croft_tree_entry entry = {
			.kind = CROFT_ENTRY_FILE, .digest = file->digest, .executable = file->executable,
			.properties = file->properties};
		if (!croft_tree_builder_add(load->builder, place(walk, file->path), &entry, err) ||
			!croft_upload_file(load->upload, &file->digest, walk->dirfd, file->path, err))
			return false;
		load->files++;
		load->bytes += file->digest.size_bytes;
	}
	return true;
}

bool load_directory(struct load *load, const char *path, const char *under, struct croft_error *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	load->directories = croft_realloc(load->directories, load->directory_count + 1, sizeof(int));
	load->directories[load->directory_count++] = fd;
	struct walk walk = {.load = load, .name = path, .under = under, .dirfd = fd,
		.arena = croft_arena_create()};
	int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = again >= 0 ? walk_directory(&walk, again, "", err)
			     : croft_error_errno(err, errno, "opening %s", path);
	ok = ok && hash_all(&walk, err) && add_files(&walk, err);
	free(walk.files);
	croft_arena_destroy(walk.arena);
	return ok;
}

static bool emit(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	return croft_upload_bytes(user, digest, bytes, err);
}

bool load_upload(struct load *load, struct croft_digest *root, struct croft_upload_stat *stat,
	struct croft_error *err)
{
	progress("uploading %" PRIu64 " files", load->files);
	bool ok = croft_tree_builder_finish(load->builder, emit, load->upload, root, err) &&
		croft_upload_flush(load->upload, stat, err);
	progress_clear();
	return ok;
}
