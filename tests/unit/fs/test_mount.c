/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The lazy filesystem as programs see it, through a real mount. */
#include "tests/unit/fs/mount_fixture.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static const bool LOCAL = true, ON_FARM = false;

static void assert_content(const char *path, const char *expected)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char *data;
	size_t size;
	assert_ok(croft_read_file(AT_FDCWD, path, 1 << 30, &data, &size, &err), err);
	assert_int_equal(size, strlen(expected));
	assert_memory_equal(data, expected, size);
	free(data);
}

static struct stat stat_of(const char *path)
{
	struct stat stat;
	if (lstat(path, &stat) != 0)
		fail_msg("%s: %s", path, strerror(errno));
	return stat;
}

static int open_error(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	char byte;
	int result = read(fd, &byte, 1) < 0 ? errno : 0;
	close(fd);
	return result;
}

static size_t count_entries(const char *path)
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

static void shows_files_directories_and_symlinks_as_the_tree_says(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "usr/bin/tool", put(fixture, LOCAL, "#!/bin/sh\n"), true);
	add_file(builder, "usr/share/text", put(fixture, LOCAL, "hello\n"), false);
	add_file(builder, "empty", croft_digest_empty, false);
	add_link(builder, "bin", "usr/bin");
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);

	assert_content(place(fixture, &root, "bin/tool"), "#!/bin/sh\n");
	assert_content(place(fixture, &root, "usr/share/text"), "hello\n");
	assert_content(place(fixture, &root, "empty"), "");
	struct stat tool = stat_of(place(fixture, &root, "usr/bin/tool"));
	assert_int_equal(tool.st_mode, S_IFREG | 0755);
	assert_int_equal(tool.st_size, 10);
	assert_int_equal(tool.st_nlink, 1);
	assert_int_equal(tool.st_uid, 1234);
	assert_int_equal(tool.st_gid, 2345);
	assert_int_equal(tool.st_mtim.tv_sec, 1321009871);
	assert_int_equal(stat_of(place(fixture, &root, "usr/share/text")).st_mode, S_IFREG | 0644);
	struct stat directory = stat_of(place(fixture, &root, "usr"));
	assert_int_equal(directory.st_mode, S_IFDIR | 0755);
	assert_int_equal(directory.st_nlink, 4);
	assert_int_equal(stat_of(place(fixture, &root, "bin")).st_mode, S_IFLNK | 0777);
	char target[32];
	assert_int_equal(readlink(place(fixture, &root, "bin"), target, sizeof(target)), 7);
	assert_memory_equal(target, "usr/bin", 7);
	assert_int_equal(count_entries(place(fixture, &root, "")), 2 + 3);
	assert_int_equal(open_error(place(fixture, &root, "usr/nothing")), ENOENT);
	assert_int_equal(open_error(place(fixture, &root, "empty/below")), ENOTDIR);
	assert_int_equal(open(place(fixture, &root, "new"), O_CREAT | O_WRONLY | O_CLOEXEC, 0644), -1);
	assert_int_equal(errno, EROFS);
}

static void shows_modes_and_times_of_node_properties(void **state)
{
	struct fixture *fixture = *state;
	Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
	time.seconds = 1234567890;
	time.nanos = 123456789;
	Google__Protobuf__UInt32Value mode = GOOGLE__PROTOBUF__UINT32_VALUE__INIT;
	mode.value = 0640;
	Reapi__NodeProperties properties = REAPI__NODE_PROPERTIES__INIT;
	properties.mtime = &time;
	properties.unix_mode = &mode;
	struct croft_digest text = put(fixture, LOCAL, "text");
	struct croft_tree_builder *builder = new_tree();
	add(builder, "file", (struct croft_tree_entry){.kind = CROFT_ENTRY_FILE, .digest = text,
		.properties = &properties});
	add_file(builder, "plain", text, false);
	struct croft_digest below = finish_tree(fixture, LOCAL, builder);

	mode.value = 01770;
	Reapi__Directory message = REAPI__DIRECTORY__INIT;
	message.node_properties = &properties;
	uint8_t bytes[256];
	size_t size = reapi__directory__pack(&message, bytes);
	struct croft_digest directory = put_bytes(fixture, LOCAL, bytes, size);
	builder = new_tree();
	add(builder, "a", (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY, .digest = below});
	add(builder, "b", (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY,
		.digest = directory});
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);

	struct stat stat = stat_of(place(fixture, &root, "a/file"));
	assert_int_equal(stat.st_mode, S_IFREG | 0640);
	assert_int_equal(stat.st_mtim.tv_sec, 1234567890);
	assert_int_equal(stat.st_mtim.tv_nsec, 123456789);
	stat = stat_of(place(fixture, &root, "a/plain"));
	assert_int_equal(stat.st_mode, S_IFREG | 0644);
	assert_int_equal(stat.st_mtim.tv_sec, 1321009871);
	stat = stat_of(place(fixture, &root, "b"));
	assert_int_equal(stat.st_mode, S_IFDIR | 01770);
	assert_int_equal(stat.st_mtim.tv_sec, 1234567890);
	/* The same from a listing, where READDIRPLUS brings the attributes. */
	DIR *listed = opendir(place(fixture, &root, ""));
	while (readdir(listed))
		;
	closedir(listed);
	assert_int_equal(stat_of(place(fixture, &root, "b")).st_mode, S_IFDIR | 01770);
}

