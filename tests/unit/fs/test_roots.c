/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/fs/tree_memory.h"

#include "fs/roots.h"

enum { MIB = 1 << 20 };

struct file {
	const char *path;
	uint64_t size;
};

/* A tree of files that are only named: their sizes are what counts. */
static struct croft_digest sized_tree(struct memory *memory, const struct file *files)
{
	struct croft_tree_source source = memory_source(memory);
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	struct croft_digest root;
	struct croft_error err = CROFT_ERROR_INIT;
	for (; files->path; files++) {
		struct croft_tree_entry entry = file_of(files->path);
		entry.digest.size_bytes = files->size;
		assert_ok(croft_tree_builder_add(builder, croft_slice_str(files->path), &entry, &err), err);
	}
	assert_ok(croft_tree_builder_finish(builder, memory_emit, memory, &root, &err), err);
	croft_tree_builder_destroy(builder);
	return root;
}

struct place {
	struct memory *memory;
	struct croft_roots *roots;
	struct croft_arena *arena;
	struct croft_root *list;
	size_t count;
};

static int set_up(void **state)
{
	struct place *place = calloc(1, sizeof(*place));
	place->memory = memory_create();
	struct croft_tree_source source = memory_source(place->memory);
	place->roots = croft_roots_create(&source);
	place->arena = croft_arena_create();
	*state = place;
	return 0;
}

static int tear_down(void **state)
{
	struct place *place = *state;
	croft_roots_destroy(place->roots);
	croft_arena_destroy(place->arena);
	memory_destroy(place->memory);
	free(place);
	return 0;
}

static void find(struct place *place, const struct file *files)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest root = sized_tree(place->memory, files);
	assert_ok(croft_roots_find(place->roots, &root, place->arena, &place->list, &place->count, &err),
		err);
}

static void heavy_files_and_subtrees_are_found_and_no_byte_twice(void **state)
{
	struct place *place = *state;
	find(place, (const struct file[]){{"bin/cc", 30 * MIB}, {"bin/ls", 1000},
		{"include/a", MIB - 1}, {"include/sub/b", MIB - 1}, {"share/doc/x", 100}, {NULL, 0}});
	assert_int_equal(place->count, 2);
	assert_false(place->list[0].directory);
	assert_int_equal(place->list[0].bytes, 30 * MIB);
	assert_true(place->list[1].directory);
	assert_int_equal(place->list[1].bytes, 2 * MIB - 2);
}

static void a_small_tree_has_none(void **state)
{
	struct place *place = *state;
	find(place, (const struct file[]){{"a", 1000}, {"b/c", 1000}, {NULL, 0}});
	assert_int_equal(place->count, 0);
}

static void a_new_version_keeps_labels_and_most_roots(void **state)
{
	struct place *place = *state;
	find(place, (const struct file[]){{"lib/one", 5 * MIB}, {"lib/two", 9 * MIB}, {NULL, 0}});
	struct croft_root *before = place->list;
	find(place, (const struct file[]){{"lib/one", 6 * MIB}, {"lib/two", 9 * MIB}, {NULL, 0}});
	assert_true(croft_digest_equal(&before[0].digest, &place->list[0].digest));
	assert_false(croft_digest_equal(&before[1].digest, &place->list[1].digest));
	assert_true(before[0].label == place->list[0].label && before[1].label == place->list[1].label);
}

static void what_was_found_is_not_read_again(void **state)
{
	struct place *place = *state;
	const struct file files[] = {{"lib/one", 5 * MIB}, {"deep/er/two", 9 * MIB}, {NULL, 0}};
	find(place, files);
	size_t reads = place->memory->reads;
	struct croft_digest root = sized_tree(place->memory, files);
	reads = place->memory->reads;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_roots_find(place->roots, &root, place->arena, &place->list, &place->count, &err),
		err);
	assert_int_equal(place->memory->reads, reads);
	assert_int_equal(place->count, 2);
}

static void a_missing_directory_is_an_error(void **state)
{
	struct place *place = *state;
	struct croft_digest absent = croft_digest_of("absent", 6);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_roots_find(
		place->roots, &absent, place->arena, &place->list, &place->count, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(heavy_files_and_subtrees_are_found_and_no_byte_twice),
		TEST(a_small_tree_has_none),
		TEST(a_new_version_keeps_labels_and_most_roots),
		TEST(what_was_found_is_not_read_again),
		TEST(a_missing_directory_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
