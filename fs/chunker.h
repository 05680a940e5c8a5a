/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content-defined chunks: FastCDC as in the paper of 2020 by Wen Xia and others, normalization level 2,
 * with the parameters that remote_execution.proto publishes (FastCdc2020Params). Two versions of a
 * file have most of their chunks in common.
 */
#ifndef CROFT_FS_CHUNKER_H
#define CROFT_FS_CHUNKER_H

#include <stddef.h>
#include <stdint.h>

/* What everybody who shares a cache should use: the values that the protocol recommends. */
enum {
	CROFT_CHUNK_AVERAGE = 512 * 1024,
	CROFT_CHUNK_LEAST = CROFT_CHUNK_AVERAGE / 4, /* only the last of a blob may be smaller */
	CROFT_CHUNK_MOST = CROFT_CHUNK_AVERAGE * 4,  /* blobs up to this are not cut */
};

struct croft_chunking {
	size_t least, average, most; /* bytes; average a power of two from 1 KiB to 1 MiB */
	uint32_t seed;
};
extern const struct croft_chunking croft_chunking; /* those above, seed 0 */

/* The length of the first chunk of these bytes, which must be `most` at least, or all that is left of
 * the blob. */
size_t croft_chunk_cut(const struct croft_chunking *chunking, const uint8_t *data, size_t size);

#endif
