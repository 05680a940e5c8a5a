/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Classes, tenants, and the order of queued jobs: priority, then fair turn.
 *
 * A job's turn is its start tag of start-time fair queueing: the virtual time at which its tenant's
 * earlier jobs would have had their share. A tenant that was idle starts at the present virtual time,
 * so that it neither saves up nor owes. The order is kept in a skip list per class.
 */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>
#include <xxhash.h>

/* Classes ------------------------------------------------------------------------------------------ */

/* Both sorted: every requirement is among the properties. */
static bool matches(const struct class *class, const struct pool *pool)
{
	size_t at = 0;
	for (size_t i = 0; i < class->requirement_count; i++) {
		int order = 1;
		if (is_counted(class->requirements[i])) {
			if (!pool_has_enough(pool, class->requirements[i]))
				return false;
			continue;
		}
		while (at < pool->property_count &&
			(order = strcmp(pool->properties[at], class->requirements[i])) < 0)
			at++;
		if (at == pool->property_count || order > 0)
			return false;
	}
	return true;
}

void class_match(struct croft_placement *placement, struct class *class)
{
	class_count(placement, class);
	size_t count = 0;
	struct pool *pool;
	LIST_FOREACH (pool, &placement->pools, link)
		count++;
	class->pools = croft_realloc(class->pools, count + 1, sizeof(struct pool *));
	class->pool_count = 0;
	LIST_FOREACH (pool, &placement->pools, link)
		if (matches(class, pool))
			class->pools[class->pool_count++] = pool;
}

bool class_matches_agent(const struct class *class, const struct agent *agent)
{
	for (size_t i = 0; i < class->pool_count; i++)
		if (class->pools[i] == agent->pool)
			return true;
	return false;
}

size_t class_free_slots(const struct class *class)
{
	size_t count = 0;
	for (size_t i = 0; i < class->pool_count; i++)
		count += class->pools[i]->free_slots;
	return count;
}

struct class *class_take(struct croft_placement *placement,
	const struct croft_placement_job_info *info)
{
	char **requirements = sorted_copy(info->requirements, info->requirement_count);
	char *key = joined(requirements, info->requirement_count);
	struct class *class;
	LIST_FOREACH (class, &placement->classes, link)
		if (strcmp(class->key, key) == 0)
			break;
	if (class) {
		free_texts(requirements, info->requirement_count);
		free(key);
	} else {
		class = croft_zalloc(sizeof(*class));
		class->key = key;
		class->requirements = requirements;
		class->requirement_count = info->requirement_count;
		TAILQ_INIT(&class->by_age);
		class_match(placement, class);
		LIST_INSERT_HEAD(&placement->classes, class, link);
	}
	class->jobs++;
	return class;
}

void class_release(struct croft_placement *placement, struct class *class)
{
	if (--class->jobs > 0)
		return;
	LIST_REMOVE(class, link);
	free_texts(class->requirements, class->requirement_count);
	free(class->key);
	free(class->pools);
	free(class);
}

/* Tenants ------------------------------------------------------------------------------------------ */

struct tenant *tenant_take(struct croft_placement *placement, struct croft_slice name)
{
	uint64_t key = XXH3_64bits(name.data ? name.data : "", name.size);
	struct tenant *tenant;
	LIST_FOREACH (tenant, &placement->tenants[key % TENANT_BUCKETS], link)
		if (tenant->key == key)
			break;
	if (!tenant) {
		tenant = croft_zalloc(sizeof(*tenant));
		tenant->key = key;
		tenant->finish = placement->virtual_time;
		LIST_INSERT_HEAD(&placement->tenants[key % TENANT_BUCKETS], tenant, link);
	}
	tenant->jobs++;
	return tenant;
}

size_t croft_placement_tenant_jobs(
	const struct croft_placement *placement, struct croft_slice name)
{
	uint64_t key = XXH3_64bits(name.data ? name.data : "", name.size);
	const struct tenant *tenant;
	LIST_FOREACH (tenant, &placement->tenants[key % TENANT_BUCKETS], link)
		if (tenant->key == key)
			return tenant->jobs;
	return 0;
}

