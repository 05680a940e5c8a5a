/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/remote/internal.h"

#include "fs/chunker.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* What is gathered before it is sent without waiting for the flush. */
enum { GATHERED_BYTES = 32 << 20, GATHERED_BLOBS = 50000 };

struct source {
	struct croft_digest digest;
	char *bytes; /* or, when NULL: */
	int dirfd;
	char *path;
	int fd; /* while it is streamed */
};

struct croft_upload {
	struct croft_remote *remote;
	struct croft_digest_map *known; /* given so far */
	struct source *sources;         /* not sent yet */
	size_t count, room, bytes;
	struct croft_upload_stat stat;
};

struct croft_upload *croft_upload_create(struct croft_remote *remote)
{
	struct croft_upload *upload = croft_zalloc(sizeof(*upload));
	upload->remote = remote;
	upload->known = croft_digest_map_create();
	return upload;
}

static void forget_sources(struct croft_upload *upload)
{
	for (size_t i = 0; i < upload->count; i++) {
		free(upload->sources[i].bytes);
		free(upload->sources[i].path);
	}
	upload->count = upload->bytes = 0;
}

void croft_upload_destroy(struct croft_upload *upload)
{
	if (!upload)
		return;
	forget_sources(upload);
	free(upload->sources);
	croft_digest_map_destroy(upload->known);
	free(upload);
}

/* Sources -------------------------------------------------------------------------------------- */

static bool open_source(const struct source *source, int *fd, struct croft_error *err)
{
	struct stat status;
	*fd = openat(source->dirfd, source->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0)
		return croft_error_errno(err, errno, "opening %s to upload it", source->path);
	if (fstat(*fd, &status) < 0)
		return croft_error_errno(err, errno, "looking at %s", source->path);
	return (S_ISREG(status.st_mode) && (uint64_t)status.st_size == source->digest.size_bytes) ||
		croft_error_set(err, CROFT_ABORTED,
			"%s changed while it was uploaded: it had %" PRIu64 " bytes", source->path,
			source->digest.size_bytes);
}

static bool read_source(void *user, void *buffer, size_t size, uint64_t offset,
	struct croft_error *err)
{
	const struct source *source = user;
	if (!source->bytes)
		return croft_pread_all(source->fd, buffer, size, offset, source->path, err);
	memcpy(buffer, source->bytes + offset, size);
	return true;
}

/* Sending -------------------------------------------------------------------------------------- */

struct sending {
	struct croft_upload *upload;
	struct source **wanted; /* job by job */
	size_t *starts;
	struct remote_abilities abilities;
	atomic_uint_least64_t spared_bytes; /* of large blobs: the server had their chunks */
};

/* 1: done; 0: it is better streamed; -1. */
static int send_chunks(struct sending *sending, struct source *source, struct croft_error *err)
{
	if (!sending->abilities.splices || source->digest.size_bytes <= 2 * CROFT_CHUNK_MOST)
		return 0;
	uint64_t sent_bytes;
	struct croft_error failure = CROFT_ERROR_INIT;
	if (remote_chunks_write(sending->upload->remote, &source->digest,
			sending->abilities.batch_bytes, read_source, source, &sent_bytes, &failure)) {
		sending->spared_bytes += source->digest.size_bytes - sent_bytes;
		return 1;
	}
	/* A chunk has gone meanwhile, or the server has thought better of it. */
	if (failure.code == CROFT_NOT_FOUND || failure.code == CROFT_UNIMPLEMENTED)
		return 0;
	if (failure.code == CROFT_INVALID_ARGUMENT && source->path)
		croft_error_set(&failure, CROFT_ABORTED, "%s changed while it was uploaded", source->path);
	*err = failure;
	return -1;
}

static bool send_large(struct sending *sending, struct source *source, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = -1;
	if (!source->bytes && !open_source(source, &fd, err))
		return false;
	source->fd = fd;
	int sent = send_chunks(sending, source, err);
	return sent != 0 ? sent > 0
					 : remote_stream_write(
						   sending->upload->remote, &source->digest, read_source, source, err);
}

static bool load(struct source *source, struct croft_arena *arena, struct croft_slice *data,
	struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = -1;
	size_t size = (size_t)source->digest.size_bytes;
	*data = CROFT_SLICE(source->bytes, size);
	if (source->bytes)
		return true;
	if (!open_source(source, &fd, err))
		return false;
	char *bytes = croft_arena_alloc(arena, size);
	*data = CROFT_SLICE(bytes, size);
	return croft_pread_all(fd, bytes, size, 0, source->path, err);
}

