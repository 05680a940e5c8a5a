/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* croft bench: replays traces of jobs against the placement module. */
#include "bench/locality/makers.h"
#include "bench/locality/report.h"

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/state.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = CROFT_POLICY_COUNT + 1 };

static bool read_double(const struct options *options, const char *name, double least, double *value,
	struct croft_error *err)
{
	const char *text = options_value(options, name);
	if (!text)
		return true;
	char *end;
	errno = 0;
	double number = strtod(text, &end);
	if (errno || end == text || *end || !isfinite(number) || number < least)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "--%s: \"%s\" is not a number from %g up",
			name, text, least);
	*value = number;
	return true;
}

static bool read_mode(const struct options *options, enum simulation_mode *mode,
	struct croft_error *err)
{
	static const char *const names[] = {"stream", "saturated", "recorded"};
	const char *name = options_value(options, "mode");
	for (int i = 0; name && i < 3; i++)
		if (strcmp(name, names[i]) == 0) {
			*mode = (enum simulation_mode)i;
			return true;
		}
	return !name || croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"--mode: \"%s\" is not stream, saturated or recorded", name);
}

static bool read_config(const struct options *options, struct simulation_config *config,
	struct croft_error *err)
{
	uint64_t agents = 64, slots = 4, jobs = 0, seed = 1, cache = 8000000000u;
	double gigabits = 1, origin = 0;
	*config = (struct simulation_config){.load = 0.7};
	if (!options_number(options, "agents", 1, CROFT_PLACEMENT_MAX_AGENTS, &agents, err) ||
		!options_number(options, "slots", 1, 1024, &slots, err) ||
		!options_number(options, "jobs", 1, UINT32_MAX, &jobs, err) ||
		!options_number(options, "seed", 0, UINT32_MAX, &seed, err) ||
		!options_size(options, "cache", &cache, err) ||
		!read_double(options, "link", 0.001, &gigabits, err) ||
		!read_double(options, "origin", 0, &origin, err) ||
		!read_double(options, "load", 0.001, &config->load, err) ||
		!read_mode(options, &config->mode, err))
		return false;
	config->agents = (unsigned)agents;
	config->slots = (unsigned)slots;
	config->cache_bytes = (double)cache;
	config->link_bandwidth = gigabits * 125e6;
	config->origin_bandwidth = origin * 125e6;
	config->jobs = jobs;
	config->seed = seed;
	config->placement = (struct croft_placement_config){
		.seed = seed, .bandwidth = config->link_bandwidth};
	return true;
}

/* What is not said about the agents is as it was on the farm. */
static struct trace *make_own_trace(const struct options *options, struct simulation_config *config,
	struct croft_error *err)
{
	struct own_farm farm;
	struct trace *trace = make_own(options_value(options, "own"), &farm, err);
	if (trace && !options_given(options, "agents"))
		config->agents = farm.agents;
	if (trace && farm.slots && !options_given(options, "slots"))
		config->slots = farm.slots;
	return trace;
}

static struct trace *make_trace(const struct options *options, struct simulation_config *config,
	struct croft_error *err)
{
	const char *path = options_value(options, "trace");
	bool own = options_given(options, "own");
	if ((path != NULL) + options_given(options, "debian") + own > 1) {
		croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "--trace, --debian and --own: only one makes a trace");
		return NULL;
	}
	if (path)
		return trace_read_file(path, err);
	if (own)
		return make_own_trace(options, config, err);
	CROFT_CLEANUP_FREE char *state = state_directory(options, "bench", err);
	if (!state)
		return NULL;
	progress("reading Debian's indexes with apt");
	return make_debian(&(struct debian_options){.directory = state,
				   .mirror = options_value(options, "mirror"),
				   .suite = options_value(options, "suite"),
				   .lazy = !options_given(options, "whole")},
		err);
}

/* The policies asked for, random (which all are compared with) first. */
static bool read_policies(const struct options *options, bool wanted[CROFT_POLICY_COUNT],
	struct croft_error *err)
{
	size_t count = options_count(options, "policy");
	for (int i = 0; i < CROFT_POLICY_COUNT; i++)
		wanted[i] = count == 0;
	wanted[CROFT_POLICY_RANDOM] = true;
	for (size_t i = 0; i < count; i++) {
		enum croft_policy policy;
		if (!croft_policy_parse(options_at(options, "policy", i), &policy, err))
			return false;
		wanted[policy] = true;
	}
	return true;
}