void tenant_release(struct croft_placement *placement, struct tenant *tenant)
{
	tenant->jobs--;
	/* One that had more than its share is remembered until the others caught up. */
	struct tenant *at, *next;
	for (at = LIST_FIRST(&placement->tenants[tenant->key % TENANT_BUCKETS]); at; at = next) {
		next = LIST_NEXT(at, link);
		if (at->jobs == 0 && at->finish <= placement->virtual_time) {
			LIST_REMOVE(at, link);
			free(at);
		}
	}
}

/* Order --------------------------------------------------------------------------------------------- */

int queue_order(const struct croft_placement_job *a, const struct croft_placement_job *b)
{
	if (a->priority != b->priority)
		return a->priority < b->priority ? -1 : 1;
	if (a->tag != b->tag)
		return a->tag < b->tag ? -1 : 1;
	return (a->sequence > b->sequence) - (a->sequence < b->sequence);
}

/* The links that point to where the job stands, or would stand. */
static void find_links(struct class *class, const struct croft_placement_job *job,
	struct croft_placement_job **links[TOWER])
{
	struct croft_placement_job **tower = class->heads;
	for (int level = TOWER - 1; level >= 0; level--) {
		while (tower[level] && queue_order(tower[level], job) < 0)
			tower = tower[level]->next;
		links[level] = &tower[level];
	}
}

void queue_insert(struct croft_placement *placement, struct croft_placement_job *job)
{
	struct croft_placement_job **links[TOWER];
	find_links(job->class, job, links);
	for (int level = 0; level < job->height; level++) {
		job->next[level] = *links[level];
		*links[level] = job;
	}
	/* By age: at the end, or, coming back from an agent, near the front. */
	struct croft_placement_job *at = TAILQ_LAST(&job->class->by_age, job_list);
	if (!at || at->sequence < job->sequence) {
		TAILQ_INSERT_TAIL(&job->class->by_age, job, age_link);
	} else {
		TAILQ_FOREACH (at, &job->class->by_age, age_link)
			if (at->sequence > job->sequence)
				break;
		TAILQ_INSERT_BEFORE(at, job, age_link);
	}
	job->state = JOB_QUEUED;
	job->class->queued++;
	placement->queued++;
	placement->queued_seconds += (double)job->run_seconds;
}

void queue_remove(struct croft_placement *placement, struct croft_placement_job *job)
{
	struct croft_placement_job **links[TOWER];
	find_links(job->class, job, links);
	for (int level = 0; level < job->height; level++)
		*links[level] = job->next[level];
	TAILQ_REMOVE(&job->class->by_age, job, age_link);
	job->class->queued--;
	placement->queued--;
	placement->queued_seconds -= (double)job->run_seconds;
	if (placement->queued == 0)
		placement->queued_seconds = 0; /* no rounding is carried along */
}

static bool serves(const struct class *class, const struct pool *pool)
{
	for (size_t i = 0; i < class->pool_count; i++)
		if (class->pools[i] == pool)
			return true;
	return false;
}

size_t queue_window(struct croft_placement *placement, const struct pool *pool,
	struct croft_placement_job **window, size_t most)
{
	enum { CLASSES = 64 }; /* the heads of more are seen in later decisions */
	struct croft_placement_job *heads[CLASSES];
	size_t count = 0, taken = 0;
	struct class *class;
	LIST_FOREACH (class, &placement->classes, link)
		if (class->queued && count < CLASSES && serves(class, pool))
			heads[count++] = class->heads[0];
	while (taken < most && count > 0) {
		size_t first = 0;
		for (size_t i = 1; i < count; i++)
			if (queue_order(heads[i], heads[first]) < 0)
				first = i;
		if (taken > 0 && heads[first]->priority != window[0]->priority)
			break;
		window[taken++] = heads[first];
		heads[first] = heads[first]->next[0];
		if (!heads[first])
			heads[first] = heads[--count];
	}
	return taken;
}
