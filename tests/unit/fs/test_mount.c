/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The lazy filesystem as programs see it, through a real mount. */
#include "tests/unit/fs/mount_main.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

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

/* Those are only claims until somebody reads. */
static void sizes_are_shown_in_whole_blocks_up_to_the_largest(void **state)
{
	static const struct {
		uint64_t size, blocks;
	} files[] = {{1, 8}, {4096, 8}, {4097, 16}, {INT64_MAX, (uint64_t)(1ull << 51) * 8}};
	struct fixture *fixture = *state;
	struct croft_tree_builder *builder = new_tree();
	char name[2] = "a";
	for (size_t i = 0; i < 4; i++, name[0]++) {
		struct croft_digest digest = croft_digest_of(name, 1);
		digest.size_bytes = files[i].size;
		add_file(builder, name, digest, false);
	}
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);
	for (size_t i = 0; i < 4; i++) {
		name[0] = (char)('a' + i);
		struct stat stat = stat_of(place(fixture, &root, name));
		assert_int_equal(stat.st_size, files[i].size);
		assert_int_equal(stat.st_blocks, files[i].blocks);
	}
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

/* As a job's root is: an overlay of its own. */
static void lay_over(struct fixture *fixture, const char *lower, const char *name)
{
	static const char *const places[] = {"", "/upper", "/work", "/merged"};
	char path[192], options[PATH_MAX + 512];
	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		snprintf(path, sizeof(path), "%s/%s%s", fixture->directory, name, places[i]);
		assert_int_equal(mkdir(path, 0755), 0);
	}
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s/%s/upper,workdir=%s/%s/work", lower,
		fixture->directory, name, fixture->directory, name);
	assert_int_equal(mount("overlay", path, "overlay", 0, options), 0);
}

static void use_all(struct fixture *fixture, const char *name, const char *text, const char *large)
{
	char path[192], target[32];
	snprintf(path, sizeof(path), "%s/%s/merged/d", fixture->directory, name);
	assert_int_equal(count_entries(path), 2 + 4);
	snprintf(path, sizeof(path), "%s/%s/merged/d/text", fixture->directory, name);
	assert_int_equal(stat_of(path).st_size, strlen(text));
	assert_content(path, text);
	snprintf(path, sizeof(path), "%s/%s/merged/d/large", fixture->directory, name);
	assert_content(path, large);
	snprintf(path, sizeof(path), "%s/%s/merged/d/below/../link", fixture->directory, name);
	assert_int_equal(readlink(path, target, sizeof(target)), 4);
	snprintf(path, sizeof(path), "%s/%s/merged/d/nothing", fixture->directory, name);
	assert_int_equal(open_error(path), ENOENT);
}

/* A kernel that is short of memory, or tidy, takes no pages that are locked. */
static void *lock_pages(const char *path, size_t size)
{
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *pages = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(pages != MAP_FAILED);
	mlock(pages, size); /* as far as this user may */
	return pages;
}

/* The connection is ended, so that one request would be an error. */
static void what_one_job_used_another_uses_without_a_request(void **state)
{
	struct fixture *fixture = *state;
	enum { SIZE = 3 << 20 };
	CROFT_CLEANUP_FREE char *large = malloc(SIZE + 1);
	for (size_t i = 0; i < SIZE; i++)
		large[i] = (char)('a' + i % 23 + i / 4096 % 3);
	large[SIZE] = '\0';
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "d/text", put(fixture, LOCAL, "text"), false);
	add_file(builder, "d/large", put(fixture, LOCAL, large), false);
	add_file(builder, "d/below/other", put(fixture, LOCAL, "other"), true);
	add_link(builder, "d/link", "text");
	struct croft_digest root = finish_tree(fixture, LOCAL, builder);
	mount_it(fixture, false, NULL);
	lay_over(fixture, place(fixture, &root, ""), "one");
	lay_over(fixture, place(fixture, &root, ""), "other");
	use_all(fixture, "one", "text", large);
	void *locked[] = {lock_pages(place(fixture, &root, "d/large"), SIZE),
		lock_pages(place(fixture, &root, "d/text"), 4)};
	char path[192];
	snprintf(path, sizeof(path), "%s/one/merged", fixture->directory);
	assert_int_equal(umount2(path, 0), 0);
	unmount_it(fixture);
	use_all(fixture, "other", "text", large);
	snprintf(path, sizeof(path), "%s/other/merged/d/below/other", fixture->directory);
	/* Else this shows nothing. The second is what FUSE over io_uring may say while it ends. */
	int failure = open_error(path);
	assert_true(failure == ENOTCONN || failure == ECONNABORTED);
	snprintf(path, sizeof(path), "%s/other/merged", fixture->directory);
	assert_int_equal(umount2(path, 0), 0);
	munmap(locked[0], SIZE);
	munmap(locked[1], 4);
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

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		mount_test(shows_files_directories_and_symlinks_as_the_tree_says),
		mount_test(shows_modes_and_times_of_node_properties),
		mount_test(sizes_are_shown_in_whole_blocks_up_to_the_largest),
		mount_test(a_directory_of_100000_entries_is_listed_and_looked_into),
		mount_test(names_and_targets_are_bytes),
		mount_test(without_a_fetcher_only_the_store_is_shown),
		mount_test(a_malformed_directory_is_an_input_output_error),
		mount_test(only_the_exact_name_of_a_digest_is_a_tree),
		mount_test(a_tree_can_be_the_root_of_the_mount),
		mount_test(what_one_job_used_another_uses_without_a_request),
		mount_test(one_content_is_one_inode_and_each_place_of_a_directory_its_own),
		mount_test(a_tree_can_be_mounted_with_mapped_ids_and_lie_under_an_overlay),
	};
	return run_mount_tests(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
