/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An upstream that is an HTTP cache: GET, HEAD and PUT of /cas/<sha256> and /ac/<sha256>; or a bucket of an S3-like
 * store, where requests are signed. */
#include "fs/upstream/connection.h"
#include "fs/upstream/internal.h"
#include "fs/upstream/s3.h"
#include "proto/base/log.h"

#include <inttypes.h>
#include <stdio.h>

enum { CHUNK = 256 * 1024 };

struct link {
	struct croft_upstream *upstream;
	struct upstream_host *host;
	char *path; /* "" or "/some/where" */
	bool is_signed;
	struct s3_account account; /* where it is */
	bool was_forbidden;        /* atomic; said in the log */
};

static bool ask(struct link *link, struct upstream_request *request, const uint8_t *body_hash, int *status,
	struct croft_error *err)
{
	if (!link->is_signed) {
		request->fields = link->upstream->account_fields;
		return upstream_ask(link->host, request, status, err);
	}
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	request->fields = s3_sign(&link->account, &(struct s3_request){
		.method = request->method,
		.host = upstream_host_address(link->host),
		.target = request->path,
		.body_hash = body_hash,
		.at = time(NULL)}, arena);
	bool ok = upstream_ask(link->host, request, status, err);
	request->fields = NULL;
	return ok;
}

/* S3 says 403 of what is not there to who may not list the bucket, and of everything to who may not read. */
static bool is_missing(struct link *link, int status)
{
	if (status == 403 && !__atomic_exchange_n(&link->was_forbidden, true, __ATOMIC_RELAXED))
		croft_log(CROFT_LOG_WARNING, "upstream %s answers with 403: what it does not give counts as missing",
			link->upstream->url);
	return status == 404 || status == 410 || status == 403;
}

static bool refused(const struct link *link, const char *what, int status, struct croft_error *err)
{
	/* Too much asked for, or its own trouble: to be left alone for a while; else a refusal. */
	return croft_error_set(err,
		status >= 500 || status == 408 || status == 429 ? CROFT_UNAVAILABLE
														: CROFT_FAILED_PRECONDITION,
		"%s answered %s with %d", link->upstream->url, what, status);
}

static const char *path_of(const struct link *link, const char *instance_name, const char *kind,
	const uint8_t hash[CROFT_HASH_SIZE], struct croft_arena *arena)
{
	char text[CROFT_HASH_TEXT];
	croft_hash_format(hash, text);
	return croft_arena_printf(arena, "%s%s%s/%s/%s", link->path, instance_name[0] ? "/" : "",
		instance_name, kind, text);
}

/* Instance names become parts of paths; one that could not be read back the same stays at home. */
static bool is_plain(const struct link *link, const char *instance_name)
{
	if (link->is_signed && !s3_is_plain(instance_name))
		return false;
	for (const char *c = instance_name; *c; c++)
		if (*c <= ' ' || *c > '~' || strchr("%?#\\", *c))
			return false;
	return !strstr(instance_name, "..") && instance_name[0] != '/';
}

/* Fetching ------------------------------------------------------------------------------------- */

struct taking {
	struct croft_upstream *upstream;
	struct croft_digest digest;
	bool size_known;
	struct croft_store_writer *writer; /* large */
	char *data;                        /* small */
	uint64_t received;
	bool whole, wrong;
};

/* After the head: false when the body is of no use. */
static bool begin_taking(void *user, const struct upstream_answer *answer)
{
	struct taking *taking = user;
	if (answer->status != 200 || answer->is_coded || (!taking->size_known && !answer->has_length))
		return false;
	if (!taking->size_known)
		taking->digest.size_bytes = answer->length;
	taking->wrong = answer->has_length && answer->length != taking->digest.size_bytes;
	if (taking->wrong)
		return false;
	if (taking->digest.size_bytes <= UPSTREAM_SMALL)
		taking->data = croft_alloc((size_t)taking->digest.size_bytes + 1);
	else
		taking->writer = upstream_write(taking->upstream, &taking->digest);
	return taking->data || taking->writer;
}

static bool take(void *user, struct croft_slice piece)
{
	struct taking *taking = user;
	taking->wrong = piece.size > taking->digest.size_bytes - taking->received;
	if (taking->wrong)
		return false;
	if (taking->data)
		memcpy(taking->data + taking->received, piece.data, piece.size);
	else if (!croft_store_writer_append(taking->writer, piece.data, piece.size, NULL))
		return false;
	taking->received += piece.size;
	return true;
}

