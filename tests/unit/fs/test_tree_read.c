/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/fs/tree_memory.h"

#include "proto/rpc/message.h"

#include <stdio.h>

static bool collect(void *user, struct croft_slice path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	char *list = user;
	snprintf(list + strlen(list), 512 - strlen(list), "%.*s%s ", (int)path.size,
		(const char *)path.data,
		entry->kind == CROFT_ENTRY_DIRECTORY ? "/" : entry->kind == CROFT_ENTRY_SYMLINK ? "@" : "");
	return true;
}

static void a_walk_is_depth_first_in_name_order(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_digest root = TREE(memory, "b/z=1", "b/a>z", "b/m/", "a=1", "c*=1");
	char list[512] = "";
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_tree_walk(&source, &root, collect, list, &err), err);
	assert_string_equal(list, "a b/ b/a@ b/m/ b/z c ");
	memory_destroy(memory);
}

static bool stop(void *user, struct croft_slice path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	return croft_error_set(err, CROFT_CANCELLED, "stopped at %.*s", (int)path.size,
		(const char *)path.data);
}

static void a_visit_can_stop_the_walk(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_digest root = TREE(memory, "b=1", "a=1");
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_tree_walk(&source, &root, stop, NULL, &err));
	assert_string_equal(err.message, "stopped at a");
	memory_destroy(memory);
}

static void lookup_finds_each_kind_and_says_what_is_missing(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_digest root = TREE(memory, "usr/bin/cc*=gcc", "usr/lib64>lib");
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_tree_entry entry;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_tree_lookup(&source, &root, croft_slice_str(""), arena, &entry, &err), err);
	assert_int_equal(entry.kind, CROFT_ENTRY_DIRECTORY);
	assert_ok(
		croft_tree_lookup(&source, &root, croft_slice_str("usr/bin/cc"), arena, &entry, &err), err);
	assert_true(entry.executable && entry.kind == CROFT_ENTRY_FILE && entry.digest.size_bytes == 3);
	assert_ok(
		croft_tree_lookup(&source, &root, croft_slice_str("usr/lib64"), arena, &entry, &err), err);
	assert_int_equal(entry.kind, CROFT_ENTRY_SYMLINK);
	assert_false(
		croft_tree_lookup(&source, &root, croft_slice_str("usr/sbin/x"), arena, &entry, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	assert_string_equal(err.message, "there is no \"usr/sbin\"");
	assert_false(
		croft_tree_lookup(&source, &root, croft_slice_str("usr/lib64/x"), arena, &entry, &err));
	assert_string_equal(err.message, "\"usr/lib64\" is no directory");
	memory_destroy(memory);
}

static void a_list_is_one_level_in_name_order(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_digest root = TREE(memory, "c=1", "b/x=1", "a>b");
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_tree_entry *entries;
	size_t count;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_tree_list(&source, &root, arena, &entries, &count, &err), err);
	assert_int_equal(count, 3);
	assert_int_equal(entries[0].kind, CROFT_ENTRY_SYMLINK);
	assert_int_equal(entries[1].kind, CROFT_ENTRY_DIRECTORY);
	assert_memory_equal(entries[2].name.data, "c", 1);
	memory_destroy(memory);
}

static void a_measure_counts_each_occurrence(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_digest root = TREE(memory, "a/x=123", "b/x=123", "b/l>x", "c=4");
	struct croft_tree_totals totals;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_tree_measure(&source, &root, &totals, &err), err);
	assert_int_equal(totals.files, 3);
	assert_int_equal(totals.directories, 2);
	assert_int_equal(totals.symlinks, 1);
	assert_int_equal(totals.bytes, 7);
	memory_destroy(memory);
}

