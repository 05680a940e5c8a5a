/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fetcher between an origin and peers: who is asked for what, and what becomes of those that are slow,
 * have nothing, or go away. */
#include "tests/unit/fs/fetch_fixture.h"

enum { NEVER_MS = 3600 * 1000, SOON_MS = 50 };

static struct croft_fetcher *start(struct fixture *fixture, const char *origin, unsigned hedge_ms,
	const char *const *peers, size_t count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetcher *fetcher = croft_fetcher_start(&(struct croft_fetcher_config){
		.store = fixture->local, .origin = origin, .hedge_ms = hedge_ms}, &err);
	assert_ok(fetcher, err);
	croft_fetcher_set_peers(fetcher, peers, count);
	return fetcher;
}

static void fetch_one(struct fixture *fixture, struct croft_fetcher *fetcher, const struct blob *blob)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_fetch_wait(fetcher, &blob->digest, NULL, &err), err);
	assert_local(fixture, blob);
}

static void large_blobs_come_from_peers_and_origin_at_once_and_small_ones_from_the_origin(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetch_stat stat;
	struct croft_plane_stat of_peer, of_origin;
	struct blob blobs[40];
	uint64_t large = 0, small = 0;
	struct croft_store *cache = open_store(fixture->path, "cache");
	struct croft_plane *plane = croft_plane_start(
		&(struct croft_plane_config){.address = "127.0.0.1:0", .store = cache}, &err);
	assert_ok(plane, err);
	for (uint32_t i = 0; i < 40; i++) {
		size_t size = i % 2 ? 400000 + i : 3000 + i;
		blobs[i] = farm_blob(fixture, size, 1000 + i);
		*(i % 2 ? &large : &small) += size;
		assert_ok(croft_store_put(
			cache, &blobs[i].digest, CROFT_SLICE(blobs[i].data, size), &err), err);
	}
	char peer[32];
	snprintf(peer, sizeof(peer), "127.0.0.1:%d", croft_plane_port(plane));
	struct croft_fetcher *fetcher = start(fixture, fixture->origin, NEVER_MS, (const char *const[]){peer}, 1);
	struct crowd crowd = CROWD;
	ask(fetcher, &crowd, blobs, 40, false);
	wait_for(&crowd, 40);
	assert_int_equal(crowd.failed, 0);
	for (int i = 0; i < 40; i++)
		assert_local(fixture, &blobs[i]);
	croft_fetch_stat(fetcher, &stat);
	croft_plane_stat(plane, &of_peer);
	croft_plane_stat(fixture->plane, &of_origin);
	assert_int_equal(stat.bytes, large + small);
	/* Four connections each, and twenty large blobs: none is left out. */
	assert_in_range(stat.from_peers_bytes, 4 * 400000, large - 400000);
	assert_true(of_peer.bytes_sent >= stat.from_peers_bytes);
	assert_true(of_origin.bytes_sent >= stat.bytes - stat.from_peers_bytes);
	assert_true(of_origin.bytes_sent < stat.bytes);
	croft_fetcher_stop(fetcher);
	croft_plane_stop(plane);
	croft_store_close(cache);
	free_blobs(blobs, 40);
}

/* Hears, and says nothing. */
static void keep_silent(struct dialog *dialog)
{
	if (hear(dialog))
		say_nothing(dialog);
}

static void a_silent_peer_costs_one_retry_and_is_left_alone(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetch_stat stat;
	struct blob blobs[3];
	for (uint32_t i = 0; i < 3; i++)
		blobs[i] = farm_blob(fixture, 500000, 2000 + i);
	struct source *peer = start_source(keep_silent, blobs, 3);
	struct croft_fetcher *fetcher = start(
		fixture, fixture->origin, SOON_MS, (const char *const[]){peer->name}, 1);
	/* Unless the origin has been seen to answer, a peer is waited for. */
	struct blob small = farm_blob(fixture, 1000, 2100);
	fetch_one(fixture, fetcher, &small);
	for (int i = 0; i < 3; i++)
		fetch_one(fixture, fetcher, &blobs[i]);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.hedges, 1);
	assert_int_equal(stat.retries, 1);
	assert_int_equal(stat.from_peers_bytes, 0);
	assert_int_equal(__atomic_load_n(&peer->requests, __ATOMIC_RELAXED), 1);
	croft_fetcher_stop(fetcher);
	stop_source(peer);
	free(small.data);
	free_blobs(blobs, 3);
}

