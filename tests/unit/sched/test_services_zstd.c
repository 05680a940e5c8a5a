/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/zstd.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <zstd.h>

static struct croft_arena *arena;

static int set_up(void **state)
{
	arena = croft_arena_create();
	return 0;
}

static int tear_down(void **state)
{
	croft_arena_destroy(arena);
	return 0;
}

static struct croft_slice packed(const void *data, size_t size, int level)
{
	size_t room = ZSTD_compressBound(size);
	char *out = croft_arena_alloc(arena, room);
	size_t got = ZSTD_compress(out, room, data, size, level);
	assert_false(ZSTD_isError(got));
	return CROFT_SLICE(out, got);
}

static void a_batch_blob_decodes_to_its_size_or_not_at_all(void **state)
{
	char text[5000];
	memset(text, 'x', sizeof(text));
	struct croft_slice compressed = packed(text, sizeof(text), 3), data;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(zstd_decode(compressed, sizeof(text), arena, &data, &err), err);
	assert_memory_equal(data.data, text, sizeof(text));
	assert_false(zstd_decode(compressed, sizeof(text) - 1, arena, &data, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_false(zstd_decode(compressed, sizeof(text) + 1, arena, &data, NULL));
}

struct sum {
	uint64_t bytes, limit;
};

static bool add(void *user, const void *data, size_t size, struct croft_error *err)
{
	struct sum *sum = user;
	sum->bytes += size;
	return sum->bytes <= sum->limit || croft_error_set(err, CROFT_INVALID_ARGUMENT, "too much");
}

static void a_stream_decodes_byte_by_byte(void **state)
{
	char text[3000];
	memset(text, 'x', sizeof(text));
	struct croft_slice compressed = packed(text, sizeof(text), 3);
	struct zstd_decoder *decoder = zstd_decoder_create();
	struct sum sum = {0, UINT64_MAX};
	struct croft_error err = CROFT_ERROR_INIT;
	for (size_t i = 0; i < compressed.size; i++) {
		assert_int_equal(zstd_decoder_at_end(decoder), i == 0);
		assert_ok(zstd_decoder_feed(decoder,
			CROFT_SLICE((const char *)compressed.data + i, 1), add, &sum, &err), err);
	}
	assert_true(zstd_decoder_at_end(decoder));
	assert_int_equal(sum.bytes, sizeof(text));
	zstd_decoder_destroy(decoder);
}

static void the_receiver_stops_a_stream_that_unpacks_to_too_much(void **state)
{
	size_t size = 64 << 20;
	char *zeros = calloc(1, size);
	struct croft_slice compressed = packed(zeros, size, 3);
	struct zstd_decoder *decoder = zstd_decoder_create();
	struct sum sum = {0, 1000};
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(zstd_decoder_feed(decoder, compressed, add, &sum, &err));
	assert_true(sum.bytes <= 1 << 20);
	zstd_decoder_destroy(decoder);
	free(zeros);
}

static void a_window_that_takes_too_much_memory_is_refused(void **state)
{
	size_t size = 100 << 20, room = ZSTD_compressBound(size);
	char *zeros = calloc(1, size), *out = malloc(room);
	ZSTD_CCtx *context = ZSTD_createCCtx();
	ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 27);
	ZSTD_CCtx_setParameter(context, ZSTD_c_enableLongDistanceMatching, 1);
	ZSTD_inBuffer in = {zeros, size, 0};
	ZSTD_outBuffer packed_out = {out, room, 0};
	while (ZSTD_compressStream2(context, &packed_out, &in, ZSTD_e_end) > 0)
		;
	struct zstd_decoder *decoder = zstd_decoder_create();
	struct sum sum = {0, UINT64_MAX};
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(
		zstd_decoder_feed(decoder, CROFT_SLICE(out, packed_out.pos), add, &sum, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	zstd_decoder_destroy(decoder);
	ZSTD_freeCCtx(context);
	free(zeros);
	free(out);
}

static void what_does_not_shrink_is_not_compressed(void **state)
{
	uint8_t noise[4000];
	fill_noise(noise, sizeof(noise), 1);
	struct croft_slice compressed;
	assert_false(zstd_encode(CROFT_SLICE(noise, sizeof(noise)), arena, &compressed));
	assert_false(zstd_encode(CROFT_SLICE("abc", 3), arena, &compressed));
	memset(noise, 0, sizeof(noise));
	assert_true(zstd_encode(CROFT_SLICE(noise, sizeof(noise)), arena, &compressed));
	assert_true(compressed.size < 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_batch_blob_decodes_to_its_size_or_not_at_all),
		cmocka_unit_test(a_stream_decodes_byte_by_byte),
		cmocka_unit_test(the_receiver_stops_a_stream_that_unpacks_to_too_much),
		cmocka_unit_test(a_window_that_takes_too_much_memory_is_refused),
		cmocka_unit_test(what_does_not_shrink_is_not_compressed),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
