/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/result.h"

#include "cli/output.h"
#include "cli/ref.h"
#include "cli/unload.h"
#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include <inttypes.h>
#include <string.h>

static const void *find_account(const Reapi__ExecutedActionMetadata *metadata,
	const ProtobufCMessageDescriptor *kind, struct croft_arena *arena)
{
	for (size_t i = 0; metadata && i < metadata->n_auxiliary_metadata; i++) {
		const Google__Protobuf__Any *any = metadata->auxiliary_metadata[i];
		const char *slash = strrchr(any->type_url, '/');
		if (!strcmp(slash ? slash + 1 : any->type_url, kind->name))
			return croft_message_decode(
				kind, CROFT_SLICE(any->value.data, any->value.len), arena, NULL, NULL);
	}
	return NULL;
}

const void *result_account(const Reapi__ActionResult *result, const ProtobufCMessageDescriptor *kind,
	struct croft_arena *arena)
{
	return find_account(result->execution_metadata, kind, arena);
}

static void add_output(struct result *result, const char *path, struct croft_tree_entry entry)
{
	result->outputs[result->output_count++] = (struct result_output){path, entry};
}

static void read_outputs(struct result *result, struct croft_arena *arena)
{
	const Reapi__ActionResult *from = result->action_result;
	result->outputs = croft_arena_array(arena,
		from->n_output_files + from->n_output_directories + from->n_output_symlinks,
		sizeof(*result->outputs));
	for (size_t i = 0; i < from->n_output_files; i++) {
		const Reapi__OutputFile *file = from->output_files[i];
		struct croft_tree_entry entry = {
			.kind = CROFT_ENTRY_FILE, .executable = file->is_executable};
		if (croft_digest_from_message(file->digest, file->path, &entry.digest, NULL))
			add_output(result, file->path, entry);
	}
	for (size_t i = 0; i < from->n_output_directories; i++) {
		const Reapi__OutputDirectory *directory = from->output_directories[i];
		struct croft_tree_entry entry = {.kind = CROFT_ENTRY_DIRECTORY};
		if (croft_digest_from_message(directory->root_directory_digest, directory->path,
			    &entry.digest, NULL))
			add_output(result, directory->path, entry);
	}
	for (size_t i = 0; i < from->n_output_symlinks; i++) {
		const Reapi__OutputSymlink *symlink = from->output_symlinks[i];
		add_output(result, symlink->path,
			(struct croft_tree_entry){.kind = CROFT_ENTRY_SYMLINK,
				.target = croft_slice_str(symlink->target)});
	}
}

void result_read(struct result *result, const struct follow_result *followed, const struct job *job,
	struct croft_arena *arena)
{
	const Reapi__ExecuteResponse *response = followed->response;
	const Reapi__ExecutedActionMetadata *metadata = response->result->execution_metadata;
	result->operation = followed->operation;
	result->message = response->message;
	result->action_result = response->result;
	result->cached = response->cached_result;
	result->exit_code = response->result->exit_code & 0xff;
	if (response->result->exit_code && !result->exit_code)
		result->exit_code = 1; /* a failure that eight bits would hide */
	result->agent = metadata ? metadata->worker : "";
	result->inputs = find_account(metadata, &farm__input_account__descriptor, arena);
	result->sandbox = find_account(metadata, &farm__sandbox_account__descriptor, arena);
	result->action = job->action_digest;
	result->input_root = job->input_root;
	result->uploaded = job->uploaded;
	result->working_directory = job->working_directory;
	read_outputs(result, arena);
}

/* For people ---------------------------------------------------------------------------------- */

static void print_inputs(const Farm__InputAccount *inputs, FILE *out)
{
	char all[SIZE_TEXT], fetched[SIZE_TEXT], ahead[SIZE_TEXT], wasted[SIZE_TEXT], touched[SIZE_TEXT];
	fprintf(out, "  inputs   %" PRIu64 " files, %s; fetched %" PRIu64 " files, %s", inputs->input_files,
		format_size(inputs->input_bytes, all), inputs->fetched_files,
		format_size(inputs->fetched_bytes, fetched));
	if (inputs->input_bytes)
		fprintf(out, " (%.1f %%)",
			100.0 * (double)inputs->fetched_bytes / (double)inputs->input_bytes);
	fputc('\n', out);
	if (inputs->prefetched_files)
		fprintf(out, "           fetched ahead %" PRIu64 " files, %s, of it for nothing %s\n",
			inputs->prefetched_files, format_size(inputs->prefetched_bytes, ahead),
			format_size(inputs->wasted_bytes, wasted));
	if (inputs->touched_files)
		fprintf(out, "           opened %" PRIu64 " files, which have %s (`croft inputs` says which not)\n",
			inputs->touched_files, format_size(inputs->touched_bytes, touched));
}

