/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/sandbox_spec.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
	const char *what; /* the file, for errors */
	struct croft_arena *arena;
	struct sandbox_request *request;
	struct croft_error *err;
};

static bool wrong(const struct reader *reader, const char *field, const char *expected)
{
	return croft_error_set(reader->err, CROFT_INVALID_ARGUMENT, "%s: \"%s\" is to be %s",
		reader->what, field, expected);
}

/* Kinds of values ------------------------------------------------------------------------------------- */

static bool read_text(const struct reader *reader, const char *field, const json_t *value,
	const char **text)
{
	if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
		return wrong(reader, field, "a string");
	*text = croft_arena_strdup(reader->arena, json_string_value(value));
	return true;
}

static bool read_switch(const struct reader *reader, const char *field, const json_t *value, bool *on)
{
	*on = json_is_true(value);
	return json_is_boolean(value) || wrong(reader, field, "true or false");
}

static bool read_number(const struct reader *reader, const char *field, const json_t *value,
	uint64_t most, uint64_t *number)
{
	json_int_t read = json_integer_value(value);
	if (!json_is_integer(value) || read < 0 || (uint64_t)read > most)
		return wrong(reader, field, "a whole number, not negative and not too large");
	*number = (uint64_t)read;
	return true;
}

/* NULL-terminated. */
static bool read_list(const struct reader *reader, const char *field, const json_t *value,
	const char ***list, size_t *count)
{
	if (!json_is_array(value))
		return wrong(reader, field, "a list of strings");
	*count = json_array_size(value);
	*list = croft_arena_array(reader->arena, *count + 1, sizeof(char *));
	for (size_t i = 0; i < *count; i++)
		if (!read_text(reader, field, json_array_get(value, i), &(*list)[i]))
			return false;
	(*list)[*count] = NULL;
	return true;
}

static bool read_path(const struct reader *reader, const char *field, const json_t *value,
	const char **path)
{
	return read_text(reader, field, value, path) &&
		((*path)[0] == '/' || wrong(reader, field, "an absolute path"));
}

/* The fields ---------------------------------------------------------------------------------------------- */

static bool read_root(const struct reader *reader, const json_t *value)
{
	struct croft_sandbox_spec *spec = &reader->request->spec;
	const char **list;
	if (!json_is_string(value)) {
		if (!read_list(reader, "root", value, &list, &spec->root_count))
			return false;
	} else {
		list = croft_arena_array(reader->arena, 1, sizeof(char *));
		spec->root_count = 1;
		if (!read_text(reader, "root", value, &list[0]))
			return false;
	}
	spec->roots = list;
	return true;
}

static bool read_environment(const struct reader *reader, const json_t *value)
{
	if (!json_is_object(value))
		return wrong(reader, "environment", "an object of strings");
	const char **list = croft_arena_array(reader->arena, json_object_size(value) + 1, sizeof(char *));
	size_t count = 0;
	const char *name, *text = NULL;
	json_t *item;
	json_object_foreach((json_t *)value, name, item) {
		if (!*name || strchr(name, '=') || !read_text(reader, "environment", item, &text))
			return wrong(reader, "environment", "an object of strings, with names without \"=\"");
		list[count++] = croft_arena_printf(reader->arena, "%s=%s", name, text);
	}
	list[count] = NULL;
	reader->request->spec.environment = list;
	return true;
}

static bool read_mount(const struct reader *reader, const json_t *value,
	struct croft_sandbox_mount *mount)
{
	const char *name;
	json_t *item;
	json_object_foreach((json_t *)value, name, item) {
		bool ok = !strcmp(name, "source") ? read_path(reader, "mounts.source", item, &mount->source)
			: !strcmp(name, "target")     ? read_path(reader, "mounts.target", item, &mount->target)
			: !strcmp(name, "writable")   ? read_switch(reader, "mounts.writable", item, &mount->writable)
										  : wrong(reader, "mounts", "objects of source, target, writable");
		if (!ok)
			return false;
	}
	return (mount->source && mount->target) ||
		wrong(reader, "mounts", "a list of objects with a source and a target");
}

static bool read_mounts(const struct reader *reader, const json_t *value)
{
	struct croft_sandbox_spec *spec = &reader->request->spec;
	if (!json_is_array(value))
		return wrong(reader, "mounts", "a list of objects");
	spec->mount_count = json_array_size(value);
	struct croft_sandbox_mount *mounts =
		croft_arena_array(reader->arena, spec->mount_count + 1, sizeof(*mounts));
	for (size_t i = 0; i < spec->mount_count; i++) {
		mounts[i] = (struct croft_sandbox_mount){0};
		if (!read_mount(reader, json_array_get(value, i), &mounts[i]))
			return false;
	}
	spec->mounts = mounts;
	return true;
}

