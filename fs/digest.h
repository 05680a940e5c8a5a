/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Digests: the SHA-256 of a blob and its size. The function is a field, so that others can be
 * added; SHA-256 is the only one so far.
 *
 *	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
 *	croft_hasher_update(hasher, data, size);
 *	struct croft_digest digest = croft_hasher_finish(hasher);
 */
#ifndef CROFT_FS_DIGEST_H
#define CROFT_FS_DIGEST_H

#include "proto/base/error.h"
#include "proto/base/slice.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"

/* REAPI's DigestFunction.Value numbers. */
enum croft_digest_function { CROFT_DIGEST_SHA256 = 1 };

enum { CROFT_HASH_SIZE = 32, CROFT_HASH_TEXT = 65 /* hex and NUL */,
	CROFT_DIGEST_TEXT = 65 + 21 /* "<hash>-<size>" or "<hash>/<size>" and NUL */ };

struct croft_digest {
	uint8_t hash[CROFT_HASH_SIZE];
	uint64_t size_bytes;
};

/* The blob of no bytes: always present everywhere, never transferred. */
extern const struct croft_digest croft_digest_empty;

static inline bool croft_digest_equal(const struct croft_digest *a, const struct croft_digest *b)
{
	return a->size_bytes == b->size_bytes && memcmp(a->hash, b->hash, CROFT_HASH_SIZE) == 0;
}
static inline bool croft_digest_is_empty(const struct croft_digest *digest)
{
	return digest->size_bytes == 0;
}

struct croft_digest croft_digest_of(const void *data, size_t size);
/* Reads the open file from its start to its end without moving its position. */
bool croft_digest_of_fd(int fd, struct croft_digest *digest, struct croft_error *err);

struct croft_hasher;
struct croft_hasher *croft_hasher_create(enum croft_digest_function function);
void croft_hasher_update(struct croft_hasher *hasher, const void *data, size_t size);
/* The digest of all that was put in; the hasher is then as new. */
struct croft_digest croft_hasher_finish(struct croft_hasher *hasher);
void croft_hasher_destroy(struct croft_hasher *hasher);

/* Lower-case hex. */
void croft_hash_format(const uint8_t hash[CROFT_HASH_SIZE], char text[CROFT_HASH_TEXT]);
bool croft_hash_parse(struct croft_slice text, uint8_t hash[CROFT_HASH_SIZE]);
/* "<hash><separator><size>" */
void croft_digest_format(const struct croft_digest *digest, char separator,
	char text[CROFT_DIGEST_TEXT]);
/* Takes '/', '-' or ':' as separator; INVALID_ARGUMENT says what is wrong with it. */
bool croft_digest_parse(struct croft_slice text, struct croft_digest *digest,
	struct croft_error *err);

/* REAPI's message. Reading checks hex, length and sign: INVALID_ARGUMENT. A NULL message is an error
 * that names `what`. */
bool croft_digest_from_message(const Reapi__Digest *message, const char *what,
	struct croft_digest *digest, struct croft_error *err);
/* Message and hex text in the arena. */
struct croft_arena;
Reapi__Digest *croft_digest_to_message(const struct croft_digest *digest, struct croft_arena *arena);

#endif
