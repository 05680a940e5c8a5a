/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GetTree: breadth first, each distinct Directory once, in the bytes in which it was uploaded (so that
 * its digest is the one that its parent names, whatever encoder made it).
 *
 * A page token is the place in that order from which to go on. The order is that of the content alone,
 * but for directories that are missing now and there later, or the other way round.
 */
#include "sched/services/internal.h"

#include "fs/digest_map.h"
#include "proto/base/cleanup.h"

#include <inttypes.h>
#include <stdio.h>

enum { PAGE_BYTES = 1 << 20, PAGE_DIRECTORIES = 10000, TOKEN_HASH_BYTES = 8 };

struct traversal {
	struct croft_services *services;
	struct croft_slice tenant;
	struct croft_call *call;
	struct croft_digest root;
	struct croft_digest *queue;
	size_t count, room;
	struct croft_digest_map *seen;

	struct croft_arena *page_arena;
	ProtobufCMessageUnknownField *page;
	size_t page_count, page_bytes, page_size;
};

static void add(struct traversal *traversal, const struct croft_digest *digest)
{
	void **place = croft_digest_map_at(traversal->seen, digest);
	if (*place)
		return;
	*place = traversal;
	if (traversal->count == traversal->room) {
		traversal->room = traversal->room ? traversal->room * 2 : 64;
		traversal->queue =
			croft_realloc(traversal->queue, traversal->room, sizeof(*traversal->queue));
	}
	traversal->queue[traversal->count++] = *digest;
}

static bool add_children(struct traversal *traversal, const struct croft_digest *digest,
	struct croft_slice bytes, struct croft_arena *arena, struct croft_error *err)
{
	struct croft_digest child;
	const Reapi__Directory *directory =
		croft_message_decode(&reapi__directory__descriptor, bytes, arena, NULL, err);
	bool ok = directory != NULL;
	for (size_t i = 0; ok && i < directory->n_directories; i++) {
		ok = digest_read(directory->directories[i]->digest, directory->directories[i]->name, &child,
			err);
		if (ok)
			add(traversal, &child);
	}
	if (ok)
		return true;
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	/* A limit that a Directory breaks is the request's fault too: it named no Directory of use. */
	err->code = CROFT_INVALID_ARGUMENT;
	return croft_error_wrap(err, "%s is no Directory", text);
}

static bool send_page(struct traversal *traversal, size_t next, bool last, struct croft_error *err)
{
	Reapi__GetTreeResponse response = REAPI__GET_TREE_RESPONSE__INIT;
	/* The directories stand as fields that the encoder copies as they are. */
	response.base.n_unknown_fields = (unsigned)traversal->page_count;
	response.base.unknown_fields = traversal->page;
	if (!last) {
		char hash[CROFT_HASH_TEXT];
		croft_hash_format(traversal->root.hash, hash);
		response.next_page_token = croft_arena_printf(
			traversal->page_arena, "%zu-%.*s", next, 2 * TOKEN_HASH_BYTES, hash);
	}
	bool ok = croft_call_write(traversal->call, &response.base, err);
	croft_arena_reset(traversal->page_arena);
	traversal->page_count = traversal->page_bytes = 0;
	return ok;
}

/* Field `directories` of GetTreeResponse with these bytes. */
static void put_on_page(struct traversal *traversal, struct croft_slice bytes)
{
	enum { DIRECTORIES_TAG = 1, VARINT_MAX = 10 };
	uint8_t *data = croft_arena_alloc(traversal->page_arena, bytes.size + VARINT_MAX);
	size_t at = 0, left = bytes.size;
	for (; left > 0x7f; left >>= 7)
		data[at++] = (uint8_t)(left | 0x80);
	data[at++] = (uint8_t)left;
	if (bytes.size > 0)
		memcpy(data + at, bytes.data, bytes.size);
	traversal->page[traversal->page_count++] = (ProtobufCMessageUnknownField){
		DIRECTORIES_TAG, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, at + bytes.size, data};
	traversal->page_bytes += at + bytes.size;
}

