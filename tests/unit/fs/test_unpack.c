/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Archives into trees, and what bounds them. */
#include "fs/unpack.h"
#include "proto/base/cleanup.h"
#include "tests/unit/fs/tree_memory.h"
#include "tests/unit/pack.h"

#include <fcntl.h>
#include <unistd.h>

enum { ROOM = 8 << 20, LARGE = CROFT_UNPACK_SMALL + 300000 };

/* What is read, and what came of it. */
static char *bytes;
static size_t packed_size;
static uint64_t small_files, large_files, skipped, asked, pieces_most;
static struct memory *memory;
static struct croft_digest root;
static struct croft_error err;

static int set_up(void **state)
{
	bytes = croft_alloc(ROOM);
	memory = memory_create();
	small_files = large_files = skipped = asked = 0;
	pieces_most = UINT64_MAX;
	err = CROFT_ERROR_INIT;
	return 0;
}

static int tear_down(void **state)
{
	memory_destroy(memory);
	free(bytes);
	return 0;
}

static ssize_t read_packed(void *user, void *buffer, size_t size, uint64_t offset, struct croft_error *error)
{
	size_t left = packed_size - (size_t)offset;
	size = size < left ? size : left;
	memcpy(buffer, bytes + offset, size);
	return (ssize_t)size;
}

static bool take_small(void *user, const struct croft_digest *digest, struct croft_slice data, struct croft_error *error)
{
	struct croft_digest got = croft_digest_of(data.data, data.size);
	assert_true(croft_digest_equal(&got, digest));
	small_files++;
	return true;
}

