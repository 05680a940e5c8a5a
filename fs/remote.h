/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The client side of a content-addressable storage: what the croft command and the agent use to put
 * content into a farm and to get it out, over REAPI's gRPC services (so any REAPI server will do).
 */
#ifndef CROFT_FS_REMOTE_H
#define CROFT_FS_REMOTE_H

#include "fs/digest.h"
#include "fs/tree.h"
#include "proto/rpc/client.h"

struct croft_remote;

/* The channel and instance name are borrowed. Any thread may use it. */
struct croft_remote *croft_remote_create(struct croft_channel *channel, const char *instance_name);
void croft_remote_destroy(struct croft_remote *remote);
/* For those who are waited for: no call takes longer, and trying again ends after so long. Before it is used. */
void croft_remote_set_patience(struct croft_remote *remote, uint64_t patience_ms);

/* A unary call of any service, tried again while the server cannot be reached, for a bounded time. The
 * answer in the arena; NULL: failed. */
void *croft_remote_call(struct croft_remote *remote, const char *path,
	const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
	struct croft_arena *arena, struct croft_error *err);

bool croft_remote_find_missing(struct croft_remote *remote, const struct croft_digest *digests,
	size_t count, bool *missing, struct croft_error *err);

/* Small ones by BatchReadBlobs, large ones by ByteStream; verified. NOT_FOUND names the digest. */
bool croft_remote_read(struct croft_remote *remote, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err);
/* Many small blobs in as few round trips as the limits allow; data[i].data NULL: not there. */
bool croft_remote_read_many(struct croft_remote *remote, const struct croft_digest *digests,
	size_t count, struct croft_arena *arena, struct croft_slice *data, struct croft_error *err);
/* To a descriptor, at its position, verified at the end (on failure what was written is not to be
 * trusted). */
bool croft_remote_read_to_fd(struct croft_remote *remote, const struct croft_digest *digest, int fd,
	struct croft_error *err);

/* Gathers blobs and uploads those that the server lacks: asks in large FindMissingBlobs, batches the
 * small, streams the large (or, where the server takes it, sends those of their chunks that it lacks). Sources
 * must stay as they are until flush. The same digest twice is one upload. */
struct croft_upload;
struct croft_upload *croft_upload_create(struct croft_remote *remote);
/* Copies the bytes. */
bool croft_upload_bytes(struct croft_upload *upload, const struct croft_digest *digest,
	struct croft_slice data, struct croft_error *err);
/* Opens dirfd/path again when it is needed (O_NOFOLLOW). dirfd is borrowed until flush. */
bool croft_upload_file(struct croft_upload *upload, const struct croft_digest *digest, int dirfd,
	const char *path, struct croft_error *err);
/* The same of a file that was not hashed. A large one is, by the way, where the server takes chunks: its bytes are
 * read once, and it is there when this returns. */
bool croft_upload_unhashed(struct croft_upload *upload, int dirfd, const char *path,
	struct croft_digest *digest, struct croft_error *err);
struct croft_upload_stat {
	uint64_t blobs, bytes;             /* given */
	uint64_t sent_blobs, sent_bytes;   /* that the server lacked; of large ones the chunks it lacked */
};
/* All is on the server when it returns true. */
bool croft_upload_flush(struct croft_upload *upload, struct croft_upload_stat *stat,
	struct croft_error *err);
void croft_upload_destroy(struct croft_upload *upload);

/* Reads Directory messages through the remote, keeping them: GetTree fills it with whole trees in a
 * few round trips when `prefetch` is asked of a root. */
struct croft_tree_source croft_remote_tree_source(struct croft_remote *remote);
bool croft_remote_prefetch_tree(struct croft_remote *remote, const struct croft_digest *root,
	struct croft_error *err);

#endif
