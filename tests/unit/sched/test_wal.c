/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal's log: what a crash, a power failure and a bad disk leave of it. */
#include "tests/unit/test.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "sched/core/wal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 4096 };

struct fixture {
	char path[64];
	struct wal *wal;
	unsigned seen;
	char text[65536];
	struct wal_place last;
};

static bool note(void *user, const struct wal_place *place, struct croft_slice payload,
	struct croft_error *err)
{
	struct fixture *fixture = user;
	fixture->seen++;
	fixture->last = *place;
	if (payload.size < 100)
		strncat(fixture->text, payload.data, payload.size);
	return true;
}

static bool open_wal(struct fixture *fixture, struct croft_error *err)
{
	fixture->seen = 0;
	fixture->text[0] = '\0';
	fixture->wal = wal_open(fixture->path, note, fixture, err);
	return fixture->wal != NULL;
}

static void start(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	memset(fixture, 0, sizeof(*fixture));
	strcpy(fixture->path, "/var/tmp/croft-wal-XXXXXX");
	assert_non_null(mkdtemp(fixture->path));
	assert_ok(open_wal(fixture, &err), err);
}

static void reopen(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	wal_close(fixture->wal);
	assert_ok(open_wal(fixture, &err), err);
}

static void stop(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	wal_close(fixture->wal);
	assert_ok(croft_remove_tree(AT_FDCWD, fixture->path, &err), err);
}

static struct wal_place write_sized(struct fixture *fixture, const char *text, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct wal_place place;
	uint8_t *at = wal_buffer(fixture->wal, size);
	memset(at, 'x', size);
	memcpy(at, text, strlen(text));
	assert_ok(wal_write(fixture->wal, size, &place, &err), err);
	return place;
}

static struct wal_place write_text(struct fixture *fixture, const char *text)
{
	return write_sized(fixture, text, strlen(text));
}

/* The file that has the place's segment. */
static int open_segment(struct fixture *fixture, const struct wal_place *place, const char *text)
{
	for (unsigned i = 0; i < 100; i++) {
		char path[128], found[16];
		snprintf(path, sizeof(path), "%s/%08u.log", fixture->path, i);
		int fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && pread(fd, found, strlen(text), place->offset) == (ssize_t)strlen(text) &&
			memcmp(found, text, strlen(text)) == 0)
			return fd;
		if (fd >= 0)
			close(fd);
	}
	fail_msg("'%s' stands nowhere", text);
	return -1;
}

