/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clients: that many Execute calls at a time, over a few connections, driven by one thread. */
#include "bench/sched/load.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "proto/base/io.h"

#include <stdlib.h>
#include <string.h>

#define EXECUTE "/build.bazel.remote.execution.v2.Execution/Execute"
enum { CONNECTIONS = 4 };

struct client {
	grpc_call *call; /* NULL: it has nothing to do */
	grpc_metadata_array initial, trailing;
	grpc_status_code status;
	grpc_slice message;
	grpc_byte_buffer *sent, *got;
	unsigned number; /* of the operation */
	uint64_t from_ns;
	bool done;
	char received_tag, ended_tag;
};

struct crowd {
	struct load *load;
	grpc_completion_queue *queue;
	grpc_channel *channels[CONNECTIONS];
	struct client *clients;
	struct croft_arena *arena;
	unsigned next, ended;
	uint64_t begun_ns;
};

bool operation_is_done(struct croft_slice bytes)
{
	/* Fields in the order of their numbers: name, metadata, done. */
	const uint8_t *at = bytes.data, *end = at + bytes.size;
	while (at < end && *at != 0x18) {
		uint64_t size = 0;
		at++;
		for (unsigned shift = 0; at < end; shift += 7) {
			size |= (uint64_t)(*at & 0x7f) << shift;
			if (!(*at++ & 0x80))
				break;
		}
		at += size;
	}
	return at + 1 < end && at[1] == 1;
}

static grpc_byte_buffer *request_of(struct crowd *crowd, unsigned number)
{
	Reapi__ExecuteRequest request = REAPI__EXECUTE_REQUEST__INIT;
	request.action_digest = croft_digest_to_message(&crowd->load->actions[number], crowd->arena);
	request.skip_cache_lookup = true;
	grpc_byte_buffer *buffer = core_encode(&request.base);
	croft_arena_reset(crowd->arena);
	return buffer;
}

static void begin(struct crowd *crowd, struct client *client, uint64_t from_ns)
{
	client->number = crowd->next++;
	client->from_ns = from_ns;
	crowd->load->late[client->number] = (float)(croft_now_ns() - from_ns) / 1e6f;
	client->done = false;
	client->sent = request_of(crowd, client->number);
	client->message = grpc_empty_slice();
	grpc_metadata_array_init(&client->initial);
	grpc_metadata_array_init(&client->trailing);
	client->call = grpc_channel_create_call(crowd->channels[client->number % CONNECTIONS], NULL,
		GRPC_PROPAGATE_DEFAULTS, crowd->queue, grpc_slice_from_static_string(EXECUTE), NULL,
		gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	grpc_op ops[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = client->sent},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &client->initial},
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &client->got}};
	grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {.trailing_metadata = &client->trailing,
			.status = &client->status,
			.status_details = &client->message}};
	if (grpc_call_start_batch(client->call, ops, 5, &client->received_tag, NULL) != GRPC_CALL_OK ||
		grpc_call_start_batch(client->call, &status, 1, &client->ended_tag, NULL) != GRPC_CALL_OK)
		abort();
}

static void received(struct crowd *crowd, struct client *client)
{
	if (!client->got)
		return;
	client->done = operation_is_done(core_bytes(client->got, crowd->arena));
	croft_arena_reset(crowd->arena);
	client->got = NULL;
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &client->got};
	if (!client->done &&
		grpc_call_start_batch(client->call, &op, 1, &client->received_tag, NULL) != GRPC_CALL_OK)
		abort();
}

static void ended(struct crowd *crowd, struct client *client)
{
	crowd->load->latencies[client->number] = (float)(croft_now_ns() - client->from_ns) / 1e6f;
	crowd->load->failures += client->status != GRPC_STATUS_OK || !client->done;
	crowd->ended++;
	grpc_byte_buffer_destroy(client->sent);
	grpc_call_unref(client->call);
	grpc_metadata_array_destroy(&client->initial);
	grpc_metadata_array_destroy(&client->trailing);
	grpc_slice_unref(client->message);
	client->call = NULL;
}

/* When the next operation begins; it may have begun late, but counts from then. */
static uint64_t due_ns(const struct crowd *crowd)
{
	const struct load *load = crowd->load;
	return load->rate ? crowd->begun_ns + (uint64_t)crowd->next * 1000000000u / load->rate : 0;
}

/* Begins what is due on clients that are free. */
static void begin_due(struct crowd *crowd, unsigned *looked)
{
	const struct load *load = crowd->load;
	for (; *looked < load->clients && crowd->next < load->operations; ++*looked) {
		uint64_t due = due_ns(crowd), now = croft_now_ns();
		if (due > now)
			return;
		if (!crowd->clients[*looked].call)
			begin(crowd, &crowd->clients[*looked], due ? due : now);
	}
}

static gpr_timespec until_due(const struct crowd *crowd, bool free_clients)
{
	if (!crowd->load->rate || !free_clients || crowd->next >= crowd->load->operations)
		return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	uint64_t due = due_ns(crowd), now = croft_now_ns();
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
		gpr_time_from_nanos(due > now ? (int64_t)(due - now) : 0, GPR_TIMESPAN));
}

static void drive(struct crowd *crowd)
{
	const struct load *load = crowd->load;
	unsigned looked = 0;
	while (crowd->ended < load->operations) {
		begin_due(crowd, &looked);
		grpc_event event = grpc_completion_queue_next(
			crowd->queue, until_due(crowd, looked < load->clients), NULL);
		if (event.type != GRPC_OP_COMPLETE)
			continue;
		size_t which = (size_t)((char *)event.tag - (char *)crowd->clients) / sizeof(struct client);
		struct client *client = &crowd->clients[which];
		if (event.tag == &client->received_tag) {
			received(crowd, client);
			continue;
		}
		ended(crowd, client);
		if (which < looked)
			looked = (unsigned)which;
	}
}

/* Before the clock starts: a client's first connection is no part of what is measured. */
static void connect_channel(struct crowd *crowd, grpc_channel *channel)
{
	grpc_connectivity_state state;
	while ((state = grpc_channel_check_connectivity_state(channel, 1)) != GRPC_CHANNEL_READY) {
		grpc_channel_watch_connectivity_state(
			channel, state, gpr_inf_future(GPR_CLOCK_MONOTONIC), crowd->queue, NULL);
		grpc_completion_queue_next(crowd->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	}
}

double clients_run(struct load *load)
{
	struct crowd crowd = {.load = load,
		.queue = grpc_completion_queue_create_for_next(NULL),
		.clients = calloc(load->clients, sizeof(struct client)),
		.arena = croft_arena_create()};
	if (!crowd.clients)
		abort();
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		crowd.channels[i] = connection_channel(connection_open(load->target));
		connect_channel(&crowd, crowd.channels[i]);
	}
	crowd.begun_ns = croft_now_ns();
	drive(&crowd);
	return (double)(croft_now_ns() - crowd.begun_ns) / 1e9;
}
