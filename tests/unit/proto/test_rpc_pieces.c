/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages that are read where the core received them, however they were cut on the way. */
#include "proto/base/cleanup.h"
#include "proto/rpc/call.h"
#include "tests/unit/test.h"

#include "google/bytestream/bytestream.pb-c.h"

#include <grpc/grpc.h>
#include <string.h>

enum { DATA_FIELD = 10 };

static struct croft_arena *arena;

/* The wire form in slices of `size` bytes. */
static grpc_byte_buffer *buffer_of(struct croft_slice wire, size_t size)
{
	grpc_slice slices[256];
	size_t count = 0;
	for (size_t at = 0; at < wire.size; at += size) {
		size_t part = wire.size - at < size ? wire.size - at : size;
		assert_true(count < 256);
		slices[count++] = grpc_slice_from_copied_buffer((const char *)wire.data + at, part);
	}
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(slices, count);
	for (size_t i = 0; i < count; i++)
		grpc_slice_unref(slices[i]);
	return buffer;
}

static struct croft_slice wire_of(const char *name, int64_t offset, const char *data, bool finish)
{
	Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
	request.resource_name = (char *)name;
	request.write_offset = offset;
	request.finish_write = finish;
	request.data = (ProtobufCBinaryData){strlen(data), (uint8_t *)data};
	return croft_message_encode(&request.base, arena);
}

static void assert_split(struct croft_slice wire, size_t slice, const char *name, int64_t offset,
	const char *data, bool finish)
{
	struct croft_slice rest;
	struct croft_pieces bytes;
	struct croft_error err = CROFT_ERROR_INIT;
	struct received *received =
		received_split(buffer_of(wire, slice), DATA_FIELD, arena, &rest, &bytes);
	assert_non_null(received);
	const Bytestream__WriteRequest *request =
		croft_message_decode(&bytestream__write_request__descriptor, rest, arena, NULL, &err);
	assert_ok(request != NULL, err);
	assert_string_equal(request->resource_name, name);
	assert_int_equal(request->write_offset, offset);
	assert_int_equal(request->finish_write, finish);
	assert_int_equal(request->data.len, 0);
	assert_int_equal(bytes.size, strlen(data));
	size_t at = 0;
	for (size_t i = 0; i < bytes.count; at += bytes.pieces[i++].size)
		assert_memory_equal(bytes.pieces[i].data, data + at, bytes.pieces[i].size);
	assert_int_equal(at, bytes.size);
	received_destroy(received);
}

static void a_message_reads_the_same_however_it_was_cut(void **state)
{
	struct croft_slice wire = wire_of("uploads/u/blobs/h/5", 1 << 20, "some bytes", true);
	for (size_t slice = 1; slice <= wire.size; slice++)
		assert_split(wire, slice, "uploads/u/blobs/h/5", 1 << 20, "some bytes", true);
	struct croft_slice plain = wire_of("name", 0, "", false);
	for (size_t slice = 1; slice <= plain.size; slice++)
		assert_split(plain, slice, "name", 0, "", false);
	assert_split(CROFT_SLICE("", 0), 1, "", 0, "", false);
}

static void of_a_field_that_comes_twice_the_last_counts(void **state)
{
	struct croft_slice first = wire_of("name", 7, "first", false), second = wire_of("", 0, "2nd", true);
	char both[128];
	memcpy(both, first.data, first.size);
	memcpy(both + first.size, second.data, second.size);
	for (size_t slice = 1; slice <= first.size + second.size; slice++)
		assert_split(CROFT_SLICE(both, first.size + second.size), slice, "name", 7, "2nd", true);
}

static void what_ends_in_the_middle_is_malformed(void **state)
{
	struct croft_slice wire = wire_of("uploads/u/blobs/h/5", 1 << 20, "some bytes", true);
	size_t whole = 0;
	for (size_t size = 0; size <= wire.size; size++) {
		struct croft_slice rest;
		struct croft_pieces bytes;
		struct received *received = received_split(
			buffer_of(CROFT_SLICE(wire.data, size), 3), DATA_FIELD, arena, &rest, &bytes);
		whole += received != NULL;
		received_destroy(received);
	}
	assert_int_equal(whole, 5); /* at the start, and behind each of its four fields */
}

static void lengths_beyond_the_end_are_malformed(void **state)
{
	static const char *const wires[] = {
		"\x52\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x52\x05" "abcd", "\x0a\x7f", "\x53", "\x80",
		"\x09" "1234567", "\x0d" "123", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
	};
	for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++) {
		struct croft_slice rest;
		struct croft_pieces bytes;
		assert_null(received_split(
			buffer_of(croft_slice_str(wires[i]), 2), DATA_FIELD, arena, &rest, &bytes));
	}
}

int main(void)
{
	grpc_init();
	arena = croft_arena_create();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_reads_the_same_however_it_was_cut),
		cmocka_unit_test(of_a_field_that_comes_twice_the_last_counts),
		cmocka_unit_test(what_ends_in_the_middle_is_malformed),
		cmocka_unit_test(lengths_beyond_the_end_are_malformed),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	croft_arena_destroy(arena);
	grpc_shutdown();
	return failed;
}
