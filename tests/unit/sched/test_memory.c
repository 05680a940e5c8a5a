/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A server's heaps: kept while there is work, given back behind it. */
#include "sched/memory.h"

#include "proto/base/arena.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCKS = 16384, BLOCK = 4096 };

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which have heaps of their own */
static size_t resident_bytes(void)
{
	size_t pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");
	assert_non_null(file);
	assert_int_equal(fscanf(file, "%*u %zu", &pages), 1);
	fclose(file);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void what_work_freed_is_given_back_when_it_is_over(void **state)
{
	static void *blocks[BLOCKS];
	struct memory_watch watch = {0};
	for (size_t i = 0; i < BLOCKS; i++) {
		blocks[i] = croft_alloc(BLOCK);
		memset(blocks[i], 1, BLOCK);
	}
	/* The last stays, so that the heap does not end before it. */
	for (size_t i = 0; i < BLOCKS - 1; i++)
		free(blocks[i]);
	size_t before = resident_bytes();
	assert_false(memory_turn(&watch, 5000));
	assert_true(resident_bytes() > before - BLOCKS * BLOCK / 2);
	assert_true(memory_turn(&watch, 5001));
	assert_true(resident_bytes() < before - BLOCKS * BLOCK / 2);
	free(blocks[BLOCKS - 1]);
}
#endif

static void it_is_given_back_once_and_not_beside_work(void **state)
{
	struct memory_watch watch = {0};
	assert_false(memory_turn(&watch, 100)); /* there was no work yet */
	assert_false(memory_turn(&watch, 2000));
	assert_false(memory_turn(&watch, 9000));
	assert_true(memory_turn(&watch, 9400));
	assert_false(memory_turn(&watch, 9500));
	assert_false(memory_turn(&watch, 12000));
	assert_true(memory_turn(&watch, 12000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		cmocka_unit_test(what_work_freed_is_given_back_when_it_is_over),
#endif
		cmocka_unit_test(it_is_given_back_once_and_not_beside_work),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
