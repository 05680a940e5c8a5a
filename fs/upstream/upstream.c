/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting, stopping, and how far the upstream is trusted to answer. */
#include "fs/upstream/internal.h"

#include "proto/base/io.h"
#include "proto/base/log.h"

enum { TIMEOUT_MS = 10000, REST_MS = 250, REST_DOUBLINGS = 7 };

/* Trust ---------------------------------------------------------------------------------------- */

bool upstream_is_up(struct croft_upstream *upstream)
{
	CROFT_LOCKED(&upstream->lock);
	if (upstream->failures == 0)
		return true;
	uint64_t now = croft_now_ns();
	if (now < upstream->resting_until_ns)
		return false;
	/* This one tries; the others go without until it is known how it fared. */
	upstream->resting_until_ns = now + 2 * (uint64_t)upstream->timeout_ms * 1000000;
	return true;
}

void upstream_worked(struct croft_upstream *upstream)
{
	pthread_mutex_lock(&upstream->lock);
	bool is_back = upstream->failures > 0;
	upstream->failures = 0;
	pthread_mutex_unlock(&upstream->lock);
	if (is_back)
		croft_log(CROFT_LOG_INFO, "upstream %s answers again", upstream->url);
}

void upstream_failed(struct croft_upstream *upstream, const struct croft_error *err)
{
	upstream_count(upstream, failures, 1);
	pthread_mutex_lock(&upstream->lock);
	unsigned before = upstream->failures++;
	unsigned doublings = before < REST_DOUBLINGS ? before : REST_DOUBLINGS;
	upstream->resting_until_ns = croft_now_ns() + ((uint64_t)REST_MS << doublings) * 1000000;
	pthread_mutex_unlock(&upstream->lock);
	if (before == 0)
		croft_log(CROFT_LOG_WARNING, "upstream %s fails, and is done without for now: %s",
			upstream->url, err->message);
}

void upstream_lied(struct croft_upstream *upstream, const struct croft_error *err)
{
	uint64_t before = upstream_count(upstream, wrong, 1);
	/* The first, and then ever more seldom: there may be many. */
	if ((before & (before + 1)) != 0)
		return;
	croft_log(CROFT_LOG_WARNING, "upstream %s sent something wrong: %s", upstream->url, err->message);
}

/* Storing -------------------------------------------------------------------------------------- */

static void stored(struct croft_upstream *upstream, const struct croft_digest *digest,
	const struct croft_error *err)
{
	if (err->code == CROFT_OK) {
		upstream_count(upstream, brought_blobs, 1);
		upstream_count(upstream, brought_bytes, digest->size_bytes);
	} else if (err->code == CROFT_INVALID_ARGUMENT) {
		upstream_lied(upstream, err);
	} else {
		croft_log(CROFT_LOG_WARNING, "storing a blob of upstream %s: %s", upstream->url,
			err->message);
	}
}

void upstream_store(struct croft_upstream *upstream, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count)
{
	CROFT_CLEANUP_FREE struct croft_error *errors = croft_array(count + 1, sizeof(*errors));
	if (count == 0)
		return;
	croft_store_put_many(upstream->store, digests, data, count, errors);
	for (size_t i = 0; i < count; i++)
		stored(upstream, &digests[i], &errors[i]);
}

struct croft_store_writer *upstream_write(struct croft_upstream *upstream,
	const struct croft_digest *digest)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_writer *writer = croft_store_write(upstream->store, digest, &err);
	if (!writer)
		stored(upstream, digest, &err);
	return writer;
}

void upstream_written(struct croft_upstream *upstream, struct croft_store_writer *writer,
	const struct croft_digest *digest)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_store_writer_commit(writer, &err);
	stored(upstream, digest, &err);
}

/* Threads -------------------------------------------------------------------------------------- */

struct parallel {
	bool (*job)(void *user, size_t index, struct croft_error *err);
	void *user;
	pthread_mutex_t lock; /* guards: next, failed, err */
	size_t next, count;
	bool failed;
	struct croft_error err;
};

static void *work(void *user)
{
	struct parallel *parallel = user;
	for (;;) {
		pthread_mutex_lock(&parallel->lock);
		size_t index = parallel->failed ? parallel->count : parallel->next;
		parallel->next = index + (index < parallel->count);
		pthread_mutex_unlock(&parallel->lock);
		struct croft_error err = CROFT_ERROR_INIT;
		if (index == parallel->count)
			return NULL;
		if (parallel->job(parallel->user, index, &err))
			continue;
		CROFT_LOCKED(&parallel->lock);
		if (!parallel->failed)
			parallel->err = err;
		parallel->failed = true;
	}
}

