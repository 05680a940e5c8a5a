/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fake agents: they speak the real protocol and are done with each job at once. One thread for all. */
#include "bench/sched/load.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/rpc/message.h"

#include "croft/v1/farm.pb-c.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLOTS = 256, HEARTBEAT_SECONDS = 1 };

struct agent {
	grpc_call *call;
	grpc_metadata_array initial, trailing;
	grpc_status_code status;
	grpc_slice message;
	grpc_byte_buffer *sending, *got;
	struct croft_arena *arena; /* of what waits to be sent */
	Farm__AgentBatch waiting;
	size_t room;
	bool welcome;
	char open_tag, status_tag, send_tag, receive_tag;
};

struct squad {
	grpc_completion_queue *queue;
	struct agent *agents;
	unsigned count, welcome;
	pthread_mutex_t lock; /* guards: ready */
	pthread_cond_t changed;
	bool ready;
};

static void batch(struct agent *agent, const grpc_op *ops, size_t count, void *tag)
{
	if (grpc_call_start_batch(agent->call, ops, count, tag, NULL) != GRPC_CALL_OK)
		abort();
}

static void receive(struct agent *agent)
{
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &agent->got};
	batch(agent, &op, 1, &agent->receive_tag);
}

/* All that waits, in one message, unless one is on its way. */
static void send_waiting(struct agent *agent)
{
	if (agent->sending || agent->waiting.n_messages == 0)
		return;
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_BATCH;
	message.batch = &agent->waiting;
	agent->sending = core_encode(agent->waiting.n_messages == 1 ? &agent->waiting.messages[0]->base
																: &message.base);
	grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = agent->sending};
	batch(agent, &op, 1, &agent->send_tag);
	agent->waiting.n_messages = 0;
	croft_arena_reset(agent->arena);
}

/* The part stands in the agent's arena. */
static void say(struct agent *agent, Farm__AgentMessage__KindCase kind, void *part)
{
	Farm__AgentMessage *message = croft_arena_alloc(agent->arena, sizeof(*message));
	farm__agent_message__init(message);
	message->kind_case = kind;
	message->hello = part; /* a union: any of its members */
	Farm__AgentBatch *waiting = &agent->waiting;
	if (waiting->n_messages == agent->room) {
		agent->room = 2 * agent->room + 16;
		waiting->messages = croft_realloc(waiting->messages, agent->room, sizeof(void *));
	}
	waiting->messages[waiting->n_messages++] = message;
}

static void say_hello(struct agent *agent, unsigned number)
{
	Farm__Hello *hello = croft_arena_alloc(agent->arena, sizeof(*hello));
	farm__hello__init(hello);
	hello->agent_id = hello->hostname =
		croft_arena_printf(agent->arena, "fake-%u-%u", (unsigned)getpid(), number);
	hello->slots = SLOTS;
	say(agent, FARM__AGENT_MESSAGE__KIND_HELLO, hello);
	send_waiting(agent);
}

static void say_heartbeat(struct agent *agent)
{
	Farm__Heartbeat *heartbeat = croft_arena_alloc(agent->arena, sizeof(*heartbeat));
	farm__heartbeat__init(heartbeat);
	say(agent, FARM__AGENT_MESSAGE__KIND_HEARTBEAT, heartbeat);
	send_waiting(agent);
}

static void finish_job(struct agent *agent, const Farm__Job *job)
{
	static Reapi__ExecutedActionMetadata metadata = REAPI__EXECUTED_ACTION_METADATA__INIT;
	static Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	metadata.worker = (char *)"fake";
	result.execution_metadata = &metadata;
	Farm__JobDone *done = croft_arena_alloc(agent->arena, sizeof(*done));
	farm__job_done__init(done);
	done->lease = croft_arena_strdup(agent->arena, job->lease);
	done->result = &result;
	say(agent, FARM__AGENT_MESSAGE__KIND_JOB_DONE, done);
}

