/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inputs of jobs: their heaviest roots and the share of each that is expected to be read. Jobs over
 * the same roots share them.
 */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>
#include <xxhash.h>

struct weighed {
	uint32_t root;
	uint8_t level;
	double bytes;
};

static int heavier_first(const void *a, const void *b)
{
	const struct weighed *x = a, *y = b;
	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return (x->root > y->root) - (x->root < y->root);
}

static struct weighed *weigh(struct croft_placement *placement,
	const struct croft_placement_job_info *info, uint64_t kind_key, uint64_t family_key)
{
	struct weighed *weighed = croft_array(info->input_count + 1, sizeof(*weighed));
	for (size_t i = 0; i < info->input_count; i++) {
		const struct croft_placement_input *input = &info->inputs[i];
		uint32_t root = presence_root(placement->presence, &input->root, input->bytes);
		presence_ref(placement->presence, root);
		double share = learn_share(placement->learn, kind_key, family_key, input->label);
		uint8_t level = level_of_share(share);
		weighed[i] = (struct weighed){root, level, (double)input->bytes * share};
	}
	qsort(weighed, info->input_count, sizeof(*weighed), heavier_first);
	return weighed;
}

static uint64_t hash_of(const struct weighed *weighed, size_t count)
{
	uint64_t hash = count;
	for (size_t i = 0; i < count; i++) {
		uint64_t pair[] = {hash, (uint64_t)weighed[i].root << 8 | weighed[i].level};
		hash = XXH3_64bits(pair, sizeof(pair));
	}
	return hash;
}

static struct inputs *find(struct croft_placement *placement, const struct weighed *weighed,
	size_t count, uint64_t hash)
{
	struct inputs *inputs;
	LIST_FOREACH (inputs, &placement->inputs[hash % INPUT_BUCKETS], link) {
		if (inputs->hash != hash || inputs->count != count)
			continue;
		size_t i = 0;
		while (i < count && inputs->roots[i] == weighed[i].root &&
			inputs->levels[i] == weighed[i].level)
			i++;
		if (i == count)
			return inputs;
	}
	return NULL;
}

struct inputs *inputs_take(struct croft_placement *placement,
	const struct croft_placement_job_info *info, uint64_t kind_key, uint64_t family_key)
{
	struct weighed *weighed = weigh(placement, info, kind_key, family_key);
	size_t count = info->input_count, most = placement->config.max_inputs;
	/* The same root twice is one. */
	size_t kept = 0;
	for (size_t i = 0; i < count; i++)
		if (kept < most && (kept == 0 || weighed[kept - 1].root != weighed[i].root))
			weighed[kept++] = weighed[i];
		else
			presence_unref(placement->presence, weighed[i].root);
	uint64_t hash = hash_of(weighed, kept);
	struct inputs *inputs = find(placement, weighed, kept, hash);
	if (inputs) {
		inputs->references++;
		for (size_t i = 0; i < kept; i++)
			presence_unref(placement->presence, weighed[i].root);
		free(weighed);
		return inputs;
	}
	inputs = croft_alloc(sizeof(*inputs) + kept * (sizeof(uint32_t) + 1));
	*inputs = (struct inputs){.hash = hash, .references = 1, .count = (uint32_t)kept};
	inputs->levels = (uint8_t *)&inputs->roots[kept];
	for (size_t i = 0; i < kept; i++) {
		inputs->roots[i] = weighed[i].root;
		inputs->levels[i] = weighed[i].level;
		inputs->bytes += weighed[i].bytes;
	}
	LIST_INSERT_HEAD(&placement->inputs[hash % INPUT_BUCKETS], inputs, link);
	free(weighed);
	return inputs;
}

void inputs_release(struct croft_placement *placement, struct inputs *inputs)
{
	if (--inputs->references > 0)
		return;
	for (uint32_t i = 0; i < inputs->count; i++)
		presence_unref(placement->presence, inputs->roots[i]);
	LIST_REMOVE(inputs, link);
	free(inputs);
}

/* Arriving bytes ----------------------------------------------------------------------------------- */

/* What the job will fetch counts as there, so that a herd of like jobs follows the first. */
void arrivals_begin(struct croft_placement *placement, struct croft_placement_job *job)
{
	const struct inputs *inputs = job->inputs;
	job->arrivals = croft_array(inputs->count + 1, sizeof(struct arrival));
	job->arrival_count = 0;
	for (uint32_t i = 0; i < inputs->count; i++) {
		uint8_t before = presence_get(placement->presence, inputs->roots[i], job->agent);
		if ((before & LEVEL_MASK) >= inputs->levels[i])
			continue;
		/* Another job's unconfirmed arrival is not ours to go back to. */
		uint8_t known = before & LEVEL_ARRIVING ? 0 : before;
		job->arrivals[job->arrival_count++] = (struct arrival){inputs->roots[i], known};
		presence_set(placement->presence, inputs->roots[i], job->agent,
			(uint8_t)(inputs->levels[i] | LEVEL_ARRIVING));
	}
}

/* What the agent did not confirm meanwhile did not come. */
void arrivals_end(struct croft_placement *placement, struct croft_placement_job *job)
{
	for (uint32_t i = 0; i < job->arrival_count; i++) {
		const struct arrival *arrival = &job->arrivals[i];
		if (presence_get(placement->presence, arrival->root, job->agent) & LEVEL_ARRIVING)
			presence_set(placement->presence, arrival->root, job->agent, arrival->before);
	}
	free(job->arrivals);
	job->arrivals = NULL;
	job->arrival_count = 0;
}
