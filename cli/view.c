/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/view.h"

#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "google/longrunning/operations.pb-c.h"

#include <string.h>

enum { ACTION_MOST = 64 << 10 };

struct view {
	struct client *client;
	struct croft_arena *arena;
	struct croft_tree_source source;
	struct croft_digest input_root;
	const Reapi__ActionResult *result; /* NULL: it has none */
	struct croft_tree_builder *builder;
	struct croft_upload *upload;
};

/* The job ------------------------------------------------------------------------------------- */

/* A Directory's bytes are no Action: its entries are longer than the digests that stand there. */
static bool read_action(struct view *view, const struct croft_digest *digest, struct croft_error *err)
{
	struct croft_slice data;
	struct croft_digest command;
	if (digest->size_bytes > ACTION_MOST)
		return false;
	/* If it is a Directory, it need not be read again. */
	struct croft_tree_source source = croft_remote_tree_source(view->client->remote);
	if (!source.read(source.user, digest, view->arena, &data, err))
		return false;
	const Reapi__Action *action =
		croft_message_decode(&reapi__action__descriptor, data, view->arena, NULL, NULL);
	return action && action->command_digest && action->input_root_digest &&
		croft_digest_from_message(action->command_digest, "command", &command, NULL) &&
		croft_digest_from_message(action->input_root_digest, "input root", &view->input_root, NULL);
}

static bool ask_result(struct view *view, const char *method, const struct croft_digest *action,
	struct croft_error *err)
{
	Reapi__GetActionResultRequest request = REAPI__GET_ACTION_RESULT_REQUEST__INIT;
	request.instance_name = (char *)view->client->instance;
	request.action_digest = croft_digest_to_message(action, view->arena);
	struct croft_error failure = CROFT_ERROR_INIT;
	view->result = croft_remote_call(view->client->remote, method, &request.base,
		&reapi__action_result__descriptor, view->arena, &failure);
	if (view->result || failure.code == CROFT_NOT_FOUND || failure.code == CROFT_UNIMPLEMENTED)
		return true;
	*err = failure;
	return false;
}

static bool find_failure(struct view *view, const struct croft_digest *action, struct croft_error *err)
{
	return ask_result(view, "/croft.v1.Farm/GetFailedResult", action, err);
}

/* The cache's, or what is remembered of the last run that failed. */
static bool find_result(struct view *view, const struct croft_digest *action, struct croft_error *err)
{
	return ask_result(view, "/build.bazel.remote.execution.v2.ActionCache/GetActionResult", action, err) &&
		(view->result || find_failure(view, action, err));
}

static void *unpack(struct view *view, const Google__Protobuf__Any *any,
	const ProtobufCMessageDescriptor *type, struct croft_error *err)
{
	return any ? croft_message_decode(
			     type, CROFT_SLICE(any->value.data, any->value.len), view->arena, NULL, err)
		   : NULL;
}

static bool find_operation(struct view *view, const char *name, struct croft_digest *action,
	struct croft_error *err)
{
	Longrunning__GetOperationRequest request = LONGRUNNING__GET_OPERATION_REQUEST__INIT;
	struct croft_error failure = CROFT_ERROR_INIT;
	request.name = (char *)name;
	const Longrunning__Operation *operation = croft_remote_call(view->client->remote,
		"/google.longrunning.Operations/GetOperation", &request.base,
		&longrunning__operation__descriptor, view->arena, &failure);
	if (!operation && failure.code != CROFT_NOT_FOUND && failure.code != CROFT_INVALID_ARGUMENT)
		*err = failure;
	if (!operation)
		return false;
	const Reapi__ExecuteOperationMetadata *metadata =
		unpack(view, operation->metadata, &reapi__execute_operation_metadata__descriptor, err);
	const Reapi__ExecuteResponse *response = operation->done
		? unpack(view, operation->response, &reapi__execute_response__descriptor, err) : NULL;
	if (response)
		view->result = response->result;
	return metadata && croft_digest_from_message(metadata->action_digest, "the job's action", action, err);
}

/* The tree ------------------------------------------------------------------------------------ */

static bool add(struct view *view, const char *folder, const char *path,
	const struct croft_tree_entry *entry, struct croft_error *err)
{
	const char *place = *path ? croft_arena_printf(view->arena, "%s/%s", folder, path) : folder;
	return croft_tree_builder_add(view->builder, croft_slice_str(place), entry, err);
}

static bool add_file(struct view *view, const char *folder, const char *path,
	const Reapi__Digest *digest, bool executable, struct croft_error *err)
{
	struct croft_tree_entry entry = {.kind = CROFT_ENTRY_FILE, .executable = executable};
	return croft_digest_from_message(digest, path, &entry.digest, err) &&
		add(view, folder, path, &entry, err);
}

static bool put_message(struct view *view, const ProtobufCMessage *message,
	struct croft_digest *digest, struct croft_error *err)
{
	struct croft_slice bytes = croft_message_encode(message, view->arena);
	*digest = croft_digest_of(bytes.data, bytes.size);
	return croft_upload_bytes(view->upload, digest, bytes, err);
}

