/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What makes runs alike, and what is asked for and cannot be had. */
#include "tests/unit/sandbox/sandbox_fixture.h"

/* busybox's find prints names as it reads them. */
static const char MAKE[] =
	"make() { mkdir -p $1; for i in $(seq $2); do : >$1/$(($i * 7919 % 100003))-of-many-names; done; }; "
	"read_in_order() { find $1 -mindepth 1 | sed 's,.*/,,' >/tmp/read; LC_ALL=C sort /tmp/read | cmp - /tmp/read; }; ";

static struct croft_sandbox_result run_sorted(const char *format, const char *script, bool sorted)
{
	CROFT_CLEANUP_FREE char *text = NULL;
	assert_true(asprintf(&text, format, script) > 0);
	const char *const arguments[] = {"busybox", "sh", "-c", text, NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	spec.sorted_directories = sorted;
	croft_sandbox_destroy(run_spec(&spec, &result));
	return result;
}

/* Runs it with applets at hand. */
static void in_order(const char *script)
{
	CROFT_CLEANUP_FREE char *text = NULL;
	assert_true(asprintf(&text, "mkdir /b; busybox --install -s /b; export PATH=/b; set -e; %s%s", MAKE, script) > 0);
	struct croft_sandbox_result result = run_sorted("%s", text, true);
	if (result.exit_code != 0)
		fail_msg("status %d of: %s: %s%s", result.exit_code, script, printed, result.message);
}

static void directories_are_read_in_the_order_of_names(void **unused)
{
	in_order("make /own 3000; read_in_order /own; [ $(wc -l </tmp/read) -eq 3000 ]");
	in_order("make /dev/shm/own 300; read_in_order /dev/shm/own");
	/* Of the root and the job's own together. */
	run_host("mkdir %s/mixed && for i in m z a q B; do : >%s/mixed/$i; done", root, root);
	in_order("make /mixed 200; rm /mixed/q; read_in_order /mixed; [ $(wc -l </tmp/read) -eq 204 ]");
}

static void what_is_removed_while_it_is_read_moves_nothing(void **unused)
{
	in_order("make /much 3000; rm -r /much; [ ! -e /much ]; make /much 10; rm -r /much/*; rmdir /much");
}

static void what_is_the_kernels_own_has_its_order(void **unused)
{
	in_order("ls /proc/self/fd /proc/self/task /dev /dev/pts >/dev/null; [ $(ls /proc | grep -c '^uptime$') -eq 1 ]");
}

static void many_read_at_once(void **unused)
{
	in_order("make /many 1500; for i in 1 2 3 4 5 6; do (find /many -mindepth 1 | sed 's,.*/,,' >/tmp/read$i) & "
			 "done; wait; LC_ALL=C sort /tmp/read1 >/tmp/sorted; for i in 1 2 3 4 5 6; do cmp /tmp/sorted /tmp/read$i; "
			 "done");
}

static void what_is_denied_is_told_all_the_same(void **unused)
{
	struct croft_sandbox_result result = run_sorted("%s", "busybox ls / >/dev/null; busybox hostname other", true);
	assert_true(result.exit_code != 0);
	assert_int_equal(result.denied_count, 1);
	assert_string_equal(result.denied[0].call, "sethostname");
	/* Nor does the next job have anybody who answers for it. */
	result = run_sorted("%s", "busybox ls / >/dev/null; busybox hostname other", false);
	assert_int_equal(result.denied_count, 1);
}

static void a_sorted_job_ends_in_time(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c", "while :; do busybox ls / >/dev/null; done", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	spec.sorted_directories = true;
	spec.wall_ms = 200;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_WALL_CLOCK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(directories_are_read_in_the_order_of_names),
		cmocka_unit_test(what_is_removed_while_it_is_read_moves_nothing),
		cmocka_unit_test(what_is_the_kernels_own_has_its_order),
		cmocka_unit_test(many_read_at_once),
		cmocka_unit_test(what_is_denied_is_told_all_the_same),
		cmocka_unit_test(a_sorted_job_ends_in_time),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
