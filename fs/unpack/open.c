/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From bytes to entries. */
#include "fs/unpack/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* A Debian package is an ar archive with the files in its member data.tar.*: that is read as an archive of its own,
 * straight from the outer one. */
struct archive_input {
	const struct croft_unpacking *from;
	struct archive *entries, *package; /* package: NULL when it is none */
	uint64_t offset;
	struct croft_error failure; /* of reading */
	char buffer[ARCHIVE_PIECE], member[ARCHIVE_PIECE];
};

/* By name, since libarchive runs programs for some of those it knows. */
static struct archive *new_archive(void)
{
	struct archive *archive = archive_read_new();
	if (!archive)
		abort();
	archive_read_support_filter_gzip(archive);
	archive_read_support_filter_bzip2(archive);
	archive_read_support_filter_compress(archive);
	archive_read_support_filter_lz4(archive);
	archive_read_support_filter_lzip(archive);
	archive_read_support_filter_lzma(archive);
	archive_read_support_filter_xz(archive);
	archive_read_support_filter_zstd(archive);
	archive_read_support_format_tar(archive);
	archive_read_support_format_zip(archive);
	archive_read_support_format_cpio(archive);
	return archive;
}

static la_ssize_t read_bytes(struct archive *archive, void *user, const void **data)
{
	struct archive_input *input = user;
	ssize_t got =
		input->from->read(input->from->user, input->buffer, ARCHIVE_PIECE, input->offset, &input->failure);
	if (got < 0)
		archive_set_error(archive, EIO, "reading it");
	input->offset += got > 0 ? (uint64_t)got : 0;
	*data = input->buffer;
	return got;
}

/* A zip's modes stand at its end. */
static la_int64_t seek_bytes(struct archive *archive, void *user, la_int64_t offset, int whence)
{
	struct archive_input *input = user;
	uint64_t size = input->from->size_bytes;
	la_int64_t from = whence == SEEK_SET ? 0
		: whence == SEEK_CUR             ? (la_int64_t)input->offset
										 : (la_int64_t)size;
	if (__builtin_add_overflow(from, offset, &from) || from < 0 || (uint64_t)from > size)
		return ARCHIVE_FATAL;
	input->offset = (uint64_t)from;
	return from;
}

static bool open_bytes(struct archive_input *input, struct archive *archive)
{
	archive_read_set_callback_data(archive, input);
	archive_read_set_read_callback(archive, read_bytes);
	if (input->from->seekable)
		archive_read_set_seek_callback(archive, seek_bytes);
	return archive_read_open1(archive) == ARCHIVE_OK;
}

static la_ssize_t read_member(struct archive *inner, void *user, const void **data)
{
	struct archive_input *input = user;
	la_ssize_t got = archive_read_data(input->package, input->member, ARCHIVE_PIECE);
	if (got < 0)
		archive_set_error(inner, archive_errno(input->package), "%s", archive_error_string(input->package));
	*data = input->member;
	return got;
}

static bool open_package(struct archive_input *input, struct croft_error *err)
{
	struct archive_entry *entry;
	input->package = archive_read_new();
	if (!input->package)
		abort();
	archive_read_support_format_ar(input->package);
	bool found = false, ok = open_bytes(input, input->package);
	while (ok && !found && archive_read_next_header(input->package, &entry) == ARCHIVE_OK) {
		const char *name = archive_entry_pathname(entry);
		found = name && strncmp(name, "data.tar", 8) == 0;
	}
	if (!found)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s is an ar archive without data.tar: no Debian package", input->from->name);
	return archive_read_open(input->entries, input, NULL, read_member, NULL) == ARCHIVE_OK ||
		archive_input_failed(input, err);
}

/* Only where the bytes can be read twice: a stream is no package. */
static bool is_package(struct archive_input *input)
{
	static const char magic[8] = "!<arch>\n";
	char start[sizeof(magic)];
	return input->from->seekable &&
		input->from->read(input->from->user, start, sizeof(start), 0, &input->failure) == sizeof(start) &&
		memcmp(start, magic, sizeof(magic)) == 0;
}

struct archive_input *archive_input_open(const struct croft_unpacking *from, struct croft_error *err)
{
	struct archive_input *input = croft_alloc(sizeof(*input));
	input->from = from;
	input->entries = new_archive();
	input->package = NULL;
	input->offset = 0;
	input->failure = CROFT_ERROR_INIT;
	bool ok = is_package(input) ? open_package(input, err)
		: open_bytes(input, input->entries) || archive_input_failed(input, err);
	if (ok)
		return input;
	archive_input_close(input);
	return NULL;
}

void archive_input_close(struct archive_input *input)
{
	archive_read_free(input->entries);
	archive_read_free(input->package);
	free(input);
}

struct archive *archive_input_entries(const struct archive_input *input)
{
	return input->entries;
}

bool archive_input_failed(const struct archive_input *input, struct croft_error *err)
{
	if (input->failure.code != CROFT_OK) {
		*err = input->failure;
		return false;
	}
	const char *text = archive_error_string(input->entries);
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "reading %s: it is no archive, or a damaged one: %s",
		input->from->name, text ? text : "it ends early");
}
