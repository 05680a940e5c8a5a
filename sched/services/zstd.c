/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/zstd.h"

#include "sched/services/internal.h"

#include <stdlib.h>
#include <zstd.h>

/* 8 MiB: what RFC 8878 (3.1.1.1.2) asks every decoder to support; level 19 uses no more. */
enum { WINDOW_LOG_MAX = 23 };
/* The fastest of the plain levels: the wire is what it is to relieve. */
enum { LEVEL = 1 };
/* Below this a frame's own header eats the gain. */
enum { WORTH_BYTES = 128 };

struct zstd_decoder {
	ZSTD_DCtx *context;
	size_t wants; /* 0: at the end of a frame */
	size_t room;
	char *buffer;
};

static ZSTD_DCtx *decoding_context(void)
{
	ZSTD_DCtx *context = ZSTD_createDCtx();
	if (!context || ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax,
			WINDOW_LOG_MAX)))
		abort();
	return context;
}

bool zstd_decode(struct croft_slice compressed, size_t size, struct croft_arena *arena,
	struct croft_slice *data, struct croft_error *err)
{
	char *out = croft_arena_alloc(arena, size + 1);
	ZSTD_DCtx *context = decoding_context();
	size_t got = ZSTD_decompressDCtx(context, out, size, compressed.data, compressed.size);
	ZSTD_freeDCtx(context);
	if (ZSTD_isError(got))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the zstd data does not decode to %zu bytes: %s", size, ZSTD_getErrorName(got));
	if (got != size)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the zstd data decodes to %zu bytes, %zu were announced", got, size);
	*data = CROFT_SLICE(out, size);
	return true;
}

bool zstd_encode(struct croft_slice data, struct croft_arena *arena,
	struct croft_slice *compressed)
{
	if (data.size < WORTH_BYTES)
		return false;
	/* With less room than the data has it fails as soon as there is nothing to be won. */
	char *out = croft_arena_alloc(arena, data.size);
	size_t got = ZSTD_compress(out, data.size - 1, data.data, data.size, LEVEL);
	if (ZSTD_isError(got))
		return false;
	*compressed = CROFT_SLICE(out, got);
	return true;
}

struct zstd_decoder *zstd_decoder_create(void)
{
	struct zstd_decoder *decoder = croft_zalloc(sizeof(*decoder));
	decoder->context = decoding_context();
	decoder->room = ZSTD_DStreamOutSize();
	decoder->buffer = croft_alloc(decoder->room);
	return decoder;
}

bool zstd_decoder_feed(struct zstd_decoder *decoder, struct croft_slice compressed,
	zstd_sink *sink, void *user, struct croft_error *err)
{
	ZSTD_inBuffer in = {compressed.data, compressed.size, 0};
	bool full;
	do {
		ZSTD_outBuffer out = {decoder->buffer, decoder->room, 0};
		if (in.pos == in.size && decoder->wants == 0)
			return true;
		size_t result = ZSTD_decompressStream(decoder->context, &out, &in);
		if (ZSTD_isError(result))
			return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the zstd stream is broken: %s",
				ZSTD_getErrorName(result));
		decoder->wants = result;
		full = out.pos == out.size;
		if (out.pos > 0 && !sink(user, decoder->buffer, out.pos, err))
			return false;
	} while (in.pos < in.size || full);
	return true;
}

bool zstd_decoder_at_end(const struct zstd_decoder *decoder)
{
	return decoder->wants == 0;
}

void zstd_decoder_destroy(struct zstd_decoder *decoder)
{
	if (!decoder)
		return;
	ZSTD_freeDCtx(decoder->context);
	free(decoder->buffer);
	free(decoder);
}

struct zstd_encoder {
	ZSTD_CCtx *context;
	char *buffer;
};

struct zstd_encoder *zstd_encoder_create(void)
{
	struct zstd_encoder *encoder = croft_zalloc(sizeof(*encoder));
	encoder->context = ZSTD_createCCtx();
	if (!encoder->context ||
		ZSTD_isError(ZSTD_CCtx_setParameter(encoder->context, ZSTD_c_compressionLevel, LEVEL)))
		abort();
	encoder->buffer = croft_alloc(STREAM_CHUNK_BYTES);
	return encoder;
}

bool zstd_encoder_feed(struct zstd_encoder *encoder, struct croft_slice data, bool last,
	zstd_sink *sink, void *user, struct croft_error *err)
{
	ZSTD_inBuffer in = {data.data, data.size, 0};
	for (bool done = false; !done;) {
		ZSTD_outBuffer out = {encoder->buffer, STREAM_CHUNK_BYTES, 0};
		size_t left = ZSTD_compressStream2(
			encoder->context, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
			return croft_error_set(
				err, CROFT_INTERNAL, "zstd: %s", ZSTD_getErrorName(left));
		if (out.pos > 0 && !sink(user, encoder->buffer, out.pos, err))
			return false;
		done = last ? left == 0 : in.pos == in.size;
	}
	return true;
}

void zstd_encoder_destroy(struct zstd_encoder *encoder)
{
	if (!encoder)
		return;
	ZSTD_freeCCtx(encoder->context);
	free(encoder->buffer);
	free(encoder);
}
