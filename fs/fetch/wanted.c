/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Wanted blobs: who waits for them, their queues, their end. */
#include "fs/fetch/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

enum { RETRY_MS = 50, RETRY_DOUBLINGS = 5 };

/* Queues --------------------------------------------------------------------------------------- */

static struct fetch_queue *queue_of(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	return &fetcher->queues[wanted->background][fetch_is_large(wanted)];
}

void fetch_enqueue(struct croft_fetcher *fetcher, struct fetch_wanted *wanted, bool at_front)
{
	if (fetcher->stopping) {
		struct croft_error err = CROFT_ERROR_INIT;
		croft_error_set(&err, CROFT_CANCELLED, "fetching ended");
		fetch_finish(fetcher, wanted, &err);
		return;
	}
	struct fetch_queue *queue = queue_of(fetcher, wanted);
	wanted->state = FETCH_QUEUED;
	wanted->previous = at_front ? NULL : queue->last;
	wanted->next = at_front ? queue->first : NULL;
	*(wanted->previous ? &wanted->previous->next : &queue->first) = wanted;
	*(wanted->next ? &wanted->next->previous : &queue->last) = wanted;
}

void fetch_dequeue(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	struct fetch_queue *queue = queue_of(fetcher, wanted);
	*(wanted->previous ? &wanted->previous->next : &queue->first) = wanted->next;
	*(wanted->next ? &wanted->next->previous : &queue->last) = wanted->previous;
	wanted->previous = wanted->next = NULL;
}

/* Beginning ------------------------------------------------------------------------------------ */

static struct fetch_wanted *wanted_create(struct croft_fetcher *fetcher,
	const struct croft_fetch_request *request)
{
	struct fetch_wanted *wanted = croft_zalloc(sizeof(*wanted));
	wanted->digest = request->digest;
	wanted->background = request->background;
	wanted->last_waiter = &wanted->waiters;
	wanted->since_ns = ring_now_ns(fetcher->ring);
	fetch_count(fetcher, fetching_blobs, 1);
	fetch_count(fetcher, fetching_bytes, wanted->digest.size_bytes);
	return wanted;
}

void fetch_want(struct croft_fetcher *fetcher, struct fetch_waiter *waiter)
{
	void **place = croft_digest_map_at(fetcher->wanted, &waiter->request.digest);
	struct fetch_wanted *wanted = *place;
	bool is_new = !wanted;
	if (is_new)
		*place = wanted = wanted_create(fetcher, &waiter->request);
	waiter->next = NULL;
	*wanted->last_waiter = waiter;
	wanted->last_waiter = &waiter->next;
	if (is_new) {
		fetch_enqueue(fetcher, wanted, false);
	} else if (wanted->background && !waiter->request.background) {
		/* Somebody needs now what was only going to be needed. */
		bool queued = wanted->state == FETCH_QUEUED;
		if (queued)
			fetch_dequeue(fetcher, wanted);
		wanted->background = false;
		/* What is begun goes first: others may wait for its intake. */
		if (queued)
			fetch_enqueue(fetcher, wanted, wanted->intake != NULL);
	}
}

/* The end -------------------------------------------------------------------------------------- */

void fetch_finish(struct croft_fetcher *fetcher, struct fetch_wanted *wanted,
	const struct croft_error *err)
{
	croft_digest_map_remove(fetcher->wanted, &wanted->digest);
	fetch_count(fetcher, fetching_blobs, -UINT64_C(1));
	fetch_count(fetcher, fetching_bytes, -wanted->digest.size_bytes);
	if (err)
		fetch_count(fetcher, failures, 1);
	else
		fetch_count(fetcher, blobs, 1);
	uint64_t moved = wanted->moved_bytes;
	for (struct fetch_waiter *next, *at = wanted->waiters; at; at = next) {
		next = at->next;
		at->request.done(at->request.user, &wanted->digest, moved, err);
		moved = 0;
		free(at);
	}
	if (wanted->intake)
		fetch_intake_abandon(wanted->intake);
	free(wanted->data);
	free(wanted);
}

/* Trouble -------------------------------------------------------------------------------------- */

void fetch_wake(struct croft_fetcher *fetcher, uint64_t at_ns)
{
	if (!fetcher->retry.set || fetcher->retry.at_ns > at_ns)
		ring_timer_set(fetcher->ring, &fetcher->retry, at_ns);
}

/* Sources that may be asked for it, now or soon: bits. */
static uint64_t hopes(const struct croft_fetcher *fetcher, bool sound)
{
	uint64_t bits = 0;
	for (unsigned i = 0; i < FETCH_SOURCES; i++) {
		const struct fetch_source *source = &fetcher->sources[i];
		if (source->used && source->listed && !source->bad && (!sound || source->failures == 0))
			bits |= fetch_source_bit(source);
	}
	return bits;
}

/* It is in no queue. */
static void give_up(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	struct croft_error err = wanted->failure;
	char text[CROFT_DIGEST_TEXT];
	if (err.code == CROFT_OK)
		err = fetcher->sources[0].last_error;
	if (err.code == CROFT_OK)
		croft_error_set(&err, CROFT_UNAVAILABLE, "no source answers");
	croft_digest_format(&wanted->digest, '/', text);
	croft_error_wrap(&err, "blob %s did not come within %llu ms", text,
		(unsigned long long)(fetcher->deadline_ns / 1000000));
	fetch_finish(fetcher, wanted, &err);
}

