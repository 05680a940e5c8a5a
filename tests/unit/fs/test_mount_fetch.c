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

/* The kernel asks twice for a page that could not be read ahead. */
static void what_nobody_brought_is_not_waited_for_twice(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetcher *farm = fixture->farm;
	CROFT_CLEANUP_FREE char *large = croft_zalloc(CROFT_MOUNT_PARTS_FROM + 1);
	memset(large, 'x', CROFT_MOUNT_PARTS_FROM);
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "small", put(fixture, ON_FARM, "small"), false);
	add_file(builder, "large", put(fixture, ON_FARM, large), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, true, NULL);
	farm->splits = true;
	farm_cut(farm, true);
	assert_int_equal(open_error(place(fixture, &root, "small")), EIO);
	assert_int_equal(farm_asked(farm), 1);
	assert_int_equal(open_error(place(fixture, &root, "large")), EIO);
	assert_int_equal(farm_asked(farm), 1);
	assert_int_equal(farm->recipes, 1);
	farm_cut(farm, false);
	/* The one that failed last. */
	for (int tries = 0; open_error(place(fixture, &root, "large")) != 0; tries++) {
		assert_true(tries < 10000);
		usleep(1000);
	}
	assert_content(place(fixture, &root, "small"), "small");
	assert_content(place(fixture, &root, "large"), large);
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
	/* Its own message, and those below. */
	stat_of(place(fixture, &root, "d7/file"));
	assert_int_equal(count_entries(place(fixture, &root, "")), 52);
	farm_await_moved(fixture->farm, 51, 0);
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

static void who_asks_is_told_what_was_fetched(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_mount_counters counters;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "d/file", put(fixture, ON_FARM, "12345"), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, true, NULL);
	const char *directory = place(fixture, &root, "d");
	assert_ok(croft_mount_ask_counters(directory, &counters, &err), err);
	assert_int_equal(counters.fetched_blobs + counters.waiting_blobs, 0);
	assert_content(place(fixture, &root, "d/file"), "12345");
	assert_ok(croft_mount_ask_counters(place(fixture, &root, "d"), &counters, &err), err);
	assert_int_equal(counters.fetched_blobs, 1);
	assert_int_equal(counters.fetched_bytes, 5);
	assert_false(croft_mount_ask_counters("/", &counters, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
}

/* d/000 to d/199, which are on the farm; returns how much was asked for until the directory was listed. */
static unsigned list_200(struct fixture *fixture, struct croft_digest *root)
{
	struct croft_tree_builder *builder = new_tree();
	for (int i = 0; i < 200; i++) {
		char path[16];
		snprintf(path, sizeof(path), "d/%03d", i);
		add_file(builder, path, put(fixture, ON_FARM, path), false);
	}
	*root = finish_tree(fixture, LOCAL, builder);
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

/* One waits for a level of the tree at most, however deep it goes on. */
static void directories_below_a_root_come_ahead(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	char path[64] = "", name[96];
	enum { DEPTH = 8 };
	for (int i = 0; i < DEPTH; i++) {
		snprintf(path + strlen(path), sizeof(path) - strlen(path), "d%d/", i);
		for (int k = 0; k < 5; k++) {
			snprintf(name, sizeof(name), "%sother%d/file", path, k);
			add_file(builder, name, put(fixture, ON_FARM, name), false);
		}
	}
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	stat_of(place(fixture, &root, ""));
	farm_await_moved(fixture->farm, 1 + DEPTH + DEPTH * 5, 0);
	assert_in_range(fixture->farm->calls, DEPTH, DEPTH + 3);
	unsigned moved = farm_moved(fixture->farm);
	farm_hold(fixture->farm, true);
	snprintf(name, sizeof(name), "%sother3/file", path);
	assert_int_equal(stat_of(place(fixture, &root, name)).st_size, strlen(name));
	farm_hold(fixture->farm, false);
	assert_int_equal(farm_moved(fixture->farm), moved);
}

static void not_all_directories_of_a_large_tree_come_ahead(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	struct croft_digest file = put(fixture, ON_FARM, "text");
	char name[320];
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "d%d/e%d/%0250d", i % 50, i, i);
		add_file(builder, name, file, false);
	}
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	stat_of(place(fixture, &root, ""));
	farm_await_moved(fixture->farm, 0, 256 << 10);
	assert_in_range(farm_moved_bytes(fixture->farm), 256 << 10, 512 << 10);
}

