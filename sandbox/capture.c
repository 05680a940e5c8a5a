/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Captures what stands at a path after a job: in proportion to what the job changed, not to what it saw.
 * Everything inside is dead by now, so nothing can be swapped under the walk.
 */
#include "sandbox/view.h"

#include "proto/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINKS_MOST = 40 };

struct walk {
	struct view *view;
	bool special; /* fifos, sockets and devices are handed out, too */
	bool (*entry)(void *user, const struct croft_capture_entry *entry, struct croft_error *err);
	void *user;
	char *path; /* of the current entry, below what is captured */
	size_t size, room;
	unsigned depth;
};

/* Names ------------------------------------------------------------------------------------------------ */

struct names {
	char **list;
	size_t count, room;
};

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_name(struct names *names, const char *name)
{
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return;
	if (names->count == names->room)
		names->list = croft_realloc(names->list, names->room = names->room * 2 + 64, sizeof(char *));
	names->list[names->count++] = croft_strdup(name);
}

static bool add_names(struct names *names, int fd, struct croft_error *err)
{
	if (fd < 0)
		return true;
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir) {
		croft_error_errno(err, errno, "reading a directory of outputs");
		if (copy >= 0)
			close(copy);
		return false;
	}
	struct dirent *entry;
	while ((errno = 0, entry = readdir(dir)))
		add_name(names, entry->d_name);
	bool ok = !errno || croft_error_errno(err, errno, "reading a directory of outputs");
	closedir(dir);
	return ok;
}

static void sort_names(struct names *names)
{
	size_t kept = 0;
	if (names->count)
		qsort(names->list, names->count, sizeof(char *), compare_names);
	for (size_t i = 0; i < names->count; i++) {
		if (kept > 0 && strcmp(names->list[kept - 1], names->list[i]) == 0)
			free(names->list[i]);
		else
			names->list[kept++] = names->list[i];
	}
	names->count = kept;
}

/* Every name of the merged directory once, in byte order. */
static bool merged_names(const struct view *view, const struct view_directory *directory,
	struct names *names, struct croft_error *err)
{
	bool ok = add_names(names, directory->upper, err);
	for (size_t i = 0; ok && i < view->lower_count; i++)
		ok = add_names(names, directory->lowers[i], err);
	sort_names(names);
	return ok;
}

static void free_names(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->list[i]);
	free(names->list);
}

/* The walk ----------------------------------------------------------------------------------------------- */

static size_t push(struct walk *walk, const char *name)
{
	size_t before = walk->size, length = strlen(name);
	if (walk->room < walk->size + length + 2)
		walk->path = croft_realloc(walk->path, walk->room = (walk->size + length + 2) * 2, 1);
	if (walk->size > 0)
		walk->path[walk->size++] = '/';
	memcpy(walk->path + walk->size, name, length);
	walk->size += length;
	return before;
}

const char *croft_capture_kind(mode_t mode)
{
	return S_ISDIR(mode) ? "directory"
		: S_ISLNK(mode)  ? "symlink"
		: S_ISREG(mode)  ? "file"
		: S_ISFIFO(mode) ? "fifo"
		: S_ISSOCK(mode) ? "socket"
						 : "device";
}

static bool emit(struct walk *walk, const char *name, const struct stat *st, int dirfd, bool changed,
	struct croft_error *err)
{
	char target[4097];
	struct croft_capture_entry entry = {
		.path = CROFT_SLICE(walk->path, walk->size),
		.mode = st->st_mode,
		.mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
		.size_bytes = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0,
		.changed = changed,
		.dirfd = dirfd,
		.name = name,
	};
	if (S_ISLNK(st->st_mode)) {
		ssize_t size = readlinkat(dirfd, name, target, sizeof(target) - 1);
		if (size < 0)
			return croft_error_errno(err, errno, "reading the link %s", name);
		entry.target = CROFT_SLICE(target, (size_t)size);
	} else if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode) && !walk->special) {
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"'%.*s' is a %s, which no output can hold: remove it before the job ends", (int)walk->size,
			walk->path, croft_capture_kind(st->st_mode));
	}
	/* The job may have left a file that nobody may read. */
	if (changed && S_ISREG(st->st_mode) && !(st->st_mode & 0400) &&
		fchmodat(dirfd, name, (st->st_mode & 07777) | 0400, 0) < 0)
		return croft_error_errno(err, errno, "making the output %s readable", name);
	return walk->entry(walk->user, &entry, err);
}

static bool walk_directory(struct walk *walk, const struct view_directory *directory,
	struct croft_error *err);

static bool walk_below(struct walk *walk, const struct view_directory *directory, const char *name,
	struct croft_error *err)
{
	struct view_directory child;
	if (walk->depth >= VIEW_DEEPEST)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"an output has directories nested more than %d deep", VIEW_DEEPEST);
	if (!view_descend(walk->view, directory, name, &child, err))
		return false;
	walk->depth++;
	bool ok = walk_directory(walk, &child, err);
	walk->depth--;
	view_leave(walk->view, &child);
	return ok;
}

