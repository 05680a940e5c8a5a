/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Large files, which are read in parts. */
#include "tests/unit/fs/mount_main.h"

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

static void what_comes_with_the_recipe_is_the_answer(void **state)
{
	struct fixture *fixture = *state;
	struct croft_mount_account account;
	struct croft_digest digest, root;
	uint8_t *data = mount_parted(fixture, &digest, &root);
	char buffer[4096];
	fixture->farm->gives_pieces = true;
	croft_mount_account_begin(fixture->mount, own_pid_namespace());
	CROFT_CLEANUP_FD int fd = open(place(fixture, &root, "large"), O_RDONLY | O_CLOEXEC);
	uint64_t before = farm_moved_bytes(fixture->farm);
	/* Nothing more comes, and yet the reader goes on. */
	farm_hold(fixture->farm, true);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pread(fd, buffer, sizeof(buffer), 10000000), sizeof(buffer));
		assert_memory_equal(buffer, data + 10000000, sizeof(buffer));
	}
	assert_int_equal(farm_moved_bytes(fixture->farm), before);
	farm_hold(fixture->farm, false);
	/* The reader may have its answer before the chunks are asked for. */
	while (farm_moved_bytes(fixture->farm) == before)
		usleep(1000);
	farm_settle(fixture->farm);
	uint64_t behind = farm_moved_bytes(fixture->farm) - before;
	assert_true(behind > 0 && behind <= 2 * CROFT_CHUNK_MOST);
	/* What came is in the account once the mount has heard of it. */
	do
		assert_true(croft_mount_account_read(fixture->mount, own_pid_namespace(), &account));
	while (account.fetched_bytes <= behind && usleep(1000) == 0);
	assert_true(croft_mount_account_end(fixture->mount, own_pid_namespace(), &account));
	assert_int_equal(account.fetched_files, 1);
	assert_in_range(account.fetched_bytes, behind + 1, behind + CROFT_RECIPE_PIECE - 1);
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

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		mount_test(a_large_file_reads_the_same_at_any_offset),
		mount_test(of_a_large_file_only_what_is_read_is_fetched),
		mount_test(what_comes_with_the_recipe_is_the_answer),
		mount_test(a_large_file_that_was_read_whole_by_parts_is_a_blob),
		mount_test(a_file_whose_chunks_have_gone_is_fetched_whole),
	};
	return run_mount_tests(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
