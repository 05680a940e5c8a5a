/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compression at rest. What comes in is stored as it is, and what is in use stays so: it can be sent from its file, and
 * its check is its only cost. A record that is moved because most of its segment has gone (evict.c), and was not
 * used for a while, is moved packed: its payload is a zstd frame of the blob's bytes, if that saves enough. When it is
 * moved again after it was used, it is as it was.
 *
 * The record's checksum covers the frame. That the frame gives the very bytes is seen before they are given up.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"

#include <stdlib.h>
#include <zstd.h>

/* Level 1 packs programs to 0.46 and text to 0.32; higher ones save little more and cost several times as much. */
enum { LEVEL = 1, SAVED_PART = 8 };
_Static_assert(CROFT_CHUNK_MOST / 8 < 1 << (64 - STORE_SIZE_BITS), "an entry has room for every record");

bool store_unpack(struct croft_slice packed, void *bytes, size_t size)
{
	return ZSTD_decompress(bytes, size, packed.data, packed.size) == size;
}

unsigned char *store_pack(struct croft_slice bytes, size_t *size)
{
	size_t most = bytes.size - bytes.size / SAVED_PART;
	CROFT_CLEANUP_FREE void *again = croft_alloc(bytes.size);
	unsigned char *record = croft_alloc(STORE_HEADER + most);
	size_t packed = ZSTD_compress(record + STORE_HEADER, most, bytes.data, bytes.size, LEVEL);
	if (!ZSTD_isError(packed) && packed < bytes.size &&
		store_unpack(CROFT_SLICE(record + STORE_HEADER, packed), again, bytes.size) &&
		memcmp(again, bytes.data, bytes.size) == 0) {
		*size = packed;
		return record;
	}
	free(record);
	return NULL;
}
