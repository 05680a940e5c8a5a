/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What jobs opened of a tree, and which of it is hot: opened by at least two. Hot files wait in a line for whoever makes
 * something of them, and begin to wait anew when all is made anew.
 */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"

#include <stdlib.h>

enum {
	JOBS_LEAST = 2,
	NEWER_SHARE = 4,  /* of those that there were: for so many more an image is made anew */
	NEWER_LEAST = 32, /* and not for fewer */
};

struct hot {
	struct croft_digest_map *files; /* by digests of their paths */
	struct hot_file *first, **end;  /* in line */
	size_t *memory;                 /* what all files of all trees take of it */
	size_t small, offered; /* small hot files; how many there were when an image was begun */
};

struct hot *hot_create(size_t *memory)
{
	struct hot *hot = croft_zalloc(sizeof(*hot));
	hot->files = croft_digest_map_create();
	hot->end = &hot->first;
	hot->memory = memory;
	return hot;
}

/* With its place in the map. */
static size_t memory_of(const struct hot_file *file)
{
	return sizeof(*file) + strlen(file->path) + 1 + 2 * sizeof(struct croft_digest);
}

void hot_destroy(struct hot *hot)
{
	size_t position = 0;
	if (!hot)
		return;
	for (struct hot_file *file; (file = croft_digest_map_next(hot->files, &position)); free(file))
		*hot->memory -= memory_of(file);
	croft_digest_map_destroy(hot->files);
	free(hot);
}

static void line_up(struct hot *hot, struct hot_file *file)
{
	file->waits = true;
	file->next = NULL;
	*hot->end = file;
	hot->end = &file->next;
}

bool hot_note(struct hot *hot, struct croft_slice path, const struct croft_digest *digest, size_t memory_most)
{
	struct croft_digest key = croft_digest_of(path.data, path.size);
	struct hot_file *file = croft_digest_map_get(hot->files, &key);
	if (!file && *hot->memory >= memory_most)
		return false;
	if (!file) {
		file = croft_zalloc(sizeof(*file) + path.size + 1);
		file->digest = *digest;
		memcpy(file->path, path.data, path.size);
		*croft_digest_map_at(hot->files, &key) = file;
		*hot->memory += memory_of(file);
	}
	if (file->jobs < JOBS_LEAST && ++file->jobs == JOBS_LEAST)
		hot->small += digest->size_bytes <= HOT_SMALL_MOST;
	if (file->jobs == JOBS_LEAST && !file->made && !file->waits)
		line_up(hot, file);
	return true;
}

struct hot_file *hot_first(struct hot *hot)
{
	return hot->first;
}

void hot_made(struct hot *hot, struct hot_file *file, bool made)
{
	hot->first = file->next;
	if (!hot->first)
		hot->end = &hot->first;
	file->waits = false;
	file->made = made;
}

void hot_image_begins(struct hot *hot)
{
	hot->offered = hot->small;
}

struct hot_file *hot_find(struct hot *hot, struct croft_slice path)
{
	struct croft_digest key = croft_digest_of(path.data, path.size);
	struct hot_file *file = croft_digest_map_get(hot->files, &key);
	return file && file->jobs >= JOBS_LEAST ? file : NULL;
}

void hot_image_stands(struct hot *hot, uint64_t image)
{
	size_t position = 0;
	hot->first = NULL;
	hot->end = &hot->first;
	for (struct hot_file *file; (file = croft_digest_map_next(hot->files, &position));) {
		file->waits = false;
		file->made = file->image == image;
		if (!file->made && file->jobs >= JOBS_LEAST)
			line_up(hot, file);
	}
}

bool hot_outgrew_image(const struct hot *hot)
{
	return hot->small > hot->offered + hot->offered / NEWER_SHARE + NEWER_LEAST;
}