static void hear(struct squad *squad, struct agent *agent, const Farm__ServerMessage *message)
{
	if (message->kind_case == FARM__SERVER_MESSAGE__KIND_BATCH)
		for (size_t i = 0; i < message->batch->n_messages; i++)
			hear(squad, agent, message->batch->messages[i]);
	else if (message->kind_case == FARM__SERVER_MESSAGE__KIND_JOB)
		finish_job(agent, message->job);
	else if (message->kind_case == FARM__SERVER_MESSAGE__KIND_WELCOME && !agent->welcome) {
		agent->welcome = true;
		squad->welcome++;
	}
}

static void received(struct squad *squad, struct agent *agent)
{
	if (!agent->got)
		core_fail("the server ended an agent's session");
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes = core_bytes(agent->got, arena);
	const Farm__ServerMessage *message =
		croft_message_decode(&farm__server_message__descriptor, bytes, arena, NULL, NULL);
	if (!message)
		core_fail("the server said what no agent understands");
	hear(squad, agent, message);
	send_waiting(agent);
	receive(agent);
}

static void open_session(struct squad *squad, struct agent *agent, const struct load *load)
{
	agent->arena = croft_arena_create();
	farm__agent_batch__init(&agent->waiting);
	agent->call = grpc_channel_create_call(connection_channel(connection_open(load->target)), NULL,
		GRPC_PROPAGATE_DEFAULTS, squad->queue,
		grpc_slice_from_static_string("/croft.v1.Agents/Session"), NULL,
		gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	grpc_op open[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &agent->initial}};
	grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {.trailing_metadata = &agent->trailing,
			.status = &agent->status,
			.status_details = &agent->message}};
	batch(agent, open, 2, &agent->open_tag);
	batch(agent, &status, 1, &agent->status_tag);
	receive(agent);
	say_hello(agent, (unsigned)(agent - squad->agents));
}

static void take_event(struct squad *squad, const grpc_event *event)
{
	size_t which = (size_t)((char *)event->tag - (char *)squad->agents) / sizeof(struct agent);
	struct agent *agent = &squad->agents[which];
	if (event->tag == &agent->receive_tag) {
		received(squad, agent);
	} else if (event->tag == &agent->send_tag) {
		grpc_byte_buffer_destroy(agent->sending);
		agent->sending = NULL;
		send_waiting(agent);
	}
}

static void *agents_thread(void *user)
{
	struct squad *squad = user;
	double beat = seconds_now() + HEARTBEAT_SECONDS;
	for (;;) {
		gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
			gpr_time_from_nanos((int64_t)((beat - seconds_now()) * 1e9), GPR_TIMESPAN));
		grpc_event event = grpc_completion_queue_next(squad->queue, until, NULL);
		if (event.type == GRPC_OP_COMPLETE)
			take_event(squad, &event);
		if (seconds_now() >= beat) {
			for (unsigned i = 0; i < squad->count; i++)
				say_heartbeat(&squad->agents[i]);
			beat += HEARTBEAT_SECONDS;
		}
		CROFT_LOCKED(&squad->lock);
		squad->ready = squad->welcome == squad->count;
		pthread_cond_signal(&squad->changed);
	}
	return NULL;
}

void agents_start(const struct load *load)
{
	struct squad *squad = croft_zalloc(sizeof(*squad));
	squad->count = load->agents;
	squad->agents = croft_zalloc((load->agents + 1) * sizeof(*squad->agents));
	squad->queue = grpc_completion_queue_create_for_next(NULL);
	pthread_mutex_init(&squad->lock, NULL);
	pthread_cond_init(&squad->changed, NULL);
	for (unsigned i = 0; i < squad->count; i++)
		open_session(squad, &squad->agents[i], load);
	pthread_t thread;
	if (pthread_create(&thread, NULL, agents_thread, squad) != 0)
		abort();
	CROFT_LOCKED(&squad->lock);
	while (!squad->ready)
		pthread_cond_wait(&squad->changed, &squad->lock);
}