static bool check_answers(const Reapi__BatchUpdateBlobsResponse *response, size_t asked,
	struct croft_error *err)
{
	for (size_t i = 0; i < response->n_responses; i++) {
		const Reapi__BatchUpdateBlobsResponse__Response *one = response->responses[i];
		if (one->status && one->status->code != CROFT_OK)
			return croft_error_set(err, (enum croft_code)one->status->code,
				"uploading blob %s: %s", one->digest ? one->digest->hash : "?",
				one->status->message);
	}
	return response->n_responses == asked ||
		croft_error_set(err, CROFT_INTERNAL, "BatchUpdateBlobs answered for %zu of %zu blobs",
			response->n_responses, asked);
}

bool remote_batch_update(struct croft_remote *remote, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__BatchUpdateBlobsRequest request = REAPI__BATCH_UPDATE_BLOBS_REQUEST__INIT;
	request.instance_name = remote->instance_name;
	request.n_requests = count;
	request.requests = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		Reapi__BatchUpdateBlobsRequest__Request *one = croft_arena_alloc(arena, sizeof(*one));
		reapi__batch_update_blobs_request__request__init(one);
		one->digest = croft_digest_to_message(&digests[i], arena);
		one->data = (ProtobufCBinaryData){data[i].size, (uint8_t *)data[i].data};
		request.requests[i] = one;
	}
	const Reapi__BatchUpdateBlobsResponse *response =
		croft_remote_call(remote, REMOTE_CAS "BatchUpdateBlobs", &request.base,
			&reapi__batch_update_blobs_response__descriptor, arena, err);
	if (!response)
		return croft_error_wrap(err, "uploading %zu blobs", count);
	return check_answers(response, count, err);
}