static void flip(int fd, off_t offset)
{
	uint8_t byte;
	assert_int_equal(pread(fd, &byte, 1, offset), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
}

static void groups_come_back_in_their_order(void **state)
{
	struct fixture fixture;
	start(&fixture);
	write_text(&fixture, "one ");
	write_text(&fixture, "two ");
	reopen(&fixture);
	assert_string_equal(fixture.text, "one two ");
	write_text(&fixture, "three ");
	reopen(&fixture);
	assert_string_equal(fixture.text, "one two three ");
	stop(&fixture);
}

/* Whatever the disk kept of the last group: it is whole or as if it had never been, and the log goes on. */
static void a_torn_last_group_never_was(void **state)
{
	enum { SIZE = 3 * BLOCK, STEP = 512 };
	struct fixture fixture;
	start(&fixture);
	write_text(&fixture, "one ");
	struct wal_place torn = write_sized(&fixture, "torn", SIZE);
	int fd = open_segment(&fixture, &torn, "torn");
	off_t begin = torn.offset - torn.offset % BLOCK;
	uint8_t whole[4 * BLOCK], nothing[4 * BLOCK] = {0};
	assert_int_equal(pread(fd, whole, sizeof(whole), begin), sizeof(whole));
	for (size_t kept = 0; kept <= sizeof(whole); kept += STEP) {
		wal_close(fixture.wal);
		assert_int_equal(pwrite(fd, nothing, sizeof(nothing), begin), sizeof(nothing));
		assert_int_equal(pwrite(fd, whole, kept, begin), kept);
		struct croft_error err = CROFT_ERROR_INIT;
		assert_ok(open_wal(&fixture, &err), err);
		/* The payload ends before the last block does. */
		assert_int_equal(fixture.seen, kept >= torn.offset % BLOCK + SIZE ? 2 : 1);
	}
	/* The other way round: the end of it came to the disk, and the beginning did not. */
	wal_close(fixture.wal);
	assert_int_equal(pwrite(fd, nothing, 512, begin), 512);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(open_wal(&fixture, &err), err);
	assert_string_equal(fixture.text, "one ");
	write_text(&fixture, "two ");
	reopen(&fixture);
	assert_string_equal(fixture.text, "one two ");
	close(fd);
	stop(&fixture);
}

static void expect_damage(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	wal_close(fixture->wal);
	assert_false(open_wal(fixture, &err));
	assert_int_equal(err.code, CROFT_DATA_LOSS);
}

static void a_bad_group_before_a_good_one_is_damage(void **state)
{
	struct fixture fixture;
	start(&fixture);
	write_text(&fixture, "one ");
	struct wal_place bad = write_text(&fixture, "two ");
	write_text(&fixture, "three ");
	int fd = open_segment(&fixture, &bad, "two ");
	flip(fd, bad.offset);
	expect_damage(&fixture);
	flip(fd, bad.offset);
	reopen(&fixture);
	assert_string_equal(fixture.text, "one two three ");
	close(fd);
	stop(&fixture);
}

static void a_bad_first_group_is_damage(void **state)
{
	struct fixture fixture;
	start(&fixture);
	struct wal_place bad = write_text(&fixture, "one ");
	write_text(&fixture, "two ");
	int fd = open_segment(&fixture, &bad, "one ");
	flip(fd, bad.offset);
	expect_damage(&fixture);
	close(fd);
	stop(&fixture);
}

/* Some segments' worth of groups, the first of each named. */
static void fill_segments(struct fixture *fixture, unsigned count, struct wal_place *last)
{
	unsigned until = wal_newest(fixture->wal) + count;
	while (wal_newest(fixture->wal) < until)
		*last = write_sized(fixture, "filling", 600 << 10);
}

static void a_bad_end_of_a_full_segment_is_damage(void **state)
{
	struct fixture fixture;
	struct wal_place first, place, last = {0};
	start(&fixture);
	fill_segments(&fixture, 1, &first);
	for (place = first; place.segment == first.segment; place = write_sized(&fixture, "more", 600 << 10))
		last = place;
	int fd = open_segment(&fixture, &last, "more");
	flip(fd, last.offset);
	expect_damage(&fixture);
	close(fd);
	stop(&fixture);
}

static void segments_are_used_again_and_none_is_missed(void **state)
{
	struct fixture fixture;
	struct wal_place place;
	struct stat st;
	start(&fixture);
	for (unsigned i = 0; i < 12; i++) {
		if (wal_newest(fixture.wal) > wal_oldest(fixture.wal) + 1)
			wal_free_oldest(fixture.wal);
		fill_segments(&fixture, 1, &place);
		reopen(&fixture);
		assert_int_equal(fixture.last.segment, place.segment);
		assert_int_equal(fixture.last.offset, place.offset);
		assert_in_range(wal_newest(fixture.wal) - wal_oldest(fixture.wal), 0, 3);
	}
	char path[128];
	unsigned files = 0;
	for (unsigned i = 0; i < 100; i++) {
		snprintf(path, sizeof(path), "%s/%08u.log", fixture.path, i);
		files += stat(path, &st) == 0;
	}
	assert_in_range(files, 2, 7);
	stop(&fixture);
}

/* A crash between the freeing of a segment and the first group after it. */
static void a_segment_that_was_freed_in_vain_counts_again(void **state)
{
	struct fixture fixture;
	struct wal_place place;
	start(&fixture);
	fill_segments(&fixture, 3, &place);
	wal_free_oldest(fixture.wal);
	reopen(&fixture);
	assert_int_equal(wal_oldest(fixture.wal), 1);
	wal_free_oldest(fixture.wal);
	write_text(&fixture, "now ");
	reopen(&fixture);
	assert_int_equal(wal_oldest(fixture.wal), 2);
	stop(&fixture);
}

static void a_group_larger_than_a_segment_has_one_for_itself(void **state)
{
	struct fixture fixture;
	start(&fixture);
	write_text(&fixture, "small ");
	struct wal_place large = write_sized(&fixture, "large", WAL_SEGMENT + 10 * BLOCK + 17);
	write_text(&fixture, "small again ");
	reopen(&fixture);
	assert_string_equal(fixture.text, "small small again ");
	assert_int_equal(fixture.seen, 3);
	char text[5];
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(wal_read(fixture.wal, &large, text, 5, &err), err);
	assert_memory_equal(text, "large", 5);
	stop(&fixture);
}

/* A file that was being filled with zeros when the machine failed. */
static void an_unfinished_file_is_removed(void **state)
{
	struct fixture fixture;
	char path[128];
	start(&fixture);
	write_text(&fixture, "one ");
	snprintf(path, sizeof(path), "%s/%08u.log", fixture.path, 77);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_int_equal(write(fd, "\0\0", 2), 2);
	close(fd);
	reopen(&fixture);
	assert_string_equal(fixture.text, "one ");
	assert_int_equal(access(path, F_OK), -1);
	stop(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(groups_come_back_in_their_order),
		cmocka_unit_test(a_torn_last_group_never_was),
		cmocka_unit_test(a_bad_group_before_a_good_one_is_damage),
		cmocka_unit_test(a_bad_first_group_is_damage),
		cmocka_unit_test(a_bad_end_of_a_full_segment_is_damage),
		cmocka_unit_test(segments_are_used_again_and_none_is_missed),
		cmocka_unit_test(a_segment_that_was_freed_in_vain_counts_again),
		cmocka_unit_test(a_group_larger_than_a_segment_has_one_for_itself),
		cmocka_unit_test(an_unfinished_file_is_removed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