static int make_file(void *user, struct croft_error *error)
{
	return open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

static bool take_large(void *user, const struct croft_digest *digest, int fd, struct croft_error *error)
{
	struct croft_digest got;
	assert_true(croft_digest_of_fd(fd, &got, error));
	assert_true(croft_digest_equal(&got, digest));
	large_files++;
	return true;
}

static void leave_out(void *user, const char *path)
{
	skipped++;
}

static bool go_on(void *user, struct croft_error *error)
{
	return ++asked <= pieces_most || croft_error_set(error, CROFT_CANCELLED, "enough");
}

static bool unpack_with(struct croft_unpack_bounds bounds, bool lenient, bool seekable)
{
	struct croft_tree_source source = memory_source(memory);
	struct croft_unpacking archive = {
		.name = "it",
		.read = read_packed,
		.seekable = seekable,
		.size_bytes = packed_size,
		.builder = croft_tree_builder_create(&source),
		.small = take_small,
		.make_file = make_file,
		.large = take_large,
		.skip = lenient ? leave_out : NULL,
		.go_on = go_on,
		.bounds = bounds,
	};
	err = CROFT_ERROR_INIT;
	bool ok = croft_unpack(&archive, &err) &&
		croft_tree_builder_finish(archive.builder, memory_emit, memory, &root, &err);
	croft_tree_builder_destroy(archive.builder);
	return ok;
}

static void assert_refused(struct croft_unpack_bounds bounds, enum croft_code code)
{
	assert_false(unpack_with(bounds, false, true));
	assert_int_equal(err.code, code);
}

static void assert_taken(struct croft_unpack_bounds bounds)
{
	assert_ok(unpack_with(bounds, false, true), err);
}

static void files_come_with_their_digests(void **state)
{
	CROFT_CLEANUP_FREE char *large = croft_zalloc(LARGE);
	memset(large, 'x', LARGE);
	const struct packed entries[] = {
		{.path = "./d//small", .data = "small"},
		{.path = "large", .data = large, .size = LARGE},
		{.path = "link", .type = AE_IFLNK, .symlink = "d/small"},
		{.path = "hard", .hard_link = "d/small"},
		{.path = "twice", .data = "first"},
		{.path = "twice", .data = "second"},
		{.path = "empty", .type = AE_IFDIR},
	};
	static const int formats[] = {ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FORMAT_TAR_GNUTAR};
	static const int filters[] = {ARCHIVE_FILTER_NONE, ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_XZ, ARCHIVE_FILTER_ZSTD};
	struct croft_digest first = {0};
	for (size_t i = 0; i < 8; i++) {
		packed_size = pack(formats[i % 2], filters[i / 2], entries, 7, bytes, ROOM);
		small_files = large_files = 0;
		assert_ok(unpack_with((struct croft_unpack_bounds){0}, false, i % 2), err);
		assert_int_equal(small_files, 3);
		assert_int_equal(large_files, 1);
		if (i == 0)
			first = root;
		assert_true(croft_digest_equal(&first, &root));
	}
}

static void one_of_the_servers_names_is_refused_and_one_of_the_users_made_relative(void **state)
{
	const struct packed entries[] = {{.path = "/a", .data = "x"}, {.path = "fifo", .type = AE_IFIFO}};
	packed_size = pack(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE, entries, 2, bytes, ROOM);
	assert_refused((struct croft_unpack_bounds){0}, CROFT_INVALID_ARGUMENT);
	assert_ok(unpack_with((struct croft_unpack_bounds){0}, true, true), err);
	assert_int_equal(skipped, 1);
}

/* Each bound: what just fits, and one more. */

static void entries_are_counted(void **state)
{
	const struct packed entries[] = {{.path = "d", .type = AE_IFDIR}, {.path = "d/a", .data = "x"},
		{.path = "d/a", .data = "y"}, {.path = "l", .type = AE_IFLNK, .symlink = "d"}};
	packed_size = pack(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE, entries, 4, bytes, ROOM);
	assert_taken((struct croft_unpack_bounds){.entries = 4});
	assert_refused((struct croft_unpack_bounds){.entries = 3}, CROFT_RESOURCE_EXHAUSTED);
}

/* However little went in: two MiB of one byte are some hundred bytes of gzip. */
static void bytes_are_counted_as_they_come_out(void **state)
{
	CROFT_CLEANUP_FREE char *large = croft_zalloc(2 << 20);
	const struct packed entries[] = {
		{.path = "a", .data = "abc"}, {.path = "b", .data = large, .size = 2 << 20}, {.path = "c", .data = "abc"}};
	packed_size = pack(ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_GZIP, entries, 3, bytes, ROOM);
	assert_true(packed_size < 10000);
	assert_taken((struct croft_unpack_bounds){.bytes = (2 << 20) + 6});
	assert_refused((struct croft_unpack_bounds){.bytes = (2 << 20) + 5}, CROFT_RESOURCE_EXHAUSTED);
	/* In the middle of a large file: nothing of it is handed out. */
	large_files = 0;
	assert_refused((struct croft_unpack_bounds){.bytes = (1 << 20) + 100000}, CROFT_RESOURCE_EXHAUSTED);
	assert_int_equal(large_files, 0);
}

static void names_are_counted_with_targets(void **state)
{
	const struct packed entries[] = {{.path = "12345", .data = "x"},
		{.path = "67", .type = AE_IFLNK, .symlink = "890"}, {.path = "h", .hard_link = "12345"}};
	packed_size = pack(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE, entries, 3, bytes, ROOM);
	assert_taken((struct croft_unpack_bounds){.name_bytes = 16});
	assert_refused((struct croft_unpack_bounds){.name_bytes = 15}, CROFT_RESOURCE_EXHAUSTED);
	assert_taken((struct croft_unpack_bounds){.name_size = 5});
	assert_refused((struct croft_unpack_bounds){.name_size = 4}, CROFT_INVALID_ARGUMENT);
	const struct packed pointing[] = {{.path = "a", .type = AE_IFLNK, .symlink = "far/away"}};
	packed_size = pack(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE, pointing, 1, bytes, ROOM);
	assert_taken((struct croft_unpack_bounds){.name_size = 8});
	assert_refused((struct croft_unpack_bounds){.name_size = 7}, CROFT_INVALID_ARGUMENT);
}

static void depth_is_of_parts_that_count(void **state)
{
	const struct packed entries[] = {{.path = "./a/./b//c", .data = "x"}};
	packed_size = pack(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE, entries, 1, bytes, ROOM);
	assert_taken((struct croft_unpack_bounds){.depth = 3});
	assert_refused((struct croft_unpack_bounds){.depth = 2}, CROFT_INVALID_ARGUMENT);
}

static void it_ends_when_it_is_told_to(void **state)
{
	CROFT_CLEANUP_FREE char *large = croft_zalloc(2 << 20);
	const struct packed entries[] = {{.path = "a", .data = large, .size = 2 << 20}};
	packed_size = pack(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_GZIP, entries, 1, bytes, ROOM);
	for (pieces_most = 0; pieces_most < 4; pieces_most++) {
		asked = 0;
		assert_refused((struct croft_unpack_bounds){0}, CROFT_CANCELLED);
	}
}

static void nothing_is_no_archive(void **state)
{
	packed_size = 0;
	assert_refused((struct croft_unpack_bounds){0}, CROFT_INVALID_ARGUMENT);
	strcpy(bytes, "!<arch>\n");
	packed_size = 8;
	assert_refused((struct croft_unpack_bounds){0}, CROFT_INVALID_ARGUMENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(files_come_with_their_digests),
		TEST(one_of_the_servers_names_is_refused_and_one_of_the_users_made_relative),
		TEST(entries_are_counted),
		TEST(bytes_are_counted_as_they_come_out),
		TEST(names_are_counted_with_targets),
		TEST(depth_is_of_parts_that_count),
		TEST(it_ends_when_it_is_told_to),
		TEST(nothing_is_no_archive),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
