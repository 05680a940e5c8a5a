/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/digest.h"

#include "proto/base/arena.h"
#include "proto/base/io.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const struct croft_digest croft_digest_empty = {
	{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
		0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8,
		0x55},
	0,
};

struct croft_hasher {
	EVP_MD_CTX *context;
	uint64_t size_bytes;
};

struct croft_hasher *croft_hasher_create(enum croft_digest_function function)
{
	struct croft_hasher *hasher = croft_zalloc(sizeof(*hasher));
	hasher->context = EVP_MD_CTX_new();
	if (function != CROFT_DIGEST_SHA256 || !hasher->context ||
		!EVP_DigestInit_ex(hasher->context, EVP_sha256(), NULL))
		abort();
	return hasher;
}

void croft_hasher_update(struct croft_hasher *hasher, const void *data, size_t size)
{
	if (!EVP_DigestUpdate(hasher->context, data, size))
		abort();
	hasher->size_bytes += size;
}

struct croft_digest croft_hasher_finish(struct croft_hasher *hasher)
{
	struct croft_digest digest = {.size_bytes = hasher->size_bytes};
	if (!EVP_DigestFinal_ex(hasher->context, digest.hash, NULL) ||
		!EVP_DigestInit_ex(hasher->context, NULL, NULL))
		abort();
	hasher->size_bytes = 0;
	return digest;
}

void croft_hasher_destroy(struct croft_hasher *hasher)
{
	if (!hasher)
		return;
	EVP_MD_CTX_free(hasher->context);
	free(hasher);
}

struct croft_digest croft_digest_of(const void *data, size_t size)
{
	struct croft_digest digest = {.size_bytes = size};
	if (!EVP_Digest(data, size, digest.hash, NULL, EVP_sha256(), NULL))
		abort();
	return digest;
}

bool croft_digest_of_fd(int fd, struct croft_digest *digest, struct croft_error *err)
{
	enum { CHUNK = 256 * 1024 };
	unsigned char *buffer = croft_alloc(CHUNK);
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	ssize_t done;
	for (off_t at = 0; (done = pread(fd, buffer, CHUNK, at)) != 0; at += done > 0 ? done : 0) {
		if (done < 0 && errno != EINTR)
			break;
		if (done > 0)
			croft_hasher_update(hasher, buffer, (size_t)done);
	}
	int failure = errno;
	*digest = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	free(buffer);
	return done == 0 || croft_error_errno(err, failure, "reading a file to hash it");
}

void croft_hash_format(const uint8_t hash[CROFT_HASH_SIZE], char text[CROFT_HASH_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	for (int i = 0; i < CROFT_HASH_SIZE; i++) {
		text[2 * i] = digits[hash[i] >> 4];
		text[2 * i + 1] = digits[hash[i] & 15];
	}
	text[2 * CROFT_HASH_SIZE] = '\0';
}

/* One more than a digit's value; 0: no digit of ours. A table, since branches on digits that look random
 * are guessed wrong half of the time. */
static const uint8_t hex_values[256] = {
	['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8, ['8'] = 9,
	['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

bool croft_hash_parse(struct croft_slice text, uint8_t hash[CROFT_HASH_SIZE])
{
	const unsigned char *at = text.data;
	if (text.size != 2 * CROFT_HASH_SIZE)
		return false;
	bool good = true;
	for (int i = 0; i < CROFT_HASH_SIZE; i++) {
		unsigned high = hex_values[at[2 * i]], low = hex_values[at[2 * i + 1]];
		good &= high && low;
		hash[i] = (uint8_t)((high - 1) << 4 | (low - 1));
	}
	return good;
}

void croft_digest_format(const struct croft_digest *digest, char separator,
	char text[CROFT_DIGEST_TEXT])
{
	croft_hash_format(digest->hash, text);
	snprintf(text + 2 * CROFT_HASH_SIZE, CROFT_DIGEST_TEXT - 2 * CROFT_HASH_SIZE, "%c%" PRIu64,
		separator, digest->size_bytes);
}

bool croft_digest_parse(struct croft_slice text, struct croft_digest *digest,
	struct croft_error *err)
{
	const char *at = text.data;
	size_t hash_size = 2 * CROFT_HASH_SIZE;
	int shown = text.size > 100 ? 100 : (int)text.size;
	if (text.size < hash_size + 2 || !croft_hash_parse(CROFT_SLICE(at, hash_size), digest->hash) ||
		!memchr("/-:", at[hash_size], 3))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"'%.*s' is no digest: 64 lower-case hex digits, '/' or '-', and a size are wanted", shown,
			at);
	uint64_t size = 0;
	for (size_t i = hash_size + 1; i < text.size; i++) {
		if (at[i] < '0' || at[i] > '9' || __builtin_mul_overflow(size, 10, &size) ||
			__builtin_add_overflow(size, (uint64_t)(at[i] - '0'), &size) || size > INT64_MAX)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"'%.*s' is no digest: its size is not a number below 2^63", shown, at);
	}
	digest->size_bytes = size;
	if (size == 0 && !croft_digest_equal(digest, &croft_digest_empty))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"'%.*s' is no digest: its size is 0, but the hash is not that of the empty blob", shown, at);
	return true;
}

bool croft_digest_from_message(const Reapi__Digest *message, const char *what,
	struct croft_digest *digest, struct croft_error *err)
{
	if (!message)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s has no digest", what);
	if (!croft_hash_parse(croft_slice_str(message->hash), digest->hash))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s: hash '%.80s' is not 64 lower-case hex digits (SHA-256)", what, message->hash);
	if (message->size_bytes < 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: size_bytes %" PRId64 " is negative",
			what, message->size_bytes);
	digest->size_bytes = (uint64_t)message->size_bytes;
	/* Blobs of no bytes are never looked up, so another hash than theirs would go unnoticed. */
	if (croft_digest_is_empty(digest) && !croft_digest_equal(digest, &croft_digest_empty))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s: size_bytes 0 does not go with hash '%s', which is not that of the empty blob", what,
			message->hash);
	return true;
}

Reapi__Digest *croft_digest_to_message(const struct croft_digest *digest, struct croft_arena *arena)
{
	Reapi__Digest *message = croft_arena_alloc(arena, sizeof(*message));
	reapi__digest__init(message);
	message->hash = croft_arena_alloc(arena, CROFT_HASH_TEXT);
	croft_hash_format(digest->hash, message->hash);
	message->size_bytes = (int64_t)digest->size_bytes;
	return message;
}
