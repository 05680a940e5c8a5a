/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The canonical form of a Directory, and reading one. */
#include "fs/tree/internal.h"

#include "proto/rpc/message.h"

#include <stdio.h>

/* Bytes of a name as they may be printed in an error. */
static void printable(struct croft_slice name, char *text, size_t room)
{
	size_t used = 0;
	const unsigned char *bytes = name.data;
	for (size_t i = 0; i < name.size && used + 5 < room; i++)
		used += (size_t)snprintf(text + used, room - used,
			bytes[i] < 0x20 || bytes[i] == 0x7f ? "\\x%02x" : "%c", bytes[i]);
	text[used] = '\0';
}

bool tree_name_check(struct croft_slice name, const char *what, struct croft_error *err)
{
	if (name.size == 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: an empty name", what);
	bool dots = croft_slice_equal(name, croft_slice_str(".")) ||
		croft_slice_equal(name, croft_slice_str(".."));
	if (!dots && !memchr(name.data, '/', name.size) && !memchr(name.data, '\0', name.size))
		return true;
	char text[160];
	printable(name, text, sizeof(text));
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: the name \"%s\" is not allowed", what,
		text);
}

/* One list of nodes: allowed names, strictly ascending. */
static bool check_next(struct croft_slice *last, const char *name, struct croft_error *err)
{
	struct croft_slice next = croft_slice_str(name);
	if (!tree_name_check(next, "Directory", err))
		return false;
	int order = last->data ? croft_slice_compare(*last, next) : -1;
	*last = next;
	if (order < 0)
		return true;
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		order == 0 ? "Directory: \"%.200s\" stands in it twice"
			   : "Directory: \"%.200s\" is not in sorted order",
		name);
}

static bool check_nodes(const Reapi__Directory *directory, struct croft_error *err)
{
	struct croft_slice last = {NULL, 0};
	struct croft_digest digest;
	for (size_t i = 0; i < directory->n_files; i++) {
		const Reapi__FileNode *node = directory->files[i];
		if (!check_next(&last, node->name, err) ||
			!croft_digest_from_message(node->digest, node->name, &digest, err))
			return false;
	}
	last.data = NULL;
	for (size_t i = 0; i < directory->n_directories; i++) {
		const Reapi__DirectoryNode *node = directory->directories[i];
		if (!check_next(&last, node->name, err) ||
			!croft_digest_from_message(node->digest, node->name, &digest, err))
			return false;
	}
	last.data = NULL;
	for (size_t i = 0; i < directory->n_symlinks; i++) {
		const Reapi__SymlinkNode *node = directory->symlinks[i];
		if (!check_next(&last, node->name, err))
			return false;
		if (!node->target || !*node->target)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"Directory: the symlink \"%.200s\" has no target", node->name);
	}
	return true;
}

bool croft_directory_check(const Reapi__Directory *directory, struct croft_error *err)
{
	if (!check_nodes(directory, err))
		return false;
	/* Each list is sorted by now: one pass over all three finds a name that two of them share. */
	struct tree_cursor cursor = {.directory = directory};
	struct croft_slice last = {NULL, 0};
	for (struct croft_tree_entry entry; tree_cursor_next(&cursor, &entry); last = entry.name)
		if (last.data && croft_slice_equal(last, entry.name))
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"Directory: \"%.200s\" stands in it twice", (const char *)entry.name.data);
	return true;
}

/* protobuf-c hands strings out as C strings, which hide a NUL and what follows it. The wire form is
 * looked at for that: fields as the Directory message numbers them, already known to be well formed. */
static void wire_field(struct croft_slice *wire, uint64_t *number, struct croft_slice *bytes)
{
	uint64_t varint[2] = {0, 0};
	const uint8_t *at = wire->data, *end = at + wire->size;
	bytes->data = NULL;
	for (int i = 0; i < 2; i++) {
		for (unsigned shift = 0; at < end && shift < 64; shift += 7) {
			varint[i] |= (uint64_t)(*at & 0x7f) << shift;
			if (!(*at++ & 0x80))
				break;
		}
		if (i == 0 && (varint[0] & 7) != 0 && (varint[0] & 7) != 2)
			break;
	}
	size_t left = (size_t)(end - at), skip = 0;
	switch (varint[0] & 7) {
	case 0:
		break;
	case 1:
		skip = 8;
		break;
	case 2:
		skip = varint[1] < left ? (size_t)varint[1] : left;
		*bytes = CROFT_SLICE(at, skip);
		break;
	case 5:
		skip = 4;
		break;
	default:
		skip = left;
	}
	skip = skip < left ? skip : left;
	*number = varint[0] >> 3;
	*wire = CROFT_SLICE(at + skip, left - skip);
}

static bool hides_nul(struct croft_slice wire)
{
	if (!wire.size || !memchr(wire.data, '\0', wire.size))
		return false;
	uint64_t number;
	struct croft_slice node, text;
	while (wire.size) {
		wire_field(&wire, &number, &node);
		bool symlink = number == 3;
		if (!node.data || number < 1 || number > 3)
			continue;
		while (node.size) {
			wire_field(&node, &number, &text);
			if (text.size && (number == 1 || (symlink && number == 2)) &&
				memchr(text.data, '\0', text.size))
				return true;
		}
	}
	return false;
}

Reapi__Directory *croft_directory_decode(struct croft_slice bytes, struct croft_arena *arena,
	struct croft_error *err)
{
	Reapi__Directory *directory =
		croft_message_decode(&reapi__directory__descriptor, bytes, arena, NULL, err);
	if (!directory)
		return NULL;
	if (hides_nul(bytes)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "Directory: a name holds a NUL byte");
		return NULL;
	}
	return croft_directory_check(directory, err) ? directory : NULL;
}

Reapi__Directory *tree_read(const struct croft_tree_source *source,
	const struct croft_digest *digest, struct croft_arena *arena, struct croft_error *err)
{
	struct croft_slice bytes = {"", 0};
	if (!croft_digest_is_empty(digest) && !source->read(source->user, digest, arena, &bytes, err))
		return NULL;
	Reapi__Directory *directory = croft_directory_decode(bytes, arena, err);
	if (!directory) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(digest, '-', text);
		croft_error_wrap(err, "%s", text);
	}
	return directory;
}

bool tree_depth_error(struct croft_error *err)
{
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"the tree is more than %d directories deep", TREE_DEPTH_LIMIT);
}
