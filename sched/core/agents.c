/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * croft.v1.Agents: the agents' sessions.
 */
#include "sched/core/core.h"

#include "proto/base/io.h"
#include "proto/base/log.h"
#include "sched/core/finish.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

/* Heartbeats that may be missed before an agent is lost. */
enum { MISSED_HEARTBEATS = 5 };
static const double REFUSED_SECONDS = 0.5;

static void post(struct session *session, Farm__ServerMessage__KindCase kind, void *part)
{
	Farm__ServerMessage message = FARM__SERVER_MESSAGE__INIT;
	message.kind_case = kind;
	message.welcome = part; /* a union: any of its members */
	croft_call_post(session->call, &message.base);
}

/* The message and its part stand in the arena until agents_send. */
static void post_later(struct session *session, Farm__ServerMessage__KindCase kind, void *part,
	struct croft_arena *arena)
{
	Farm__ServerMessage *message = croft_arena_alloc(arena, sizeof(*message));
	farm__server_message__init(message);
	message->kind_case = kind;
	message->welcome = part; /* a union: any of its members */
	if (session->waiting_count == session->waiting_room) {
		session->waiting_room = 2 * session->waiting_room + 16;
		session->waiting =
			croft_realloc(session->waiting, session->waiting_room, sizeof(*session->waiting));
	}
	session->waiting[session->waiting_count++] = message;
}

static void send_waiting(struct session *session)
{
	Farm__ServerBatch batch = FARM__SERVER_BATCH__INIT;
	batch.n_messages = session->waiting_count;
	batch.messages = session->waiting;
	if (session->waiting_count == 1)
		croft_call_post(session->call, &session->waiting[0]->base);
	else if (session->waiting_count > 1)
		post(session, FARM__SERVER_MESSAGE__KIND_BATCH, &batch);
	session->waiting_count = 0;
}

void agents_send(struct croft_sched *sched)
{
	struct agent *agent;
	LIST_FOREACH (agent, &sched->agents, link)
		if (agent->session)
			send_waiting(agent->session);
}

/* Agents ------------------------------------------------------------------------------------------ */

static void replace_text(char **text, const char *with)
{
	free(*text);
	*text = croft_strdup(with);
}

struct agent *find_agent(struct croft_sched *sched, const char *id)
{
	struct agent *agent;
	LIST_FOREACH (agent, &sched->agents, link)
		if (strcmp(agent->id, id) == 0)
			return agent;
	return NULL;
}

static void free_properties(struct agent *agent)
{
	for (size_t i = 0; i < agent->property_count; i++)
		free(agent->properties[i]);
	free(agent->properties);
	agent->properties = NULL;
	agent->property_count = 0;
}

void agent_free(struct agent *agent)
{
	LIST_REMOVE(agent, link);
	free_properties(agent);
	free(agent->id);
	free(agent->hostname);
	free(agent->blob_url);
	free(agent);
}

static void describe_agent(struct agent *agent, const Farm__Hello *hello)
{
	replace_text(&agent->hostname, hello->hostname);
	replace_text(&agent->blob_url, hello->blob_url);
	agent->slots = hello->slots ? hello->slots : 1;
	agent->memory_bytes = hello->memory_bytes;
	free_properties(agent);
	agent->properties = croft_array(hello->n_properties + 1, sizeof(char *));
	bool has_cpus = hello->cpus == 0;
	for (size_t i = 0; i < hello->n_properties; i++) {
		has_cpus |= strcmp(hello->properties[i]->name, "croft-cpus") == 0;
		if (asprintf(&agent->properties[agent->property_count++], "%s=%s",
				hello->properties[i]->name, hello->properties[i]->value) < 0)
			abort();
	}
	if (!has_cpus && asprintf(&agent->properties[agent->property_count++], "croft-cpus=%u", hello->cpus) < 0)
		abort();
}

