/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A mount's life: readers that are killed, the end of it, and processes that hand it over. */
#include "tests/unit/fs/mount_main.h"

#include <malloc.h>
#include <stdatomic.h>

static void a_killed_process_does_not_wait_for_its_fetch(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "d/file", put(fixture, ON_FARM, "text"), false);
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	stat_of(place(fixture, &root, ""));
	farm_hold(fixture->farm, true);
	unsigned asked = farm_asked(fixture->farm);
	pid_t child = start_reader(place(fixture, &root, "d/file"));
	farm_await(fixture->farm, asked + 1);
	kill(child, SIGKILL);
	uint64_t before = croft_now_ns();
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_true(croft_now_ns() - before < 2000000000);
	farm_hold(fixture->farm, false);
	assert_content(place(fixture, &root, "d/file"), "text");
}

static void a_signal_that_does_not_kill_does_not_disturb_a_read(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "file", put(fixture, ON_FARM, "text"), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, true, NULL);
	stat_of(place(fixture, &root, "file"));
	farm_hold(fixture->farm, true);
	unsigned asked = farm_asked(fixture->farm);
	pid_t child = start_reader(place(fixture, &root, "file"));
	farm_await(fixture->farm, asked + 1);
	kill(child, SIGUSR1);
	usleep(300000);
	assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
	farm_hold(fixture->farm, false);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void unmounting_ends_what_waits_and_what_is_open(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "file", put(fixture, ON_FARM, "text"), false);
	add_file(builder, "local", put(fixture, LOCAL, "local"), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, true, NULL);
	int fd = open(place(fixture, &root, "local"), O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	farm_hold(fixture->farm, true);
	unsigned asked = farm_asked(fixture->farm);
	pid_t child = start_reader(place(fixture, &root, "file"));
	farm_await(fixture->farm, asked + 1);
	unmount_it(fixture);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	/* By us, by the kernel, or by the kernel's end of a ring. */
	assert_true(WEXITSTATUS(status) == ENOTCONN || WEXITSTATUS(status) == ECONNABORTED ||
		WEXITSTATUS(status) == ECANCELED);
	char byte;
	assert_int_equal(read(fd, &byte, 1), -1);
	close(fd);
	assert_int_equal(rmdir(fixture->mountpoint), 0);
}

static void serves_to_the_end_when_it_is_unmounted_from_outside(void **state)
{
	struct fixture *fixture = *state;
	mount_it(fixture, false, NULL);
	stat_of(fixture->mountpoint);
	assert_int_equal(umount2(fixture->mountpoint, 0), 0);
	pthread_join(fixture->thread, NULL);
	croft_mount_destroy(fixture->mount);
	fixture->mounted = false;
}

/* The mount of the fixture goes on as another object, as it would in another process. */
static void hand_over(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_mount_saved kept = {-1, -1};
	assert_null(croft_mount_bound(fixture->mount));
	croft_mount_suspend(fixture->mount);
	pthread_join(fixture->thread, NULL);
	if (fixture->farm->held)
		farm_cancel(fixture->farm);
	assert_ok(croft_mount_save(fixture->mount, &kept, &err), err);
	croft_mount_destroy(fixture->mount);
	saved = &kept;
	mount_it(fixture, true, NULL);
	saved = NULL;
	close(kept.device);
	close(kept.state);
}

