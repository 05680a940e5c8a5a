/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Remote Asset: names for content, pushed by clients, or fetched from where that is allowed (origin.c).
 *
 * An asset is one record per URI: its key holds the kind (a blob and a directory of the same name are
 * two assets), the instance, the URI and all qualifiers, so that a fetch matches exactly what was
 * pushed. Its value is the time of the push (8 bytes, little endian, nanoseconds since 1970) and then
 * the FetchBlobResponse for it, which stands for directories too.
 */
#include "sched/services/internal.h"
#include "sched/services/origin.h"
#include "sched/services/unpack.h"

#include "fs/tree.h"
#include "proto/base/io.h"

#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"

#include <endian.h>
#include <stdlib.h>

enum asset_kind { ASSET_BLOB = 'B', ASSET_DIRECTORY = 'D' };

/* What the two kinds of requests have in common. */
struct names {
	enum asset_kind kind;
	const char *instance_name;
	char *const *uris;
	size_t uri_count;
	Asset__Qualifier **qualifiers; /* sorted by check_names */
	size_t qualifier_count;
	Reapi__DigestFunction__Value function;
};

static int compare_qualifiers(const void *a, const void *b)
{
	const Asset__Qualifier *first = *(Asset__Qualifier *const *)a;
	const Asset__Qualifier *second = *(Asset__Qualifier *const *)b;
	return strcmp(first->name, second->name);
}

static bool check_names(struct names *names, struct croft_arena *arena, struct croft_error *err)
{
	if (!digest_function_check(names->function, err))
		return false;
	if (names->uri_count == 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "at least one URI is needed");
	for (size_t i = 0; i < names->uri_count; i++)
		if (names->uris[i][0] == '\0')
			return croft_error_set(err, CROFT_INVALID_ARGUMENT, "a URI is empty");
	size_t count = names->qualifier_count;
	if (count == 0)
		return true;
	names->qualifiers = croft_arena_copy(arena, names->qualifiers, count * sizeof(void *));
	qsort(names->qualifiers, count, sizeof(void *), compare_qualifiers);
	for (size_t i = 0; i < count; i++) {
		if (names->qualifiers[i]->name[0] == '\0')
			return croft_error_set(err, CROFT_INVALID_ARGUMENT, "a qualifier has no name");
		if (i > 0 && compare_qualifiers(&names->qualifiers[i - 1], &names->qualifiers[i]) == 0)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"the qualifier '%.200s' is there twice", names->qualifiers[i]->name);
	}
	return true;
}

static char *append_text(char *at, const char *text)
{
	size_t size = strlen(text) + 1;
	memcpy(at, text, size);
	return at + size;
}

static struct croft_slice asset_key(const struct names *names, const char *uri,
	struct croft_arena *arena)
{
	size_t size = 1 + strlen(names->instance_name) + 1 + strlen(uri) + 1;
	for (size_t i = 0; i < names->qualifier_count; i++)
		size += strlen(names->qualifiers[i]->name) + strlen(names->qualifiers[i]->value) + 2;
	char *key = croft_arena_alloc(arena, size), *at = key;
	*at++ = (char)names->kind;
	at = append_text(at, names->instance_name);
	at = append_text(at, uri);
	for (size_t i = 0; i < names->qualifier_count; i++) {
		at = append_text(at, names->qualifiers[i]->name);
		at = append_text(at, names->qualifiers[i]->value);
	}
	return CROFT_SLICE(key, size);
}

/* Timestamps of years 1 to 9999 are valid; those that 64 bits of nanoseconds cannot hold are cut. */
static bool read_timestamp(const Google__Protobuf__Timestamp *timestamp, const char *what,
	int64_t *unix_ns, struct croft_error *err)
{
	if (timestamp->nanos < 0 || timestamp->nanos > 999999999)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: nanos %d is out of range", what,
			timestamp->nanos);
	if (__builtin_mul_overflow(timestamp->seconds, INT64_C(1000000000), unix_ns) ||
		__builtin_add_overflow(*unix_ns, (int64_t)timestamp->nanos, unix_ns))
		*unix_ns = timestamp->seconds < 0 ? INT64_MIN : INT64_MAX;
	return true;
}

