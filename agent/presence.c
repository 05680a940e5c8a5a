/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/presence.h"

#include "fs/digest_map.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <pthread.h>
#include <stdlib.h>

enum { MOST_ROOTS = 1 << 16 }; /* then the table starts anew */

struct known_root {
	struct croft_digest digest;
	bool directory;
	bool unsettled; /* a large file that a job read whole becomes a blob a little after its end */
	uint64_t present, total;
};

struct croft_presence {
	pthread_mutex_t lock; /* guards: all below */
	struct croft_digest_map *roots; /* to struct known_root */
	size_t position;                /* of refresh */
	size_t unsettled;               /* how many of the roots are */
	uint64_t epoch, sequence;       /* of the last delta */
};

struct croft_presence *croft_presence_create(void)
{
	struct croft_presence *presence = croft_zalloc(sizeof(*presence));
	pthread_mutex_init(&presence->lock, NULL);
	presence->roots = croft_digest_map_create();
	presence->epoch = (uint64_t)croft_unix_ns(); /* another one than before a restart */
	return presence;
}

static void forget(struct croft_presence *presence)
{
	size_t position = 0;
	struct known_root *root;
	while ((root = croft_digest_map_next(presence->roots, &position)))
		free(root);
	croft_digest_map_destroy(presence->roots);
}

void croft_presence_destroy(struct croft_presence *presence)
{
	if (!presence)
		return;
	forget(presence);
	pthread_mutex_destroy(&presence->lock);
	free(presence);
}

static Farm__PresentRoot *describe(const struct known_root *root, struct croft_arena *arena)
{
	Farm__PresentRoot *message = croft_arena_alloc(arena, sizeof(*message));
	farm__present_root__init(message);
	message->root = croft_digest_to_message(&root->digest, arena);
	message->present_bytes = root->present;
	message->total_bytes = root->total;
	return message;
}

static struct known_root *take(struct croft_presence *presence, const Farm__TrackedRoot *tracked,
	bool *new)
{
	struct croft_digest digest;
	if (!croft_digest_from_message(tracked->root, "a root", &digest, NULL))
		return NULL;
	if (croft_digest_map_count(presence->roots) >= MOST_ROOTS) {
		forget(presence);
		presence->roots = croft_digest_map_create();
		presence->position = presence->unsettled = 0;
	}
	void **place = croft_digest_map_at(presence->roots, &digest);
	*new = !*place;
	if (!*place) {
		struct known_root *root = croft_zalloc(sizeof(*root));
		root->digest = digest;
		root->directory = tracked->directory;
		root->total = tracked->total_bytes;
		*place = root;
	}
	return *place;
}

void croft_presence_of_job(struct croft_presence *presence, struct croft_daemon *daemon,
	const Farm__Job *job, bool fetched, Farm__JobDone *done, struct croft_arena *arena)
{
	CROFT_LOCKED(&presence->lock);
	done->roots = croft_arena_array(arena, job->n_roots, sizeof(void *));
	for (size_t i = 0; i < job->n_roots; i++) {
		bool new;
		struct known_root *root = take(presence, job->roots[i], &new);
		if (!root)
			continue;
		/* To look whether one file is there costs nothing. */
		if (fetched || new || (!root->directory && root->present < root->total))
			croft_daemon_present(daemon, &root->digest, root->directory, &root->present, NULL);
		presence->unsettled += fetched && !root->unsettled;
		root->unsettled |= fetched;
		done->roots[done->n_roots++] = describe(root, arena);
	}
}

static Farm__PresenceDelta *new_delta(struct croft_presence *presence, size_t room,
	struct croft_arena *arena)
{
	Farm__PresenceDelta *delta = croft_arena_alloc(arena, sizeof(*delta));
	farm__presence_delta__init(delta);
	delta->epoch = presence->epoch;
	delta->sequence = presence->sequence;
	delta->present = croft_arena_array(arena, room, sizeof(void *));
	delta->gone = croft_arena_array(arena, room, sizeof(void *));
	return delta;
}

static void add(Farm__PresenceDelta *delta, const struct known_root *root, struct croft_arena *arena)
{
	if (root->present)
		delta->present[delta->n_present++] = describe(root, arena);
	else
		delta->gone[delta->n_gone++] = croft_digest_to_message(&root->digest, arena);
}

Farm__PresenceDelta *croft_presence_snapshot(struct croft_presence *presence,
	struct croft_arena *arena)
{
	CROFT_LOCKED(&presence->lock);
	presence->epoch++;
	presence->sequence = 0;
	Farm__PresenceDelta *delta =
		new_delta(presence, croft_digest_map_count(presence->roots), arena);
	delta->snapshot = true;
	size_t position = 0;
	const struct known_root *root;
	while ((root = croft_digest_map_next(presence->roots, &position)))
		if (root->present)
			add(delta, root, arena);
	return delta;
}

static void look_again(struct croft_presence *presence, struct croft_daemon *daemon, struct known_root *root,
	Farm__PresenceDelta *delta, struct croft_arena *arena)
{
	uint64_t before = root->present;
	presence->unsettled -= root->unsettled;
	root->unsettled = false;
	if (croft_daemon_present(daemon, &root->digest, root->directory, &root->present, NULL) &&
		root->present != before)
		add(delta, root, arena);
}

Farm__PresenceDelta *croft_presence_refresh(struct croft_presence *presence,
	struct croft_daemon *daemon, size_t count, struct croft_arena *arena)
{
	CROFT_LOCKED(&presence->lock);
	presence->sequence++;
	Farm__PresenceDelta *delta = new_delta(presence, count + presence->unsettled, arena);
	struct known_root *root;
	size_t position = 0;
	while (presence->unsettled > 0 && (root = croft_digest_map_next(presence->roots, &position)))
		if (root->unsettled)
			look_again(presence, daemon, root, delta, arena);
	for (size_t i = 0; i < count; i++) {
		root = croft_digest_map_next(presence->roots, &presence->position);
		if (!root) {
			presence->position = 0;
			break;
		}
		look_again(presence, daemon, root, delta, arena);
	}
	if (delta->n_present || delta->n_gone)
		return delta;
	presence->sequence--;
	return NULL;
}