/* Half of the blob, then a few bytes now and then: too few for anyone to wait for. */
static void trickle(struct dialog *dialog)
{
	if (!hear(dialog))
		return;
	const struct blob *blob = asked_for(dialog);
	size_t at = blob->size / 2;
	say_head(dialog, 200, blob->size, "");
	say(dialog, blob->data, at);
	struct pollfd waits[] = {{dialog->fd, POLLRDHUP, 0}, {dialog->source->stop[0], POLLIN, 0}};
	for (; at + 10 < blob->size && poll(waits, 2, 5) == 0; at += 10)
		say(dialog, blob->data + at, 10);
}

static void the_origin_goes_on_where_a_slow_peer_was_left(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetch_stat stat;
	struct blob blob = farm_blob(fixture, 1000000, 3000), small = farm_blob(fixture, 1000, 3001);
	struct source *peer = start_source(trickle, &blob, 1);
	struct croft_fetcher *fetcher = start(
		fixture, fixture->origin, SOON_MS, (const char *const[]){peer->name}, 1);
	fetch_one(fixture, fetcher, &small);
	fetch_one(fixture, fetcher, &blob);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.hedges, 1);
	assert_int_equal(stat.bytes, blob.size + small.size); /* nothing moved twice */
	assert_in_range(stat.from_peers_bytes, blob.size / 2, blob.size - 100000);
	croft_fetcher_stop(fetcher);
	stop_source(peer);
	free(blob.data);
	free(small.data);
}

/* Takes its time, longer than a hedge, but gives everything. */
static void ponder(struct dialog *dialog)
{
	while (hear(dialog)) {
		const struct blob *blob = asked_for(dialog);
		struct pollfd waits[] = {{dialog->fd, POLLRDHUP, 0}, {dialog->source->stop[0], POLLIN, 0}};
		if (poll(waits, 2, 4 * SOON_MS) != 0)
			return;
		say_head(dialog, 200, blob->size, "");
		say(dialog, blob->data, blob->size);
	}
}

static void a_slow_peer_is_not_left_for_an_origin_that_is_away(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetch_stat stat;
	struct blob blob = make_blob(300000, 4000);
	char away[32];
	int place = reserve_port(0, away);
	struct source *peer = start_source(ponder, &blob, 1);
	struct croft_fetcher *fetcher = start(fixture, away, SOON_MS, (const char *const[]){peer->name}, 1);
	fetch_one(fixture, fetcher, &blob);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.hedges, 0);
	assert_int_equal(stat.from_peers_bytes, blob.size);
	croft_fetcher_stop(fetcher);
	stop_source(peer);
	close(place);
	free(blob.data);
}

static void have_nothing(struct dialog *dialog)
{
	while (hear(dialog))
		say_head(dialog, 404, 0, "");
}

static void a_peer_that_has_nothing_is_not_asked_for_ever(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetch_stat stat;
	struct blob blobs[24];
	for (uint32_t i = 0; i < 24; i++)
		blobs[i] = farm_blob(fixture, 70000, 5000 + i);
	struct source *peer = start_source(have_nothing, blobs, 24);
	struct croft_fetcher *fetcher = start(
		fixture, fixture->origin, NEVER_MS, (const char *const[]){peer->name}, 1);
	for (int i = 0; i < 24; i++)
		fetch_one(fixture, fetcher, &blobs[i]);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.bytes, 24 * 70000);
	assert_in_range(__atomic_load_n(&peer->requests, __ATOMIC_RELAXED), 1, 16);
	croft_fetcher_stop(fetcher);
	stop_source(peer);
	free_blobs(blobs, 24);
}