static void print_output(const struct result_output *output, FILE *out)
{
	char digest[CROFT_DIGEST_TEXT];
	fputs("  output   ", out);
	print_name(croft_slice_str(output->path), out);
	if (output->entry.kind == CROFT_ENTRY_SYMLINK) {
		fputs(" -> ", out);
		print_name(output->entry.target, out);
		fputc('\n', out);
		return;
	}
	croft_digest_format(&output->entry.digest, '-', digest);
	fprintf(out, "%s %s\n", output->entry.kind == CROFT_ENTRY_DIRECTORY ? "/" : "", digest);
}

void result_print(const struct result *result, FILE *out)
{
	char duration[SIZE_TEXT];
	format_duration(result->wall_ms, duration);
	fprintf(out, "croft run: exit status %d, ", result->exit_code);
	if (result->cached)
		fprintf(out, "from the cache, %s\n", duration);
	else
		fprintf(out, "%s%s%s\n", duration, *result->agent ? " on " : "", result->agent);
	if (*result->message)
		fprintf(out, "  note     %s\n", result->message);
	if (result->inputs && !result->cached)
		print_inputs(result->inputs, out);
	for (size_t i = 0; i < result->output_count; i++)
		print_output(&result->outputs[i], out);
}

/* For programs -------------------------------------------------------------------------------- */

static double milliseconds_between(const Google__Protobuf__Timestamp *from,
	const Google__Protobuf__Timestamp *to)
{
	if (!from || !to)
		return 0;
	return (double)(to->seconds - from->seconds) * 1e3 + (double)(to->nanos - from->nanos) / 1e6;
}

static json_t *json_times(const struct result *result)
{
	const Reapi__ExecutedActionMetadata *times = result->action_result->execution_metadata;
	json_t *json = json_pack("{s:I, s:I}", "total", (json_int_t)result->wall_ms, "upload",
		(json_int_t)result->upload_ms);
	if (!times)
		return json;
	const struct {
		const char *name;
		const Google__Protobuf__Timestamp *from, *to;
	} spans[] = {
		{"queued", times->queued_timestamp, times->worker_start_timestamp},
		{"inputs", times->input_fetch_start_timestamp, times->input_fetch_completed_timestamp},
		{"execution", times->execution_start_timestamp, times->execution_completed_timestamp},
		{"outputs", times->output_upload_start_timestamp, times->output_upload_completed_timestamp},
		{"worker", times->worker_start_timestamp, times->worker_completed_timestamp},
	};
	for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++)
		json_object_set_new(json, spans[i].name,
			json_real(milliseconds_between(spans[i].from, spans[i].to)));
	return json;
}

static json_t *json_inputs(const Farm__InputAccount *inputs)
{
	const struct {
		const char *name;
		uint64_t value;
	} counts[] = {
		{"files", inputs->input_files},
		{"bytes", inputs->input_bytes},
		{"fetched_files", inputs->fetched_files},
		{"fetched_bytes", inputs->fetched_bytes},
		{"prefetched_files", inputs->prefetched_files},
		{"prefetched_bytes", inputs->prefetched_bytes},
		{"wasted_bytes", inputs->wasted_bytes},
		{"touched_files", inputs->touched_files},
		{"touched_bytes", inputs->touched_bytes},
		{"stall_ms", inputs->stall_ms},
	};
	json_t *json = json_object();
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		json_object_set_new(json, counts[i].name, json_integer((json_int_t)counts[i].value));
	return json;
}

static json_t *json_names(char *const *names, size_t count)
{
	json_t *list = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_bytes(croft_slice_str(names[i])));
	return list;
}

