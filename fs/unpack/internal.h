/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of fs/unpack share. */
#ifndef CROFT_FS_UNPACK_INTERNAL_H
#define CROFT_FS_UNPACK_INTERNAL_H

#include "fs/unpack.h"

#include <archive.h>
#include <archive_entry.h>

enum { ARCHIVE_PIECE = 256 << 10 };

/* open.c: an archive whose entries can be read, also the one inside of a Debian package. */
struct archive_input;
struct archive_input *archive_input_open(const struct croft_unpacking *from, struct croft_error *err);
void archive_input_close(struct archive_input *input);
struct archive *archive_input_entries(const struct archive_input *input);
/* Sets err by why reading has failed. */
bool archive_input_failed(const struct archive_input *input, struct croft_error *err);

#endif
