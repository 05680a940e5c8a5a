/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a job read of its declared inputs, and what it never did: by subtree, or by dependency. */
#include "cli/commands.h"
#include "cli/job.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "cli/result.h"
#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include "google/longrunning/operations.pb-c.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { LIST_MOST = 256 << 20, DEPTH = 3, DEPTH_MOST = 64, ROWS = 20 };

struct count {
	uint64_t files, bytes, read_files, read_bytes;
};

/* A subtree, or a dependency. */
struct row {
	char *name;
	struct count count;
};

struct inputs {
	const struct options *options;
	struct client client;
	struct croft_tree_source source;
	struct croft_arena *arena;
	struct croft_digest action, input_root;
	const Farm__InputAccount *account;
	const char **opened; /* sorted paths */
	size_t opened_count;
	struct count all;
	struct row *rows;
	size_t row_count, row_room;
	json_t *files; /* never read; NULL: not asked for */
	bool list;     /* print these instead */
	/* Of the walk under way: */
	uint64_t depth;      /* rows are directories of up to so many names */
	size_t current[DEPTH_MOST + 1]; /* the row of the last directory of so many names */
	const char *place;   /* of the tree in the input root */
	struct count *count; /* of a dependency: one row for all of it */
};

/* The job ----------------------------------------------------------------------------------------- */

static void *get_message(struct inputs *inputs, const struct croft_digest *digest,
	const ProtobufCMessageDescriptor *type, struct croft_error *err)
{
	struct croft_slice data;
	if (!croft_remote_read(inputs->client.remote, digest, inputs->arena, &data, err))
		return NULL;
	return croft_message_decode(type, data, inputs->arena, NULL, err);
}

/* The result that the cache has for the action. */
static const Reapi__ActionResult *cached_result(struct inputs *inputs, struct croft_error *err)
{
	Reapi__GetActionResultRequest request = REAPI__GET_ACTION_RESULT_REQUEST__INIT;
	request.instance_name = (char *)inputs->client.instance;
	request.action_digest = croft_digest_to_message(&inputs->action, inputs->arena);
	const Reapi__ActionResult *result = croft_remote_call(inputs->client.remote,
		"/build.bazel.remote.execution.v2.ActionCache/GetActionResult", &request.base,
		&reapi__action_result__descriptor, inputs->arena, err);
	if (!result && err->code == CROFT_NOT_FOUND)
		croft_error_set(err, CROFT_NOT_FOUND, "the farm has no result of this action: it was not run, it "
			"failed, or the result was evicted (a job that failed can be named by its operation)");
	return result;
}

/* What Execute said of the job, or would say: it may have failed. */
static const Reapi__ActionResult *operation_result(struct inputs *inputs, const char *name,
	struct croft_error *err)
{
	Longrunning__GetOperationRequest request = LONGRUNNING__GET_OPERATION_REQUEST__INIT;
	request.name = (char *)name;
	const Longrunning__Operation *operation = croft_remote_call(inputs->client.remote,
		"/google.longrunning.Operations/GetOperation", &request.base,
		&longrunning__operation__descriptor, inputs->arena, err);
	if (!operation)
		return NULL;
	const Reapi__ExecuteOperationMetadata *metadata = operation->metadata ? croft_message_decode(
		&reapi__execute_operation_metadata__descriptor,
		CROFT_SLICE(operation->metadata->value.data, operation->metadata->value.len), inputs->arena,
		NULL, err) : NULL;
	if (!metadata || !croft_digest_from_message(
			metadata->action_digest, "the job's action", &inputs->action, err))
		return NULL;
	if (!operation->done || !operation->response) {
		croft_error_set(err, CROFT_FAILED_PRECONDITION, "%s has not run to its end", name);
		return NULL;
	}
	const Reapi__ExecuteResponse *response = croft_message_decode(&reapi__execute_response__descriptor,
		CROFT_SLICE(operation->response->value.data, operation->response->value.len), inputs->arena,
		NULL, err);
	if (response && !response->result)
		croft_error_set(err, CROFT_NOT_FOUND, "%s did not run", name);
	return response ? response->result : NULL;
}

