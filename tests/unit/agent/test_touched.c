/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/test.h"

#include "agent/touched.h"

#include <string.h>
#include <zstd.h>

static void a_list_is_the_same_in_whatever_order_files_were_opened(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	const char *one[] = {"usr/lib/b", "a/x", "a.y", "a"}, *other[] = {"a", "a.y", "a/x", "usr/lib/b"};
	static const char sorted[] = "a\0a.y\0a/x\0usr/lib/b"; /* with the last NUL */
	char text[64];
	struct croft_slice list = croft_touched_list(one, 4, arena);
	assert_true(croft_slice_equal(list, croft_touched_list(other, 4, arena)));
	assert_int_equal(ZSTD_getFrameContentSize(list.data, list.size), sizeof(sorted));
	assert_int_equal(ZSTD_decompress(text, sizeof(text), list.data, list.size), sizeof(sorted));
	assert_memory_equal(text, sorted, sizeof(sorted));
	/* Nothing opened is something known, too. */
	list = croft_touched_list(NULL, 0, arena);
	assert_int_equal(ZSTD_getFrameContentSize(list.data, list.size), 0);
	croft_arena_destroy(arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_is_the_same_in_whatever_order_files_were_opened),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