static struct croft_slice record_of(const struct names *names, Reapi__Digest *content,
	Google__Protobuf__Timestamp *expires, struct croft_arena *arena)
{
	Asset__FetchBlobResponse response = ASSET__FETCH_BLOB_RESPONSE__INIT;
	response.qualifiers = names->qualifiers;
	response.n_qualifiers = names->qualifier_count;
	response.expires_at = expires;
	response.blob_digest = content;
	response.digest_function = REAPI__DIGEST_FUNCTION__VALUE__SHA256;
	struct croft_slice encoded = croft_message_encode(&response.base, arena);
	uint64_t pushed = htole64((uint64_t)croft_unix_ns());
	char *value = croft_arena_alloc(arena, sizeof(pushed) + encoded.size);
	memcpy(value, &pushed, sizeof(pushed));
	memcpy(value + sizeof(pushed), encoded.data, encoded.size);
	return CROFT_SLICE(value, sizeof(pushed) + encoded.size);
}

/* Fetch ---------------------------------------------------------------------------------------- */

/* An asset of that name, if it is young enough. False with code OK: there is none. */
static bool fetch_one(struct croft_services *services, const struct names *names, const char *uri,
	int64_t oldest_ns, struct croft_arena *arena, Asset__FetchBlobResponse **found,
	struct croft_error *err)
{
	struct croft_slice value, key = asset_key(names, uri, arena);
	int64_t pushed_ns = 0;
	if (!croft_store_record_get(services->store, CROFT_RECORD_ASSET, key, arena, &value, err) ||
		!croft_store_grant_record(services->store, tenant_of(services, names->instance_name),
			CROFT_RECORD_ASSET, key, err)) {
		if (err->code == CROFT_NOT_FOUND)
			*err = CROFT_ERROR_INIT;
		return false;
	}
	if (value.size >= sizeof(pushed_ns)) {
		memcpy(&pushed_ns, value.data, sizeof(pushed_ns));
		pushed_ns = (int64_t)le64toh((uint64_t)pushed_ns);
		*found = croft_message_decode(&asset__fetch_blob_response__descriptor,
			CROFT_SLICE((const char *)value.data + sizeof(pushed_ns),
				value.size - sizeof(pushed_ns)), arena, NULL, err);
	} else {
		croft_error_set(err, CROFT_DATA_LOSS, "its record is too short");
	}
	if (err->code != CROFT_OK) {
		err->code = CROFT_DATA_LOSS;
		return croft_error_wrap(err, "asset '%.200s'", uri);
	}
	return pushed_ns >= oldest_ns;
}

/* What a request says of the content that is to be fetched. */
struct wanted {
	const char *integrity; /* NULL: any bytes */
	const char *directory; /* below the root of what is unpacked; "": that root */
};

/* Only what we know: anything else might change what is meant. */
static bool read_qualifiers(const struct names *names, struct wanted *wanted, struct croft_error *err)
{
	*wanted = (struct wanted){NULL, ""};
	bool directory = names->kind == ASSET_DIRECTORY;
	for (size_t i = 0; i < names->qualifier_count; i++) {
		const Asset__Qualifier *qualifier = names->qualifiers[i];
		if (strcmp(qualifier->name, "checksum.sri") == 0)
			wanted->integrity = qualifier->value;
		else if (directory && strcmp(qualifier->name, "directory") == 0)
			wanted->directory = qualifier->value;
		else if (strcmp(qualifier->name, "bazel.canonical_id") != 0)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"the qualifier '%.100s' is not supported for what is fetched from its origin (by http, "
				"no version control): checksum.sri, bazel.canonical_id%s are", qualifier->name,
				directory ? " and directory" : "");
	}
	return true;
}

static bool read_directory(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	return croft_store_get(user, digest, arena, bytes, err);
}

