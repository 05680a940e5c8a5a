/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Trees as tar streams. */
#include "cli/unload.h"

#include "cli/output.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>

struct tar {
	struct croft_remote *remote;
	struct archive *archive;
	struct archive_entry *entry;
	struct unload_stat *stat;
};

static bool tar_failure(struct tar *tar, struct croft_error *err)
{
	const char *text = archive_error_string(tar->archive);
	return croft_error_set(err, CROFT_INTERNAL, "writing the archive: %s", text ? text : "it failed");
}

/* libarchive (3.6) writes -2 and 0.75, which are -1.25, as "-2.75"; "-0.25" it cannot be made to write: the second it is. */
static void set_mtime(struct archive_entry *entry, struct timespec mtime)
{
	if (mtime.tv_sec < 0 && mtime.tv_nsec > 0)
		mtime = mtime.tv_sec == -1 ? (struct timespec){-1, 0}
					   : (struct timespec){mtime.tv_sec + 1, 1000000000 - mtime.tv_nsec};
	archive_entry_set_mtime(entry, mtime.tv_sec, mtime.tv_nsec);
}

static bool write_header(struct tar *tar, const struct listed *item, struct croft_error *err)
{
	const struct croft_tree_entry *entry = &item->entry;
	archive_entry_clear(tar->entry);
	archive_entry_set_pathname(tar->entry, item->path.data);
	archive_entry_set_uid(tar->entry, 0);
	archive_entry_set_gid(tar->entry, 0);
	set_mtime(tar->entry, croft_tree_mtime(entry->properties));
	archive_entry_set_perm(tar->entry, croft_tree_mode(entry->kind, entry->executable, entry->properties));
	archive_entry_set_size(tar->entry, 0);
	if (entry->kind == CROFT_ENTRY_DIRECTORY) {
		archive_entry_set_filetype(tar->entry, AE_IFDIR);
	} else if (entry->kind == CROFT_ENTRY_SYMLINK) {
		archive_entry_set_filetype(tar->entry, AE_IFLNK);
		archive_entry_set_symlink(tar->entry, entry->target.data);
	} else {
		archive_entry_set_filetype(tar->entry, AE_IFREG);
		archive_entry_set_size(tar->entry, (la_int64_t)entry->digest.size_bytes);
	}
	return archive_write_header(tar->archive, tar->entry) >= ARCHIVE_WARN || tar_failure(tar, err);
}

static bool write_bytes(struct tar *tar, const void *data, size_t size, struct croft_error *err)
{
	for (const char *at = data; size > 0;) {
		la_ssize_t done = archive_write_data(tar->archive, at, size);
		if (done <= 0)
			return tar_failure(tar, err);
		at += done;
		size -= (size_t)done;
	}
	return true;
}

/* Verified as a whole before a byte of it is passed on: hence over an unnamed file. */
static bool write_large(struct tar *tar, const struct listed *item, struct croft_error *err)
{
	enum { CHUNK = 1 << 20 };
	const char *parent = getenv("TMPDIR");
	CROFT_CLEANUP_FD int fd =
		open(parent && *parent ? parent : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "making a temporary file");
	if (!croft_remote_read_to_fd(tar->remote, &item->entry.digest, fd, err))
		return false;
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(CHUNK);
	uint64_t size = item->entry.digest.size_bytes;
	for (uint64_t at = 0; at < size;) {
		size_t part = size - at < CHUNK ? (size_t)(size - at) : CHUNK;
		if (!croft_pread_all(fd, buffer, part, at, "a temporary file", err) ||
			!write_bytes(tar, buffer, part, err))
			return false;
		at += part;
	}
	return true;
}

static bool write_item(struct tar *tar, const struct listed *item, struct croft_slice data,
	struct croft_error *err)
{
	if (!write_header(tar, item, err))
		return false;
	if (item->entry.kind != CROFT_ENTRY_FILE)
		return true;
	tar->stat->files++;
	tar->stat->bytes += item->entry.digest.size_bytes;
	return data.data ? write_bytes(tar, data.data, data.size, err) : write_large(tar, item, err);
}

/* What is packed: the root too, when it has properties. */
struct packing {
	struct listed top, *listed;
	size_t count;
};

static bool list_all(struct croft_remote *remote, const struct croft_digest *root, struct croft_arena *arena,
	struct packing *packing, struct croft_error *err)
{
	struct croft_tree_source source = croft_remote_tree_source(remote);
	packing->top = (struct listed){.path = croft_slice_str("./"), .entry = {.kind = CROFT_ENTRY_DIRECTORY}};
	return list_tree(remote, root, arena, &packing->listed, &packing->count, err) &&
		croft_tree_root_properties(&source, root, arena, &packing->top.entry.properties, err);
}

/* libarchive's restricted pax archives are plain tar where that will do, and leave out parts of a second. */
static bool needs_pax(const struct packing *packing)
{
	bool parts = croft_tree_mtime(packing->top.entry.properties).tv_nsec != 0;
	for (size_t i = 0; i < packing->count && !parts; i++)
		parts = croft_tree_mtime(packing->listed[i].entry.properties).tv_nsec != 0;
	return parts;
}

static bool write_all(struct tar *tar, const struct packing *packing, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *window = croft_arena_create();
	CROFT_CLEANUP_FREE struct croft_slice *data = croft_array(WINDOW_FILES, sizeof(*data));
	const struct listed *listed = packing->listed;
	if (packing->top.entry.properties && !write_header(tar, &packing->top, err))
		return false;
	for (size_t at = 0; at < packing->count;) {
		croft_arena_reset(window);
		size_t taken = read_window(tar->remote, listed + at, packing->count - at, window, data, err);
		if (taken == 0)
			return false;
		for (size_t i = 0; i < taken; i++)
			if (!write_item(tar, &listed[at + i], data[i], err))
				return croft_error_wrap(err, "%.*s", (int)listed[at + i].path.size,
					(const char *)listed[at + i].path.data);
		at += taken;
	}
	return true;
}

bool unload_to_tar(struct croft_remote *remote, const struct croft_digest *root, int fd,
	const char *filter, struct unload_stat *stat, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct packing packing;
	if (!list_all(remote, root, arena, &packing, err))
		return false;
	struct tar tar = {.remote = remote, .stat = stat, .archive = archive_write_new(),
		.entry = archive_entry_new()};
	if (!tar.archive || !tar.entry)
		abort();
	if (needs_pax(&packing))
		archive_write_set_format_pax(tar.archive);
	else
		archive_write_set_format_pax_restricted(tar.archive);
	/* No padding behind the end: compressed streams must not have any. */
	archive_write_set_bytes_in_last_block(tar.archive, 1);
	bool ok = true;
	if (filter && archive_write_add_filter_by_name(tar.archive, filter) != ARCHIVE_OK)
		ok = croft_error_set(err, CROFT_INVALID_ARGUMENT, "there is no compression \"%s\"", filter);
	ok = ok && (archive_write_open_fd(tar.archive, fd) == ARCHIVE_OK || tar_failure(&tar, err)) &&
		write_all(&tar, &packing, err);
	/* Closing writes the end of the archive, which a failed one must not have. */
	if (ok && archive_write_close(tar.archive) != ARCHIVE_OK)
		ok = tar_failure(&tar, err);
	if (!ok)
		archive_write_fail(tar.archive);
	archive_entry_free(tar.entry);
	archive_write_free(tar.archive);
	return ok;
}
