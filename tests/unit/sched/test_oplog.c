/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The operation log: what is written is read again as a trace, whatever happened to the files. */
#include "sched/core/oplog.h"

#include "bench/locality/makers.h"
#include "google/rpc/status.pb-c.h"
#include "proto/base/io.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 1 << 20 };
static char folder[64], path[96], older[96];
static struct croft_error err;

static int set_up(void **state)
{
	err = CROFT_ERROR_INIT;
	const char *base = getenv("TMPDIR");
	snprintf(folder, sizeof(folder), "%s/croft-test-XXXXXX", base && strlen(base) < 40 ? base : "/tmp");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/operations.log", folder);
	snprintf(older, sizeof(older), "%s.1", path);
	return 0;
}

static int tear_down(void **state)
{
	struct croft_error failed = CROFT_ERROR_INIT;
	assert_ok(croft_remove_tree(AT_FDCWD, folder, &failed), failed);
	return 0;
}

static void add(struct oplog *log, const char *kind, unsigned number)
{
	Reapi__Digest digest = REAPI__DIGEST__INIT;
	digest.hash = (char *)"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	Farm__PresentRoot root = FARM__PRESENT_ROOT__INIT, *roots[] = {&root};
	root.root = &digest;
	root.present_bytes = 500000;
	root.total_bytes = 2000000;
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	done.n_roots = 1;
	done.roots = roots;
	struct oplog_run run = {
		.operation = "0123", .agent_id = "an agent", .slots = 4, .queued_unix_ns = 1000000000ll * (1000 + number),
		.leased_unix_ns = 1000000000ll * (1002 + number), .priority = -3,
		.info = {.kind = croft_slice_str(kind), .family = croft_slice_str("cc"),
			.tenant = croft_slice_str("instance\nbuild 7")}};
	oplog_add(log, &run, &done, 1.5);
	oplog_flush(log);
}

static struct trace *read_trace(size_t jobs)
{
	struct own_farm farm;
	struct trace *trace = make_own(folder, &farm, &err);
	assert_ok(trace, err);
	assert_int_equal(trace->job_count, jobs);
	assert_int_equal(farm.agents, 1);
	assert_int_equal(farm.slots, 4);
	return trace;
}

static bool is_noted(const struct trace *trace, const char *note)
{
	for (size_t i = 0; i < trace->note_count; i++)
		if (strcmp(trace->notes[i], note) == 0)
			return true;
	return false;
}

static void append(const char *text)
{
	FILE *file = fopen(path, "a");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0 && fclose(file) == 0);
}

static void runs_become_jobs_in_the_order_in_which_they_came(void **state)
{
	struct oplog *log = oplog_open(path, MOST);
	add(log, "cc → a b%.o", 7);
	add(log, "cc → c.o", 5);
	oplog_close(log);
	struct trace *trace = read_trace(2);
	const struct trace_job *first = &trace->jobs[0], *second = &trace->jobs[1];
	assert_string_equal(trace->texts[first->kind], "cc%20→%20c.o");
	assert_string_equal(trace->texts[second->kind], "cc%20→%20a%20b%25.o");
	assert_string_equal(trace->texts[second->family], "cc");
	assert_string_equal(trace->texts[second->tenant], "instance%0Abuild%207");
	assert_int_equal(second->tenant, first->tenant);
	assert_int_equal(second->priority, -3);
	assert_true(first->arrival_seconds == 0 && second->arrival_seconds == 2);
	assert_true(second->run_seconds == 1.5);
	assert_int_equal(trace->root_count, 1);
	assert_string_equal(trace->roots[0].name, "0123456789abcdef");
	assert_int_equal(trace->roots[0].bytes, 2000000);
	assert_int_equal(second->read_count, 1);
	assert_true(second->reads[0].share == 0.25f);
	trace_destroy(trace);
}

static void what_a_crash_tore_or_damaged_costs_one_run(void **state)
{
	struct oplog *log = oplog_open(path, MOST);
	add(log, "a", 0);
	oplog_close(log);
	append("run operation=77 queued=10");
	log = oplog_open(path, MOST); /* goes on in a line of its own */
	add(log, "b", 1);
	oplog_close(log);
	append("run queued=12 run=1 agent=x roots=0:1\nrun queued=many run=1 agent=x\nrun queued=1 run=2 agent=an%20agent "
		   "slots=4 of-a-later-version=yes\nrun operation=5 queued=1 run=2 agent=torn");
	struct trace *trace = read_trace(3);
	assert_true(is_noted(trace, "damaged 4 lines of the log were passed over"));
	assert_true(is_noted(trace, "lacking 1 jobs of which no read roots are known"));
	trace_destroy(trace);
}

static void it_takes_no_more_than_it_may(void **state)
{
	struct oplog *log = oplog_open(path, 4096);
	for (unsigned i = 0; i < 100; i++)
		add(log, "a", i);
	oplog_close(log);
	struct stat now, before;
	assert_int_equal(stat(path, &now), 0);
	assert_int_equal(stat(older, &before), 0);
	assert_true(now.st_size + before.st_size <= 4096);
	struct own_farm farm;
	struct trace *trace = make_own(path, &farm, &err);
	assert_ok(trace, err);
	/* The newest, without a gap. */
	assert_true(trace->job_count >= 6);
	assert_true(trace->jobs[trace->job_count - 1].arrival_seconds == (double)(trace->job_count - 1));
	trace_destroy(trace);
}

static void a_disk_without_room_stops_nothing(void **state)
{
	struct oplog *log = oplog_open("/dev/full", MOST);
	add(log, "a", 0);
	add(log, "b", 1);
	oplog_close(log);
	log = oplog_open("/nowhere/at/all", MOST);
	add(log, "a", 0);
	oplog_close(log);
}

static void another_version_is_refused(void **state)
{
	append("croft-operation-log 2\n");
	struct own_farm farm;
	assert_null(make_own(folder, &farm, &err));
	assert_non_null(strstr(err.message, "another version"));
	unlink(path);
	append("croft-locality-trace 2\n");
	assert_null(make_own(folder, &farm, &err));
	assert_non_null(strstr(err.message, "does not begin with"));
	assert_null(trace_read_file(path, &err));
	assert_non_null(strstr(err.message, "another version"));
	unlink(path);
	assert_null(make_own(folder, &farm, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
}

#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_A_FOLDER(runs_become_jobs_in_the_order_in_which_they_came),
		IN_A_FOLDER(what_a_crash_tore_or_damaged_costs_one_run),
		IN_A_FOLDER(it_takes_no_more_than_it_may),
		IN_A_FOLDER(a_disk_without_room_stops_nothing),
		IN_A_FOLDER(another_version_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