static void a_directory_of_100000_entries_is_listed_and_looked_into(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 100000 };
	struct croft_digest text = put(fixture, LOCAL, "text");
	struct croft_tree_builder *builder = new_tree();
	char name[32];
	for (int i = 0; i < COUNT; i++) {
		snprintf(name, sizeof(name), "entry-%d", i);
		add_file(builder, name, text, i % 2);
	}
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);
	assert_content(place(fixture, &root, "entry-77777"), "text");
	assert_int_equal(count_entries(place(fixture, &root, "")), COUNT + 2);
	assert_int_equal(count_entries(place(fixture, &root, "")), COUNT + 2);
	for (int i = 0; i < COUNT; i += 777) {
		snprintf(name, sizeof(name), "entry-%d", i);
		assert_int_equal(stat_of(place(fixture, &root, name)).st_mode,
			S_IFREG | (i % 2 ? 0755 : 0644));
	}
	assert_int_equal(open_error(place(fixture, &root, "entry-100000")), ENOENT);
}

static void names_and_targets_are_bytes(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	char longest[256];
	memset(longest, 'x', 255);
	longest[255] = '\0';
	add_file(builder, "\xff\xfe\x01 \n\\", put(fixture, LOCAL, "odd"), false);
	add_file(builder, longest, put(fixture, LOCAL, "long"), false);
	add_link(builder, "link", "\x80\x81");
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);
	assert_content(place(fixture, &root, "\xff\xfe\x01 \n\\"), "odd");
	assert_content(place(fixture, &root, longest), "long");
	char target[8];
	assert_int_equal(readlink(place(fixture, &root, "link"), target, sizeof(target)), 2);
	assert_memory_equal(target, "\x80\x81", 2);
	assert_int_equal(count_entries(place(fixture, &root, "")), 2 + 3);
}

static void a_large_file_reads_the_same_at_any_offset(void **state)
{
	struct fixture *fixture = *state;
	enum { SIZE = 9 * 1024 * 1024 + 17 };
	uint8_t *data = malloc(SIZE), *read_back = malloc(SIZE);
	for (size_t i = 0; i < SIZE; i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	struct croft_digest digest = put_bytes(fixture, ON_FARM, data, SIZE);
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "large", digest, false);
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	int fd = open(place(fixture, &root, "large"), O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	for (int i = 0; i < 200; i++) {
		size_t offset = (size_t)i * 7654321 % SIZE, size = 1 + (size_t)i * 977;
		size_t expected = SIZE - offset < size ? SIZE - offset : size;
		assert_int_equal(pread(fd, read_back, size, (off_t)offset), expected);
		assert_memory_equal(read_back, data + offset, expected);
	}
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_read_all(fd, read_back, SIZE, "large", &err), err);
	assert_memory_equal(read_back, data, SIZE);
	close(fd);
	free(data);
	free(read_back);
}

static uint64_t own_pid_namespace(void)
{
	struct stat stat;
	assert_int_equal(stat_of("/proc/self/ns/pid").st_mode & S_IFMT, S_IFLNK);
	assert_int_equal(fstatat(AT_FDCWD, "/proc/self/ns/pid", &stat, 0), 0);
	return stat.st_ino;
}

