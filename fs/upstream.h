/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The upstream: another cache behind this store, so that the store is a read-through, write-through
 * tier of it.
 *
 *	struct croft_upstream *upstream = croft_upstream_start(
 *		&(struct croft_upstream_config){.store = store, .url = "grpc://cache:8980/main"}, &err);
 *	croft_upstream_bring(upstream, missing, count);   // then look into the store again
 *
 * URLs: grpc://HOST:PORT[/INSTANCE], grpcs://…, unix:/PATH: any Remote Execution API CAS and action
 * cache. http://[USER:PASSWORD@]HOST[:PORT][/PATH], https://…: an HTTP cache (/cas/<sha256>, /ac/<sha256>), such as Bazel's,
 * bazel-remote, nginx, or a blob plane. s3://BUCKET[/PREFIX]: the same paths in a bucket of S3 or of what
 * AWS_ENDPOINT_URL names; credentials are looked for where AWS's own tools do.
 *
 * Nothing enters the store unverified, and a result only with its whole closure. Whatever fails is a
 * miss, said once in the log; while the upstream fails it is left alone for growing times, so that
 * it costs callers nothing. Every function takes a NULL upstream, and then does nothing; all may be
 * called from any thread.
 */
#ifndef CROFT_FS_UPSTREAM_H
#define CROFT_FS_UPSTREAM_H

#include "fs/store.h"

struct croft_upstream;

struct croft_upstream_config {
	struct croft_store *store; /* borrowed */
	const char *url;
	const char *authority_file; /* PEM, whom grpcs:// and https:// believe; NULL: the system's */
	unsigned timeout_ms; /* without progress; 0: 10 s */
};

/* It need not be there: only a URL that is none is an error. */
struct croft_upstream *croft_upstream_start(const struct croft_upstream_config *config,
	struct croft_error *err);
/* What waits to be sent has a short while to go. */
void croft_upstream_stop(struct croft_upstream *upstream);

/* Reading. Brings into the store those of the blobs that the upstream has; blocks. */
void croft_upstream_bring(struct croft_upstream *upstream, const struct croft_digest *digests,
	size_t count);
/* For those who know the hash alone; of HTTP caches only. */
void croft_upstream_bring_hash(struct croft_upstream *upstream,
	const uint8_t hash[CROFT_HASH_SIZE]);
/* The value that the upstream's action cache has for the action, and its closure. Of an action
 * whose size is not known (0) and which the store has not, only HTTP caches can be asked. */
void croft_upstream_bring_result(struct croft_upstream *upstream, const char *instance_name,
	const struct croft_digest *action);

/* As the store's functions of these names, with the upstream's help. */
bool croft_upstream_find_missing(struct croft_upstream *upstream, struct croft_store *store,
	const struct croft_digest *digests, size_t count, bool *missing, struct croft_error *err);
bool croft_upstream_lease_closure(struct croft_upstream *upstream, struct croft_store *store,
	const struct croft_ref *refs, size_t count, uint64_t lease_ms, struct croft_arena *arena,
	struct croft_digest **missing, size_t *missing_count, struct croft_error *err);

/* Writing. These return at once: what is in the store now is sent in the background, in order. */
void croft_upstream_send(struct croft_upstream *upstream, const struct croft_digest *digests,
	size_t count);
void croft_upstream_send_result(struct croft_upstream *upstream, const char *instance_name,
	const struct croft_digest *action, struct croft_slice value);

struct croft_upstream_stat {
	uint64_t brought_blobs, brought_bytes, brought_results;
	uint64_t sent_blobs, sent_bytes, sent_results;
	uint64_t failures, wrong /* bytes of another digest */, dropped /* never sent */;
	uint64_t waiting; /* to be sent */
};
void croft_upstream_stat(struct croft_upstream *upstream, struct croft_upstream_stat *stat);

#endif