void agent_open(struct croft_sched *sched, const struct agent *agent)
{
	if (agent->placed != UINT32_MAX)
		croft_placement_agent_open(
			sched->placement, agent->placed, agent->session && !agent->draining);
}

/* All its tasks go elsewhere. */
static void lose_agent(struct croft_sched *sched, struct agent *agent, const char *why)
{
	struct task *task;
	if (!LIST_EMPTY(&agent->tasks))
		croft_log(CROFT_LOG_WARNING, "agent %s is lost (%s): its jobs are queued again", agent->id, why);
	while ((task = LIST_FIRST(&agent->tasks)))
		task_lost(sched, task, why);
}

/* Hello -------------------------------------------------------------------------------------------- */

static void tell_placement(struct croft_sched *sched, struct agent *agent)
{
	struct croft_placement_agent description = {
		.properties = (const char *const *)agent->properties,
		.property_count = agent->property_count,
		.slots = agent->slots,
		.memory_bytes = agent->memory_bytes,
		.user = agent,
	};
	if (agent->placed == UINT32_MAX)
		agent->placed = croft_placement_agent_add(sched->placement, &description);
	else
		croft_placement_agent_change(sched->placement, agent->placed, &description);
	agent_open(sched, agent);
}

static bool names_lease(const Farm__Hello *hello, const char *lease)
{
	for (size_t i = 0; i < hello->n_leases; i++)
		if (strcmp(hello->leases[i], lease) == 0)
			return true;
	return false;
}

/* Leases that the agent still has go on; those it knows nothing of are lost; those that the server
 * gave to someone else meanwhile are revoked. */
static void settle_leases(struct croft_sched *sched, struct agent *agent, const Farm__Hello *hello,
	Farm__Welcome *welcome, struct croft_arena *arena)
{
	welcome->revoked_leases = croft_arena_array(arena, hello->n_leases, sizeof(char *));
	for (size_t i = 0; i < hello->n_leases; i++) {
		struct task *task = find_lease(sched, hello->leases[i]);
		if (!task || !task->agent_id || strcmp(task->agent_id, agent->id) != 0) {
			welcome->revoked_leases[welcome->n_revoked_leases++] = hello->leases[i];
			continue;
		}
		task->agent_lost_ns = 0;
		if (task->agent)
			continue;
		task->agent = agent; /* after a restart of the server */
		agent->running++;
		LIST_INSERT_HEAD(&agent->tasks, task, agent_link);
		placed_adopt(sched, task, agent);
	}
	struct task *task = LIST_FIRST(&agent->tasks);
	while (task) {
		struct task *next = LIST_NEXT(task, agent_link);
		if (!names_lease(hello, task->lease))
			task_lost(sched, task, "it came back without the job");
		task = next;
	}
}

static void on_hello(struct session *session, const Farm__Hello *hello)
{
	struct croft_sched *sched = session->sched;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	if (hello->agent_id[0] == '\0' || session->agent) {
		struct croft_error err = CROFT_ERROR_INIT;
		croft_error_set(&err, CROFT_INVALID_ARGUMENT, "Hello must come once, with an agent_id");
		croft_call_finish(session->call, &err);
		return;
	}
	struct agent *agent = find_agent(sched, hello->agent_id);
	if (!agent) {
		agent = croft_zalloc(sizeof(*agent));
		agent->id = croft_strdup(hello->agent_id);
		agent->placed = UINT32_MAX;
		LIST_INIT(&agent->tasks);
		LIST_INSERT_HEAD(&sched->agents, agent, link);
	}
	if (agent->session) {
		/* The old connection broke without a word, or two agents share an id; the newer one counts. */
		agent->session->agent = NULL;
		struct croft_error err = CROFT_ERROR_INIT;
		croft_error_set(&err, CROFT_ABORTED, "another session of agent %s took over", agent->id);
		croft_call_finish(agent->session->call, &err);
	}
	describe_agent(agent, hello);
	agent->session = session;
	session->agent = agent;
	agent->heard_ns = croft_now_ns();
	agent->lost_ns = 0;
	agent->draining = draining_find(sched, agent->id) != NULL;
	tell_placement(sched, agent);

	Farm__Welcome welcome = FARM__WELCOME__INIT;
	welcome.server_version = (char *)CROFT_VERSION;
	welcome.heartbeat_ms = sched->config.heartbeat_ms;
	welcome.blob_url = (char *)sched->config.blob_url;
	welcome.blob_key = (char *)(sched->config.agent_key ? sched->config.agent_key : sched->config.blob_key);
	settle_leases(sched, agent, hello, &welcome, arena);
	post(session, FARM__SERVER_MESSAGE__KIND_WELCOME, &welcome);
	croft_log(CROFT_LOG_INFO, "agent %s connected: %u slots on %s", agent->id, agent->slots,
		agent->hostname);
	dispatch(sched);
}

