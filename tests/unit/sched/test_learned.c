/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/learned.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[64];

static int set_up(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/croft-learned-XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
	return croft_remove_tree(AT_FDCWD, folder, NULL) ? 0 : -1;
}

static struct croft_placement *create(void)
{
	struct croft_placement *placement =
		croft_placement_create(&(struct croft_placement_config){.seed = 1});
	croft_placement_agent_add(placement, &(struct croft_placement_agent){.slots = 1});
	return placement;
}

static struct croft_placement_job *add(struct croft_placement *placement)
{
	return croft_placement_job_add(placement,
		&(struct croft_placement_job_info){.kind = croft_slice_str("compile")}, 1);
}

static struct croft_placement *experienced(void)
{
	struct croft_placement *placement = create();
	struct croft_placement_job *job = add(placement);
	struct croft_decision decision;
	assert_true(croft_placement_next(placement, 1, &decision, NULL));
	croft_placement_job_end(
		placement, job, &(struct croft_placement_outcome){.run_seconds = 77}, 80);
	return placement;
}

static double believed_seconds(struct croft_placement *placement)
{
	return croft_placement_job_run_seconds(placement, add(placement));
}

static void write_of(const struct croft_placement *placement)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct learned *learned = learned_of(placement);
	assert_ok(learned_write(learned, folder, &err), err);
	learned_free(learned);
}

static void what_was_learned_is_known_after_a_restart(void **state)
{
	struct croft_placement *before = experienced(), *after = create();
	struct croft_error err = CROFT_ERROR_INIT;
	write_of(before);
	assert_true(learned_read(after, folder, &err) > 0);
	double seconds = believed_seconds(after);
	assert_true(seconds > 70 && seconds < 85);
	croft_placement_destroy(before);
	croft_placement_destroy(after);
}

static void without_a_file_nothing_is_known(void **state)
{
	struct croft_placement *placement = create();
	struct croft_error err = CROFT_ERROR_INIT;
	assert_int_equal(learned_read(placement, folder, &err), 0);
	croft_placement_destroy(placement);
}

static void a_damaged_file_is_told_of_and_left_alone(void **state)
{
	struct croft_placement *before = experienced();
	write_of(before);
	croft_placement_destroy(before);
	char path[96];
	snprintf(path, sizeof(path), "%s/learned", folder);
	CROFT_CLEANUP_FD int fd = open(path, O_RDWR | O_CLOEXEC);
	off_t size = lseek(fd, 0, SEEK_END);
	for (off_t at = 0; at < size; at++) {
		char byte, flipped;
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		flipped = (char)~byte;
		assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
		struct croft_placement *placement = create();
		struct croft_error err = CROFT_ERROR_INIT;
		assert_int_equal(learned_read(placement, folder, &err), -1);
		assert_int_equal(err.code, CROFT_DATA_LOSS);
		croft_placement_destroy(placement);
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	assert_int_equal(ftruncate(fd, size - 1), 0);
	struct croft_placement *placement = create();
	struct croft_error err = CROFT_ERROR_INIT;
	assert_int_equal(learned_read(placement, folder, &err), -1);
	croft_placement_destroy(placement);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			what_was_learned_is_known_after_a_restart, set_up, tear_down),
		cmocka_unit_test_setup_teardown(without_a_file_nothing_is_known, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_damaged_file_is_told_of_and_left_alone, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
