/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Placement decisions per second with a full presence map: AGENTS agents that hold ROOTS_HELD roots each, of
 * ALL_ROOTS. Jobs come one by one, each is placed, runs for a while and ends.
 *
 *	decide [AGENTS]
 *
 * Each kind of job reads INPUTS roots: some that many kinds share, the rest its own. An agent holds what
 * some kinds read.
 */
#include "proto/base/arena.h"
#include "sched/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
	ALL_ROOTS = 100000,
	COMMON_ROOTS = 400,
	KINDS = 2500,
	INPUTS = 96,
	COMMON_INPUTS = 56,
	ROOTS_HELD = 2300,
	DECISIONS = 200000,
	SLOTS = 4,
};

static uint64_t state = 1;

static unsigned below(unsigned limit)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)((state >> 33) % limit);
}

static struct croft_digest digests[ALL_ROOTS];
static uint64_t sizes[ALL_ROOTS];
static unsigned inputs[KINDS][INPUTS];

static void make_kinds(void)
{
	for (unsigned i = 0; i < ALL_ROOTS; i++) {
		digests[i] = croft_digest_of(&i, sizeof(i));
		sizes[i] = (1u << 20) << below(7);
	}
	for (unsigned kind = 0; kind < KINDS; kind++)
		for (unsigned i = 0; i < INPUTS; i++)
			inputs[kind][i] = i < COMMON_INPUTS ? (i * 7 + below(7)) % COMMON_ROOTS
												: COMMON_ROOTS + below(ALL_ROOTS - COMMON_ROOTS);
}

static void fill(struct croft_placement *placement, uint32_t agent)
{
	croft_placement_delta_begin(placement, agent, 1, 0, true);
	for (unsigned held = 0; held < ROOTS_HELD;) {
		unsigned kind = below(KINDS);
		for (unsigned i = 0; i < INPUTS && held < ROOTS_HELD; i++, held++)
			croft_placement_present(placement, agent, &digests[inputs[kind][i]],
				sizes[inputs[kind][i]], sizes[inputs[kind][i]]);
		for (unsigned i = 0; i < INPUTS && held < ROOTS_HELD; i++, held++) {
			unsigned root = below(ALL_ROOTS);
			croft_placement_present(placement, agent, &digests[root], sizes[root], sizes[root]);
		}
	}
}

static struct croft_placement_job *add(struct croft_placement *placement, unsigned kind, double now)
{
	struct croft_placement_input list[INPUTS];
	char name[16];
	for (unsigned i = 0; i < INPUTS; i++)
		list[i] = (struct croft_placement_input){
			digests[inputs[kind][i]], sizes[inputs[kind][i]], inputs[kind][i] + 1};
	snprintf(name, sizeof(name), "%u", kind);
	return croft_placement_job_add(placement,
		&(struct croft_placement_job_info){.kind = croft_slice_str(name),
			.family = croft_slice_str("family"), .inputs = list, .input_count = INPUTS},
		now);
}

/* This thread's own time: what a core is asked for, whatever else runs on the machine. */
static uint64_t core_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	float one = *(const float *)a, other = *(const float *)b;
	return (one > other) - (one < other);
}

static void say(struct croft_placement *placement, float *took_us, double decide_seconds,
	double all_seconds)
{
	struct croft_placement_stat stat;
	croft_placement_stat(placement, &stat);
	qsort(took_us, DECISIONS, sizeof(*took_us), by_value);
	printf("{\"agents\": %zu, \"roots\": %zu, \"postings\": %zu, \"map_bytes\": %zu, "
		   "\"decisions_per_second\": %.0f, \"with_arrival_and_end_per_second\": %.0f, "
		   "\"p50_us\": %.1f, \"p99_us\": %.1f}\n",
		stat.agents, stat.roots, stat.postings, stat.presence_bytes, DECISIONS / decide_seconds,
		DECISIONS / all_seconds, took_us[DECISIONS / 2], took_us[DECISIONS / 100 * 99]);
}

int main(int argc, char **argv)
{
	unsigned agents = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 10000;
	struct croft_placement *placement =
		croft_placement_create(&(struct croft_placement_config){.seed = 1});
	make_kinds();
	for (unsigned i = 0; i < agents; i++)
		fill(placement, croft_placement_agent_add(
			placement, &(struct croft_placement_agent){.slots = SLOTS}));
	/* So many run at a time that seven tenths of the slots are busy. */
	unsigned running = agents * SLOTS / 10 * 7, at = 0;
	struct croft_placement_job **jobs = croft_zalloc((running + 1) * sizeof(*jobs));
	float *took_us = croft_array(DECISIONS, sizeof(*took_us));
	uint64_t decide_ns = 0, begun_ns = 0;
	for (unsigned i = 0; i < running + DECISIONS; i++) {
		if (i == running)
			begun_ns = core_ns();
		if (jobs[at])
			croft_placement_job_end(placement, jobs[at], NULL, i);
		jobs[at] = add(placement, below(KINDS), i);
		struct croft_decision decision;
		uint64_t from_ns = core_ns();
		if (!croft_placement_next(placement, i, &decision, NULL))
			abort(); /* there are free slots */
		uint64_t took_ns = core_ns() - from_ns;
		if (i >= running) {
			took_us[i - running] = (float)took_ns / 1000;
			decide_ns += took_ns;
		}
		at = (at + 1) % running;
	}
	say(placement, took_us, (double)decide_ns / 1e9, (double)(core_ns() - begun_ns) / 1e9);
	fflush(stdout);
	_exit(0); /* taking a full map apart takes as long as filling it */
}
