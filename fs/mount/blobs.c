/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/blobs.h"

#include "proto/base/cleanup.h"

enum {
	BUCKETS = 256,
	OPEN_LIMIT = 128,
	/* What idle open blobs may keep from being evicted: so much, and such a part of the store. */
	OPEN_BYTES = 512 << 20,
	OPEN_PART = 16,
};

struct open_blob {
	struct croft_digest digest;
	struct croft_store_blob *blob;
	unsigned users;
	bool listed; /* found by further readers */
	struct open_blob *next_in_bucket, *newer, *older;
};

struct blobs {
	struct croft_store *store;
	uint64_t bytes_limit;
	pthread_mutex_t lock; /* guards: all below, and the blobs' fields but `blob` */
	struct open_blob *buckets[BUCKETS];
	struct open_blob *newest, *oldest;
	size_t count;
	uint64_t bytes;
};

struct blobs *blobs_create(struct croft_store *store)
{
	struct blobs *blobs = croft_zalloc(sizeof(*blobs));
	struct croft_store_stat stat;
	croft_store_stat(store, &stat);
	blobs->store = store;
	blobs->bytes_limit = stat.budget_bytes / OPEN_PART < OPEN_BYTES ? stat.budget_bytes / OPEN_PART : OPEN_BYTES;
	pthread_mutex_init(&blobs->lock, NULL);
	return blobs;
}

static void close_blob(struct open_blob *blob)
{
	croft_store_blob_close(blob->blob);
	free(blob);
}

void blobs_destroy(struct blobs *blobs)
{
	if (!blobs)
		return;
	for (struct open_blob *blob = blobs->newest, *older; blob; blob = older) {
		older = blob->older;
		close_blob(blob);
	}
	pthread_mutex_destroy(&blobs->lock);
	free(blobs);
}

static struct open_blob **bucket_of(struct blobs *blobs, const struct croft_digest *digest)
{
	return &blobs->buckets[digest->hash[0] % BUCKETS];
}

static struct open_blob *find(struct blobs *blobs, const struct croft_digest *digest)
{
	struct open_blob *blob = *bucket_of(blobs, digest);
	while (blob && !croft_digest_equal(&blob->digest, digest))
		blob = blob->next_in_bucket;
	return blob;
}

static void unlink_age(struct blobs *blobs, struct open_blob *blob)
{
	*(blob->newer ? &blob->newer->older : &blobs->newest) = blob->older;
	*(blob->older ? &blob->older->newer : &blobs->oldest) = blob->newer;
}

static void link_newest(struct blobs *blobs, struct open_blob *blob)
{
	blob->newer = NULL;
	blob->older = blobs->newest;
	*(blobs->newest ? &blobs->newest->newer : &blobs->oldest) = blob;
	blobs->newest = blob;
}

static void unlist(struct blobs *blobs, struct open_blob *blob)
{
	struct open_blob **link = bucket_of(blobs, &blob->digest);
	while (*link != blob)
		link = &(*link)->next_in_bucket;
	*link = blob->next_in_bucket;
	unlink_age(blobs, blob);
	blobs->count--;
	blobs->bytes -= blob->digest.size_bytes;
	blob->listed = false;
}

static struct open_blob *find_and_use(struct blobs *blobs, const struct croft_digest *digest)
{
	struct open_blob *blob = find(blobs, digest);
	if (blob) {
		blob->users++;
		unlink_age(blobs, blob);
		link_newest(blobs, blob);
	}
	return blob;
}

/* Takes idle ones out until the limits hold; returns them as a list by `older`, for closing them
 * without the lock. */
static struct open_blob *take_surplus(struct blobs *blobs)
{
	struct open_blob *surplus = NULL;
	struct open_blob *blob = blobs->oldest;
	while (blob && (blobs->count > OPEN_LIMIT || blobs->bytes > blobs->bytes_limit)) {
		struct open_blob *newer = blob->newer;
		if (blob->users == 0) {
			unlist(blobs, blob);
			blob->older = surplus;
			surplus = blob;
		}
		blob = newer;
	}
	return surplus;
}

struct open_blob *blobs_open(struct blobs *blobs, const struct croft_digest *digest,
	struct croft_error *err)
{
	pthread_mutex_lock(&blobs->lock);
	struct open_blob *blob = find_and_use(blobs, digest);
	pthread_mutex_unlock(&blobs->lock);
	if (blob)
		return blob;

	struct croft_store_blob *opened = croft_store_open_blob(blobs->store, digest, err);
	if (!opened)
		return NULL;
	pthread_mutex_lock(&blobs->lock);
	blob = find_and_use(blobs, digest);
	if (blob) {
		pthread_mutex_unlock(&blobs->lock);
		croft_store_blob_close(opened);
		return blob;
	}
	blob = croft_zalloc(sizeof(*blob));
	blob->digest = *digest;
	blob->blob = opened;
	blob->users = 1;
	blob->listed = true;
	blob->next_in_bucket = *bucket_of(blobs, digest);
	*bucket_of(blobs, digest) = blob;
	link_newest(blobs, blob);
	blobs->count++;
	blobs->bytes += digest->size_bytes;
	struct open_blob *surplus = take_surplus(blobs);
	pthread_mutex_unlock(&blobs->lock);
	for (struct open_blob *older; surplus; surplus = older) {
		older = surplus->older;
		close_blob(surplus);
	}
	return blob;
}

struct croft_store_blob *blobs_blob(struct open_blob *blob)
{
	return blob->blob;
}

void blobs_release(struct blobs *blobs, struct open_blob *blob, bool bad)
{
	pthread_mutex_lock(&blobs->lock);
	if (bad && blob->listed)
		unlist(blobs, blob);
	bool last = --blob->users == 0 && !blob->listed;
	pthread_mutex_unlock(&blobs->lock);
	if (last)
		close_blob(blob);
}
