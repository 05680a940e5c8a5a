/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/fs/tree_memory.h"

#include <sys/stat.h>

/* Merges roots in order at the root; false with err when it does not go. */
static bool merge(struct memory *memory, const struct croft_digest *roots, size_t count, bool replace,
	struct croft_digest *root, struct croft_error *err)
{
	struct croft_tree_source source = memory_source(memory);
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	croft_tree_builder_replace(builder, replace);
	bool ok = true;
	for (size_t i = 0; ok && i < count; i++) {
		struct croft_tree_entry entry = directory_of(roots[i]);
		ok = croft_tree_builder_add(builder, croft_slice_str(""), &entry, err);
	}
	ok = ok && croft_tree_builder_finish(builder, memory_emit, memory, root, err);
	croft_tree_builder_destroy(builder);
	return ok;
}

static void assert_same_tree(struct croft_digest expected, struct croft_digest got)
{
	char a[CROFT_DIGEST_TEXT], b[CROFT_DIGEST_TEXT];
	croft_digest_format(&expected, '-', a);
	croft_digest_format(&got, '-', b);
	assert_string_equal(b, a);
}

static void the_order_of_adding_does_not_change_the_digest(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest one = TREE(memory, "b=2", "a=1", "d/x=3", "c>a");
	struct croft_digest other = TREE(memory, "c>a", "d/x=3", "a=1", "b=2");
	assert_same_tree(one, other);
	memory_destroy(memory);
}

static void an_empty_tree_is_the_empty_blob(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest root = tree_of(memory, (const char *const[]){NULL});
	assert_true(croft_digest_is_empty(&root));
	assert_int_equal(memory->count, 0);
	memory_destroy(memory);
}

static void merging_equals_building_at_once(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest roots[] = {
		TREE(memory, "usr/bin/cc>gcc", "usr/lib/a=1", "usr/lib/gcc/12/cc1*=x"),
		TREE(memory, "usr/bin/ld*=ld", "usr/lib/a=1", "etc/ld.conf=c"),
		TREE(memory, "usr/lib/gcc/12/crt.o=o", "usr/share/doc/"),
	};
	struct croft_digest got;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(merge(memory, roots, 3, false, &got, &err), err);
	assert_same_tree(TREE(memory, "usr/bin/cc>gcc", "usr/lib/a=1", "usr/lib/gcc/12/cc1*=x",
				 "usr/bin/ld*=ld", "etc/ld.conf=c", "usr/lib/gcc/12/crt.o=o",
				 "usr/share/doc/"),
		got);
	memory_destroy(memory);
}

static void a_subtree_that_only_one_has_is_not_read(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest roots[] = {
		TREE(memory, "usr/lib/a/b/c=1"),
		TREE(memory, "usr/include/d/e=1"),
	};
	struct croft_digest got;
	struct croft_error err = CROFT_ERROR_INIT;
	memory->reads = 0;
	assert_ok(merge(memory, roots, 2, false, &got, &err), err);
	assert_int_equal(memory->reads, 4); /* two roots, two usr */
	memory_destroy(memory);
}

static void the_same_pair_in_many_places_is_merged_once(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_digest roots[2];
	for (int side = 0; side < 2; side++) {
		struct croft_digest level = TREE(memory, side ? "y=1" : "x=1");
		/* Forty levels of a directory with twice the same subdirectory: 2^40 paths. */
		for (int depth = 0; depth < 40; depth++) {
			struct croft_tree_builder *builder = croft_tree_builder_create(&source);
			struct croft_tree_entry entry = directory_of(level);
			struct croft_error err = CROFT_ERROR_INIT;
			assert_ok(croft_tree_builder_add(builder, croft_slice_str("l"), &entry, &err), err);
			assert_ok(croft_tree_builder_add(builder, croft_slice_str("r"), &entry, &err), err);
			assert_ok(croft_tree_builder_finish(builder, memory_emit, memory, &level, &err), err);
			croft_tree_builder_destroy(builder);
		}
		roots[side] = level;
	}
	struct croft_digest got;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(merge(memory, roots, 2, false, &got, &err), err);
	memory->reads = 0;
	struct croft_tree_totals totals;
	assert_ok(croft_tree_measure(&source, &got, &totals, &err), err);
	assert_true(totals.files == 2ull << 40);
	assert_true(memory->reads <= 41);
	memory_destroy(memory);
}

