/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* POST /batch: see docs/blob-plane.md. */
#include "fs/plane/internal.h"

#include "proto/base/cleanup.h"

/* The request: one digest a line ----------------------------------------------------------------- */

static bool take_line(struct plane_request *request, struct croft_error *err)
{
	if (request->digest_count == PLANE_BATCH)
		return croft_error_set(
			err, CROFT_OUT_OF_RANGE, "more than %d digests in one batch", PLANE_BATCH);
	if (!request->digests)
		request->digests = croft_array(PLANE_BATCH, sizeof(*request->digests));
	bool ok = croft_digest_parse(CROFT_SLICE(request->line, request->line_size),
		&request->digests[request->digest_count++], err);
	request->line_size = 0;
	return ok;
}

static bool take_lines(struct plane_request *request, struct croft_slice data,
	struct croft_error *err)
{
	const char *at = data.data, *end = at + data.size;
	while (at < end) {
		const char *feed = memchr(at, '\n', (size_t)(end - at));
		size_t size = (size_t)((feed ? feed : end) - at);
		if (request->line_size + size >= CROFT_DIGEST_TEXT)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT, "a line is no <sha256>-<size>");
		memcpy(request->line + request->line_size, at, size);
		request->line_size += size;
		if (!feed)
			return true;
		if (!take_line(request, err))
			return false;
		at = feed + 1;
	}
	return true;
}

/* The answer ------------------------------------------------------------------------------------- */

enum { STATUS_LINE = CROFT_DIGEST_TEXT + 8, GROUP = 256 };

static void write_line(struct plane_request *request, struct plane_buffer *buffer, int status)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(&request->digests[request->digest_at], '-', text);
	plane_print(buffer, "%s %d\n", text, status);
}

static bool is_hidden(const struct plane_request *request, size_t index)
{
	return request->hidden && request->hidden[index];
}

static bool next_digest(struct plane_request *request, struct plane_buffer *buffer,
	struct croft_error *err)
{
	const struct croft_digest *digest = &request->digests[request->digest_at];
	struct croft_error why = CROFT_ERROR_INIT;
	request->position = 0;
	request->blob = is_hidden(request, request->digest_at)
		? NULL
		: croft_store_open_blob(request->plane->config.store, digest, &why);
	if (!request->blob && why.code == CROFT_OK)
		croft_store_not_found(digest, &why);
	int status = request->blob ? 200 : plane_status_of(&why);
	write_line(request, buffer, status == 200 || status == 404 ? status : 500);
	if (!request->blob)
		request->digest_at++;
	return true;
}

static bool blob_bytes(struct plane_request *request, struct plane_buffer *buffer,
	struct croft_error *err)
{
	const struct croft_digest *digest = &request->digests[request->digest_at];
	size_t size = plane_room(buffer);
	if (size > digest->size_bytes - request->position)
		size = (size_t)(digest->size_bytes - request->position);
	ssize_t got = croft_store_blob_read(
		request->blob, buffer->data + buffer->end, size, request->position, err);
	if (got < 0 || (size_t)got < size)
		return false;
	buffer->end += size;
	request->position += size;
	if (request->position == digest->size_bytes) {
		croft_store_blob_close(request->blob);
		request->blob = NULL;
		request->digest_at++;
	}
	return true;
}

/* How many of the next are small and have room in the buffer together. */
static size_t group_size(const struct plane_request *request, const struct plane_buffer *buffer)
{
	size_t count = 0, room = plane_room(buffer);
	for (; request->digest_at + count < request->digest_count && count < GROUP; count++) {
		uint64_t size = request->digests[request->digest_at + count].size_bytes;
		if (size > PLANE_SMALL || STATUS_LINE + size > room || is_hidden(request, request->digest_at + count))
			break;
		room -= STATUS_LINE + (size_t)size;
	}
	return count;
}

struct group {
	struct plane_request *request;
	struct plane_buffer *buffer;
};

static void write_status(struct plane_request *request, struct plane_buffer *buffer,
	const struct croft_error *err)
{
	int status = err->code ? plane_status_of(err) : 200;
	write_line(request, buffer, status == 200 || status == 404 ? status : 500);
	request->digest_at++;
}

