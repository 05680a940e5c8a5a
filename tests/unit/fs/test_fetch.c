/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fetcher against a real blob plane, and against sources that lie, break off and stall. */
#include "tests/unit/fs/fetch_fixture.h"

/* Tests: fetching ---------------------------------------------------------------------------------- */

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

/* Tests: trouble ----------------------------------------------------------------------------------- */

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

/* Every connection ends when it has been asked for something. */
static void hang_up(struct dialog *dialog)
{
	hear(dialog);
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

/* Large blobs with a wrong byte, small ones too. */
static void lie(struct dialog *dialog)
{
	while (hear(dialog)) {
		const struct blob *blob = asked_for(dialog);
		if (!blob) {
			say_head(dialog, 404, 0, "");
			continue;
		}
		size_t first = first_of_range(dialog);
		say_head(dialog, 200, blob->size, "");
		char *wrong = croft_alloc(blob->size);
		memcpy(wrong, blob->data, blob->size);
		wrong[blob->size - 1] ^= 1;
		say(dialog, wrong, blob->size);
		free(wrong);
		(void)first;
	}
}

static void drops_a_peer_that_lies(void **state)
{
	struct fixture *fixture = *state;
	struct blob blobs[3];
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetch_stat stat;
	for (uint32_t i = 0; i < 3; i++)
		blobs[i] = farm_blob(fixture, 400000, 60000 + i);
	struct source *liar = start_source(lie, blobs, 3);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	croft_fetcher_set_peers(fetcher, (const char *const[]){liar->name}, 1);
	for (size_t i = 0; i < 3; i++) {
		assert_ok(croft_fetch_wait(fetcher, &blobs[i].digest, NULL, &err), err);
		assert_local(fixture, &blobs[i]);
	}
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.bad_bytes, 400000);
	assert_int_equal(__atomic_load_n(&liar->requests, __ATOMIC_RELAXED), 1);
	/* Being listed again does not make it honest. */
	croft_fetcher_set_peers(fetcher, NULL, 0);
	croft_fetcher_set_peers(fetcher, (const char *const[]){liar->name}, 1);
	struct blob another = farm_blob(fixture, 300000, 60100);
	assert_ok(croft_fetch_wait(fetcher, &another.digest, NULL, &err), err);
	assert_int_equal(__atomic_load_n(&liar->requests, __ATOMIC_RELAXED), 1);
	croft_fetcher_stop(fetcher);
	stop_source(liar);
	free(another.data);
	free_blobs(blobs, 3);
}

static void never_stores_what_a_lying_origin_sends(void **state)
{
	struct fixture *fixture = *state;
	struct blob blobs[2] = {make_blob(1000, 61000), make_blob(100000, 61001)};
	struct croft_error err = CROFT_ERROR_INIT;
	struct source *liar = start_source(lie, blobs, 2);
	struct croft_fetcher *fetcher = start_fetcher(fixture, liar->name, 0);
	for (size_t i = 0; i < 2; i++) {
		assert_false(croft_fetch_wait(fetcher, &blobs[i].digest, NULL, &err));
		assert_int_equal(err.code, CROFT_DATA_LOSS);
		assert_non_null(strstr(err.message, liar->name));
		assert_false(is_local(fixture, &blobs[i]));
	}
	croft_fetcher_stop(fetcher);
	stop_source(liar);
	free_blobs(blobs, 2);
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

/* Says half of the blob, then nothing more. */
static void stall(struct dialog *dialog)
{
	if (!hear(dialog))
		return;
	const struct blob *blob = asked_for(dialog);
	say_head(dialog, 200, blob->size, "");
	say(dialog, blob->data, blob->size / 2);
	say_nothing(dialog);
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

/* The first half honest, the second wrong, wherever one begins. */
static void lie_in_the_end(struct dialog *dialog)
{
	while (hear(dialog)) {
		const struct blob *blob = asked_for(dialog);
		size_t first = first_of_range(dialog), size = blob->size - first;
		char fields[128], *wrong = croft_alloc(blob->size);
		snprintf(fields, sizeof(fields), "Content-Range: bytes %zu-%zu/%zu\r\n", first,
			blob->size - 1, blob->size);
		memcpy(wrong, blob->data, blob->size);
		wrong[blob->size - 1] ^= 1;
		say_head(dialog, first ? 206 : 200, size, first ? fields : "");
		say(dialog, wrong + first, size);
		free(wrong);
	}
}

static void finds_the_liar_among_several_givers(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = farm_blob(fixture, 800000, 64000);
	struct croft_error err = CROFT_ERROR_INIT;
	struct source *half = start_source(stall, &blob, 1);
	struct source *liar = start_source(lie_in_the_end, &blob, 1);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 1000);
	croft_fetcher_set_peers(fetcher, (const char *const[]){half->name, liar->name}, 2);
	assert_ok(croft_fetch_wait(fetcher, &blob.digest, NULL, &err), err);
	assert_local(fixture, &blob);
	croft_fetcher_stop(fetcher);
	stop_source(half);
	stop_source(liar);
	free(blob.data);
}

/* Knows GET only, and closes after each answer. */
static void serve_plainly(struct dialog *dialog)
{
	if (!hear(dialog))
		return;
	const struct blob *blob = asked_for(dialog);
	if (strncmp(dialog->head, "GET ", 4) != 0 || !blob) {
		say_head(dialog, 405, 0, "Connection: close\r\n");
	} else {
		/* No length: to the end of the connection. */
		say_text(dialog, "HTTP/1.0 200 OK\r\nServer: old\r\n\r\n");
		say(dialog, blob->data, blob->size);
	}
	shutdown(dialog->fd, SHUT_WR);
	say_nothing(dialog);
}

static void does_without_batches_where_there_are_none(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 20 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = make_blob(i == 7 ? 200000 : 10 + i, 65000 + i);
	struct source *source = start_source(serve_plainly, blobs, COUNT);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 0);
	ask(fetcher, &crowd, blobs, COUNT, false);
	wait_for(&crowd, COUNT);
	assert_int_equal(crowd.failed, 0);
	for (size_t i = 0; i < COUNT; i++)
		assert_local(fixture, &blobs[i]);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(blobs, COUNT);
}

