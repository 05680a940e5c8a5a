/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One request: what it asks for, and its memory. */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"

#include <fcntl.h>
#include <stdlib.h>
#include <zstd.h>

/* Memory --------------------------------------------------------------------------------------- */

static struct plane_request *request_new(struct plane_connection *connection)
{
	struct croft_plane *plane = connection->plane;
	struct plane_request *request = plane->spare;
	if (request) {
		plane->spare = request->next_spare;
		plane->spares--;
		struct plane_buffer first = request->buffers[0], second = request->buffers[1];
		*request = (struct plane_request){
			.buffers = {{.data = first.data}, {.data = second.data}}};
	} else {
		request = croft_zalloc(sizeof(*request));
	}
	plane->requests++;
	request->plane = plane;
	request->connection = connection;
	request->file = -1;
	connection->request = request;
	return request;
}

static void discard(struct plane_request *request)
{
	free(request->buffers[0].data);
	free(request->buffers[1].data);
	free(request);
}

void plane_request_free(struct plane_request *request)
{
	struct croft_plane *plane = request->plane;
	croft_store_writer_abort(request->writer);
	if (request->blob && request->kind == PLANE_BLOB && request->digest.size_bytes > PLANE_SMALL &&
		!request->broken && !plane->stopping)
		plane_kept_give(plane, &request->digest, request->blob);
	else
		croft_store_blob_close(request->blob);
	croft_arena_destroy(request->arena);
	plane->compressing -= request->zstd != NULL;
	ZSTD_freeCCtx(request->zstd);
	free(request->zstd_in);
	free(request->digests);
	free(request->hidden);
	free(request->instance);
	free(request->collected);
	plane->collected -= request->collected_room;
	plane->requests--;
	if (plane->spares >= PLANE_SPARE) {
		discard(request);
		return;
	}
	request->next_spare = plane->spare;
	plane->spare = request;
	plane->spares++;
}

void plane_request_free_spares(struct croft_plane *plane)
{
	for (struct plane_request *next, *at = plane->spare; at; at = next) {
		next = at->next_spare;
		discard(at);
	}
}

/* Work ----------------------------------------------------------------------------------------- */

struct plane_request *plane_request_of(struct ring_work *work)
{
	return ring_container(work, struct plane_request, work);
}

static void worked(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	request->working = false;
	if (request->connection->closing)
		plane_settle(request->connection);
	else
		request->then(request);
}

void plane_request_work(struct plane_request *request, void (*work)(struct ring_work *work),
	void (*then)(struct plane_request *request))
{
	request->working = true;
	request->then = then;
	request->work.work = work;
	request->work.done = worked;
	ring_work(request->plane->ring, &request->work);
}

/* Paths ---------------------------------------------------------------------------------------- */

static bool cut_prefix(struct croft_slice *path, const char *prefix)
{
	size_t size = strlen(prefix);
	if (path->size < size || memcmp(path->data, prefix, size) != 0)
		return false;
	*path = CROFT_SLICE((const char *)path->data + size, path->size - size);
	return true;
}

static bool cut_suffix(struct croft_slice *path, const char *suffix)
{
	size_t size = strlen(suffix);
	if (path->size < size ||
		memcmp((const char *)path->data + path->size - size, suffix, size) != 0)
		return false;
	path->size -= size;
	return true;
}

/* What stands before "/ac/…": nothing, or "/" and an instance name as it is (nothing is unescaped). The
 * protocol wants no empty segments in it. */
static bool take_instance(struct plane_request *request, struct croft_slice path)
{
	if (path.size == 0)
		return true;
	const char *text = path.data;
	if (text[0] != '/' || text[path.size - 1] == '/')
		return false;
	for (size_t i = 0; i < path.size; i++)
		if (text[i] == '%' || text[i] == '?' || text[i] == '#' || (text[i] == '/' && text[i + 1] == '/'))
			return false;
	request->instance = croft_alloc(path.size);
	memcpy(request->instance, text + 1, path.size - 1);
	request->instance[path.size - 1] = '\0';
	return true;
}

