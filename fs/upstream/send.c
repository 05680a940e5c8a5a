/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing through: one thread sends what was put into the store, in the order in which it came, so
 * that a result follows its outputs. The bytes stay in the store, where a put leases them; what is
 * gone from there by the time it would be sent was not wanted much.
 */
#include "fs/upstream/internal.h"

#include "fs/action_result.h"
#include "fs/action_value.h"
#include "proto/base/io.h"
#include "proto/base/log.h"
#include "proto/rpc/message.h"

#include <time.h>

enum {
	WAITING_MOST = 200000, /* blobs and results; past that new ones are not sent */
	GATHER = 1024,         /* blobs of one turn */
	REST_MS = 100,
	LAST_MS = 2000, /* to go on for when stopped */
};

struct item {
	struct item *next;
	struct croft_digest digest; /* of the blob, or of the action */
	struct croft_slice value;   /* a result's; data NULL: a blob */
	char instance_name[];
};

struct upstream_sender {
	struct croft_upstream *upstream;
	pthread_t thread;
	pthread_mutex_t lock; /* guards: what follows */
	pthread_cond_t change;
	struct item *first, **last;
	bool refused; /* the last time; the thread's own */
	bool stopping;
	uint64_t end_ns; /* when stopping */
};

/* The queue ------------------------------------------------------------------------------------ */

static void item_destroy(struct item *item)
{
	free((void *)item->value.data);
	free(item);
}

static void push(struct upstream_sender *sender, struct item *items)
{
	struct croft_upstream *upstream = sender->upstream;
	uint64_t count = 0;
	for (struct item *item = items; item; item = item->next)
		count++;
	CROFT_LOCKED(&sender->lock);
	if (__atomic_load_n(&upstream->stat.waiting, __ATOMIC_RELAXED) + count > WAITING_MOST) {
		upstream_count(upstream, dropped, count);
		for (struct item *next, *item = items; item; item = next) {
			next = item->next;
			item_destroy(item);
		}
		return;
	}
	upstream_count(upstream, waiting, count);
	*sender->last = items;
	while (*sender->last)
		sender->last = &(*sender->last)->next;
	pthread_cond_signal(&sender->change);
}

void croft_upstream_send(struct croft_upstream *upstream, const struct croft_digest *digests,
	size_t count)
{
	struct item *items = NULL;
	if (!upstream)
		return;
	for (size_t i = count; i-- > 0;) {
		if (croft_digest_is_empty(&digests[i]))
			continue;
		struct item *item = croft_zalloc(sizeof(*item) + 1);
		item->digest = digests[i];
		item->next = items;
		items = item;
	}
	if (items)
		push(upstream->sender, items);
}

void croft_upstream_send_result(struct croft_upstream *upstream, const char *instance_name,
	const struct croft_digest *action, struct croft_slice value)
{
	if (!upstream || value.size > UPSTREAM_RESULT)
		return;
	struct item *item = croft_zalloc(sizeof(*item) + strlen(instance_name) + 1);
	memcpy(item->instance_name, instance_name, strlen(instance_name) + 1);
	item->digest = *action;
	char *copy = croft_alloc(value.size + 1);
	memcpy(copy, value.data, value.size);
	item->value = CROFT_SLICE(copy, value.size);
	push(upstream->sender, item);
}

/* A result, or blobs that stand together in the queue. NULL: it is time to end. */
static struct item *pop(struct upstream_sender *sender)
{
	CROFT_LOCKED(&sender->lock);
	while (!sender->first && !sender->stopping)
		pthread_cond_wait(&sender->change, &sender->lock);
	struct item *first = sender->first, *last = first;
	if (!first)
		return NULL;
	for (int i = 1; i < GATHER && !last->value.data && last->next && !last->next->value.data; i++)
		last = last->next;
	sender->first = last->next;
	if (!sender->first)
		sender->last = &sender->first;
	last->next = NULL;
	return first;
}

static void put_back(struct upstream_sender *sender, struct item *items)
{
	CROFT_LOCKED(&sender->lock);
	struct item **end = &items;
	while (*end)
		end = &(*end)->next;
	*end = sender->first;
	if (!sender->first)
		sender->last = end;
	sender->first = items;
}

/* Sending -------------------------------------------------------------------------------------- */

static bool send_blobs(struct croft_upstream *upstream, const struct croft_digest *digests,
	size_t count, struct croft_error *err)
{
	CROFT_CLEANUP_FREE struct croft_digest *wanted = croft_array(count + 1, sizeof(*wanted));
	CROFT_CLEANUP_FREE bool *there = croft_array(count + 1, sizeof(*there));
	struct croft_digest_map *seen = croft_digest_map_create();
	memset(there, 0, count * sizeof(*there));
	size_t lacking = 0;
	bool ok = count == 0 || !upstream->kind->find ||
		upstream->kind->find(upstream->link, digests, count, there, err);
	for (size_t i = 0; ok && i < count; i++) {
		void **place = croft_digest_map_at(seen, &digests[i]);
		if (!there[i] && !*place)
			wanted[lacking++] = digests[i];
		*place = upstream;
	}
	croft_digest_map_destroy(seen);
	return ok && upstream_in_groups(wanted, lacking, upstream->kind->send, upstream->link, err);
}

static bool send_items(struct croft_upstream *upstream, const struct item *items,
	struct croft_error *err)
{
	struct croft_digest digests[GATHER];
	size_t count = 0;
	for (const struct item *item = items; item; item = item->next)
		digests[count++] = item->digest;
	return send_blobs(upstream, digests, count, err);
}

/* The outputs themselves have gone before; what stands in Trees is found there. */
struct closure {
	struct croft_digest *digests;
	size_t count, room;
};