/* Some bytes, then it is dead: every connection is reset. */
static void die(struct dialog *dialog)
{
	struct linger at_once = {1, 0};
	setsockopt(dialog->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (dialog->number > 0 || !hear(dialog))
		return;
	const struct blob *blob = asked_for(dialog);
	say_head(dialog, 200, blob->size, "");
	say(dialog, blob->data, 200000);
}

static void a_peer_that_dies_in_the_middle_is_made_up_for(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = farm_blob(fixture, 1500000, 6000), next = farm_blob(fixture, 300000, 6001);
	struct source *peer = start_source(die, &blob, 1);
	struct croft_fetcher *fetcher = start(
		fixture, fixture->origin, NEVER_MS, (const char *const[]){peer->name}, 1);
	fetch_one(fixture, fetcher, &blob);
	fetch_one(fixture, fetcher, &next);
	croft_fetcher_stop(fetcher);
	stop_source(peer);
	free(blob.data);
	free(next.data);
}

static void a_liar_costs_one_retry_and_is_never_asked_again(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetch_stat stat;
	struct blob blobs[4];
	for (uint32_t i = 0; i < 4; i++)
		blobs[i] = farm_blob(fixture, 90000, 7000 + i);
	struct source *liar = start_source(lie, blobs, 4);
	struct croft_fetcher *fetcher = start(
		fixture, fixture->origin, NEVER_MS, (const char *const[]){liar->name}, 1);
	for (int i = 0; i < 4; i++)
		fetch_one(fixture, fetcher, &blobs[i]);
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.retries, 1);
	assert_int_equal(stat.bad_bytes, 90000);
	assert_int_equal(__atomic_load_n(&liar->requests, __ATOMIC_RELAXED), 1);
	croft_fetcher_stop(fetcher);
	stop_source(liar);
	free_blobs(blobs, 4);
}

/* Answers for the last blob at once, for others only when that was asked for. */
static int foreground_came; /* atomic */

static void wait_for_foreground(struct dialog *dialog)
{
	while (hear(dialog)) {
		const struct blob *blob = asked_for(dialog);
		struct pollfd stop = {dialog->source->stop[0], POLLIN, 0};
		if (blob == &dialog->source->blobs[dialog->source->count - 1])
			__atomic_store_n(&foreground_came, 1, __ATOMIC_RELEASE);
		while (!__atomic_load_n(&foreground_came, __ATOMIC_ACQUIRE))
			if (poll(&stop, 1, 5) != 0)
				return;
		say_head(dialog, 200, blob->size, "");
		say(dialog, blob->data, blob->size);
	}
}

static void what_is_fetched_ahead_keeps_nobody_waiting(void **state)
{
	struct fixture *fixture = *state;
	struct blob blobs[31];
	struct crowd behind = CROWD, before = CROWD;
	for (uint32_t i = 0; i < 31; i++)
		blobs[i] = make_blob(100000, 8000 + i);
	__atomic_store_n(&foreground_came, 0, __ATOMIC_RELEASE);
	struct source *origin = start_source(wait_for_foreground, blobs, 31);
	struct croft_fetcher *fetcher = start(fixture, origin->name, 0, NULL, 0);
	ask(fetcher, &behind, blobs, 30, true);
	/* With all connections taken by what was asked for before, this would never end. */
	ask(fetcher, &before, &blobs[30], 1, false);
	wait_for(&before, 1);
	assert_int_equal(before.failed, 0);
	wait_for(&behind, 30);
	assert_int_equal(behind.failed, 0);
	croft_fetcher_stop(fetcher);
	stop_source(origin);
	free_blobs(blobs, 31);
}

static void what_is_being_fetched_is_counted(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetch_stat stat;
	struct blob blob = make_blob(100000, 9000);
	struct crowd crowd = CROWD;
	struct source *origin = start_source(keep_silent, &blob, 1);
	struct croft_fetcher *fetcher = start(fixture, origin->name, 0, NULL, 0);
	ask(fetcher, &crowd, &blob, 1, false);
	while (__atomic_load_n(&origin->requests, __ATOMIC_RELAXED) == 0)
		sched_yield();
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.fetching_blobs, 1);
	assert_int_equal(stat.fetching_bytes, 100000);
	stop_source(origin);
	croft_fetcher_stop(fetcher);
	wait_for(&crowd, 1);
	assert_int_equal(crowd.failed, 1);
	free(blob.data);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_FIXTURE(large_blobs_come_from_peers_and_origin_at_once_and_small_ones_from_the_origin),
		WITH_FIXTURE(a_silent_peer_costs_one_retry_and_is_left_alone),
		WITH_FIXTURE(the_origin_goes_on_where_a_slow_peer_was_left),
		WITH_FIXTURE(a_slow_peer_is_not_left_for_an_origin_that_is_away),
		WITH_FIXTURE(a_peer_that_has_nothing_is_not_asked_for_ever),
		WITH_FIXTURE(a_peer_that_dies_in_the_middle_is_made_up_for),
		WITH_FIXTURE(a_liar_costs_one_retry_and_is_never_asked_again),
		WITH_FIXTURE(what_is_fetched_ahead_keeps_nobody_waiting),
		WITH_FIXTURE(what_is_being_fetched_is_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
