/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/workers.h"

#include "proto/base/arena.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

enum { IDLE_SECONDS = 10, STACK_BYTES = 512 * 1024, MOST_WAITING = 4096 };

struct croft_workers {
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t wanted, left;
	struct croft_work *first, **last;
	size_t queued;
	unsigned most;
	unsigned threads, idle, waiting; /* the second and third are part of the first */
	/* One is on its way to the queue. It will wake the next if there is more than it takes, so that a burst
	 * of short work on few CPUs does not wake a thread for each. */
	bool waking;
	bool stopping;
};

struct croft_workers *croft_workers_create(unsigned most)
{
	struct croft_workers *workers = croft_zalloc(sizeof(*workers));
	pthread_mutex_init(&workers->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&workers->wanted, &attributes);
	pthread_cond_init(&workers->left, &attributes);
	pthread_condattr_destroy(&attributes);
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

/* The next work, or NULL when this thread is to leave. The lock is held. */
static struct croft_work *next_work(struct croft_workers *workers)
{
	/* Others took the place of threads that waited and are back. */
	if (counted_threads(workers) > workers->most)
		return NULL;
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_SECONDS;
	workers->idle++;
	while (!workers->first && !workers->stopping) {
		int woken = pthread_cond_timedwait(&workers->wanted, &workers->lock, &until);
		workers->waking = false;
		if (woken == ETIMEDOUT)
			break;
	}
	workers->idle--;
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
	pthread_setname_np(pthread_self(), "worker");
	pthread_mutex_lock(&workers->lock);
	workers->waking = false;
	for (struct croft_work *work; (work = next_work(workers));) {
		pthread_mutex_unlock(&workers->lock);
		work->run(work);
		pthread_mutex_lock(&workers->lock);
	}
	workers->threads--;
	pthread_cond_broadcast(&workers->left);
	pthread_mutex_unlock(&workers->lock);
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

/* If there is work for one, and none is on its way. The lock is held. */
static void wake_one(struct croft_workers *workers)
{
	if (workers->queued == 0 || workers->waking)
		return;
	if (workers->idle > 0) {
		workers->waking = true;
		pthread_cond_signal(&workers->wanted);
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
	pthread_cond_broadcast(&workers->wanted);
	while (workers->threads > 0)
		pthread_cond_wait(&workers->left, &workers->lock);
	pthread_mutex_unlock(&workers->lock);
	pthread_cond_destroy(&workers->wanted);
	pthread_cond_destroy(&workers->left);
	pthread_mutex_destroy(&workers->lock);
	free(workers);
}
