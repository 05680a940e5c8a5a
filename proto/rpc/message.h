/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Protobuf messages in arenas, with bounds checked on the wire form before anything is allocated.
 *
 *	Reapi__Directory *directory = croft_message_decode(
 *		&reapi__directory__descriptor, bytes, arena, NULL, &err);
 *
 * A decoded message lives as long as its arena and is never freed by itself.
 */
#ifndef CROFT_RPC_MESSAGE_H
#define CROFT_RPC_MESSAGE_H

#include "proto/base/arena.h"
#include "proto/base/error.h"
#include "proto/base/slice.h"

#include "google/protobuf/any.pb-c.h"

#include <protobuf-c/protobuf-c.h>

struct croft_message_limits {
	size_t wire_bytes;    /* of the encoded message */
	size_t decoded_bytes; /* that decoding would allocate, estimated before it starts */
	unsigned depth;       /* of nested messages */
};

/* 16 MiB on the wire, 256 MiB decoded, 32 deep. */
extern const struct croft_message_limits croft_message_default_limits;

/* NULL and INVALID_ARGUMENT (malformed; the sentence names the message type) or RESOURCE_EXHAUSTED
 * (a limit). limits NULL: the defaults. */
void *croft_message_decode(const ProtobufCMessageDescriptor *type, struct croft_slice wire,
	struct croft_arena *arena, const struct croft_message_limits *limits,
	struct croft_error *err);

/* The canonical encoding (fields in number order, defaults left out), in the arena. */
struct croft_slice croft_message_encode(const ProtobufCMessage *message, struct croft_arena *arena);

/* Appends the message, as google.protobuf.Any, to a repeated field of such; in the arena. */
void croft_message_attach(Google__Protobuf__Any ***list, size_t *count,
	const ProtobufCMessage *message, struct croft_arena *arena);

#endif
