/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Gives what is queued to connections: foreground first, small blobs many at a time. */
#include "fs/fetch/internal.h"

/* How far behind blobs that cannot be asked for now others are looked for. */
enum { LOOK_AHEAD = 1024 };

static bool may_be_asked(const struct fetch_source *source, const struct fetch_wanted *wanted)
{
	return !((wanted->refused | wanted->failed) & fetch_source_bit(source));
}

static bool is_paused(const struct fetch_source *source)
{
	return source->paused_ns > ring_now_ns(source->fetcher->ring);
}

/* Peers carry large blobs, to spare the origin; small ones come quicker in the origin's batches. */
static struct fetch_source *choose(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	struct fetch_source *origin = &fetcher->sources[0], *best = NULL;
	bool origin_can = fetch_source_usable(origin) && may_be_asked(origin, wanted);
	bool origin_is_free = origin_can && fetch_source_has_room(origin, wanted->background);
	if (origin_can && !fetch_is_large(wanted))
		return origin_is_free ? origin : NULL;
	if (origin_is_free && wanted->hedged)
		return origin;
	for (unsigned i = 0; i < FETCH_SOURCES - 1; i++) {
		unsigned index = 1 + (fetcher->turn + i) % (FETCH_SOURCES - 1);
		struct fetch_source *source = &fetcher->sources[index];
		/* A paused one may still be the last that has it. */
		if (fetch_source_usable(source) && may_be_asked(source, wanted) &&
			!(origin_can && is_paused(source)) && fetch_source_has_room(source, wanted->background) &&
			(!best || source->busy < best->busy))
			best = source;
	}
	if (best)
		fetcher->turn = best->index;
	else if (origin_is_free)
		best = origin;
	return best;
}

static void move(struct fetch_connection *connection, struct fetch_wanted *wanted)
{
	struct croft_fetcher *fetcher = connection->source->fetcher;
	fetch_dequeue(fetcher, wanted);
	wanted->state = FETCH_MOVING;
	connection->asked[connection->asked_count++] = wanted;
}

/* `wanted` and those behind it that can go along. */
static void gather(struct fetch_connection *connection, struct fetch_wanted *wanted)
{
	struct fetch_source *source = connection->source;
	uint64_t bytes = 0, now = ring_now_ns(source->fetcher->ring);
	unsigned most = source->no_batch ? 1 : FETCH_BATCH_COUNT;
	for (struct fetch_wanted *next; wanted && connection->asked_count < most; wanted = next) {
		next = wanted->next;
		if (connection->asked_count > 0 &&
			(!may_be_asked(source, wanted) || wanted->retry_ns > now))
			continue;
		bytes += wanted->digest.size_bytes;
		if (connection->asked_count > 0 && bytes > FETCH_BATCH_BYTES)
			break;
		move(connection, wanted);
	}
}

/* For now. The buffer of an intake may still be the place of another connection's receive, which is
 * ending. */
static bool has_to_wait(const struct fetch_wanted *wanted, uint64_t now)
{
	return wanted->retry_ns > now || (wanted->intake && wanted->intake->receiving);
}

static bool is_full(const struct croft_fetcher *fetcher, const struct fetch_wanted *wanted)
{
	return fetch_is_large(wanted) ? !wanted->intake && fetcher->intakes >= FETCH_INTAKES
								  : fetcher->storing_bytes >= FETCH_STORING_BYTES;
}

/* False: it has to wait. */
static bool start(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	struct fetch_source *source = choose(fetcher, wanted);
	if (!source)
		return false;
	if (source->address_count == 0) {
		fetch_source_resolve(source);
		return false;
	}
	struct fetch_connection *connection = fetch_connection_get(source);
	if (!connection)
		return false;
	if (fetch_is_large(wanted)) {
		move(connection, wanted);
		if (!wanted->intake)
			fetch_intake_create(fetcher, wanted);
	} else {
		gather(connection, wanted);
	}
	fetch_connection_ask(connection);
	return true;
}

static bool any_free_connection(struct croft_fetcher *fetcher, bool background)
{
	for (unsigned i = 0; i < FETCH_SOURCES; i++) {
		const struct fetch_source *source = &fetcher->sources[i];
		if (fetch_source_usable(source) && fetch_source_has_room(source, background))
			return true;
	}
	return false;
}

static void serve(struct croft_fetcher *fetcher, bool background, bool large)
{
	uint64_t now = ring_now_ns(fetcher->ring);
	struct fetch_queue *queue = &fetcher->queues[background][large];
	struct fetch_wanted *at = queue->first;
	for (int looked = 0; at && looked < LOOK_AHEAD; looked++) {
		if (!any_free_connection(fetcher, background))
			return;
		if (is_full(fetcher, at)) {
			/* Large blobs behind it may have the intakes that it waits for: they must go on. */
			if (!large)
				return;
			at = at->next;
		} else if (has_to_wait(at, now)) {
			if (at->retry_ns > now)
				fetch_wake(fetcher, at->retry_ns);
			at = at->next;
		} else if (start(fetcher, at)) {
			/* It, and perhaps others behind it, are not in the queue any more. */
			at = queue->first;
			looked = 0;
		} else {
			struct fetch_wanted *next = at->next;
			fetch_reconsider(fetcher, at);
			at = next;
		}
	}
}

static bool is_anything_queued(const struct croft_fetcher *fetcher)
{
	for (int i = 0; i < 4; i++)
		if (fetcher->queues[i / 2][i % 2].first)
			return true;
	return fetcher->recipe_queues[false] || fetcher->recipe_queues[true];
}

/* A source that is given time after a failure takes up work again by itself: the one timer may have
 * been set for something sooner when the source failed. */
static void wait_for_sources(struct croft_fetcher *fetcher)
{
	uint64_t now = ring_now_ns(fetcher->ring);
	for (unsigned i = 0; i < FETCH_SOURCES; i++) {
		const struct fetch_source *source = &fetcher->sources[i];
		if (source->used && source->listed && !source->bad && source->ready_ns > now)
			fetch_wake(fetcher, source->ready_ns);
	}
}

void fetch_pump(struct croft_fetcher *fetcher)
{
	fetcher->pump_again = true;
	if (fetcher->pumping || fetcher->stopping)
		return;
	fetcher->pumping = true;
	while (fetcher->pump_again) {
		fetcher->pump_again = false;
		for (int background = 0; background < 2; background++) {
			fetch_recipes_pump(fetcher, background);
			serve(fetcher, background, false);
			serve(fetcher, background, true);
		}
	}
	if (is_anything_queued(fetcher))
		wait_for_sources(fetcher);
	fetcher->pumping = false;
}
