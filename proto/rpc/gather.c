/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Answers whose long fields are sent from the call's arena, where they stand. The core may have them
 * longer than the call lives, so that the arena then belongs to the last of both.
 */
#include "proto/rpc/call.h"

#include <stdlib.h>
#include <string.h>

enum {
	LONG_BYTES = 2048,    /* shorter ones are copied: a slice of their own would cost more */
	SCRATCH_BYTES = 4096, /* copied ones share slices of this size */
};

struct held_arena {
	struct croft_arena *arena;
	atomic_uint references;
};

void held_arena_unref(struct held_arena *held)
{
	if (atomic_fetch_sub_explicit(&held->references, 1, memory_order_acq_rel) > 1)
		return;
	croft_arena_destroy(held->arena);
	free(held);
}

static void release(void *user)
{
	held_arena_unref(user);
}

struct gather {
	ProtobufCBuffer base;
	struct held_arena *held;
	grpc_slice *slices;
	size_t count, room;
	uint8_t scratch[SCRATCH_BYTES];
	size_t used;
};

static void add_slice(struct gather *gather, grpc_slice slice)
{
	if (gather->count == gather->room) {
		gather->room = gather->room ? 2 * gather->room : 64;
		gather->slices = croft_realloc(gather->slices, gather->room, sizeof(*gather->slices));
	}
	gather->slices[gather->count++] = slice;
}

static void end_scratch(struct gather *gather)
{
	if (gather->used)
		add_slice(gather,
			grpc_slice_from_copied_buffer((const char *)gather->scratch, gather->used));
	gather->used = 0;
}

static void append(ProtobufCBuffer *base, size_t size, const uint8_t *data)
{
	struct gather *gather = (struct gather *)base;
	if (size < LONG_BYTES) {
		if (size > SCRATCH_BYTES - gather->used)
			end_scratch(gather);
		memcpy(gather->scratch + gather->used, data, size);
		gather->used += size;
		return;
	}
	end_scratch(gather);
	atomic_fetch_add_explicit(&gather->held->references, 1, memory_order_relaxed);
	add_slice(gather, grpc_slice_new_with_user_data((void *)data, size, release, gather->held));
}

bool croft_call_write_in_place(struct croft_call *call, const ProtobufCMessage *message,
	struct croft_error *err)
{
	if (call->method->kind != CROFT_RPC_UNARY)
		return croft_call_write(call, message, err);
	if (!call->held) {
		call->held = croft_alloc(sizeof(*call->held));
		call->held->arena = call->arena;
		atomic_init(&call->held->references, 1);
	}
	struct gather *gather = croft_alloc(sizeof(*gather));
	*gather = (struct gather){.base.append = append, .held = call->held};
	protobuf_c_message_pack_to_buffer(message, &gather->base);
	end_scratch(gather);
	if (call->reply)
		grpc_byte_buffer_destroy(call->reply);
	call->reply = grpc_raw_byte_buffer_create(gather->slices, gather->count);
	for (size_t i = 0; i < gather->count; i++)
		grpc_slice_unref(gather->slices[i]);
	free(gather->slices);
	free(gather);
	return true;
}
