/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/remote/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <inttypes.h>
#include <unistd.h>

/* Many blobs: small ones share batches, each large one is a stream. */
struct fetching {
	struct croft_remote *remote;
	const struct croft_digest *digests;
	struct croft_slice *data;
	const size_t *order;  /* indices of the digests, job by job */
	const size_t *starts; /* where in `order` each job begins; one more than there are jobs */
	uint64_t batch_bytes;

	struct croft_arena *arena;
	pthread_mutex_t lock; /* guards: arena */
};

static char *allocate(struct fetching *fetching, size_t size)
{
	CROFT_LOCKED(&fetching->lock);
	return croft_arena_alloc(fetching->arena, size + 1);
}

/* Streams -------------------------------------------------------------------------------------- */

struct whole {
	struct fetching *fetching;
	uint64_t size, at;
	char *data;
};

static bool put_whole(void *user, const void *data, size_t size, struct croft_error *err)
{
	struct whole *whole = user;
	/* Not before the server has something to send: the size is somebody's claim. */
	if (!whole->data)
		whole->data = allocate(whole->fetching, whole->size);
	if (size > 0)
		memcpy(whole->data + whole->at, data, size);
	whole->at += size;
	return true;
}

static bool fetch_large(struct fetching *fetching, size_t index, struct croft_error *err)
{
	const struct croft_digest *digest = &fetching->digests[index];
	struct whole whole = {.fetching = fetching, .size = digest->size_bytes};
	struct croft_error failure = CROFT_ERROR_INIT;
	if (remote_stream_read(fetching->remote, digest, put_whole, &whole, &failure)) {
		fetching->data[index] = CROFT_SLICE(whole.data, digest->size_bytes);
		return true;
	}
	if (failure.code == CROFT_NOT_FOUND)
		return true;
	*err = failure;
	return false;
}

/* Batches -------------------------------------------------------------------------------------- */

static bool take_one(struct fetching *fetching, size_t index,
	const Reapi__BatchReadBlobsResponse__Response *response, struct croft_error *err)
{
	const struct croft_digest *wanted = &fetching->digests[index];
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(wanted, '/', text);
	if (response->status && response->status->code == CROFT_NOT_FOUND)
		return true;
	if (response->status && response->status->code != CROFT_OK)
		return croft_error_set(err, (enum croft_code)response->status->code, "blob %s: %s", text,
			response->status->message);
	struct croft_digest digest = croft_digest_of(response->data.data, response->data.len);
	if (!croft_digest_equal(&digest, wanted))
		return croft_error_set(err, CROFT_DATA_LOSS,
			"blob %s: what the server sent (%zu bytes) has another digest", text,
			response->data.len);
	char *copy = allocate(fetching, response->data.len);
	memcpy(copy, response->data.data, response->data.len);
	fetching->data[index] = CROFT_SLICE(copy, response->data.len);
	return true;
}

/* Answers may come in any order, and a digest that was asked for twice may be answered once. */
static bool take_all(struct fetching *fetching, size_t start, size_t end,
	const Reapi__BatchReadBlobsResponse *response, struct croft_error *err)
{
	struct croft_digest_map *answers = croft_digest_map_create();
	bool ok = true;
	for (size_t i = 0; ok && i < response->n_responses; i++) {
		struct croft_digest digest;
		ok = croft_digest_from_message(
			response->responses[i]->digest, "BatchReadBlobs' answer", &digest, err);
		if (ok)
			*croft_digest_map_at(answers, &digest) = response->responses[i];
	}
	for (size_t i = start; ok && i < end; i++) {
		size_t index = fetching->order[i];
		const Reapi__BatchReadBlobsResponse__Response *one =
			croft_digest_map_get(answers, &fetching->digests[index]);
		ok = one ? take_one(fetching, index, one, err)
				 : croft_error_set(err, CROFT_INTERNAL, "BatchReadBlobs left a blob unanswered");
	}
	croft_digest_map_destroy(answers);
	return ok;
}

