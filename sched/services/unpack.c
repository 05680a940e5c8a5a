/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/unpack.h"

#include "fs/tree.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdlib.h>
#include <sys/stat.h>

enum {
	ENTRIES_MOST = 1000000,
	PATH_MOST = 4096,
	NAMES_MOST = 256 << 20, /* bytes of all paths: they are in memory until the end */
	DEPTH_MOST = 256,
	PIECE = 256 << 10,
	SMALL = 1 << 20,       /* files up to this gather in memory and are put together */
	GATHER = 8 << 20,
	GATHER_FILES = 1024,
};
/* Of what comes out, however little went in. */
#define BYTES_MOST (UINT64_C(16) << 30)

/* A file or link that was met, for hard links to it and for paths that come twice. */
struct met {
	struct croft_slice path;
	struct croft_tree_entry entry;
};

struct unpacking {
	struct croft_store *store;
	struct croft_call *call;
	const char *folder;
	struct croft_store_blob *blob;
	uint64_t offset, size; /* in it, and its own */
	struct croft_error failure; /* of reading it */
	char *input, *buffer; /* PIECE; SMALL + PIECE */
	struct archive *archive;
	struct croft_arena *arena, *gathered_arena;
	struct croft_tree_builder *builder;
	void *met; /* tsearch tree */
	uint64_t bytes;
	size_t entries, names;
	struct croft_digest digests[GATHER_FILES];
	struct croft_slice data[GATHER_FILES];
	size_t gathered, gathered_bytes;
};

static int compare_met(const void *a, const void *b)
{
	return croft_slice_compare(((const struct met *)a)->path, ((const struct met *)b)->path);
}

static bool refuse(const char *path, const char *why, struct croft_error *err)
{
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the archive's entry '%.200s' %s", path, why);
}

static bool archive_failed(const struct unpacking *unpacking, struct croft_error *err)
{
	if (unpacking->failure.code != CROFT_OK) {
		*err = unpacking->failure;
		return false;
	}
	const char *text = archive_error_string(unpacking->archive);
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "it is no archive (tar or zip), or a damaged one: %s",
		text ? text : "it ends early");
}

static la_ssize_t read_blob(struct archive *archive, void *user, const void **data)
{
	struct unpacking *unpacking = user;
	ssize_t got = croft_store_blob_read(
		unpacking->blob, unpacking->input, PIECE, unpacking->offset, &unpacking->failure);
	if (got < 0)
		archive_set_error(archive, EIO, "reading it");
	unpacking->offset += got > 0 ? (uint64_t)got : 0;
	*data = unpacking->input;
	return got;
}

/* A zip's modes stand at its end. */
static la_int64_t seek_blob(struct archive *archive, void *user, la_int64_t offset, int whence)
{
	struct unpacking *unpacking = user;
	la_int64_t from = whence == SEEK_SET ? 0
		: whence == SEEK_CUR             ? (la_int64_t)unpacking->offset
										 : (la_int64_t)unpacking->size;
	if (__builtin_add_overflow(from, offset, &from) || from < 0 || (uint64_t)from > unpacking->size)
		return ARCHIVE_FATAL;
	unpacking->offset = (uint64_t)from;
	return from;
}

static bool open_archive(struct unpacking *unpacking)
{
	struct archive *archive = unpacking->archive;
	return archive_read_set_callback_data(archive, unpacking) == ARCHIVE_OK &&
		archive_read_set_read_callback(archive, read_blob) == ARCHIVE_OK &&
		archive_read_set_seek_callback(archive, seek_blob) == ARCHIVE_OK &&
		archive_read_open1(archive) == ARCHIVE_OK;
}

/* "./a//b/" becomes "a/b". NULL with err; "" is the root itself. */
static const char *clean_path(struct unpacking *unpacking, const char *path, struct croft_error *err)
{
	size_t size = path ? strlen(path) : 0, depth = 0;
	if (!path || size > PATH_MOST || path[0] == '/') {
		refuse(path ? path : "", !path ? "has no readable name"
				: path[0] == '/'       ? "has an absolute name"
									   : "has too long a name", err);
		return NULL;
	}
	unpacking->names += size;
	if (unpacking->names > NAMES_MOST) {
		croft_error_set(err, CROFT_RESOURCE_EXHAUSTED, "the archive's names are longer than %d bytes", NAMES_MOST);
		return NULL;
	}
	char *clean = croft_arena_alloc(unpacking->arena, size + 1), *end = clean;
	for (const char *at = path; *at;) {
		size_t part = strcspn(at, "/");
		if ((part == 2 && at[0] == '.' && at[1] == '.') || ++depth > DEPTH_MOST) {
			refuse(path, depth > DEPTH_MOST ? "is nested too deeply" : "leads outside by \"..\"", err);
			return NULL;
		}
		if (part && !(part == 1 && at[0] == '.')) {
			if (end > clean)
				*end++ = '/';
			memcpy(end, at, part);
			end += part;
		}
		at += part + (at[part] == '/');
	}
	*end = '\0';
	return clean;
}