static bool find_job(struct inputs *inputs, const char *text, struct croft_error *err)
{
	bool is_action = croft_digest_parse(croft_slice_str(text), &inputs->action, NULL);
	const Reapi__ActionResult *result =
		is_action ? cached_result(inputs, err) : operation_result(inputs, text, err);
	if (!result)
		return false;
	const Reapi__Action *action =
		get_message(inputs, &inputs->action, &reapi__action__descriptor, err);
	if (!action)
		return croft_error_wrap(err, "reading the action");
	if (!croft_digest_from_message(
			action->input_root_digest, "the action's input root", &inputs->input_root, err))
		return false;
	inputs->account = result_account(result, &farm__input_account__descriptor, inputs->arena);
	if (inputs->account && inputs->account->opened)
		return true;
	return croft_error_set(err, CROFT_FAILED_PRECONDITION, "it is not known what this job opened: the agent "
		"was not root of its host, another farm's result was taken over, or it had no inputs");
}

/* What it opened ---------------------------------------------------------------------------------- */

static bool split_list(struct inputs *inputs, const char *text, size_t size, struct croft_error *err)
{
	size_t count = 0;
	for (size_t i = 0; i < size; i++)
		count += text[i] == '\0';
	if (size > 0 && text[size - 1] != '\0')
		return croft_error_set(err, CROFT_DATA_LOSS, "the list of opened files is malformed");
	inputs->opened = croft_arena_array(inputs->arena, count, sizeof(*inputs->opened));
	for (const char *at = text; at < text + size; at += strlen(at) + 1)
		inputs->opened[inputs->opened_count++] = at;
	for (size_t i = 1; i < count; i++)
		if (strcmp(inputs->opened[i - 1], inputs->opened[i]) >= 0)
			return croft_error_set(err, CROFT_DATA_LOSS, "the list of opened files is not in order");
	return true;
}

static bool read_opened(struct inputs *inputs, struct croft_error *err)
{
	struct croft_digest digest;
	struct croft_slice packed;
	if (!croft_digest_from_message(inputs->account->opened, "the list of opened files", &digest, err))
		return false;
	if (!croft_remote_read(inputs->client.remote, &digest, inputs->arena, &packed, err))
		return croft_error_wrap(err, err->code == CROFT_NOT_FOUND
			? "the list of what the job opened was evicted; `croft run --skip-cache` makes it anew"
			: "reading the list of what the job opened");
	unsigned long long size = ZSTD_getFrameContentSize(packed.data, packed.size);
	if (size > LIST_MOST)
		return croft_error_set(err, CROFT_DATA_LOSS, "the list of opened files is malformed");
	char *text = croft_arena_alloc(inputs->arena, (size_t)size + 1);
	if (ZSTD_decompress(text, (size_t)size, packed.data, packed.size) != size)
		return croft_error_set(err, CROFT_DATA_LOSS, "the list of opened files is malformed");
	return split_list(inputs, text, (size_t)size, err);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(a, *(const char *const *)b);
}

static bool was_opened(const struct inputs *inputs, const char *path)
{
	return bsearch(path, inputs->opened, inputs->opened_count, sizeof(*inputs->opened), by_text);
}

/* Counting ---------------------------------------------------------------------------------------- */

static struct count *add_row(struct inputs *inputs, const char *name, size_t size)
{
	if (inputs->row_count == inputs->row_room) {
		inputs->row_room = inputs->row_room ? 2 * inputs->row_room : 64;
		inputs->rows = croft_realloc(inputs->rows, inputs->row_room, sizeof(*inputs->rows));
	}
	struct row *row = &inputs->rows[inputs->row_count++];
	*row = (struct row){.name = croft_arena_strndup(inputs->arena, name, size)};
	return &row->count;
}

/* The directory of at most `depth` names that a file belongs to: its size, and how many they are. */
static size_t row_size(const struct inputs *inputs, struct croft_slice path, uint64_t *names)
{
	const char *text = path.data;
	size_t size = 0;
	*names = 0;
	for (size_t i = 0; i < path.size && *names < inputs->depth; i++)
		if (text[i] == '/') {
			size = i;
			++*names;
		}
	return size;
}

/* Depth first, so that a directory that was left does not come again. */
static struct count *row_of(struct inputs *inputs, struct croft_slice path)
{
	uint64_t names;
	size_t size = row_size(inputs, path, &names);
	if (inputs->count)
		return inputs->count;
	size_t at = inputs->current[names];
	if (at < inputs->row_count && strlen(inputs->rows[at].name) == size &&
		memcmp(inputs->rows[at].name, path.data, size) == 0)
		return &inputs->rows[at].count;
	inputs->current[names] = inputs->row_count;
	return add_row(inputs, path.data, size);
}

