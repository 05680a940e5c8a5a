/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A trace of what a farm ran, from its operation log (sched/core/oplog.h writes it, docs/locality.md tells the format). */
#include "bench/locality/makers.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <sys/stat.h>

#define NAME "croft-operation-log"
#define HEADER NAME " 1"
static const size_t MOST_BYTES = (size_t)4 << 30;

/* Names to numbers. */
struct numbers {
	void *tree;
	size_t count;
};

struct named {
	const char *name;
	uint32_t number;
};

struct run {
	double queued, run; /* milliseconds */
	const char *agent, *kind, *family, *tenant;
	char *roots;
	double priority;
	unsigned slots;
};

struct reading {
	struct trace *trace;
	struct numbers texts, roots, agents;
	struct own_farm *farm;
	size_t passed_over, without_roots;
	uint64_t run_ms, fetched_bytes;
};

static int by_name(const void *a, const void *b)
{
	const struct named *one = a, *other = b;
	return strcmp(one->name, other->name);
}

/* A new name's number is for the caller to set. */
static struct named *look_up(struct reading *reading, struct numbers *numbers, const char *name, bool *known)
{
	struct named wanted = {.name = name};
	void *found = tfind(&wanted, &numbers->tree, by_name);
	*known = found != NULL;
	if (found)
		return *(struct named **)found;
	struct named *entry = croft_arena_zalloc(reading->trace->arena, sizeof(*entry));
	entry->name = croft_arena_strdup(reading->trace->arena, name);
	numbers->count++;
	if (!tsearch(entry, &numbers->tree, by_name))
		abort();
	return entry;
}

static uint32_t text_of(struct reading *reading, const char *name)
{
	bool known;
	if (!*name)
		return 0;
	struct named *entry = look_up(reading, &reading->texts, name, &known);
	if (!known)
		entry->number = trace_text(reading->trace, name);
	return entry->number;
}

static uint32_t root_of(struct reading *reading, const char *name, uint64_t bytes)
{
	bool known;
	struct named *entry = look_up(reading, &reading->roots, name, &known);
	if (!known)
		entry->number = trace_root(reading->trace, name, bytes);
	return entry->number;
}

/* Lines --------------------------------------------------------------------------------------------- */

static bool number(const char *text, double *value)
{
	char *end;
	*value = strtod(text, &end);
	return end != text && !*end && *value >= -INT32_MAX && *value < 1e18;
}

static bool take_field(struct reading *reading, struct run *run, const char *name, char *value)
{
	double parsed;
	const struct {
		const char *name, **text;
	} texts[] = {{"agent", &run->agent}, {"kind", &run->kind}, {"family", &run->family},
		{"tenant", &run->tenant}};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (strcmp(name, texts[i].name) == 0)
			return *texts[i].text = value, true;
	if (strcmp(name, "roots") == 0)
		return run->roots = value, true;
	bool is_fetched = strcmp(name, "fetched") == 0, is_slots = strcmp(name, "slots") == 0;
	double *field = strcmp(name, "queued") == 0 ? &run->queued
		: strcmp(name, "run") == 0              ? &run->run
		: strcmp(name, "priority") == 0         ? &run->priority
		: is_fetched || is_slots                ? &parsed
												: NULL;
	if (!field)
		return true; /* it is of no use here, or of a later version */
	if (!number(value, field))
		return false;
	if (is_fetched)
		reading->fetched_bytes += (uint64_t)parsed;
	if (is_slots)
		run->slots = (unsigned)parsed;
	return true;
}

static bool read_roots(struct reading *reading, struct trace_job *job, char *list)
{
	size_t most = 1;
	for (const char *at = list; *at; at++)
		most += *at == ',';
	job->reads = croft_arena_array(reading->trace->arena, most, sizeof(*job->reads));
	for (char *item; (item = strsep(&list, ","));) {
		const char *name = strsep(&item, ":"), *present = strsep(&item, ":");
		double there, whole;
		if (!item || !number(present, &there) || !number(item, &whole) ||
			whole < 1 || there < 0)
			return false;
		job->reads[job->read_count++] = (struct trace_read){
			root_of(reading, name, (uint64_t)whole), there < whole ? (float)(there / whole) : 1};
	}
	return true;
}

/* False: it is damaged, and nothing of it counts but names. */
static bool read_run(struct reading *reading, char *line)
{
	struct run run = {.queued = -1, .run = -1, .agent = "", .kind = "", .family = "", .tenant = ""};
	for (char *word; (word = strsep(&line, " "));) {
		char *value = strchr(word, '=');
		if (!value)
			return false;
		*value++ = '\0';
		if (!take_field(reading, &run, word, value))
			return false;
	}
	if (run.queued < 0 || run.run < 0 || !*run.agent)
		return false;
	struct trace_job job = {.priority = (int32_t)run.priority, .run_seconds = run.run / 1000};
	if (run.roots && !read_roots(reading, &job, run.roots))
		return false;
	job.kind = text_of(reading, run.kind);
	job.family = text_of(reading, run.family);
	job.tenant = text_of(reading, run.tenant);
	job.arrival_seconds = run.queued / 1000;
	*trace_job(reading->trace) = job;
	bool known;
	look_up(reading, &reading->agents, run.agent, &known);
	if (run.slots > reading->farm->slots)
		reading->farm->slots = run.slots;
	reading->without_roots += !run.roots;
	reading->run_ms += (uint64_t)run.run;
	return true;
}

