/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hands tasks to agents: which goes where is placement's to say.
 */
#include "sched/core/core.h"

#include "proto/base/io.h"

#include <stdio.h>
#include <stdlib.h>

enum { JOB_PEERS = 8 };

static void assign(struct croft_sched *sched, const struct croft_decision *decision)
{
	struct task *task = decision->job_user;
	struct agent *agent = decision->agent_user;
	placed_where_free(task->where);
	size_t size = decision->candidate_count * sizeof(*decision->candidates);
	task->where = croft_alloc(sizeof(*task->where) + size);
	task->where->candidate_count = decision->candidate_count;
	memcpy(task->where->candidates, decision->candidates, size);
	if (asprintf(&task->where->reason, "%s, after %.1f s", decision->reason, decision->waited_seconds) < 0)
		abort();
	task_lease(sched, task, agent);
}

void dispatch(struct croft_sched *sched)
{
	struct croft_decision decision;
	while (!sched->stopping &&
		croft_placement_next(sched->placement, placed_now(), &decision, NULL))
		assign(sched, &decision);
}

/* Jobs ------------------------------------------------------------------------------------------ */

struct job_source {
	char lease[NAME_TEXT];
	struct croft_digest action, command, input_root;
	struct action_read *read; /* NULL: it is to be read */
	char *instance_name, *operation;
	uint64_t timeout_ms;
	int64_t queued_unix_ns;
	struct croft_slice request_metadata;
	unsigned attempts;
	const char *const *kinds;
};

const char *job_source_lease(const struct job_source *source)
{
	return source->lease;
}

struct job_source *job_source(struct task *task, struct croft_arena *arena)
{
	struct operation *operation = LIST_FIRST(&task->operations);
	struct job_source *source = croft_arena_alloc(arena, sizeof(*source));
	*source = (struct job_source){
		.action = task->action,
		.command = task->command,
		.input_root = task->input_root,
		.instance_name = croft_arena_strdup(arena, task->instance_name),
		.operation = croft_arena_strdup(arena, operation ? operation->name : task->id),
		.timeout_ms = task->timeout_ms,
		.queued_unix_ns = task->queued_unix_ns,
		.request_metadata = CROFT_SLICE(
			croft_arena_copy(arena, task->request_metadata.data, task->request_metadata.size),
			task->request_metadata.size),
		.attempts = task->attempts,
		.kinds = placed_kinds(task, arena),
	};
	memcpy(source->lease, task->lease, NAME_TEXT);
	source->read = task->read;
	task->read = NULL;
	return source;
}

void job_source_finish(struct job_source *source)
{
	action_read_free(source->read);
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

static void add_roots(struct croft_sched *sched, Farm__Job *job,
	const struct croft_digest *input_root, struct croft_arena *arena)
{
	struct croft_root *roots;
	size_t count;
	if (!croft_roots_find(sched->roots, input_root, arena, &roots, &count, NULL))
		return;
	job->roots = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		Farm__TrackedRoot *root = croft_arena_alloc(arena, sizeof(*root));
		farm__tracked_root__init(root);
		root->root = croft_digest_to_message(&roots[i].digest, arena);
		root->directory = roots[i].directory;
		root->total_bytes = roots[i].bytes;
		job->roots[job->n_roots++] = root;
	}
}

Farm__Job *job_make(struct croft_sched *sched, const struct job_source *source,
	struct croft_arena *arena, struct croft_error *err)
{
	Farm__Job *job = croft_arena_alloc(arena, sizeof(*job));
	farm__job__init(job);
	job->lease = (char *)source->lease;
	job->operation = source->operation;
	job->action_digest = croft_digest_to_message(&source->action, arena);
	job->action = source->read
		? (Reapi__Action *)source->read->action
		: read_stored(sched, &source->action, &reapi__action__descriptor, arena, err);
	if (!job->action)
		return NULL;
	job->command = source->read
		? (Reapi__Command *)source->read->command
		: read_stored(sched, &source->command, &reapi__command__descriptor, arena, err);
	if (!job->command)
		return NULL;
	job->timeout_ms = source->timeout_ms;
	job->instance_name = source->instance_name;
	job->queued_unix_ns = source->queued_unix_ns;
	job->request_metadata = (ProtobufCBinaryData){
		source->request_metadata.size, (uint8_t *)source->request_metadata.data};
	job->attempt = source->attempts;
	job->stall_cap_ms = sched->config.stall_cap_ms;
	add_roots(sched, job, &source->input_root, arena);
	job->profile_key = (char *)source->kinds[0];
	job->profile = profiles_predict(sched->profiles, source->kinds, JOB_KINDS, arena);
	return job;
}

void job_add_peers(struct croft_sched *sched, Farm__Job *job, const struct task *task,
	struct croft_arena *arena)
{
	uint32_t found[JOB_PEERS];
	if (!task->placed || !task->agent || task->agent->placed == UINT32_MAX)
		return;
	size_t count = croft_placement_peers(
		sched->placement, task->placed, task->agent->placed, found, JOB_PEERS);
	job->peers = croft_arena_array(arena, count, sizeof(char *));
	for (size_t i = 0; i < count; i++) {
		const struct agent *peer = croft_placement_agent_user(sched->placement, found[i]);
		if (peer->session && *peer->blob_url)
			job->peers[job->n_peers++] = croft_arena_strdup(arena, peer->blob_url);
	}
}