/* From the archive, which it names, to the directory that is wanted of it. */
static bool unpack_directory(struct croft_services *services, struct croft_call *call,
	const struct wanted *wanted, struct croft_digest *digest, struct croft_error *err)
{
	struct croft_tree_source source = {read_directory, services->store};
	struct croft_tree_entry entry;
	if (!unpack(services->store, call, services->folder, digest, digest, err))
		return false;
	if (!*wanted->directory)
		return true;
	if (!croft_tree_lookup(&source, digest, croft_slice_str(wanted->directory), croft_call_arena(call), &entry, err))
		return croft_error_wrap(err, "the directory '%.100s' of the archive", wanted->directory);
	if (entry.kind != CROFT_ENTRY_DIRECTORY)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "'%.100s' is no directory of the archive", wanted->directory);
	*digest = entry.digest;
	return true;
}

/* From the first of the URIs that may be fetched and can be. It is an asset from then on, as if it had been
 * pushed. False with code OK: none may be fetched; otherwise the error is that of *failed. */
static bool fetch_from_origin(struct croft_services *services, struct croft_call *call,
	const struct names *names, uint64_t timeout_ms, Asset__FetchBlobResponse **found, char **failed,
	struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	struct origin_request request = {.timeout_ms = timeout_ms};
	struct wanted wanted;
	struct croft_digest digest;
	bool directory = names->kind == ASSET_DIRECTORY;
	size_t i = 0;
	for (; i < names->uri_count; i++) {
		request.uri = names->uris[i];
		if (!origins_allow(services->origins, request.uri))
			continue;
		*err = CROFT_ERROR_INIT;
		*failed = names->uris[i];
		if (!read_qualifiers(names, &wanted, err))
			return false;
		request.integrity = wanted.integrity;
		if (origin_fetch(services->origins, services->store, call, &request, &digest, err) &&
			(!directory || unpack_directory(services, call, &wanted, &digest, err)))
			break;
	}
	if (i == names->uri_count)
		return false;
	struct croft_ref ref = {directory ? CROFT_REF_DIRECTORY : CROFT_REF_BLOB, digest};
	Reapi__Digest *content = croft_digest_to_message(&digest, arena);
	struct croft_slice tenant = tenant_of(services, names->instance_name);
	if (!croft_store_record_put(services->store, CROFT_RECORD_ASSET, asset_key(names, request.uri, arena),
			record_of(names, content, NULL, arena), &ref, !croft_digest_is_empty(&digest), 0, err) ||
		!croft_store_grant_closure(services->store, tenant, &ref, !croft_digest_is_empty(&digest), err))
		return croft_error_wrap(err, "asset '%.200s'", request.uri);
	*found = croft_arena_alloc(arena, sizeof(**found));
	asset__fetch_blob_response__init(*found);
	(*found)->uri = names->uris[i];
	(*found)->blob_digest = content;
	(*found)->qualifiers = names->qualifiers;
	(*found)->n_qualifiers = names->qualifier_count;
	(*found)->digest_function = REAPI__DIGEST_FUNCTION__VALUE__SHA256;
	(*found)->status = status_message(NULL, arena);
	return true;
}

static uint64_t milliseconds(const Google__Protobuf__Duration *duration)
{
	if (!duration || duration->seconds < 0 || duration->nanos < 0)
		return 0;
	uint64_t seconds = duration->seconds < INT32_MAX ? (uint64_t)duration->seconds : INT32_MAX;
	uint64_t left = seconds * 1000 + (uint64_t)duration->nanos / 1000000;
	return left || (!duration->seconds && !duration->nanos) ? left : 1;
}