enum { PARTED = 24 << 20 };

static uint8_t *mount_parted(struct fixture *fixture, struct croft_digest *digest,
	struct croft_digest *root)
{
	uint8_t *data = malloc(PARTED);
	uint64_t x = 88172645463325252;
	for (size_t i = 0; i < PARTED; i += 8) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		memcpy(data + i, &x, 8);
	}
	*digest = put_bytes(fixture, ON_FARM, data, PARTED);
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "large", *digest, false);
	*root = finish_tree(fixture, ON_FARM, builder);
	fixture->farm->splits = true;
	mount_it(fixture, true, NULL);
	return data;
}

static uint64_t farm_moved_bytes(struct croft_fetcher *farm)
{
	CROFT_LOCKED(&farm->lock);
	return farm->moved_bytes;
}

static void of_a_large_file_only_what_is_read_is_fetched(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest digest, root;
	uint8_t *data = mount_parted(fixture, &digest, &root), back[4096];
	struct croft_mount_account account;
	croft_mount_account_begin(fixture->mount, own_pid_namespace());
	int fd = open(place(fixture, &root, "large"), O_RDONLY | O_CLOEXEC);
	for (size_t at = 12 << 20; at; at = at == 12 << 20 ? 3 << 20 : 0) {
		assert_int_equal(pread(fd, back, sizeof(back), (off_t)at), sizeof(back));
		assert_memory_equal(back, data + at, sizeof(back));
	}
	/* The kernel reads a megabyte ahead. */
	assert_in_range(farm_moved_bytes(fixture->farm), 1, 10 << 20);
	struct croft_mount_range ranges[4];
	assert_int_equal(croft_mount_read_ranges(fixture->mount, &digest, ranges, 4), 2);
	assert_true(ranges[0].offset <= 3 << 20 && ranges[0].offset + ranges[0].length > 3 << 20);
	assert_true(ranges[0].offset + ranges[0].length < ranges[1].offset);
	assert_true(ranges[1].offset <= 12 << 20 && ranges[1].offset + ranges[1].length > 12 << 20);
	/* With room for one, that has what lies between. */
	assert_int_equal(croft_mount_read_ranges(fixture->mount, &digest, &ranges[2], 1), 1);
	assert_int_equal(ranges[2].offset, ranges[0].offset);
	assert_int_equal(
		ranges[2].length, ranges[1].offset + ranges[1].length - ranges[0].offset);
	assert_int_equal(croft_mount_read_ranges(fixture->mount, &root, ranges, 4), 0);
	assert_true(croft_mount_account_end(fixture->mount, own_pid_namespace(), &account));
	assert_int_equal(account.fetched_files, 1);
	close(fd);
	free(data);
}

static void a_large_file_that_was_read_whole_by_parts_is_a_blob(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest digest, root;
	uint8_t *data = mount_parted(fixture, &digest, &root), *back = malloc(PARTED);
	int fd = open(place(fixture, &root, "large"), O_RDONLY | O_CLOEXEC);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_read_all(fd, back, PARTED, "large", &err), err);
	assert_memory_equal(back, data, PARTED);
	assert_in_range(farm_moved_bytes(fixture->farm), PARTED, PARTED + 4096);
	bool there = false;
	for (int tries = 0; tries < 3000 && !there; tries++) {
		assert_ok(croft_store_has(fixture->store, &digest, 1, &there, &err), err);
		usleep(10000);
	}
	assert_true(there);
	close(fd);
	free(back);
	free(data);
}

static void a_file_whose_chunks_have_gone_is_fetched_whole(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest digest, root;
	uint8_t *data = mount_parted(fixture, &digest, &root), *back = malloc(PARTED);
	int fd = open(place(fixture, &root, "large"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, back, 4096, 0), 4096);
	pthread_mutex_lock(&fixture->farm->lock);
	for (size_t i = 0; i < fixture->farm->blob_count; i++)
		if (fixture->farm->blobs[i].digest.size_bytes > 100000 &&
			!croft_digest_equal(&fixture->farm->blobs[i].digest, &digest))
			fixture->farm->blobs[i].digest.hash[0] ^= 1;
	pthread_mutex_unlock(&fixture->farm->lock);
	assert_int_equal(pread(fd, back, 4096, PARTED - 4096), 4096);
	assert_memory_equal(back, data + PARTED - 4096, 4096);
	close(fd);
	free(back);
	free(data);
}

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

