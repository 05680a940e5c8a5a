/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/unpack.h"

#include "fs/unpack.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

enum {
	PIECE = 256 << 10,
	GATHER = 8 << 20, /* small files are put together */
	GATHER_FILES = 1024,
};

static const struct croft_unpack_bounds bounds = {
	.entries = 1000000,
	.bytes = UINT64_C(16) << 30,
	.name_bytes = 256 << 20,
	.name_size = 4096,
	.depth = 256,
};

struct unpacking {
	struct croft_store *store;
	struct croft_call *call;
	const char *folder;
	struct croft_store_blob *blob;
	struct croft_arena *arena; /* of what has gathered */
	struct croft_digest digests[GATHER_FILES];
	struct croft_slice data[GATHER_FILES];
	size_t gathered, gathered_bytes;
};

static ssize_t read_blob(void *user, void *buffer, size_t size, uint64_t offset, struct croft_error *err)
{
	return croft_store_blob_read(((struct unpacking *)user)->blob, buffer, size, offset, err);
}

static bool go_on(void *user, struct croft_error *err)
{
	return !croft_call_cancelled(((struct unpacking *)user)->call) ||
		croft_error_set(err, CROFT_CANCELLED, "the client is gone");
}

static bool put_gathered(struct unpacking *unpacking, struct croft_error *err)
{
	size_t count = unpacking->gathered;
	CROFT_CLEANUP_FREE struct croft_error *errors = croft_array(count + 1, sizeof(*errors));
	bool ok = croft_store_put_many(unpacking->store, unpacking->digests, unpacking->data, count, errors);
	for (size_t i = 0; !ok && i < count; i++)
		if (errors[i].code != CROFT_OK)
			*err = errors[i];
	unpacking->gathered = unpacking->gathered_bytes = 0;
	croft_arena_reset(unpacking->arena);
	return ok;
}

static bool gather(void *user, const struct croft_digest *digest, struct croft_slice data, struct croft_error *err)
{
	struct unpacking *unpacking = user;
	if (data.size > 0) {
		unpacking->digests[unpacking->gathered] = *digest;
		unpacking->data[unpacking->gathered++] =
			CROFT_SLICE(croft_arena_copy(unpacking->arena, data.data, data.size), data.size);
		unpacking->gathered_bytes += data.size;
	}
	return (unpacking->gathered < GATHER_FILES && unpacking->gathered_bytes < GATHER) ||
		put_gathered(unpacking, err);
}

/* A store wants the digest first: by way of a nameless file. */
static int make_file(void *user, struct croft_error *err)
{
	const char *folder = ((struct unpacking *)user)->folder;
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		croft_error_errno(err, errno, "%s: a file for what is unpacked", folder);
	return fd;
}

static bool put_file(void *user, const struct croft_digest *digest, int fd, struct croft_error *err)
{
	struct unpacking *unpacking = user;
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(PIECE);
	struct croft_store_writer *writer = croft_store_write(unpacking->store, digest, err);
	if (!writer)
		return false;
	for (uint64_t at = 0; at < digest->size_bytes;) {
		size_t part = digest->size_bytes - at < PIECE ? (size_t)(digest->size_bytes - at) : PIECE;
		if (!croft_pread_all(fd, buffer, part, at, "what is unpacked", err) ||
			!croft_store_writer_append(writer, buffer, part, err)) {
			croft_store_writer_abort(writer);
			return false;
		}
		at += part;
	}
	return croft_store_writer_commit(writer, err);
}

static bool emit(void *user, const struct croft_digest *digest, struct croft_slice bytes, struct croft_error *err)
{
	struct unpacking *unpacking = user;
	return digest->size_bytes > CROFT_UNPACK_SMALL ? croft_store_put(unpacking->store, digest, bytes, err)
									  : gather(unpacking, digest, bytes, err);
}

/* No Directory of the store's is merged into what is built here. */
static bool read_nothing(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	*bytes = CROFT_SLICE("", 0);
	return croft_digest_is_empty(digest) || croft_error_set(err, CROFT_INTERNAL, "unpacking read a Directory");
}

bool unpack(struct croft_store *store, struct croft_call *call, const char *folder,
	const struct croft_digest *archive, struct croft_digest *root, struct croft_error *err)
{
	struct croft_store_blob *blob = croft_store_open_blob(store, archive, err);
	if (!blob)
		return false;
	struct unpacking *unpacking = croft_zalloc(sizeof(*unpacking));
	struct croft_tree_source source = {read_nothing, NULL};
	unpacking->store = store;
	unpacking->call = call;
	unpacking->folder = folder;
	unpacking->blob = blob;
	unpacking->arena = croft_arena_create();
	struct croft_unpacking reading = {
		.name = "the archive",
		.read = read_blob,
		.seekable = true,
		.size_bytes = archive->size_bytes,
		.builder = croft_tree_builder_create(&source),
		.small = gather,
		.make_file = make_file,
		.large = put_file,
		.go_on = go_on,
		.user = unpacking,
		.bounds = bounds,
	};
	bool ok = croft_unpack(&reading, err);
	if (!ok && err->code == CROFT_ALREADY_EXISTS) /* a file where it has a directory, too */
		err->code = CROFT_INVALID_ARGUMENT;
	ok = ok && croft_tree_builder_finish(reading.builder, emit, unpacking, root, err) &&
		put_gathered(unpacking, err);
	croft_tree_builder_destroy(reading.builder);
	croft_arena_destroy(unpacking->arena);
	croft_store_blob_close(blob);
	free(unpacking);
	return ok;
}
