/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/message.h"
#include "tests/unit/test.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"

#include <stdlib.h>
#include <string.h>

static int set_up(void **state)
{
	*state = croft_arena_create();
	return 0;
}

static int tear_down(void **state)
{
	croft_arena_destroy(*state);
	return 0;
}

#define DECODE(type, bytes, limits, err) croft_message_decode(&type, bytes, *state, limits, err)
#define TEXT(text) CROFT_SLICE(text, sizeof(text) - 1)

/* A directory of one file, with every kind of field that REAPI has in it. */
static struct croft_slice encoded_directory(struct croft_arena *arena)
{
	Reapi__Digest digest = REAPI__DIGEST__INIT;
	digest.hash = (char *)"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
	digest.size_bytes = 3;
	Google__Protobuf__UInt32Value mode = GOOGLE__PROTOBUF__UINT32_VALUE__INIT;
	mode.value = 0755;
	Reapi__NodeProperties properties = REAPI__NODE_PROPERTIES__INIT;
	properties.unix_mode = &mode;
	Reapi__FileNode file = REAPI__FILE_NODE__INIT;
	file.name = (char *)"a\xff";
	file.digest = &digest;
	file.is_executable = true;
	file.node_properties = &properties;
	Reapi__FileNode *files[] = {&file};
	Reapi__Directory directory = REAPI__DIRECTORY__INIT;
	directory.n_files = 1;
	directory.files = files;
	return croft_message_encode(&directory.base, arena);
}

static void a_message_reads_back_as_it_was_encoded(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice bytes = encoded_directory(*state);
	Reapi__Directory *directory = DECODE(reapi__directory__descriptor, bytes, NULL, &err);
	assert_ok(directory != NULL, err);
	assert_int_equal(directory->n_files, 1);
	assert_string_equal(directory->files[0]->name, "a\xff"); /* not UTF-8: names are bytes here */
	assert_int_equal(directory->files[0]->digest->size_bytes, 3);
	assert_int_equal(directory->files[0]->node_properties->unix_mode->value, 0755);
	assert_true(croft_slice_equal(croft_message_encode(&directory->base, *state), bytes));
}

static void defaults_take_no_bytes(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	Reapi__Digest empty = REAPI__DIGEST__INIT;
	assert_int_equal(croft_message_encode(&empty.base, *state).size, 0);
	Reapi__Digest *digest =
		DECODE(reapi__digest__descriptor, CROFT_SLICE(NULL, 0), NULL, &err);
	assert_ok(digest != NULL, err);
	assert_string_equal(digest->hash, "");
}

