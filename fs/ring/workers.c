/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/ring/workers.h"

#include "proto/base/cleanup.h"

#include <signal.h>
#include <stdio.h>

/* An action result is looked for with all that its directories name, by recursion as in handlers (proto/rpc/workers.c).
 * Memory is taken as it is touched. */
enum { STACK_BYTES = 4 * 1024 * 1024 };

struct ring_workers {
	char name[16];
	unsigned most;
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t wake;
	struct ring_work *first, **last;
	unsigned count, idle, queued;
	bool end;
	pthread_t *threads;
};

static void *run(void *user)
{
	struct ring_workers *workers = user;
	pthread_setname_np(pthread_self(), workers->name);
	pthread_mutex_lock(&workers->lock);
	for (;;) {
		while (!workers->first && !workers->end) {
			workers->idle++;
			pthread_cond_wait(&workers->wake, &workers->lock);
			workers->idle--;
		}
		struct ring_work *work = workers->first;
		if (!work)
			break;
		workers->first = work->next;
		if (!workers->first)
			workers->last = &workers->first;
		workers->queued--;
		pthread_mutex_unlock(&workers->lock);
		work->work(work);
		ring_post(work->ring, &work->back);
		pthread_mutex_lock(&workers->lock);
	}
	pthread_mutex_unlock(&workers->lock);
	return NULL;
}

/* With the lock held. */
static int start_one(struct ring_workers *workers)
{
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failure = pthread_create(&workers->threads[workers->count], &attributes, run, workers);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (!failure)
		workers->count++;
	return failure;
}

struct ring_workers *ring_workers_create(const char *name, unsigned most, struct croft_error *err)
{
	struct ring_workers *workers = croft_zalloc(sizeof(*workers));
	snprintf(workers->name, sizeof(workers->name), "%.12s-io", name);
	workers->most = most;
	workers->threads = croft_array(most, sizeof(*workers->threads));
	workers->last = &workers->first;
	pthread_mutex_init(&workers->lock, NULL);
	pthread_cond_init(&workers->wake, NULL);
	/* With one there, work is always done, be it later, when more cannot be had. */
	pthread_mutex_lock(&workers->lock);
	int failure = start_one(workers);
	pthread_mutex_unlock(&workers->lock);
	if (!failure)
		return workers;
	croft_error_errno(err, failure, "starting a worker for %s", name);
	ring_workers_destroy(workers);
	return NULL;
}

void ring_workers_submit(struct ring_workers *workers, struct ring_work *work)
{
	CROFT_LOCKED(&workers->lock);
	work->next = NULL;
	*workers->last = work;
	workers->last = &work->next;
	workers->queued++;
	if (workers->queued > workers->idle && workers->count < workers->most)
		start_one(workers);
	pthread_cond_signal(&workers->wake);
}

void ring_workers_destroy(struct ring_workers *workers)
{
	if (!workers)
		return;
	pthread_mutex_lock(&workers->lock);
	workers->end = true;
	pthread_cond_broadcast(&workers->wake);
	pthread_mutex_unlock(&workers->lock);
	for (unsigned i = 0; i < workers->count; i++)
		pthread_join(workers->threads[i], NULL);
	pthread_mutex_destroy(&workers->lock);
	pthread_cond_destroy(&workers->wake);
	free(workers->threads);
	free(workers);
}
