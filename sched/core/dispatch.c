/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which task goes to which agent.
 *
 * An agent that ran the same input root before has its bytes; otherwise the least loaded one is taken.
 */
#include "sched/core/core.h"

#include "proto/base/io.h"
#include "proto/base/log.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t root_key(const struct croft_digest *root)
{
	uint64_t key;
	memcpy(&key, root->hash, sizeof(key));
	return key;
}

static bool ran_root(const struct agent *agent, uint64_t key)
{
	for (unsigned i = 0; i < RECENT_ROOTS; i++)
		if (agent->recent_roots[i] == key)
			return true;
	return false;
}

static bool is_free(const struct agent *agent, uint64_t now_ns)
{
	return agent->session && !agent->draining && agent->running < agent->slots &&
		now_ns >= agent->refused_until_ns;
}

/* Seconds that are expected to be lost by running there: a busy slot costs the others some of their
 * speed, an unknown root costs its fetches. */
static double cost_of(const struct agent *agent, uint64_t key)
{
	double load = (double)agent->running / agent->slots;
	return 2.0 * load + (ran_root(agent, key) ? 0.0 : 1.5);
}

static struct agent *choose_agent(struct croft_sched *sched, const struct task *task)
{
	uint64_t now_ns = croft_now_ns(), key = root_key(&task->input_root);
	struct agent *agent, *best = NULL;
	double best_cost = 0;
	LIST_FOREACH (agent, &sched->agents, link) {
		if (!is_free(agent, now_ns) || !class_matches(task->class, agent))
			continue;
		double cost = cost_of(agent, key);
		if (!best || cost < best_cost) {
			best = agent;
			best_cost = cost;
		}
	}
	return best;
}

static void assign(struct croft_sched *sched, struct task *task, struct agent *agent)
{
	uint64_t key = root_key(&task->input_root);
	free(task->reason);
	if (asprintf(&task->reason, "%s, %u of %u slots busy",
			ran_root(agent, key) ? "ran this input root before" : "least loaded", agent->running,
			agent->slots) < 0)
		abort();
	if (!ran_root(agent, key))
		agent->recent_roots[agent->next_root++ % RECENT_ROOTS] = key;
	task_lease(sched, task, agent);
}

static struct task *first_queued(const struct task_class *class)
{
	struct level *level = TAILQ_FIRST(&class->levels);
	return level ? TAILQ_FIRST(&level->tasks) : NULL;
}

void dispatch(struct croft_sched *sched)
{
	struct task_class *class;
	if (sched->stopping)
		return;
	LIST_FOREACH (class, &sched->classes, link) {
		struct task *task;
		struct agent *agent;
		while ((task = first_queued(class)) && (agent = choose_agent(sched, task)))
			assign(sched, task, agent);
	}
}

/* Sending --------------------------------------------------------------------------------------- */

/* What is needed of a task to make its Job message without holding the lock. */
struct job_source {
	struct croft_digest action, command;
	char *instance_name, *operation;
	uint64_t timeout_ms;
	int64_t queued_unix_ns;
	struct croft_slice request_metadata;
	unsigned attempts;
};

static bool copy_source(struct croft_sched *sched, const char *lease, struct croft_arena *arena,
	struct job_source *source)
{
	CROFT_LOCKED(&sched->lock);
	struct task *task = find_lease(sched, lease);
	if (!task || task->state != TASK_LEASED)
		return false;
	struct operation *operation = LIST_FIRST(&task->operations);
	*source = (struct job_source){
		.action = task->action,
		.command = task->command,
		.instance_name = croft_arena_strdup(arena, task->instance_name),
		.operation = croft_arena_strdup(arena, operation ? operation->name : task->id),
		.timeout_ms = task->timeout_ms,
		.queued_unix_ns = task->queued_unix_ns,
		.request_metadata = CROFT_SLICE(
			croft_arena_copy(arena, task->request_metadata.data, task->request_metadata.size),
			task->request_metadata.size),
		.attempts = task->attempts,
	};
	return true;
}

static void *read_stored(struct croft_sched *sched, const struct croft_digest *digest,
	const ProtobufCMessageDescriptor *type, struct croft_arena *arena, struct croft_error *err)
{
	struct croft_slice bytes = CROFT_SLICE("", 0);
	if (!croft_digest_is_empty(digest) &&
		!croft_store_get(sched->store, digest, arena, &bytes, err))
		return NULL;
	return croft_message_decode(type, bytes, arena, NULL, err);
}

static Farm__Job *make_job(struct croft_sched *sched, const char *lease,
	const struct job_source *source, struct croft_arena *arena, struct croft_error *err)
{
	Farm__Job *job = croft_arena_alloc(arena, sizeof(*job));
	farm__job__init(job);
	job->lease = (char *)lease;
	job->operation = source->operation;
	job->action_digest = croft_digest_to_message(&source->action, arena);
	job->action = read_stored(sched, &source->action, &reapi__action__descriptor, arena, err);
	if (!job->action)
		return NULL;
	job->command = read_stored(sched, &source->command, &reapi__command__descriptor, arena, err);
	if (!job->command)
		return NULL;
	job->timeout_ms = source->timeout_ms;
	job->instance_name = source->instance_name;
	job->queued_unix_ns = source->queued_unix_ns;
	job->request_metadata = (ProtobufCBinaryData){
		source->request_metadata.size, (uint8_t *)source->request_metadata.data};
	job->attempt = source->attempts;
	job->stall_cap_ms = sched->config.stall_cap_ms;
	return job;
}

void send_job(struct croft_sched *sched, const char *lease)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct job_source source;
	struct croft_error err = CROFT_ERROR_INIT;
	if (!copy_source(sched, lease, arena, &source))
		return;
	Farm__Job *job = make_job(sched, lease, &source, arena, &err);
	CROFT_LOCKED(&sched->lock);
	struct task *task = find_lease(sched, lease);
	if (!task || task->state != TASK_LEASED)
		return;
	if (!job) {
		croft_error_wrap(&err, "reading the action again");
		task_complete_error(sched, task, err.code, err.message);
		return;
	}
	Farm__ServerMessage message = FARM__SERVER_MESSAGE__INIT;
	message.kind_case = FARM__SERVER_MESSAGE__KIND_JOB;
	message.job = job;
	/* Without a session the agent's reconnect, or its loss, decides what becomes of the lease. */
	if (task->agent && task->agent->session)
		croft_call_post(task->agent->session->call, &message.base);
}
