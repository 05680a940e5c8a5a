/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is fetched, when, for whom, and who waits for it. */
#include "tests/unit/fs/mount_main.h"

static void what_no_source_has_is_an_input_output_error(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest nowhere = croft_digest_of("nowhere", 7);
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "missing", nowhere, false);
	add_file(builder, "there", put(fixture, ON_FARM, "there"), false);
	add(builder, "lost", (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY,
		.digest = nowhere});
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	assert_int_equal(stat_of(place(fixture, &root, "missing")).st_size, 7);
	assert_int_equal(open_error(place(fixture, &root, "missing")), EIO);
	assert_content(place(fixture, &root, "there"), "there");
	assert_int_equal(count_entries(place(fixture, &root, "")), 2 + 3);
	struct stat stat;
	assert_int_equal(lstat(place(fixture, &root, "lost"), &stat), -1);
	assert_int_equal(errno, EIO);
	/* Not remembered: what comes to be later is seen. */
	put(fixture, ON_FARM, "nowhere");
	assert_content(place(fixture, &root, "missing"), "nowhere");
}

static void no_file_that_was_not_read_is_fetched(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	char name[32], text[32];
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "d%d/file", i);
		snprintf(text, sizeof(text), "text %d", i);
		add_file(builder, name, put(fixture, ON_FARM, text), false);
	}
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	/* Its own message, and those of a directory on the path. */
	stat_of(place(fixture, &root, "d7/file"));
	assert_int_equal(farm_moved(fixture->farm), 2);
	/* Listing brings the messages below together. */
	assert_int_equal(count_entries(place(fixture, &root, "")), 52);
	assert_int_equal(farm_moved(fixture->farm), 51);
	assert_true(fixture->farm->calls < 10);
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "d%d", i);
		assert_int_equal(count_entries(place(fixture, &root, name)), 3);
	}
	assert_int_equal(farm_moved(fixture->farm), 51);
	assert_content(place(fixture, &root, "d3/file"), "text 3");
	assert_int_equal(farm_moved(fixture->farm), 52);
}

/* d/000 to d/199, on the farm; returns how much was asked for until the directory was listed. */
static unsigned list_200(struct fixture *fixture, struct croft_digest *root)
{
	struct croft_tree_builder *builder = new_tree();
	for (int i = 0; i < 200; i++) {
		char path[16];
		snprintf(path, sizeof(path), "d/%03d", i);
		add_file(builder, path, put(fixture, ON_FARM, path), false);
	}
	*root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	assert_int_equal(count_entries(place(fixture, root, "d")), 202);
	return farm_asked(fixture->farm);
}

static void read_one(struct fixture *fixture, const struct croft_digest *root, int number)
{
	char path[16];
	snprintf(path, sizeof(path), "d/%03d", number);
	assert_content(place(fixture, root, path), path);
}

static void small_files_that_are_read_in_order_are_fetched_ahead(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root;
	unsigned asked = list_200(fixture, &root);
	for (int i = 0; i < 3; i++)
		read_one(fixture, &root, i);
	assert_int_equal(farm_asked(fixture->farm), asked + 3);
	read_one(fixture, &root, 3);
	farm_await(fixture->farm, asked + 4 + 16);
	for (int i = 4; i < 200; i++)
		read_one(fixture, &root, i);
	assert_int_equal(farm_moved(fixture->farm), asked + 200);
}

static void small_files_that_are_read_here_and_there_fetch_no_others(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root;
	unsigned asked = list_200(fixture, &root), count = 0;
	for (int i = 0; i < 60; i++, count++)
		read_one(fixture, &root, i * 77 % 200);
	for (int i = 1; i < 199; i += 3, count++)
		read_one(fixture, &root, i);
	assert_in_range(farm_asked(fixture->farm), asked + 60, asked + count);
}

