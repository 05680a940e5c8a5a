/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/job.h"

#include "cli/load.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* Paths --------------------------------------------------------------------------------------- */

/* Components of `path` appended to those in parts; ".." takes one away. */
static bool add_components(const char *path, const char **parts, size_t *sizes, size_t *count,
	struct croft_error *err)
{
	for (const char *at = path; *(at += strspn(at, "/"));) {
		size_t size = strcspn(at, "/");
		if (size == 2 && !memcmp(at, "..", 2)) {
			if (*count == 0)
				return croft_error_set(err, CROFT_INVALID_ARGUMENT,
					"\"%s\" leads out of the job's root", path);
			--*count;
		} else if (size != 1 || *at != '.') {
			parts[*count] = at;
			sizes[(*count)++] = size;
		}
		at += size;
	}
	return true;
}

const char *output_path(const char *working_directory, const char *path, struct croft_arena *arena,
	struct croft_error *err)
{
	size_t most = strlen(working_directory) + strlen(path) + 1, count = 0, home_count = 0;
	const char **parts = croft_arena_array(arena, most, sizeof(*parts));
	const char **home = croft_arena_array(arena, most, sizeof(*home));
	size_t *sizes = croft_arena_array(arena, most, sizeof(*sizes));
	size_t *home_sizes = croft_arena_array(arena, most, sizeof(*home_sizes));
	if (!*path) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "an output path is empty");
		return NULL;
	}
	if (!add_components(working_directory, home, home_sizes, &home_count, err) ||
		(*path != '/' && !add_components(working_directory, parts, sizes, &count, err)) ||
		!add_components(path, parts, sizes, &count, err))
		return NULL;
	size_t common = 0;
	while (common < count && common < home_count && sizes[common] == home_sizes[common] &&
		!memcmp(parts[common], home[common], sizes[common]))
		common++;
	char *text = croft_arena_strdup(arena, "");
	for (size_t i = common; i < home_count; i++)
		text = croft_arena_printf(arena, "%s%s..", text, *text ? "/" : "");
	for (size_t i = common; i < count; i++)
		text = croft_arena_printf(arena, "%s%s%.*s", text, *text ? "/" : "", (int)sizes[i],
			parts[i]);
	return *text ? text : ".";
}

const char *output_of_pair(const char *pair, const char **where, struct croft_arena *arena,
	struct croft_error *err)
{
	const char *equals = strrchr(pair, '=');
	if (!equals || equals == pair || !equals[1]) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" is not PATH=%s", pair, "TARGET");
		return NULL;
	}
	*where = equals + 1;
	return croft_arena_strndup(arena, pair, (size_t)(equals - pair));
}

/* Inputs -------------------------------------------------------------------------------------- */