static void add(struct closure *closure, const Reapi__Digest *message)
{
	struct croft_digest digest;
	if (!croft_digest_from_message(message, "a file", &digest, NULL))
		return;
	if (closure->count == closure->room) {
		closure->room = closure->room ? 2 * closure->room : 64;
		closure->digests =
			croft_realloc(closure->digests, closure->room, sizeof(*closure->digests));
	}
	closure->digests[closure->count++] = digest;
}

static void add_directory(struct closure *closure, const Reapi__Directory *directory)
{
	for (size_t i = 0; directory && i < directory->n_files; i++)
		add(closure, directory->files[i]->digest);
}

static void add_tree(struct croft_upstream *upstream, struct closure *closure,
	const struct croft_digest *digest)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes;
	if (!croft_store_get(upstream->store, digest, arena, &bytes, NULL))
		return;
	const Reapi__Tree *tree =
		croft_message_decode(&reapi__tree__descriptor, bytes, arena, NULL, NULL);
	if (!tree)
		return;
	add_directory(closure, tree->root);
	for (size_t i = 0; i < tree->n_children; i++)
		add_directory(closure, tree->children[i]);
}

static bool send_closure(struct croft_upstream *upstream, struct croft_slice value,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct closure closure = {0};
	struct croft_ref *refs;
	size_t count;
	const Reapi__ActionResult *result =
		croft_message_decode(&reapi__action_result__descriptor, value, arena, NULL, NULL);
	if (!croft_action_value_is_result(value) || !result ||
		!croft_action_result_refs(result, arena, &refs, &count, NULL))
		return true;
	for (size_t i = 0; i < count; i++) {
		add(&closure, croft_digest_to_message(&refs[i].digest, arena));
		if (refs[i].kind == CROFT_REF_TREE)
			add_tree(upstream, &closure, &refs[i].digest);
	}
	bool ok = send_blobs(upstream, closure.digests, closure.count, err);
	free(closure.digests);
	return ok;
}

static bool send_result(struct croft_upstream *upstream, const struct item *item,
	struct croft_error *err)
{
	if (!send_closure(upstream, item->value, err) ||
		!upstream->kind->put_result(
			upstream->link, item->instance_name, &item->digest, item->value, err))
		return false;
	upstream_count(upstream, sent_results, 1);
	return true;
}

/* Refusing is an answer; it is of no use to wait after it. */
static bool is_refusal(const struct croft_error *err)
{
	return err->code != CROFT_UNAVAILABLE && err->code != CROFT_DEADLINE_EXCEEDED;
}

static void done_with(struct croft_upstream *upstream, struct item *items, bool sent)
{
	for (struct item *next, *item = items; item; item = next) {
		next = item->next;
		__atomic_fetch_sub(&upstream->stat.waiting, 1, __ATOMIC_RELAXED);
		if (!sent)
			upstream_count(upstream, dropped, 1);
		item_destroy(item);
	}
}

static void send_turn(struct upstream_sender *sender, struct item *items)
{
	struct croft_upstream *upstream = sender->upstream;
	struct croft_error err = CROFT_ERROR_INIT;
	bool sent = items->value.data ? send_result(upstream, items, &err)
								  : send_items(upstream, items, &err);
	if (sent || is_refusal(&err)) {
		upstream_worked(upstream);
		/* Said once: it may be one that never takes anything. */
		if (!sent && !sender->refused)
			croft_log(CROFT_LOG_WARNING, "upstream %s does not take what it is sent: %s",
				upstream->url, err.message);
		sender->refused = !sent;
		done_with(upstream, items, sent);
	} else {
		upstream_failed(upstream, &err);
		put_back(sender, items);
	}
}

/* False: it is time to end. */
static bool rest(struct upstream_sender *sender)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until); /* or a clock set back would make it rest for as long */
	until.tv_nsec += REST_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	CROFT_LOCKED(&sender->lock);
	/* New items are no reason to ask sooner. */
	if (!sender->stopping)
		pthread_cond_timedwait(&sender->change, &sender->lock, &until);
	return !sender->stopping;
}

static bool is_late(struct upstream_sender *sender)
{
	CROFT_LOCKED(&sender->lock);
	return sender->stopping && croft_now_ns() >= sender->end_ns;
}

static void *run(void *user)
{
	struct upstream_sender *sender = user;
	struct item *items;
	pthread_setname_np(pthread_self(), "croft-upstream");
	while (!is_late(sender) && (items = pop(sender))) {
		bool up;
		while (!(up = upstream_is_up(sender->upstream)) && rest(sender))
			;
		if (!up) {
			put_back(sender, items);
			break;
		}
		send_turn(sender, items);
	}
	return NULL;
}

/* Starting, stopping --------------------------------------------------------------------------- */

struct upstream_sender *upstream_sender_start(struct croft_upstream *upstream,
	struct croft_error *err)
{
	struct upstream_sender *sender = croft_zalloc(sizeof(*sender));
	sender->upstream = upstream;
	sender->last = &sender->first;
	pthread_mutex_init(&sender->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&sender->change, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int failure = pthread_create(&sender->thread, NULL, run, sender);
	if (!failure)
		return sender;
	croft_error_errno(err, failure, "starting thread croft-upstream");
	free(sender);
	return NULL;
}

void upstream_sender_stop(struct upstream_sender *sender)
{
	if (!sender)
		return;
	pthread_mutex_lock(&sender->lock);
	sender->stopping = true;
	sender->end_ns = croft_now_ns() + LAST_MS * UINT64_C(1000000);
	pthread_cond_broadcast(&sender->change);
	pthread_mutex_unlock(&sender->lock);
	pthread_join(sender->thread, NULL);
	done_with(sender->upstream, sender->first, false);
	pthread_mutex_destroy(&sender->lock);
	pthread_cond_destroy(&sender->change);
	free(sender);
}
