/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * croft.v1.Farm: what people ask of a farm.
 */
#include "sched/core/core.h"

#include "proto/base/io.h"

#include <inttypes.h>

enum { SHOWN_OPERATIONS = 50 };

static Farm__AgentStatus *agent_status(struct croft_sched *sched, const struct agent *agent,
	struct croft_arena *arena)
{
	Farm__AgentStatus *status = croft_arena_alloc(arena, sizeof(*status));
	farm__agent_status__init(status);
	status->agent_id = croft_arena_strdup(arena, agent->id);
	status->hostname = croft_arena_strdup(arena, agent->hostname);
	status->slots = agent->slots;
	status->running = agent->running;
	if (agent->placed != UINT32_MAX)
		status->tracked_bytes = (uint64_t)croft_placement_held(sched->placement, agent->placed);
	status->state = (char *)(!agent->session ? "lost" : agent->draining ? "draining" : "ready");
	const struct draining *draining = draining_find(sched, agent->id);
	if (draining)
		status->drain_reason = croft_arena_strdup(arena, draining_reason(draining));
	status->cache_bytes = agent->cache_bytes;
	status->cache_budget_bytes = agent->cache_budget_bytes;
	status->jobs_done = agent->jobs_done;
	status->fetched_bytes = agent->fetched_bytes;
	if (agent->session) {
		status->fetched_bytes_per_second = agent->moved_per_second;
		status->fetching_blobs = agent->fetching_blobs;
		status->fetching_bytes = agent->fetching_bytes;
	}
	status->from_peers_bytes = agent->from_peers_bytes;
	status->served_bytes = agent->served_bytes;
	status->blob_url = croft_arena_strdup(arena, agent->blob_url ? agent->blob_url : "");
	status->properties = croft_arena_array(arena, agent->property_count, sizeof(void *));
	for (size_t i = 0; i < agent->property_count; i++) {
		const char *equals = strchr(agent->properties[i], '=');
		Reapi__Platform__Property *property = croft_arena_alloc(arena, sizeof(*property));
		reapi__platform__property__init(property);
		property->name = croft_arena_strndup(
			arena, agent->properties[i], (size_t)(equals - agent->properties[i]));
		property->value = croft_arena_strdup(arena, equals + 1);
		status->properties[status->n_properties++] = property;
	}
	return status;
}

static Farm__OperationStatus *operation_status(const struct task *task, const char *name,
	struct croft_arena *arena)
{
	Farm__OperationStatus *status = croft_arena_alloc(arena, sizeof(*status));
	farm__operation_status__init(status);
	status->name = croft_arena_strdup(arena, name);
	status->stage = (char *)state_name(task->state);
	if (task->agent_id)
		status->agent_id = croft_arena_strdup(arena, task->agent_id);
	int64_t age_ns = croft_unix_ns() - task->queued_unix_ns;
	status->age_ms = age_ns > 0 ? (uint64_t)age_ns / 1000000 : 0;
	status->action_digest = croft_digest_to_message(&task->action, arena);
	status->description = croft_arena_strdup(arena, task->description ? task->description : "");
	return status;
}

static void add_operations(const struct task *task, Farm__FarmStatus *status,
	struct croft_arena *arena)
{
	struct operation *operation;
	LIST_FOREACH (operation, &task->operations, link)
		if (status->n_operations < SHOWN_OPERATIONS)
			status->operations[status->n_operations++] =
				operation_status(task, operation->name, arena);
}

static void add_store(struct croft_sched *sched, Farm__StoreStatus *store)
{
	struct croft_store_stat stat;
	croft_store_stat(sched->store, &stat);
	farm__store_status__init(store);
	store->blobs = stat.blobs;
	store->bytes = stat.bytes;
	store->budget_bytes = stat.budget_bytes;
	store->leased_blobs = stat.leased_blobs;
	store->actions = stat.records_action;
	store->assets = stat.records_asset;
	store->quarantined = stat.quarantined;
	store->disk_bytes = stat.disk_bytes;
}

/* Running operations first, then those that run next. */
static void fill_status(struct croft_sched *sched, Farm__FarmStatus *status,
	struct croft_arena *arena)
{
	struct agent *agent;
	size_t agents = 0;
	LIST_FOREACH (agent, &sched->agents, link)
		agents++;
	status->agents = croft_arena_array(arena, agents, sizeof(void *));
	status->operations = croft_arena_array(arena, SHOWN_OPERATIONS, sizeof(void *));
	LIST_FOREACH (agent, &sched->agents, link) {
		status->agents[status->n_agents++] = agent_status(sched, agent, arena);
		struct task *task;
		LIST_FOREACH (task, &agent->tasks, agent_link)
			add_operations(task, status, arena);
	}
	struct task *task;
	TAILQ_FOREACH (task, &sched->queue, queue_link) {
		if (status->n_operations >= SHOWN_OPERATIONS)
			return;
		add_operations(task, status, arena);
	}
}

static bool get_status(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	Farm__FarmStatus status = FARM__FARM_STATUS__INIT;
	Farm__StoreStatus store;
	add_store(sched, &store);
	status.store = &store;
	status.version = (char *)CROFT_VERSION;
	status.blob_url = (char *)sched->config.blob_url;
	status.blob_key = (char *)sched->config.blob_key;
	status.uptime_ms = (croft_now_ns() - sched->started_ns) / 1000000;
	sched_lock(sched);
	status.queued = sched->queued;
	status.running = sched->running;
	status.completed = sched->done_count;
	status.failed = sched->failed_count;
	status.cache_hits = sched->hit_count;
	fill_status(sched, &status, croft_call_arena(call));
	sched_unlock(sched);
	return croft_call_write(call, &status.base, err);
}

