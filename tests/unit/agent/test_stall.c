/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/stall.h"
#include "tests/unit/test.h"

enum { MS = 1000000 };

static void what_a_job_waited_is_given_back_once(void **state)
{
	uint64_t granted = 0;
	assert_int_equal(croft_stall_grant(0, 1000, &granted), 0);
	assert_int_equal(croft_stall_grant(300 * MS, 1000, &granted), 300);
	assert_int_equal(croft_stall_grant(300 * MS, 1000, &granted), 0);
	assert_int_equal(croft_stall_grant(450 * MS, 1000, &granted), 150);
}

static void no_more_than_the_cap_is_given_in_all(void **state)
{
	uint64_t granted = 0;
	assert_int_equal(croft_stall_grant(900 * MS, 1000, &granted), 900);
	assert_int_equal(croft_stall_grant(UINT64_MAX, 1000, &granted), 100);
	assert_int_equal(croft_stall_grant(UINT64_MAX, 1000, &granted), 0);
	granted = 0;
	assert_int_equal(croft_stall_grant(UINT64_MAX, 0, &granted), 0);
}

static void parts_of_a_millisecond_add_up(void **state)
{
	uint64_t granted = 0, sum = 0;
	for (uint64_t stalled = 0; stalled <= 100 * MS; stalled += MS / 4)
		sum += croft_stall_grant(stalled, 1000, &granted);
	assert_int_equal(sum, 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_job_waited_is_given_back_once),
		cmocka_unit_test(no_more_than_the_cap_is_given_in_all),
		cmocka_unit_test(parts_of_a_millisecond_add_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