static void add_file(struct count *count, uint64_t bytes, bool read)
{
	count->files++;
	count->bytes += bytes;
	count->read_files += read;
	count->read_bytes += read ? bytes : 0;
}

static void tell_unread(struct inputs *inputs, const char *path, uint64_t bytes)
{
	if (inputs->files) {
		json_t *one = json_object();
		json_set_bytes(one, "path", croft_slice_str(path));
		json_object_set_new(one, "bytes", json_integer((json_int_t)bytes));
		json_array_append_new(inputs->files, one);
	} else if (inputs->list) {
		print_name(croft_slice_str(path), stdout);
		putchar('\n');
	}
}

static bool visit(void *user, struct croft_slice path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	struct inputs *inputs = user;
	if (entry->kind != CROFT_ENTRY_FILE)
		return true;
	char *whole;
	if (asprintf(&whole, "%s%s%.*s", inputs->place, *inputs->place ? "/" : "", (int)path.size,
			(const char *)path.data) < 0)
		abort();
	uint64_t bytes = entry->digest.size_bytes;
	bool read = was_opened(inputs, whole);
	add_file(row_of(inputs, path), bytes, read);
	if (!inputs->count) {
		add_file(&inputs->all, bytes, read);
		if (!read)
			tell_unread(inputs, whole, bytes);
	}
	free(whole);
	return true;
}

static bool walk(struct inputs *inputs, const struct croft_digest *root, struct croft_error *err)
{
	return croft_digest_is_empty(root) ||
		(croft_remote_prefetch_tree(inputs->client.remote, root, err) &&
			croft_tree_walk(&inputs->source, root, visit, inputs, err));
}

/* --dep: a row for each, with what stands in the input root at its place. */
static bool count_dependency(struct inputs *inputs, const char *text, struct croft_error *err)
{
	struct input input;
	struct croft_digest root;
	struct count count = {0};
	if (!input_parse(text, true, inputs->arena, &input, err) ||
		!ref_root(&inputs->client, input.ref, &root, err))
		return false;
	inputs->place = input.place;
	inputs->count = &count;
	bool ok = walk(inputs, &root, err);
	*add_row(inputs, text, strlen(text)) = count;
	return ok || croft_error_wrap(err, "%s", text);
}

static bool count_all(struct inputs *inputs, struct croft_error *err)
{
	size_t dependencies = options_count(inputs->options, "dep");
	inputs->place = "";
	if (!walk(inputs, &inputs->input_root, err))
		return croft_error_wrap(err, "reading the inputs");
	if (dependencies)
		inputs->row_count = 0;
	for (size_t i = 0; i < dependencies; i++)
		if (!count_dependency(inputs, options_at(inputs->options, "dep", i), err))
			return false;
	return true;
}

/* Telling ----------------------------------------------------------------------------------------- */

static uint64_t unread(const struct row *row)
{
	return row->count.bytes - row->count.read_bytes;
}

static int by_unread(const void *a, const void *b)
{
	const struct row *one = a, *other = b;
	if (unread(one) != unread(other))
		return unread(one) > unread(other) ? -1 : 1;
	return strcmp(one->name, other->name);
}

static double share(const struct count *count)
{
	return count->bytes ? (double)count->read_bytes / (double)count->bytes : 1;
}

static void print_row(const struct row *row)
{
	char bytes[SIZE_TEXT], all[SIZE_TEXT];
	const struct count *count = &row->count;
	printf("%12s of %-10s %7" PRIu64 " of %-7" PRIu64 " %6.1f %%  ", format_size(unread(row), bytes),
		format_size(count->bytes, all), count->files - count->read_files, count->files,
		100 * share(count));
	print_name(croft_slice_str(*row->name ? row->name : "."), stdout);
	putchar('\n');
}

