/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/profiles.h"

#include "fs/digest_map.h"
#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"
#include "proto/rpc/message.h"

#include <pthread.h>
#include <stdlib.h>

enum {
	KNOWN = 512,           /* kinds held in memory */
	LESSONS_AT_MOST = 64,
	KINDS_AT_MOST = 4,
	TOUCHES_AT_MOST = 4096, /* of a kind */
	RUNS_AT_MOST = 16,     /* then older runs count half */
	FETCH_AHEAD_BYTES = 1 << 30, /* of one job */
	BLOB_BYTES = 32 << 20, /* larger ones come ahead only where it is known which parts are read */
	BAD_AT_MOST = 6,
};

/* A kind that is held. */
struct known {
	char *kind; /* NULL: free */
	struct croft_slice bytes; /* encoded AccessProfile; none: nothing is known of it */
	unsigned bad, skip; /* times that most was fetched in vain, in a row; predictions to leave out */
	uint64_t used;
};

struct lesson {
	char *kinds[KINDS_AT_MOST];
	size_t count;
	struct croft_slice bytes;
	uint64_t fetched, wasted;
	struct lesson *next;
};

struct profiles {
	struct croft_store *store;
	pthread_t thread;
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t changed;
	struct known known[KNOWN];
	uint64_t clock;
	struct lesson *first, **end;
	size_t lessons;
	bool closing;
};

/* Kinds held ------------------------------------------------------------------------------------- */

static struct croft_slice copy(struct croft_slice bytes)
{
	char *copied = croft_alloc(bytes.size + 1);
	memcpy(copied, bytes.data, bytes.size);
	return CROFT_SLICE(copied, bytes.size);
}

/* `lock` held. */
static struct known *find(struct profiles *profiles, const char *kind)
{
	for (size_t i = 0; i < KNOWN; i++)
		if (profiles->known[i].kind && strcmp(profiles->known[i].kind, kind) == 0) {
			profiles->known[i].used = ++profiles->clock;
			return &profiles->known[i];
		}
	return NULL;
}

/* `lock` held. In place of the one that was not used for longest. */
static struct known *add(struct profiles *profiles, const char *kind)
{
	struct known *oldest = &profiles->known[0];
	for (size_t i = 0; i < KNOWN; i++)
		if (profiles->known[i].used < oldest->used)
			oldest = &profiles->known[i];
	free(oldest->kind);
	free((void *)oldest->bytes.data);
	*oldest = (struct known){.kind = croft_strdup(kind), .used = ++profiles->clock};
	return oldest;
}

/* Its bytes, in the arena; none when nothing is known. `left_out` (NULL: nothing is predicted): this
 * prediction is. The lock is not held over the store. */
static struct croft_slice load(struct profiles *profiles, const char *kind, bool *left_out,
	struct croft_arena *arena)
{
	struct croft_slice bytes = CROFT_SLICE(NULL, 0);
	pthread_mutex_lock(&profiles->lock);
	struct known *known = find(profiles, kind);
	if (left_out)
		*left_out = known && known->skip > 0;
	if (left_out && *left_out)
		known->skip--;
	else if (known && known->bytes.size)
		bytes = CROFT_SLICE(
			croft_arena_copy(arena, known->bytes.data, known->bytes.size), known->bytes.size);
	pthread_mutex_unlock(&profiles->lock);
	if (known)
		return bytes;
	if (!croft_store_record_get(profiles->store, CROFT_RECORD_PROFILE, croft_slice_str(kind), arena,
		    &bytes, NULL))
		bytes = CROFT_SLICE(NULL, 0);
	CROFT_LOCKED(&profiles->lock);
	if (!find(profiles, kind)) {
		known = add(profiles, kind);
		if (bytes.size)
			known->bytes = copy(bytes);
	}
	return bytes;
}

static Farm__AccessProfile *decode(struct croft_slice bytes, struct croft_arena *arena)
{
	return bytes.size ? croft_message_decode(
		&farm__access_profile__descriptor, bytes, arena, NULL, NULL) : NULL;
}

/* Predicting ----------------------------------------------------------------------------------- */

/* What most runs read. */
static Farm__AccessProfile *likely(const Farm__AccessProfile *profile, struct croft_arena *arena)
{
	Farm__AccessProfile *chosen = croft_arena_alloc(arena, sizeof(*chosen));
	farm__access_profile__init(chosen);
	chosen->runs = profile->runs;
	chosen->touches = croft_arena_array(arena, profile->n_touches, sizeof(void *));
	uint64_t bytes = 0;
	for (size_t i = 0; i < profile->n_touches && bytes < FETCH_AHEAD_BYTES; i++) {
		Farm__AccessProfile__Touch *touch = profile->touches[i];
		if (!touch->digest || touch->digest->size_bytes <= 0 || touch->seen_runs * 2 < profile->runs ||
			(touch->length == 0 && touch->digest->size_bytes > BLOB_BYTES))
			continue;
		touch->path.len = 0; /* the agent goes by digests */
		bytes += touch->length ? touch->length : (uint64_t)touch->digest->size_bytes;
		chosen->touches[chosen->n_touches++] = touch;
	}
	return chosen->n_touches ? chosen : NULL;
}

