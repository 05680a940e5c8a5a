/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Read is what the job opened, where the agent can tell, and the heavy parts of its inputs. Made are its output files
 * and, of its output directories, what the first levels hold. Neither need be whole: one file that is handed on is
 * enough to know that one kind of job follows another.
 */
#include "sched/core/handed.h"

#include "fs/tree.h"
#include "proto/base/arena.h"

#include <string.h>

enum {
	READ_MOST = 1024,
	MADE_MOST = 512,
	DIRECTORIES_MOST = 32, /* that are read of what a job left */
};

struct list {
	uint64_t *items;
	size_t count, most;
};

static struct list list_of(size_t items, size_t most, struct croft_arena *arena)
{
	most = items < most ? items : most;
	return (struct list){croft_arena_array(arena, most, sizeof(uint64_t)), 0, most};
}

static void add(struct list *list, const Reapi__Digest *message)
{
	struct croft_digest digest;
	if (list->count < list->most && message && message->size_bytes > 0 &&
		croft_digest_from_message(message, "a digest", &digest, NULL))
		memcpy(&list->items[list->count++], digest.hash, sizeof(uint64_t));
}

/* Level by level. */
static void add_tree(struct list *made, struct croft_store *store, const Reapi__Digest *root,
	struct croft_arena *arena)
{
	const Reapi__Digest *queue[DIRECTORIES_MOST] = {root};
	size_t count = root != NULL;
	for (size_t i = 0; i < count && made->count < made->most; i++) {
		struct croft_digest digest;
		struct croft_slice bytes;
		add(made, queue[i]);
		if (!croft_digest_from_message(queue[i], "a directory", &digest, NULL) ||
			croft_digest_is_empty(&digest) || !croft_store_get(store, &digest, arena, &bytes, NULL))
			continue;
		const Reapi__Directory *directory = croft_directory_decode(bytes, arena, NULL);
		for (size_t k = 0; directory && k < directory->n_files; k++)
			add(made, directory->files[k]->digest);
		for (size_t k = 0; directory && k < directory->n_directories && count < DIRECTORIES_MOST; k++)
			queue[count++] = directory->directories[k]->digest;
	}
}

struct croft_handed handed_of(struct croft_store *store, const Farm__JobDone *done, struct croft_arena *arena)
{
	const Reapi__ActionResult *result = done->result;
	size_t touches = done->profile ? done->profile->n_touches : 0;
	struct list read = list_of(done->n_roots + touches, READ_MOST, arena);
	struct list made = {0};
	if (result)
		made = list_of(result->n_output_directories ? MADE_MOST : result->n_output_files, MADE_MOST, arena);
	for (size_t i = 0; i < done->n_roots; i++)
		add(&read, done->roots[i]->root);
	for (size_t i = 0; i < touches; i++)
		add(&read, done->profile->touches[i]->digest);
	for (size_t i = 0; result && i < result->n_output_files; i++)
		add(&made, result->output_files[i]->digest);
	for (size_t i = 0; result && i < result->n_output_directories; i++)
		add_tree(&made, store, result->output_directories[i]->root_directory_digest, arena);
	return (struct croft_handed){read.items, made.items, read.count, made.count};
}