/* Jobs --------------------------------------------------------------------------------------------- */

/* The task of a lease that this session may speak of. */
static struct task *own_task(struct session *session, const char *lease)
{
	struct task *task = find_lease(session->sched, lease);
	return task && task->agent && task->agent == session->agent ? task : NULL;
}

static void on_output(struct session *session, const Farm__JobOutput *output)
{
	struct task *task = own_task(session, output->lease);
	if (!task)
		return;
	log_append(session->sched, task, 0, output->stdout_offset,
		CROFT_SLICE(output->stdout.data, output->stdout.len));
	log_append(session->sched, task, 1, output->stderr_offset,
		CROFT_SLICE(output->stderr.data, output->stderr.len));
}

static void on_refused(struct session *session, const Farm__JobRefused *refused)
{
	struct task *task = own_task(session, refused->lease);
	if (!task)
		return;
	croft_log(CROFT_LOG_INFO, "agent %s refused a job: %s", session->agent->id, refused->reason);
	croft_placement_agent_pause(
		session->sched->placement, session->agent->placed, placed_now() + REFUSED_SECONDS);
	task->attempts--; /* a refusal is no try */
	if (task->cancelling)
		task_lost(session->sched, task, refused->reason);
	else
		task_enqueue(session->sched, task);
	dispatch(session->sched);
}

void agent_ack(struct croft_sched *sched, const char *agent_id, const char *lease,
	struct croft_arena *arena)
{
	struct agent *agent = find_agent(sched, agent_id);
	if (!agent || !agent->session || !*lease)
		return;
	Farm__JobAck *message = croft_arena_alloc(arena, sizeof(*message));
	farm__job_ack__init(message);
	message->lease = croft_arena_strdup(arena, lease);
	post_later(agent->session, FARM__SERVER_MESSAGE__KIND_JOB_ACK, message, arena);
}

void agent_give(struct task *task, Farm__Job *job, struct croft_arena *arena)
{
	/* Without a session the agent's reconnect, or its loss, decides what becomes of the lease. */
	if (task->agent && task->agent->session)
		post_later(task->agent->session, FARM__SERVER_MESSAGE__KIND_JOB, job, arena);
}

void agent_cancel(struct task *task, const char *reason)
{
	if (!task->agent || !task->agent->session)
		return;
	Farm__CancelJob cancel = FARM__CANCEL_JOB__INIT;
	cancel.lease = task->lease;
	cancel.reason = (char *)reason;
	post(task->agent->session, FARM__SERVER_MESSAGE__KIND_CANCEL_JOB, &cancel);
}

/* The stream --------------------------------------------------------------------------------------- */

