/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to proto/rpc: the few things that server and client both do with the gRPC core.
 */
#ifndef CROFT_RPC_CORE_H
#define CROFT_RPC_CORE_H

#include "proto/rpc/message.h"

#include <grpc/grpc.h>

/* Starts the core once; it is never shut down, as gRPC asks of a process that may use it to its end. */
void croft_core_init(void);

grpc_byte_buffer *croft_core_encode(const ProtobufCMessage *message);
/* All bytes in one piece, in the arena. */
struct croft_slice croft_core_bytes(grpc_byte_buffer *buffer, struct croft_arena *arena);
gpr_timespec croft_core_deadline(uint64_t timeout_ms); /* UINT64_MAX: never */
struct croft_slice croft_core_slice(const grpc_slice *slice); /* borrowed */
grpc_slice croft_core_copy(struct croft_slice slice);
/* The value of the first entry of that name; data NULL if there is none. */
struct croft_slice croft_core_metadata(const grpc_metadata_array *metadata, const char *name);

#endif