/* Sets kind, hash and instance. The head is not looked at any more after this. */
static bool parse_target(struct plane_request *request)
{
	struct croft_slice path = request->head.target;
	/* The absolute form, which every server must take (RFC 9112, 3.2.2). */
	if (cut_prefix(&path, "http://")) {
		const char *slash = memchr(path.data, '/', path.size);
		if (!slash)
			return false;
		path = CROFT_SLICE(slash, path.size - (size_t)(slash - (const char *)path.data));
	}
	if (cut_suffix(&path, "/batch")) {
		request->kind = PLANE_BATCHES;
		return take_instance(request, path);
	}
	enum { HASH = CROFT_HASH_TEXT - 1 };
	if (path.size < HASH ||
		!croft_hash_parse(CROFT_SLICE((const char *)path.data + path.size - HASH, HASH),
			request->digest.hash))
		return false;
	path.size -= HASH;
	if (cut_suffix(&path, "/cas/"))
		request->kind = PLANE_BLOB;
	else if (cut_suffix(&path, "/ac/"))
		request->kind = PLANE_ACTION;
	else if (cut_suffix(&path, "/chunks/"))
		request->kind = PLANE_CHUNKS;
	return request->kind != PLANE_NOTHING && take_instance(request, path);
}

const char *plane_instance(const struct plane_request *request)
{
	return request->instance ? request->instance : request->plane->instance_name;
}

struct croft_slice plane_tenant(const struct plane_request *request)
{
	return croft_tenant(request->plane->config.private_blobs && !request->sees_all,
		croft_slice_str(plane_instance(request)));
}

static void refuse_method(struct plane_request *request)
{
	plane_answer_status(request, 405, "this path takes %s\n",
		request->kind == PLANE_BATCHES  ? "POST"
		: request->kind == PLANE_CHUNKS ? "GET and HEAD"
										: "GET, HEAD and PUT");
}

static void route(struct plane_request *request, bool known)
{
	enum http_method method = request->head.method;
	bool reading = method == HTTP_GET || method == HTTP_HEAD;
	bool has_body = request->head.chunked || request->head.length > 0;
	/* What we do not read of the body must not be taken for the next request. */
	request->close |= has_body && (reading || method == HTTP_UNKNOWN);
	if (!known) {
		request->close |= has_body;
		plane_answer_status(request, 404,
			"there are /cas/<sha256>, /ac/<sha256>, /chunks/<sha256> and /batch, with 64 lower-case hex "
			"digits, and an instance name before them if you like\n");
	} else if (request->kind == PLANE_BATCHES) {
		if (method == HTTP_POST)
			plane_batch(request);
		else
			refuse_method(request);
	} else if (reading) {
		(request->kind == PLANE_BLOB     ? plane_get
			: request->kind == PLANE_CHUNKS ? plane_chunks_get
											: plane_action_get)(request);
	} else if (method != HTTP_PUT || request->kind == PLANE_CHUNKS) {
		request->close |= has_body;
		refuse_method(request);
	} else if (!request->plane->config.writable) {
		request->close |= has_body;
		plane_answer_status(request, 403, "this plane is read-only\n");
	} else {
		(request->kind == PLANE_BLOB ? plane_put : plane_action_put)(request);
	}
}

void plane_request_begin(struct plane_connection *connection, struct croft_slice head)
{
	struct plane_request *request = request_new(connection);
	__atomic_fetch_add(&connection->plane->stat.requests, 1, __ATOMIC_RELAXED);
	plane_touch(connection, PLANE_PROGRESS);
	int status = http_parse_request(head, &request->head);
	if (status) {
		request->close = true;
		plane_answer_status(request, status, "%s\n", http_reason(status));
		return;
	}
	request->close = !request->head.keep_alive;
	request->range = request->head.range;
	request->piece = request->head.piece;
	/* We give out no dates, and whoever knows our tag has no need to make sure. */
	if (request->head.if_range.size > 0)
		request->range.there = false;
	const struct croft_plane *plane = connection->plane;
	request->sees_all = plane->full_authorization[0] &&
		http_key_matches(plane->full_authorization, request->head.authorization);
	bool permitted =
		request->sees_all || http_key_matches(plane->authorization, request->head.authorization);
	bool known = parse_target(request);
	plane_used(connection, head.size);
	if (permitted) {
		route(request, known);
		return;
	}
	request->close = true;
	plane_answer_status(request, 401, "this farm's blobs want a key: user \"croft\", password as in the "
		"server's state directory, plane-key\n");
}

void plane_request_refuse(struct plane_connection *connection, int status, const char *why)
{
	struct plane_request *request = request_new(connection);
	request->close = true;
	plane_answer_status(request, status, "%s\n", why);
}