static void note_traffic(struct agent *agent, const Farm__Heartbeat *heartbeat)
{
	uint64_t now_ns = croft_now_ns();
	double seconds = (double)(now_ns - agent->heartbeat_ns) / 1e9;
	/* A daemon that was started anew counts from 0. */
	bool goes_on = agent->heartbeat_ns && heartbeat->fetched_bytes >= agent->moved_bytes && seconds > 0;
	agent->moved_per_second =
		goes_on ? (uint64_t)((double)(heartbeat->fetched_bytes - agent->moved_bytes) / seconds) : 0;
	agent->heartbeat_ns = now_ns;
	agent->moved_bytes = heartbeat->fetched_bytes;
	agent->fetching_blobs = heartbeat->fetching_blobs;
	agent->fetching_bytes = heartbeat->fetching_bytes;
	agent->from_peers_bytes = heartbeat->from_peers_bytes;
	agent->served_bytes = heartbeat->served_bytes;
	if (strcmp(agent->blob_url, heartbeat->blob_url) != 0)
		replace_text(&agent->blob_url, heartbeat->blob_url);
}

static void on_heartbeat(struct session *session, const Farm__Heartbeat *heartbeat)
{
	session->agent->cache_bytes = heartbeat->cache_bytes;
	session->agent->cache_budget_bytes = heartbeat->cache_budget_bytes;
	if (session->agent->placed != UINT32_MAX)
		croft_placement_agent_cache(session->sched->placement, session->agent->placed,
			heartbeat->cache_disk_bytes, heartbeat->cache_budget_bytes);
	note_traffic(session->agent, heartbeat);
}

static void on_presence(struct session *session, const Farm__PresenceDelta *delta)
{
	struct croft_placement *placement = session->sched->placement;
	uint32_t agent = session->agent->placed;
	if (agent == UINT32_MAX)
		return;
	if (!croft_placement_delta_begin(
			placement, agent, delta->epoch, delta->sequence, delta->snapshot)) {
		Farm__ResyncPresence resync = FARM__RESYNC_PRESENCE__INIT;
		post(session, FARM__SERVER_MESSAGE__KIND_RESYNC_PRESENCE, &resync);
		return;
	}
	for (size_t i = 0; i < delta->n_present; i++)
		placed_presence(session->sched, session->agent, delta->present[i]);
	for (size_t i = 0; i < delta->n_gone; i++) {
		struct croft_digest root;
		if (croft_digest_from_message(delta->gone[i], "a root", &root, NULL))
			croft_placement_gone(placement, agent, &root);
	}
}

/* The lock is held. */
static void hear(struct session *session, const Farm__AgentMessage *message)
{
	if (message->kind_case == FARM__AGENT_MESSAGE__KIND_HELLO) {
		on_hello(session, message->hello);
		return;
	}
	if (!session->agent)
		return; /* before Hello, or after another session took over */
	session->agent->heard_ns = croft_now_ns();
	switch (message->kind_case) {
	case FARM__AGENT_MESSAGE__KIND_HEARTBEAT:
		on_heartbeat(session, message->heartbeat);
		break;
	case FARM__AGENT_MESSAGE__KIND_JOB_OUTPUT:
		on_output(session, message->job_output);
		break;
	case FARM__AGENT_MESSAGE__KIND_JOB_REFUSED:
		on_refused(session, message->job_refused);
		break;
	case FARM__AGENT_MESSAGE__KIND_PRESENCE:
		on_presence(session, message->presence);
		break;
	case FARM__AGENT_MESSAGE__KIND_DRAINING:
		session->agent->draining = true;
		agent_open(session->sched, session->agent);
		break;
	case FARM__AGENT_MESSAGE__KIND_BATCH:
		for (size_t i = 0; i < message->batch->n_messages; i++)
			hear(session, message->batch->messages[i]);
		break;
	default:
		/* Ends of jobs are taken from the whole message; a newer agent may say more than this server
		 * knows. */
		break;
	}
}

static bool has_ends(const Farm__AgentMessage *message)
{
	if (message->kind_case == FARM__AGENT_MESSAGE__KIND_BATCH)
		for (size_t i = 0; i < message->batch->n_messages; i++)
			if (has_ends(message->batch->messages[i]))
				return true;
	return message->kind_case == FARM__AGENT_MESSAGE__KIND_JOB_DONE;
}

