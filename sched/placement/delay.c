/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The delay-scheduling baseline: a job waits up to `delay_seconds` for a free agent that has nine tenths
 * of what it reads; jobs behind it go first meanwhile.
 */
#include "sched/placement/internal.h"

static const double LOCAL_SHARE = 0.9;

struct croft_placement_job *delay_next(struct croft_placement *placement, struct class *class,
	double now, uint32_t *agent, struct croft_decision *decision, double *wake)
{
	struct croft_placement_job *job = class->heads[0];
	for (unsigned i = 0; job && i < placement->config.window; i++, job = job->next[0]) {
		uint32_t agents[COST_MOST];
		struct cost costs[COST_MOST];
		size_t best = 0, count = candidates(placement, job, agents, COST_MOST, false);
		if (count == 0)
			continue;
		cost_of_agents(placement, job, agents, count, costs);
		for (size_t c = 1; c < count; c++)
			if (costs[c].there > costs[best].there)
				best = c;
		double until = job->queued_at + placement->config.delay_seconds;
		bool local = costs[best].there >= LOCAL_SHARE * job->inputs->bytes;
		if (local || now >= until) {
			decision->reason = local ? "a free agent has nearly all that it reads"
									 : "it waited long enough for an agent that has its inputs";
			*agent = local ? agents[best] : random_agent(placement, job);
			return job;
		}
		if (until < *wake)
			*wake = until;
	}
	return NULL;
}
