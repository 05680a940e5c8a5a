/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading through: blobs and results from the upstream into the store. */
#include "fs/upstream/internal.h"

#include "fs/action_result.h"
#include "fs/action_value.h"
#include "proto/base/log.h"
#include "proto/rpc/message.h"

/* Asking first what is there spares asking for many that are not. */
enum { FIND_FROM = 8 };
/* How deep a closure may reveal itself step by step: directories in directories. */
enum { CLOSURE_STEPS = 1000 };

/* Blobs ---------------------------------------------------------------------------------------- */

static bool fetch_those_there(struct croft_upstream *upstream, const struct croft_digest *digests,
	size_t count, struct croft_error *err)
{
	const struct upstream_kind *kind = upstream->kind;
	CROFT_CLEANUP_FREE struct croft_digest *wanted = croft_array(count, sizeof(*wanted));
	CROFT_CLEANUP_FREE bool *there = croft_array(count, sizeof(*there));
	size_t found = 0;
	for (size_t i = 0; i < count; i++)
		there[i] = true;
	if (kind->find && count >= FIND_FROM && !kind->find(upstream->link, digests, count, there, err))
		return false;
	for (size_t i = 0; i < count; i++)
		if (there[i])
			wanted[found++] = digests[i];
	return upstream_in_groups(wanted, found, kind->fetch, upstream->link, err);
}

static void fetch(struct croft_upstream *upstream, const struct croft_digest *digests, size_t count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (fetch_those_there(upstream, digests, count, &err))
		upstream_worked(upstream);
	else
		upstream_failed(upstream, &err);
}

/* Those that nobody else is fetching are ours, and moved to the front; returns how many. */
static size_t claim(struct croft_upstream *upstream, struct croft_digest *digests, size_t count)
{
	CROFT_LOCKED(&upstream->lock);
	size_t mine = 0;
	for (size_t i = 0; i < count; i++) {
		void **place = croft_digest_map_at(upstream->coming, &digests[i]);
		if (*place)
			continue;
		*place = upstream;
		struct croft_digest other = digests[mine];
		digests[mine++] = digests[i];
		digests[i] = other;
	}
	return mine;
}

static void release(struct croft_upstream *upstream, const struct croft_digest *digests, size_t count)
{
	CROFT_LOCKED(&upstream->lock);
	for (size_t i = 0; i < count; i++)
		croft_digest_map_remove(upstream->coming, &digests[i]);
	pthread_cond_broadcast(&upstream->arrived);
}

/* Whoever fetches them comes to an end by itself. */
static void wait_for(struct croft_upstream *upstream, const struct croft_digest *digests, size_t count)
{
	CROFT_LOCKED(&upstream->lock);
	for (size_t i = 0; i < count; i++)
		while (croft_digest_map_get(upstream->coming, &digests[i]))
			pthread_cond_wait(&upstream->arrived, &upstream->lock);
}

void croft_upstream_bring(struct croft_upstream *upstream, const struct croft_digest *digests,
	size_t count)
{
	if (!upstream || count == 0)
		return;
	CROFT_CLEANUP_FREE struct croft_digest *wanted = croft_array(count, sizeof(*wanted));
	memcpy(wanted, digests, count * sizeof(*wanted));
	size_t mine = claim(upstream, wanted, count);
	if (mine > 0 && upstream_is_up(upstream))
		fetch(upstream, wanted, mine);
	release(upstream, wanted, mine);
	wait_for(upstream, wanted + mine, count - mine);
}

void croft_upstream_bring_hash(struct croft_upstream *upstream,
	const uint8_t hash[CROFT_HASH_SIZE])
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!upstream || !upstream->kind->fetch_hash || !upstream_is_up(upstream))
		return;
	if (upstream->kind->fetch_hash(upstream->link, hash, &err))
		upstream_worked(upstream);
	else
		upstream_failed(upstream, &err);
}

/* With the store's answers ----------------------------------------------------------------------- */

bool croft_upstream_find_missing(struct croft_upstream *upstream, struct croft_store *store,
	const struct croft_digest *digests, size_t count, bool *missing, struct croft_error *err)
{
	if (!croft_store_find_missing(store, digests, count, missing, err))
		return false;
	CROFT_CLEANUP_FREE struct croft_digest *wanted = NULL;
	size_t lacking = 0;
	for (size_t i = 0; upstream && i < count; i++)
		if (missing[i]) {
			if (!wanted)
				wanted = croft_array(count, sizeof(*wanted));
			wanted[lacking++] = digests[i];
		}
	if (lacking == 0)
		return true;
	croft_upstream_bring(upstream, wanted, lacking);
	return croft_store_find_missing(store, digests, count, missing, err);
}

static bool is_among(const struct croft_digest *digests, size_t count, const struct croft_digest *one)
{
	for (size_t i = 0; i < count; i++)
		if (croft_digest_equal(&digests[i], one))
			return true;
	return false;
}

bool croft_upstream_lease_closure(struct croft_upstream *upstream, struct croft_store *store,
	const struct croft_ref *refs, size_t count, uint64_t lease_ms, struct croft_arena *arena,
	struct croft_digest **missing, size_t *missing_count, struct croft_error *err)
{
	struct croft_digest *before = NULL;
	size_t before_count = 0;
	/* What a directory names is known only when it is there, so it goes level by level. */
	for (int step = 0;; step++) {
		if (!croft_store_lease_closure(
				store, refs, count, lease_ms, arena, missing, missing_count, err))
			return false;
		if (*missing_count == 0 || !upstream || step == CLOSURE_STEPS ||
			(before_count > 0 && is_among(*missing, *missing_count, &before[0])))
			return true;
		before = *missing;
		before_count = *missing_count;
		croft_upstream_bring(upstream, before, before_count);
	}
}

/* Results -------------------------------------------------------------------------------------- */

static bool is_complete(struct croft_upstream *upstream, struct croft_slice value,
	struct croft_arena *arena)
{
	struct croft_ref *refs;
	struct croft_digest *missing;
	size_t count, missing_count;
	if (!croft_action_value_is_result(value))
		return true;
	const Reapi__ActionResult *result =
		croft_message_decode(&reapi__action_result__descriptor, value, arena, NULL, NULL);
	return result && croft_action_result_refs(result, arena, &refs, &count, NULL) &&
		croft_upstream_lease_closure(upstream, upstream->store, refs, count, 0, arena, &missing,
			&missing_count, NULL) &&
		missing_count == 0;
}

void croft_upstream_bring_result(struct croft_upstream *upstream, const char *instance_name,
	const struct croft_digest *action)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice value = {NULL, 0};
	struct croft_digest known = *action;
	if (!upstream)
		return;
	if (known.size_bytes == 0)
		croft_store_find_hash(upstream->store, action->hash, &known, NULL);
	if ((known.size_bytes == 0 && !upstream->kind->fetch_hash) || !upstream_is_up(upstream))
		return;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	if (!upstream->kind->get_result(upstream->link, instance_name, &known, arena, &value, &err)) {
		upstream_failed(upstream, &err);
		return;
	}
	upstream_worked(upstream);
	if (!value.data || !is_complete(upstream, value, arena))
		return;
	if (croft_action_value_put(upstream->store, instance_name, CROFT_EVERYTHING, action->hash, value, &err))
		upstream_count(upstream, brought_results, 1);
	else if (err.code != CROFT_FAILED_PRECONDITION) /* evicted again meanwhile */
		croft_log(CROFT_LOG_WARNING, "storing a result of upstream %s: %s", upstream->url,
			err.message);
}