/* On the thread that carries the bytes: what takes time is the finisher's. */
static void on_message(void *user, void *raw, struct croft_arena **arena)
{
	struct session *session = user;
	const Farm__AgentMessage *message = raw;
	sched_lock(session->sched);
	hear(session, message);
	bool ends = session->agent && has_ends(message);
	if (ends)
		finish(session->sched, session->agent->id, message, *arena);
	sched_unlock(session->sched);
	if (ends)
		*arena = NULL;
}

static void on_closed(void *user)
{
	struct session *session = user;
	struct croft_sched *sched = session->sched;
	sched_lock(sched);
	if (session->agent) {
		session->agent->session = NULL;
		session->agent->lost_ns = croft_now_ns();
		agent_open(sched, session->agent);
	}
	sched_unlock(sched);
	croft_call_unref(session->call);
	free(session->waiting);
	free(session);
}

/* An agent is given the jobs of all tenants. */
static bool may_be_agent(const struct croft_sched *sched, struct croft_call *call, struct croft_error *err)
{
	const char *key = sched->config.agent_key;
	struct croft_slice told = croft_call_header(call, "croft-agent-key");
	if (!key || (told.size == strlen(key) && CRYPTO_memcmp(told.data, key, told.size) == 0))
		return true;
	return croft_error_set(err, CROFT_UNAUTHENTICATED,
		"this farm's agents must know its key: start them with --agent-key, the file agent-key of the server's "
		"state directory");
}

static bool open_session(struct croft_call *call, void *user, struct croft_error *err)
{
	if (!may_be_agent(user, call, err))
		return false;
	struct session *session = croft_zalloc(sizeof(*session));
	session->sched = user;
	session->call = croft_call_ref(call);
	croft_call_park(call, &(struct croft_parked){
		.on_message = on_message, .on_closed = on_closed, .user = session, .immediate = true});
	return true;
}

static void tick_agent(struct croft_sched *sched, struct agent *agent, uint64_t now_ns)
{
	uint64_t heartbeat_ns = sched->config.heartbeat_ms * 1000000ull;
	if (agent->session && now_ns > agent->heard_ns + MISSED_HEARTBEATS * heartbeat_ns) {
		struct croft_error err = CROFT_ERROR_INIT;
		croft_error_set(&err, CROFT_DEADLINE_EXCEEDED, "no heartbeat came from this agent");
		croft_call_finish(agent->session->call, &err);
		agent->session->agent = NULL;
		agent->session = NULL;
		agent_open(sched, agent);
		lose_agent(sched, agent, "no heartbeat came");
	} else if (!agent->session && now_ns > agent->lost_ns + sched->config.reconnect_ms * 1000000ull) {
		lose_agent(sched, agent, "its connection broke");
	}
}

/* Leases from before a restart of the server whose agents do not come back. */
static void tick_orphans(struct croft_sched *sched, uint64_t now_ns)
{
	uint64_t patience_ns = MISSED_HEARTBEATS * sched->config.heartbeat_ms * 1000000ull;
	for (size_t i = 0; i < BUCKETS && sched->running > 0; i++) {
		struct task *task = LIST_FIRST(&sched->leases[i]);
		while (task) {
			struct task *next = LIST_NEXT(task, lease_link);
			if (!task->agent && now_ns > task->agent_lost_ns + patience_ns)
				task_lost(sched, task, "the agent did not come back after the server's restart");
			task = next;
		}
	}
}

void agents_tick(struct croft_sched *sched)
{
	uint64_t now_ns = croft_now_ns();
	struct agent *agent;
	LIST_FOREACH (agent, &sched->agents, link)
		tick_agent(sched, agent, now_ns);
	tick_orphans(sched, now_ns);
}

const struct croft_rpc_method agents_methods[1] = {
	{"/croft.v1.Agents/Session", CROFT_RPC_BIDI_STREAM, &farm__agent_message__descriptor,
		&farm__server_message__descriptor, open_session, false},
};
