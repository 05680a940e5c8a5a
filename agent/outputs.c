/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/outputs.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Files up to this size are kept in memory until their batch is sent; larger ones are sent at once,
 * while the sandbox's descriptor for them is valid. */
enum { KEEP_BYTES = 256 * 1024, BATCH_BYTES = 16 << 20 };

/* One output path being captured. */
struct capture {
	const struct croft_outputs *outputs;
	const struct croft_output_path *path;
	struct croft_upload *upload;
	size_t waiting_bytes;
	Reapi__ActionResult *result;
	struct croft_tree_builder *builder; /* when the path is a directory */
	/* Directory messages made here, found by digest: struct made, in the result's arena. */
	void *made;
	struct croft_tree_keep keep;
	bool there; /* something stands at the path */
};

struct made {
	struct croft_digest digest;
	struct croft_slice bytes;
	struct made *next; /* in a Tree */
};

static int compare_made(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct croft_digest));
}

/* Directory messages: those made from outputs, else those of the inputs. */
static bool read_directory(void *user, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *bytes, struct croft_error *err)
{
	struct capture *capture = user;
	struct made **found = tfind(digest, &capture->made, compare_made);
	if (found) {
		*bytes = (*found)->bytes;
		return true;
	}
	struct croft_tree_source inputs = croft_remote_tree_source(capture->outputs->remote);
	return inputs.read(inputs.user, digest, arena, bytes, err);
}

/* Files ------------------------------------------------------------------------------------- */

static bool upload_file(struct capture *capture, const struct croft_capture_entry *entry,
	struct croft_digest *digest, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = openat(entry->dirfd, entry->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening output '%.*s'", (int)entry->path.size,
			(const char *)entry->path.data);
	if (entry->size_bytes <= KEEP_BYTES) {
		CROFT_CLEANUP_FREE char *data = croft_alloc(entry->size_bytes);
		if (!croft_pread_all(fd, data, entry->size_bytes, 0, "an output file", err))
			return false;
		*digest = croft_digest_of(data, entry->size_bytes);
		if (!croft_upload_bytes(
				capture->upload, digest, CROFT_SLICE(data, entry->size_bytes), err))
			return false;
		capture->waiting_bytes += entry->size_bytes;
	} else {
		if (!croft_upload_unhashed(capture->upload, entry->dirfd, entry->name, digest, err))
			return false;
		capture->waiting_bytes = BATCH_BYTES;
	}
	/* What this machine made it need not fetch when a later job reads it; only a loss of speed if
	 * the cache cannot take it. */
	croft_daemon_adopt(capture->outputs->machine->daemon, digest, fd, NULL);
	if (capture->waiting_bytes < BATCH_BYTES)
		return true;
	capture->waiting_bytes = 0;
	return croft_upload_flush(capture->upload, NULL, err);
}

/* An entry that the job left as it was: its digest is that of the input. */
static bool look_up_input(struct capture *capture, struct croft_slice below,
	struct croft_tree_entry *found, struct croft_error *err)
{
	const struct croft_outputs *outputs = capture->outputs;
	const char *top = outputs->layout->input_target;
	const char *inside = capture->path->inside + strlen(top);
	inside += *inside == '/';
	const char *path = croft_arena_printf(outputs->arena, "%s%s%.*s", inside,
		*inside && below.size ? "/" : "", (int)below.size, (const char *)below.data);
	struct croft_tree_source inputs = croft_remote_tree_source(outputs->remote);
	return croft_tree_lookup(
			   &inputs, &outputs->input_root, croft_slice_str(path), outputs->arena, found, err) ||
		croft_error_wrap(err, "output '%s'", path);
}

static const Reapi__NodeProperties *properties_of(struct capture *capture,
	const struct croft_capture_entry *entry)
{
	struct timespec mtime = {entry->mtime_ns / 1000000000, entry->mtime_ns % 1000000000};
	return croft_tree_properties(capture->keep, entry->mode, &mtime, capture->outputs->arena);
}

/* What a captured entry is in a tree; its file's bytes are on their way when this returns. */
static bool tree_entry(struct capture *capture, const struct croft_capture_entry *from,
	struct croft_tree_entry *entry, struct croft_error *err)
{
	if (!from->changed)
		return look_up_input(capture, from->path, entry, err);
	*entry = (struct croft_tree_entry){.properties = properties_of(capture, from)};
	if (S_ISDIR(from->mode)) {
		entry->kind = CROFT_ENTRY_DIRECTORY;
		entry->digest = croft_digest_empty;
		entry->properties = NULL;
		return true;
	}
	if (S_ISLNK(from->mode)) {
		entry->kind = CROFT_ENTRY_SYMLINK;
		entry->target = from->target;
		return true;
	}
	entry->kind = CROFT_ENTRY_FILE;
	entry->executable = (from->mode & 0111) != 0;
	return upload_file(capture, from, &entry->digest, err);
}

/* The result's fields ---------------------------------------------------------------------- */