static void a_tree_of_endless_depth_is_refused(void **state)
{
	struct memory *memory = memory_create();
	struct croft_tree_source source = memory_source(memory);
	struct croft_digest level = TREE(memory, "x=1");
	for (int depth = 0; depth < 1100; depth++) {
		Reapi__Directory directory = REAPI__DIRECTORY__INIT;
		Reapi__DirectoryNode node = REAPI__DIRECTORY_NODE__INIT, *nodes[] = {&node};
		node.name = (char *)"d";
		node.digest = croft_digest_to_message(&level, memory->arena);
		directory.n_directories = 1;
		directory.directories = nodes;
		struct croft_slice bytes = croft_message_encode(&directory.base, memory->arena);
		level = croft_digest_of(bytes.data, bytes.size);
		assert_true(memory_emit(memory, &level, bytes, NULL));
	}
	char list[512] = "";
	struct croft_tree_totals totals;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_tree_walk(&source, &level, collect, list, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_false(croft_tree_measure(&source, &level, &totals, &err));
	memory_destroy(memory);
}

/* Canonical form -------------------------------------------------------------------------- */

static Reapi__Digest some_digest(void)
{
	Reapi__Digest digest = REAPI__DIGEST__INIT;
	digest.hash = (char *)"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
	digest.size_bytes = 3;
	return digest;
}

static bool check_names(const char *file1, const char *file2, const char *link)
{
	Reapi__Digest digest = some_digest();
	Reapi__FileNode one = REAPI__FILE_NODE__INIT, two = REAPI__FILE_NODE__INIT, *files[] = {&one, &two};
	Reapi__SymlinkNode symlink = REAPI__SYMLINK_NODE__INIT, *symlinks[] = {&symlink};
	one.name = (char *)file1;
	two.name = (char *)file2;
	one.digest = two.digest = &digest;
	symlink.name = (char *)link;
	symlink.target = (char *)"t";
	Reapi__Directory directory = REAPI__DIRECTORY__INIT;
	directory.n_files = 2;
	directory.files = files;
	directory.n_symlinks = 1;
	directory.symlinks = symlinks;
	struct croft_error err = CROFT_ERROR_INIT;
	bool ok = croft_directory_check(&directory, &err);
	assert_true(ok || err.code == CROFT_INVALID_ARGUMENT);
	return ok;
}

static void names_must_be_sorted_unique_and_allowed(void **state)
{
	assert_true(check_names("a", "b", "c"));
	assert_true(check_names("b", "c", "a"));
	assert_true(check_names("a", "a\xff", "a\x01")); /* bytes, not text */
	assert_false(check_names("b", "a", "c"));
	assert_false(check_names("a", "a", "c"));
	assert_false(check_names("a", "b", "b")); /* a file and a symlink */
	assert_false(check_names("", "b", "c"));
	assert_false(check_names(".", "b", "c"));
	assert_false(check_names("..", "b", "c"));
	assert_false(check_names("a/b", "b", "c"));
}

static void digests_and_targets_must_be_there(void **state)
{
	Reapi__Digest digest = some_digest();
	Reapi__FileNode file = REAPI__FILE_NODE__INIT, *files[] = {&file};
	file.name = (char *)"a";
	Reapi__Directory directory = REAPI__DIRECTORY__INIT;
	directory.n_files = 1;
	directory.files = files;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_directory_check(&directory, &err));
	file.digest = &digest;
	assert_ok(croft_directory_check(&directory, &err), err);
	digest.size_bytes = -1;
	assert_false(croft_directory_check(&directory, &err));
	Reapi__SymlinkNode symlink = REAPI__SYMLINK_NODE__INIT, *symlinks[] = {&symlink};
	symlink.name = (char *)"b";
	directory = (Reapi__Directory)REAPI__DIRECTORY__INIT;
	directory.n_symlinks = 1;
	directory.symlinks = symlinks;
	assert_false(croft_directory_check(&directory, &err));
}

static void a_nul_in_a_name_is_not_overlooked(void **state)
{
	/* directories { name: "a\0b" digest { hash: … size_bytes: 3 } } */
	uint8_t wire[128] = {0x12, 0, 0x0a, 3, 'a', 0, 'b', 0x12, 68, 0x0a, 64};
	size_t size = 11;
	memset(wire + size, 'a', 64);
	size += 64;
	wire[size++] = 0x10;
	wire[size++] = 3;
	wire[1] = (uint8_t)(size - 2);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	assert_null(croft_directory_decode(CROFT_SLICE(wire, size), arena, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	wire[5] = 'x';
	assert_ok(croft_directory_decode(CROFT_SLICE(wire, size), arena, &err) != NULL, err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_walk_is_depth_first_in_name_order),
		cmocka_unit_test(a_visit_can_stop_the_walk),
		cmocka_unit_test(lookup_finds_each_kind_and_says_what_is_missing),
		cmocka_unit_test(a_list_is_one_level_in_name_order),
		cmocka_unit_test(a_measure_counts_each_occurrence),
		cmocka_unit_test(a_tree_of_endless_depth_is_refused),
		cmocka_unit_test(names_must_be_sorted_unique_and_allowed),
		cmocka_unit_test(digests_and_targets_must_be_there),
		cmocka_unit_test(a_nul_in_a_name_is_not_overlooked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