/* The messages inside a Tree are no blobs of their own. */
static bool put_tree(struct view *view, const Reapi__Digest *message, struct croft_digest *root,
	struct croft_error *err)
{
	struct croft_digest digest;
	struct croft_slice data;
	if (!croft_digest_from_message(message, "an output's Tree", &digest, err) ||
		!croft_remote_read(view->client->remote, &digest, view->arena, &data, err))
		return false;
	const Reapi__Tree *tree =
		croft_message_decode(&reapi__tree__descriptor, data, view->arena, NULL, err);
	if (!tree || !tree->root)
		return tree != NULL && croft_error_set(err, CROFT_DATA_LOSS, "a Tree without a root");
	for (size_t i = 0; i < tree->n_children; i++)
		if (!put_message(view, &tree->children[i]->base, &digest, err))
			return false;
	/* So that they can be read while the view is put together. */
	return put_message(view, &tree->root->base, root, err) &&
		croft_upload_flush(view->upload, NULL, err);
}

static bool add_directory(struct view *view, const Reapi__OutputDirectory *output, struct croft_error *err)
{
	struct croft_tree_entry entry = {.kind = CROFT_ENTRY_DIRECTORY};
	bool ok = output->root_directory_digest
		? croft_digest_from_message(output->root_directory_digest, output->path, &entry.digest, err)
		: put_tree(view, output->tree_digest, &entry.digest, err);
	return ok && add(view, "outputs", output->path, &entry, err);
}

static bool add_links(struct view *view, Reapi__OutputSymlink *const *links, size_t count,
	struct croft_error *err)
{
	bool ok = true;
	for (size_t i = 0; ok && i < count; i++) {
		struct croft_tree_entry entry = {
			.kind = CROFT_ENTRY_SYMLINK, .target = croft_slice_str(links[i]->target)};
		ok = add(view, "outputs", links[i]->path, &entry, err);
	}
	return ok;
}

static bool add_log(struct view *view, const char *name, const ProtobufCBinaryData *raw,
	const Reapi__Digest *message, struct croft_error *err)
{
	struct croft_digest digest = croft_digest_of(raw->data, raw->len);
	if (message)
		return add_file(view, name, "", message, false, err);
	return croft_upload_bytes(view->upload, &digest, CROFT_SLICE(raw->data, raw->len), err) &&
		add_file(view, name, "", croft_digest_to_message(&digest, view->arena), false, err);
}

static bool add_result(struct view *view, const Reapi__ActionResult *result, struct croft_error *err)
{
	bool ok = add_log(view, "stdout", &result->stdout_raw, result->stdout_digest, err) &&
		add_log(view, "stderr", &result->stderr_raw, result->stderr_digest, err);
	for (size_t i = 0; ok && i < result->n_output_files; i++)
		ok = add_file(view, "outputs", result->output_files[i]->path, result->output_files[i]->digest,
			result->output_files[i]->is_executable, err);
	for (size_t i = 0; ok && i < result->n_output_directories; i++)
		ok = add_directory(view, result->output_directories[i], err);
	/* Servers that are asked for it say links in two ways. */
	if (result->n_output_symlinks)
		return ok && add_links(view, result->output_symlinks, result->n_output_symlinks, err);
	return ok && add_links(view, result->output_file_symlinks, result->n_output_file_symlinks, err) &&
		add_links(view, result->output_directory_symlinks, result->n_output_directory_symlinks, err);
}

static bool emit(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	return croft_upload_bytes(((struct view *)user)->upload, digest, bytes, err);
}

static bool build(struct view *view, struct croft_digest *root, struct croft_error *err)
{
	struct croft_tree_entry inputs = {.kind = CROFT_ENTRY_DIRECTORY, .digest = view->input_root};
	view->source = croft_remote_tree_source(view->client->remote);
	view->builder = croft_tree_builder_create(&view->source);
	view->upload = croft_upload_create(view->client->remote);
	bool ok = add(view, "inputs", "", &inputs, err) &&
		(!view->result || add_result(view, view->result, err)) &&
		croft_tree_builder_finish(view->builder, emit, view, root, err) &&
		croft_upload_flush(view->upload, NULL, err);
	croft_upload_destroy(view->upload);
	croft_tree_builder_destroy(view->builder);
	return ok || croft_error_wrap(err, "showing the job as a tree");
}

bool view_of_action(struct client *client, const struct croft_digest *action, struct croft_digest *root,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct view view = {.client = client, .arena = arena};
	return read_action(&view, action, err) && find_result(&view, action, err) && build(&view, root, err);
}

bool view_of_failure(struct client *client, const struct croft_digest *action, struct croft_digest *root,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct view view = {.client = client, .arena = arena};
	return read_action(&view, action, err) && find_failure(&view, action, err) && view.result &&
		build(&view, root, err);
}

bool view_of_operation(struct client *client, const char *name, struct croft_digest *root,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct view view = {.client = client, .arena = arena};
	struct croft_digest action;
	if (!find_operation(&view, name, &action, err))
		return false;
	if (!read_action(&view, &action, err))
		return err->code != CROFT_OK ? croft_error_wrap(err, "reading the action of %s", name)
					     : croft_error_set(err, CROFT_DATA_LOSS, "%s: its action is no Action", name);
	return (view.result || find_result(&view, &action, err)) && build(&view, root, err);
}
