/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A job's life here: arrives, is placed, fetches what its agent lacks (all at once, sharing the agent's
 * link and the origin evenly with the other transfers), runs, ends. Its slot is busy from placement to
 * the end. The placement module hears of presence and run times exactly as it would from agents.
 */
#include "bench/locality/simulate.h"
#include "bench/locality/cache.h"
#include "bench/locality/events.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

enum { EVENT_ARRIVE, EVENT_FETCHED, EVENT_ENDED, EVENT_WAKE };
/* Roots that the presence map would track. */
static const uint64_t HEAVY_BYTES = 1 << 20;
static const double PEAK_SECONDS = 10;

struct sim_job {
	const struct trace_job *trace;
	struct croft_placement_job *placed;
	uint32_t number, agent;
	double arrived, started, left_bytes;
	uint32_t waits_for; /* jobs that have not ended */
	double critical_seconds;
	uint32_t *waiters;
	uint32_t waiter_count;
};

struct sim_agent {
	struct cache cache;
	uint32_t *fetching; /* jobs */
	unsigned fetching_count;
	double settled;     /* up to when transfers are accounted for */
	uint64_t version;   /* of its next end of a transfer */
	uint64_t sequence;
};

struct simulation {
	const struct trace *trace;
	const struct simulation_config *config;
	struct croft_placement *placement;
	struct sim_job *jobs;
	uint32_t job_count;
	struct sim_agent *agents;
	struct events events;
	struct croft_digest *digests;
	struct croft_placement_input *inputs;
	struct croft_placement_touch *touches;
	unsigned transfers;
	double now, end, busy_seconds;
	double *peaks;
	size_t peak_count;
	float *waits;
	uint64_t wait_count, decision_ns, decisions;
	uint32_t *decision_us; /* histogram of tenths of a microsecond */
	double *tenant_waits;
	uint32_t *tenant_jobs;
	double wake;
	struct simulation_result *result;
};

/* Randomness that depends on nothing but the seed */
static double uniform(uint64_t seed, uint64_t number)
{
	uint64_t both[] = {seed, number};
	return ((double)XXH3_64bits(both, sizeof(both)) + 0.5) / 0x1p64;
}

static uint64_t clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Transfers ------------------------------------------------------------------------------------------ */

static double rate_on(const struct simulation *simulation, const struct sim_agent *agent)
{
	const struct simulation_config *config = simulation->config;
	double rate = config->link_bandwidth / agent->fetching_count;
	if (config->origin_bandwidth > 0)
		rate = fmin(rate, config->origin_bandwidth / simulation->transfers);
	return rate;
}

static void count_peak(struct simulation *simulation, double from, double to, double bytes)
{
	if (to <= from)
		return;
	double rate = bytes / (to - from);
	size_t first = (size_t)(from / PEAK_SECONDS), last = (size_t)(to / PEAK_SECONDS);
	if (last >= simulation->peak_count) {
		size_t more = last * 2 + 1024;
		simulation->peaks = croft_realloc(simulation->peaks, more, sizeof(double));
		memset(simulation->peaks + simulation->peak_count, 0,
			(more - simulation->peak_count) * sizeof(double));
		simulation->peak_count = more;
	}
	for (size_t i = first; i <= last; i++) {
		double begin = fmax(from, (double)i * PEAK_SECONDS);
		double end = fmin(to, (double)(i + 1) * PEAK_SECONDS);
		simulation->peaks[i] += rate * (end - begin);
	}
}

/* Accounts for the transfers of an agent up to now, at the rate that held until now. */
static void settle(struct simulation *simulation, struct sim_agent *agent)
{
	double seconds = simulation->now - agent->settled;
	double from = agent->settled;
	agent->settled = simulation->now;
	if (agent->fetching_count == 0 || seconds <= 0)
		return;
	double bytes = rate_on(simulation, agent) * seconds;
	for (unsigned i = 0; i < agent->fetching_count; i++)
		simulation->jobs[agent->fetching[i]].left_bytes -= bytes;
	count_peak(simulation, from, simulation->now, bytes * agent->fetching_count);
}

