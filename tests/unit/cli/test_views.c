/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of trees as paths of a mount: every name has one, and each path leads back to its name. */
#include "cli/views.h"
#include "proto/base/cleanup.h"
#include "tests/unit/test.h"

enum { MOST = 32 };

struct seen {
	char *entries[MOST];
	size_t count;
};

static void see(void *visitor, const char *name)
{
	struct seen *seen = visitor;
	assert_true(seen->count < MOST);
	seen->entries[seen->count++] = croft_strdup(name);
}

static int compare_text(const void *one, const void *other)
{
	return strcmp(*(char *const *)one, *(char *const *)other);
}

/* The entries of the folder `prefix` ("a/", or ""), given all names, sorted. */
static void list(const char *const *names, size_t count, const char *prefix, struct seen *seen)
{
	struct views_folder *folder = views_folder_create(strlen(prefix), see, seen);
	for (size_t i = 0; i < count; i++)
		if (strncmp(names[i], prefix, strlen(prefix)) == 0)
			views_folder_add(folder, names[i]);
	views_folder_destroy(folder);
	qsort(seen->entries, seen->count, sizeof(*seen->entries), compare_text);
}

static void drop(struct seen *seen)
{
	for (size_t i = 0; i < seen->count; i++)
		free(seen->entries[i]);
	seen->count = 0;
}

static const char *const names[] = {"%", ".", "..", "...", "/a", "a", "a!", "a/b", "b/", "b//c", "b/../d", "b/c",
	"b/c/d", "b/c/e", "b/f/g", "b/f/h", "b/f%2Fx", "p/q/r"};
enum { NAMES = sizeof(names) / sizeof(*names) };

static void a_slash_makes_a_directory_where_it_can(void **state)
{
	const char *const top[] = {"%25", "%2E", "%2E%2E", "%2Fa", "...", "a", "a!", "a%2Fb", "b", "b%2F", "b%2F%2Fc",
		"b%2F..%2Fd", "p"};
	const char *const below[] = {"c", "c%2Fd", "c%2Fe", "f", "f%252Fx"};
	struct seen seen = {0};
	list(names, NAMES, "", &seen);
	for (size_t i = 0; i < seen.count; i++)
		assert_string_equal(seen.entries[i], top[i < 13 ? i : 12]);
	assert_int_equal(seen.count, 13);
	drop(&seen);
	const char *const plain[] = {"b/c", "b/c/d", "b/c/e", "b/f%2Fx", "b/f/g", "b/f/h"};
	list(plain, 6, "b/", &seen);
	assert_int_equal(seen.count, 5);
	for (size_t i = 0; i < 5; i++)
		assert_string_equal(seen.entries[i], below[i]);
	drop(&seen);
}

/* Walks all folders, from `path` on, whose name is `prefix`; a path that is a name itself is counted. */
static void walk(const char *path, const char *prefix, unsigned counts[NAMES])
{
	struct seen seen = {0};
	list(names, NAMES, prefix, &seen);
	for (size_t i = 0; i < seen.count; i++) {
		CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
		char *entry = croft_arena_printf(arena, "%s%s%s", path, *path ? "/" : "", seen.entries[i]);
		assert_null(strchr(seen.entries[i], '/'));
		assert_true(seen.entries[i][0] && strcmp(seen.entries[i], ".") && strcmp(seen.entries[i], ".."));
		CROFT_CLEANUP_FREE char *name = views_name_of(entry);
		assert_non_null(name);
		bool is_name = false;
		for (size_t at = 0; at < NAMES; at++)
			if (strcmp(names[at], name) == 0) {
				counts[at]++;
				is_name = true;
			}
		if (!is_name)
			walk(entry, croft_arena_printf(arena, "%s/", name), counts);
	}
	drop(&seen);
}

static void every_name_has_one_path_that_leads_back(void **state)
{
	unsigned counts[NAMES] = {0};
	walk("", "", counts);
	for (size_t i = 0; i < NAMES; i++) {
		if (counts[i] != 1)
			print_message("%s: %u paths\n", names[i], counts[i]);
		assert_int_equal(counts[i], 1);
	}
}

static void paths_that_no_name_has_are_none(void **state)
{
	assert_null(views_name_of("a%"));
	assert_null(views_name_of("a%2"));
	assert_null(views_name_of("%zz"));
	assert_null(views_name_of("%00"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slash_makes_a_directory_where_it_can),
		cmocka_unit_test(every_name_has_one_path_that_leads_back),
		cmocka_unit_test(paths_that_no_name_has_are_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
