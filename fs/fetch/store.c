/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small blobs go to the store in groups: what arrives while a group is being written is the next. */
#include "fs/fetch/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

enum { GROUPS = 2, GROUP_COUNT = 512 };

struct group {
	struct ring_work work;
	struct croft_fetcher *fetcher;
	size_t count;
	struct fetch_wanted *items[GROUP_COUNT];
	struct croft_digest digests[GROUP_COUNT];
	struct croft_slice data[GROUP_COUNT];
	struct croft_error errors[GROUP_COUNT];
};

static void put(struct ring_work *work)
{
	struct group *group = ring_container(work, struct group, work);
	croft_store_put_many(
		group->fetcher->store, group->digests, group->data, group->count, group->errors);
}

static void start(struct croft_fetcher *fetcher);

static void finish(struct group *group, size_t i)
{
	struct fetch_wanted *wanted = group->items[i];
	const struct croft_error *err = &group->errors[i];
	group->fetcher->storing_bytes -= wanted->digest.size_bytes;
	if (err->code == CROFT_OK)
		fetch_finish(group->fetcher, wanted, NULL);
	else if (err->code == CROFT_INVALID_ARGUMENT)
		fetch_wrong(group->fetcher, wanted, wanted->source, err);
	else
		fetch_finish(group->fetcher, wanted, err);
}

static void done(struct ring_work *work)
{
	struct group *group = ring_container(work, struct group, work);
	struct croft_fetcher *fetcher = group->fetcher;
	fetcher->works--;
	fetcher->storing_groups--;
	start(fetcher);
	for (size_t i = 0; i < group->count; i++)
		finish(group, i);
	free(group);
	fetch_pump(fetcher);
	fetch_settle(fetcher);
}

static void start(struct croft_fetcher *fetcher)
{
	if (!fetcher->stored_first || fetcher->storing_groups >= GROUPS)
		return;
	struct group *group = croft_alloc(sizeof(*group));
	group->fetcher = fetcher;
	group->work = (struct ring_work){.work = put, .done = done};
	for (group->count = 0; fetcher->stored_first && group->count < GROUP_COUNT; group->count++) {
		struct fetch_wanted *wanted = fetcher->stored_first;
		fetcher->stored_first = wanted->next_stored;
		group->items[group->count] = wanted;
		group->digests[group->count] = wanted->digest;
		group->data[group->count] = CROFT_SLICE(wanted->data, (size_t)wanted->digest.size_bytes);
	}
	if (!fetcher->stored_first)
		fetcher->stored_last = &fetcher->stored_first;
	fetcher->storing_groups++;
	fetcher->works++;
	ring_work(fetcher->ring, &group->work);
}

void fetch_store(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	wanted->state = FETCH_STORING;
	wanted->next_stored = NULL;
	*fetcher->stored_last = wanted;
	fetcher->stored_last = &wanted->next_stored;
	fetcher->storing_bytes += wanted->digest.size_bytes;
	/* The first of what one receive brought starts a group; the others are the next one, or, with a
	 * bit of luck, still come along: see fetch_store_go. */
}

void fetch_store_go(struct croft_fetcher *fetcher)
{
	start(fetcher);
}
