/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* zstd with bounds: on the window that a peer can make us hold and on the bytes that come out. */
#ifndef CROFT_SCHED_SERVICES_ZSTD_H
#define CROFT_SCHED_SERVICES_ZSTD_H

#include "proto/base/arena.h"
#include "proto/base/error.h"
#include "proto/base/slice.h"

/* Exactly `size` bytes, in the arena; anything else is INVALID_ARGUMENT. */
bool zstd_decode(struct croft_slice compressed, size_t size, struct croft_arena *arena,
	struct croft_slice *data, struct croft_error *err);
/* False when it would not be smaller. */
bool zstd_encode(struct croft_slice data, struct croft_arena *arena,
	struct croft_slice *compressed);

/* Piece by piece. `sink` returns false to stop with its error. */
typedef bool zstd_sink(void *user, const void *data, size_t size, struct croft_error *err);

struct zstd_decoder;
struct zstd_decoder *zstd_decoder_create(void);
bool zstd_decoder_feed(struct zstd_decoder *decoder, struct croft_slice compressed,
	zstd_sink *sink, void *user, struct croft_error *err);
/* Whether what was fed ends with a whole frame. */
bool zstd_decoder_at_end(const struct zstd_decoder *decoder);
void zstd_decoder_destroy(struct zstd_decoder *decoder);

struct zstd_encoder;
struct zstd_encoder *zstd_encoder_create(void);
/* Hands out pieces of at most STREAM_CHUNK_BYTES; with `last` the frame is ended. */
bool zstd_encoder_feed(struct zstd_encoder *encoder, struct croft_slice data, bool last,
	zstd_sink *sink, void *user, struct croft_error *err);
void zstd_encoder_destroy(struct zstd_encoder *encoder);

#endif