static void print(struct inputs *inputs, uint64_t most)
{
	char read[SIZE_TEXT], bytes[SIZE_TEXT], never[SIZE_TEXT];
	const struct count *all = &inputs->all;
	printf("%" PRIu64 " of %" PRIu64 " input files were opened, which have %s of %s (%.1f %%); %" PRIu64
	       " files with %s never were\n",
		all->read_files, all->files, format_size(all->read_bytes, read),
		format_size(all->bytes, bytes), 100 * share(all), all->files - all->read_files,
		format_size(all->bytes - all->read_bytes, never));
	if (inputs->row_count == 0)
		return;
	printf("\n%12s %14s %7s %10s %9s  %s\n", "NEVER READ", "", "FILES", "", "READ",
		options_count(inputs->options, "dep") ? "DEPENDENCY" : "BELOW");
	for (size_t i = 0; i < inputs->row_count && i < most; i++)
		print_row(&inputs->rows[i]);
	if (inputs->row_count > most)
		printf("… and %zu more (--rows)\n", inputs->row_count - (size_t)most);
}

static json_t *json_count(const struct count *count)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "files", (json_int_t)count->files, "bytes",
		(json_int_t)count->bytes, "read_files", (json_int_t)count->read_files, "read_bytes",
		(json_int_t)count->read_bytes);
}

static bool print_json(struct inputs *inputs, struct croft_error *err)
{
	json_t *rows = json_array(), *json = json_count(&inputs->all);
	for (size_t i = 0; i < inputs->row_count; i++) {
		json_t *row = json_count(&inputs->rows[i].count);
		json_set_bytes(row, "name", croft_slice_str(inputs->rows[i].name));
		json_array_append_new(rows, row);
	}
	json_object_set_new(json, "action", json_digest(&inputs->action));
	json_object_set_new(json, "input_root", json_digest(&inputs->input_root));
	json_object_set_new(json,
		options_count(inputs->options, "dep") ? "dependencies" : "directories", rows);
	if (inputs->files)
		json_object_set(json, "never_read", inputs->files);
	return json_print(json, err);
}

static bool tell(struct inputs *inputs, struct croft_error *err)
{
	uint64_t most = ROWS;
	if (!options_number(inputs->options, "rows", 1, SIZE_MAX, &most, err))
		return false;
	qsort(inputs->rows, inputs->row_count, sizeof(*inputs->rows), by_unread);
	if (options_given(inputs->options, "json"))
		return print_json(inputs, err);
	if (!inputs->list)
		print(inputs, most);
	return output_flush(err);
}

static int run(const struct options *options, struct croft_error *err)
{
	struct inputs inputs = {.options = options, .depth = DEPTH};
	uint64_t rows = ROWS;
	bool files = options_given(options, "files"), json = options_given(options, "json");
	if (!options_arguments(options, 1, 1, err) ||
		!options_number(options, "depth", 0, DEPTH_MOST, &inputs.depth, err) ||
		!options_number(options, "rows", 1, SIZE_MAX, &rows, err))
		return MISUSED;
	if (!client_open(&inputs.client, options, err))
		return FAILED;
	inputs.arena = croft_arena_create();
	inputs.source = croft_remote_tree_source(inputs.client.remote);
	inputs.files = files && json ? json_array() : NULL;
	inputs.list = files && !json;
	bool ok = find_job(&inputs, options->argv[0], err) && read_opened(&inputs, err) &&
		count_all(&inputs, err) && tell(&inputs, err);
	json_decref(inputs.files);
	free(inputs.rows);
	croft_arena_destroy(inputs.arena);
	client_close(&inputs.client);
	return ok ? 0 : FAILED;
}

static const struct option_spec inputs_options[] = {
	{"dep", 'd', "REF[:PATH]", "count by this dependency, as it was given to `croft run`; may be given again"},
	{"depth", 0, "N", "count by directories of up to N names (else 3)"},
	{"rows", 'n', "N", "the N with most that was never read (else 20)"},
	{"files", 0, NULL, "list the files that were never read"},
	{"json", 0, NULL, "as JSON, with all rows"},
	{0},
};

const struct command command_inputs = {
	.name = "inputs",
	.arguments = "ACTION|OPERATION",
	.summary = "Say which inputs a job never read",
	.details = "Of a run: the one whose result is in the action cache (by the action's digest), or that of an\n"
		   "operation that has ended. A file counts as read, with its whole size, when the job opened it;\n"
		   "looking at it (stat) or at a directory does not count. It is known of jobs that ran on agents\n"
		   "that are root of their host.",
	.options = inputs_options,
	.client = true,
	.run = run,
};
