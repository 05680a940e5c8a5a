/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/paths.h"

#include <string.h>

static bool is_below(const char *top, const char *path)
{
	size_t size = strlen(top);
	if (strcmp(top, "/") == 0)
		return true;
	return strncmp(path, top, size) == 0 && (path[size] == '\0' || path[size] == '/');
}

const char *croft_path_resolve(const char *top, const char *base, const char *relative,
	struct croft_arena *arena)
{
	size_t used = strcmp(base, "/") == 0 ? 0 : strlen(base);
	char *path = croft_arena_alloc(arena, used + strlen(relative) + 2);
	memcpy(path, base, used);
	for (const char *part = relative; *part;) {
		size_t size = strcspn(part, "/");
		if (size == 2 && part[0] == '.' && part[1] == '.') {
			path[used] = '\0';
			if (used == 0)
				return NULL;
			used = (size_t)(strrchr(path, '/') - path);
		} else if (size > 0 && !(size == 1 && part[0] == '.')) {
			path[used++] = '/';
			memcpy(path + used, part, size);
			used += size;
		}
		part += size;
		part += *part == '/';
	}
	path[used] = '\0';
	if (used == 0)
		strcpy(path, "/");
	return is_below(top, path) ? path : NULL;
}

static const char *parent_of(const char *path, struct croft_arena *arena)
{
	const char *slash = strrchr(path, '/');
	return slash == path ? "/" : croft_arena_strndup(arena, path, (size_t)(slash - path));
}

static bool add_output(const char *declared, int kind, const char *top, struct croft_arena *arena,
	struct croft_layout *layout, struct croft_error *err)
{
	if (declared[0] == '/')
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"output path '%s' is absolute: output paths are relative to the working directory",
			declared);
	const char *inside = croft_path_resolve(top, layout->working_directory, declared, arena);
	if (!inside)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "output path '%s' leaves the input root", declared);
	layout->outputs[layout->output_count++] =
		(struct croft_output_path){.declared = declared, .inside = inside, .kind = kind};
	/* The client counts on the parents; what is to stand at the path itself is the job's to make. */
	layout->writable[layout->writable_count++] =
		strcmp(inside, "/") == 0 ? inside : parent_of(inside, arena);
	return true;
}

bool croft_layout_of(const Reapi__Command *command, const char *input_target,
	struct croft_arena *arena, struct croft_layout *layout, struct croft_error *err)
{
	size_t most = command->n_output_paths + command->n_output_files + command->n_output_directories;
	*layout = (struct croft_layout){
		.input_target = input_target,
		.outputs = croft_arena_array(arena, most, sizeof(*layout->outputs)),
		.writable = croft_arena_array(arena, most + 1, sizeof(*layout->writable)),
	};
	const char *directory = command->working_directory;
	layout->working_directory = directory[0] == '/'
		? NULL
		: croft_path_resolve(input_target, input_target, directory, arena);
	if (!layout->working_directory)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"working directory '%s' is not a relative path within the input root", directory);
	layout->writable[layout->writable_count++] = layout->working_directory;
	for (size_t i = 0; i < command->n_output_paths; i++)
		if (!add_output(command->output_paths[i], CROFT_OUTPUT_ANY, input_target, arena, layout, err))
			return false;
	/* REAPI: with output_paths, the two older fields are ignored. */
	if (command->n_output_paths > 0)
		return true;
	for (size_t i = 0; i < command->n_output_files; i++)
		if (!add_output(command->output_files[i], CROFT_OUTPUT_FILE, input_target, arena, layout, err))
			return false;
	for (size_t i = 0; i < command->n_output_directories; i++)
		if (!add_output(command->output_directories[i], CROFT_OUTPUT_DIRECTORY, input_target, arena,
				layout, err))
			return false;
	return true;
}