bool upstream_parallel(size_t count, bool (*job)(void *user, size_t index, struct croft_error *err),
	void *user, struct croft_error *err)
{
	struct parallel parallel = {.job = job, .user = user, .count = count};
	pthread_t threads[UPSTREAM_THREADS];
	size_t started = 0;
	pthread_mutex_init(&parallel.lock, NULL);
	/* This thread is one of them; should no other start, it does all the work. */
	while (started < UPSTREAM_THREADS - 1 && started + 1 < count &&
		pthread_create(&threads[started], NULL, work, &parallel) == 0)
		started++;
	work(&parallel);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&parallel.lock);
	if (parallel.failed)
		*err = parallel.err;
	return !parallel.failed;
}

struct grouping {
	const struct croft_digest *digests;
	const size_t *starts;
	bool (*group)(void *link, const struct croft_digest *digests, size_t count,
		struct croft_error *err);
	void *link;
};

static bool run_group(void *user, size_t index, struct croft_error *err)
{
	const struct grouping *grouping = user;
	size_t start = grouping->starts[index];
	return grouping->group(
		grouping->link, grouping->digests + start, grouping->starts[index + 1] - start, err);
}

bool upstream_in_groups(const struct croft_digest *digests, size_t count,
	bool (*group)(void *link, const struct croft_digest *digests, size_t count,
		struct croft_error *err),
	void *link, struct croft_error *err)
{
	CROFT_CLEANUP_FREE struct croft_digest *ordered = croft_array(count + 1, sizeof(*ordered));
	CROFT_CLEANUP_FREE size_t *starts = croft_array(count + 1, sizeof(*starts));
	size_t placed = 0, groups = 0, filled = 0;
	uint64_t bytes = 0;
	for (size_t i = 0; i < count; i++)
		if (digests[i].size_bytes > UPSTREAM_SMALL) {
			starts[groups++] = placed;
			ordered[placed++] = digests[i];
		}
	for (size_t i = 0; i < count; i++) {
		if (digests[i].size_bytes > UPSTREAM_SMALL || croft_digest_is_empty(&digests[i]))
			continue;
		if (filled == 0 || filled == UPSTREAM_GROUP ||
			bytes + digests[i].size_bytes > UPSTREAM_GROUP_BYTES) {
			starts[groups++] = placed;
			filled = 0;
			bytes = 0;
		}
		filled++;
		bytes += digests[i].size_bytes;
		ordered[placed++] = digests[i];
	}
	starts[groups] = placed;
	struct grouping grouping = {ordered, starts, group, link};
	return upstream_parallel(groups, run_group, &grouping, err);
}

/* Starting, stopping --------------------------------------------------------------------------- */

static const struct upstream_kind *kind_of(const char *url)
{
	if (strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0 || strncmp(url, "s3://", 5) == 0)
		return &upstream_http;
	if (strncmp(url, "grpc://", 7) == 0 || strncmp(url, "grpcs://", 8) == 0 ||
		strncmp(url, "unix:", 5) == 0)
		return &upstream_grpc;
	return NULL;
}

struct croft_upstream *croft_upstream_start(const struct croft_upstream_config *config,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *url, *account_fields;
	if (!upstream_account(config->url, arena, &url, &account_fields, err))
		return NULL;
	const struct upstream_kind *kind = kind_of(url);
	if (!kind) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"'%s' is no upstream: grpc://, grpcs://, unix:, http://, https:// and s3:// are known", url);
		return NULL;
	}
	struct croft_upstream *upstream = croft_zalloc(sizeof(*upstream));
	upstream->store = config->store;
	upstream->url = croft_strdup(url);
	upstream->account_fields = account_fields ? croft_strdup(account_fields) : NULL;
	upstream->authority_file = config->authority_file ? croft_strdup(config->authority_file) : NULL;
	upstream->timeout_ms = config->timeout_ms ? config->timeout_ms : TIMEOUT_MS;
	upstream->kind = kind;
	upstream->coming = croft_digest_map_create();
	pthread_mutex_init(&upstream->lock, NULL);
	pthread_cond_init(&upstream->arrived, NULL);
	upstream->link = kind->create(upstream, url, err);
	if (upstream->link && (upstream->sender = upstream_sender_start(upstream, err)))
		return upstream;
	croft_upstream_stop(upstream);
	return NULL;
}

void croft_upstream_stop(struct croft_upstream *upstream)
{
	if (!upstream)
		return;
	upstream_sender_stop(upstream->sender);
	if (upstream->link)
		upstream->kind->destroy(upstream->link);
	croft_digest_map_destroy(upstream->coming);
	pthread_mutex_destroy(&upstream->lock);
	pthread_cond_destroy(&upstream->arrived);
	free(upstream->url);
	free(upstream->authority_file);
	free(upstream->account_fields);
	free(upstream);
}

void croft_upstream_stat(struct croft_upstream *upstream, struct croft_upstream_stat *stat)
{
	*stat = (struct croft_upstream_stat){0};
	if (!upstream)
		return;
	const uint64_t *from = (const uint64_t *)&upstream->stat;
	uint64_t *to = (uint64_t *)stat;
	for (size_t i = 0; i < sizeof(*stat) / sizeof(uint64_t); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
