/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replays a trace against the real placement module on simulated agents: caches with a budget and least
 * recent use, links with a bandwidth, an origin with a cap.
 */
#ifndef CROFT_BENCH_LOCALITY_SIMULATE_H
#define CROFT_BENCH_LOCALITY_SIMULATE_H

#include "bench/locality/trace.h"
#include "sched/placement.h"

enum simulation_mode {
	SIMULATE_STREAM,    /* arrivals at random, so that `load` of all slots are busy */
	SIMULATE_SATURATED, /* all at once */
	SIMULATE_RECORDED,  /* as the trace says, after what they wait for */
};

struct simulation_config {
	enum simulation_mode mode;
	struct croft_placement_config placement;
	unsigned agents, slots;
	double cache_bytes;      /* per agent; 0: without end */
	double link_bandwidth;   /* bytes per second into an agent */
	double origin_bandwidth; /* of all transfers together; 0: not capped */
	double load;
	size_t jobs;             /* of the trace; 0: all */
	uint64_t seed;           /* of arrivals and order */
};

struct simulation_result {
	uint64_t jobs;
	double bytes_moved, bytes_read; /* what jobs read, there or not */
	double origin_peak;             /* bytes per second, over 10 s */
	double makespan, wait_mean, wait_p99, wait_max;
	double decisions_per_second;    /* of time spent in the placement module */
	double decision_p99_us;
	size_t presence_bytes;
	unsigned most_skips, skip_bound;
	double fairness;                /* Jain's index of tenants' mean waits; 1 for one tenant */
	double busy_share;              /* of slots, over the makespan */
};

void simulate(const struct trace *trace, const struct simulation_config *config,
	struct simulation_result *result);

#endif
