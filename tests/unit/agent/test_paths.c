/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/paths.h"
#include "tests/unit/test.h"

#include <string.h>

static void dots_are_resolved_without_leaving_the_top(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	assert_string_equal(croft_path_resolve("/", "/", "a/./b//c", arena), "/a/b/c");
	assert_string_equal(croft_path_resolve("/", "/a/b", "../../x", arena), "/x");
	assert_string_equal(croft_path_resolve("/", "/a/b", ".", arena), "/a/b");
	assert_string_equal(croft_path_resolve("/", "/a", "..", arena), "/");
	assert_null(croft_path_resolve("/", "/a", "../..", arena));
	assert_null(croft_path_resolve("/root", "/root/w", "../../etc", arena));
	assert_null(croft_path_resolve("/root", "/root/w", "../../rooted", arena));
	assert_string_equal(croft_path_resolve("/root", "/root/w", "..", arena), "/root");
	croft_arena_destroy(arena);
}

static void outputs_keep_the_words_of_the_client(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	char *paths[] = {".", "../../../buildstream-install"};
	Reapi__Command command = REAPI__COMMAND__INIT;
	command.working_directory = "buildstream/t/b.bst";
	command.n_output_paths = 2;
	command.output_paths = paths;
	struct croft_layout layout;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_layout_of(&command, "/", arena, &layout, &err), err);
	assert_string_equal(layout.working_directory, "/buildstream/t/b.bst");
	assert_string_equal(layout.outputs[0].inside, "/buildstream/t/b.bst");
	assert_string_equal(layout.outputs[1].inside, "/buildstream-install");
	assert_string_equal(layout.outputs[1].declared, "../../../buildstream-install");
	croft_arena_destroy(arena);
}

static void paths_out_of_the_root_are_refused_by_name(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	char *bad[] = {"/etc/passwd", "../x", "a/../../x"};
	for (size_t i = 0; i < 3; i++) {
		Reapi__Command command = REAPI__COMMAND__INIT;
		command.n_output_paths = 1;
		command.output_paths = &bad[i];
		struct croft_layout layout;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(croft_layout_of(&command, "/", arena, &layout, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		assert_non_null(strstr(err.message, bad[i]));
	}
	croft_arena_destroy(arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dots_are_resolved_without_leaving_the_top),
		cmocka_unit_test(outputs_keep_the_words_of_the_client),
		cmocka_unit_test(paths_out_of_the_root_are_refused_by_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