static void without_a_fetcher_only_the_store_is_shown(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "missing", croft_digest_of("nowhere", 7), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);
	assert_int_equal(open_error(place(fixture, &root, "missing")), EIO);
	struct croft_digest other = croft_digest_of("other", 5);
	assert_int_equal(open_error(place(fixture, &other, "")), ENOENT);
}

static void a_malformed_directory_is_an_input_output_error(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest garbage = put(fixture, ON_FARM, "this is no Directory");
	struct croft_tree_builder *builder = new_tree();
	add(builder, "bad", (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY,
		.digest = garbage});
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, NULL);
	assert_int_equal(open_error(place(fixture, &garbage, "")), EIO);
	assert_int_equal(open_error(place(fixture, &root, "bad")), EIO);
	assert_int_equal(count_entries(place(fixture, &root, "")), 2 + 1);
}

static void only_the_exact_name_of_a_digest_is_a_tree(void **state)
{
	struct fixture *fixture = *state;
	mount_it(fixture, true, NULL);
	char path[PATH_MAX];
	const char *const names[] = {"x", "by-digest/x", "by-digest/-1",
		"by-digest/E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855-0",
		"by-digest/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855-00",
		"by-digest/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855:0",
		"by-digest/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855-"
		"99999999999999999999"};
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		snprintf(path, sizeof(path), "%s/%s", fixture->mountpoint, names[i]);
		assert_int_equal(open_error(path), ENOENT);
	}
	assert_int_equal(count_entries(place(fixture, &croft_digest_empty, "")), 2);
	struct croft_digest nowhere = croft_digest_of("nowhere", 7);
	assert_int_equal(open_error(place(fixture, &nowhere, "")), ENOENT);
	assert_int_equal(count_entries(fixture->mountpoint), 2 + 1);
}

static void a_tree_can_be_the_root_of_the_mount(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "a/b", put(fixture, ON_FARM, "text"), false);
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	mount_it(fixture, true, &root);
	assert_int_equal(farm_asked(fixture->farm), 0);
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/a/b", fixture->mountpoint);
	assert_content(path, "text");
	struct stat stat = stat_of(fixture->mountpoint);
	assert_int_equal(stat.st_mode, S_IFDIR | 0755);
	assert_int_equal(stat.st_nlink, 3);
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

static void *read_thread(void *path)
{
	return (void *)(intptr_t)open_error(path);
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

/* A process that reads the first byte of a file; its exit status is the errno. It is this program
 * again: a mere fork would hold the FUSE device open, whose closing ends what waits. */
static pid_t start_reader(const char *path)
{
	pid_t child;
	char *arguments[] = {"test_mount", (char *)path, NULL};
	assert_int_equal(posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, NULL), 0);
	return child;
}

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