static void plan(struct simulation *simulation, uint32_t number)
{
	struct sim_agent *agent = &simulation->agents[number];
	double least = INFINITY;
	agent->version++;
	for (unsigned i = 0; i < agent->fetching_count; i++)
		least = fmin(least, simulation->jobs[agent->fetching[i]].left_bytes);
	if (agent->fetching_count > 0)
		events_add(&simulation->events,
			simulation->now + fmax(least, 0) / rate_on(simulation, agent), EVENT_FETCHED, number,
			agent->version);
}

/* Around any change of who fetches: rates change, on the agent or, if the origin is capped, everywhere. */
static void before_change(struct simulation *simulation, uint32_t number)
{
	if (simulation->config->origin_bandwidth <= 0)
		settle(simulation, &simulation->agents[number]);
	else
		for (uint32_t i = 0; i < simulation->config->agents; i++)
			settle(simulation, &simulation->agents[i]);
}

static void after_change(struct simulation *simulation, uint32_t number)
{
	if (simulation->config->origin_bandwidth <= 0)
		plan(simulation, number);
	else
		for (uint32_t i = 0; i < simulation->config->agents; i++)
			if (i == number || simulation->agents[i].fetching_count > 0)
				plan(simulation, i);
}

/* Caches --------------------------------------------------------------------------------------------- */

static double bytes_of_root(void *user, uint32_t root)
{
	return (double)((const struct trace *)user)->roots[root].bytes;
}

static void begin_delta(struct simulation *simulation, uint32_t agent)
{
	struct sim_agent *own = &simulation->agents[agent];
	croft_placement_delta_begin(
		simulation->placement, agent, 1, own->sequence, own->sequence == 0);
	own->sequence++;
}

/* As with its heartbeats. What jobs are about to bring counts as held by the map, too. */
static void tell_cache(struct simulation *simulation, uint32_t agent)
{
	const struct cache *cache = &simulation->agents[agent].cache;
	croft_placement_agent_cache(
		simulation->placement, agent, (uint64_t)cache->bytes, (uint64_t)cache->budget);
}

/* Bytes that have to be moved; the cache is then as if they were there. */
static double take_inputs(struct simulation *simulation, const struct sim_job *job)
{
	const struct trace *trace = simulation->trace;
	struct cache *cache = &simulation->agents[job->agent].cache;
	double missing = 0;
	for (uint32_t i = 0; i < job->trace->read_count; i++) {
		const struct trace_read *read = &job->trace->reads[i];
		double bytes = (double)trace->roots[read->root].bytes;
		float there = cache->entries[read->root].share;
		simulation->result->bytes_read += bytes * (double)read->share;
		if (there < read->share)
			missing += bytes * (double)(read->share - there);
		cache_use(cache, read->root);
		cache_add(cache, read->root, read->share, bytes);
	}
	uint32_t gone;
	begin_delta(simulation, job->agent);
	while ((gone = cache_evict(cache, bytes_of_root, (void *)trace)) != UINT32_MAX)
		croft_placement_gone(simulation->placement, job->agent, &simulation->digests[gone]);
	tell_cache(simulation, job->agent);
	return missing;
}

static void report_presence(struct simulation *simulation, const struct sim_job *job)
{
	const struct cache *cache = &simulation->agents[job->agent].cache;
	begin_delta(simulation, job->agent);
	for (uint32_t i = 0; i < job->trace->read_count; i++) {
		uint32_t root = job->trace->reads[i].root;
		uint64_t bytes = simulation->trace->roots[root].bytes;
		if (bytes >= HEAVY_BYTES)
			croft_placement_present(simulation->placement, job->agent, &simulation->digests[root],
				(uint64_t)((double)bytes * (double)cache->entries[root].share), bytes);
	}
}

/* Jobs ------------------------------------------------------------------------------------------------ */

static void add_job(struct simulation *simulation, struct sim_job *job)
{
	const struct trace *trace = simulation->trace;
	size_t count = 0;
	for (uint32_t i = 0; i < job->trace->read_count; i++) {
		uint32_t root = job->trace->reads[i].root;
		if (trace->roots[root].bytes >= HEAVY_BYTES)
			simulation->inputs[count++] = (struct croft_placement_input){
				simulation->digests[root], trace->roots[root].bytes, root + 1};
	}
	struct croft_placement_job_info info = {
		.tenant = {trace->texts[job->trace->tenant], strlen(trace->texts[job->trace->tenant])},
		.kind = {trace->texts[job->trace->kind], strlen(trace->texts[job->trace->kind])},
		.family = {trace->texts[job->trace->family], strlen(trace->texts[job->trace->family])},
		.priority = job->trace->priority,
		.critical_seconds = job->critical_seconds,
		.inputs = simulation->inputs,
		.input_count = count,
		.user = job,
	};
	uint64_t begin = clock_ns();
	job->placed = croft_placement_job_add(simulation->placement, &info, simulation->now);
	simulation->decision_ns += clock_ns() - begin;
	job->arrived = simulation->now;
}

