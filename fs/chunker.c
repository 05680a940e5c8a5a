/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/chunker.h"

static const uint64_t gear[256] = {
#include "gear.inc"
};

/* By the logarithm of an average size: how many bits must be zero at a cut, spread as in the paper's
 * own code. The places are part of the algorithm. */
static const uint64_t masks[] = {
	[5] = 0x0000000001804110,
	[6] = 0x0000000001803110,
	[7] = 0x0000000018035100,
	[8] = 0x0000001800035300,
	[9] = 0x0000019000353000,
	[10] = 0x0000590003530000,
	[11] = 0x0000d90003530000,
	[12] = 0x0000d90103530000,
	[13] = 0x0000d90303530000,
	[14] = 0x0000d90313530000,
	[15] = 0x0000d90f03530000,
	[16] = 0x0000d90303537000,
	[17] = 0x0000d90703537000,
	[18] = 0x0000d90707537000,
	[19] = 0x0000d91707537000,
	[20] = 0x0000d91747537000,
	[21] = 0x0000d91767537000,
	[22] = 0x0000d93767537000,
};
enum { NORMALIZATION = 2 };

const struct croft_chunking croft_chunking = {
	CROFT_CHUNK_LEAST, CROFT_CHUNK_AVERAGE, CROFT_CHUNK_MOST, 0};

/* From byte `from` on, in pairs as the paper rolls; `end` even. The cut is before the byte that made
 * it. Returns `end` when there is none. */
static size_t roll(const uint8_t *data, size_t from, size_t end, uint64_t mask, uint64_t seed,
	uint64_t shifted_seed, uint64_t *hash)
{
	uint64_t value = *hash;
	for (size_t at = from; at < end; at += 2) {
		value = (value << 2) + ((gear[data[at]] << 1) ^ shifted_seed);
		if (!(value & mask << 1))
			return at;
		value += gear[data[at + 1]] ^ seed;
		if (!(value & mask))
			return at + 1;
	}
	*hash = value;
	return end;
}

size_t croft_chunk_cut(const struct croft_chunking *chunking, const uint8_t *data, size_t size)
{
	if (size <= chunking->least)
		return size;
	if (size > chunking->most)
		size = chunking->most;
	size_t centre = (chunking->average < size ? chunking->average : size) & ~(size_t)1;
	size_t end = size & ~(size_t)1;
	int bits = __builtin_ctzll(chunking->average);
	uint64_t hash = 0, seed = chunking->seed, shifted_seed = seed << 1;
	/* Harder to cut before the average size, easier behind it. */
	size_t at = roll(data, chunking->least & ~(size_t)1, centre, masks[bits + NORMALIZATION], seed,
		shifted_seed, &hash);
	if (at < centre)
		return at;
	at = roll(data, centre, end, masks[bits - NORMALIZATION], seed, shifted_seed, &hash);
	return at < end ? at : size;
}
