/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A peer that lets a blob wait loses it to the origin, which goes on where the peer stopped: nothing is
 * asked for twice. How long is too long is told by how long the origin usually takes to answer. The peer
 * is then left alone for a while.
 */
#include "fs/fetch/internal.h"

enum {
	USUAL = 8,              /* times the origin's usual time */
	LEAST_MS = 100, MOST_MS = 2000, FIRST_MS = 200,
	PROGRESS = 4096,        /* bytes within that time that count as being alive */
	PAUSE_MS = 1000, PAUSE_DOUBLINGS = 5,
	MISSES = 16, MISSES_PAUSE_MS = 2000,
	SMOOTH = 8,
};

static uint64_t delay_ns(const struct croft_fetcher *fetcher)
{
	if (fetcher->hedge_ns)
		return fetcher->hedge_ns;
	uint64_t delay = fetcher->answer_ns ? USUAL * fetcher->answer_ns : FIRST_MS * UINT64_C(1000000);
	if (delay < LEAST_MS * UINT64_C(1000000))
		return LEAST_MS * UINT64_C(1000000);
	return delay < MOST_MS * UINT64_C(1000000) ? delay : MOST_MS * UINT64_C(1000000);
}

static void watch(struct fetch_connection *connection)
{
	struct croft_fetcher *fetcher = connection->source->fetcher;
	connection->hedge_progress = 0;
	ring_timer_set(fetcher->ring, &connection->hedge, ring_now_ns(fetcher->ring) + delay_ns(fetcher));
}

/* There is no use in leaving the peer for an origin that is in trouble itself. */
static bool origin_would_give(const struct croft_fetcher *fetcher, const struct fetch_wanted *wanted)
{
	const struct fetch_source *origin = &fetcher->sources[0];
	return fetch_source_usable(origin) && origin->failures == 0 && origin->address_count > 0 &&
		!((wanted->refused | wanted->failed) & fetch_source_bit(origin));
}

static void look(struct ring_timer *timer)
{
	struct fetch_connection *connection = ring_container(timer, struct fetch_connection, hedge);
	struct fetch_source *source = connection->source;
	struct croft_fetcher *fetcher = source->fetcher;
	struct fetch_wanted *wanted = connection->asked_count ? connection->asked[0] : NULL;
	if (!wanted)
		return;
	bool waits = connection->connecting || connection->sending || connection->receiving;
	if (!waits || connection->hedge_progress >= PROGRESS || !origin_would_give(fetcher, wanted)) {
		watch(connection);
		return;
	}
	struct croft_error err = CROFT_ERROR_INIT;
	croft_error_set(&err, CROFT_UNAVAILABLE, "%s: it is slow", source->name);
	for (size_t i = 0; i < connection->asked_count; i++)
		if (connection->asked[i])
			connection->asked[i]->hedged = true;
	fetch_count(fetcher, hedges, 1);
	unsigned doublings = source->slow < PAUSE_DOUBLINGS ? source->slow : PAUSE_DOUBLINGS;
	source->slow++;
	source->paused_ns =
		ring_now_ns(fetcher->ring) + ((uint64_t)PAUSE_MS << doublings) * UINT64_C(1000000);
	fetch_connection_close(connection, &err);
}

void fetch_hedge_begin(struct fetch_connection *connection)
{
	connection->asked_ns = ring_now_ns(connection->source->fetcher->ring);
	connection->hedge.run = look;
	if (connection->source->index != 0)
		watch(connection);
}

void fetch_hedge_end(struct fetch_connection *connection)
{
	ring_timer_clear(connection->source->fetcher->ring, &connection->hedge);
}

void fetch_hedge_received(struct fetch_connection *connection, size_t size, bool first)
{
	struct fetch_source *source = connection->source;
	struct croft_fetcher *fetcher = source->fetcher;
	connection->hedge_progress += size;
	if (source->index != 0) {
		if (connection->hedge_progress >= PROGRESS && connection->hedge.set)
			watch(connection);
	} else if (first) {
		uint64_t took_ns = ring_now_ns(fetcher->ring) - connection->asked_ns;
		uint64_t usual_ns = fetcher->answer_ns
			? (fetcher->answer_ns * (SMOOTH - 1) + took_ns) / SMOOTH
			: took_ns;
		__atomic_store_n(&fetcher->answer_ns, usual_ns, __ATOMIC_RELAXED);
	}
}

void fetch_hedge_gave(struct fetch_source *source)
{
	source->misses = 0;
}

void fetch_hedge_missed(struct fetch_source *source)
{
	struct croft_fetcher *fetcher = source->fetcher;
	if (source->index == 0 || ++source->misses < MISSES)
		return;
	source->misses = 0;
	source->paused_ns = ring_now_ns(fetcher->ring) + MISSES_PAUSE_MS * UINT64_C(1000000);
}