static struct met *find_met(struct unpacking *unpacking, const char *path)
{
	struct met key = {.path = croft_slice_str(path)};
	void *found = tfind(&key, &unpacking->met, compare_met);
	return found ? *(struct met **)found : NULL;
}

/* An archive may hold a path twice: the later one counts. */
static bool add(struct unpacking *unpacking, const char *path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	if (!*path && entry->kind != CROFT_ENTRY_DIRECTORY)
		return refuse(path, "has no name", err);
	struct met *met = find_met(unpacking, path);
	croft_tree_builder_replace(unpacking->builder, met != NULL);
	bool ok = !*path || croft_tree_builder_add(unpacking->builder, croft_slice_str(path), entry, err);
	if (!ok && err->code == CROFT_ALREADY_EXISTS)
		err->code = CROFT_INVALID_ARGUMENT;
	if (!ok || entry->kind == CROFT_ENTRY_DIRECTORY)
		return ok;
	if (!met) {
		met = croft_arena_alloc(unpacking->arena, sizeof(*met));
		met->path = croft_slice_str(path);
		if (!tsearch(met, &unpacking->met, compare_met))
			abort();
	}
	met->entry = *entry;
	return true;
}

/* Files ---------------------------------------------------------------------------------------- */

static bool put_gathered(struct unpacking *unpacking, struct croft_error *err)
{
	size_t count = unpacking->gathered;
	CROFT_CLEANUP_FREE struct croft_error *errors = croft_array(count + 1, sizeof(*errors));
	bool ok = croft_store_put_many(unpacking->store, unpacking->digests, unpacking->data, count, errors);
	for (size_t i = 0; !ok && i < count; i++)
		if (errors[i].code != CROFT_OK)
			*err = errors[i];
	unpacking->gathered = unpacking->gathered_bytes = 0;
	croft_arena_reset(unpacking->gathered_arena);
	return ok;
}

static bool gather(struct unpacking *unpacking, const struct croft_digest *digest, const void *data,
	struct croft_error *err)
{
	size_t size = (size_t)digest->size_bytes;
	if (size > 0) {
		unpacking->digests[unpacking->gathered] = *digest;
		unpacking->data[unpacking->gathered++] =
			CROFT_SLICE(croft_arena_copy(unpacking->gathered_arena, data, size), size);
		unpacking->gathered_bytes += size;
	}
	return (unpacking->gathered < GATHER_FILES && unpacking->gathered_bytes < GATHER) ||
		put_gathered(unpacking, err);
}

/* At most PIECE bytes to the buffer from `at` on; -1. */
static ssize_t read_some(struct unpacking *unpacking, size_t at, struct croft_error *err)
{
	la_ssize_t got = archive_read_data(unpacking->archive, unpacking->buffer + at, PIECE);
	if (got < 0) {
		archive_failed(unpacking, err);
		return -1;
	}
	unpacking->bytes += (uint64_t)got;
	if (unpacking->bytes > BYTES_MOST) {
		croft_error_set(err, CROFT_RESOURCE_EXHAUSTED, "the archive's files are larger than %llu bytes",
			(unsigned long long)BYTES_MOST);
		return -1;
	}
	if (croft_call_cancelled(unpacking->call)) {
		croft_error_set(err, CROFT_CANCELLED, "the client is gone");
		return -1;
	}
	return got;
}

static bool put_file(struct unpacking *unpacking, int fd, const struct croft_digest *digest,
	struct croft_error *err)
{
	struct croft_store_writer *writer = croft_store_write(unpacking->store, digest, err);
	if (!writer)
		return false;
	for (uint64_t at = 0; at < digest->size_bytes;) {
		size_t part = digest->size_bytes - at < PIECE ? (size_t)(digest->size_bytes - at) : PIECE;
		if (!croft_pread_all(fd, unpacking->buffer, part, at, "what is unpacked", err) ||
			!croft_store_writer_append(writer, unpacking->buffer, part, err)) {
			croft_store_writer_abort(writer);
			return false;
		}
		at += part;
	}
	return croft_store_writer_commit(writer, err);
}

/* The first `size` bytes are in the buffer. A store wants the digest first: by way of a nameless file. */
static bool take_large(struct unpacking *unpacking, size_t size, struct croft_digest *digest,
	struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = open(unpacking->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "%s: a file for what is unpacked", unpacking->folder);
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	ssize_t more = (ssize_t)size;
	for (uint64_t at = 0; more > 0; at += size) {
		size = (size_t)more;
		croft_hasher_update(hasher, unpacking->buffer, size);
		bool written = croft_pwrite_all(fd, unpacking->buffer, size, at, "what is unpacked", err);
		more = written ? read_some(unpacking, 0, err) : -1;
	}
	*digest = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	return more == 0 && put_file(unpacking, fd, digest, err);
}

