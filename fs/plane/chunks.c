/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GET and HEAD /chunks/<sha256>: how a large blob is made of chunks, one "<sha256>-<size>" a line. 404
 * for one that is kept in one piece. */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

static bool look(struct plane_request *request)
{
	struct croft_store *store = request->plane->config.store;
	struct croft_digest *chunks;
	size_t count;
	request->failure = CROFT_ERROR_INIT;
	if (!croft_store_find_hash(store, request->digest.hash, &request->digest, &request->failure) ||
		!croft_store_get_recipe(
			store, &request->digest, request->arena, &chunks, &count, &request->failure))
		return false;
	char *text = croft_arena_alloc(request->arena, count * CROFT_DIGEST_TEXT + 1), *at = text;
	for (size_t i = 0; i < count; i++) {
		croft_digest_format(&chunks[i], '-', at);
		at += strlen(at);
		*at++ = '\n';
	}
	request->value = CROFT_SLICE(text, (size_t)(at - text));
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
	if (request->failure.code == CROFT_FAILED_PRECONDITION)
		plane_answer_status(request, 404, "the blob is kept in one piece\n");
	else if (request->failure.code != CROFT_OK)
		plane_answer_error(request, &request->failure);
	else
		plane_answer_value(request, "text/plain");
}

void plane_chunks_get(struct plane_request *request)
{
	request->arena = croft_arena_create();
	plane_request_work(request, work, looked);
}
