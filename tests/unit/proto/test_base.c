/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/base/arena.h"
#include "proto/base/io.h"
#include "proto/base/slice.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void arena_memory_is_aligned_and_kept(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	char *first = croft_arena_strdup(arena, "kept");
	for (size_t size = 1; size < 100000; size *= 3)
		assert_int_equal((uintptr_t)croft_arena_zalloc(arena, size) % 16, 0);
	assert_string_equal(first, "kept");
	croft_arena_reset(arena);
	assert_int_equal(croft_arena_used(arena), 0);
	croft_arena_destroy(arena);
}

static void error_says_context_then_cause(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_error_errno(&err, ENOSPC, "writing %s", "x"));
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	assert_false(croft_error_wrap(&err, "storing"));
	assert_string_equal(err.message, "storing: writing x: No space left on device");
}

static void slices_order_by_bytes_then_length(void **state)
{
	assert_true(croft_slice_compare(croft_slice_str("a"), croft_slice_str("ab")) < 0);
	assert_true(croft_slice_compare(croft_slice_str("b"), croft_slice_str("ab")) > 0);
	assert_int_equal(croft_slice_compare(CROFT_SLICE("\xff", 1), CROFT_SLICE("\xff", 1)), 0);
}

static void a_file_is_replaced_whole_and_a_tree_removed(void **state)
{
	char folder[] = "/tmp/croft-test-XXXXXX";
	assert_non_null(mkdtemp(folder));
	char path[200];
	struct croft_error err = CROFT_ERROR_INIT;
	snprintf(path, sizeof(path), "%s/a/b", folder);
	assert_ok(croft_make_directories(path, &err), err);
	strcat(path, "/file");
	assert_ok(croft_write_file(AT_FDCWD, path, "one", 3, 0644, &err), err);
	assert_ok(croft_write_file(AT_FDCWD, path, "two", 3, 0644, &err), err);
	char *text;
	size_t size;
	assert_ok(croft_read_file(AT_FDCWD, path, 100, &text, &size, &err), err);
	assert_string_equal(text, "two");
	free(text);
	assert_false(croft_read_file(AT_FDCWD, path, 2, &text, &size, &err));
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	assert_ok(croft_remove_tree(AT_FDCWD, folder, &err), err);
	assert_int_equal(open(path, O_RDONLY), -1);
}

/* A job may leave one. */
static void a_tree_deeper_than_there_are_descriptors_is_removed(void **state)
{
	char folder[] = "/tmp/croft-test-XXXXXX";
	struct croft_error err = CROFT_ERROR_INIT;
	struct rlimit before, few = {600, 600};
	assert_non_null(mkdtemp(folder));
	getrlimit(RLIMIT_NOFILE, &before);
	few.rlim_max = before.rlim_max;
	int at = open(folder, O_RDONLY | O_DIRECTORY);
	for (int depth = 0; depth < 3000; depth++) {
		assert_int_equal(mkdirat(at, "d", 0700), 0);
		int below = openat(at, "d", O_RDONLY | O_DIRECTORY);
		assert_true(below >= 0);
		close(at);
		at = below;
	}
	close(at);
	setrlimit(RLIMIT_NOFILE, &few);
	bool removed = croft_remove_tree(AT_FDCWD, folder, &err);
	setrlimit(RLIMIT_NOFILE, &before);
	assert_ok(removed, err);
	assert_int_equal(access(folder, F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arena_memory_is_aligned_and_kept),
		cmocka_unit_test(error_says_context_then_cause),
		cmocka_unit_test(slices_order_by_bytes_then_length),
		cmocka_unit_test(a_file_is_replaced_whole_and_a_tree_removed),
		cmocka_unit_test(a_tree_deeper_than_there_are_descriptors_is_removed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
