/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store in a directory of its own, and blobs for it. */
#ifndef CROFT_TESTS_UNIT_FS_STORE_PLACE_H
#define CROFT_TESTS_UNIT_FS_STORE_PLACE_H

#include "fs/store.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/rpc/message.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

struct place {
	char path[256];
	struct croft_store *store;
	struct croft_store_config config;
	struct croft_arena *arena;
};

static inline void place_open(struct place *place)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok((place->store = croft_store_open(&place->config, &err)) != NULL, err);
}

static inline void place_close(struct place *place)
{
	croft_store_close(place->store);
	place->store = NULL;
}

static inline void place_reopen(struct place *place)
{
	place_close(place);
	place_open(place);
}

/* The configuration's path is filled in. */
static inline struct place *place_create(struct croft_store_config config)
{
	struct place *place = croft_zalloc(sizeof(*place));
	const char *base = getenv("TMPDIR");
	snprintf(place->path, sizeof(place->path), "%s/croft-store-XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(place->path));
	place->config = config;
	place->config.path = place->path;
	place->arena = croft_arena_create();
	place_open(place);
	return place;
}

static inline void place_destroy(struct place *place)
{
	croft_store_close(place->store);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_remove_tree(AT_FDCWD, place->path, &err), err);
	croft_arena_destroy(place->arena);
	free(place);
}

/* Bytes that depend on the seed and do not compress. */
static inline struct croft_slice place_bytes(struct place *place, unsigned seed, size_t size)
{
	unsigned char *bytes = croft_arena_alloc(place->arena, size + 8);
	uint64_t x = 0x9e3779b97f4a7c15u * (seed + 1);
	for (size_t i = 0; i < size; i += 8) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		memcpy(bytes + i, &x, 8);
	}
	return CROFT_SLICE(bytes, size);
}

static inline struct croft_digest place_put(struct place *place, struct croft_slice bytes)
{
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_put(place->store, &digest, bytes, &err), err);
	return digest;
}

static inline struct croft_digest place_put_seed(struct place *place, unsigned seed, size_t size)
{
	return place_put(place, place_bytes(place, seed, size));
}

static inline bool place_has(struct place *place, const struct croft_digest *digest)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice data;
	if (croft_store_get(place->store, digest, place->arena, &data, &err)) {
		struct croft_digest got = croft_digest_of(data.data, data.size);
		assert_true(croft_digest_equal(&got, digest));
		return true;
	}
	if (err.code != CROFT_NOT_FOUND)
		fail_msg("%s: %s", croft_code_name(err.code), err.message);
	return false;
}

/* Turns a byte of the file that holds the blob. */
static inline void place_damage(struct place *place, const struct croft_digest *digest, uint64_t at)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_blob *blob;
	assert_ok((blob = croft_store_open_blob(place->store, digest, &err)) != NULL, err);
	uint64_t offset;
	char path[64], byte;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", croft_store_blob_fd(blob, &offset));
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)(offset + at)), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(offset + at)), 1);
	close(fd);
	croft_store_blob_close(blob);
}

static inline struct croft_store_stat place_stat(struct place *place)
{
	struct croft_store_stat stat;
	croft_store_stat(place->store, &stat);
	return stat;
}

/* A Directory of files f0… and directories d0…. */
static inline struct croft_digest place_directory(struct place *place,
	const struct croft_digest *files, size_t file_count, const struct croft_digest *directories,
	size_t directory_count)
{
	Reapi__Directory directory = REAPI__DIRECTORY__INIT;
	directory.n_files = file_count;
	directory.files = croft_arena_array(place->arena, file_count + 1, sizeof(void *));
	for (size_t i = 0; i < file_count; i++) {
		directory.files[i] = croft_arena_alloc(place->arena, sizeof(Reapi__FileNode));
		reapi__file_node__init(directory.files[i]);
		directory.files[i]->name = croft_arena_printf(place->arena, "f%zu", i);
		directory.files[i]->digest = croft_digest_to_message(&files[i], place->arena);
	}
	directory.n_directories = directory_count;
	directory.directories = croft_arena_array(place->arena, directory_count + 1, sizeof(void *));
	for (size_t i = 0; i < directory_count; i++) {
		directory.directories[i] = croft_arena_alloc(place->arena, sizeof(Reapi__DirectoryNode));
		reapi__directory_node__init(directory.directories[i]);
		directory.directories[i]->name = croft_arena_printf(place->arena, "d%zu", i);
		directory.directories[i]->digest = croft_digest_to_message(&directories[i], place->arena);
	}
	return place_put(place, croft_message_encode(&directory.base, place->arena));
}

#endif