static bool walk_entry(struct walk *walk, const struct view_directory *directory, const char *name,
	struct croft_error *err)
{
	struct stat st;
	int dirfd;
	bool changed;
	int found = view_look(walk->view, directory, name, &st, &dirfd, &changed, err);
	if (found <= 0)
		return found == 0;
	return emit(walk, name, &st, dirfd, changed, err) &&
		(!S_ISDIR(st.st_mode) || !changed || walk_below(walk, directory, name, err));
}

static bool walk_directory(struct walk *walk, const struct view_directory *directory,
	struct croft_error *err)
{
	struct names names = {0};
	bool ok = merged_names(walk->view, directory, &names, err);
	for (size_t i = 0; ok && i < names.count; i++) {
		size_t before = push(walk, names.list[i]);
		ok = walk_entry(walk, directory, names.list[i], err);
		walk->size = before;
	}
	free_names(&names);
	return ok;
}

/* Finding the path ------------------------------------------------------------------------------------- */

/* One component at a time, in the merged view; symlinked parents are followed within the root, as the
 * job's own writes through them were. */
struct search {
	char *path; /* rewritten when a link is followed */
	size_t walked; /* of it */
	struct view_directory at;
	bool at_root;
	unsigned links;
};

static void restart(const struct walk *walk, struct search *search)
{
	if (!search->at_root)
		view_leave(walk->view, &search->at);
	search->at = walk->view->root;
	search->at_root = true;
	search->walked = 0;
}

/* Resolves "." and ".." by their words; links were replaced by where they point before. */
static void normalise(char *path)
{
	char *out = path;
	for (char *at = path; *at;) {
		at += strspn(at, "/");
		size_t size = strcspn(at, "/");
		if (size == 2 && at[0] == '.' && at[1] == '.') {
			while (out > path && *--out != '/')
				;
		} else if (size > 0 && !(size == 1 && at[0] == '.')) {
			*out++ = '/';
			memmove(out, at, size);
			out += size;
		}
		at += size;
	}
	*out = '\0';
}

/* From the link `name` to where it points; `rest` is what comes after it. */
static bool follow(const struct walk *walk, struct search *search, int dirfd, const char *name,
	const char *rest, struct croft_error *err)
{
	char target[4097], *path;
	ssize_t size = readlinkat(dirfd, name, target, sizeof(target) - 1);
	if (size < 0)
		return croft_error_errno(err, errno, "reading the link %s", name);
	if (++search->links > LINKS_MOST)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "too many links on the way to an output");
	target[size] = '\0';
	if (asprintf(&path, "%.*s/%s/%s", target[0] == '/' ? 0 : (int)search->walked, search->path, target,
			rest) < 0)
		abort();
	free(search->path);
	search->path = path;
	normalise(path);
	restart(walk, search);
	return true;
}

static bool step_into(const struct walk *walk, struct search *search, const char *name,
	struct croft_error *err)
{
	struct view_directory child;
	if (!view_descend(walk->view, &search->at, name, &child, err))
		return false;
	if (!search->at_root)
		view_leave(walk->view, &search->at);
	search->at = child;
	search->at_root = false;
	search->walked += 1 + strlen(name);
	return true;
}

static bool capture_root(struct walk *walk, struct croft_error *err)
{
	struct stat st;
	if (fstat(walk->view->root.upper, &st) < 0)
		return croft_error_errno(err, errno, "looking at the writable layer");
	return emit(walk, ".", &st, walk->view->root.upper, true, err) &&
		walk_directory(walk, &walk->view->root, err);
}

/* One component of the path; `done` when it was the last. */
static bool step(struct walk *walk, struct search *search, bool *done, struct croft_error *err)
{
	const char *part = search->path + search->walked;
	part += *part == '/';
	size_t size = strcspn(part, "/");
	CROFT_CLEANUP_FREE char *name = strndup(part, size);
	struct stat st;
	int dirfd;
	bool changed;
	*done = part[size] == '\0';
	if (size == 0)
		return capture_root(walk, err);
	int found = view_look(walk->view, &search->at, name, &st, &dirfd, &changed, err);
	if (found < 0)
		return false;
	if (found == 0)
		return croft_error_set(err, CROFT_NOT_FOUND, "nothing is at '%s'", search->path);
	if (*done)
		return emit(walk, name, &st, dirfd, changed, err) &&
			(!S_ISDIR(st.st_mode) || !changed || walk_below(walk, &search->at, name, err));
	if (S_ISLNK(st.st_mode))
		return follow(walk, search, dirfd, name, part + size, err);
	return S_ISDIR(st.st_mode)
		? step_into(walk, search, name, err)
		: croft_error_set(err, CROFT_NOT_FOUND, "'%s' on the way to '%s' is no directory", name, search->path);
}

bool view_capture(struct view *view, const char *path, bool special,
	bool (*entry)(void *user, const struct croft_capture_entry *entry, struct croft_error *err),
	void *user, struct croft_error *err)
{
	struct walk walk = {.view = view, .special = special, .entry = entry, .user = user};
	struct search search = {.at = view->root, .at_root = true};
	bool ok = true, done = false;
	if (asprintf(&search.path, "/%s", path) < 0)
		abort();
	normalise(search.path);
	while (ok && !done)
		ok = step(&walk, &search, &done, err);
	restart(&walk, &search);
	free(search.path);
	free(walk.path);
	return ok;
}
