/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources that are gone, hang up, break off or stall: what is wanted comes all the same, or is given up in time. */
#include "tests/unit/fs/fetch_fixture.h"

static void gives_up_when_nobody_answers(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetcher *fetcher = start_fetcher(fixture, "127.0.0.1:1", 400);
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob blob = make_blob(100, 50000);
	uint64_t start = croft_now_ns();
	assert_false(croft_fetch_wait(fetcher, &blob.digest, NULL, &err));
	assert_int_equal(err.code, CROFT_UNAVAILABLE);
	assert_non_null(strstr(err.message, "127.0.0.1:1"));
	uint64_t took = croft_now_ns() - start;
	assert_true(took >= 350000000 && took < UINT64_C(5000000000));
	croft_fetcher_stop(fetcher);
	free(blob.data);
}

static void goes_on_when_the_origin_comes_back(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob blob = farm_blob(fixture, 100, 51000);
	struct crowd crowd = CROWD;
	char origin[32];
	int place = reserve_port(0, origin);
	struct croft_fetcher *fetcher = start_fetcher(fixture, origin, 0);
	ask(fetcher, &crowd, &blob, 1, false);
	poll(NULL, 0, 300);
	assert_int_equal(crowd.done, 0);
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
		.address = origin, .store = fixture->farm}, &err);
	assert_ok(plane, err);
	wait_for(&crowd, 1);
	assert_int_equal(crowd.failed, 0);
	croft_fetcher_stop(fetcher);
	croft_plane_stop(plane);
	close(place);
	free(blob.data);
}

/* Several connections that break at once make the source's time-out longer than its blobs'. */
static void goes_on_when_the_origin_comes_back_after_many_failures(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob blobs[4];
	struct crowd crowd = CROWD;
	for (uint32_t i = 0; i < 4; i++)
		blobs[i] = farm_blob(fixture, 100000, 51100 + i);
	char origin[32];
	int place = reserve_port(0, origin);
	struct source *source = start_source_at(origin, hang_up, blobs, 4);
	struct croft_fetcher *fetcher = start_fetcher(fixture, origin, 0);
	ask(fetcher, &crowd, blobs, 4, false);
	while (__atomic_load_n(&source->connections, __ATOMIC_RELAXED) < 8)
		poll(NULL, 0, 10);
	stop_source(source);
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
		.address = origin, .store = fixture->farm}, &err);
	assert_ok(plane, err);
	wait_for(&crowd, 4);
	assert_ok(crowd.failed == 0, crowd.err);
	croft_fetcher_stop(fetcher);
	croft_plane_stop(plane);
	close(place);
	free_blobs(blobs, 4);
}

/* Honest, but every connection ends after so many bytes of body. */
static void break_off(struct dialog *dialog)
{
	if (!hear(dialog))
		return;
	const struct blob *blob = asked_for(dialog);
	size_t first = first_of_range(dialog), size = blob->size - first;
	char fields[128];
	snprintf(fields, sizeof(fields), "Content-Range: bytes %zu-%zu/%zu\r\n", first, blob->size - 1,
		blob->size);
	say_head(dialog, first ? 206 : 200, size, first ? fields : "");
	say(dialog, blob->data + first, size < 300000 ? size : 300000);
	shutdown(dialog->fd, SHUT_WR);
	say_nothing(dialog);
}

static void goes_on_where_a_connection_broke_off(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(2000000, 62000);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetch_stat stat;
	struct source *source = start_source(break_off, &blob, 1);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 0);
	uint64_t moved = 0;
	assert_ok(croft_fetch_wait(fetcher, &blob.digest, &moved, &err), err);
	assert_local(fixture, &blob);
	assert_int_equal(moved, blob.size);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.retries, 6);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free(blob.data);
}

static void leaves_a_peer_that_stalls(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = farm_blob(fixture, 1000000, 63000);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetch_stat stat;
	struct source *source = start_source(stall, &blob, 1);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 1000);
	croft_fetcher_set_peers(fetcher, (const char *const[]){source->name}, 1);
	uint64_t start = croft_now_ns();
	assert_ok(croft_fetch_wait(fetcher, &blob.digest, NULL, &err), err);
	assert_local(fixture, &blob);
	assert_true(croft_now_ns() - start >= 200000000);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.bytes, blob.size);
	assert_int_equal(stat.from_peers_bytes, blob.size / 2);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free(blob.data);
}

static void gives_up_an_origin_that_stalls(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(1000, 63500);
	struct croft_error err = CROFT_ERROR_INIT;
	struct source *source = start_source(stall, &blob, 1);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 600);
	assert_false(croft_fetch_wait(fetcher, &blob.digest, NULL, &err));
	assert_int_equal(err.code, CROFT_UNAVAILABLE);
	assert_non_null(strstr(err.message, "stalls"));
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free(blob.data);
}

