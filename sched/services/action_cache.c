/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/action_result.h"
#include "sched/services/internal.h"

/* Bytes of outputs and logs put into one answer; what is over is left to be read from the store. */
enum { INLINE_BYTES = 2 << 20 };

/* The record's key: instance name, NUL, action hash. */
static struct croft_slice action_key(const char *instance_name, const struct croft_digest *action,
	struct croft_arena *arena)
{
	char hash[CROFT_HASH_TEXT];
	croft_hash_format(action->hash, hash);
	size_t instance_size = strlen(instance_name);
	char *key = croft_arena_alloc(arena, instance_size + 1 + sizeof(hash));
	memcpy(key, instance_name, instance_size + 1);
	memcpy(key + instance_size + 1, hash, sizeof(hash));
	return CROFT_SLICE(key, instance_size + 1 + sizeof(hash) - 1);
}

/* GetActionResult ------------------------------------------------------------------------------ */

struct inlining {
	struct croft_store *store;
	struct croft_arena *arena;
	uint64_t left;
};

static bool put_in(struct inlining *inlining, const Reapi__Digest *message,
	ProtobufCBinaryData *field, struct croft_error *err)
{
	struct croft_digest digest;
	struct croft_slice data;
	if (field->len > 0 || !message)
		return true;
	if (!croft_digest_from_message(message, "output", &digest, err))
		return false;
	if (croft_digest_is_empty(&digest) || digest.size_bytes > inlining->left)
		return true;
	if (!croft_store_get(inlining->store, &digest, inlining->arena, &data, err))
		return false;
	inlining->left -= data.size;
	*field = (ProtobufCBinaryData){data.size, (uint8_t *)data.data};
	return true;
}

static bool is_asked_for(const Reapi__GetActionResultRequest *request, const char *path)
{
	for (size_t i = 0; i < request->n_inline_output_files; i++)
		if (strcmp(request->inline_output_files[i], path) == 0)
			return true;
	return false;
}

static bool put_in_what_is_asked_for(struct inlining *inlining,
	const Reapi__GetActionResultRequest *request, Reapi__ActionResult *result,
	struct croft_error *err)
{
	if (request->inline_stdout &&
		!put_in(inlining, result->stdout_digest, &result->stdout_raw, err))
		return false;
	if (request->inline_stderr &&
		!put_in(inlining, result->stderr_digest, &result->stderr_raw, err))
		return false;
	for (size_t i = 0; request->n_inline_output_files > 0 && i < result->n_output_files; i++) {
		Reapi__OutputFile *file = result->output_files[i];
		if (is_asked_for(request, file->path) &&
			!put_in(inlining, file->digest, &file->contents, err))
			return false;
	}
	return true;
}

static Reapi__ActionResult *decode_stored(const Reapi__GetActionResultRequest *request,
	struct croft_slice value, struct croft_arena *arena, struct croft_error *err)
{
	Reapi__ActionResult *result =
		croft_message_decode(&reapi__action_result__descriptor, value, arena, NULL, err);
	if (!result) {
		err->code = CROFT_DATA_LOSS;
		croft_error_wrap(err, "the stored result of action %s", request->action_digest->hash);
	}
	return result;
}

/* From the store; failing that, from the upstream. */
static bool look_up(struct croft_services *services, const char *instance_name,
	const struct croft_digest *action, struct croft_arena *arena, struct croft_slice *value,
	struct croft_error *err)
{
	struct croft_slice key = action_key(instance_name, action, arena);
	if (croft_store_record_get(services->store, CROFT_RECORD_ACTION, key, arena, value, err))
		return true;
	if (!services->upstream || err->code != CROFT_NOT_FOUND)
		return false;
	croft_upstream_bring_result(services->upstream, instance_name, action);
	*err = CROFT_ERROR_INIT;
	return croft_store_record_get(services->store, CROFT_RECORD_ACTION, key, arena, value, err);
}

static bool no_result(const struct croft_digest *action, struct croft_error *err)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(action, '/', text);
	return croft_error_wrap(err, "the result of action %s", text);
}

static bool get_action_result(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__GetActionResultRequest *request = croft_call_request(call);
	struct croft_digest action;
	struct croft_slice value;
	if (!digest_function_check(request->digest_function, err) ||
		!digest_read(request->action_digest, "action_digest", &action, err))
		return false;
	if (!look_up(services, request->instance_name, &action, arena, &value, err))
		return no_result(&action, err);
	Reapi__ActionResult *result = decode_stored(request, value, arena, err);
	if (!result ||
		!croft_store_grant_record(services->store, tenant_of(services, request->instance_name),
			CROFT_RECORD_ACTION, action_key(request->instance_name, &action, arena), err))
		return false;
	struct inlining inlining = {services->store, arena, INLINE_BYTES};
	return put_in_what_is_asked_for(&inlining, request, result, err) &&
		croft_call_write(call, &result->base, err);
}

/* GetFailedResult, of our own ------------------------------------------------------------------- */

static bool get_failed_result(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__GetActionResultRequest *request = croft_call_request(call);
	struct croft_digest action;
	struct croft_slice value;
	if (!digest_function_check(request->digest_function, err) ||
		!digest_read(request->action_digest, "action_digest", &action, err))
		return false;
	struct croft_slice key = action_key(request->instance_name, &action, arena);
	if (!croft_store_record_get(services->store, CROFT_RECORD_FAILURE, key, arena, &value, err) ||
		!croft_store_grant_record(services->store, tenant_of(services, request->instance_name),
			CROFT_RECORD_FAILURE, key, err))
		return false;
	Reapi__ActionResult *result = decode_stored(request, value, arena, err);
	return result && croft_call_write(call, &result->base, err);
}