static bool drain_agent(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Farm__DrainAgentRequest *request = croft_call_request(call);
	sched_lock(sched);
	bool ok = draining_set(sched, request->agent_id, request->resume ? NULL : request->reason, err);
	sched_unlock(sched);
	Farm__DrainAgentResponse response = FARM__DRAIN_AGENT_RESPONSE__INIT;
	return ok && croft_call_write(call, &response.base, err);
}

static const char *why_waiting(struct croft_sched *sched, const struct task *task,
	struct croft_arena *arena, const struct croft_candidate **candidates, size_t *count)
{
	struct agent *agent;
	unsigned matching = 0, ready = 0;
	LIST_FOREACH (agent, &sched->agents, link) {
		bool matches = class_matches(task->class, agent);
		matching += matches;
		ready += matches && agent->session && !agent->draining;
	}
	if (matching == 0)
		return croft_arena_printf(arena, "no agent offers what the job's platform asks for: %s",
			task->class->key[0] ? task->class->key : "(nothing: there is no agent at all)");
	if (ready == 0)
		return "every agent that fits is lost or draining";
	struct croft_decision decision;
	uint64_t before = 0;
	croft_placement_explain(sched->placement, task->placed, placed_now(), &decision, &before);
	*candidates = croft_arena_copy(
		arena, decision.candidates, decision.candidate_count * sizeof(decision.candidates[0]));
	*count = decision.candidate_count;
	return croft_arena_printf(
		arena, "%s; %u agents fit, %" PRIu64 " of %zu queued jobs go before it", decision.reason, ready,
		before, sched->queued);
}

static const char *why_there(const struct task *task, struct croft_arena *arena)
{
	if (task->where)
		return croft_arena_strdup(arena, task->where->reason);
	return task->agent_id
		? "it was placed before the server was started anew: why, and where else it could have gone, is not kept"
		: "";
}

static void add_candidates(struct croft_sched *sched, Farm__Explanation *explanation,
	const struct croft_candidate *candidates, size_t count, struct croft_arena *arena)
{
	explanation->candidates = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		struct agent *agent;
		LIST_FOREACH (agent, &sched->agents, link)
			if (agent->placed == candidates[i].agent)
				break;
		if (!agent)
			continue;
		Farm__Candidate *candidate = croft_arena_alloc(arena, sizeof(*candidate));
		farm__candidate__init(candidate);
		candidate->agent_id = croft_arena_strdup(arena, agent->id);
		candidate->score_seconds = candidates[i].score_seconds;
		candidate->wait_seconds = candidates[i].wait_seconds;
		candidate->fetch_seconds = candidates[i].fetch_seconds;
		candidate->run_seconds = candidates[i].run_seconds;
		candidate->others_seconds = candidates[i].others_seconds;
		candidate->apart_seconds = candidates[i].apart_seconds;
		candidate->bytes_there = candidates[i].bytes_there;
		candidate->bytes_missing = candidates[i].bytes_missing;
		explanation->candidates[explanation->n_candidates++] = candidate;
	}
}

static bool explain(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Farm__ExplainRequest *request = croft_call_request(call);
	struct croft_arena *arena = croft_call_arena(call);
	Farm__Explanation explanation = FARM__EXPLANATION__INIT;
	sched_lock(sched);
	struct operation *operation = find_operation(sched, request->operation);
	if (operation) {
		const struct task *task = operation->task;
		explanation.operation = request->operation;
		explanation.stage = (char *)state_name(task->state);
		if (task->agent_id)
			explanation.agent_id = croft_arena_strdup(arena, task->agent_id);
		const struct croft_candidate *candidates = task->where ? task->where->candidates : NULL;
		size_t count = task->where ? task->where->candidate_count : 0;
		explanation.reason = (char *)(task->state == TASK_QUEUED
				? why_waiting(sched, task, arena, &candidates, &count)
				: why_there(task, arena));
		explanation.requested_by = (char *)requested_by(task, arena);
		add_candidates(sched, &explanation, candidates, count, arena);
	}
	sched_unlock(sched);
	if (!operation)
		return croft_error_set(
			err, CROFT_NOT_FOUND, "there is no operation '%s'", request->operation);
	return croft_call_write(call, &explanation.base, err);
}

static bool collect_garbage(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Farm__CollectGarbageRequest *request = croft_call_request(call);
	Farm__CollectGarbageResponse response = FARM__COLLECT_GARBAGE_RESPONSE__INIT;
	return croft_store_collect(sched->store, request->target_bytes, &response.freed_bytes,
			   &response.freed_blobs, err) &&
		croft_call_write(call, &response.base, err);
}

#define SERVICE "/croft.v1.Farm/"

const struct croft_rpc_method farm_methods[4] = {
	{SERVICE "GetStatus", CROFT_RPC_UNARY, &farm__get_status_request__descriptor,
		&farm__farm_status__descriptor, get_status, false},
	{SERVICE "DrainAgent", CROFT_RPC_UNARY, &farm__drain_agent_request__descriptor,
		&farm__drain_agent_response__descriptor, drain_agent, false},
	{SERVICE "Explain", CROFT_RPC_UNARY, &farm__explain_request__descriptor,
		&farm__explanation__descriptor, explain, false},
	{SERVICE "CollectGarbage", CROFT_RPC_UNARY, &farm__collect_garbage_request__descriptor,
		&farm__collect_garbage_response__descriptor, collect_garbage, false},
};