/* Nonsense of all kinds, one a connection. */
static void babble(struct dialog *dialog)
{
	static const char *const nonsense[] = {
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 206 OK\r\nContent-Length: 1000\r\n\r\n",
		"HTTP/1.1 206 OK\r\nContent-Range: bytes 1-999/1000\r\nContent-Length: 999\r\n\r\n",
		"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\noh!",
		"HTTP/1.1 302 There\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200\n\n",
		"\r\n\r\n\r\n",
		"HTTP/3.0 200 OK\r\n\r\n",
		"SSH-2.0-OpenSSH\r\n",
		"",
	};
	if (!hear(dialog))
		return;
	size_t count = sizeof(nonsense) / sizeof(nonsense[0]);
	say_text(dialog, nonsense[(size_t)dialog->number % count]);
	shutdown(dialog->fd, SHUT_WR);
	say_nothing(dialog);
}

static void survives_nonsense(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 40 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = make_blob(i % 3 ? 1000 : 100000, 66000 + i);
	struct source *source = start_source(babble, blobs, COUNT);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 1500);
	for (size_t i = 0; i < COUNT; i++)
		ask(fetcher, &crowd, &blobs[i], 1, false);
	wait_for(&crowd, COUNT);
	assert_int_equal(crowd.failed, COUNT);
	for (size_t i = 0; i < COUNT; i++)
		assert_false(is_local(fixture, &blobs[i]));
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(blobs, COUNT);
}

/* Batches in which the blobs are mixed up. */
static void mix_up(struct dialog *dialog)
{
	while (hear(dialog)) {
		if (strncmp(dialog->head, "POST ", 5) != 0) {
			say_head(dialog, 404, 0, "");
			continue;
		}
		char answer[4096];
		size_t size = 0;
		for (size_t i = dialog->source->count; i-- > 0;) {
			char digest[CROFT_DIGEST_TEXT];
			croft_digest_format(&dialog->source->blobs[i].digest, '-', digest);
			size += (size_t)sprintf(answer + size, "%s 200\n", digest);
			memcpy(answer + size, dialog->source->blobs[i].data, dialog->source->blobs[i].size);
			size += dialog->source->blobs[i].size;
		}
		say_head(dialog, 200, size, "");
		say(dialog, answer, size);
	}
}

static void believes_no_batch_that_is_out_of_order(void **state)
{
	struct fixture *fixture = *state;
	struct blob blobs[2] = {make_blob(100, 67000), make_blob(101, 67001)};
	struct crowd crowd = CROWD;
	struct source *source = start_source(mix_up, blobs, 2);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 500);
	ask(fetcher, &crowd, blobs, 2, false);
	wait_for(&crowd, 2);
	assert_int_equal(crowd.failed, 2);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(blobs, 2);
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

/* All that can go wrong at once --------------------------------------------------------------------- */

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

/* Recipes -------------------------------------------------------------------------------------- */

struct told {
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t change;
	unsigned times;
	struct croft_digest chunks[64];
	size_t count;
};