static bool read_limits(const struct reader *reader, const json_t *value)
{
	struct croft_sandbox_spec *spec = &reader->request->spec;
	const struct {
		const char *name;
		uint64_t *number;
	} limits[] = {
		{"wall_ms", &spec->wall_ms},
		{"grace_ms", &spec->grace_ms},
		{"cpu_ms", &spec->cpu_ms},
		{"cpu_millis", &spec->cpu_millis},
		{"memory_bytes", &spec->memory_bytes},
		{"processes", &spec->processes},
		{"file_bytes", &spec->file_bytes},
		{"disk_bytes", &spec->disk_bytes},
		{"disk_inodes", &spec->disk_inodes},
		{"output_log_bytes", &spec->output_log_bytes},
		{"capture_bytes", &spec->capture_bytes},
	};
	if (!json_is_object(value))
		return wrong(reader, "limits", "an object of numbers");
	const char *name;
	json_t *item;
	json_object_foreach((json_t *)value, name, item) {
		size_t at = 0;
		while (at < sizeof(limits) / sizeof(limits[0]) && strcmp(limits[at].name, name) != 0)
			at++;
		if (at == sizeof(limits) / sizeof(limits[0]))
			return croft_error_set(reader->err, CROFT_INVALID_ARGUMENT,
				"%s: there is no limit \"%s\"", reader->what, name);
		/* So that milliseconds can be counted in nanoseconds. */
		if (!read_number(reader, name, item, 1ull << 43, limits[at].number))
			return false;
	}
	return true;
}

bool sandbox_network_parse(const char *name, enum croft_network *network, struct croft_error *err)
{
	static const char *const names[] = {"loopback", "none", "host"};
	for (int i = 0; i < 3; i++) {
		*network = (enum croft_network)i;
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"the network is loopback, none or host, not \"%s\"", name);
}

bool sandbox_seccomp_parse(const char *name, enum croft_seccomp *seccomp, struct croft_error *err)
{
	static const char *const names[] = {"default", "strict", "compat"};
	for (int i = 0; i < 3; i++) {
		*seccomp = (enum croft_seccomp)i;
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"the seccomp profile is default, strict or compat, not \"%s\"", name);
}

static bool read_ids(const struct reader *reader, const char *field, const json_t *value, uint32_t *id)
{
	uint64_t number = 0;
	if (!read_number(reader, field, value, 65535, &number))
		return false;
	*id = (uint32_t)number;
	return true;
}

static bool read_umask(const struct reader *reader, const char *text, uint32_t *mask)
{
	char *end;
	unsigned long number = strtoul(text, &end, 8);
	*mask = (uint32_t)number;
	return (*text && !*end && number <= 0777) || wrong(reader, "umask", "an octal number as \"022\"");
}

static bool read_field(const struct reader *reader, const char *name, const json_t *value)
{
	struct sandbox_request *request = reader->request;
	struct croft_sandbox_spec *spec = &request->spec;
	const char **list, *text = NULL;
	size_t count;
	if (!strcmp(name, "root"))
		return read_root(reader, value);
	if (!strcmp(name, "input_root"))
		return read_path(reader, name, value, &spec->input_root);
	if (!strcmp(name, "input_target"))
		return read_path(reader, name, value, &spec->input_target);
	if (!strcmp(name, "writable")) {
		bool ok = read_list(reader, name, value, &list, &spec->writable_count);
		spec->writable_directories = ok ? list : NULL;
		spec->root_writable = false;
		return ok;
	}
	if (!strcmp(name, "command")) {
		bool ok = read_list(reader, name, value, &list, &count);
		spec->arguments = ok ? list : NULL;
		return ok;
	}
	if (!strcmp(name, "outputs"))
		return read_list(reader, name, value, &request->outputs, &count);
	if (!strcmp(name, "environment"))
		return read_environment(reader, value);
	if (!strcmp(name, "working_directory"))
		return read_path(reader, name, value, &spec->working_directory);
	if (!strcmp(name, "uid"))
		return read_ids(reader, name, value, &spec->uid);
	if (!strcmp(name, "gid"))
		return read_ids(reader, name, value, &spec->gid);
	if (!strcmp(name, "hostname"))
		return read_text(reader, name, value, &spec->hostname);
	if (!strcmp(name, "umask")) {
		spec->umask_given = true;
		return read_text(reader, name, value, &text) && read_umask(reader, text, &spec->umask);
	}
	if (!strcmp(name, "fixed_addresses"))
		return read_switch(reader, name, value, &spec->fixed_addresses);
	if (!strcmp(name, "sorted_directories"))
		return read_switch(reader, name, value, &spec->sorted_directories);
	if (!strcmp(name, "special_outputs"))
		return read_switch(reader, name, value, &spec->special_outputs);
	if (!strcmp(name, "cpus"))
		return read_ids(reader, name, value, &spec->cpus);
	if (!strcmp(name, "mounts"))
		return read_mounts(reader, value);
	if (!strcmp(name, "network"))
		return read_text(reader, name, value, &text) &&
			sandbox_network_parse(text, &spec->network, reader->err);
	if (!strcmp(name, "seccomp"))
		return read_text(reader, name, value, &text) &&
			sandbox_seccomp_parse(text, &spec->seccomp, reader->err);
	if (!strcmp(name, "limits"))
		return read_limits(reader, value);
	return croft_error_set(
		reader->err, CROFT_INVALID_ARGUMENT, "%s: there is no field \"%s\"", reader->what, name);
}

bool sandbox_spec_parse(const char *text, size_t size, const char *what, struct croft_arena *arena,
	struct sandbox_request *request, struct croft_error *err)
{
	json_error_t failure;
	json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &failure);
	if (!json)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: line %d, column %d: %s", what,
			failure.line, failure.column, failure.text);
	struct reader reader = {what, arena, request, err};
	bool ok = json_is_object(json) ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: a spec is a JSON object", what);
	const char *name;
	json_t *value;
	if (ok)
		json_object_foreach(json, name, value)
			if (!(ok = read_field(&reader, name, value)))
				break;
	json_decref(json);
	if (ok && !request->spec.input_root != !request->spec.input_target)
		ok = croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s: input_root and input_target go together", what);
	return ok;
}