static void on_signal(int number)
{
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
	classic = true;
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

static void *list_thread(void *path)
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

static void who_waits_for_a_fetch_gets_it_after_a_hand_over(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *here = new_tree(), *there = new_tree();
	add_file(here, "d/file", put(fixture, ON_FARM, "slow"), false);
	add_file(there, "e/file", put(fixture, ON_FARM, "slower"), false);
	struct croft_digest local = finish_tree(fixture, LOCAL, here);
	struct croft_digest remote = finish_tree(fixture, ON_FARM, there);
	classic = true;
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

static void one_that_was_unmounted_cannot_be_handed_over(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_mount_saved kept;
	classic = true;
	mount_it(fixture, true, NULL);
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

static void can_be_mounted_a_thousand_times(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "file", put(fixture, LOCAL, "text"), false);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	size_t descriptors = 0;
	for (int i = 0; i < 500; i++) { /* by each transport */
		mount_it(fixture, false, NULL);
		assert_content(place(fixture, &root, "file"), "text");
		unmount_it(fixture);
		if (i == 10)
			descriptors = count_entries("/proc/self/fd");
	}
	assert_int_equal(count_entries("/proc/self/fd"), descriptors);
}

static void one_content_is_one_inode_and_each_place_of_a_directory_its_own(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest text = put(fixture, LOCAL, "text");
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "file", text, false);
	add_file(builder, "tool", text, true);
	struct croft_digest below = finish_tree(fixture, LOCAL, builder);
	struct croft_tree_entry directory = {.kind = CROFT_ENTRY_DIRECTORY, .digest = below};
	builder = new_tree();
	add(builder, "a", directory);
	add(builder, "b", directory);
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);
	struct stat one = stat_of(place(fixture, &root, "a/file"));
	assert_int_equal(one.st_ino, stat_of(place(fixture, &root, "b/file")).st_ino);
	assert_int_equal(one.st_ino, stat_of(place(fixture, &below, "file")).st_ino);
	assert_int_not_equal(one.st_ino, stat_of(place(fixture, &root, "a/tool")).st_ino);
	assert_int_not_equal(stat_of(place(fixture, &root, "a")).st_ino,
		stat_of(place(fixture, &root, "b")).st_ino);
	/* Linux gives a directory inode one place; were it shared, using b would move a. */
	char before[PATH_MAX], now[PATH_MAX];
	assert_non_null(getcwd(before, sizeof(before)));
	char *a = realpath(place(fixture, &root, "a"), NULL);
	assert_int_equal(chdir(a), 0);
	stat_of(place(fixture, &root, "b"));
	assert_int_equal(count_entries(place(fixture, &root, "b")), 4);
	assert_non_null(getcwd(now, sizeof(now)));
	assert_string_equal(now, a);
	assert_int_equal(chdir(before), 0);
	free(a);

	ino_t ino = one.st_ino;
	unmount_it(fixture);
	mount_it(fixture, false, NULL);
	assert_int_equal(stat_of(place(fixture, &root, "a/file")).st_ino, ino);
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

/* A user namespace in which 0 … 65535 are the kernel's 100000 …; -1: none can be made here. */
static int user_namespace(void)
{
	int hold[2];
	assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
	pid_t child = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0) {
		char byte;
		close(hold[1]);
		_exit(read(hold[0], &byte, 1) != 0);
	}
	close(hold[0]);
	int result = -1;
	if (child > 0) {
		static const char *const maps[] = {"uid_map", "gid_map"};
		char path[64];
		for (int i = 0; i < 2; i++) {
			snprintf(path, sizeof(path), "/proc/%d/%s", (int)child, maps[i]);
			int fd = open(path, O_WRONLY | O_CLOEXEC);
			assert_int_equal(write(fd, "0 100000 65536", 14), 14);
			close(fd);
		}
		snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)child);
		result = open(path, O_RDONLY | O_CLOEXEC);
	}
	close(hold[1]);
	if (child > 0)
		waitpid(child, NULL, 0);
	return result;
}

static void a_tree_can_be_mounted_with_mapped_ids_and_lie_under_an_overlay(void **state)
{
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "d/file", put(fixture, ON_FARM, "text"), false);
	struct croft_digest root = finish_tree(fixture, ON_FARM, builder);
	owner = 0;
	mount_it(fixture, true, NULL);
	owner = 1234;
	int namespace = user_namespace();
	if (namespace < 0)
		skip();
	int tree = open_tree(AT_FDCWD, place(fixture, &root, ""), OPEN_TREE_CLONE | O_CLOEXEC);
	assert_true(tree >= 0);
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)namespace};
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) != 0) {
		/* Kernels before 6.12 cannot. */
		assert_int_equal(errno, EINVAL);
		close(tree);
		close(namespace);
		skip();
	}
	char lower[128], upper[128], work[128], merged[128], options[512], path[192];
	snprintf(lower, sizeof(lower), "%s/lower", fixture->directory);
	snprintf(upper, sizeof(upper), "%s/upper", fixture->directory);
	snprintf(work, sizeof(work), "%s/work", fixture->directory);
	snprintf(merged, sizeof(merged), "%s/merged", fixture->directory);
	assert_int_equal(mkdir(lower, 0755) | mkdir(upper, 0755) | mkdir(work, 0755) |
			mkdir(merged, 0755), 0);
	assert_int_equal(move_mount(tree, "", AT_FDCWD, lower, MOVE_MOUNT_F_EMPTY_PATH), 0);
	close(tree);
	close(namespace);
	snprintf(path, sizeof(path), "%s/d/file", lower);
	assert_int_equal(stat_of(path).st_uid, 100000);
	assert_int_equal(stat_of(path).st_gid, 100000);
	assert_int_equal(stat_of(place(fixture, &root, "d/file")).st_uid, 0);

	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
	assert_int_equal(mount("overlay", merged, "overlay", 0, options), 0);
	snprintf(path, sizeof(path), "%s/d/file", merged);
	assert_int_equal(stat_of(path).st_uid, 100000);
	assert_content(path, "text");
	/* What the job changes is copied up with the mapped ids. */
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "!", 1), 1);
	close(fd);
	assert_content(path, "text!");
	assert_int_equal(stat_of(path).st_uid, 100000);
	snprintf(path, sizeof(path), "%s/d/file", upper);
	assert_int_equal(stat_of(path).st_uid, 100000);
	assert_int_equal(umount2(merged, 0), 0);
	assert_int_equal(umount2(lower, 0), 0);
}

