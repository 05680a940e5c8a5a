/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How command lines name content and places: refs, output paths, symlinks inside trees. */
#include "cli/job.h"
#include "cli/ref.h"
#include "proto/base/cleanup.h"
#include "tests/unit/fs/tree_memory.h"

#define HASH "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static void a_ref_is_a_digest_or_a_name_with_a_path(void **state)
{
	static const struct {
		const char *text, *name, *path;
		bool by_digest, has_path;
	} refs[] = {
		{"zlib", "zlib", "", false, false},
		{"zlib:usr/lib", "zlib", "usr/lib", false, true},
		{"zlib:/usr/lib/", "zlib", "usr/lib", false, true},
		{"zlib:/", "zlib", "", false, true},
		{"lib/z:a:b", "lib/z", "a:b", false, true},
		{HASH "-3", HASH "-3", "", true, false},
		{HASH "/3", HASH "/3", "", true, false},
		{HASH "-3:x", HASH "-3", "x", true, true},
		{HASH, HASH, "", false, false},
	};
	for (size_t i = 0; i < sizeof(refs) / sizeof(refs[0]); i++) {
		struct ref ref;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_ok(ref_parse(refs[i].text, &ref, &err), err);
		assert_true(croft_slice_equal(ref.name, croft_slice_str(refs[i].name)));
		assert_true(croft_slice_equal(ref.path, croft_slice_str(refs[i].path)));
		assert_int_equal(ref.by_digest, refs[i].by_digest);
		assert_int_equal(ref.has_path, refs[i].has_path);
	}
}

static void names_that_could_be_mistaken_are_refused(void **state)
{
	static const char *const bad[] = {"", ":x", "a b", "a\tb", "a\x7f"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct ref ref;
		assert_false(ref_parse(bad[i], &ref, NULL));
	}
	assert_false(ref_name_check(croft_slice_str(HASH "-3"), NULL));
	assert_false(ref_name_check(croft_slice_str("a:b"), NULL));
	assert_true(ref_name_check(croft_slice_str("project/libc6_2.36+deb12"), NULL));
}

static void output_paths_become_relative_to_the_working_directory(void **state)
{
	static const struct {
		const char *home, *path, *expected;
	} paths[] = {
		{"", "out", "out"},
		{"", "/out", "out"},
		{"", "a/./b//c/", "a/b/c"},
		{"", "a/../b", "b"},
		{"", ".", "."},
		{"", "/", "."},
		{"src", "out", "out"},
		{"src", "/out", "../out"},
		{"src/a", "/src/b", "../b"},
		{"src/a", "../../x", "../../x"},
		{"src/a", "/src/a", "."},
		{"src/a", "/", "../.."},
		{"src", "../src/x", "x"},
		{"src", "/srcs", "../srcs"},
	};
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		const char *got = output_path(paths[i].home, paths[i].path, arena, &err);
		assert_non_null(got);
		assert_string_equal(got, paths[i].expected);
	}
	assert_null(output_path("", "..", arena, &err));
	assert_null(output_path("src", "../../x", arena, &err));
	assert_null(output_path("", "", arena, &err));
}

static void a_pair_is_split_at_its_last_equals_sign(void **state)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *where;
	assert_string_equal(output_of_pair("a=b=c", &where, arena, NULL), "a=b");
	assert_string_equal(where, "c");
	assert_null(output_of_pair("a", &where, arena, NULL));
	assert_null(output_of_pair("=b", &where, arena, NULL));
	assert_null(output_of_pair("a=", &where, arena, NULL));
}

static void an_input_is_a_directory_here_or_a_ref(void **state)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct input input;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(input_parse("/usr", false, arena, &input, &err), err);
	assert_string_equal(input.directory, "/usr");
	assert_string_equal(input.place, "");
	assert_ok(input_parse("/usr:src/usr/", false, arena, &input, &err), err);
	assert_string_equal(input.directory, "/usr");
	assert_string_equal(input.place, "src/usr");
	assert_ok(input_parse(HASH "-3:x", false, arena, &input, &err), err);
	assert_null(input.directory);
	assert_string_equal(input.place, "x");
	assert_ok(input_parse("/usr", true, arena, &input, &err), err);
	assert_null(input.directory);
}

/* Symlinks in trees --------------------------------------------------------------------------- */

static bool follow(struct memory *memory, const struct croft_digest *root, const char *path,
	bool last, struct croft_arena *arena, struct croft_tree_entry *entry, struct croft_error *err)
{
	struct croft_tree_source source = memory_source(memory);
	return tree_follow(&source, root, croft_slice_str(path), last, arena, entry, err);
}

static void symlinks_are_followed_inside_the_tree(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest root = TREE(memory, "usr/bin/gcc-12=x", "usr/bin/gcc>gcc-12",
		"usr/bin/cc>/etc/alternatives/cc", "etc/alternatives/cc>/usr/bin/gcc", "bin>usr/bin",
		"up>../../../usr/bin/gcc-12", "loop>loop", "gone>nowhere");
	struct croft_digest x = croft_digest_of("x", 1);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	static const char *const same[] = {"usr/bin/gcc-12", "usr/bin/gcc", "usr/bin/cc", "bin/cc",
		"/bin/../bin/./gcc", "up", "bin/../bin/gcc"};
	struct croft_tree_entry entry;
	struct croft_error err = CROFT_ERROR_INIT;
	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		assert_ok(follow(memory, &root, same[i], true, arena, &entry, &err), err);
		assert_true(croft_digest_equal(&entry.digest, &x));
	}
	assert_ok(follow(memory, &root, "bin/cc", false, arena, &entry, &err), err);
	assert_int_equal(entry.kind, CROFT_ENTRY_SYMLINK);
	assert_ok(follow(memory, &root, "bin", true, arena, &entry, &err), err);
	assert_int_equal(entry.kind, CROFT_ENTRY_DIRECTORY);
	assert_false(follow(memory, &root, "loop", true, arena, &entry, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_false(follow(memory, &root, "gone", true, arena, &entry, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	memory_destroy(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ref_is_a_digest_or_a_name_with_a_path),
		cmocka_unit_test(names_that_could_be_mistaken_are_refused),
		cmocka_unit_test(output_paths_become_relative_to_the_working_directory),
		cmocka_unit_test(a_pair_is_split_at_its_last_equals_sign),
		cmocka_unit_test(an_input_is_a_directory_here_or_a_ref),
		cmocka_unit_test(symlinks_are_followed_inside_the_tree),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