Farm__AccessProfile *profiles_predict(struct profiles *profiles, const char *const *kinds,
	size_t count, struct croft_arena *arena)
{
	for (size_t i = 0; i < count; i++) {
		bool left_out;
		Farm__AccessProfile *profile = decode(load(profiles, kinds[i], &left_out, arena), arena);
		if (profile)
			return likely(profile, arena);
		if (left_out)
			return NULL;
	}
	return NULL;
}

/* Learning -------------------------------------------------------------------------------------- */

/* Touches of one content stand in a row: one, or several ranges of a large file. */
static size_t group_size(const Farm__AccessProfile *profile, size_t at)
{
	struct croft_digest first, next;
	size_t size = 1;
	if (!croft_digest_from_message(profile->touches[at]->digest, "a touch", &first, NULL))
		return 1;
	while (at + size < profile->n_touches &&
		croft_digest_from_message(profile->touches[at + size]->digest, "a touch", &next, NULL) &&
		croft_digest_equal(&first, &next))
		size++;
	return size;
}

/* Where the first group of each content begins: a pointer into `touches`. */
static struct croft_digest_map *map_of(const Farm__AccessProfile *profile)
{
	struct croft_digest_map *map = croft_digest_map_create();
	struct croft_digest digest;
	for (size_t i = 0; i < profile->n_touches; i += group_size(profile, i))
		if (croft_digest_from_message(profile->touches[i]->digest, "a touch", &digest, NULL)) {
			void **place = croft_digest_map_at(map, &digest);
			if (!*place)
				*place = &profile->touches[i];
		}
	return map;
}

struct merge {
	Farm__AccessProfile *into;
	unsigned divisor; /* of what older runs count */
};

static void emit(struct merge *merge, Farm__AccessProfile__Touch *touch, unsigned seen_runs)
{
	touch->seen_runs = seen_runs;
	if (seen_runs && merge->into->n_touches < TOUCHES_AT_MOST)
		merge->into->touches[merge->into->n_touches++] = touch;
}

static Farm__AccessProfile__Touch *find_range(Farm__AccessProfile__Touch **group, size_t count,
	const Farm__AccessProfile__Touch *like)
{
	for (size_t i = 0; i < count; i++)
		if (group[i]->offset == like->offset && group[i]->length == like->length)
			return group[i];
	return NULL;
}

/* One content that both read. Who does not know how much was read of it (it was warm) confirms what is
 * known; ranges take the place of the whole. */
static void merge_groups(struct merge *merge, Farm__AccessProfile__Touch **old, size_t old_count,
	Farm__AccessProfile__Touch **run, size_t run_count)
{
	bool run_knows = run[0]->length > 0, old_knows = old[0]->length > 0;
	if (!run_knows) {
		for (size_t i = 0; i < old_count; i++)
			emit(merge, old[i], old[i]->seen_runs / merge->divisor + 1);
		return;
	}
	for (size_t i = 0; i < run_count; i++) {
		const Farm__AccessProfile__Touch *known =
			old_knows ? find_range(old, old_count, run[i]) : old[0];
		emit(merge, run[i], (known ? known->seen_runs / merge->divisor : 0) + 1);
	}
	for (size_t i = 0; old_knows && i < old_count; i++)
		if (!find_range(run, run_count, old[i]))
			emit(merge, old[i], old[i]->seen_runs / merge->divisor);
}

/* Adds a run: what it read comes first, in its order; then what only older ones did. */
static void merge_run(const Farm__AccessProfile *old, const Farm__AccessProfile *run,
	Farm__AccessProfile *merged, struct croft_arena *arena)
{
	struct croft_digest_map *before = map_of(old), *now = map_of(run);
	struct croft_digest digest;
	struct merge merge = {merged, old->runs >= RUNS_AT_MOST ? 2 : 1};
	farm__access_profile__init(merged);
	merged->runs = old->runs / merge.divisor + 1;
	merged->touches = croft_arena_array(arena, old->n_touches + run->n_touches, sizeof(void *));
	for (size_t i = 0, size; i < run->n_touches; i += size) {
		size = group_size(run, i);
		if (!croft_digest_from_message(run->touches[i]->digest, "a touch", &digest, NULL) ||
			croft_digest_map_get(now, &digest) != &run->touches[i])
			continue; /* content that stands at two paths counts once */
		Farm__AccessProfile__Touch **known = croft_digest_map_get(before, &digest);
		if (known)
			merge_groups(&merge, known, group_size(old, (size_t)(known - old->touches)),
				&run->touches[i], size);
		else
			for (size_t at = i; at < i + size; at++)
				emit(&merge, run->touches[at], 1);
	}
	for (size_t i = 0; i < old->n_touches; i++)
		if (croft_digest_from_message(old->touches[i]->digest, "a touch", &digest, NULL) &&
			!croft_digest_map_get(now, &digest))
			emit(&merge, old->touches[i], old->touches[i]->seen_runs / merge.divisor);
	croft_digest_map_destroy(before);
	croft_digest_map_destroy(now);
}

