/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Trees in memory for tests: a source that counts its reads, and short ways to make trees. */
#ifndef CROFT_TESTS_UNIT_FS_TREE_MEMORY_H
#define CROFT_TESTS_UNIT_FS_TREE_MEMORY_H

#include "fs/tree.h"
#include "proto/base/cleanup.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

struct memory {
	struct croft_arena *arena;
	struct croft_digest digests[4096];
	struct croft_slice blobs[4096];
	size_t count, reads;
};

static bool memory_read(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	struct memory *memory = user;
	memory->reads++;
	for (size_t i = 0; i < memory->count; i++)
		if (croft_digest_equal(&memory->digests[i], digest)) {
			*bytes = CROFT_SLICE(croft_arena_copy(arena, memory->blobs[i].data,
						     memory->blobs[i].size),
				memory->blobs[i].size);
			return true;
		}
	return croft_error_set(err, CROFT_NOT_FOUND, "no such blob");
}

static bool memory_emit(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	struct memory *memory = user;
	struct croft_digest checked = croft_digest_of(bytes.data, bytes.size);
	assert_true(croft_digest_equal(digest, &checked));
	for (size_t i = 0; i < memory->count; i++)
		if (croft_digest_equal(&memory->digests[i], digest))
			return true;
	assert_true(memory->count < 4096);
	memory->digests[memory->count] = *digest;
	memory->blobs[memory->count++] =
		CROFT_SLICE(croft_arena_copy(memory->arena, bytes.data, bytes.size), bytes.size);
	return true;
}

static struct memory *memory_create(void)
{
	struct memory *memory = calloc(1, sizeof(*memory));
	memory->arena = croft_arena_create();
	return memory;
}

static void memory_destroy(struct memory *memory)
{
	croft_arena_destroy(memory->arena);
	free(memory);
}

static struct croft_tree_source memory_source(struct memory *memory)
{
	return (struct croft_tree_source){memory_read, memory};
}

static inline struct croft_tree_entry file_of(const char *content)
{
	return (struct croft_tree_entry){
		.kind = CROFT_ENTRY_FILE, .digest = croft_digest_of(content, strlen(content))};
}

static inline struct croft_tree_entry link_to(const char *target)
{
	return (struct croft_tree_entry){
		.kind = CROFT_ENTRY_SYMLINK, .target = croft_slice_str(target)};
}

static inline struct croft_tree_entry directory_of(struct croft_digest digest)
{
	return (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY, .digest = digest};
}

/* "path=content" is a file, "path*=content" an executable one, "path>target" a symlink, "path/" an
 * empty directory; NULL ends the list. */
static inline struct croft_digest tree_of(struct memory *memory, const char *const *lines)
{
	struct croft_tree_source source = memory_source(memory);
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	struct croft_error err = CROFT_ERROR_INIT;
	for (; *lines; lines++) {
		size_t size = strcspn(*lines, "*=>");
		const char *rest = *lines + size;
		struct croft_tree_entry entry;
		if (*rest == '>') {
			entry = link_to(rest + 1);
		} else if (*rest) {
			entry = file_of(rest + (*rest == '*') + 1);
			entry.executable = *rest == '*';
		} else {
			entry = directory_of(croft_digest_empty);
			size--;
		}
		assert_ok(croft_tree_builder_add(builder, CROFT_SLICE(*lines, size), &entry, &err), err);
	}
	struct croft_digest root;
	assert_ok(croft_tree_builder_finish(builder, memory_emit, memory, &root, &err), err);
	croft_tree_builder_destroy(builder);
	return root;
}

#define TREE(memory, ...) tree_of(memory, (const char *const[]){__VA_ARGS__, NULL})

#endif
