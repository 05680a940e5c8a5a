/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/uploads.h"

#include "fs/digest_map.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <inttypes.h>

/* What waits for its client to come back: at most so many (a large blob holds up to 8 MiB), and so long after the
 * last byte. */
enum { MAX_IDLE = 256 };
#define IDLE_NS (UINT64_C(15) * 60 * 1000000000)

struct partial {
	struct partial *next; /* of the same digest */
	struct partial *idle_next, *idle_previous;
	char *uuid;
	size_t uuid_size;
	struct croft_digest digest;
	unsigned users; /* handles; 0: it is in the idle list */
	bool listed;    /* can be found */
	uint64_t idle_since_ns;

	pthread_mutex_t lock;               /* guards: what follows; taken after the table's */
	struct croft_store_writer *writer; /* NULL: nothing taken yet, or gone */
	const struct upload *owner;
};

struct uploads {
	struct croft_store *store;
	pthread_mutex_t lock; /* guards: what follows, and a partial's fields before its lock */
	struct croft_digest_map *partials; /* digest: list of struct partial */
	struct partial *idle_first, *idle_last;
	size_t idle_count;
};

struct upload {
	struct uploads *uploads;
	struct partial *partial;
};

struct uploads *uploads_create(struct croft_store *store)
{
	struct uploads *uploads = croft_zalloc(sizeof(*uploads));
	uploads->store = store;
	uploads->partials = croft_digest_map_create();
	pthread_mutex_init(&uploads->lock, NULL);
	return uploads;
}

static void partial_destroy(struct partial *partial)
{
	croft_store_writer_abort(partial->writer);
	pthread_mutex_destroy(&partial->lock);
	free(partial->uuid);
	free(partial);
}

/* The table (its lock is held) ----------------------------------------------------------------- */

static struct partial *find(struct uploads *uploads, struct croft_slice uuid,
	const struct croft_digest *digest)
{
	struct partial *at = croft_digest_map_get(uploads->partials, digest);
	while (at && !croft_slice_equal(CROFT_SLICE(at->uuid, at->uuid_size), uuid))
		at = at->next;
	return at;
}

static struct partial *insert(struct uploads *uploads, struct croft_slice uuid,
	const struct croft_digest *digest)
{
	struct partial *partial = croft_zalloc(sizeof(*partial));
	partial->uuid = croft_alloc(uuid.size);
	memcpy(partial->uuid, uuid.data, uuid.size);
	partial->uuid_size = uuid.size;
	partial->digest = *digest;
	partial->listed = true;
	pthread_mutex_init(&partial->lock, NULL);
	struct partial **place = (struct partial **)croft_digest_map_at(uploads->partials, digest);
	partial->next = *place;
	*place = partial;
	return partial;
}

static void unlist(struct uploads *uploads, struct partial *partial)
{
	if (!partial->listed)
		return;
	partial->listed = false;
	struct partial **place =
		(struct partial **)croft_digest_map_at(uploads->partials, &partial->digest);
	struct partial **at = place;
	while (*at != partial)
		at = &(*at)->next;
	if (at == place && !partial->next)
		croft_digest_map_remove(uploads->partials, &partial->digest);
	else
		*at = partial->next;
}

static void idle_add(struct uploads *uploads, struct partial *partial)
{
	partial->idle_since_ns = croft_now_ns();
	partial->idle_next = NULL;
	partial->idle_previous = uploads->idle_last;
	*(uploads->idle_last ? &uploads->idle_last->idle_next : &uploads->idle_first) = partial;
	uploads->idle_last = partial;
	uploads->idle_count++;
}

static void idle_remove(struct uploads *uploads, struct partial *partial)
{
	struct partial *next = partial->idle_next, *previous = partial->idle_previous;
	*(previous ? &previous->idle_next : &uploads->idle_first) = next;
	*(next ? &next->idle_previous : &uploads->idle_last) = previous;
	uploads->idle_count--;
}

/* Takes the longest idle out if it has waited long enough; the caller destroys it without the lock,
 * since that may remove a file. */
static struct partial *take_stale(struct uploads *uploads)
{
	CROFT_LOCKED(&uploads->lock);
	struct partial *oldest = uploads->idle_first;
	if (!oldest || (uploads->idle_count <= MAX_IDLE &&
					   croft_now_ns() - oldest->idle_since_ns < IDLE_NS))
		return NULL;
	idle_remove(uploads, oldest);
	unlist(uploads, oldest);
	return oldest;
}

static void drop_stale(struct uploads *uploads)
{
	for (struct partial *stale; (stale = take_stale(uploads));)
		partial_destroy(stale);
}