static void two_different_files_are_refused_by_path(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest roots[] = {
		TREE(memory, "usr/share/info/dir=1"),
		TREE(memory, "usr/share/info/dir=2"),
	};
	struct croft_digest got;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(merge(memory, roots, 2, false, &got, &err));
	assert_int_equal(err.code, CROFT_ALREADY_EXISTS);
	assert_non_null(strstr(err.message, "usr/share/info/dir"));
	memory_destroy(memory);
}

static void kinds_and_modes_and_targets_conflict(void **state)
{
	static const char *const pairs[][2] = {
		{"a=1", "a>1"}, {"a=1", "a/b=1"}, {"a>b", "a>c"}, {"a=1", "a*=1"}, {"a>b", "a/c=1"}};
	struct memory *memory = memory_create();
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		struct croft_digest roots[] = {TREE(memory, pairs[i][0]), TREE(memory, pairs[i][1])};
		struct croft_digest got;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(merge(memory, roots, 2, false, &got, &err));
		assert_int_equal(err.code, CROFT_ALREADY_EXISTS);
	}
	memory_destroy(memory);
}

static void with_replace_the_later_wins(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest roots[] = {
		TREE(memory, "d/a=1", "d/b=1", "d/c/x=1"),
		TREE(memory, "d/a=2", "d/c>b"),
		TREE(memory, "d/c/y=1"),
	};
	struct croft_digest got;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(merge(memory, roots, 3, true, &got, &err), err);
	assert_same_tree(TREE(memory, "d/a=2", "d/b=1", "d/c/y=1"), got);
	memory_destroy(memory);
}

static void adding_below_a_merged_directory_opens_it(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_tree_entry one = directory_of(TREE(memory, "usr/lib/a=1")),
				other = directory_of(TREE(memory, "usr/lib/b=1")), file = file_of("2");
	assert_ok(croft_tree_builder_add(builder, croft_slice_str(""), &one, &err), err);
	assert_ok(croft_tree_builder_add(builder, croft_slice_str("usr/lib/c"), &file, &err), err);
	assert_ok(croft_tree_builder_add(builder, croft_slice_str(""), &other, &err), err);
	struct croft_digest got;
	assert_ok(croft_tree_builder_finish(builder, memory_emit, memory, &got, &err), err);
	croft_tree_builder_destroy(builder);
	assert_same_tree(TREE(memory, "usr/lib/a=1", "usr/lib/b=1", "usr/lib/c=2"), got);
	memory_destroy(memory);
}

static void bad_paths_are_refused(void **state)
{
	static const char *const bad[] = {"/a", "a/", "a//b", "../a", "a/../b", ".", "a/."};
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	struct croft_tree_entry file = file_of("1");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(croft_tree_builder_add(builder, croft_slice_str(bad[i]), &file, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	}
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_tree_builder_add(builder, CROFT_SLICE("a\0b", 3), &file, &err));
	assert_false(croft_tree_builder_add(builder, croft_slice_str(""), &file, &err));
	struct croft_tree_entry empty_link = link_to("");
	assert_false(croft_tree_builder_add(builder, croft_slice_str("l"), &empty_link, &err));
	croft_tree_builder_destroy(builder);
	memory_destroy(memory);
}