/* Behind its line, where it is sent from. */
static void *room_in_buffer(void *user, size_t index, const struct croft_error *err)
{
	struct group *group = user;
	struct plane_buffer *buffer = group->buffer;
	uint64_t size = group->request->digests[group->request->digest_at].size_bytes;
	write_status(group->request, buffer, err);
	void *room = buffer->data + buffer->end;
	buffer->end += err->code ? 0 : (size_t)size;
	return room;
}

/* Of one that cannot be read there is nothing but the line. */
static void write_one(struct plane_request *request, struct plane_buffer *buffer)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice data;
	struct croft_error err = CROFT_ERROR_INIT;
	bool ok = croft_store_get(request->plane->config.store, &request->digests[request->digest_at],
		arena, &data, &err);
	write_status(request, buffer, &err);
	if (!ok)
		return;
	memcpy(buffer->data + buffer->end, data.data, data.size);
	buffer->end += data.size;
}

/* Small blobs in a row come from the store at once. */
static void write_group(struct plane_request *request, struct plane_buffer *buffer, size_t count)
{
	CROFT_CLEANUP_FREE struct croft_error *errors = croft_array(count, sizeof(*errors));
	struct group group = {request, buffer};
	size_t first = request->digest_at, start = buffer->end;
	bool read = true;
	croft_store_read_many(request->plane->config.store, &request->digests[first], count,
		room_in_buffer, &group, errors);
	for (size_t i = 0; i < count; i++)
		read &= errors[i].code == CROFT_OK || errors[i].code == CROFT_NOT_FOUND;
	if (read)
		return;
	/* One turned out bad when it was read: all of them again, one by one. */
	request->digest_at = first;
	buffer->end = start;
	for (size_t i = 0; i < count; i++)
		write_one(request, buffer);
}

static bool produce(struct plane_request *request, struct plane_buffer *buffer,
	struct croft_error *err)
{
	while (request->digest_at < request->digest_count && plane_room(buffer) >= STATUS_LINE) {
		size_t group = request->blob ? 0 : group_size(request, buffer);
		if (group > 1)
			write_group(request, buffer, group);
		else if (!(request->blob ? blob_bytes : next_digest)(request, buffer, err))
			return false;
	}
	request->produced = request->digest_at == request->digest_count;
	return true;
}

/* What cannot be told to be visible is not. */
static void look_for_hidden(struct plane_request *request)
{
	struct croft_slice tenant = plane_tenant(request);
	struct croft_error err = CROFT_ERROR_INIT;
	if (!tenant.data)
		return;
	request->hidden = croft_array(request->digest_count + 1, sizeof(*request->hidden));
	bool ok = croft_store_visible(request->plane->config.store, tenant, request->digests, request->digest_count,
		request->hidden, &err);
	for (size_t i = 0; i < request->digest_count; i++)
		request->hidden[i] = !ok || !request->hidden[i];
}

static void answer(struct plane_request *request)
{
	look_for_hidden(request);
	request->chunked = request->head.minor_version == 1;
	request->close |= !request->chunked;
	request->produce = produce;
	plane_head(request, 200, "Content-Type: application/octet-stream\r\n%s",
		request->chunked ? "Transfer-Encoding: chunked\r\n" : "");
	plane_answer_begin(request);
}

/* What does not come is answered as missing. */
static void bring_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	const struct croft_plane_config *config = &request->plane->config;
	CROFT_CLEANUP_FREE bool *missing = croft_array(request->digest_count, sizeof(*missing));
	croft_upstream_find_missing(config->upstream, config->store, request->digests,
		request->digest_count, missing, NULL);
}

static void received(struct plane_request *request)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (request->line_size > 0 && !take_line(request, &err))
		plane_answer_error(request, &err);
	else if (request->plane->config.upstream && request->digest_count > 0)
		plane_request_work(request, bring_work, answer);
	else
		answer(request);
}

void plane_batch(struct plane_request *request)
{
	request->take = take_lines;
	request->finish = received;
	plane_body_begin(request);
}