void uploads_destroy(struct uploads *uploads)
{
	if (!uploads)
		return;
	while (uploads->idle_first) {
		struct partial *partial = uploads->idle_first;
		idle_remove(uploads, partial);
		unlist(uploads, partial);
		partial_destroy(partial);
	}
	croft_digest_map_destroy(uploads->partials);
	pthread_mutex_destroy(&uploads->lock);
	free(uploads);
}

/* One upload ---------------------------------------------------------------------------------- */

static struct partial *enter(struct uploads *uploads, struct croft_slice uuid,
	const struct croft_digest *digest)
{
	CROFT_LOCKED(&uploads->lock);
	struct partial *partial = find(uploads, uuid, digest);
	if (partial && partial->users == 0)
		idle_remove(uploads, partial);
	if (!partial)
		partial = insert(uploads, uuid, digest);
	partial->users++;
	return partial;
}

struct upload *uploads_open(struct uploads *uploads, struct croft_slice uuid,
	const struct croft_digest *digest, uint64_t *committed, struct croft_error *err)
{
	drop_stale(uploads);
	struct upload *upload = croft_zalloc(sizeof(*upload));
	upload->uploads = uploads;
	upload->partial = enter(uploads, uuid, digest);
	struct partial *partial = upload->partial;
	CROFT_LOCKED(&partial->lock);
	partial->owner = upload;
	*committed = partial->writer ? croft_store_writer_size(partial->writer) : 0;
	return upload;
}

/* The partial's lock is held. */
static bool owned(const struct upload *upload, struct croft_error *err)
{
	return upload->partial->owner == upload ||
		croft_error_set(err, CROFT_ABORTED,
			"another stream has taken this upload over (the same UUID and digest)");
}

/* The partial's lock is held. Nobody finds it any more, but handles stay valid. */
static void forget(struct upload *upload)
{
	croft_store_writer_abort(upload->partial->writer);
	upload->partial->writer = NULL;
}

static bool append(struct upload *upload, const void *data, size_t size, struct croft_error *err)
{
	struct partial *partial = upload->partial;
	if (!partial->writer) {
		partial->writer = croft_store_write(upload->uploads->store, &partial->digest, err);
		if (!partial->writer)
			return false;
	}
	uint64_t before = croft_store_writer_size(partial->writer);
	if (size > partial->digest.size_bytes - before)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"more data than the %" PRIu64 " bytes that the digest says",
			partial->digest.size_bytes);
	return croft_store_writer_append(partial->writer, data, size, err);
}

bool upload_append(struct upload *upload, const void *data, size_t size, struct croft_error *err)
{
	CROFT_LOCKED(&upload->partial->lock);
	if (!owned(upload, err))
		return false;
	if (size == 0 || append(upload, data, size, err))
		return true;
	forget(upload);
	return false;
}

bool upload_commit(struct upload *upload, struct croft_error *err)
{
	struct partial *partial = upload->partial;
	CROFT_LOCKED(&partial->lock);
	if (!owned(upload, err))
		return false;
	struct croft_store_writer *writer = partial->writer;
	uint64_t size = writer ? croft_store_writer_size(writer) : 0;
	if (size != partial->digest.size_bytes) {
		forget(upload);
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the write was finished after %" PRIu64 " bytes, the digest says %" PRIu64, size,
			partial->digest.size_bytes);
	}
	partial->writer = NULL;
	return croft_store_writer_commit(writer, err);
}

void upload_drop(struct upload *upload)
{
	CROFT_LOCKED(&upload->partial->lock);
	if (upload->partial->owner == upload)
		forget(upload);
}

/* Its client may be long in coming back. Not under the table's lock, since it waits for the disk. */
static void rest(struct upload *upload)
{
	CROFT_LOCKED(&upload->partial->lock);
	if (upload->partial->owner == upload && upload->partial->writer)
		croft_store_writer_rest(upload->partial->writer);
}

/* Whether the partial is to be destroyed. */
static bool leave(struct upload *upload)
{
	struct uploads *uploads = upload->uploads;
	struct partial *partial = upload->partial;
	CROFT_LOCKED(&uploads->lock);
	CROFT_LOCKED(&partial->lock);
	if (partial->owner == upload)
		partial->owner = NULL;
	if (--partial->users > 0)
		return false;
	if (partial->writer) {
		idle_add(uploads, partial);
		return false;
	}
	unlist(uploads, partial);
	return true;
}

void upload_close(struct upload *upload)
{
	if (!upload)
		return;
	rest(upload);
	if (leave(upload))
		partial_destroy(upload->partial);
	free(upload);
}

bool uploads_query(struct uploads *uploads, struct croft_slice uuid,
	const struct croft_digest *digest, uint64_t *committed)
{
	CROFT_LOCKED(&uploads->lock);
	struct partial *partial = find(uploads, uuid, digest);
	if (!partial)
		return false;
	CROFT_LOCKED(&partial->lock);
	*committed = partial->writer ? croft_store_writer_size(partial->writer) : 0;
	return true;
}