static bool fetch_job(void *user, size_t job, struct croft_error *err)
{
	struct fetching *fetching = user;
	size_t start = fetching->starts[job], end = fetching->starts[job + 1];
	size_t first = fetching->order[start];
	if (fetching->digests[first].size_bytes > fetching->batch_bytes)
		return fetch_large(fetching, first, err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__BatchReadBlobsRequest request = REAPI__BATCH_READ_BLOBS_REQUEST__INIT;
	request.instance_name = fetching->remote->instance_name;
	request.n_digests = end - start;
	request.digests = croft_arena_array(arena, end - start, sizeof(void *));
	for (size_t i = start; i < end; i++)
		request.digests[i - start] =
			croft_digest_to_message(&fetching->digests[fetching->order[i]], arena);
	const Reapi__BatchReadBlobsResponse *response =
		croft_remote_call(fetching->remote, REMOTE_CAS "BatchReadBlobs", &request.base,
			&reapi__batch_read_blobs_response__descriptor, arena, err);
	if (!response)
		return croft_error_wrap(err, "reading %zu blobs", end - start);
	return take_all(fetching, start, end, response, err);
}

/* Large ones first, since they take longest; then the small in batches. Returns the jobs. */
static size_t plan(const struct fetching *fetching, size_t count, size_t *order, size_t *starts)
{
	size_t jobs = 0, placed = 0;
	uint64_t filled = 0;
	for (size_t i = 0; i < count; i++)
		if (fetching->digests[i].size_bytes > fetching->batch_bytes) {
			starts[jobs++] = placed;
			order[placed++] = i;
		}
	bool open = false;
	for (size_t i = 0; i < count; i++) {
		uint64_t size = fetching->digests[i].size_bytes;
		if (size == 0 || size > fetching->batch_bytes)
			continue;
		if (!open || filled + size + REMOTE_ENTRY_BYTES > fetching->batch_bytes) {
			starts[jobs++] = placed;
			filled = 0;
			open = true;
		}
		filled += size + REMOTE_ENTRY_BYTES;
		order[placed++] = i;
	}
	starts[jobs] = placed;
	return jobs;
}

bool croft_remote_read_many(struct croft_remote *remote, const struct croft_digest *digests,
	size_t count, struct croft_arena *arena, struct croft_slice *data, struct croft_error *err)
{
	struct fetching fetching = {
		.remote = remote, .digests = digests, .data = data, .arena = arena};
	for (size_t i = 0; i < count; i++)
		data[i] = CROFT_SLICE(croft_digest_is_empty(&digests[i]) ? "" : NULL, 0);
	if (!remote_batch_bytes(remote, &fetching.batch_bytes, err))
		return false;
	CROFT_CLEANUP_FREE size_t *order = croft_array(count + 1, sizeof(*order));
	CROFT_CLEANUP_FREE size_t *starts = croft_array(count + 1, sizeof(*starts));
	size_t jobs = plan(&fetching, count, order, starts);
	fetching.order = order;
	fetching.starts = starts;
	pthread_mutex_init(&fetching.lock, NULL);
	bool ok = remote_parallel(jobs, fetch_job, &fetching, err);
	pthread_mutex_destroy(&fetching.lock);
	return ok;
}

bool croft_remote_read(struct croft_remote *remote, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err)
{
	return croft_remote_read_many(remote, digest, 1, arena, data, err) &&
		(data->data || remote_not_found(digest, err));
}

/* To a descriptor ------------------------------------------------------------------------------ */

static bool put_fd(void *user, const void *data, size_t size, struct croft_error *err)
{
	return croft_write_all(*(int *)user, data, size, "a blob", err);
}

bool croft_remote_read_to_fd(struct croft_remote *remote, const struct croft_digest *digest, int fd,
	struct croft_error *err)
{
	if (croft_digest_is_empty(digest))
		return true;
	return remote_stream_read(remote, digest, put_fd, &fd, err);
}