static void start_job(struct simulation *simulation, struct sim_job *job, uint32_t number)
{
	struct sim_agent *agent = &simulation->agents[number];
	double wait = simulation->now - job->arrived;
	job->agent = number;
	job->started = simulation->now;
	simulation->waits[simulation->wait_count++] = (float)wait;
	simulation->tenant_waits[job->trace->tenant] += wait;
	simulation->tenant_jobs[job->trace->tenant]++;
	job->left_bytes = take_inputs(simulation, job);
	simulation->result->bytes_moved += job->left_bytes;
	before_change(simulation, number);
	agent->fetching[agent->fetching_count++] = job->number;
	simulation->transfers++;
	after_change(simulation, number);
}

static void on_fetched(struct simulation *simulation, uint32_t number, uint64_t version)
{
	struct sim_agent *agent = &simulation->agents[number];
	if (version != agent->version)
		return;
	before_change(simulation, number);
	unsigned kept = 0, before = agent->fetching_count;
	for (unsigned i = 0; i < before; i++) {
		struct sim_job *job = &simulation->jobs[agent->fetching[i]];
		if (job->left_bytes > 1) {
			agent->fetching[kept++] = agent->fetching[i];
			continue;
		}
		report_presence(simulation, job);
		events_add(&simulation->events, simulation->now + job->trace->run_seconds, EVENT_ENDED,
			job->number, 0);
	}
	agent->fetching_count = kept;
	simulation->transfers -= before - kept;
	after_change(simulation, number);
}

static void on_ended(struct simulation *simulation, struct sim_job *job)
{
	struct cache *cache = &simulation->agents[job->agent].cache;
	size_t count = 0;
	for (uint32_t i = 0; i < job->trace->read_count; i++) {
		const struct trace_read *read = &job->trace->reads[i];
		cache_done(cache, read->root);
		if (simulation->trace->roots[read->root].bytes >= HEAVY_BYTES)
			simulation->touches[count++] =
				(struct croft_placement_touch){read->root + 1, read->share};
	}
	struct croft_placement_outcome outcome = {job->trace->run_seconds, 0, simulation->touches, count};
	uint64_t begin = clock_ns();
	croft_placement_job_end(simulation->placement, job->placed, &outcome, simulation->now);
	simulation->decision_ns += clock_ns() - begin;
	simulation->busy_seconds += simulation->now - job->started;
	simulation->end = simulation->now;
	for (uint32_t i = 0; i < job->waiter_count; i++) {
		struct sim_job *waiter = &simulation->jobs[job->waiters[i]];
		if (--waiter->waits_for == 0)
			events_add(&simulation->events,
				fmax(simulation->now, waiter->trace->arrival_seconds), EVENT_ARRIVE,
				waiter->number, 0);
	}
}

enum { HISTOGRAM = 100000 };

static void place(struct simulation *simulation)
{
	struct croft_decision decision;
	double wake = INFINITY;
	bool placed;
	do {
		uint64_t begin = clock_ns();
		placed = croft_placement_next(simulation->placement, simulation->now, &decision, &wake);
		uint64_t took = clock_ns() - begin;
		simulation->decision_ns += took;
		if (placed) {
			simulation->decisions++;
			simulation->decision_us[took / 100 < HISTOGRAM ? took / 100 : HISTOGRAM - 1]++;
			start_job(simulation, decision.job_user, decision.agent);
		}
	} while (placed);
	if (wake > simulation->now && wake < simulation->wake) {
		simulation->wake = wake;
		events_add(&simulation->events, wake, EVENT_WAKE, 0, 0);
	}
}

/* Set-up ----------------------------------------------------------------------------------------------- */

struct order {
	double key;
	uint32_t job;
};

static int by_key(const void *a, const void *b)
{
	const struct order *x = a, *y = b;
	return (x->key > y->key) - (x->key < y->key);
}

