/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GET and HEAD /chunks/<sha256>: how a large blob is made of chunks, one "<sha256>-<size>" a line. 404 for one that
 * is kept in one piece.
 *
 * Who asks for a recipe wants to read somewhere in the blob, and need not wait for a second answer: with
 * "Croft-Piece: bytes=FIRST-LAST" these bytes stand behind the recipe, and "Croft-Piece-Digest: <sha256>-<size>"
 * in the head says where they begin (the body's last <size> bytes) and that they came as they were sent.
 */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"

#include <stdio.h>
#include <stdlib.h>

/* Behind the recipe's text, which leaves room for it. Without it the answer is as good, so why it is not there is of
 * no interest. */
static void add_piece(struct plane_request *request, char *end)
{
	const struct http_range *range = &request->piece;
	struct croft_error err;
	if (!range->there || range->suffix || range->last >= request->digest.size_bytes ||
		range->last - range->first >= PLANE_PIECE)
		return;
	size_t size = (size_t)(range->last - range->first) + 1;
	struct croft_store_blob *blob =
		croft_store_open_blob(request->plane->config.store, &request->digest, &err);
	if (!blob)
		return;
	/* What is read was checked against the store's sums; the digest takes it safely to the other side. */
	if (croft_store_blob_read(blob, end, size, range->first, &err) == (ssize_t)size) {
		struct croft_digest digest = croft_digest_of(end, size);
		croft_digest_format(&digest, '-', request->line);
		request->value.size += size;
	}
	croft_store_blob_close(blob);
}

static bool look(struct plane_request *request)
{
	struct croft_store *store = request->plane->config.store;
	struct croft_digest *chunks;
	size_t count;
	request->failure = CROFT_ERROR_INIT;
	if (!croft_store_check_visible(store, plane_tenant(request), &request->digest, &request->failure) ||
		!croft_store_find_hash(store, request->digest.hash, &request->digest, &request->failure) ||
		!croft_store_get_recipe(
			store, &request->digest, request->arena, &chunks, &count, &request->failure))
		return false;
	size_t room = count * CROFT_DIGEST_TEXT + 1 + (request->piece.there ? PLANE_PIECE : 0);
	char *text = croft_arena_alloc(request->arena, room), *at = text;
	for (size_t i = 0; i < count; i++) {
		croft_digest_format(&chunks[i], '-', at);
		at += strlen(at);
		*at++ = '\n';
	}
	request->value = CROFT_SLICE(text, (size_t)(at - text));
	add_piece(request, at);
	return true;
}

static void work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	struct croft_upstream *upstream = request->plane->config.upstream;
	if (look(request) || !upstream || request->failure.code != CROFT_NOT_FOUND)
		return;
	croft_upstream_bring_hash(upstream, request->digest.hash);
	look(request);
}

static void looked(struct plane_request *request)
{
	if (request->failure.code == CROFT_FAILED_PRECONDITION) {
		plane_answer_status(request, 404, "the blob is kept in one piece\n");
	} else if (request->failure.code != CROFT_OK) {
		plane_answer_error(request, &request->failure);
	} else {
		char field[CROFT_DIGEST_TEXT + 32] = "";
		if (request->line[0])
			snprintf(field, sizeof(field), "Croft-Piece-Digest: %s\r\n", request->line);
		plane_answer_value(request, "text/plain", field);
	}
}

void plane_chunks_get(struct plane_request *request)
{
	request->arena = croft_arena_create();
	plane_request_work(request, work, looked);
}