/* In a directory of which some were missed, over a link on which that takes long. */
static void small_files_are_guessed_over_a_long_link(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root;
	unsigned asked = list_200(fixture, &root);
	/* Nothing was fetched yet that would pay for it. */
	__atomic_store_n(&fixture->farm->round_trip_ns, 50000000, __ATOMIC_RELAXED);
	read_one(fixture, &root, 150);
	read_one(fixture, &root, 20);
	assert_int_equal(farm_asked(fixture->farm), asked + 2);
	struct croft_tree_builder *builder = new_tree();
	uint8_t *data = calloc(1, 64000);
	struct croft_digest large = put_bytes(fixture, ON_FARM, data, 64000);
	free(data);
	add_file(builder, "large", large, false);
	struct croft_digest other = finish_tree(fixture, LOCAL, builder);
	CROFT_CLEANUP_FD int fd = open(place(fixture, &other, "large"), O_RDONLY | O_CLOEXEC);
	char byte;
	assert_int_equal(read(fd, &byte, 1), 1);
	asked = farm_asked(fixture->farm);
	/* A 32nd of 64,000 bytes, half of it at once, is 200 files of 5 bytes, of which two are here. */
	read_one(fixture, &root, 100);
	farm_settle(fixture->farm);
	assert_int_equal(farm_asked(fixture->farm), asked + 1 + 198);
	read_one(fixture, &root, 77);
	assert_int_equal(farm_asked(fixture->farm), asked + 1 + 198);
}

/* Read again after these, what was read before is not held open by the mount any more. */
enum { OTHERS = 130 };

static void evict_all(struct fixture *fixture, const struct croft_digest *root, const struct croft_digest *file)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char path[32];
	bool there = true;
	for (int i = 0; i < OTHERS; i++) {
		snprintf(path, sizeof(path), "others/%d", i);
		int fd = open(place(fixture, root, path), O_RDONLY | O_CLOEXEC);
		assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
		assert_true(read(fd, path, sizeof(path)) > 0);
		close(fd);
	}
	farm_settle(fixture->farm);
	/* Some are still open, so that it does not come down to one byte. */
	croft_store_collect(fixture->store, 1, NULL, NULL, &err);
	assert_ok(croft_store_has(fixture->store, file, 1, &there, &err), err);
	assert_false(there);
}

/* No open reaches the mount, so an open file keeps nothing from being evicted. */
static void what_was_evicted_under_an_open_file_is_fetched_again(void **state)
{
	struct fixture *fixture = *state;
	enum { SIZE = 3 << 20, PART = 4096 };
	uint8_t *data = malloc(SIZE), back[PART];
	char path[32];
	for (uint32_t i = 0; i < SIZE; i++)
		data[i] = (uint8_t)(i * 2654435761u >> 24);
	struct croft_digest file = put_bytes(fixture, ON_FARM, data, SIZE);
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "d/file", file, false);
	for (int i = 0; i < OTHERS; i++) {
		snprintf(path, sizeof(path), "others/%d", i);
		add_file(builder, path, put(fixture, ON_FARM, path), false);
	}
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	CROFT_CLEANUP_FD int fd = open(place(fixture, &root, "d/file"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0); /* the kernel reads nothing ahead */
	for (off_t at = 0; at < SIZE; at += 1 << 20) {
		uint64_t moved = farm_moved_bytes(fixture->farm);
		assert_int_equal(pread(fd, back, PART, at), PART);
		assert_memory_equal(back, data + at, PART);
		/* Directories may come meanwhile. */
		assert_in_range(farm_moved_bytes(fixture->farm) - moved, SIZE, SIZE + (1 << 20));
		evict_all(fixture, &root, &file);
	}
	/* So are Directory messages that the mount does not remember. */
	unmount_it(fixture);
	mount_it(fixture, true, NULL);
	assert_int_equal(stat_of(place(fixture, &root, "d/file")).st_size, SIZE);
	free(data);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		mount_test(what_no_source_has_is_an_input_output_error),
		mount_test(what_nobody_brought_is_not_waited_for_twice),
		mount_test(no_file_that_was_not_read_is_fetched),
		mount_test(who_asks_is_told_what_was_fetched),
		mount_test(small_files_that_are_read_in_order_are_fetched_ahead),
		mount_test(small_files_that_are_read_here_and_there_fetch_no_others),
		mount_test(readers_wait_for_a_fetch_and_all_get_it),
		mount_test(a_look_up_that_waits_holds_up_no_other_in_its_directory),
		mount_test(directories_below_a_root_come_ahead),
		mount_test(not_all_directories_of_a_large_tree_come_ahead),
		mount_test(small_files_are_guessed_over_a_long_link),
		mount_test(what_was_evicted_under_an_open_file_is_fetched_again),
		mount_test(charges_fetches_to_the_group_that_caused_them),
	};
	return run_mount_tests(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