static void what_is_open_goes_on_after_a_hand_over(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	char name[64];
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "many/%d", i);
		add_file(builder, name, put(fixture, true, name), i % 2);
	}
	add_file(builder, "d/file", put(fixture, false, "of the farm"), false);
	add_file(builder, "d/other", put(fixture, false, "of the farm as well"), false);
	add_link(builder, "d/link", "file");
	struct croft_digest root = finish_tree(fixture, true, builder);
	mount_it(fixture, true, NULL);
	CROFT_CLEANUP_FD int directory = open(place(fixture, &root, "d"), O_RDONLY | O_DIRECTORY);
	CROFT_CLEANUP_FD int file = openat(directory, "file", O_RDONLY);
	assert_true(directory >= 0 && file >= 0);
	struct stat before, after;
	assert_int_equal(fstat(file, &before), 0);
	assert_int_equal(count_entries(place(fixture, &root, "many")), 5002);
	for (int i = 0; i < 3; i++)
		hand_over(fixture);
	/* Nothing of it is in the page cache. */
	char text[32];
	assert_int_equal(read(file, text, sizeof(text)), 11);
	assert_memory_equal(text, "of the farm", 11);
	assert_int_equal(fstat(file, &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_equal(readlinkat(directory, "link", text, sizeof(text)), 4);
	CROFT_CLEANUP_FD int other = openat(directory, "other", O_RDONLY);
	assert_int_equal(read(other, text, sizeof(text)), 19);
	assert_content(place(fixture, &root, "many/17"), "many/17");
	assert_int_equal(count_entries(place(fixture, &root, "many")), 5002);
	/* What the kernel forgets now it learned from the first. */
	CROFT_CLEANUP_FD int drop = open("/proc/sys/vm/drop_caches", O_WRONLY);
	assert_true(drop < 0 || write(drop, "2", 1) == 1);
	assert_content(place(fixture, &root, "many/18"), "many/18");
}

static void who_waits_for_a_fetch_gets_it_after_a_hand_over(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *here = new_tree(), *there = new_tree();
	add_file(here, "d/file", put(fixture, ON_FARM, "slow"), false);
	add_file(there, "e/file", put(fixture, ON_FARM, "slower"), false);
	struct croft_digest local = finish_tree(fixture, LOCAL, here);
	struct croft_digest remote = finish_tree(fixture, ON_FARM, there);
	mount_it(fixture, true, NULL);
	farm_hold(fixture->farm, true);
	pthread_t threads[3];
	void *results[3];
	char paths[2][PATH_MAX];
	snprintf(paths[0], PATH_MAX, "%s", place(fixture, &local, "d/file"));
	snprintf(paths[1], PATH_MAX, "%s", place(fixture, &remote, ""));
	/* One in READ, two in LOOKUP. */
	assert_int_equal(pthread_create(&threads[0], NULL, read_thread, paths[0]), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, list_thread, paths[1]), 0);
	assert_int_equal(pthread_create(&threads[2], NULL, list_thread, paths[1]), 0);
	unsigned asked = 0, each = 2; /* the two share the kernel's look-up */
	for (int i = 0; i < 3; i++) {
		farm_await(fixture->farm, asked + each);
		asked = farm_asked(fixture->farm);
		hand_over(fixture);
	}
	farm_hold(fixture->farm, false);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], &results[i]);
	assert_null(results[0]);
	assert_int_equal((intptr_t)results[1], 3);
	assert_int_equal((intptr_t)results[2], 3);
}

enum { STORM_THREADS = 12, STORM_FILES = 400 };

struct storm {
	struct fixture *fixture;
	struct croft_digest root;
	int number, wrong;
	atomic_int *left; /* files that are not read yet */
};

/* Each file once, so that each costs a look-up and a read. */
static void *read_many(void *user)
{
	struct storm *storm = user;
	char path[PATH_MAX], digest[CROFT_DIGEST_TEXT], text[64], expected[64];
	croft_digest_format(&storm->root, '-', digest);
	for (int i = 0; i < STORM_FILES; i++) {
		snprintf(expected, sizeof(expected), "d%d/%d", storm->number, i);
		snprintf(path, sizeof(path), "%s/by-digest/%s/%s", storm->fixture->mountpoint, digest, expected);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text));
		if (fd >= 0)
			close(fd);
		storm->wrong += size != (ssize_t)strlen(expected) || memcmp(text, expected, (size_t)size) != 0;
		atomic_fetch_sub(storm->left, 1);
	}
	return NULL;
}

