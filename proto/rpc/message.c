/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/message.h"

#include "proto/rpc/client.h"

const struct croft_message_limits croft_message_default_limits = {16u << 20, 256u << 20, 32};

static void *arena_allocate(void *arena, size_t size)
{
	return croft_arena_alloc(arena, size);
}

static void arena_release(void *arena, void *memory)
{
}

void *croft_message_decode(const ProtobufCMessageDescriptor *type, struct croft_slice wire,
	struct croft_arena *arena, const struct croft_message_limits *limits,
	struct croft_error *err)
{
	ProtobufCAllocator allocator = {arena_allocate, arena_release, arena};
	void *message = protobuf_c_message_unpack(type, &allocator, wire.size, wire.data);
	if (!message)
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "malformed %s", type->name);
	return message;
}

struct croft_slice croft_message_encode(const ProtobufCMessage *message, struct croft_arena *arena)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	uint8_t *wire = croft_arena_alloc(arena, size);
	protobuf_c_message_pack(message, wire);
	return CROFT_SLICE(wire, size);
}
