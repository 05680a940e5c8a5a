/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/message.h"

#include <string.h>

const struct croft_message_limits croft_message_default_limits = {16u << 20, 256u << 20, 32};

/* What protobuf-c allocates while it scans one field (its ScannedMember, in doubling slabs). */
enum { SCAN_BYTES = 2 * 48 };

struct measure {
	const struct croft_message_limits *limits;
	size_t decoded_bytes;
	const char *problem; /* of a malformed message */
	bool too_deep;
};

struct wire {
	const uint8_t *at, *end;
};

static bool read_varint(struct wire *wire, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64 && wire->at < wire->end; shift += 7) {
		uint8_t byte = *wire->at++;
		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

static bool take(struct wire *wire, uint64_t size, struct wire *part)
{
	if (size > (uint64_t)(wire->end - wire->at))
		return false;
	*part = (struct wire){wire->at, wire->at + size};
	wire->at += size;
	return true;
}

static bool malformed(struct measure *measure, const char *problem)
{
	measure->problem = problem;
	return false;
}

static bool measure_message(struct measure *measure, const ProtobufCMessageDescriptor *type,
	struct wire wire, unsigned depth);

/* What decoding one length-delimited field allocates. */
static bool measure_delimited(struct measure *measure, const ProtobufCFieldDescriptor *field,
	struct wire part, unsigned depth)
{
	size_t size = (size_t)(part.end - part.at);
	if (!field) {
		measure->decoded_bytes += sizeof(ProtobufCMessageUnknownField) + size;
		return true;
	}
	switch (field->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		return measure_message(measure, field->descriptor, part, depth + 1);
	case PROTOBUF_C_TYPE_STRING:
		/* It becomes a C string: what stands behind a NUL would be lost in silence. */
		if (memchr(part.at, 0, size))
			return malformed(measure, "a string with a NUL byte");
		measure->decoded_bytes += size + 1;
		return true;
	case PROTOBUF_C_TYPE_BYTES:
		measure->decoded_bytes += size;
		return true;
	default:
		/* Packed numbers: one byte on the wire can become eight. */
		measure->decoded_bytes += size * 8;
		return true;
	}
}

/*
 * A message in a field that is not repeated may come in several parts, which are merged: protobuf-c then
 * copies the arrays of all the earlier parts once more for each. Charged for by all that the message
 * around it took so far, or a small message of many parts would take quadratic memory and time.
 */
struct seen {
	uint64_t fields; /* bit by index in the descriptor */
	size_t decoded_before;
};

static void charge_merge(struct measure *measure, const ProtobufCMessageDescriptor *type,
	const ProtobufCFieldDescriptor *field, struct seen *seen)
{
	size_t index = (size_t)(field - type->fields);
	uint64_t bit = index < 64 ? UINT64_C(1) << index : 0;
	if (bit == 0 || seen->fields & bit)
		measure->decoded_bytes += measure->decoded_bytes - seen->decoded_before;
	seen->fields |= bit;
}

static bool measure_field(struct measure *measure, const ProtobufCMessageDescriptor *type,
	struct wire *wire, struct seen *seen, unsigned depth)
{
	uint64_t key, value;
	struct wire part;
	if (!read_varint(wire, &key))
		return malformed(measure, "a broken field key");
	if (key >> 3 == 0 || key >> 3 > 0x1fffffff)
		return malformed(measure, "a field number out of range");
	const ProtobufCFieldDescriptor *field =
		protobuf_c_message_descriptor_get_field(type, (unsigned)(key >> 3));
	measure->decoded_bytes += SCAN_BYTES;
	if (field && field->label == PROTOBUF_C_LABEL_REPEATED)
		measure->decoded_bytes += 16; /* an array slot, and the slack of the array */
	switch (key & 7) {
	case 0:
		return read_varint(wire, &value) || malformed(measure, "a broken number");
	case 1:
		return take(wire, 8, &part) || malformed(measure, "a cut off number");
	case 5:
		return take(wire, 4, &part) || malformed(measure, "a cut off number");
	case 2:
		if (!read_varint(wire, &value) || !take(wire, value, &part))
			return malformed(measure, "a length past its end");
		if (!measure_delimited(measure, field, part, depth))
			return false;
		if (field && field->type == PROTOBUF_C_TYPE_MESSAGE &&
			field->label != PROTOBUF_C_LABEL_REPEATED)
			charge_merge(measure, type, field, seen);
		return true;
	default:
		return malformed(measure, "an unknown wire type");
	}
}

static bool measure_message(struct measure *measure, const ProtobufCMessageDescriptor *type,
	struct wire wire, unsigned depth)
{
	struct seen seen = {.decoded_before = measure->decoded_bytes};
	measure->decoded_bytes += type->sizeof_message;
	measure->too_deep = depth > measure->limits->depth;
	if (measure->too_deep)
		return false;
	while (wire.at < wire.end) {
		if (!measure_field(measure, type, &wire, &seen, depth))
			return false;
		if (measure->decoded_bytes > measure->limits->decoded_bytes)
			return false;
	}
	return true;
}

static bool check(const ProtobufCMessageDescriptor *type, struct croft_slice bytes,
	const struct croft_message_limits *limits, struct croft_error *err)
{
	struct measure measure = {.limits = limits};
	if (bytes.size > limits->wire_bytes)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"%s of %zu bytes is over the limit of %zu", type->name, bytes.size, limits->wire_bytes);
	if (bytes.size == 0)
		return true;
	struct wire wire = {bytes.data, (const uint8_t *)bytes.data + bytes.size};
	if (measure_message(&measure, type, wire, 1))
		return true;
	if (measure.problem)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "malformed %s: %s", type->name, measure.problem);
	if (measure.too_deep)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"%s has messages nested more than %u deep", type->name, limits->depth);
	return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
		"%s would take more than %zu bytes of memory", type->name, limits->decoded_bytes);
}

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
	if (!check(type, wire, limits ? limits : &croft_message_default_limits, err))
		return NULL;
	ProtobufCAllocator allocator = {arena_allocate, arena_release, arena};
	void *message = protobuf_c_message_unpack(type, &allocator, wire.size, wire.data);
	if (!message)
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"malformed %s: a field of the wrong wire type", type->name);
	return message;
}

struct croft_slice croft_message_encode(const ProtobufCMessage *message, struct croft_arena *arena)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	uint8_t *wire = croft_arena_alloc(arena, size);
	protobuf_c_message_pack(message, wire);
	return CROFT_SLICE(wire, size);
}

void croft_message_attach(Google__Protobuf__Any ***list, size_t *count,
	const ProtobufCMessage *message, struct croft_arena *arena)
{
	struct croft_slice wire = croft_message_encode(message, arena);
	Google__Protobuf__Any *any = croft_arena_alloc(arena, sizeof(*any));
	google__protobuf__any__init(any);
	any->type_url = croft_arena_printf(arena, "type.googleapis.com/%s", message->descriptor->name);
	any->value = (ProtobufCBinaryData){wire.size, (uint8_t *)wire.data};
	Google__Protobuf__Any **longer = croft_arena_array(arena, *count + 1, sizeof(*longer));
	if (*count)
		memcpy(longer, *list, *count * sizeof(*longer));
	longer[(*count)++] = any;
	*list = longer;
}