static void recipe_came(void *user, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count)
{
	struct told *told = user;
	CROFT_LOCKED(&told->lock);
	assert_true(count <= 64);
	if (count > 0)
		memcpy(told->chunks, chunks, count * sizeof(*chunks));
	told->count = count;
	told->times++;
	pthread_cond_signal(&told->change);
}

static size_t ask_recipe(struct croft_fetcher *fetcher, const struct croft_digest *digest,
	struct told *told)
{
	*told = (struct told){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
	croft_fetch_recipe(fetcher, digest, recipe_came, told);
	CROFT_LOCKED(&told->lock);
	while (told->times == 0)
		pthread_cond_wait(&told->change, &told->lock);
	return told->count;
}

static void tells_of_what_chunks_a_blob_is_made(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob large = farm_blob(fixture, 9000000, 80000), small = farm_blob(fixture, 100000, 80001);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	struct told told;
	size_t count = ask_recipe(fetcher, &large.digest, &told);
	assert_in_range(count, 4, 64);
	for (size_t i = 0; i < count; i++)
		assert_ok(croft_fetch_wait(fetcher, &told.chunks[i], NULL, &err), err);
	assert_ok(croft_store_put_recipe(fixture->local, &large.digest, told.chunks, count, &err), err);
	assert_local(fixture, &large);
	assert_int_equal(ask_recipe(fetcher, &small.digest, &told), 0);
	struct blob nowhere = make_blob(5000000, 80002);
	assert_int_equal(ask_recipe(fetcher, &nowhere.digest, &told), 0);
	croft_fetcher_stop(fetcher);
	free_blobs(&large, 1);
	free_blobs(&small, 1);
	free_blobs(&nowhere, 1);
}

/* Recipes that cannot be, one a connection. */
static void misinform(struct dialog *dialog)
{
#define ONE "27042f4e6eca7d0b2a7ee4026df2ecfa51d3339e6d122aa099118ecd8563bad9"
	static const char *const recipes[] = {
		"", "\n", "nonsense\n", ONE "-1000\n", ONE "-1000000\n", ONE "-5000000\n", ONE "-0\n",
		ONE "-2000000\n" ONE "-2000000\n" ONE "-999999\n",
		ONE "-2000000\n" ONE "-2000000\n" ONE "-1000000",
		ONE "-2000000\n" ONE "-2000000\n" ONE "-1000001\n",
		ONE "-18446744073709551615\n" ONE "-5000001\n",
	};
	if (!hear(dialog))
		return;
	const char *text = recipes[(size_t)dialog->number % (sizeof(recipes) / sizeof(recipes[0]))];
	say_head(dialog, 200, strlen(text), "Connection: close\r\n");
	say_text(dialog, text);
	shutdown(dialog->fd, SHUT_WR);
	say_nothing(dialog);
}

static void believes_no_recipe_that_cannot_be(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(5000000, 81000);
	void (*const talks[])(struct dialog *) = {misinform, babble, hang_up};
	for (size_t i = 0; i < 3; i++) {
		struct source *source = start_source(talks[i], &blob, 1);
		struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 1500);
		struct told told;
		for (int times = 0; times < 13; times++)
			assert_int_equal(ask_recipe(fetcher, &blob.digest, &told), 0);
		croft_fetcher_stop(fetcher);
		stop_source(source);
	}
	free_blobs(&blob, 1);
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
		cmocka_unit_test(gives_up_when_nobody_answers),
		cmocka_unit_test(goes_on_when_the_origin_comes_back),
		cmocka_unit_test(goes_on_when_the_origin_comes_back_after_many_failures),
		cmocka_unit_test(drops_a_peer_that_lies),
		cmocka_unit_test(never_stores_what_a_lying_origin_sends),
		cmocka_unit_test(goes_on_where_a_connection_broke_off),
		cmocka_unit_test(leaves_a_peer_that_stalls),
		cmocka_unit_test(gives_up_an_origin_that_stalls),
		cmocka_unit_test(finds_the_liar_among_several_givers),
		cmocka_unit_test(does_without_batches_where_there_are_none),
		cmocka_unit_test(survives_nonsense),
		cmocka_unit_test(believes_no_batch_that_is_out_of_order),
		cmocka_unit_test(takes_a_new_connection_when_an_old_one_has_ended),
		cmocka_unit_test(goes_on_where_the_origin_went),
		cmocka_unit_test(pending_requests_end_with_cancelled),
		cmocka_unit_test(stops_in_the_middle_of_things),
		cmocka_unit_test(delivers_everything_whatever_goes_wrong),
		cmocka_unit_test(tells_of_what_chunks_a_blob_is_made),
		cmocka_unit_test(believes_no_recipe_that_cannot_be),
		cmocka_unit_test(refuses_an_origin_that_is_no_address),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