static json_t *json_sandbox(const Farm__SandboxAccount *account)
{
	json_t *json = json_pack("{s:o, s:I, s:I, s:I, s:I, s:b, s:I, s:I}", "end",
		json_bytes(croft_slice_str(account->end)), "wall_us", (json_int_t)account->wall_us, "user_us",
		(json_int_t)account->user_us, "system_us", (json_int_t)account->system_us,
		"peak_memory_bytes", (json_int_t)account->peak_memory_bytes, "memory_measured",
		account->memory_measured, "read_bytes", (json_int_t)account->read_bytes, "written_bytes",
		(json_int_t)account->written_bytes);
	json_object_set_new(json, "enforced", json_names(account->enforced, account->n_enforced));
	json_object_set_new(
		json, "not_enforced", json_names(account->not_enforced, account->n_not_enforced));
	json_t *denied = json_array();
	for (size_t i = 0; i < account->n_denied; i++)
		json_array_append_new(denied,
			json_pack("{s:o, s:I, s:o}", "call", json_bytes(croft_slice_str(account->denied[i]->call)),
				"times", (json_int_t)account->denied[i]->times, "allowed_by",
				json_bytes(croft_slice_str(account->denied[i]->allowed_by))));
	json_object_set_new(json, "denied", denied);
	return json;
}

static json_t *json_output(const struct result_output *output)
{
	const struct croft_tree_entry *entry = &output->entry;
	json_t *json = json_object();
	json_set_bytes(json, "path", croft_slice_str(output->path));
	if (entry->kind == CROFT_ENTRY_SYMLINK)
		json_set_bytes(json, "target", entry->target);
	else
		json_object_set_new(json, "digest", json_digest(&entry->digest));
	json_object_set_new(json, "type",
		json_string(entry->kind == CROFT_ENTRY_SYMLINK  ? "symlink"
				: entry->kind == CROFT_ENTRY_DIRECTORY ? "directory"
				: entry->executable                    ? "executable"
								       : "file"));
	return json;
}

bool result_print_json(const struct result *result, struct croft_error *err)
{
	json_t *json = json_pack("{s:i, s:b, s:o, s:o, s:o}", "exit_code", result->exit_code, "cached",
		result->cached, "operation", json_bytes(croft_slice_str(result->operation)), "agent",
		json_bytes(croft_slice_str(result->agent)), "message",
		json_bytes(croft_slice_str(result->message)));
	json_object_set_new(json, "action", json_digest(&result->action));
	json_object_set_new(json, "input_root", json_digest(&result->input_root));
	json_object_set_new(json, "uploaded_bytes",
		json_integer((json_int_t)result->uploaded.sent_bytes));
	json_object_set_new(json, "milliseconds", json_times(result));
	if (result->inputs)
		json_object_set_new(json, "inputs", json_inputs(result->inputs));
	if (result->sandbox)
		json_object_set_new(json, "sandbox", json_sandbox(result->sandbox));
	json_t *outputs = json_array();
	for (size_t i = 0; i < result->output_count; i++)
		json_array_append_new(outputs, json_output(&result->outputs[i]));
	json_object_set_new(json, "outputs", outputs);
	return json_print(json, err);
}

/* For the disk -------------------------------------------------------------------------------- */

/* Servers may write "." as "". */
static const struct result_output *find_output(const struct result *result, const char *path)
{
	for (size_t i = 0; i < result->output_count; i++) {
		const char *name = result->outputs[i].path;
		if (!strcmp(*name ? name : ".", path))
			return &result->outputs[i];
	}
	return NULL;
}

static const struct result_output *output_of_option(const struct result *result, const char *pair,
	const char **where, struct croft_arena *arena, struct croft_error *err)
{
	const char *path = output_of_pair(pair, where, arena, err);
	const char *clean = path ? output_path(result->working_directory, path, arena, err) : NULL;
	const struct result_output *output = clean ? find_output(result, clean) : NULL;
	if (clean && !output)
		croft_error_set(err, CROFT_NOT_FOUND, "the job left nothing at %s", path);
	return output;
}

bool result_deliver(const struct result *result, const struct options *options,
	struct client *client, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const struct result_output *output;
	const char *pair, *where;
	for (size_t i = 0; (pair = options_at(options, "export", i)); i++) {
		struct unload_stat stat = {0};
		output = output_of_option(result, pair, &where, arena, err);
		if (!output ||
			!unload_to_path(client->remote, &output->entry, where, true, &stat, err))
			return croft_error_wrap(err, "--export %s", pair);
	}
	for (size_t i = 0; (pair = options_at(options, "save", i)); i++) {
		output = output_of_option(result, pair, &where, arena, err);
		if (!output)
			return croft_error_wrap(err, "--save %s", pair);
		if (output->entry.kind != CROFT_ENTRY_DIRECTORY)
			return croft_error_set(err, CROFT_FAILED_PRECONDITION,
				"--save %s: only a directory can have a name", pair);
		if (!ref_store(client, where, &output->entry.digest, err))
			return false;
	}
	return true;
}