/* Which jobs of the trace, in which order: the first of a shuffle, unless recorded. */
static void pick_jobs(struct simulation *simulation)
{
	const struct trace *trace = simulation->trace;
	const struct simulation_config *config = simulation->config;
	size_t count = config->jobs && config->jobs < trace->job_count ? config->jobs : trace->job_count;
	struct order *order = croft_array(trace->job_count + 1, sizeof(*order));
	for (uint32_t i = 0; i < trace->job_count; i++)
		order[i] = (struct order){
			config->mode == SIMULATE_RECORDED ? (double)i : uniform(config->seed, i), i};
	qsort(order, trace->job_count, sizeof(*order), by_key);
	simulation->jobs = croft_array(count + 1, sizeof(struct sim_job));
	simulation->job_count = (uint32_t)count;
	for (uint32_t i = 0; i < count; i++) {
		simulation->jobs[i].trace = &trace->jobs[order[i].job];
		simulation->jobs[i].number = i;
	}
	free(order);
}

static void plan_arrivals(struct simulation *simulation)
{
	const struct simulation_config *config = simulation->config;
	double work = 0, at = 0;
	for (uint32_t i = 0; i < simulation->job_count; i++)
		work += simulation->jobs[i].trace->run_seconds;
	double between = work / simulation->job_count / (config->load * config->agents * config->slots);
	for (uint32_t i = 0; i < simulation->job_count; i++) {
		struct sim_job *job = &simulation->jobs[i];
		if (config->mode == SIMULATE_STREAM)
			at += -log(uniform(config->seed + 1, i)) * between;
		else if (config->mode == SIMULATE_RECORDED)
			at = job->trace->arrival_seconds;
		if (job->waits_for == 0)
			events_add(&simulation->events, at, EVENT_ARRIVE, i, 0);
	}
}

/* Only jobs before it in the trace can be waited for, so that one pass from the end finds the longest
 * chains. */
static void link_jobs(struct simulation *simulation)
{
	if (simulation->config->mode != SIMULATE_RECORDED)
		return;
	for (uint32_t i = 0; i < simulation->job_count; i++) {
		struct sim_job *job = &simulation->jobs[i];
		for (uint32_t k = 0; k < job->trace->after_count; k++) {
			if (job->trace->after[k] >= i)
				continue;
			struct sim_job *before = &simulation->jobs[job->trace->after[k]];
			before->waiters =
				croft_realloc(before->waiters, before->waiter_count + 1, sizeof(uint32_t));
			before->waiters[before->waiter_count++] = i;
			job->waits_for++;
		}
	}
	for (uint32_t i = simulation->job_count; i-- > 0;) {
		struct sim_job *job = &simulation->jobs[i];
		for (uint32_t k = 0; k < job->waiter_count; k++) {
			const struct sim_job *after = &simulation->jobs[job->waiters[k]];
			job->critical_seconds = fmax(job->critical_seconds,
				after->critical_seconds + after->trace->run_seconds);
		}
	}
}

static void add_agents(struct simulation *simulation)
{
	const struct simulation_config *config = simulation->config;
	simulation->agents = croft_array(config->agents, sizeof(struct sim_agent));
	for (uint32_t i = 0; i < config->agents; i++) {
		struct sim_agent *agent = &simulation->agents[i];
		cache_init(&agent->cache, simulation->trace->root_count, config->cache_bytes);
		agent->fetching = croft_array(config->slots, sizeof(uint32_t));
		croft_placement_agent_add(
			simulation->placement, &(struct croft_placement_agent){.slots = config->slots});
	}
}

static void make_digests(struct simulation *simulation)
{
	size_t count = simulation->trace->root_count;
	simulation->digests = croft_array(count + 1, sizeof(struct croft_digest));
	for (size_t i = 0; i < count; i++) {
		XXH128_hash_t hash = XXH3_128bits(&i, sizeof(i));
		memcpy(simulation->digests[i].hash, &hash, sizeof(hash));
		simulation->digests[i].size_bytes = simulation->trace->roots[i].bytes;
	}
	simulation->inputs = croft_array(count + 1, sizeof(*simulation->inputs));
	simulation->touches = croft_array(count + 1, sizeof(*simulation->touches));
}

