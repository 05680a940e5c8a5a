/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/workers.h"

#include "proto/base/arena.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

enum { IDLE_SECONDS = 10, MOST_WAITING = 4096 };
/* Handlers go through trees by recursion, 1,024 directories deep at most and a KiB or two for each. Memory is taken as it is
 * touched. */
enum { STACK_BYTES = 4 * 1024 * 1024 };

/* A thread without work. The last to fall asleep is woken first: it and its stack are still in the caches,
 * and those that are too many sleep on until they may leave. */
struct sleeper {
	struct sleeper *next;
	pthread_cond_t wake;
	bool woken;
};

struct croft_workers {
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t left;
	struct croft_work *first, **last;
	size_t queued;
	unsigned most;
	unsigned threads, waiting; /* the second is part of the first */
	struct sleeper *sleepers;
	/* One is on its way to the queue. It will wake the next if there is more than it takes, so that a burst
	 * of short work on few CPUs does not wake a thread for each. */
	bool waking;
	bool stopping;
};

struct croft_workers *croft_workers_create(unsigned most)
{
	struct croft_workers *workers = croft_zalloc(sizeof(*workers));
	pthread_mutex_init(&workers->lock, NULL);
	pthread_cond_init(&workers->left, NULL);
	workers->last = &workers->first;
	workers->most = most;
	return workers;
}

/* Without those that wait for a peer. The lock is held. */
static unsigned counted_threads(const struct croft_workers *workers)
{
	unsigned waiting = workers->waiting < MOST_WAITING ? workers->waiting : MOST_WAITING;
	return workers->threads > waiting ? workers->threads - waiting : 0;
}

static void wake_one(struct croft_workers *workers);

/* The lock is held. */
static void forget_sleeper(struct croft_workers *workers, struct sleeper *sleeper)
{
	struct sleeper **at = &workers->sleepers;
	while (*at != sleeper)
		at = &(*at)->next;
	*at = sleeper->next;
}

/* Until it is woken; false when it was not for long. The lock is held. */
static bool sleep_idle(struct croft_workers *workers, struct sleeper *sleeper)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_SECONDS;
	sleeper->woken = false;
	sleeper->next = workers->sleepers;
	workers->sleepers = sleeper;
	while (!sleeper->woken)
		if (pthread_cond_timedwait(&sleeper->wake, &workers->lock, &until) == ETIMEDOUT)
			break;
	if (sleeper->woken)
		workers->waking = false;
	else
		forget_sleeper(workers, sleeper);
	return sleeper->woken;
}

/* The next work, or NULL when this thread is to leave. The lock is held. */
static struct croft_work *next_work(struct croft_workers *workers, struct sleeper *sleeper)
{
	/* Others took the place of threads that waited and are back. */
	if (counted_threads(workers) > workers->most)
		return NULL;
	while (!workers->first && !workers->stopping && sleep_idle(workers, sleeper))
		; /* somebody who was just free may have been faster */
	struct croft_work *work = workers->first;
	if (!work)
		return NULL;
	workers->first = work->next;
	if (!workers->first)
		workers->last = &workers->first;
	workers->queued--;
	wake_one(workers);
	return work;
}

static void *worker_thread(void *user)
{
	struct croft_workers *workers = user;
	struct sleeper sleeper;
	pthread_setname_np(pthread_self(), "worker");
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&sleeper.wake, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_lock(&workers->lock);
	workers->waking = false;
	for (struct croft_work *work; (work = next_work(workers, &sleeper));) {
		pthread_mutex_unlock(&workers->lock);
		work->run(work);
		pthread_mutex_lock(&workers->lock);
	}
	workers->threads--;
	pthread_cond_broadcast(&workers->left);
	pthread_mutex_unlock(&workers->lock);
	pthread_cond_destroy(&sleeper.wake);
	return NULL;
}

/* The lock is held. */
static bool add_thread(struct croft_workers *workers)
{
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
#endif
	pthread_t thread;
	/* Without another thread the work waits for one that is there; only the first is needed. */
	bool added = pthread_create(&thread, &attributes, worker_thread, workers) == 0;
	pthread_attr_destroy(&attributes);
	if (!added && workers->threads == 0)
		abort();
	workers->threads += added;
	return added;
}

/* The lock is held. */
static void wake_sleeper(struct croft_workers *workers)
{
	struct sleeper *sleeper = workers->sleepers;
	workers->sleepers = sleeper->next;
	sleeper->woken = true;
	pthread_cond_signal(&sleeper->wake);
}

/* If there is work for one, and none is on its way. The lock is held. */
static void wake_one(struct croft_workers *workers)
{
	if (workers->queued == 0 || workers->waking)
		return;
	if (workers->sleepers) {
		workers->waking = true;
		wake_sleeper(workers);
	} else if (counted_threads(workers) < workers->most) {
		workers->waking = add_thread(workers);
	}
}

void croft_workers_submit(struct croft_workers *workers, struct croft_work *work)
{
	pthread_mutex_lock(&workers->lock);
	work->next = NULL;
	*workers->last = work;
	workers->last = &work->next;
	workers->queued++;
	wake_one(workers);
	pthread_mutex_unlock(&workers->lock);
}

void croft_workers_begin_wait(struct croft_workers *workers)
{
	pthread_mutex_lock(&workers->lock);
	workers->waiting++;
	wake_one(workers);
	pthread_mutex_unlock(&workers->lock);
}

void croft_workers_end_wait(struct croft_workers *workers)
{
	pthread_mutex_lock(&workers->lock);
	workers->waiting--;
	pthread_mutex_unlock(&workers->lock);
}

void croft_workers_destroy(struct croft_workers *workers)
{
	if (!workers)
		return;
	pthread_mutex_lock(&workers->lock);
	workers->stopping = true;
	while (workers->sleepers)
		wake_sleeper(workers);
	while (workers->threads > 0)
		pthread_cond_wait(&workers->left, &workers->lock);
	pthread_mutex_unlock(&workers->lock);
	pthread_cond_destroy(&workers->left);
	pthread_mutex_destroy(&workers->lock);
	free(workers);
}