static bool send_job(void *user, size_t job, struct croft_error *err)
{
	struct sending *sending = user;
	struct source **first = sending->wanted + sending->starts[job];
	size_t count = sending->starts[job + 1] - sending->starts[job];
	if (first[0]->digest.size_bytes > sending->abilities.batch_bytes)
		return send_large(sending, first[0], err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest *digests = croft_arena_array(arena, count, sizeof(*digests));
	struct croft_slice *data = croft_arena_array(arena, count, sizeof(*data));
	for (size_t i = 0; i < count; i++) {
		digests[i] = first[i]->digest;
		if (!load(first[i], arena, &data[i], err))
			return false;
	}
	return remote_batch_update(sending->upload->remote, digests, data, count, err);
}

/* Large ones first, then the small in batches. Returns the jobs. */
static size_t plan(struct sending *sending, const bool *missing)
{
	struct croft_upload *upload = sending->upload;
	size_t jobs = 0, placed = 0;
	uint64_t filled = 0;
	bool open = false;
	for (size_t i = 0; i < upload->count; i++)
		if (missing[i] && upload->sources[i].digest.size_bytes > sending->abilities.batch_bytes) {
			sending->starts[jobs++] = placed;
			sending->wanted[placed++] = &upload->sources[i];
		}
	for (size_t i = 0; i < upload->count; i++) {
		uint64_t size = upload->sources[i].digest.size_bytes;
		if (!missing[i] || size > sending->abilities.batch_bytes)
			continue;
		if (!open || filled + size + REMOTE_ENTRY_BYTES > sending->abilities.batch_bytes) {
			sending->starts[jobs++] = placed;
			filled = 0;
			open = true;
		}
		filled += size + REMOTE_ENTRY_BYTES;
		sending->wanted[placed++] = &upload->sources[i];
	}
	sending->starts[jobs] = placed;
	return jobs;
}

static bool send_missing(struct croft_upload *upload, const bool *missing, struct croft_error *err)
{
	CROFT_CLEANUP_FREE struct source **wanted = croft_array(upload->count, sizeof(*wanted));
	CROFT_CLEANUP_FREE size_t *starts = croft_array(upload->count + 1, sizeof(*starts));
	struct sending sending = {.upload = upload, .wanted = wanted, .starts = starts};
	if (!remote_abilities(upload->remote, &sending.abilities, err) ||
		!remote_parallel(plan(&sending, missing), send_job, &sending, err))
		return false;
	for (size_t i = 0; i < upload->count; i++)
		if (missing[i]) {
			upload->stat.sent_blobs++;
			upload->stat.sent_bytes += upload->sources[i].digest.size_bytes;
		}
	upload->stat.sent_bytes -= sending.spared_bytes;
	return true;
}

static bool send_gathered(struct croft_upload *upload, struct croft_error *err)
{
	if (upload->count == 0)
		return true;
	CROFT_CLEANUP_FREE struct croft_digest *digests =
		croft_array(upload->count, sizeof(*digests));
	CROFT_CLEANUP_FREE bool *missing = croft_array(upload->count, sizeof(*missing));
	for (size_t i = 0; i < upload->count; i++)
		digests[i] = upload->sources[i].digest;
	if (!croft_remote_find_missing(upload->remote, digests, upload->count, missing, err) ||
		!send_missing(upload, missing, err))
		return false;
	forget_sources(upload);
	return true;
}

/* Gathering ------------------------------------------------------------------------------------ */

/* The place for a new source, or NULL when the blob is known or empty. */
static struct source *add(struct croft_upload *upload, const struct croft_digest *digest)
{
	upload->stat.blobs++;
	upload->stat.bytes += digest->size_bytes;
	if (croft_digest_is_empty(digest))
		return NULL;
	void **place = croft_digest_map_at(upload->known, digest);
	if (*place)
		return NULL;
	*place = upload;
	if (upload->count == upload->room) {
		upload->room = upload->room ? upload->room * 2 : 64;
		upload->sources = croft_realloc(upload->sources, upload->room, sizeof(*upload->sources));
	}
	struct source *source = &upload->sources[upload->count++];
	*source = (struct source){.digest = *digest, .dirfd = -1, .fd = -1};
	return source;
}

static bool send_if_much(struct croft_upload *upload, struct croft_error *err)
{
	if (upload->count < GATHERED_BLOBS && upload->bytes < GATHERED_BYTES)
		return true;
	return send_gathered(upload, err);
}

bool croft_upload_bytes(struct croft_upload *upload, const struct croft_digest *digest,
	struct croft_slice data, struct croft_error *err)
{
	if (data.size != digest->size_bytes)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%zu bytes given for a digest of %" PRIu64, data.size, digest->size_bytes);
	struct source *source = add(upload, digest);
	if (!source)
		return true;
	source->bytes = croft_alloc(data.size);
	memcpy(source->bytes, data.data, data.size);
	upload->bytes += data.size;
	return send_if_much(upload, err);
}

bool croft_upload_file(struct croft_upload *upload, const struct croft_digest *digest, int dirfd,
	const char *path, struct croft_error *err)
{
	struct source *source = add(upload, digest);
	if (!source)
		return true;
	source->dirfd = dirfd;
	source->path = croft_strdup(path);
	return send_if_much(upload, err);
}

/* 1: done, and its digest is known; 0: it is to be hashed first; -1. */
static int send_unhashed(struct croft_upload *upload, struct source *source, uint64_t batch_bytes,
	struct croft_error *err)
{
	uint64_t sent_bytes;
	struct croft_error failure = CROFT_ERROR_INIT;
	bool ok = remote_chunks_write_unhashed(upload->remote, source->digest.size_bytes, batch_bytes, read_source,
		source, &source->digest, &sent_bytes, &failure);
	if (!ok && (failure.code == CROFT_NOT_FOUND || failure.code == CROFT_UNIMPLEMENTED))
		return 0;
	if (!ok) {
		*err = failure;
		return -1;
	}
	*croft_digest_map_at(upload->known, &source->digest) = upload;
	upload->stat.blobs++;
	upload->stat.bytes += source->digest.size_bytes;
	upload->stat.sent_blobs += sent_bytes > 0;
	upload->stat.sent_bytes += sent_bytes;
	return 1;
}

bool croft_upload_unhashed(struct croft_upload *upload, int dirfd, const char *path,
	struct croft_digest *digest, struct croft_error *err)
{
	struct remote_abilities abilities;
	struct stat status;
	struct source source = {.dirfd = dirfd, .path = (char *)path};
	CROFT_CLEANUP_FD int fd = openat(dirfd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &status) < 0)
		return croft_error_errno(err, errno, "opening %s to upload it", path);
	if (!remote_abilities(upload->remote, &abilities, err))
		return false;
	source.fd = fd;
	source.digest.size_bytes = (uint64_t)status.st_size;
	if (abilities.splices && S_ISREG(status.st_mode) && source.digest.size_bytes > 2 * CROFT_CHUNK_MOST) {
		int sent = send_unhashed(upload, &source, abilities.batch_bytes, err);
		*digest = source.digest;
		if (sent != 0)
			return sent > 0;
	}
	return croft_digest_of_fd(fd, digest, err) && croft_upload_file(upload, digest, dirfd, path, err);
}

bool croft_upload_flush(struct croft_upload *upload, struct croft_upload_stat *stat,
	struct croft_error *err)
{
	bool ok = send_gathered(upload, err);
	if (stat)
		*stat = upload->stat;
	return ok;
}
