/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Uploads by ByteStream.Write that have begun and not ended: what a client whose stream broke goes on
 * with. They are found by UUID and digest, and dropped when nobody came back for them.
 *
 * Whoever opens an upload owns it from then on; the owner before it (a stream whose client is gone,
 * which the server may not know yet) gets ABORTED when it touches the upload again.
 */
#ifndef CROFT_SCHED_SERVICES_UPLOADS_H
#define CROFT_SCHED_SERVICES_UPLOADS_H

#include "fs/store.h"

struct uploads;

struct uploads *uploads_create(struct croft_store *store);
/* No upload may be open any more. */
void uploads_destroy(struct uploads *uploads);

struct upload; /* one owner's hold on it */

/* *committed: how many bytes of the blob have been taken. */
struct upload *uploads_open(struct uploads *uploads, struct croft_slice uuid,
	const struct croft_digest *digest, uint64_t *committed, struct croft_error *err);
/* More than the blob's size is INVALID_ARGUMENT. After any failure the upload is gone. */
bool upload_append(struct upload *upload, const void *data, size_t size, struct croft_error *err);
/* Verifies and publishes; the upload is gone in any case. */
bool upload_commit(struct upload *upload, struct croft_error *err);
/* Forgets what was taken. */
void upload_drop(struct upload *upload);
/* Ends the ownership and frees the handle; what was taken stays for another stream. */
void upload_close(struct upload *upload);

bool uploads_query(struct uploads *uploads, struct croft_slice uuid,
	const struct croft_digest *digest, uint64_t *committed);

#endif
