/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first byte chooses the message's type, the rest is its wire form. */
#include "proto/rpc/call.h"
#include "proto/rpc/message.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "croft/v1/farm.pb-c.h"
#include "google/bytestream/bytestream.pb-c.h"
#include "google/longrunning/operations.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <grpc/grpc.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
	&reapi__directory__descriptor,
	&reapi__tree__descriptor,
	&reapi__action__descriptor,
	&reapi__command__descriptor,
	&reapi__action_result__descriptor,
	&reapi__execute_request__descriptor,
	&reapi__execute_response__descriptor,
	&reapi__batch_update_blobs_request__descriptor,
	&reapi__find_missing_blobs_request__descriptor,
	&reapi__server_capabilities__descriptor,
	&reapi__request_metadata__descriptor,
	&bytestream__write_request__descriptor,
	&longrunning__operation__descriptor,
	&google_rpc__status__descriptor,
	&farm__agent_message__descriptor,
	&farm__server_message__descriptor,
};

/* Read where it was received, in slices, a message is the same. */
static void check_split(const Bytestream__WriteRequest *whole, struct croft_slice wire,
	struct croft_arena *arena)
{
	enum { SLICE = 7, DATA_FIELD = 10 };
	size_t count = wire.size / SLICE + 1;
	grpc_slice *slices = croft_arena_alloc(arena, count * sizeof(*slices));
	for (size_t i = 0; i < count; i++)
		slices[i] = grpc_slice_from_copied_buffer((const char *)wire.data + i * SLICE,
			i + 1 < count ? SLICE : wire.size - i * SLICE);
	struct croft_slice rest;
	struct croft_pieces bytes;
	struct received *received = received_split(
		grpc_raw_byte_buffer_create(slices, count), DATA_FIELD, arena, &rest, &bytes);
	for (size_t i = 0; i < count; i++)
		grpc_slice_unref(slices[i]);
	if (whole && (!received || bytes.size != whole->data.len))
		abort();
	size_t at = 0;
	for (size_t i = 0; whole && i < bytes.count; at += bytes.pieces[i++].size)
		if (memcmp(bytes.pieces[i].data, whole->data.data + at, bytes.pieces[i].size) != 0)
			abort();
	received_destroy(received);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct croft_message_limits limits = {65536, 256 << 10, 16};
	if (size == 0)
		return 0;
	const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof(types) / sizeof(types[0]))];
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	ProtobufCMessage *message =
		croft_message_decode(type, CROFT_SLICE(data + 1, size - 1), arena, &limits, &err);
	/* What was estimated before is never less than what was taken. */
	if (croft_arena_used(arena) > limits.decoded_bytes)
		abort();
	if (type == &bytestream__write_request__descriptor)
		check_split((const Bytestream__WriteRequest *)message, CROFT_SLICE(data + 1, size - 1), arena);
	if (message) {
		/* What was read can be written, and reads as the same. */
		struct croft_slice bytes = croft_message_encode(message, arena);
		ProtobufCMessage *again = croft_message_decode(type, bytes, arena, NULL, &err);
		if (!again || !croft_slice_equal(bytes, croft_message_encode(again, arena)))
			abort();
		/* With every piece in memory of its own, the address sanitizer sees each one's bounds. */
		ProtobufCMessage *pieces = protobuf_c_message_unpack(type, NULL, size - 1, data + 1);
		if (!pieces)
			abort();
		protobuf_c_message_free_unpacked(pieces, NULL);
	} else if (err.code != CROFT_INVALID_ARGUMENT && err.code != CROFT_RESOURCE_EXHAUSTED) {
		abort();
	}
	croft_arena_destroy(arena);
	return 0;
}