static bool take_file(struct unpacking *unpacking, struct croft_digest *digest, struct croft_error *err)
{
	size_t size = 0;
	while (size < SMALL) {
		ssize_t more = read_some(unpacking, size, err);
		if (more < 0)
			return false;
		if (more == 0) {
			*digest = croft_digest_of(unpacking->buffer, size);
			return gather(unpacking, digest, unpacking->buffer, err);
		}
		size += (size_t)more;
	}
	return take_large(unpacking, size, digest, err);
}

/* Entries -------------------------------------------------------------------------------------- */

static bool take_hard_link(struct unpacking *unpacking, const char *path, const char *to, struct croft_error *err)
{
	const char *target = clean_path(unpacking, to, err);
	struct met *met = target ? find_met(unpacking, target) : NULL;
	if (!target)
		return false;
	if (!met)
		return refuse(path, "is a hard link to what does not stand before it", err);
	struct croft_tree_entry entry = met->entry;
	return add(unpacking, path, &entry, err);
}

static bool take_entry(struct unpacking *unpacking, struct archive_entry *entry, struct croft_error *err)
{
	struct croft_tree_entry found = {.digest = croft_digest_empty};
	const char *name = archive_entry_pathname(entry), *hard_link = archive_entry_hardlink(entry);
	const char *path = clean_path(unpacking, name ? name : archive_entry_pathname_utf8(entry), err);
	if (!path)
		return false;
	if (hard_link)
		return take_hard_link(unpacking, path, hard_link, err);
	const char *target = archive_entry_symlink(entry);
	switch (archive_entry_filetype(entry)) {
	case AE_IFDIR:
		found.kind = CROFT_ENTRY_DIRECTORY;
		return add(unpacking, path, &found, err);
	case AE_IFLNK:
		if (!target || !*target || strlen(target) > PATH_MOST)
			return refuse(path, "is a symlink without a usable target", err);
		found.kind = CROFT_ENTRY_SYMLINK;
		found.target = croft_slice_str(croft_arena_strdup(unpacking->arena, target));
		unpacking->names += found.target.size;
		return add(unpacking, path, &found, err);
	case AE_IFREG:
		found.kind = CROFT_ENTRY_FILE;
		found.executable = archive_entry_perm(entry) & 0100;
		return take_file(unpacking, &found.digest, err) && add(unpacking, path, &found, err);
	default:
		return refuse(path, "is a device, a pipe or a socket, which no tree can hold", err);
	}
}

static bool take_entries(struct unpacking *unpacking, struct croft_error *err)
{
	for (;;) {
		struct archive_entry *entry;
		int state = archive_read_next_header(unpacking->archive, &entry);
		if (state == ARCHIVE_EOF)
			return put_gathered(unpacking, err);
		if (state < ARCHIVE_WARN)
			return archive_failed(unpacking, err);
		if (++unpacking->entries > ENTRIES_MOST)
			return croft_error_set(
				err, CROFT_RESOURCE_EXHAUSTED, "the archive has more than %d entries", ENTRIES_MOST);
		if (croft_call_cancelled(unpacking->call))
			return croft_error_set(err, CROFT_CANCELLED, "the client is gone");
		if (!take_entry(unpacking, entry, err))
			return false;
	}
}

static bool emit(void *user, const struct croft_digest *digest, struct croft_slice bytes, struct croft_error *err)
{
	struct unpacking *unpacking = user;
	return digest->size_bytes > SMALL ? croft_store_put(unpacking->store, digest, bytes, err)
									  : gather(unpacking, digest, bytes.data, err);
}

/* By name, since libarchive runs programs for some of those it knows. */
static struct archive *new_archive(void)
{
	struct archive *archive = archive_read_new();
	if (!archive)
		abort();
	archive_read_support_filter_gzip(archive);
	archive_read_support_filter_bzip2(archive);
	archive_read_support_filter_xz(archive);
	archive_read_support_filter_zstd(archive);
	archive_read_support_format_tar(archive);
	archive_read_support_format_zip(archive);
	return archive;
}

static void keep(void *memory)
{
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
	unpacking->size = archive->size_bytes;
	unpacking->failure = CROFT_ERROR_INIT;
	unpacking->input = croft_alloc(PIECE);
	unpacking->buffer = croft_alloc(SMALL + PIECE);
	unpacking->arena = croft_arena_create();
	unpacking->gathered_arena = croft_arena_create();
	unpacking->builder = croft_tree_builder_create(&source);
	unpacking->archive = new_archive();
	bool ok = open_archive(unpacking) ? take_entries(unpacking, err) : archive_failed(unpacking, err);
	ok = ok && croft_tree_builder_finish(unpacking->builder, emit, unpacking, root, err) &&
		put_gathered(unpacking, err);
	archive_read_free(unpacking->archive);
	croft_tree_builder_destroy(unpacking->builder);
	croft_arena_destroy(unpacking->gathered_arena);
	tdestroy(unpacking->met, keep);
	croft_arena_destroy(unpacking->arena);
	croft_store_blob_close(blob);
	free(unpacking->buffer);
	free(unpacking->input);
	free(unpacking);
	return ok;
}
