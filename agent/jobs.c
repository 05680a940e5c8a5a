/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/jobs.h"

#include "agent/job.h"
#include "agent/uplink.h"
#include "proto/base/cleanup.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct running {
	struct running *next;
	struct croft_jobs *jobs;
	struct croft_job *job;
	pthread_t thread;
	bool finished; /* its report may be sent */
	bool acknowledged;
};

struct croft_jobs {
	const struct croft_machine *machine;
	unsigned slots;

	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t finished; /* one more is */
	struct running *first;
	unsigned active; /* that hold a slot */
	bool closed;
};

struct croft_jobs *croft_jobs_create(const struct croft_machine *machine, unsigned slots)
{
	struct croft_jobs *jobs = croft_zalloc(sizeof(*jobs));
	jobs->machine = machine;
	jobs->slots = slots;
	pthread_mutex_init(&jobs->lock, NULL);
	pthread_cond_init(&jobs->finished, NULL);
	return jobs;
}

void croft_jobs_destroy(struct croft_jobs *jobs)
{
	if (!jobs)
		return;
	pthread_cond_destroy(&jobs->finished);
	pthread_mutex_destroy(&jobs->lock);
	free(jobs);
}

static void send_refusal(struct croft_jobs *jobs, const char *lease, const char *reason)
{
	Farm__JobRefused refused = FARM__JOB_REFUSED__INIT;
	refused.lease = (char *)lease;
	refused.reason = (char *)reason;
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_JOB_REFUSED;
	message.job_refused = &refused;
	croft_uplink_send(jobs->machine->uplink, &message);
}

static void *job_thread(void *user)
{
	struct running *running = user;
	struct croft_jobs *jobs = running->jobs;
	croft_job_run(running->job);
	/* Its slot is free before the server hears so: the next job may come at once. */
	pthread_mutex_lock(&jobs->lock);
	jobs->active--;
	pthread_mutex_unlock(&jobs->lock);
	/* The report goes out before the job is marked as finished: a reconnect in between sends it a
	 * second time, which the server takes as one. */
	croft_uplink_send(jobs->machine->uplink, croft_job_report(running->job));
	CROFT_LOCKED(&jobs->lock);
	running->finished = true;
	pthread_cond_broadcast(&jobs->finished);
	return NULL;
}

void croft_jobs_start(struct croft_jobs *jobs, const Farm__Job *message, struct croft_arena *arena)
{
	pthread_mutex_lock(&jobs->lock);
	bool closed = jobs->closed, full = jobs->active >= jobs->slots;
	if (!closed && !full) {
		struct running *running = croft_zalloc(sizeof(*running));
		running->jobs = jobs;
		running->job = croft_job_create(jobs->machine, message, arena);
		running->next = jobs->first;
		jobs->first = running;
		jobs->active++;
		if (pthread_create(&running->thread, NULL, job_thread, running) != 0)
			abort();
	}
	pthread_mutex_unlock(&jobs->lock);
	if (!closed && !full)
		return;
	send_refusal(jobs, message->lease, closed ? "the agent is leaving" : "every slot is taken");
	croft_arena_destroy(arena);
}

void croft_jobs_cancel(struct croft_jobs *jobs, const char *lease, const char *reason)
{
	CROFT_LOCKED(&jobs->lock);
	for (struct running *running = jobs->first; running; running = running->next)
		if (strcmp(croft_job_lease(running->job), lease) == 0)
			croft_job_cancel(running->job, reason);
}

/* Frees the jobs that are finished and acknowledged. */
static void reap(struct croft_jobs *jobs)
{
	struct running *dead = NULL;
	pthread_mutex_lock(&jobs->lock);
	for (struct running **at = &jobs->first; *at;) {
		struct running *running = *at;
		if (running->finished && running->acknowledged) {
			*at = running->next;
			running->next = dead;
			dead = running;
		} else {
			at = &running->next;
		}
	}
	pthread_mutex_unlock(&jobs->lock);
	while (dead) {
		struct running *next = dead->next;
		pthread_join(dead->thread, NULL);
		croft_job_destroy(dead->job);
		free(dead);
		dead = next;
	}
}

void croft_jobs_acknowledge(struct croft_jobs *jobs, const char *lease)
{
	pthread_mutex_lock(&jobs->lock);
	for (struct running *running = jobs->first; running; running = running->next)
		if (strcmp(croft_job_lease(running->job), lease) == 0)
			running->acknowledged = true;
	pthread_mutex_unlock(&jobs->lock);
	reap(jobs);
}

void croft_jobs_resend(struct croft_jobs *jobs)
{
	CROFT_LOCKED(&jobs->lock);
	for (struct running *running = jobs->first; running; running = running->next)
		if (running->finished && !running->acknowledged)
			croft_uplink_send(jobs->machine->uplink, croft_job_report(running->job));
}

uint32_t croft_jobs_active(struct croft_jobs *jobs)
{
	CROFT_LOCKED(&jobs->lock);
	return jobs->active;
}

size_t croft_jobs_leases(struct croft_jobs *jobs, char ***leases, struct croft_arena *arena)
{
	CROFT_LOCKED(&jobs->lock);
	size_t count = 0;
	for (struct running *running = jobs->first; running; running = running->next)
		count++;
	*leases = croft_arena_array(arena, count, sizeof(char *));
	count = 0;
	for (struct running *running = jobs->first; running; running = running->next)
		(*leases)[count++] = croft_arena_strdup(arena, croft_job_lease(running->job));
	return count;
}

void croft_jobs_close(struct croft_jobs *jobs)
{
	CROFT_LOCKED(&jobs->lock);
	jobs->closed = true;
}

void croft_jobs_give_back(struct croft_jobs *jobs, const char *reason)
{
	CROFT_LOCKED(&jobs->lock);
	for (struct running *running = jobs->first; running; running = running->next)
		if (!running->finished)
			send_refusal(jobs, croft_job_lease(running->job), reason);
}

/* The lock is held. */
static bool has_unfinished(const struct croft_jobs *jobs)
{
	for (const struct running *running = jobs->first; running; running = running->next)
		if (!running->finished)
			return true;
	return false;
}

void croft_jobs_end(struct croft_jobs *jobs, const char *reason)
{
	pthread_mutex_lock(&jobs->lock);
	for (struct running *running = jobs->first; running; running = running->next)
		croft_job_cancel(running->job, reason);
	while (has_unfinished(jobs))
		pthread_cond_wait(&jobs->finished, &jobs->lock);
	for (struct running *running = jobs->first; running; running = running->next)
		running->acknowledged = true;
	pthread_mutex_unlock(&jobs->lock);
	reap(jobs);
}