static bool is_directory(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool input_parse(const char *text, bool only_ref, struct croft_arena *arena, struct input *input,
	struct croft_error *err)
{
	const char *colon = strrchr(text, ':');
	const char *front = colon ? croft_arena_strndup(arena, text, (size_t)(colon - text)) : text;
	struct croft_digest digest;
	*input = (struct input){.place = ""};
	bool local = !only_ref && !croft_digest_parse(croft_slice_str(front), &digest, NULL);
	if (local && is_directory(text)) {
		input->directory = text;
		return true;
	}
	struct ref *ref = input->ref = croft_arena_zalloc(arena, sizeof(*input->ref));
	if (local && colon && is_directory(front)) {
		/* The place is cleaned as that of a ref. */
		if (!ref_parse(croft_arena_printf(arena, "x:%s", colon + 1), ref, err))
			return false;
		input->directory = front;
	} else if (!ref_parse(text, ref, err)) {
		return croft_error_wrap(err, only_ref ? "%s" : "%s is no directory here", text);
	}
	input->place = croft_arena_strndup(arena, ref->path.data, ref->path.size);
	return true;
}

/* The Command --------------------------------------------------------------------------------- */

static int compare_variables(const void *a, const void *b)
{
	const Reapi__Command__EnvironmentVariable *const *one = a, *const *other = b;
	return strcmp((*one)->name, (*other)->name);
}

static void set_variable(Reapi__Command *command, char *name, char *value, struct croft_arena *arena)
{
	for (size_t i = 0; i < command->n_environment_variables; i++)
		if (!strcmp(command->environment_variables[i]->name, name)) {
			command->environment_variables[i]->value = value;
			return;
		}
	Reapi__Command__EnvironmentVariable *variable = croft_arena_alloc(arena, sizeof(*variable));
	reapi__command__environment_variable__init(variable);
	variable->name = name;
	variable->value = value;
	command->environment_variables[command->n_environment_variables++] = variable;
}

static bool describe_environment(struct job *job, struct croft_error *err)
{
	Reapi__Command *command = job->command;
	size_t count = options_count(job->options, "env");
	command->environment_variables = croft_arena_array(job->arena, count + 1, sizeof(void *));
	set_variable(command, croft_arena_strdup(job->arena, "PATH"),
		croft_arena_strdup(job->arena, default_path), job->arena);
	for (size_t i = 0; i < count; i++) {
		const char *text = options_at(job->options, "env", i), *equals = strchr(text, '=');
		/* "NAME" alone takes the value that it has here. */
		const char *value = equals ? equals + 1 : getenv(text);
		if (!*text || equals == text)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"--env: \"%s\" is not NAME=VALUE", text);
		if (!value)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"--env %s: it is not set here either", text);
		set_variable(command,
			croft_arena_strndup(job->arena, text,
				equals ? (size_t)(equals - text) : strlen(text)),
			croft_arena_strdup(job->arena, value), job->arena);
	}
	qsort(command->environment_variables, command->n_environment_variables, sizeof(void *),
		compare_variables);
	return true;
}

static int compare_properties(const void *a, const void *b)
{
	const Reapi__Platform__Property *const *one = a, *const *other = b;
	int order = strcmp((*one)->name, (*other)->name);
	return order ? order : strcmp((*one)->value, (*other)->value);
}

static bool describe_platform(struct job *job, struct croft_error *err)
{
	size_t count = options_count(job->options, "platform");
	Reapi__Platform *platform = croft_arena_alloc(job->arena, sizeof(*platform));
	reapi__platform__init(platform);
	platform->properties = croft_arena_array(job->arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		const char *text = options_at(job->options, "platform", i), *equals = strchr(text, '=');
		if (!equals || equals == text)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"--platform: \"%s\" is not KEY=VALUE", text);
		Reapi__Platform__Property *property = croft_arena_alloc(job->arena, sizeof(*property));
		reapi__platform__property__init(property);
		property->name = croft_arena_strndup(job->arena, text, (size_t)(equals - text));
		property->value = croft_arena_strdup(job->arena, equals + 1);
		platform->properties[platform->n_properties++] = property;
	}
	qsort(platform->properties, count, sizeof(void *), compare_properties);
	if (count)
		job->command->platform = platform;
	return true;
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool add_output(struct job *job, const char *path, struct croft_error *err)
{
	const char *clean = output_path(job->working_directory, path, job->arena, err);
	if (!clean)
		return false;
	Reapi__Command *command = job->command;
	for (size_t i = 0; i < command->n_output_paths; i++)
		if (!strcmp(command->output_paths[i], clean))
			return true;
	command->output_paths[command->n_output_paths++] = (char *)clean;
	return true;
}

static bool describe_outputs(struct job *job, struct croft_error *err)
{
	static const char *const kinds[] = {"output", "export", "save"};
	size_t count = 0;
	for (size_t kind = 0; kind < 3; kind++)
		count += options_count(job->options, kinds[kind]);
	job->command->output_paths = croft_arena_array(job->arena, count, sizeof(char *));
	for (size_t kind = 0; kind < 3; kind++) {
		const char *text, *where;
		for (size_t i = 0; (text = options_at(job->options, kinds[kind], i)); i++) {
			const char *path = kind == 0 ? text : output_of_pair(text, &where, job->arena, err);
			if (!path || !add_output(job, path, err))
				return croft_error_wrap(err, "--%s", kinds[kind]);
			if (kind == 2 && !ref_name_check(croft_slice_str(where), err))
				return croft_error_wrap(err, "--save");
		}
	}
	qsort(job->command->output_paths, job->command->n_output_paths, sizeof(char *), compare_texts);
	return true;
}

