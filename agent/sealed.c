/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/sealed.h"

#include <string.h>

int croft_sealed_says(const Reapi__Directory *directory)
{
	const Reapi__NodeProperties *properties = directory->node_properties;
	for (size_t i = 0; properties && i < properties->n_properties; i++)
		if (strcmp(properties->properties[i]->name, "SubtreeReadOnly") == 0)
			return strcmp(properties->properties[i]->value, "true") == 0;
	return -1;
}

static const Reapi__Directory *read_directory(const struct croft_tree_source *source,
	const struct croft_digest *digest, struct croft_arena *arena, struct croft_error *err)
{
	struct croft_slice bytes = CROFT_SLICE("", 0);
	if (!croft_digest_is_empty(digest) && !source->read(source->user, digest, arena, &bytes, err))
		return NULL;
	return croft_directory_decode(bytes, arena, err);
}

static const Reapi__DirectoryNode *find(const Reapi__Directory *directory, const char *name, size_t size)
{
	for (size_t i = 0; i < directory->n_directories; i++) {
		const Reapi__DirectoryNode *node = directory->directories[i];
		if (strlen(node->name) == size && memcmp(node->name, name, size) == 0)
			return node;
	}
	return NULL;
}

/* The topmost directory on the way to `path` that may be written to; NULL without an error: there is none. */
static const char *writable_above(const struct croft_tree_source *source, const Reapi__Directory *directory,
	const char *path, struct croft_arena *arena, struct croft_error *err)
{
	for (const char *part = path + 1; *part;) {
		size_t size = strcspn(part, "/");
		const Reapi__DirectoryNode *node = find(directory, part, size);
		struct croft_digest digest;
		if (!node)
			return NULL;
		if (!croft_digest_from_message(node->digest, "a directory of the input root", &digest, err) ||
			!(directory = read_directory(source, &digest, arena, err)))
			return NULL;
		part += size;
		if (croft_sealed_says(directory) == 0)
			return croft_arena_strndup(arena, path, (size_t)(part - path));
		part += *part == '/';
	}
	return NULL;
}

bool croft_sealed_root(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_layout *layout, struct croft_arena *arena, bool *sealed, struct croft_error *err)
{
	*sealed = false;
	const Reapi__Directory *directory = read_directory(source, root, arena, err);
	if (!directory)
		return croft_error_wrap(err, "reading the input root");
	if (croft_sealed_says(directory) != 1)
		return true;
	*sealed = true;
	/* The first is the working directory, which is writable only if an output is; then one for each output. */
	const char **parents = layout->writable + 1;
	layout->writable = croft_arena_array(arena, layout->output_count, sizeof(char *));
	layout->writable_count = layout->output_count;
	for (size_t i = 0; i < layout->output_count; i++) {
		struct croft_error failed = CROFT_ERROR_INIT;
		const char *path = layout->outputs[i].inside;
		const char *above = writable_above(source, directory, path, arena, &failed);
		if (failed.code != CROFT_OK)
			return croft_error_set(err, failed.code, "looking at the input root's '%s': %s", path,
				failed.message);
		layout->writable[i] = above ? above : parents[i];
	}
	return true;
}