static void every_cut_of_a_message_is_refused(void **state)
{
	struct croft_slice whole = encoded_directory(*state);
	for (size_t size = 1; size < whole.size; size++) {
		struct croft_error err = CROFT_ERROR_INIT;
		/* In a buffer of its own, so that the address sanitizer sees a read past the cut. */
		uint8_t *cut = malloc(size);
		memcpy(cut, whole.data, size);
		/* All of it is one file: no cut of it can be whole. */
		assert_null(DECODE(reapi__directory__descriptor, CROFT_SLICE(cut, size), NULL, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		assert_non_null(strstr(err.message, "build.bazel.remote.execution.v2.Directory"));
		free(cut);
	}
}

static void malformed_bytes_are_refused(void **state)
{
	static const struct croft_slice bad[] = {
		{"\x0b\x0c", 2},             /* a group */
		{"\x0c", 1},                 /* its end alone */
		{"\x0e", 1},                 /* no such wire type */
		{"\x0f", 1},
		{"\x00\x00", 2},             /* field number 0 */
		{"\x02\x00", 2},
		{"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}, /* a length of 2^64-1 */
		{"\x0a\x05" "abc", 5},       /* a length past the end */
		{"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* a varint of 11 bytes */
		{"\x10", 1},                 /* no value */
		{"\x11" "1234567", 8},       /* seven bytes of eight */
		{"\x15" "123", 4},           /* three of four */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", 11}, /* a field number past 2^29 */
		{"\x08\x01", 2},             /* a number where a string belongs */
		{"\x12\x01" "a", 3},         /* bytes where a number belongs */
		{"\x0a\x03" "a\0b", 5},      /* a string with NUL */
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct croft_error err = CROFT_ERROR_INIT;
		if (DECODE(reapi__digest__descriptor, bad[i], NULL, &err))
			fail_msg("case %zu was read as a Digest", i);
		if (err.code != CROFT_INVALID_ARGUMENT)
			fail_msg("case %zu: %s", i, err.message);
	}
}

static void unknown_fields_are_passed_over(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	Reapi__Digest *digest = DECODE(reapi__digest__descriptor,
		TEXT("\x9a\x06\x02zz" "\xa0\x06\x01" "\xa1\x06" "12345678" "\xa5\x06" "1234" "\x10\x07"),
		NULL, &err);
	assert_ok(digest != NULL, err);
	assert_int_equal(digest->size_bytes, 7);
}

static void the_last_of_a_repeated_value_counts(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	Reapi__Digest *digest =
		DECODE(reapi__digest__descriptor, TEXT("\x0a\x01" "a" "\x10\x07\x10\x08\x0a\x01" "b"), NULL, &err);
	assert_ok(digest != NULL, err);
	assert_string_equal(digest->hash, "b");
	assert_int_equal(digest->size_bytes, 8);
}

static void numbers_may_be_packed_or_not(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	/* CacheCapabilities.digest_functions: two packed, one by itself */
	Reapi__CacheCapabilities *capabilities =
		DECODE(reapi__cache_capabilities__descriptor, TEXT("\x0a\x02\x01\x02\x08\x03"), NULL, &err);
	assert_ok(capabilities != NULL, err);
	assert_int_equal(capabilities->n_digest_functions, 3);
	assert_int_equal(capabilities->digest_functions[2], 3);
}

static void the_parts_of_one_message_are_merged(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	/* FileNode.digest in two parts: hash, then size. */
	Reapi__FileNode *file = DECODE(
		reapi__file_node__descriptor, TEXT("\x12\x03\x0a\x01" "a" "\x12\x02\x10\x07"), NULL, &err);
	assert_ok(file != NULL, err);
	assert_string_equal(file->digest->hash, "a");
	assert_int_equal(file->digest->size_bytes, 7);
}

static void limits_are_kept(void **state)
{
	struct croft_slice bytes = encoded_directory(*state);
	struct croft_message_limits limits = {bytes.size, 16384, 4};
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(DECODE(reapi__directory__descriptor, bytes, &limits, &err) != NULL, err);
	const struct croft_message_limits bad[] = {
		{bytes.size - 1, 16384, 4}, {bytes.size, 256, 4}, {bytes.size, 16384, 3}};
	for (size_t i = 0; i < 3; i++) {
		assert_null(DECODE(reapi__directory__descriptor, bytes, &bad[i], &err));
		assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	}
}

/* Small bytes that would become large: refused before the memory is taken. */
static void what_would_blow_up_is_refused(void **state)
{
	enum { SIZE = 12 << 20, FIRST = 6 << 20 };
	struct croft_error err = CROFT_ERROR_INIT;
	uint8_t *bytes = malloc(SIZE);
	/* Directory.files: millions of empty ones */
	for (size_t i = 0; i < SIZE; i += 2)
		memcpy(bytes + i, "\x0a\x00", 2);
	assert_null(DECODE(reapi__directory__descriptor, CROFT_SLICE(bytes, SIZE), NULL, &err));
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	/* The same in unknown fields. */
	for (size_t i = 0; i < SIZE; i += 2)
		memcpy(bytes + i, "\x7a\x00", 2);
	assert_null(DECODE(reapi__directory__descriptor, CROFT_SLICE(bytes, SIZE), NULL, &err));
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	assert_true(croft_arena_used(*state) < 65536);
	free(bytes);
}

static void a_message_of_many_parts_is_refused(void **state)
{
	/* ExecuteResponse.result: a part with 20,000 output files, then 20,000 parts with one each. */
	enum { FILES = 20000, HEAD = 4, PART = 4 };
	struct croft_error err = CROFT_ERROR_INIT;
	size_t size = HEAD + FILES * 2 + FILES * PART;
	uint8_t *bytes = malloc(size), *at = bytes;
	memcpy(at, "\x0a\xc0\xb8\x02", HEAD); /* 40,000 bytes follow */
	at += HEAD;
	for (int i = 0; i < FILES; i++, at += 2)
		memcpy(at, "\x12\x00", 2);
	for (int i = 0; i < FILES; i++, at += PART)
		memcpy(at, "\x0a\x02\x12\x00", PART);
	assert_null(DECODE(reapi__execute_response__descriptor, CROFT_SLICE(bytes, size), NULL, &err));
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	assert_true(croft_arena_used(*state) < 65536);
	free(bytes);
}

#define WITH_ARENA(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_ARENA(a_message_reads_back_as_it_was_encoded),
		WITH_ARENA(defaults_take_no_bytes),
		WITH_ARENA(every_cut_of_a_message_is_refused),
		WITH_ARENA(malformed_bytes_are_refused),
		WITH_ARENA(unknown_fields_are_passed_over),
		WITH_ARENA(the_last_of_a_repeated_value_counts),
		WITH_ARENA(numbers_may_be_packed_or_not),
		WITH_ARENA(the_parts_of_one_message_are_merged),
		WITH_ARENA(limits_are_kept),
		WITH_ARENA(what_would_blow_up_is_refused),
		WITH_ARENA(a_message_of_many_parts_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