static void takes_a_new_connection_when_an_old_one_has_ended(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
		.address = "127.0.0.1:0", .store = fixture->farm, .idle_ms = 50}, &err);
	assert_ok(plane, err);
	char origin[32];
	snprintf(origin, sizeof(origin), "127.0.0.1:%d", croft_plane_port(plane));
	struct croft_fetcher *fetcher = start_fetcher(fixture, origin, 0);
	for (uint32_t i = 0; i < 3; i++) {
		struct blob blob = farm_blob(fixture, 100, 68000 + i);
		assert_ok(croft_fetch_wait(fetcher, &blob.digest, NULL, &err), err);
		poll(NULL, 0, 120);
		free(blob.data);
	}
	struct croft_fetch_stat stat;
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.retries, 0);
	croft_fetcher_stop(fetcher);
	croft_plane_stop(plane);
}

/* What waits for an origin that is gone is asked for where it is now; a name that was never one is refused. */
static void goes_on_where_the_origin_went(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 8 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	struct croft_error err = CROFT_ERROR_INIT;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = farm_blob(fixture, i % 2 ? 1000 : 100000, 68500 + i);
	struct source *silent = start_source(say_nothing, NULL, 0);
	char nobody[32];
	int place = reserve_port(0, nobody);
	struct croft_fetcher *fetcher = start_fetcher(fixture, silent->name, 0);
	ask(fetcher, &crowd, blobs, COUNT, false);
	assert_false(croft_fetcher_set_origin(fetcher, "nowhere", &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_ok(croft_fetcher_set_origin(fetcher, nobody, &err), err);
	assert_ok(croft_fetcher_set_origin(fetcher, fixture->origin, &err), err);
	wait_for(&crowd, COUNT);
	assert_ok(crowd.failed == 0, crowd.err);
	for (size_t i = 0; i < COUNT; i++)
		assert_local(fixture, &blobs[i]);
	croft_fetcher_stop(fetcher);
	stop_source(silent);
	close(place);
	free_blobs(blobs, COUNT);
}

/* Serves from an offset, and now and then does not, in one way or another. */
static void misbehave(struct dialog *dialog)
{
	unsigned seed = (unsigned)dialog->number * 2654435761u;
	while (hear(dialog)) {
		const struct blob *blob = asked_for(dialog);
		if (!blob) {
			say_head(dialog, 404, 0, "");
			continue;
		}
		size_t first = first_of_range(dialog), size = blob->size - first, part = size;
		char fields[128];
		snprintf(fields, sizeof(fields), "Content-Range: bytes %zu-%zu/%zu\r\n", first,
			blob->size - 1, blob->size);
		int mood = rand_r(&seed) % 8;
		if (mood == 0) {
			say_head(dialog, 500, 0, "");
			continue;
		}
		if (mood <= 3)
			part = size * (size_t)(rand_r(&seed) % 100) / 100;
		say_head(dialog, first ? 206 : 200, size, first ? fields : "");
		say(dialog, blob->data + first, part);
		if (mood <= 3)
			return;
	}
}

enum { MANY = 300 };

static void delivers_everything_whatever_goes_wrong(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob *blobs = croft_array(MANY, sizeof(*blobs));
	struct crowd crowd = CROWD;
	char origin[32];
	int place = reserve_port(0, origin);
	for (uint32_t i = 0; i < MANY; i++)
		blobs[i] = farm_blob(fixture, i % 4 ? 100 + i * 20 : 80000 + i * 3000, 90000 + i);
	struct source *peers[] = {start_source(misbehave, blobs, MANY),
		start_source(misbehave, blobs, MANY), start_source(lie, blobs, MANY)};
	struct croft_fetcher *fetcher = start_fetcher(fixture, origin, 120000);
	croft_fetcher_set_peers(fetcher,
		(const char *const[]){peers[0]->name, peers[1]->name, peers[2]->name}, 3);
	for (size_t at = 0; at < MANY; at += 50)
		ask(fetcher, &crowd, blobs + at, 50, at % 100 == 0);
	/* The origin comes and goes. */
	for (int i = 0; i < 6; i++) {
		struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
			.address = origin, .store = fixture->farm}, &err);
		assert_ok(plane, err);
		poll(NULL, 0, i < 5 ? 3 + 5 * i : 0);
		if (i == 5)
			wait_for(&crowd, MANY);
		croft_plane_stop(plane);
	}
	assert_ok(crowd.failed == 0, crowd.err);
	for (size_t i = 0; i < MANY; i++)
		assert_local(fixture, &blobs[i]);
	croft_fetcher_stop(fetcher);
	for (size_t i = 0; i < 3; i++)
		stop_source(peers[i]);
	close(place);
	free_blobs(blobs, MANY);
	free(blobs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_up_when_nobody_answers),
		cmocka_unit_test(goes_on_when_the_origin_comes_back),
		cmocka_unit_test(goes_on_when_the_origin_comes_back_after_many_failures),
		cmocka_unit_test(goes_on_where_a_connection_broke_off),
		cmocka_unit_test(leaves_a_peer_that_stalls),
		cmocka_unit_test(gives_up_an_origin_that_stalls),
		cmocka_unit_test(takes_a_new_connection_when_an_old_one_has_ended),
		cmocka_unit_test(goes_on_where_the_origin_went),
		cmocka_unit_test(delivers_everything_whatever_goes_wrong),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
