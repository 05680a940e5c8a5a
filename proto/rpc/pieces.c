/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages whose bulk is one field of bytes, read where the core received them. The wire form is walked
 * over the core's slices: what belongs to the field is pointed at, the rest (a few short fields) is copied
 * together to be decoded as ever.
 */
#include "proto/rpc/call.h"

#include <grpc/byte_buffer_reader.h>
#include <stdlib.h>
#include <string.h>

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5, MOST_VARINT = 10 };

struct received {
	grpc_byte_buffer *buffer;
	grpc_byte_buffer_reader reader;
	struct croft_slice *slices; /* all that came */
	size_t count;
};

struct cursor {
	const struct received *received;
	size_t slice, at; /* in it */
	size_t left;      /* to the message's end */
};

void received_destroy(struct received *received)
{
	if (!received)
		return;
	grpc_byte_buffer_reader_destroy(&received->reader);
	grpc_byte_buffer_destroy(received->buffer);
	free(received->slices);
	free(received);
}

static struct received *received_create(grpc_byte_buffer *buffer)
{
	struct received *received = croft_zalloc(sizeof(*received));
	size_t room = 0;
	grpc_slice *slice;
	received->buffer = buffer;
	if (!grpc_byte_buffer_reader_init(&received->reader, buffer)) {
		grpc_byte_buffer_destroy(buffer);
		free(received);
		return NULL;
	}
	while (grpc_byte_buffer_reader_peek(&received->reader, &slice)) {
		if (received->count == room) {
			room = room ? 2 * room : 16;
			received->slices = croft_realloc(received->slices, room, sizeof(*received->slices));
		}
		received->slices[received->count++] =
			CROFT_SLICE(GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
	}
	return received;
}

/* The next bytes that stand together, at most `size` of them; none at the end. */
static struct croft_slice step(struct cursor *cursor, size_t size)
{
	const struct received *received = cursor->received;
	while (cursor->slice < received->count && cursor->at == received->slices[cursor->slice].size) {
		cursor->slice++;
		cursor->at = 0;
	}
	if (cursor->slice == received->count)
		return CROFT_SLICE(NULL, 0);
	const struct croft_slice *slice = &received->slices[cursor->slice];
	size_t part = slice->size - cursor->at < size ? slice->size - cursor->at : size;
	struct croft_slice bytes = CROFT_SLICE((const uint8_t *)slice->data + cursor->at, part);
	cursor->at += part;
	cursor->left -= part;
	return bytes;
}

static bool take_varint(struct cursor *cursor, uint64_t *value)
{
	*value = 0;
	for (unsigned i = 0; i < MOST_VARINT && cursor->left > 0; i++) {
		uint8_t byte = *(const uint8_t *)step(cursor, 1).data;
		*value |= (uint64_t)(byte & 0x7f) << (7 * i);
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

static bool skip(struct cursor *cursor, uint64_t size)
{
	if (size > cursor->left)
		return false;
	for (size_t left = (size_t)size; left > 0;)
		left -= step(cursor, left).size;
	return true;
}

static void copy(struct cursor from, size_t size, uint8_t *to)
{
	while (size > 0) {
		struct croft_slice bytes = step(&from, size);
		memcpy(to, bytes.data, bytes.size);
		to += bytes.size;
		size -= bytes.size;
	}
}

/* Behind the field that begins at the cursor; where its bytes begin, if they are the wanted one's. */
static bool walk_field(struct cursor *cursor, unsigned wanted, struct cursor *bytes, size_t *size,
	bool *is_wanted)
{
	uint64_t key, length = 0;
	*is_wanted = false;
	if (!take_varint(cursor, &key))
		return false;
	switch (key & 7) {
	case VARINT:
		return take_varint(cursor, &length);
	case FIXED64:
		return skip(cursor, 8);
	case FIXED32:
		return skip(cursor, 4);
	case BYTES:
		if (!take_varint(cursor, &length))
			return false;
		*is_wanted = key >> 3 == wanted;
		if (*is_wanted) {
			*bytes = *cursor;
			*size = (size_t)length;
		}
		return skip(cursor, length);
	default:
		return false;
	}
}

static void point_at(struct cursor from, size_t size, struct croft_arena *arena,
	struct croft_pieces *bytes)
{
	struct croft_slice *pieces =
		croft_arena_alloc(arena, (from.received->count - from.slice + 1) * sizeof(*pieces));
	*bytes = (struct croft_pieces){pieces, 0, size};
	while (size > 0) {
		pieces[bytes->count] = step(&from, size);
		size -= pieces[bytes->count++].size;
	}
}

/* What is not in the wanted field is copied to *rest if that has data, and counted in its size. */
static bool walk(const struct received *received, unsigned field, struct cursor *found, size_t *size,
	struct croft_slice *rest)
{
	struct cursor cursor = {received, 0, 0, 0};
	for (size_t i = 0; i < received->count; i++)
		cursor.left += received->slices[i].size;
	*found = cursor;
	*size = rest->size = 0;
	while (cursor.left > 0) {
		struct cursor start = cursor;
		bool is_wanted;
		if (!walk_field(&cursor, field, found, size, &is_wanted))
			return false;
		if (is_wanted) /* of a field that comes twice the last counts */
			continue;
		size_t part = start.left - cursor.left;
		if (rest->data)
			copy(start, part, (uint8_t *)rest->data + rest->size);
		rest->size += part;
	}
	return true;
}

struct received *received_split(grpc_byte_buffer *buffer, unsigned field, struct croft_arena *arena,
	struct croft_slice *rest, struct croft_pieces *bytes)
{
	struct received *received = received_create(buffer);
	if (!received)
		return NULL;
	struct cursor found;
	size_t size;
	*rest = CROFT_SLICE(NULL, 0);
	if (!walk(received, field, &found, &size, rest)) {
		received_destroy(received);
		return NULL;
	}
	rest->data = croft_arena_alloc(arena, rest->size + 1);
	walk(received, field, &found, &size, rest);
	point_at(found, size, arena, bytes);
	return received;
}