/* Results ---------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static double fairness_of(const struct simulation *simulation)
{
	double sum = 0, squares = 0, count = 0;
	for (size_t i = 0; i < simulation->trace->text_count; i++) {
		if (simulation->tenant_jobs[i] == 0)
			continue;
		double wait = simulation->tenant_waits[i] / simulation->tenant_jobs[i] + 1e-9;
		sum += wait;
		squares += wait * wait;
		count++;
	}
	return squares > 0 ? sum * sum / (count * squares) : 1;
}

static void fill_result(struct simulation *simulation)
{
	struct simulation_result *result = simulation->result;
	struct croft_placement_stat stat;
	croft_placement_stat(simulation->placement, &stat);
	uint64_t count = simulation->wait_count;
	qsort(simulation->waits, count, sizeof(float), by_value);
	for (uint64_t i = 0; i < count; i++)
		result->wait_mean += (double)simulation->waits[i] / (double)count;
	if (count > 0) {
		result->wait_p99 = (double)simulation->waits[(count - 1) * 99 / 100];
		result->wait_max = (double)simulation->waits[count - 1];
	}
	for (size_t i = 0; i < simulation->peak_count; i++)
		result->origin_peak = fmax(result->origin_peak, simulation->peaks[i] / PEAK_SECONDS);
	uint64_t seen = 0, at = 0;
	while (at < HISTOGRAM && (seen += simulation->decision_us[at]) * 100 < simulation->decisions * 99)
		at++;
	result->jobs = count;
	result->makespan = simulation->end;
	result->decisions_per_second = simulation->decision_ns
		? (double)simulation->decisions * 1e9 / (double)simulation->decision_ns : 0;
	result->decision_p99_us = (double)(at + 1) / 10;
	result->presence_bytes = stat.presence_bytes;
	result->most_skips = stat.most_skips;
	result->skip_bound = stat.skip_bound;
	result->fairness = fairness_of(simulation);
	result->busy_share = simulation->busy_seconds /
		(simulation->end * simulation->config->agents * simulation->config->slots);
}

static void finish(struct simulation *simulation)
{
	for (uint32_t i = 0; i < simulation->job_count; i++)
		free(simulation->jobs[i].waiters);
	for (uint32_t i = 0; i < simulation->config->agents; i++) {
		cache_finish(&simulation->agents[i].cache);
		free(simulation->agents[i].fetching);
	}
	croft_placement_destroy(simulation->placement);
	events_finish(&simulation->events);
	free(simulation->jobs);
	free(simulation->agents);
	free(simulation->digests);
	free(simulation->inputs);
	free(simulation->touches);
	free(simulation->peaks);
	free(simulation->waits);
	free(simulation->decision_us);
	free(simulation->tenant_waits);
	free(simulation->tenant_jobs);
}

void simulate(const struct trace *trace, const struct simulation_config *config,
	struct simulation_result *result)
{
	struct simulation simulation = {.trace = trace, .config = config, .result = result,
		.wake = INFINITY, .placement = croft_placement_create(&config->placement)};
	struct sim_event event;
	*result = (struct simulation_result){0};
	pick_jobs(&simulation);
	simulation.waits = croft_array(simulation.job_count + 1, sizeof(float));
	simulation.decision_us = croft_array(HISTOGRAM, sizeof(uint32_t));
	simulation.tenant_waits = croft_array(trace->text_count, sizeof(double));
	simulation.tenant_jobs = croft_array(trace->text_count, sizeof(uint32_t));
	make_digests(&simulation);
	add_agents(&simulation);
	link_jobs(&simulation);
	plan_arrivals(&simulation);
	while (events_next(&simulation.events, &event)) {
		simulation.now = event.time;
		switch (event.kind) {
		case EVENT_ARRIVE:
			add_job(&simulation, &simulation.jobs[event.subject]);
			/* All that come at the same moment are there before anything is decided. */
			if (simulation.events.count > 0 && simulation.events.heap[0].time == simulation.now &&
				simulation.events.heap[0].kind == EVENT_ARRIVE)
				continue;
			break;
		case EVENT_FETCHED:
			on_fetched(&simulation, event.subject, event.version);
			continue;
		case EVENT_ENDED:
			on_ended(&simulation, &simulation.jobs[event.subject]);
			break;
		default:
			simulation.wake = INFINITY;
		}
		place(&simulation);
	}
	fill_result(&simulation);
	finish(&simulation);
}