static size_t simulate_all(const struct trace *trace, struct simulation_config *config,
	const bool wanted[CROFT_POLICY_COUNT], bool bound, struct report_row *rows)
{
	size_t count = 0;
	for (int i = -1; i < CROFT_POLICY_COUNT; i++) {
		enum croft_policy policy = i < 0 ? CROFT_POLICY_RANDOM : (enum croft_policy)i;
		if (!wanted[policy] || i == CROFT_POLICY_RANDOM)
			continue;
		progress("replaying %zu jobs: %s", trace->job_count, croft_policy_name(policy));
		config->placement.policy = policy;
		rows[count].name = croft_policy_name(policy);
		simulate(trace, config, &rows[count++].result);
	}
	if (bound) {
		progress("replaying %zu jobs: caches without end", trace->job_count);
		config->placement.policy = CROFT_POLICY_LOCALITY;
		config->cache_bytes = 0;
		rows[count].name = "no-eviction";
		simulate(trace, config, &rows[count++].result);
	}
	progress_clear();
	return count;
}

static void describe(const struct trace *trace, const struct simulation_config *config, FILE *out)
{
	for (size_t i = 0; i < trace->note_count; i++)
		fprintf(out, "# %s\n", trace->notes[i]);
	fprintf(out, "# %zu jobs, %zu roots; %u agents with %u slots, %.1f GB of cache each, %.2f Gbit/s\n",
		trace->job_count, trace->root_count, config->agents, config->slots, config->cache_bytes / 1e9,
		config->link_bandwidth / 125e6);
}

static bool replay(const struct trace *trace, const struct options *options,
	struct simulation_config *config, struct croft_error *err)
{
	bool wanted[CROFT_POLICY_COUNT];
	if (!read_policies(options, wanted, err))
		return false;
	enum report_form form = options_given(options, "json") ? REPORT_JSON
		: options_given(options, "csv") ? REPORT_CSV : REPORT_TABLE;
	if (form == REPORT_TABLE)
		describe(trace, config, stdout);
	struct report_row rows[MOST_ROWS];
	size_t count =
		simulate_all(trace, config, wanted, options_count(options, "policy") == 0, rows);
	report_print(stdout, form, rows, count);
	const char *svg = options_value(options, "svg");
	return !svg || report_svg(svg, "Placement policies", rows, count, err);
}

static int run(const struct options *options, struct croft_error *err)
{
	struct simulation_config config;
	if (!options_arguments(options, 1, 1, err) || !read_config(options, &config, err))
		return MISUSED;
	if (strcmp(options->argv[0], "locality") != 0) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" is no benchmark: locality is",
			options->argv[0]);
		return MISUSED;
	}
	struct trace *trace = make_trace(options, &config, err);
	if (!trace)
		return FAILED;
	const char *write_to = options_value(options, "write-trace");
	bool ok = write_to ? trace_write_file(trace, write_to, err)
			   : replay(trace, options, &config, err);
	trace_destroy(trace);
	return ok ? 0 : FAILED;
}

static const struct option_spec bench_options[] = {
	{"trace", 0, "FILE", "replay this trace (see docs/locality.md)"},
	{"debian", 0, NULL, "replay a rebuild of Debian, from its indexes (the default)"},
	{"own", 0, "DIR", "replay what a farm ran, from the operation log in its server's state directory"},
	{"mirror", 0, "URL", "of Debian"},
	{"suite", 0, "NAME", "of Debian (bookworm)"},
	{"whole", 0, NULL, "Debian: jobs read whole packages, not a synthetic share of each"},
	{"write-trace", 0, "FILE", "write the trace and replay nothing"},
	{"state", 0, "DIR", "where apt's lists are kept (else $XDG_STATE_HOME/croft/bench)"},
	{"mode", 0, "MODE", "stream (jobs arrive over time), saturated (all at once) or recorded"},
	{"policy", 0, "NAME", "only this one and random; may be given again (else all)"},
	{"agents", 0, "N", "64; with --own as many as ran jobs"},
	{"slots", 0, "N", "of each agent: 4; with --own what the largest had"},
	{"cache", 0, "SIZE", "of each agent: 8 GB; 0 is without end"},
	{"link", 0, "GBIT", "per second into each agent: 1"},
	{"origin", 0, "GBIT", "per second out of the store: no limit"},
	{"load", 0, "SHARE", "of all slots, in a stream: 0.7"},
	{"jobs", 0, "N", "of the trace (else all)"},
	{"seed", 0, "N", "1"},
	{"svg", 0, "FILE", "draw a chart as well"},
	{"json", 0, NULL, "as JSON"},
	{"csv", 0, NULL, "as CSV"},
	{0},
};

const struct command command_bench = {
	.name = "bench",
	.arguments = "locality",
	.summary = "Replay jobs on simulated agents and compare placement policies",
	.details = "The placement module is the scheduler's own; agents, caches and links are simulated, and\n"
		   "nothing is built. What a trace holds that was not measured is said with it.",
	.options = bench_options,
	.run = run,
};