/* Whether the kernel offers FUSE over io_uring to new mounts; the machine's setting is put back. */
static char rings_before = '\0';

static bool set_rings(char wanted)
{
	CROFT_CLEANUP_FD int fd = open("/sys/module/fuse/parameters/enable_uring", O_RDWR | O_CLOEXEC);
	if (fd < 0 || (!rings_before && read(fd, &rings_before, 1) != 1))
		return false;
	return pwrite(fd, &wanted, 1, 0) == 1;
}

static int without_rings(void **state)
{
	set_rings('N');
	return 0;
}

static int with_rings(void **state)
{
	if (set_rings('Y'))
		return 0;
	printf("skipped: this kernel has no FUSE over io_uring\n");
	exit(0);
}

static int restore_rings(void **state)
{
	set_rings(rings_before);
	return 0;
}

#define mount_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
	if (argc == 2) {
		signal(SIGUSR1, on_signal);
		return open_error(argv[1]);
	}
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0) {
		printf("skipped: mounting needs root and /dev/fuse\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		mount_test(shows_files_directories_and_symlinks_as_the_tree_says),
		mount_test(shows_modes_and_times_of_node_properties),
		mount_test(a_directory_of_100000_entries_is_listed_and_looked_into),
		mount_test(names_and_targets_are_bytes),
		mount_test(a_large_file_reads_the_same_at_any_offset),
		mount_test(of_a_large_file_only_what_is_read_is_fetched),
		mount_test(a_large_file_that_was_read_whole_by_parts_is_a_blob),
		mount_test(a_file_whose_chunks_have_gone_is_fetched_whole),
		mount_test(what_no_source_has_is_an_input_output_error),
		mount_test(without_a_fetcher_only_the_store_is_shown),
		mount_test(a_malformed_directory_is_an_input_output_error),
		mount_test(only_the_exact_name_of_a_digest_is_a_tree),
		mount_test(a_tree_can_be_the_root_of_the_mount),
		mount_test(no_file_that_was_not_read_is_fetched),
		mount_test(small_files_that_are_read_in_order_are_fetched_ahead),
		mount_test(small_files_that_are_read_here_and_there_fetch_no_others),
		mount_test(readers_wait_for_a_fetch_and_all_get_it),
		mount_test(a_killed_process_does_not_wait_for_its_fetch),
		mount_test(a_signal_that_does_not_kill_does_not_disturb_a_read),
		mount_test(unmounting_ends_what_waits_and_what_is_open),
		mount_test(serves_to_the_end_when_it_is_unmounted_from_outside),
		mount_test(what_is_open_goes_on_after_a_hand_over),
		mount_test(who_waits_for_a_fetch_gets_it_after_a_hand_over),
		mount_test(a_look_up_that_waits_holds_up_no_other_in_its_directory),
		mount_test(one_that_was_unmounted_cannot_be_handed_over),
		mount_test(is_unmounted_when_nothing_is_open),
		mount_test(can_be_mounted_a_thousand_times),
		mount_test(one_content_is_one_inode_and_each_place_of_a_directory_its_own),
		mount_test(a_tree_can_be_mounted_with_mapped_ids_and_lie_under_an_overlay),
		mount_test(charges_fetches_to_the_group_that_caused_them),
	};
	int failed = cmocka_run_group_tests_name("over /dev/fuse", tests, without_rings, NULL);
	failed += cmocka_run_group_tests_name("over io_uring", tests, with_rings, restore_rings);
	return failed;
}