/* UpdateActionResult --------------------------------------------------------------------------- */

/* Inlined bytes become a blob: a result in the cache holds digests only. */
static bool take_out(struct croft_services *services, struct croft_slice tenant, const char *what,
	ProtobufCBinaryData *field, Reapi__Digest **message, struct croft_arena *arena, struct croft_error *err)
{
	struct croft_digest digest = croft_digest_of(field->data, field->len), declared;
	if (field->len == 0)
		return true;
	if (*message) {
		if (!digest_read(*message, what, &declared, err))
			return false;
		if (!croft_digest_equal(&digest, &declared))
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"%s: the inlined bytes are not those of the digest", what);
	}
	if (!croft_store_put(services->store, &digest, CROFT_SLICE(field->data, field->len), err) ||
		!croft_store_grant(services->store, tenant, &digest, 1, err))
		return false;
	croft_upstream_send(services->upstream, &digest, 1);
	*message = croft_digest_to_message(&digest, arena);
	*field = (ProtobufCBinaryData){0, NULL};
	return true;
}

static bool check_path(const char *path, bool may_be_empty, const char *what,
	struct croft_error *err)
{
	if (*path == '/' || (*path == '\0' && !may_be_empty))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s '%.200s': the path must be relative%s", what, path,
			may_be_empty ? "" : " and not empty");
	return true;
}

static bool check_links(Reapi__OutputSymlink *const *links, size_t count, struct croft_error *err)
{
	for (size_t i = 0; i < count; i++) {
		if (!check_path(links[i]->path, false, "output symlink", err))
			return false;
		if (links[i]->target[0] == '\0')
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"output symlink '%.200s' has no target", links[i]->path);
	}
	return true;
}

static bool check_result(struct croft_services *services, struct croft_slice tenant, Reapi__ActionResult *result,
	struct croft_arena *arena, struct croft_error *err)
{
	for (size_t i = 0; i < result->n_output_files; i++) {
		Reapi__OutputFile *file = result->output_files[i];
		if (!check_path(file->path, false, "output file", err) ||
			!take_out(services, tenant, "output file", &file->contents, &file->digest, arena, err))
			return false;
	}
	for (size_t i = 0; i < result->n_output_directories; i++)
		if (!check_path(result->output_directories[i]->path, true, "output directory", err))
			return false;
	return check_links(result->output_symlinks, result->n_output_symlinks, err) &&
		check_links(result->output_file_symlinks, result->n_output_file_symlinks, err) &&
		check_links(result->output_directory_symlinks, result->n_output_directory_symlinks, err) &&
		take_out(services, tenant, "stdout", &result->stdout_raw, &result->stdout_digest, arena, err) &&
		take_out(services, tenant, "stderr", &result->stderr_raw, &result->stderr_digest, arena, err);
}

static bool update_action_result(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__UpdateActionResultRequest *request = croft_call_request(call);
	Reapi__ActionResult *result = request->action_result;
	struct croft_digest action, *missing;
	struct croft_ref *refs;
	size_t count, missing_count;
	if (!digest_function_check(request->digest_function, err) ||
		!digest_read(request->action_digest, "action_digest", &action, err))
		return false;
	if (!result)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the request has no action_result");
	struct croft_slice tenant = tenant_of(services, request->instance_name);
	if (!check_result(services, tenant, result, arena, err) ||
		!croft_action_result_refs(result, arena, &refs, &count, err) ||
		!croft_store_hidden(services->store, tenant, refs, count, arena, &missing, &missing_count, err))
		return false;
	/* Only then: what is missing below somebody else's directory would tell of that. */
	if (missing_count == 0 && !croft_upstream_lease_closure(services->upstream, services->store, refs, count, 0,
			arena, &missing, &missing_count, err))
		return false;
	if (missing_count > 0)
		return fail_missing(call, "the ActionResult", missing, missing_count, err);
	struct croft_slice value = croft_message_encode(&result->base, arena);
	if (!croft_store_record_put(services->store, CROFT_RECORD_ACTION,
			action_key(request->instance_name, &action, arena), value, refs, count, 0, err))
		return false;
	if (request->results_cache_policy)
		croft_action_result_prefer(services->store, request->results_cache_policy->priority, refs, count);
	croft_upstream_send_result(services->upstream, request->instance_name, &action, value);
	return croft_call_write(call, &result->base, err);
}

#define ACTION_CACHE "/build.bazel.remote.execution.v2.ActionCache/"

static const struct croft_rpc_method methods[] = {
	{ACTION_CACHE "GetActionResult", CROFT_RPC_UNARY, &reapi__get_action_result_request__descriptor,
		&reapi__action_result__descriptor, get_action_result, false},
	{ACTION_CACHE "UpdateActionResult", CROFT_RPC_UNARY,
		&reapi__update_action_result_request__descriptor, &reapi__action_result__descriptor,
		update_action_result, false},
	{"/croft.v1.Farm/GetFailedResult", CROFT_RPC_UNARY, &reapi__get_action_result_request__descriptor,
		&reapi__action_result__descriptor, get_failed_result, false},
};

void serve_action_cache(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