static bool describe_working_directory(struct job *job, struct croft_error *err)
{
	const char *given = options_value(job->options, "workdir");
	job->working_directory = "";
	if (!given)
		return true;
	const char *clean = output_path("", *given ? given : ".", job->arena, err);
	if (!clean)
		return croft_error_wrap(err, "--workdir");
	job->working_directory = strcmp(clean, ".") ? clean : "";
	return true;
}

bool job_describe(struct job *job, struct croft_error *err)
{
	job->command = croft_arena_alloc(job->arena, sizeof(*job->command));
	reapi__command__init(job->command);
	Reapi__Command *command = job->command;
	while (job->arguments[command->n_arguments])
		command->n_arguments++;
	command->arguments = (char **)job->arguments;
	if (!describe_working_directory(job, err) || !describe_environment(job, err) ||
		!describe_platform(job, err) || !describe_outputs(job, err))
		return false;
	command->working_directory = (char *)job->working_directory;
	command->output_directory_format =
		REAPI__COMMAND__OUTPUT_DIRECTORY_FORMAT__DIRECTORY_ONLY;
	struct input input;
	const char *text;
	for (size_t i = 0; (text = options_at(job->options, "dep", i)); i++)
		if (!input_parse(text, true, job->arena, &input, err))
			return croft_error_wrap(err, "--dep");
	for (size_t i = 0; (text = options_at(job->options, "input", i)); i++)
		if (!input_parse(text, false, job->arena, &input, err))
			return croft_error_wrap(err, "--input");
	return true;
}

/* The input root ------------------------------------------------------------------------------ */

/* Refs are resolved, and their Directory messages read ahead, by a few threads: with hundreds of
 * artifacts the round trips would add up. A few are not read whole: merging needs only those
 * directories that more than one has. */
enum { READ_AHEAD_FROM = 8 };

struct resolving {
	struct client *client;
	struct input *inputs;
	struct croft_digest *roots;
	size_t count;
	atomic_size_t next;
	atomic_bool failed;
	pthread_mutex_t lock; /* guards: err */
	struct croft_error *err;
};

static void *resolve_inputs(void *user)
{
	struct resolving *resolving = user;
	while (!atomic_load(&resolving->failed)) {
		size_t at = atomic_fetch_add(&resolving->next, 1);
		if (at >= resolving->count)
			break;
		struct croft_error err = CROFT_ERROR_INIT;
		const struct ref *ref = resolving->inputs[at].ref;
		if (resolving->inputs[at].directory ||
			(ref_root(resolving->client, ref, &resolving->roots[at], &err) &&
				(resolving->count < READ_AHEAD_FROM ||
					croft_remote_prefetch_tree(resolving->client->remote,
						&resolving->roots[at], &err))))
			continue;
		croft_error_wrap(&err, "%.*s", (int)ref->name.size, (const char *)ref->name.data);
		CROFT_LOCKED(&resolving->lock);
		if (!atomic_exchange(&resolving->failed, true) && resolving->err)
			*resolving->err = err;
	}
	return NULL;
}

static bool resolve_all(struct resolving *resolving)
{
	pthread_t threads[8];
	size_t started = 0;
	for (size_t i = 1; i < 8 && i < resolving->count; i++)
		if (pthread_create(&threads[started], NULL, resolve_inputs, resolving) == 0)
			pthread_setname_np(threads[started++], "resolve");
	resolve_inputs(resolving);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	return !resolving->failed;
}