static bool get(struct link *link, struct taking *taking, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct upstream_request request = {
		.method = "GET",
		.path = path_of(link, "", "cas", taking->digest.hash, arena),
		.begin = begin_taking,
		.take = take,
		.user = taking,
	};
	taking->upstream = link->upstream;
	int status;
	if (!ask(link, &request, NULL, &status, err))
		return false;
	if (status != 200)
		return is_missing(link, status) || refused(link, "a GET", status, err);
	taking->whole = taking->received == taking->digest.size_bytes &&
		(taking->data || taking->writer);
	if (taking->wrong || (!taking->whole && (taking->data || taking->writer))) {
		struct croft_error wrong = CROFT_ERROR_INIT;
		croft_error_set(&wrong, CROFT_INVALID_ARGUMENT, "%s: a body of another size", request.path);
		upstream_lied(link->upstream, &wrong);
	}
	return true;
}

static bool fetch_large(struct link *link, struct taking *taking, struct croft_error *err)
{
	bool ok = get(link, taking, err);
	if (taking->writer && taking->whole)
		upstream_written(link->upstream, taking->writer, &taking->digest);
	else
		croft_store_writer_abort(taking->writer);
	if (taking->data && taking->whole)
		upstream_store(link->upstream, &taking->digest,
			&CROFT_SLICE(taking->data, taking->received), 1);
	free(taking->data);
	return ok;
}

static bool fetch(void *user, const struct croft_digest *digests, size_t count,
	struct croft_error *err)
{
	struct link *link = user;
	if (count == 1) {
		struct taking taking = {.digest = digests[0], .size_known = true};
		return fetch_large(link, &taking, err);
	}
	CROFT_CLEANUP_FREE struct croft_digest *found = croft_array(count, sizeof(*found));
	CROFT_CLEANUP_FREE struct croft_slice *data = croft_array(count, sizeof(*data));
	size_t good = 0;
	bool ok = true;
	for (size_t i = 0; ok && i < count; i++) {
		struct taking taking = {.digest = digests[i], .size_known = true};
		ok = get(link, &taking, err);
		if (taking.whole) {
			found[good] = digests[i];
			data[good++] = CROFT_SLICE(taking.data, taking.received);
		} else {
			free(taking.data);
		}
	}
	upstream_store(link->upstream, found, data, good);
	for (size_t i = 0; i < good; i++)
		free((void *)data[i].data);
	return ok;
}

static bool fetch_hash(void *user, const uint8_t hash[CROFT_HASH_SIZE], struct croft_error *err)
{
	struct taking taking = {0};
	memcpy(taking.digest.hash, hash, CROFT_HASH_SIZE);
	return fetch_large(user, &taking, err);
}

/* Sending -------------------------------------------------------------------------------------- */

static ssize_t give_blob(void *user, void *buffer, size_t size, uint64_t offset)
{
	return croft_store_blob_read(user, buffer, size, offset, NULL);
}

static bool put(struct link *link, struct upstream_request *request, const uint8_t *body_hash,
	struct croft_error *err)
{
	int status;
	request->method = "PUT";
	if (!ask(link, request, body_hash, &status, err))
		return false;
	return (status >= 200 && status < 300) || refused(link, "a PUT", status, err);
}

static bool send_one(struct link *link, const struct croft_digest *digest, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct upstream_request request = {
		.method = "HEAD", .path = path_of(link, "", "cas", digest->hash, arena)};
	int status;
	if (!ask(link, &request, NULL, &status, err))
		return false;
	if (status == 200)
		return true;
	struct croft_store_blob *blob = croft_store_open_blob(link->upstream->store, digest, NULL);
	if (!blob)
		return true; /* evicted: nobody wants it here, either */
	request.give = give_blob;
	request.user = blob;
	request.body_size = digest->size_bytes;
	bool ok = put(link, &request, digest->hash, err);
	croft_store_blob_close(blob);
	if (ok) {
		upstream_count(link->upstream, sent_blobs, 1);
		upstream_count(link->upstream, sent_bytes, digest->size_bytes);
	}
	return ok;
}

static bool send_blobs(void *user, const struct croft_digest *digests, size_t count,
	struct croft_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (!send_one(user, &digests[i], err))
			return false;
	return true;
}

/* Results -------------------------------------------------------------------------------------- */

struct reading {
	struct croft_arena *arena;
	char *data;
	size_t size, room;
};

static bool begin_reading(void *user, const struct upstream_answer *answer)
{
	return answer->status == 200 && !answer->is_coded &&
		(!answer->has_length || answer->length <= UPSTREAM_RESULT);
}

