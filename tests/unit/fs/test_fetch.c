/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fetcher against a plane that works. */
#include "tests/unit/fs/fetch_fixture.h"

static void fetches_a_small_blob(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	struct blob blob = farm_blob(fixture, 1000, 1);
	uint64_t moved = 0;
	assert_ok(croft_fetch_wait(fetcher, &blob.digest, &moved, &err), err);
	assert_int_equal(moved, 1000);
	assert_local(fixture, &blob);
	/* The second time nothing moves. */
	assert_ok(croft_fetch_wait(fetcher, &blob.digest, &moved, &err), err);
	assert_int_equal(moved, 0);
	croft_fetcher_stop(fetcher);
	free(blob.data);
}

static void fetches_large_blobs(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	size_t sizes[] = {64 * 1024, 64 * 1024 + 1, 1 << 20, (20 << 20) + 7};
	for (uint32_t i = 0; i < 4; i++) {
		struct blob blob = farm_blob(fixture, sizes[i], 10 + i);
		uint64_t moved = 0;
		assert_ok(croft_fetch_wait(fetcher, &blob.digest, &moved, &err), err);
		assert_int_equal(moved, blob.size);
		assert_local(fixture, &blob);
		free(blob.data);
	}
	croft_fetcher_stop(fetcher);
}

static void the_empty_blob_is_always_there(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetcher *fetcher = start_fetcher(fixture, "127.0.0.1:1", 0);
	assert_ok(croft_fetch_wait(fetcher, &croft_digest_empty, NULL, &err), err);
	croft_fetcher_stop(fetcher);
}

static void fetches_thousands_of_small_blobs_in_few_requests(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 3000 };
	static struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	struct croft_plane_stat before, after;
	size_t bytes = 0;
	for (uint32_t i = 0; i < COUNT; i++) {
		blobs[i] = farm_blob(fixture, 1 + (i * 37) % 5000, 1000 + i);
		bytes += blobs[i].size;
	}
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	croft_plane_stat(fixture->plane, &before);
	ask(fetcher, &crowd, blobs, COUNT, false);
	wait_for(&crowd, COUNT);
	croft_plane_stat(fixture->plane, &after);
	assert_int_equal(crowd.failed, 0);
	assert_int_equal(crowd.moved_bytes, bytes);
	for (size_t i = 0; i < COUNT; i++)
		assert_local(fixture, &blobs[i]);
	assert_true(after.requests - before.requests <= 3 * COUNT / 256);
	croft_fetcher_stop(fetcher);
	free_blobs(blobs, COUNT);
}

static void fetches_a_mixture_in_background_and_foreground(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 400 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	struct croft_fetch_stat stat;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = farm_blob(fixture, i % 10 == 0 ? 300000 + i : 1 + i * 100, 20000 + i);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	ask(fetcher, &crowd, blobs, COUNT, true);
	ask(fetcher, &crowd, blobs + COUNT / 2, COUNT / 2, false);
	wait_for(&crowd, COUNT + COUNT / 2);
	assert_int_equal(crowd.failed, 0);
	for (size_t i = 0; i < COUNT; i++)
		assert_local(fixture, &blobs[i]);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.blobs, COUNT);
	assert_int_equal(stat.failures, 0);
	assert_true(stat.background_bytes > 0 && stat.background_bytes <= stat.bytes);
	croft_fetcher_stop(fetcher);
	free_blobs(blobs, COUNT);
}

static void shares_one_fetch_among_all_who_ask(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = farm_blob(fixture, 5 << 20, 30000);
	struct crowd crowd = CROWD;
	struct croft_fetch_stat stat;
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	for (int i = 0; i < 50; i++)
		ask(fetcher, &crowd, &blob, 1, i % 2);
	wait_for(&crowd, 50);
	assert_int_equal(crowd.failed, 0);
	assert_int_equal(crowd.moved_bytes, blob.size);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.bytes, blob.size);
	croft_fetcher_stop(fetcher);
	free(blob.data);
}

static void says_not_found_when_no_source_has_it(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	enum { COUNT = 5 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = make_blob(i == 3 ? 100000 : 100, 40000 + i);
	ask(fetcher, &crowd, blobs, COUNT, false);
	ask(fetcher, &crowd, blobs, 1, false);
	wait_for(&crowd, COUNT + 1);
	assert_int_equal(crowd.failed, COUNT + 1);
	assert_int_equal(crowd.err.code, CROFT_NOT_FOUND);
	croft_fetcher_stop(fetcher);
	free_blobs(blobs, COUNT);
}

static void pending_requests_end_with_cancelled(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 30 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = make_blob(i % 2 ? 1000 : 100000, 69000 + i);
	struct source *source = start_source(say_nothing, NULL, 0);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 0);
	ask(fetcher, &crowd, blobs, COUNT, false);
	poll(NULL, 0, 50);
	croft_fetcher_stop(fetcher);
	assert_int_equal(crowd.done, COUNT);
	assert_int_equal(crowd.failed, COUNT);
	assert_int_equal(crowd.err.code, CROFT_CANCELLED);
	stop_source(source);
	free_blobs(blobs, COUNT);
}

static void stops_in_the_middle_of_things(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 60 };
	struct blob blobs[COUNT];
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = farm_blob(fixture, i % 2 ? 3000 : 3000000, 70000 + i);
	for (int round = 0; round < 5; round++) {
		struct crowd crowd = CROWD;
		struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
		ask(fetcher, &crowd, blobs, COUNT, round % 2);
		poll(NULL, 0, round * 7);
		croft_fetcher_stop(fetcher);
		assert_int_equal(crowd.done, COUNT);
	}
	free_blobs(blobs, COUNT);
}

static void refuses_an_origin_that_is_no_address(void **state)
{
	struct fixture *fixture = *state;
	static const char *const origins[] = {"", "host", ":80", "::1:80", "[::1:80"};
	for (size_t i = 0; i < 5; i++) {
		struct croft_error err = CROFT_ERROR_INIT;
		assert_null(croft_fetcher_start(&(struct croft_fetcher_config){
			.store = fixture->local, .origin = origins[i]}, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fetches_a_small_blob),
		cmocka_unit_test(fetches_large_blobs),
		cmocka_unit_test(the_empty_blob_is_always_there),
		cmocka_unit_test(fetches_thousands_of_small_blobs_in_few_requests),
		cmocka_unit_test(fetches_a_mixture_in_background_and_foreground),
		cmocka_unit_test(shares_one_fetch_among_all_who_ask),
		cmocka_unit_test(says_not_found_when_no_source_has_it),
		cmocka_unit_test(pending_requests_end_with_cancelled),
		cmocka_unit_test(stops_in_the_middle_of_things),
		cmocka_unit_test(refuses_an_origin_that_is_no_address),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