static bool add_inputs(struct load *load, const struct resolving *resolving, struct croft_error *err)
{
	for (size_t i = 0; i < resolving->count; i++) {
		const struct input *input = &resolving->inputs[i];
		if (input->directory) {
			if (!load_directory(load, input->directory, input->place, err))
				return false;
			continue;
		}
		struct croft_tree_entry entry = {
			.kind = CROFT_ENTRY_DIRECTORY, .digest = resolving->roots[i]};
		if (!croft_tree_builder_add(load->builder, croft_slice_str(input->place), &entry, err))
			return croft_error_wrap(err, "merging %.*s", (int)input->ref->name.size,
				(const char *)input->ref->name.data);
	}
	return true;
}

static size_t gather_inputs(struct job *job, struct input *inputs)
{
	static const char *const kinds[] = {"dep", "input"};
	size_t count = 0;
	for (size_t kind = 0; kind < 2; kind++) {
		const char *text;
		for (size_t i = 0; (text = options_at(job->options, kinds[kind], i)); i++)
			if (!input_parse(text, kind == 0, job->arena, &inputs[count++], NULL))
				abort(); /* job_describe has parsed it */
	}
	return count;
}

/* Command and Action travel with the last of the inputs. */
static bool add_action(struct job *job, struct croft_upload *upload, struct croft_error *err)
{
	Reapi__Action action = REAPI__ACTION__INIT;
	struct croft_slice command = croft_message_encode(&job->command->base, job->arena);
	job->command_digest = croft_digest_of(command.data, command.size);
	action.command_digest = croft_digest_to_message(&job->command_digest, job->arena);
	action.input_root_digest = croft_digest_to_message(&job->input_root, job->arena);
	action.do_not_cache = options_given(job->options, "no-cache");
	action.platform = job->command->platform;
	Google__Protobuf__Duration timeout = GOOGLE__PROTOBUF__DURATION__INIT;
	uint64_t seconds = 0;
	if (!options_number(job->options, "timeout", 1, 315576000000, &seconds, err))
		return false;
	timeout.seconds = (int64_t)seconds;
	action.timeout = seconds ? &timeout : NULL;
	struct croft_slice bytes = croft_message_encode(&action.base, job->arena);
	job->action_digest = croft_digest_of(bytes.data, bytes.size);
	return croft_upload_bytes(upload, &job->command_digest, command, err) &&
		croft_upload_bytes(upload, &job->action_digest, bytes, err);
}

static bool emit(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	return croft_upload_bytes(user, digest, bytes, err);
}

bool job_upload(struct job *job, struct client *client, struct croft_error *err)
{
	size_t most = options_count(job->options, "dep") + options_count(job->options, "input");
	struct resolving resolving = {.client = client, .err = err,
		.inputs = croft_arena_array(job->arena, most, sizeof(struct input)),
		.roots = croft_arena_array(job->arena, most, sizeof(struct croft_digest)),
		.lock = PTHREAD_MUTEX_INITIALIZER};
	resolving.count = gather_inputs(job, resolving.inputs);
	progress("reading the trees of %zu inputs", resolving.count);
	if (!resolve_all(&resolving))
		return croft_error_wrap(err, "reading inputs");
	struct croft_tree_source source = croft_remote_tree_source(client->remote);
	struct load load;
	load_init(&load, client->remote, &source);
	croft_tree_builder_replace(load.builder, options_given(job->options, "replace"));
	bool ok = add_inputs(&load, &resolving, err) &&
		croft_tree_builder_finish(load.builder, emit, load.upload, &job->input_root, err);
	if (!ok && err && err->code == CROFT_ALREADY_EXISTS)
		croft_error_wrap(err, "the inputs contradict each other (--replace lets later ones win)");
	ok = ok && add_action(job, load.upload, err);
	progress("uploading %llu files of inputs", (unsigned long long)load.files);
	ok = ok && croft_upload_flush(load.upload, &job->uploaded, err);
	load_finish(&load);
	progress_clear();
	return ok;
}