static bool read_file(struct reading *reading, const char *path, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *text = NULL;
	size_t size;
	if (!croft_read_file(AT_FDCWD, path, MOST_BYTES, &text, &size, err))
		return false;
	char *rest = text;
	const char *first = strsep(&rest, "\n");
	if (!rest || strcmp(first, HEADER) != 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			strncmp(first, NAME " ", strlen(NAME) + 1) == 0
				? "%s is an operation log of another version: \"" HEADER "\" is what is read here"
				: "%s does not begin with \"" HEADER "\"",
			path);
	/* Behind the last line's end stands nothing, or a line that was not written to its end. */
	for (char *line; (line = strsep(&rest, "\n"));) {
		if (rest && strncmp(line, "run ", 4) == 0)
			reading->passed_over += !read_run(reading, line + 4);
		else
			reading->passed_over += *line != '\0';
	}
	return true;
}

/* Both files, the older first ------------------------------------------------------------------------ */

static char *find_log(const char *path, struct croft_arena *arena, struct croft_error *err)
{
	static const char *const below[] = {"", "/operations.log", "/serve/operations.log"};
	for (int i = 0; i < 3; i++) {
		struct stat stat_;
		char *found = croft_arena_printf(arena, "%s%s", path, below[i]);
		if (stat(found, &stat_) == 0 && S_ISREG(stat_.st_mode))
			return found;
	}
	croft_error_set(err, CROFT_NOT_FOUND,
		"there is no operation log at %s: it is operations.log in the state directory of croft serve, once a job ran",
		path);
	return NULL;
}

static int by_arrival(const void *a, const void *b)
{
	double one = ((const struct trace_job *)a)->arrival_seconds,
		   other = ((const struct trace_job *)b)->arrival_seconds;
	return (one > other) - (one < other);
}

/* A trace begins with its first job. */
static void put_in_order(struct trace *trace)
{
	if (trace->job_count == 0)
		return;
	qsort(trace->jobs, trace->job_count, sizeof(*trace->jobs), by_arrival);
	double first = trace->jobs[0].arrival_seconds;
	for (size_t i = 0; i < trace->job_count; i++)
		trace->jobs[i].arrival_seconds -= first;
}

static void add_notes(struct reading *reading, const char *path)
{
	struct trace *trace = reading->trace;
	struct croft_arena *arena = trace->arena;
	trace_note(trace, "source", croft_arena_printf(arena, "the operation log %s", path));
	trace_note(trace, "farm", croft_arena_printf(arena, "%u agents with up to %u slots, which fetched %" PRIu64
		" bytes for runs of %" PRIu64 " ms together", reading->farm->agents, reading->farm->slots,
		reading->fetched_bytes, reading->run_ms));
	trace_note(trace, "measured",
		"arrivals, run times, sizes; read shares as what an agent's cache held of a root after the run, which other "
		"jobs may have read as well");
	if (reading->without_roots)
		trace_note(trace, "lacking", croft_arena_printf(arena, "%zu jobs of which no read roots are known",
			reading->without_roots));
	if (reading->passed_over)
		trace_note(trace, "damaged", croft_arena_printf(arena, "%zu lines of the log were passed over",
			reading->passed_over));
}

static void keep(void *entry)
{
	(void)entry; /* the arena has it */
}

static bool read_both(struct reading *reading, const char *path, struct croft_error *err)
{
	char *older = croft_arena_printf(reading->trace->arena, "%s.1", path);
	if (access(older, F_OK) == 0 && !read_file(reading, older, err))
		return false;
	return read_file(reading, path, err);
}

struct trace *make_own(const char *path, struct own_farm *farm, struct croft_error *err)
{
	*farm = (struct own_farm){0};
	struct reading reading = {.trace = trace_create(), .farm = farm};
	const char *file = find_log(path, reading.trace->arena, err);
	bool read = file && read_both(&reading, file, err);
	farm->agents = (unsigned)reading.agents.count;
	if (read && reading.trace->job_count == 0)
		read = croft_error_set(err, CROFT_NOT_FOUND, "%s has no run in it", file);
	if (read) {
		put_in_order(reading.trace);
		add_notes(&reading, file);
	} else {
		trace_destroy(reading.trace);
		reading.trace = NULL;
	}
	tdestroy(reading.texts.tree, keep);
	tdestroy(reading.roots.tree, keep);
	tdestroy(reading.agents.tree, keep);
	return reading.trace;
}
