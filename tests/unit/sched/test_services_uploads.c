/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/uploads.h"
#include "tests/unit/sched/loopback.h"

static struct loopback loopback;
static struct uploads *uploads;

static const char text[] = "what a client uploads in two pieces";
enum { SIZE = sizeof(text) - 1, HALF = SIZE / 2 };

static int set_up(void **state)
{
	loopback_start(&loopback);
	uploads = uploads_create(loopback.store);
	return 0;
}

static int tear_down(void **state)
{
	uploads_destroy(uploads);
	loopback_stop(&loopback);
	return 0;
}

static struct upload *open_upload(const char *uuid, uint64_t expected)
{
	struct croft_digest digest = croft_digest_of(text, SIZE);
	struct croft_error err = CROFT_ERROR_INIT;
	uint64_t committed;
	struct upload *upload =
		uploads_open(uploads, croft_slice_str(uuid), &digest, &committed, &err);
	assert_ok(upload, err);
	assert_int_equal(committed, expected);
	return upload;
}

static bool is_stored(void)
{
	struct croft_digest digest = croft_digest_of(text, SIZE);
	struct croft_error err = CROFT_ERROR_INIT;
	bool missing;
	assert_ok(croft_store_find_missing(loopback.store, &digest, 1, &missing, &err), err);
	return !missing;
}

static void an_upload_goes_on_where_it_was_left(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct upload *upload = open_upload("u", 0);
	assert_ok(upload_append(upload, text, HALF, &err), err);
	upload_close(upload);
	assert_false(is_stored());
	upload_close(open_upload("other", 0));
	upload = open_upload("u", HALF);
	assert_ok(upload_append(upload, text + HALF, SIZE - HALF, &err), err);
	assert_ok(upload_commit(upload, &err), err);
	upload_close(upload);
	assert_true(is_stored());
	upload_close(open_upload("u", 0));
}

static void the_status_can_be_asked_while_it_is_open(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest digest = croft_digest_of(text, SIZE);
	uint64_t committed;
	assert_false(uploads_query(uploads, croft_slice_str("u"), &digest, &committed));
	struct upload *upload = open_upload("u", 0);
	assert_ok(upload_append(upload, text, HALF, &err), err);
	assert_true(uploads_query(uploads, croft_slice_str("u"), &digest, &committed));
	assert_int_equal(committed, HALF);
	upload_drop(upload);
	upload_close(upload);
	assert_false(uploads_query(uploads, croft_slice_str("u"), &digest, &committed));
}

static void a_new_stream_takes_over_from_a_lost_one(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct upload *lost = open_upload("u", 0);
	assert_ok(upload_append(lost, text, HALF, &err), err);
	struct upload *upload = open_upload("u", HALF);
	assert_false(upload_append(lost, text + HALF, 1, &err));
	assert_int_equal(err.code, CROFT_ABORTED);
	upload_close(lost);
	assert_ok(upload_append(upload, text + HALF, SIZE - HALF, &err), err);
	assert_ok(upload_commit(upload, &err), err);
	upload_close(upload);
	assert_true(is_stored());
}

static void more_than_the_size_is_refused_and_forgotten(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct upload *upload = open_upload("u", 0);
	assert_ok(upload_append(upload, text, SIZE, &err), err);
	assert_false(upload_append(upload, "x", 1, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	upload_close(upload);
	upload_close(open_upload("u", 0));
}

static void other_bytes_are_refused_and_forgotten(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char other[SIZE] = {0};
	struct upload *upload = open_upload("u", 0);
	assert_ok(upload_append(upload, other, SIZE, &err), err);
	assert_false(upload_commit(upload, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	upload_close(upload);
	assert_false(is_stored());
	upload_close(open_upload("u", 0));
}

static void only_so_many_wait_for_their_clients(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest digest = croft_digest_of(text, SIZE);
	char uuid[32];
	uint64_t committed, kept = 0;
	for (int i = 0; i < 300; i++) {
		snprintf(uuid, sizeof(uuid), "u%d", i);
		struct upload *upload = open_upload(uuid, 0);
		assert_ok(upload_append(upload, text, HALF, &err), err);
		upload_close(upload);
	}
	for (int i = 0; i < 300; i++) {
		snprintf(uuid, sizeof(uuid), "u%d", i);
		kept += uploads_query(uploads, croft_slice_str(uuid), &digest, &committed);
	}
	assert_in_range(kept, 250, 260);
	assert_false(uploads_query(uploads, croft_slice_str("u0"), &digest, &committed));
	assert_true(uploads_query(uploads, croft_slice_str("u299"), &digest, &committed));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_upload_goes_on_where_it_was_left, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_status_can_be_asked_while_it_is_open, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_new_stream_takes_over_from_a_lost_one, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			more_than_the_size_is_refused_and_forgotten, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			other_bytes_are_refused_and_forgotten, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			only_so_many_wait_for_their_clients, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
