/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Captures what stands at a path after a job: in proportion to what the job changed, not to what it saw.
 * Everything inside is dead by now, so nothing can be swapped under the walk.
 */
#include "sandbox/view.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEEPEST = 2000, LINKS_MOST = 40 };

struct walk {
	struct view *view;
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

static void add_names(struct names *names, int fd)
{
	int copy = fd < 0 ? -1 : openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir)
		return;
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (names->count == names->room)
			names->list =
				croft_realloc(names->list, names->room = names->room * 2 + 64, sizeof(char *));
		names->list[names->count++] = croft_strdup(entry->d_name);
	}
	closedir(dir);
}

/* Every name of the merged directory once, in byte order. */
static struct names merged_names(const struct view *view, const struct view_directory *directory)
{
	struct names names = {0};
	add_names(&names, directory->upper);
	for (size_t i = 0; i < view->lower_count; i++)
		add_names(&names, directory->lowers[i]);
	if (names.count)
		qsort(names.list, names.count, sizeof(char *), compare_names);
	size_t kept = 0;
	for (size_t i = 0; i < names.count; i++) {
		if (kept > 0 && strcmp(names.list[kept - 1], names.list[i]) == 0)
			free(names.list[i]);
		else
			names.list[kept++] = names.list[i];
	}
	names.count = kept;
	return names;
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

static const char *kind_name(mode_t mode)
{
	return S_ISFIFO(mode) ? "a fifo" : S_ISSOCK(mode) ? "a socket" : "a device";
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
	} else if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode)) {
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"'%.*s' is %s, which no output can hold: remove it before the job ends", (int)walk->size,
			walk->path, kind_name(st->st_mode));
	}
	/* The job may have left a file that nobody may read. */
	if (changed && S_ISREG(st->st_mode) && !(st->st_mode & 0400))
		fchmodat(dirfd, name, (st->st_mode & 07777) | 0400, 0);
	return walk->entry(walk->user, &entry, err);
}

static bool walk_directory(struct walk *walk, const struct view_directory *directory,
	struct croft_error *err);

static bool walk_entry(struct walk *walk, const struct view_directory *directory, const char *name,
	struct croft_error *err)
{
	struct stat st;
	int dirfd;
	bool changed;
	if (!view_look(walk->view, directory, name, &st, &dirfd, &changed))
		return true;
	if (!emit(walk, name, &st, dirfd, changed, err))
		return false;
	if (!S_ISDIR(st.st_mode) || !changed)
		return true;
	if (walk->depth >= DEEPEST)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"an output has directories nested more than %d deep", DEEPEST);
	struct view_directory child;
	view_descend(walk->view, directory, name, &child);
	walk->depth++;
	bool ok = child.upper < 0 && errno == EMFILE
		? croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			  "an output has directories nested more deeply (%u) than this agent may open files", walk->depth)
		: child.upper >= 0 ? walk_directory(walk, &child, err)
							   : croft_error_errno(err, errno, "opening directory %s", name);
	walk->depth--;
	view_leave(walk->view, &child);
	return ok;
}

static bool walk_directory(struct walk *walk, const struct view_directory *directory,
	struct croft_error *err)
{
	struct names names = merged_names(walk->view, directory);
	bool ok = true;
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
 * job's own writes through them were. `rest` is rewritten when a link is followed. */
struct search {
	struct view_directory at;
	bool at_root;
	unsigned links;
};

static void restart(struct walk *walk, struct search *search)
{
	if (!search->at_root)
		view_leave(walk->view, &search->at);
	search->at = walk->view->root;
	search->at_root = true;
}

static char *follow(struct search *search, const char *walked, int dirfd, const char *name,
	const char *rest, struct croft_error *err)
{
	char target[4097], *path;
	ssize_t size = readlinkat(dirfd, name, target, sizeof(target) - 1);
	if (size < 0 || ++search->links > LINKS_MOST) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "too many links on the way to an output");
		return NULL;
	}
	target[size] = '\0';
	if (asprintf(&path, "%s/%s/%s", target[0] == '/' ? "" : walked, target, rest) < 0)
		abort();
	return path;
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

static bool capture_at(struct walk *walk, char *path, struct croft_error *err)
{
	struct search search = {.at = walk->view->root, .at_root = true};
	struct stat st;
	int dirfd;
	bool changed, ok = false;
	normalise(path);
	char *part = path;
	for (;;) {
		part += *part == '/';
		size_t size = strcspn(part, "/");
		char *name = strndup(part, size);
		const char *rest = part + size;
		bool last = *rest == '\0';
		if (size == 0) { /* the root itself */
			fstat(walk->view->root.upper, &st);
			free(name);
			ok = emit(walk, ".", &st, walk->view->root.upper, true, err) &&
				walk_directory(walk, &walk->view->root, err);
			break;
		}
		if (!view_look(walk->view, &search.at, name, &st, &dirfd, &changed)) {
			croft_error_set(err, CROFT_NOT_FOUND, "nothing is at '%s'", path);
		} else if (last) {
			ok = emit(walk, name, &st, dirfd, changed, err);
			if (ok && changed && S_ISDIR(st.st_mode)) {
				struct view_directory child;
				view_descend(walk->view, &search.at, name, &child);
				ok = walk_directory(walk, &child, err);
				view_leave(walk->view, &child);
			}
		} else if (S_ISLNK(st.st_mode)) {
			char *walked = strndup(path, (size_t)(part - path));
			char *next = follow(&search, walked, dirfd, name, rest, err);
			free(walked);
			free(name);
			if (!next)
				break;
			free(path);
			path = part = next;
			normalise(path);
			restart(walk, &search);
			continue;
		} else if (!S_ISDIR(st.st_mode)) {
			croft_error_set(err, CROFT_NOT_FOUND, "'%s' on the way to '%s' is no directory", name, path);
		} else {
			struct view_directory child;
			view_descend(walk->view, &search.at, name, &child);
			if (!search.at_root)
				view_leave(walk->view, &search.at);
			search.at = child;
			search.at_root = false;
			part += size;
			free(name);
			continue;
		}
		free(name);
		break;
	}
	restart(walk, &search);
	free(path);
	return ok;
}

bool view_capture(struct view *view, const char *path,
	bool (*entry)(void *user, const struct croft_capture_entry *entry, struct croft_error *err),
	void *user, struct croft_error *err)
{
	struct walk walk = {.view = view, .entry = entry, .user = user};
	char *copy;
	if (asprintf(&copy, "/%s", path) < 0)
		abort();
	bool ok = capture_at(&walk, copy, err);
	free(walk.path);
	return ok;
}
