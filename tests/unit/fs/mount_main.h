/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What tests of a mount look at it with, and their main: each test runs over /dev/fuse and over io_uring. Called with
 * a path the program is a reader of it, whose exit status is the errno that it met.
 */
#ifndef CROFT_TESTS_UNIT_FS_MOUNT_MAIN_H
#define CROFT_TESTS_UNIT_FS_MOUNT_MAIN_H

#include "tests/unit/fs/mount_fixture.h"

#include <dirent.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>

static const bool LOCAL = true, ON_FARM = false;

static inline void assert_content(const char *path, const char *expected)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char *data;
	size_t size;
	assert_ok(croft_read_file(AT_FDCWD, path, 1 << 30, &data, &size, &err), err);
	assert_int_equal(size, strlen(expected));
	assert_memory_equal(data, expected, size);
	free(data);
}

static inline struct stat stat_of(const char *path)
{
	struct stat stat;
	if (lstat(path, &stat) != 0)
		fail_msg("%s: %s", path, strerror(errno));
	return stat;
}

static inline int open_error(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	char byte;
	int result = read(fd, &byte, 1) < 0 ? errno : 0;
	close(fd);
	return result;
}

static inline size_t count_entries(const char *path)
{
	DIR *directory = opendir(path);
	assert_non_null(directory);
	size_t count = 0;
	errno = 0;
	while (readdir(directory))
		count++;
	assert_int_equal(errno, 0);
	closedir(directory);
	return count;
}

static inline uint64_t own_pid_namespace(void)
{
	struct stat stat;
	assert_int_equal(stat_of("/proc/self/ns/pid").st_mode & S_IFMT, S_IFLNK);
	assert_int_equal(fstatat(AT_FDCWD, "/proc/self/ns/pid", &stat, 0), 0);
	return stat.st_ino;
}

static inline void *read_thread(void *path)
{
	return (void *)(intptr_t)open_error(path);
}

/* How many entries it has, or an errno below zero. */
static inline void *list_thread(void *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	intptr_t count = 0;
	for (errno = 0; directory && readdir(directory);)
		count++;
	count = errno ? -errno : count;
	if (directory)
		closedir(directory);
	return (void *)count;
}

/* A process that reads the first byte of a file; its exit status is the errno. It is this program
 * again: a mere fork would hold the FUSE device open, whose closing ends what waits. */
static inline pid_t start_reader(const char *path)
{
	pid_t child;
	char *arguments[] = {"test_mount", (char *)path, NULL};
	assert_int_equal(posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, NULL), 0);
	return child;
}

/* It does not kill. */
static void on_signal(int number)
{
}

/* Whether the kernel offers FUSE over io_uring to new mounts. */
static inline bool set_rings(int parameter, char wanted)
{
	return parameter >= 0 && pwrite(parameter, &wanted, 1, 0) == 1;
}

#define mount_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static int run_mount_tests(int argc, char **argv, const struct CMUnitTest *tests, size_t count)
{
	if (argc == 2) {
		signal(SIGUSR1, on_signal);
		return open_error(argv[1]);
	}
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0) {
		printf("skipped: mounting needs root and /dev/fuse\n");
		return 77;
	}
	/* The whole machine's: the programs with this main take turns, and put it back. */
	CROFT_CLEANUP_FD int parameter =
		open("/sys/module/fuse/parameters/enable_uring", O_RDWR | O_CLOEXEC);
	char before = 'N';
	if (parameter >= 0 && (flock(parameter, LOCK_EX) != 0 || pread(parameter, &before, 1, 0) != 1))
		return 1;
	set_rings(parameter, 'N');
	int failed = _cmocka_run_group_tests("over /dev/fuse", tests, count, NULL, NULL);
	if (set_rings(parameter, 'Y'))
		failed += _cmocka_run_group_tests("over io_uring", tests, count, NULL, NULL);
	else
		printf("skipped: this kernel has no FUSE over io_uring\n");
	set_rings(parameter, before);
	return failed;
}

#endif
