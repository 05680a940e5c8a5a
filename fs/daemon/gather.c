/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fetching many blobs and waiting for all of them. */
#include "fs/daemon/internal.h"

#include "proto/base/cleanup.h"

struct gather {
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t changed;
	size_t pending;
	struct gathered gathered;
	struct croft_error failure; /* the first */
};

static void came(void *user, const struct croft_digest *digest, uint64_t moved_bytes,
	const struct croft_error *err)
{
	struct gather *gather = user;
	CROFT_LOCKED(&gather->lock);
	if (err && gather->failure.code == CROFT_OK)
		gather->failure = *err;
	gather->gathered.files += moved_bytes > 0;
	gather->gathered.bytes += moved_bytes;
	if (--gather->pending == 0)
		pthread_cond_signal(&gather->changed);
}

bool gather_all(struct croft_fetcher *fetcher, const struct croft_digest *digests, size_t count,
	bool background, struct gathered *gathered, struct croft_error *err)
{
	if (!fetcher || count == 0)
		return true; /* reading says which is not there */
	struct gather gather = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER,
		.pending = count};
	CROFT_CLEANUP_FREE struct croft_fetch_request *requests = croft_array(count, sizeof(*requests));
	for (size_t i = 0; i < count; i++)
		requests[i] = (struct croft_fetch_request){.digest = digests[i], .background = background,
			.done = came, .user = &gather};
	croft_fetch_many(fetcher, requests, count);
	pthread_mutex_lock(&gather.lock);
	while (gather.pending)
		pthread_cond_wait(&gather.changed, &gather.lock);
	pthread_mutex_unlock(&gather.lock);
	if (gathered) {
		gathered->files += gather.gathered.files;
		gathered->bytes += gather.gathered.bytes;
	}
	if (gather.failure.code == CROFT_OK)
		return true;
	*err = gather.failure;
	return false;
}
