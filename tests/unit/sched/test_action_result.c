/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/action_result.h"
#include "tests/unit/test.h"

static struct croft_arena *arena;

static int set_up(void **state)
{
	arena = croft_arena_create();
	return 0;
}

static int tear_down(void **state)
{
	croft_arena_destroy(arena);
	return 0;
}

static Reapi__Digest *digest_of(const char *text)
{
	struct croft_digest digest = croft_digest_of(text, strlen(text));
	return croft_digest_to_message(&digest, arena);
}

static void every_kind_of_output_is_a_ref_of_its_kind(void **state)
{
	Reapi__OutputFile file = REAPI__OUTPUT_FILE__INIT, empty = REAPI__OUTPUT_FILE__INIT;
	Reapi__OutputFile *files[] = {&file, &empty};
	Reapi__OutputDirectory directory = REAPI__OUTPUT_DIRECTORY__INIT;
	Reapi__OutputDirectory *directories[] = {&directory};
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	file.digest = digest_of("file");
	empty.digest = digest_of("");
	directory.tree_digest = digest_of("tree");
	directory.root_directory_digest = digest_of("root");
	result.output_files = files;
	result.n_output_files = 2;
	result.output_directories = directories;
	result.n_output_directories = 1;
	result.stdout_digest = digest_of("out");
	result.stderr_digest = digest_of("err");
	static const struct {
		enum croft_ref_kind kind;
		const char *text;
	} expected[] = {{CROFT_REF_BLOB, "file"}, {CROFT_REF_TREE, "tree"},
		{CROFT_REF_DIRECTORY, "root"}, {CROFT_REF_BLOB, "out"}, {CROFT_REF_BLOB, "err"}};
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref *refs;
	size_t count;
	assert_ok(croft_action_result_refs(&result, arena, &refs, &count, &err), err);
	assert_int_equal(count, 5);
	for (size_t i = 0; i < count; i++) {
		struct croft_digest digest = croft_digest_of(expected[i].text, strlen(expected[i].text));
		assert_int_equal(refs[i].kind, expected[i].kind);
		assert_true(croft_digest_equal(&refs[i].digest, &digest));
	}
}

static void an_output_without_a_digest_is_named(void **state)
{
	Reapi__OutputFile file = REAPI__OUTPUT_FILE__INIT;
	Reapi__OutputFile *files[] = {&file};
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	file.path = "bin/tool";
	result.output_files = files;
	result.n_output_files = 1;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref *refs;
	size_t count;
	assert_false(croft_action_result_refs(&result, arena, &refs, &count, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_non_null(strstr(err.message, "bin/tool"));
}

static void a_size_of_zero_with_another_hash_is_refused(void **state)
{
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.stdout_digest = digest_of("something");
	result.stdout_digest->size_bytes = 0;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref *refs;
	size_t count;
	assert_false(croft_action_result_refs(&result, arena, &refs, &count, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_of_output_is_a_ref_of_its_kind),
		cmocka_unit_test(an_output_without_a_digest_is_named),
		cmocka_unit_test(a_size_of_zero_with_another_hash_is_refused),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