static void add_file(struct capture *capture, const struct croft_tree_entry *entry)
{
	struct croft_arena *arena = capture->outputs->arena;
	Reapi__OutputFile *file = croft_arena_alloc(arena, sizeof(*file));
	reapi__output_file__init(file);
	file->path = (char *)capture->path->declared;
	file->digest = croft_digest_to_message(&entry->digest, arena);
	file->is_executable = entry->executable;
	file->node_properties = (Reapi__NodeProperties *)entry->properties;
	capture->result->output_files[capture->result->n_output_files++] = file;
}

static void add_symlink(struct capture *capture, const struct croft_tree_entry *entry)
{
	struct croft_arena *arena = capture->outputs->arena;
	Reapi__ActionResult *result = capture->result;
	Reapi__OutputSymlink *symlink = croft_arena_alloc(arena, sizeof(*symlink));
	reapi__output_symlink__init(symlink);
	symlink->path = (char *)capture->path->declared;
	symlink->target = croft_arena_strndup(arena, entry->target.data, entry->target.size);
	symlink->node_properties = (Reapi__NodeProperties *)entry->properties;
	result->output_symlinks[result->n_output_symlinks++] = symlink;
	/* Clients that use the older fields look for links in their older counterparts too. */
	if (capture->path->kind == CROFT_OUTPUT_FILE)
		result->output_file_symlinks[result->n_output_file_symlinks++] = symlink;
	if (capture->path->kind == CROFT_OUTPUT_DIRECTORY)
		result->output_directory_symlinks[result->n_output_directory_symlinks++] = symlink;
}

static bool keep_made(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	struct capture *capture = user;
	struct croft_arena *arena = capture->outputs->arena;
	struct made *made = croft_arena_alloc(arena, sizeof(*made));
	made->digest = *digest;
	made->next = NULL;
	made->bytes = CROFT_SLICE(croft_arena_copy(arena, bytes.data, bytes.size), bytes.size);
	if (!tsearch(made, &capture->made, compare_made))
		abort();
	return croft_upload_bytes(capture->upload, digest, bytes, err);
}

/* Bytes of a Tree message, written field by field: root is 1, children is 2, both length-delimited.
 * The Directory messages go in as they are stored, so that their digests stay true. */
struct tree_bytes {
	unsigned char *data;
	size_t size, room;
};

static void append_field(struct tree_bytes *tree, unsigned field, struct croft_slice bytes)
{
	if (tree->room - tree->size < bytes.size + 16) {
		tree->room = (tree->size + bytes.size + 16) * 2;
		tree->data = croft_realloc(tree->data, tree->room, 1);
	}
	tree->data[tree->size++] = (unsigned char)(field << 3 | 2);
	size_t left = bytes.size;
	for (; left >= 0x80; left >>= 7)
		tree->data[tree->size++] = (unsigned char)(left | 0x80);
	tree->data[tree->size++] = (unsigned char)left;
	if (bytes.size)
		memcpy(tree->data + tree->size, bytes.data, bytes.size);
	tree->size += bytes.size;
}

/* Puts the directories below `bytes` in front of `first`, each distinct one once: what stands below a directory
 * is there before it is put in front, so that parents come before their children. */
static bool gather_children(struct capture *capture, struct croft_slice bytes, void **seen,
	struct made **first, struct croft_error *err)
{
	struct croft_arena *arena = capture->outputs->arena;
	Reapi__Directory *directory = croft_directory_decode(bytes, arena, err);
	if (!directory)
		return false;
	for (size_t i = 0; i < directory->n_directories; i++) {
		struct made *child = croft_arena_zalloc(arena, sizeof(*child));
		if (!croft_digest_from_message(
				directory->directories[i]->digest, "a directory", &child->digest, err))
			return false;
		if (*(struct made **)tsearch(child, seen, compare_made) != child)
			continue;
		if (!read_directory(capture, &child->digest, arena, &child->bytes, err) ||
			!gather_children(capture, child->bytes, seen, first, err))
			return false;
		child->next = *first;
		*first = child;
	}
	return true;
}

static void free_nothing(void *memory)
{
}

static bool add_tree(struct capture *capture, const struct croft_digest *root,
	struct croft_digest *tree_digest, struct croft_error *err)
{
	struct tree_bytes tree = {0};
	struct croft_slice bytes = CROFT_SLICE("", 0);
	void *seen = NULL;
	struct made *children = NULL;
	bool ok = (croft_digest_is_empty(root) ||
		read_directory(capture, root, capture->outputs->arena, &bytes, err)) &&
		gather_children(capture, bytes, &seen, &children, err);
	if (ok) {
		append_field(&tree, 1, bytes);
		for (const struct made *child = children; child; child = child->next)
			append_field(&tree, 2, child->bytes);
		*tree_digest = croft_digest_of(tree.data, tree.size);
		ok = croft_upload_bytes(
			capture->upload, tree_digest, CROFT_SLICE(tree.data, tree.size), err);
	}
	tdestroy(seen, free_nothing);
	free(tree.data);
	return ok;
}