/* False with code OK: the directory is not there. */
static bool read_directory(struct traversal *traversal, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *bytes, struct croft_error *err)
{
	*bytes = CROFT_SLICE(NULL, 0);
	if (croft_digest_is_empty(digest))
		return true;
	/* No Directory of more than a message's limit can be sent or used anywhere. */
	if (digest->size_bytes > croft_message_default_limits.wire_bytes)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"a Directory of %" PRIu64 " bytes is over the limit of %zu", digest->size_bytes,
			croft_message_default_limits.wire_bytes);
	struct croft_store *store = traversal->services->store;
	if (croft_store_check_visible(store, traversal->tenant, digest, err) &&
		croft_store_get(store, digest, arena, bytes, err))
		return true;
	if (traversal->services->upstream) {
		croft_upstream_bring(traversal->services->upstream, digest, 1);
		*err = CROFT_ERROR_INIT;
		if (croft_store_get(store, digest, arena, bytes, err))
			return true;
	}
	/* A blob that turned out to be damaged is as good as missing. */
	bool root = croft_digest_equal(digest, &traversal->root);
	if (!root && (err->code == CROFT_NOT_FOUND || err->code == CROFT_DATA_LOSS))
		*err = CROFT_ERROR_INIT;
	return false;
}

static bool walk(struct traversal *traversal, size_t start, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	add(traversal, &traversal->root);
	for (size_t at = 0; at < traversal->count; at++) {
		struct croft_digest digest = traversal->queue[at];
		struct croft_slice bytes;
		croft_arena_reset(arena);
		if (!read_directory(traversal, &digest, arena, &bytes, err)) {
			if (err->code != CROFT_OK)
				return false;
			continue;
		}
		if (!add_children(traversal, &digest, bytes, arena, err))
			return false;
		if (at < start)
			continue;
		bool full = traversal->page_count == traversal->page_size ||
			(traversal->page_count > 0 && traversal->page_bytes + bytes.size > PAGE_BYTES);
		if (full && !send_page(traversal, at, false, err))
			return false;
		put_on_page(traversal, bytes);
		if (croft_call_cancelled(traversal->call))
			return croft_error_set(err, CROFT_CANCELLED, "the client is gone");
	}
	if (start >= traversal->count)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "page_token: this tree has no such page");
	return send_page(traversal, 0, true, err);
}

static bool read_token(const char *token, const struct croft_digest *root, size_t *start,
	struct croft_error *err)
{
	char hash[CROFT_HASH_TEXT], *end;
	croft_hash_format(root->hash, hash);
	hash[2 * TOKEN_HASH_BYTES] = '\0';
	*start = 0;
	if (*token == '\0')
		return true;
	if (*token >= '0' && *token <= '9')
		*start = strtoul(token, &end, 10);
	return (*start > 0 && *end == '-' && strcmp(end + 1, hash) == 0) ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"page_token '%.80s' is not one that was given out for this root", token);
}

static bool get_tree(struct croft_call *call, void *user, struct croft_error *err)
{
	const Reapi__GetTreeRequest *request = croft_call_request(call);
	struct traversal traversal = {
		.services = user, .call = call, .tenant = tenant_of(user, request->instance_name)};
	size_t start;
	if (!digest_function_check(request->digest_function, err) ||
		!digest_read(request->root_digest, "root_digest", &traversal.root, err) ||
		!read_token(request->page_token, &traversal.root, &start, err))
		return false;
	if (request->page_size < 0)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "page_size %d is negative", request->page_size);
	traversal.page_size = request->page_size == 0 || request->page_size > PAGE_DIRECTORIES
		? PAGE_DIRECTORIES
		: (size_t)request->page_size;
	traversal.page = croft_array(traversal.page_size, sizeof(*traversal.page));
	traversal.page_arena = croft_arena_create();
	traversal.seen = croft_digest_map_create();
	bool ok = walk(&traversal, start, err);
	croft_digest_map_destroy(traversal.seen);
	croft_arena_destroy(traversal.page_arena);
	free(traversal.page);
	free(traversal.queue);
	return ok;
}

static const struct croft_rpc_method methods[] = {
	{"/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
		CROFT_RPC_SERVER_STREAM, &reapi__get_tree_request__descriptor,
		&reapi__get_tree_response__descriptor, get_tree, false},
};

void serve_get_tree(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