static void no_request_is_lost_while_it_is_handed_over_again_and_again(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	for (int thread = 0; thread < STORM_THREADS; thread++)
		for (int i = 0; i < STORM_FILES; i++) {
			char name[64];
			snprintf(name, sizeof(name), "d%d/%d", thread, i);
			add_file(builder, name, put(fixture, LOCAL, name), false);
		}
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, true, NULL);
	pthread_t threads[STORM_THREADS];
	struct storm storms[STORM_THREADS];
	atomic_int left = STORM_THREADS * STORM_FILES;
	for (int i = 0; i < STORM_THREADS; i++) {
		storms[i] = (struct storm){fixture, root, i, 0, &left};
		assert_int_equal(pthread_create(&threads[i], NULL, read_many, &storms[i]), 0);
	}
	int rounds = 0;
	for (; rounds < 3 || (atomic_load(&left) > 0 && rounds < 40); rounds++)
		hand_over(fixture);
	for (int i = 0; i < STORM_THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(storms[i].wrong, 0);
	}
}

static void one_that_was_unmounted_cannot_be_handed_over(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_mount_saved kept;
	mount_it(fixture, true, NULL);
	stat_of(fixture->mountpoint); /* it is being served */
	assert_int_equal(umount2(fixture->mountpoint, 0), 0);
	croft_mount_suspend(fixture->mount);
	pthread_join(fixture->thread, NULL);
	assert_false(croft_mount_save(fixture->mount, &kept, &err));
	assert_non_null(strstr(err.message, "was unmounted"));
	croft_mount_destroy(fixture->mount);
	fixture->mounted = false;
}

static void is_unmounted_when_nothing_is_open(void **state)
{
	struct fixture *fixture = *state;
	mount_it(fixture, true, NULL);
	int held = open(fixture->mountpoint, O_RDONLY | O_DIRECTORY);
	assert_false(croft_mount_unmount_idle(fixture->mount));
	close(held);
	assert_true(croft_mount_unmount_idle(fixture->mount));
	pthread_join(fixture->thread, NULL); /* it ends by itself */
	croft_mount_destroy(fixture->mount);
	fixture->mounted = false;
}

struct held {
	size_t descriptors, threads, mounts, memory;
};

static struct held what_is_held(const struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct held held = {count_entries("/proc/self/fd"), count_entries("/proc/self/task"), 0, mallinfo2().uordblks};
	char *mounts;
	size_t size;
	assert_ok(croft_read_file(AT_FDCWD, "/proc/self/mountinfo", 1 << 30, &mounts, &size, &err), err);
	for (const char *at = mounts; (at = memmem(at, size - (size_t)(at - mounts), fixture->mountpoint,
							   strlen(fixture->mountpoint)));
		at++)
		held.mounts++;
	free(mounts);
	return held;
}

/* By each transport half of them. */
static void can_be_mounted_a_thousand_times(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "file", put(fixture, LOCAL, "text"), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	struct held before = {0};
	for (int i = 0; i < 500; i++) {
		mount_it(fixture, false, NULL);
		assert_content(place(fixture, &root, "file"), "text");
		unmount_it(fixture);
		if (i == 10)
			before = what_is_held(fixture);
	}
	struct held after = what_is_held(fixture);
	assert_int_equal(after.descriptors, before.descriptors);
	assert_int_equal(after.threads, before.threads);
	assert_int_equal(after.mounts, 0);
	/* A mount's struct alone would be more than that each time. */
	assert_true(after.memory < before.memory + 489 * 100);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		mount_test(a_killed_process_does_not_wait_for_its_fetch),
		mount_test(a_signal_that_does_not_kill_does_not_disturb_a_read),
		mount_test(unmounting_ends_what_waits_and_what_is_open),
		mount_test(serves_to_the_end_when_it_is_unmounted_from_outside),
		mount_test(what_is_open_goes_on_after_a_hand_over),
		mount_test(who_waits_for_a_fetch_gets_it_after_a_hand_over),
		mount_test(no_request_is_lost_while_it_is_handed_over_again_and_again),
		mount_test(one_that_was_unmounted_cannot_be_handed_over),
		mount_test(is_unmounted_when_nothing_is_open),
		mount_test(can_be_mounted_a_thousand_times),
	};
	return run_mount_tests(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