/* The asset, or a response whose status says that there is none. NULL: failed. */
static Asset__FetchBlobResponse *fetch(struct croft_services *services, struct croft_call *call,
	struct names *names, const Google__Protobuf__Timestamp *oldest,
	const Google__Protobuf__Duration *timeout, struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	Asset__FetchBlobResponse *found = NULL;
	int64_t oldest_ns = INT64_MIN;
	if (!check_names(names, arena, err) ||
		(oldest && !read_timestamp(oldest, "oldest_content_accepted", &oldest_ns, err)))
		return NULL;
	for (size_t i = 0; i < names->uri_count; i++) {
		if (fetch_one(services, names, names->uris[i], oldest_ns, arena, &found, err)) {
			found->uri = names->uris[i];
			found->status = status_message(NULL, arena);
			return found;
		}
		if (err->code != CROFT_OK)
			return NULL;
	}
	struct croft_error missing = CROFT_ERROR_INIT;
	char *failed = names->uris[0];
	if (fetch_from_origin(services, call, names, milliseconds(timeout), &found, &failed, &missing))
		return found;
	if (missing.code == CROFT_OK)
		croft_error_set(&missing, CROFT_NOT_FOUND,
			"no such asset was pushed, or not all of it is in the store any more, and this server fetches nothing "
			"from there by itself (croft serve --asset-origin): '%.300s'", names->uris[0]);
	found = croft_arena_alloc(arena, sizeof(*found));
	asset__fetch_blob_response__init(found);
	found->status = status_message(&missing, arena);
	found->uri = failed;
	return found;
}

static bool fetch_blob(struct croft_call *call, void *user, struct croft_error *err)
{
	const Asset__FetchBlobRequest *request = croft_call_request(call);
	struct names names = {ASSET_BLOB, request->instance_name, request->uris, request->n_uris,
		request->qualifiers, request->n_qualifiers, request->digest_function};
	Asset__FetchBlobResponse *response =
		fetch(user, call, &names, request->oldest_content_accepted, request->timeout, err);
	return response && croft_call_write(call, &response->base, err);
}

static bool fetch_directory(struct croft_call *call, void *user, struct croft_error *err)
{
	const Asset__FetchDirectoryRequest *request = croft_call_request(call);
	struct names names = {ASSET_DIRECTORY, request->instance_name, request->uris, request->n_uris,
		request->qualifiers, request->n_qualifiers, request->digest_function};
	const Asset__FetchBlobResponse *found =
		fetch(user, call, &names, request->oldest_content_accepted, request->timeout, err);
	if (!found)
		return false;
	Asset__FetchDirectoryResponse response = ASSET__FETCH_DIRECTORY_RESPONSE__INIT;
	response.status = found->status;
	response.uri = found->uri;
	response.n_qualifiers = found->n_qualifiers;
	response.qualifiers = found->qualifiers;
	response.expires_at = found->expires_at;
	response.root_directory_digest = found->blob_digest;
	response.digest_function = found->digest_function;
	return croft_call_write(call, &response.base, err);
}

/* Push ----------------------------------------------------------------------------------------- */

struct references {
	struct croft_ref *refs;
	size_t count;
};

static bool add_reference(struct references *references, enum croft_ref_kind kind,
	const Reapi__Digest *message, const char *what, struct croft_error *err)
{
	struct croft_digest digest;
	if (!digest_read(message, what, &digest, err))
		return false;
	if (!croft_digest_is_empty(&digest))
		references->refs[references->count++] = (struct croft_ref){kind, digest};
	return true;
}

static bool add_references(struct references *references, enum croft_ref_kind kind,
	Reapi__Digest *const *messages, size_t count, const char *what, struct croft_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (!add_reference(references, kind, messages[i], what, err))
			return false;
	return true;
}