static void readers_wait_for_a_fetch_and_all_get_it(void **state)
{
	struct fixture *fixture = *state;
	enum { READERS = 16 };
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "file", put(fixture, ON_FARM, "shared"), false);
	add_file(builder, "local", put(fixture, LOCAL, "local"), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, true, NULL);
	farm_hold(fixture->farm, true);
	pthread_t threads[READERS];
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s", place(fixture, &root, "file"));
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_thread, path), 0);
	farm_await(fixture->farm, 1);
	/* More readers than threads of the mount wait; it goes on answering. */
	assert_content(place(fixture, &root, "local"), "local");
	farm_hold(fixture->farm, false);
	for (int i = 0; i < READERS; i++) {
		void *result;
		pthread_join(threads[i], &result);
		assert_int_equal((intptr_t)result, 0);
	}
	assert_int_equal(farm_moved(fixture->farm), 1);
}

static void a_look_up_that_waits_holds_up_no_other_in_its_directory(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *here = new_tree(), *there = new_tree();
	add_file(here, "file", put(fixture, LOCAL, "here"), false);
	add_file(there, "file", put(fixture, LOCAL, "there"), false);
	struct croft_digest local = finish_tree(fixture, LOCAL, here);
	struct croft_digest remote = finish_tree(fixture, ON_FARM, there);
	mount_it(fixture, true, NULL);
	farm_hold(fixture->farm, true);
	pthread_t thread;
	void *count;
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s", place(fixture, &remote, ""));
	assert_int_equal(pthread_create(&thread, NULL, list_thread, path), 0);
	farm_await(fixture->farm, 1);
	assert_content(place(fixture, &local, "file"), "here");
	farm_hold(fixture->farm, false);
	pthread_join(thread, &count);
	assert_int_equal((intptr_t)count, 3);
}

static void charges_fetches_to_the_group_that_caused_them(void **state)
{
	struct fixture *fixture = *state;
	struct croft_mount_account account;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "d/file", put(fixture, ON_FARM, "123456"), false);
	add_file(builder, "d/other", croft_digest_of("nowhere", 7), false);
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	uint64_t group = own_pid_namespace();
	assert_false(croft_mount_account_read(fixture->mount, group, &account));
	croft_mount_account_begin(fixture->mount, group);
	croft_mount_account_begin(fixture->mount, 42);
	farm_hold(fixture->farm, true);
	pid_t child = start_reader(place(fixture, &root, "d/file"));
	farm_await(fixture->farm, 1);
	usleep(50000);
	assert_true(croft_mount_account_read(fixture->mount, group, &account));
	assert_true(account.stall_ns > 40000000 && account.stall_ns < 10000000000);
	farm_hold(fixture->farm, false);
	waitpid(child, NULL, 0);
	assert_content(place(fixture, &root, "d/file"), "123456");
	assert_int_equal(open_error(place(fixture, &root, "d/other")), EIO);
	assert_true(croft_mount_account_end(fixture->mount, group, &account));
	assert_int_equal(account.fetched_files, 1);
	assert_int_equal(account.fetched_bytes, 6);
	assert_int_equal(account.directory_blobs, 2);
	assert_true(account.directory_bytes > 80);
	/* The kernel tries once more for the page itself when read-ahead fails. */
	assert_true(account.errors >= 1 && account.errors <= 2);
	assert_non_null(strstr(account.first_error, "no source has it"));
	assert_false(croft_mount_account_end(fixture->mount, group, &account));
	assert_true(croft_mount_account_end(fixture->mount, 42, &account));
	assert_int_equal(account.fetched_files, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		mount_test(what_no_source_has_is_an_input_output_error),
		mount_test(no_file_that_was_not_read_is_fetched),
		mount_test(small_files_that_are_read_in_order_are_fetched_ahead),
		mount_test(small_files_that_are_read_here_and_there_fetch_no_others),
		mount_test(readers_wait_for_a_fetch_and_all_get_it),
		mount_test(a_look_up_that_waits_holds_up_no_other_in_its_directory),
		mount_test(charges_fetches_to_the_group_that_caused_them),
	};
	return run_mount_tests(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