static bool read_piece(void *user, struct croft_slice piece)
{
	struct reading *reading = user;
	if (piece.size > UPSTREAM_RESULT - reading->size)
		return false;
	if (reading->size + piece.size > reading->room) {
		size_t room = 2 * (reading->size + piece.size);
		char *data = croft_arena_alloc(reading->arena, room);
		if (reading->size > 0)
			memcpy(data, reading->data, reading->size);
		reading->data = data;
		reading->room = room;
	}
	memcpy(reading->data + reading->size, piece.data, piece.size);
	reading->size += piece.size;
	return true;
}

static bool get_result(void *user, const char *instance_name, const struct croft_digest *action,
	struct croft_arena *arena, struct croft_slice *value, struct croft_error *err)
{
	struct link *link = user;
	struct reading reading = {.arena = arena};
	struct upstream_request request = {
		.method = "GET",
		.path = path_of(link, instance_name, "ac", action->hash, arena),
		.begin = begin_reading,
		.take = read_piece,
		.user = &reading,
	};
	int status;
	*value = CROFT_SLICE(NULL, 0);
	if (!is_plain(link, instance_name))
		return true;
	if (!ask(link, &request, NULL, &status, err))
		return false;
	if (status == 200 && request.complete)
		*value = CROFT_SLICE(reading.data ? reading.data : "", reading.size);
	return status == 200 || is_missing(link, status) || refused(link, "a GET", status, err);
}

static ssize_t give_value(void *user, void *buffer, size_t size, uint64_t offset)
{
	const struct croft_slice *value = user;
	size_t left = value->size - (size_t)offset;
	size = size < left ? size : left;
	memcpy(buffer, (const char *)value->data + offset, size);
	return (ssize_t)size;
}

static bool put_result(void *user, const char *instance_name, const struct croft_digest *action,
	struct croft_slice value, struct croft_error *err)
{
	struct link *link = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct upstream_request request = {
		.path = path_of(link, instance_name, "ac", action->hash, arena),
		.give = give_value,
		.user = &value,
		.body_size = value.size,
	};
	struct croft_digest digest = croft_digest_of(value.data, value.size);
	return !is_plain(link, instance_name) || put(link, &request, digest.hash, err);
}

/* ---------------------------------------------------------------------------------------------- */

static void destroy(void *user)
{
	struct link *link = user;
	upstream_host_destroy(link->host);
	s3_account_finish(&link->account);
	free(link->path);
	free(link);
}

/* http://HOST[:PORT][/PATH], https://… */
static bool reach(struct link *link, const char *url, struct croft_error *err)
{
	bool secret = strncmp(url, "https://", 8) == 0;
	if (!secret && strncmp(url, "http://", 7) != 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "'%s' is neither http:// nor https://", url);
	const struct croft_tls tls = {.authority_file = link->upstream->authority_file};
	const char *start = strstr(url, "://") + 3, *slash = strchr(start, '/');
	size_t size = slash ? (size_t)(slash - start) : strlen(start);
	link->path = croft_strdup(slash ? slash : "");
	for (size_t end = strlen(link->path); end > 0 && link->path[end - 1] == '/';)
		link->path[--end] = '\0';
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *host = croft_arena_printf(arena, "%.*s", (int)size, start);
	link->host = upstream_host_create(host, secret ? &tls : NULL, link->upstream->timeout_ms, err);
	return link->host != NULL;
}

static bool reach_bucket(struct link *link, const char *url, struct croft_error *err)
{
	const char *place = url + strlen("s3://");
	link->is_signed = true;
	if (!*place || *place == '/' || !s3_is_plain(place))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "'%s' is no s3://BUCKET[/PREFIX]", url);
	if (!s3_account_find(&link->account, err))
		return croft_error_wrap(err, "'%s'", url);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	return reach(link, s3_endpoint_url(url, link->account.region, arena), err);
}

static void *create(struct croft_upstream *upstream, const char *url, struct croft_error *err)
{
	struct link *link = croft_zalloc(sizeof(*link));
	link->upstream = upstream;
	if (strncmp(url, "s3://", 5) == 0 ? reach_bucket(link, url, err) : reach(link, url, err))
		return link;
	destroy(link);
	return NULL;
}

const struct upstream_kind upstream_http = {
	.create = create,
	.destroy = destroy,
	.fetch = fetch,
	.fetch_hash = fetch_hash,
	.send = send_blobs,
	.get_result = get_result,
	.put_result = put_result,
};
