/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/touched.h"

#include "proto/base/cleanup.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/* Of one job, in its report. */
enum { PROFILE_TOUCHES = 16384 };

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct croft_slice croft_touched_list(const char *const *paths, size_t count, struct croft_arena *arena)
{
	CROFT_CLEANUP_FREE const char **sorted = croft_array(count + 1, sizeof(*sorted));
	size_t size = 0;
	for (size_t i = 0; i < count; i++) {
		sorted[i] = paths[i];
		size += strlen(paths[i]) + 1;
	}
	/* Jobs that open the same in another order share a list. */
	qsort(sorted, count, sizeof(*sorted), by_bytes);
	CROFT_CLEANUP_FREE char *text = croft_alloc(size + 1);
	char *at = text;
	for (size_t i = 0; i < count; i++)
		at = stpcpy(at, sorted[i]) + 1;
	size_t room = ZSTD_compressBound(size);
	char *packed = croft_arena_alloc(arena, room);
	size_t packed_size = ZSTD_compress(packed, room, text, size, ZSTD_CLEVEL_DEFAULT);
	if (ZSTD_isError(packed_size))
		abort(); /* out of memory: there is room for any result */
	return CROFT_SLICE(packed, packed_size);
}

struct opened {
	const struct croft_digest *digests;
	size_t count;
	struct croft_read_range *ranges;
	size_t range_count;
};

static Farm__AccessProfile__Touch *touch_of(const struct croft_digest *digest, const char *path,
	struct croft_arena *arena)
{
	Farm__AccessProfile__Touch *touch = croft_arena_alloc(arena, sizeof(*touch));
	farm__access_profile__touch__init(touch);
	touch->digest = croft_digest_to_message(digest, arena);
	touch->path.len = strlen(path);
	touch->path.data = croft_arena_copy(arena, path, touch->path.len);
	touch->seen_runs = 1;
	return touch;
}

/* Of a file that is read in parts one for each range that was read. */
static void add_touches(Farm__AccessProfile *profile, const struct croft_digest *digest, const char *path,
	const struct croft_read_range *ranges, size_t count, struct croft_arena *arena)
{
	for (size_t i = 0; i < (count ? count : 1) && profile->n_touches < PROFILE_TOUCHES; i++) {
		Farm__AccessProfile__Touch *touch = touch_of(digest, path, arena);
		touch->offset = count ? ranges[i].offset : 0;
		touch->length = count ? ranges[i].length : 0;
		profile->touches[profile->n_touches++] = touch;
	}
}

static void fill(const char *path, const struct opened *opened, struct croft_arena *arena,
	Farm__InputAccount *inputs, struct croft_touched *touched, bool complete)
{
	const struct croft_digest *digests = opened->digests;
	const struct croft_read_range *range = opened->ranges, *end = range + opened->range_count;
	size_t count = opened->count;
	CROFT_CLEANUP_FREE const char **found = croft_array(count + 1, sizeof(*found));
	Farm__AccessProfile *profile = touched->profile = croft_arena_alloc(arena, sizeof(*profile));
	farm__access_profile__init(profile);
	profile->runs = 1;
	profile->touches = croft_arena_array(arena, count + opened->range_count, sizeof(void *));
	for (size_t i = 0; i < count; i++, path += strlen(path) + 1) {
		const struct croft_read_range *first = range;
		while (range < end && range->path == i)
			range++;
		if (digests[i].size_bytes == UINT64_MAX)
			continue; /* of the job's own making */
		found[inputs->touched_files++] = path;
		inputs->touched_bytes += digests[i].size_bytes;
		add_touches(profile, &digests[i], path, first, (size_t)(range - first), arena);
	}
	if (!complete)
		return;
	touched->has_list = true;
	touched->list = croft_touched_list(found, inputs->touched_files, arena);
	touched->list_digest = croft_digest_of(touched->list.data, touched->list.size);
	inputs->opened = croft_digest_to_message(&touched->list_digest, arena);
}

bool croft_touched_find(struct croft_daemon *daemon, struct croft_opens *opens, const char *place,
	const struct croft_digest *input_root, uint64_t pid_namespace, struct croft_arena *arena,
	Farm__InputAccount *inputs, struct croft_touched *touched, struct croft_error *err)
{
	size_t count = 0;
	struct croft_slice paths = CROFT_SLICE("", 0);
	struct croft_prefetch_account account = {0};
	*touched = (struct croft_touched){0};
	if (opens)
		paths = croft_opens_finish(opens, place, &count);
	if (croft_digest_is_empty(input_root) || !pid_namespace)
		return true;
	CROFT_CLEANUP_FREE struct croft_digest *digests = croft_array(count + 1, sizeof(*digests));
	struct opened opened = {.digests = digests, .count = count};
	if (!croft_daemon_touched(daemon, pid_namespace, input_root, paths, digests, count, &account,
			&opened.ranges, &opened.range_count, err))
		return false;
	CROFT_CLEANUP_FREE void *owned = opened.ranges;
	inputs->prefetched_files = account.files;
	inputs->prefetched_bytes = account.bytes;
	inputs->wasted_bytes = account.wasted_bytes;
	if (opens)
		fill(paths.data, &opened, arena, inputs, touched, croft_opens_complete(opens));
	return true;
}
