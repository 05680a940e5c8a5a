/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/core.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What the core logs is also in the status of the call that failed; CROFT_DEBUG brings it back. */
static void log_nothing(gpr_log_func_args *args)
{
}

static void init(void)
{
	if (!getenv("CROFT_DEBUG"))
		gpr_set_log_function(log_nothing);
	grpc_init();
}

void croft_core_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, init);
}

grpc_byte_buffer *croft_core_encode(const ProtobufCMessage *message)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	grpc_slice slice = grpc_slice_malloc(size);
	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return buffer;
}

struct croft_slice croft_core_bytes(grpc_byte_buffer *buffer, struct croft_arena *arena)
{
	size_t size = grpc_byte_buffer_length(buffer), used = 0;
	uint8_t *data = croft_arena_alloc(arena, size);
	grpc_byte_buffer_reader reader;
	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		return CROFT_SLICE(data, 0);
	grpc_slice *slice;
	while (grpc_byte_buffer_reader_peek(&reader, &slice)) {
		size_t part = GRPC_SLICE_LENGTH(*slice);
		if (part > size - used)
			part = size - used;
		memcpy(data + used, GRPC_SLICE_START_PTR(*slice), part);
		used += part;
	}
	grpc_byte_buffer_reader_destroy(&reader);
	return CROFT_SLICE(data, used);
}

gpr_timespec croft_core_deadline(uint64_t timeout_ms)
{
	if (timeout_ms > INT64_MAX)
		return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
		gpr_time_from_millis((int64_t)timeout_ms, GPR_TIMESPAN));
}

struct croft_slice croft_core_slice(const grpc_slice *slice)
{
	return CROFT_SLICE(GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
}

grpc_slice croft_core_copy(struct croft_slice slice)
{
	return grpc_slice_from_copied_buffer(slice.data ? slice.data : "", slice.size);
}

struct croft_slice croft_core_metadata(const grpc_metadata_array *metadata, const char *name)
{
	struct croft_slice wanted = croft_slice_str(name);
	for (size_t i = 0; i < metadata->count; i++)
		if (croft_slice_equal(croft_core_slice(&metadata->metadata[i].key), wanted))
			return croft_core_slice(&metadata->metadata[i].value);
	return CROFT_SLICE(NULL, 0);
}
