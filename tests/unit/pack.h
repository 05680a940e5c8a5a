/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Archives for tests of what reads them.
 */
#ifndef CROFT_TESTS_UNIT_PACK_H
#define CROFT_TESTS_UNIT_PACK_H

#include "tests/unit/test.h"

#include <archive.h>
#include <archive_entry.h>
#include <string.h>

struct packed {
	const char *path, *data, *symlink, *hard_link;
	mode_t type, mode; /* 0: a file; 0644 */
	size_t size;       /* 0: that of data */
};

/* The archive's size; format and filter: of libarchive. */
static inline size_t pack(int format, int filter, const struct packed *entries, size_t count, char *bytes, size_t room)
{
	size_t packed = 0;
	struct archive *archive = archive_write_new();
	archive_write_set_format(archive, format);
	archive_write_add_filter(archive, filter);
	archive_write_set_bytes_in_last_block(archive, 1);
	assert_int_equal(archive_write_open_memory(archive, bytes, room, &packed), ARCHIVE_OK);
	for (size_t i = 0; i < count; i++) {
		const struct packed *one = &entries[i];
		struct archive_entry *entry = archive_entry_new();
		size_t size = one->size ? one->size : one->data ? strlen(one->data) : 0;
		archive_entry_set_pathname(entry, one->path);
		archive_entry_set_filetype(entry, one->type ? one->type : AE_IFREG);
		archive_entry_set_perm(entry, one->mode ? one->mode : 0644);
		if (one->symlink)
			archive_entry_set_symlink(entry, one->symlink);
		if (one->hard_link)
			archive_entry_set_hardlink(entry, one->hard_link);
		else
			archive_entry_set_size(entry, (int64_t)size);
		assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
		if (size)
			assert_int_equal(archive_write_data(archive, one->data, size), size);
		archive_entry_free(entry);
	}
	assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
	archive_write_free(archive);
	return packed;
}

#endif