/* Written to the disk after the first run, and then ever more rarely. */
static bool worth_writing(unsigned runs)
{
	return (runs & (runs - 1)) == 0 || runs == RUNS_AT_MOST / 2 + 1;
}

static void learn(struct profiles *profiles, const char *kind, const struct lesson *lesson)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__AccessProfile none = FARM__ACCESS_PROFILE__INIT, merged;
	Farm__AccessProfile *old = decode(load(profiles, kind, NULL, arena), arena);
	Farm__AccessProfile *run = decode(lesson->bytes, arena);
	if (!run)
		return;
	merge_run(old ? old : &none, run, &merged, arena);
	struct croft_slice bytes = croft_message_encode(&merged.base, arena);
	pthread_mutex_lock(&profiles->lock);
	struct known *known = find(profiles, kind);
	if (!known)
		known = add(profiles, kind);
	free((void *)known->bytes.data);
	known->bytes = copy(bytes);
	if (lesson->fetched && lesson->wasted * 2 > lesson->fetched) {
		known->bad += known->bad < BAD_AT_MOST;
		known->skip = 1u << known->bad;
	} else if (lesson->fetched) {
		known->bad = 0;
	}
	pthread_mutex_unlock(&profiles->lock);
	struct croft_error err = CROFT_ERROR_INIT;
	if (worth_writing(merged.runs) && !croft_store_record_put(profiles->store, CROFT_RECORD_PROFILE,
			croft_slice_str(kind), bytes, NULL, 0, 0, &err))
		croft_log(CROFT_LOG_WARNING, "keeping an access profile: %s", err.message);
}

static void free_lesson(struct lesson *lesson)
{
	for (size_t i = 0; i < lesson->count; i++)
		free(lesson->kinds[i]);
	free((void *)lesson->bytes.data);
	free(lesson);
}

static void *learn_all(void *user)
{
	struct profiles *profiles = user;
	pthread_mutex_lock(&profiles->lock);
	for (;;) {
		struct lesson *lesson = profiles->first;
		if (!lesson && profiles->closing)
			break;
		if (!lesson) {
			pthread_cond_wait(&profiles->changed, &profiles->lock);
			continue;
		}
		profiles->first = lesson->next;
		if (!profiles->first)
			profiles->end = &profiles->first;
		profiles->lessons--;
		pthread_mutex_unlock(&profiles->lock);
		for (size_t i = 0; i < lesson->count; i++)
			learn(profiles, lesson->kinds[i], lesson);
		free_lesson(lesson);
		pthread_mutex_lock(&profiles->lock);
	}
	pthread_mutex_unlock(&profiles->lock);
	return NULL;
}

void profiles_learn(struct profiles *profiles, const char *const *kinds, size_t count,
	const Farm__JobDone *done)
{
	if (!done->profile || done->profile->n_touches == 0)
		return;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct lesson *lesson = croft_zalloc(sizeof(*lesson));
	lesson->bytes = copy(croft_message_encode(&done->profile->base, arena));
	for (size_t i = 0; i < count && i < KINDS_AT_MOST; i++)
		lesson->kinds[lesson->count++] = croft_strdup(kinds[i]);
	if (done->inputs) {
		lesson->fetched = done->inputs->prefetched_bytes;
		lesson->wasted = done->inputs->wasted_bytes;
	}
	pthread_mutex_lock(&profiles->lock);
	bool full = profiles->lessons == LESSONS_AT_MOST;
	if (!full) {
		*profiles->end = lesson;
		profiles->end = &lesson->next;
		profiles->lessons++;
		pthread_cond_signal(&profiles->changed);
	}
	pthread_mutex_unlock(&profiles->lock);
	if (full)
		free_lesson(lesson);
}

/* Life -------------------------------------------------------------------------------------------- */

struct profiles *profiles_open(struct croft_store *store)
{
	struct profiles *profiles = croft_zalloc(sizeof(*profiles));
	profiles->store = store;
	profiles->end = &profiles->first;
	pthread_mutex_init(&profiles->lock, NULL);
	pthread_cond_init(&profiles->changed, NULL);
	if (pthread_create(&profiles->thread, NULL, learn_all, profiles) != 0)
		abort();
	pthread_setname_np(profiles->thread, "profiles");
	return profiles;
}

void profiles_close(struct profiles *profiles)
{
	if (!profiles)
		return;
	pthread_mutex_lock(&profiles->lock);
	profiles->closing = true;
	pthread_cond_signal(&profiles->changed);
	pthread_mutex_unlock(&profiles->lock);
	pthread_join(profiles->thread, NULL);
	for (size_t i = 0; i < KNOWN; i++) {
		free(profiles->known[i].kind);
		free((void *)profiles->known[i].bytes.data);
	}
	pthread_mutex_destroy(&profiles->lock);
	pthread_cond_destroy(&profiles->changed);
	free(profiles);
}