static void node_properties_are_kept(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	Reapi__NodeProperty property = REAPI__NODE_PROPERTY__INIT, *list[] = {&property};
	property.name = (char *)"SubtreeReadOnly";
	property.value = (char *)"true";
	Reapi__NodeProperties properties = REAPI__NODE_PROPERTIES__INIT;
	properties.n_properties = 1;
	properties.properties = list;
	struct croft_tree_entry file = file_of("1"), directory = directory_of(TREE(memory, "x=1"));
	file.properties = directory.properties = &properties;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_tree_builder_add(builder, croft_slice_str("d/f"), &file, &err), err);
	assert_ok(croft_tree_builder_add(builder, croft_slice_str("d"), &directory, &err), err);
	struct croft_digest root, again;
	assert_ok(croft_tree_builder_finish(builder, memory_emit, memory, &root, &err), err);
	croft_tree_builder_destroy(builder);

	struct croft_tree_entry found;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	assert_ok(croft_tree_lookup(&source, &root, croft_slice_str("d/f"), arena, &found, &err), err);
	assert_non_null(found.properties);
	assert_string_equal(found.properties->properties[0]->name, "SubtreeReadOnly");
	assert_ok(croft_tree_lookup(&source, &root, croft_slice_str("d"), arena, &found, &err), err);
	struct croft_slice bytes;
	assert_ok(memory_read(memory, &found.digest, arena, &bytes, &err), err);
	assert_non_null(croft_directory_decode(bytes, arena, &err)->node_properties);
	struct croft_digest merged[] = {root, TREE(memory, "d/y=1")};
	assert_ok(merge(memory, merged, 2, false, &again, &err), err);
	assert_ok(croft_tree_lookup(&source, &again, croft_slice_str("d/f"), arena, &found, &err), err);
	assert_non_null(found.properties);
	memory_destroy(memory);
}

static void only_what_is_to_be_kept_becomes_properties(void **state)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct timespec time = {-1, 5};
	struct croft_tree_keep all = {true, true}, modes = {.modes = true}, mtimes = {.mtimes = true};
	const Reapi__NodeProperties *kept = croft_tree_properties(all, S_IFREG | 06750, &time, arena);
	assert_int_equal(kept->unix_mode->value, 06750);
	assert_int_equal(kept->mtime->seconds, -1);
	assert_int_equal(kept->mtime->nanos, 5);
	kept = croft_tree_properties(modes, S_IFDIR, &time, arena);
	assert_int_equal(kept->unix_mode->value, 0);
	assert_null(kept->mtime);
	kept = croft_tree_properties(mtimes, S_IFREG | 0644, &time, arena);
	assert_null(kept->unix_mode);
	assert_non_null(kept->mtime);
	assert_null(croft_tree_properties((struct croft_tree_keep){0}, S_IFREG | 0644, &time, arena));
	assert_null(croft_tree_properties(mtimes, S_IFREG | 0644, NULL, arena));
	assert_null(croft_tree_properties(modes, S_IFLNK | 0777, &time, arena));
}

static void a_missing_directory_is_named(void **state)
{
	struct memory *memory = memory_create();
	struct croft_digest roots[] = {TREE(memory, "usr/a=1"), croft_digest_of("gone", 4)};
	struct croft_digest got;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(merge(memory, roots, 2, false, &got, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	memory_destroy(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_order_of_adding_does_not_change_the_digest),
		cmocka_unit_test(an_empty_tree_is_the_empty_blob),
		cmocka_unit_test(merging_equals_building_at_once),
		cmocka_unit_test(a_subtree_that_only_one_has_is_not_read),
		cmocka_unit_test(the_same_pair_in_many_places_is_merged_once),
		cmocka_unit_test(two_different_files_are_refused_by_path),
		cmocka_unit_test(kinds_and_modes_and_targets_conflict),
		cmocka_unit_test(with_replace_the_later_wins),
		cmocka_unit_test(adding_below_a_merged_directory_opens_it),
		cmocka_unit_test(bad_paths_are_refused),
		cmocka_unit_test(node_properties_are_kept),
		cmocka_unit_test(only_what_is_to_be_kept_becomes_properties),
		cmocka_unit_test(a_missing_directory_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