static bool push(struct croft_services *services, struct croft_call *call, struct names *names,
	Reapi__Digest *content, Google__Protobuf__Timestamp *expires,
	const struct references *references, struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	struct croft_digest *missing;
	size_t missing_count;
	int64_t expires_ns = 0;
	if (expires && !read_timestamp(expires, "expire_at", &expires_ns, err))
		return false;
	/* 0 would mean never; the first nanosecond of 1970 is as past as that second is. */
	if (expires && expires_ns <= 0)
		expires_ns = 1;
	if (!croft_store_hidden(services->store, tenant_of(services, names->instance_name), references->refs,
			references->count, arena, &missing, &missing_count, err) ||
		(missing_count == 0 && !croft_store_lease_closure(services->store, references->refs,
			references->count, 0, arena, &missing, &missing_count, err)))
		return false;
	if (missing_count > 0)
		return fail_missing(call, "the asset", missing, missing_count, err);
	struct croft_slice value = record_of(names, content, expires, arena);
	for (size_t i = 0; i < names->uri_count; i++)
		if (!croft_store_record_put(services->store, CROFT_RECORD_ASSET,
				asset_key(names, names->uris[i], arena), value, references->refs,
				references->count, expires_ns, err))
			return croft_error_wrap(err, "asset '%.200s'", names->uris[i]);
	return true;
}

static bool push_blob(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	const Asset__PushBlobRequest *request = croft_call_request(call);
	struct names names = {ASSET_BLOB, request->instance_name, request->uris, request->n_uris,
		request->qualifiers, request->n_qualifiers, request->digest_function};
	size_t most = 1 + request->n_references_blobs + request->n_references_directories;
	struct references references = {croft_arena_array(arena, most, sizeof(struct croft_ref)), 0};
	Asset__PushBlobResponse response = ASSET__PUSH_BLOB_RESPONSE__INIT;
	return check_names(&names, arena, err) &&
		add_reference(&references, CROFT_REF_BLOB, request->blob_digest, "blob_digest", err) &&
		add_references(&references, CROFT_REF_BLOB, request->references_blobs,
			request->n_references_blobs, "references_blobs", err) &&
		add_references(&references, CROFT_REF_DIRECTORY, request->references_directories,
			request->n_references_directories, "references_directories", err) &&
		push(user, call, &names, request->blob_digest, request->expire_at, &references, err) &&
		croft_call_write(call, &response.base, err);
}

static bool push_directory(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	const Asset__PushDirectoryRequest *request = croft_call_request(call);
	struct names names = {ASSET_DIRECTORY, request->instance_name, request->uris, request->n_uris,
		request->qualifiers, request->n_qualifiers, request->digest_function};
	size_t most = 1 + request->n_references_blobs + request->n_references_directories;
	struct references references = {croft_arena_array(arena, most, sizeof(struct croft_ref)), 0};
	Asset__PushDirectoryResponse response = ASSET__PUSH_DIRECTORY_RESPONSE__INIT;
	return check_names(&names, arena, err) &&
		add_reference(&references, CROFT_REF_DIRECTORY, request->root_directory_digest,
			"root_directory_digest", err) &&
		add_references(&references, CROFT_REF_BLOB, request->references_blobs,
			request->n_references_blobs, "references_blobs", err) &&
		add_references(&references, CROFT_REF_DIRECTORY, request->references_directories,
			request->n_references_directories, "references_directories", err) &&
		push(user, call, &names, request->root_directory_digest, request->expire_at, &references,
			err) &&
		croft_call_write(call, &response.base, err);
}

#define FETCH "/build.bazel.remote.asset.v1.Fetch/"
#define PUSH "/build.bazel.remote.asset.v1.Push/"

static const struct croft_rpc_method methods[] = {
	{FETCH "FetchBlob", CROFT_RPC_UNARY, &asset__fetch_blob_request__descriptor,
		&asset__fetch_blob_response__descriptor, fetch_blob, false},
	{FETCH "FetchDirectory", CROFT_RPC_UNARY, &asset__fetch_directory_request__descriptor,
		&asset__fetch_directory_response__descriptor, fetch_directory, false},
	{PUSH "PushBlob", CROFT_RPC_UNARY, &asset__push_blob_request__descriptor,
		&asset__push_blob_response__descriptor, push_blob, false},
	{PUSH "PushDirectory", CROFT_RPC_UNARY, &asset__push_directory_request__descriptor,
		&asset__push_directory_response__descriptor, push_directory, false},
};

void serve_assets(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