static bool add_directory(struct capture *capture, const struct croft_digest *root,
	struct croft_error *err)
{
	struct croft_arena *arena = capture->outputs->arena;
	Reapi__Command__OutputDirectoryFormat format =
		capture->outputs->command->output_directory_format;
	Reapi__OutputDirectory *directory = croft_arena_alloc(arena, sizeof(*directory));
	reapi__output_directory__init(directory);
	directory->path = (char *)capture->path->declared;
	if (format != REAPI__COMMAND__OUTPUT_DIRECTORY_FORMAT__TREE_ONLY)
		directory->root_directory_digest = croft_digest_to_message(root, arena);
	if (format != REAPI__COMMAND__OUTPUT_DIRECTORY_FORMAT__DIRECTORY_ONLY) {
		struct croft_digest tree;
		if (!add_tree(capture, root, &tree, err))
			return false;
		directory->tree_digest = croft_digest_to_message(&tree, arena);
		directory->is_topologically_sorted = true;
	}
	capture->result->output_directories[capture->result->n_output_directories++] = directory;
	return true;
}

/* Capture ------------------------------------------------------------------------------------ */

static bool is_special(mode_t mode)
{
	return !S_ISREG(mode) && !S_ISDIR(mode) && !S_ISLNK(mode);
}

static void leave_out(struct capture *capture, const struct croft_capture_entry *entry)
{
	const struct croft_outputs *outputs = capture->outputs;
	outputs->left_out(outputs->user,
		croft_arena_printf(outputs->arena, "output '%s%s%.*s' is a %s and was left out",
			capture->path->declared, entry->path.size ? "/" : "", (int)entry->path.size,
			(const char *)entry->path.data, croft_capture_kind(entry->mode)));
}

static bool on_entry(void *user, const struct croft_capture_entry *from, struct croft_error *err)
{
	struct capture *capture = user;
	struct croft_tree_entry entry;
	capture->there = true;
	if (is_special(from->mode)) {
		leave_out(capture, from);
		return true;
	}
	bool is_directory = S_ISDIR(from->mode);
	if (from->path.size == 0 && is_directory && capture->path->kind == CROFT_OUTPUT_FILE)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"output '%s' was declared as a file, but the job made a directory there",
			capture->path->declared);
	if (from->path.size == 0 && S_ISREG(from->mode) &&
		capture->path->kind == CROFT_OUTPUT_DIRECTORY)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"output '%s' was declared as a directory, but the job made a file there",
			capture->path->declared);
	if (!tree_entry(capture, from, &entry, err))
		return false;
	if (from->path.size > 0)
		return croft_tree_builder_add(capture->builder, from->path, &entry, err);
	if (!is_directory) {
		if (entry.kind == CROFT_ENTRY_SYMLINK)
			add_symlink(capture, &entry);
		else
			add_file(capture, &entry);
		return true;
	}
	if (!from->changed)
		return add_directory(capture, &entry.digest, err);
	struct croft_tree_source source = {read_directory, capture};
	capture->builder = croft_tree_builder_create(&source);
	return true;
}

static bool capture_one(const struct croft_outputs *outputs, const struct croft_output_path *path,
	struct croft_upload *upload, Reapi__ActionResult *result, struct croft_error *err)
{
	struct capture capture = {
		.outputs = outputs, .path = path, .upload = upload, .result = result};
	for (size_t i = 0; i < outputs->command->n_output_node_properties; i++) {
		const char *name = outputs->command->output_node_properties[i];
		capture.keep.mtimes |= strcmp(name, "mtime") == 0;
		capture.keep.modes |= strcmp(name, "unix_mode") == 0;
	}
	struct croft_error failed = CROFT_ERROR_INIT;
	bool ok = croft_sandbox_capture(outputs->sandbox, path->inside, on_entry, &capture, &failed);
	if (!ok && failed.code == CROFT_NOT_FOUND && !capture.there)
		ok = true; /* it was not made */
	else if (ok && capture.builder) {
		struct croft_digest root;
		ok = croft_tree_builder_finish(capture.builder, keep_made, &capture, &root, &failed) &&
			add_directory(&capture, &root, &failed);
	}
	croft_tree_builder_destroy(capture.builder);
	tdestroy(capture.made, free_nothing);
	if (!ok && err) {
		*err = failed;
		croft_error_wrap(err, "capturing output '%s'", path->declared);
	}
	return ok;
}

bool croft_outputs_collect(const struct croft_outputs *outputs, struct croft_upload *upload,
	Reapi__ActionResult *result, struct croft_error *err)
{
	size_t count = outputs->layout->output_count;
	struct croft_arena *arena = outputs->arena;
	result->output_files = croft_arena_array(arena, count, sizeof(void *));
	result->output_directories = croft_arena_array(arena, count, sizeof(void *));
	result->output_symlinks = croft_arena_array(arena, count, sizeof(void *));
	result->output_file_symlinks = croft_arena_array(arena, count, sizeof(void *));
	result->output_directory_symlinks = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++)
		if (!capture_one(outputs, &outputs->layout->outputs[i], upload, result, err))
			return false;
	return true;
}
