/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of fs/remote share. */
#ifndef CROFT_FS_REMOTE_INTERNAL_H
#define CROFT_FS_REMOTE_INTERNAL_H

#include "fs/digest_map.h"
#include "fs/remote.h"

#include "google/rpc/status.pb-c.h"

#include <pthread.h>

#define REMOTE_CAS "/build.bazel.remote.execution.v2.ContentAddressableStorage/"

/* What an entry of a batch costs beside its data: digest, status, field headers. */
enum { REMOTE_ENTRY_BYTES = 160 };

/* By the server's capabilities: so many bytes may the blobs of one batch call have, and does it take
 * blobs by chunks that are cut as croft_chunking says? */
struct remote_abilities {
	uint64_t batch_bytes;
	bool splices;
};
struct croft_remote {
	struct croft_channel *channel;
	char *instance_name;
	uint64_t patience_ms; /* 0: as calls and retries have it */

	pthread_mutex_t lock;   /* guards: what follows */
	struct remote_abilities abilities; /* batch_bytes 0: not asked yet */
	struct croft_digest_map *directories; /* struct cached, tree.c */
	size_t directory_bytes;
};

void remote_tree_forget(struct croft_remote *remote); /* the lock is held or nobody else is there */

bool remote_abilities(struct croft_remote *remote, struct remote_abilities *abilities,
	struct croft_error *err);
bool remote_batch_bytes(struct croft_remote *remote, uint64_t *bytes, struct croft_error *err);

/* Tries again while the server cannot be reached, with growing pauses, for a bounded time. */
struct remote_retry {
	const struct croft_remote *remote;
	uint64_t started_ns; /* 0: not begun */
	unsigned pause_ms;
};
/* After a failure: true when it is worth another try (after a pause). */
bool remote_retry(struct remote_retry *retry, const struct croft_error *err);
/* There was progress: the time that is left is the whole again. */
void remote_retry_reset(struct remote_retry *retry);

/* Runs jobs 0 to count-1 on a few threads; after the first failure no other starts. */
bool remote_parallel(size_t count, bool (*job)(void *user, size_t index, struct croft_error *err),
	void *user, struct croft_error *err);

/* ByteStream.Read from start to end, verified, going on where a lost connection broke it off. */
typedef bool remote_sink(void *user, const void *data, size_t size, struct croft_error *err);
bool remote_stream_read(struct croft_remote *remote, const struct croft_digest *digest,
	remote_sink *sink, void *user, struct croft_error *err);

/* ByteStream.Write; `read` fills the buffer with exactly these bytes of the blob. */
typedef bool remote_reader(void *user, void *buffer, size_t size, uint64_t offset,
	struct croft_error *err);
bool remote_stream_write(struct croft_remote *remote, const struct croft_digest *digest,
	remote_reader *read, void *user, struct croft_error *err);

/* Uploads one batch. */
bool remote_batch_update(struct croft_remote *remote, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count, struct croft_error *err);

/* As remote_stream_write, by chunks; says how much of it travelled. ABORTED: what was read is not what
 * the digest says. */
bool remote_chunks_write(struct croft_remote *remote, const struct croft_digest *digest,
	uint64_t batch_bytes, remote_reader *read, void *user, uint64_t *sent_bytes,
	struct croft_error *err);
/* The same of a blob whose digest comes of it: each byte is read once, in order, and hashed while what was read
 * travels. */
bool remote_chunks_write_unhashed(struct croft_remote *remote, uint64_t size_bytes, uint64_t batch_bytes,
	remote_reader *read, void *user, struct croft_digest *digest, uint64_t *sent_bytes, struct croft_error *err);

bool remote_not_found(const struct croft_digest *digest, struct croft_error *err);
/* "instance/" or "" */
const char *remote_prefix(struct croft_remote *remote, struct croft_arena *arena);

#endif
