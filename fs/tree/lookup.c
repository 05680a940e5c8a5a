/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/tree/internal.h"

#include <stdlib.h>

/* The digests of a checked Directory are well formed. */
static struct croft_digest digest_of(const Reapi__Digest *message)
{
	struct croft_digest digest;
	if (!croft_digest_from_message(message, "digest", &digest, NULL))
		abort();
	return digest;
}

static struct croft_tree_entry entry_of_file(const Reapi__FileNode *node)
{
	return (struct croft_tree_entry){.kind = CROFT_ENTRY_FILE,
		.name = croft_slice_str(node->name),
		.digest = digest_of(node->digest),
		.executable = node->is_executable,
		.properties = node->node_properties};
}

static struct croft_tree_entry entry_of_directory(const Reapi__DirectoryNode *node)
{
	return (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY,
		.name = croft_slice_str(node->name),
		.digest = digest_of(node->digest)};
}

static struct croft_tree_entry entry_of_symlink(const Reapi__SymlinkNode *node)
{
	return (struct croft_tree_entry){.kind = CROFT_ENTRY_SYMLINK,
		.name = croft_slice_str(node->name),
		.target = croft_slice_str(node->target),
		.properties = node->node_properties};
}

static const char *least(const char *a, const char *b)
{
	if (!a || !b)
		return a ? a : b;
	return strcmp(a, b) <= 0 ? a : b; /* strcmp compares as unsigned bytes */
}

bool tree_cursor_next(struct tree_cursor *cursor, struct croft_tree_entry *entry)
{
	const Reapi__Directory *all = cursor->directory;
	const char *file = cursor->file < all->n_files ? all->files[cursor->file]->name : NULL;
	const char *directory = cursor->subdirectory < all->n_directories
		? all->directories[cursor->subdirectory]->name
		: NULL;
	const char *symlink =
		cursor->symlink < all->n_symlinks ? all->symlinks[cursor->symlink]->name : NULL;
	const char *next = least(least(file, directory), symlink);
	if (!next)
		return false;
	if (next == file)
		*entry = entry_of_file(all->files[cursor->file++]);
	else if (next == directory)
		*entry = entry_of_directory(all->directories[cursor->subdirectory++]);
	else
		*entry = entry_of_symlink(all->symlinks[cursor->symlink++]);
	return true;
}

static int compare_file(const void *name, const void *node)
{
	return strcmp(name, (*(Reapi__FileNode *const *)node)->name);
}

static int compare_directory(const void *name, const void *node)
{
	return strcmp(name, (*(Reapi__DirectoryNode *const *)node)->name);
}

static int compare_symlink(const void *name, const void *node)
{
	return strcmp(name, (*(Reapi__SymlinkNode *const *)node)->name);
}

static bool find(const Reapi__Directory *in, const char *name, struct croft_tree_entry *entry)
{
	void *found;
	if (in->n_directories && (found = bsearch(name, in->directories, in->n_directories,
					  sizeof(in->directories[0]), compare_directory)))
		*entry = entry_of_directory(*(Reapi__DirectoryNode **)found);
	else if (in->n_files && (found = bsearch(name, in->files, in->n_files, sizeof(in->files[0]),
					 compare_file)))
		*entry = entry_of_file(*(Reapi__FileNode **)found);
	else if (in->n_symlinks && (found = bsearch(name, in->symlinks, in->n_symlinks,
					    sizeof(in->symlinks[0]), compare_symlink)))
		*entry = entry_of_symlink(*(Reapi__SymlinkNode **)found);
	else
		return false;
	return true;
}

bool croft_tree_lookup(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_slice path, struct croft_arena *arena, struct croft_tree_entry *entry,
	struct croft_error *err)
{
	*entry = (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY, .digest = *root};
	const char *text = path.data;
	for (size_t at = 0; at < path.size;) {
		const char *slash = memchr(text + at, '/', path.size - at);
		size_t end = slash ? (size_t)(slash - text) : path.size;
		struct croft_slice name = CROFT_SLICE(text + at, end - at);
		if (!tree_name_check(name, "path", err))
			return false;
		if (entry->kind != CROFT_ENTRY_DIRECTORY)
			return croft_error_set(err, CROFT_NOT_FOUND, "\"%.*s\" is no directory",
				(int)(at - 1), text);
		const Reapi__Directory *directory = tree_read(source, &entry->digest, arena, err);
		if (!directory)
			return false;
		if (!find(directory, croft_arena_strndup(arena, name.data, name.size), entry))
			return croft_error_set(err, CROFT_NOT_FOUND, "there is no \"%.*s\"", (int)end, text);
		at = end + (slash != NULL);
		if (slash && at == path.size)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"path \"%.*s\" ends in a slash", (int)path.size, text);
	}
	return true;
}

bool croft_tree_list(const struct croft_tree_source *source, const struct croft_digest *directory,
	struct croft_arena *arena, struct croft_tree_entry **entries, size_t *count,
	struct croft_error *err)
{
	struct tree_cursor cursor = {.directory = tree_read(source, directory, arena, err)};
	if (!cursor.directory)
		return false;
	*count = 0;
	*entries = croft_arena_array(arena,
		cursor.directory->n_files + cursor.directory->n_directories + cursor.directory->n_symlinks,
		sizeof(**entries));
	while (tree_cursor_next(&cursor, &(*entries)[*count]))
		++*count;
	return true;
}
