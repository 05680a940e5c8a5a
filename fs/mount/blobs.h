/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blobs of the store that were read lately, kept open: a sequential read comes in many requests.
 * Few, since an open blob cannot be evicted.
 */
#ifndef CROFT_FS_MOUNT_BLOBS_H
#define CROFT_FS_MOUNT_BLOBS_H

#include "fs/store.h"

struct blobs;
struct open_blob;

struct blobs *blobs_create(struct croft_store *store);
void blobs_destroy(struct blobs *blobs);

/* NULL: as croft_store_open_blob says. Give it back with blobs_release. */
struct open_blob *blobs_open(struct blobs *blobs, const struct croft_digest *digest,
	struct croft_error *err);
struct croft_store_blob *blobs_blob(struct open_blob *blob);
/* With `bad` it is closed and opened anew by the next reader. */
void blobs_release(struct blobs *blobs, struct open_blob *blob, bool bad);

#endif