static void again(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	uint64_t now = ring_now_ns(fetcher->ring);
	fetch_count(fetcher, retries, 1);
	if (wanted->trouble_ns == 0)
		wanted->trouble_ns = now;
	if (now - wanted->trouble_ns >= fetcher->deadline_ns && !fetcher->stopping) {
		give_up(fetcher, wanted);
		return;
	}
	uint64_t left = hopes(fetcher, true) & ~wanted->refused & ~wanted->failed;
	wanted->retry_ns = 0;
	if (left == 0) {
		unsigned doublings =
			wanted->attempts < RETRY_DOUBLINGS ? wanted->attempts : RETRY_DOUBLINGS;
		wanted->attempts++;
		wanted->failed = 0;
		wanted->retry_ns = now + ((uint64_t)RETRY_MS << doublings) * 1000000;
		fetch_wake(fetcher, wanted->retry_ns);
	}
	fetch_enqueue(fetcher, wanted, true);
}

static void not_found(struct croft_fetcher *fetcher, struct fetch_wanted *wanted, const char *last)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(&wanted->digest, '/', text);
	croft_error_set(
		&err, CROFT_NOT_FOUND, "no source has blob %s; the last asked was %s", text, last);
	fetch_finish(fetcher, wanted, &err);
}

void fetch_forgive(struct croft_fetcher *fetcher, struct fetch_source *source)
{
	size_t position = 0;
	for (struct fetch_wanted *at; (at = croft_digest_map_next(fetcher->wanted, &position));) {
		at->refused &= ~fetch_source_bit(source);
		at->failed &= ~fetch_source_bit(source);
		at->retry_ns = at->trouble_ns = 0;
	}
}

/* The source that was left for it may have turned out bad, or have left the list. */
void fetch_reconsider(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	uint64_t left = hopes(fetcher, false) & ~wanted->refused;
	if (left & ~wanted->failed)
		return;
	if (left) {
		wanted->failed = 0;
		wanted->retry_ns = ring_now_ns(fetcher->ring) + RETRY_MS * UINT64_C(1000000);
		fetch_wake(fetcher, wanted->retry_ns);
		return;
	}
	fetch_dequeue(fetcher, wanted);
	not_found(fetcher, wanted, fetcher->sources[0].name);
}

void fetch_refused(struct fetch_wanted *wanted, struct fetch_source *source)
{
	struct croft_fetcher *fetcher = source->fetcher;
	wanted->refused |= fetch_source_bit(source);
	fetch_hedge_missed(source);
	/* The origin's word is enough when the others left are dead or dumb. */
	bool origin_refused = wanted->refused & fetch_source_bit(&fetcher->sources[0]);
	if (hopes(fetcher, origin_refused) & ~wanted->refused) {
		fetch_enqueue(fetcher, wanted, true);
		return;
	}
	not_found(fetcher, wanted, source->name);
}

void fetch_failed(struct fetch_wanted *wanted, struct fetch_source *source,
	const struct croft_error *err)
{
	wanted->failed |= fetch_source_bit(source);
	wanted->failure = *err;
	if (wanted->intake && wanted->intake->whole) {
		fetch_intake_abandon(wanted->intake);
		wanted->intake = NULL;
		fetch_intake_create(source->fetcher, wanted);
		wanted->intake->whole = true;
	}
	again(source->fetcher, wanted);
}

void fetch_wrong(struct croft_fetcher *fetcher, struct fetch_wanted *wanted,
	struct fetch_source *source, const struct croft_error *err)
{
	fetch_count(fetcher, bad_bytes, wanted->digest.size_bytes);
	wanted->failure = *err;
	wanted->failure.code = CROFT_DATA_LOSS;
	if (source) {
		croft_error_wrap(&wanted->failure, "%s sent wrong bytes", source->name);
		fetch_source_lied(source);
		wanted->failed |= fetch_source_bit(source);
	}
	free(wanted->data);
	wanted->data = NULL;
	if (++wanted->wrong >= FETCH_WRONG) {
		struct croft_error failure = wanted->failure;
		fetch_finish(fetcher, wanted, &failure);
		return;
	}
	again(fetcher, wanted);
}

/* Deadlines ------------------------------------------------------------------------------------ */

/* Waiting behind others is no trouble; having failed, or nobody answering at all, is. */
static bool is_overdue(const struct croft_fetcher *fetcher, const struct fetch_wanted *wanted)
{
	uint64_t now = ring_now_ns(fetcher->ring), since = wanted->trouble_ns;
	if (wanted->state != FETCH_QUEUED)
		return false;
	if (since == 0 && fetcher->dark_ns != 0)
		since = wanted->since_ns > fetcher->dark_ns ? wanted->since_ns : fetcher->dark_ns;
	return since != 0 && now - since >= fetcher->deadline_ns;
}

void fetch_check_deadlines(struct croft_fetcher *fetcher)
{
	uint64_t now = ring_now_ns(fetcher->ring);
	if (fetcher->dark_ns != 0 && now > fetcher->deadline_ns)
		fetch_recipes_end(fetcher, now - fetcher->deadline_ns);
	for (int i = 0; i < 4; i++)
		for (struct fetch_wanted *next, *at = fetcher->queues[i / 2][i % 2].first; at; at = next) {
			next = at->next;
			if (!is_overdue(fetcher, at))
				continue;
			fetch_dequeue(fetcher, at);
			give_up(fetcher, at);
		}
}
