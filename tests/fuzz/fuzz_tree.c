/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directory messages from a peer: decoding, walking, measuring and merging. The input is cut into up
 * to eight of them, each of which may name the later ones; the first two are merged.
 */
#include "fs/tree.h"
#include "proto/rpc/message.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BLOBS = 8, MOST_VISITS = 10000 };

struct blobs {
	struct croft_arena *arena;
	struct croft_digest digests[4096];
	struct croft_slice bytes[4096];
	size_t count;
};

static bool read_blob(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	struct blobs *blobs = user;
	for (size_t i = 0; i < blobs->count; i++)
		if (croft_digest_equal(&blobs->digests[i], digest)) {
			*bytes = blobs->bytes[i];
			return true;
		}
	return croft_error_set(err, CROFT_NOT_FOUND, "no such blob");
}

static bool keep_blob(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	struct blobs *blobs = user;
	struct croft_digest checked = croft_digest_of(bytes.data, bytes.size);
	if (!croft_digest_equal(&checked, digest))
		abort();
	if (blobs->count == sizeof(blobs->digests) / sizeof(blobs->digests[0]))
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED, "enough for a test");
	blobs->digests[blobs->count] = *digest;
	blobs->bytes[blobs->count++] =
		CROFT_SLICE(croft_arena_copy(blobs->arena, bytes.data, bytes.size), bytes.size);
	return true;
}

/* Subdirectories become earlier kept blobs, chosen by their hash's first digit: digests of trees
 * cannot be cyclic, so neither are these. */
static struct croft_digest keep_piece(struct blobs *blobs, struct croft_slice piece)
{
	Reapi__Directory *directory = croft_directory_decode(piece, blobs->arena, NULL);
	if (directory && blobs->count) {
		for (size_t i = 0; i < directory->n_directories; i++) {
			size_t at = (size_t)directory->directories[i]->digest->hash[0] % blobs->count;
			directory->directories[i]->digest =
				croft_digest_to_message(&blobs->digests[at], blobs->arena);
		}
		piece = croft_message_encode(&directory->base, blobs->arena);
	}
	struct croft_digest digest = croft_digest_of(piece.data, piece.size);
	keep_blob(blobs, &digest, piece, NULL);
	return digest;
}

static bool count_visit(void *user, struct croft_slice path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	size_t *visits = user;
	if (path.size == 0 || entry->name.size == 0 || memchr(path.data, '\0', path.size))
		abort();
	return ++*visits < MOST_VISITS || croft_error_set(err, CROFT_CANCELLED, "enough");
}

static bool merge(struct blobs *blobs, const struct croft_tree_source *source,
	const struct croft_digest *one, const struct croft_digest *other, bool replace, bool below,
	struct croft_digest *root)
{
	struct croft_tree_builder *builder = croft_tree_builder_create(source);
	croft_tree_builder_replace(builder, replace);
	struct croft_tree_entry entry = {.kind = CROFT_ENTRY_DIRECTORY, .digest = *one};
	struct croft_slice place = croft_slice_str(below ? "a/b" : "");
	bool ok = croft_tree_builder_add(builder, place, &entry, NULL);
	entry.digest = *other;
	ok = ok && croft_tree_builder_add(builder, place, &entry, NULL) &&
		croft_tree_builder_finish(builder, keep_blob, blobs, root, NULL);
	croft_tree_builder_destroy(builder);
	return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	struct blobs *blobs = croft_zalloc(sizeof(*blobs));
	blobs->arena = croft_arena_create();
	struct croft_tree_source source = {read_blob, blobs};
	struct croft_digest roots[2] = {croft_digest_empty, croft_digest_empty};
	bool replace = data[0] & 1, below = data[0] & 2;
	size_t pieces = 1 + data[1] % MOST_BLOBS, step = (size - 2) / pieces;
	for (size_t i = 0; i < pieces; i++) {
		roots[1] = roots[0];
		roots[0] = keep_piece(blobs, CROFT_SLICE(data + 2 + i * step, step));
	}
	struct croft_digest merged, again;
	if (merge(blobs, &source, &roots[0], &roots[1], replace, below, &merged)) {
		size_t visits = 0;
		struct croft_tree_totals totals;
		struct croft_error err = CROFT_ERROR_INIT;
		if (!croft_tree_walk(&source, &merged, count_visit, &visits, &err) &&
			err.code == CROFT_OK)
			abort();
		croft_tree_measure(&source, &merged, &totals, &err);
		/* What was put in is in it: once more changes nothing. */
		if (!replace && !below &&
			(!merge(blobs, &source, &merged, &roots[1], false, false, &again) ||
				!croft_digest_equal(&merged, &again)) &&
			blobs->count < 4000)
			abort();
	}
	croft_arena_destroy(blobs->arena);
	free(blobs);
	return 0;
}
