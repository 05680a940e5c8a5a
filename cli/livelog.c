/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/livelog.h"

#include "cli/output.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include "google/bytestream/bytestream.pb-c.h"

#include <errno.h>
#include <fcntl.h>

struct livelog {
	struct client *client;
	int fd;
	const char *name;
	char *stream_name; /* NULL: not begun */
	pthread_t thread;

	/* Of the thread, and of whoever has joined it. */
	struct croft_hasher *hasher; /* over what was passed on */
	uint64_t written_bytes;
	struct croft_error failure; /* of writing to fd */

	pthread_mutex_t lock; /* guards: stopping, stream; with `wake` */
	pthread_cond_t wake;
	bool stopping;
	struct croft_stream *stream;
};

struct livelog *livelog_create(struct client *client, int fd, const char *name)
{
	struct livelog *log = croft_zalloc(sizeof(*log));
	log->client = client;
	log->fd = fd;
	log->name = name;
	log->hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	pthread_mutex_init(&log->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&log->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return log;
}

static bool pass_on(struct livelog *log, const void *data, size_t size)
{
	if (log->failure.code == CROFT_OK &&
		!croft_write_all(log->fd, data, size, log->name, &log->failure))
		return false;
	croft_hasher_update(log->hasher, data, size);
	log->written_bytes += size;
	return log->failure.code == CROFT_OK;
}

/* The stream becomes the one that livelog_finish cancels; false when that has begun. */
static bool set_stream(struct livelog *log, struct croft_stream *stream)
{
	CROFT_LOCKED(&log->lock);
	log->stream = stream;
	return !log->stopping;
}

/* Reads from where it stands. 0: the log is at its end. -1: try again. */
static int read_on(struct livelog *log, struct croft_error *err)
{
	struct croft_stream *stream = croft_stream_open(log->client->channel, NULL,
		"/google.bytestream.ByteStream/Read", &bytestream__read_response__descriptor, err);
	if (!stream)
		return -1;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.resource_name = log->stream_name;
	request.read_offset = (int64_t)log->written_bytes;
	int got = -1;
	if (set_stream(log, stream)) {
		if (croft_stream_write(stream, &request.base, NULL))
			croft_stream_close_write(stream, NULL);
		void *message;
		while ((got = croft_stream_read(stream, arena, &message, err)) > 0) {
			const Bytestream__ReadResponse *response = message;
			progress_clear();
			if (!pass_on(log, response->data.data, response->data.len)) {
				got = 0;
				break;
			}
			croft_arena_reset(arena);
		}
	}
	set_stream(log, NULL);
	croft_stream_destroy(stream);
	return got;
}

static bool pause_unless_stopping(struct livelog *log)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += 200 * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	CROFT_LOCKED(&log->lock);
	while (!log->stopping && pthread_cond_timedwait(&log->wake, &log->lock, &until) != ETIMEDOUT)
		;
	return !log->stopping;
}

static void *read_live(void *user)
{
	struct livelog *log = user;
	struct croft_error err = CROFT_ERROR_INIT;
	/* Only a server that is away is asked again; otherwise the blob will have it all. */
	while (read_on(log, &err) < 0 && err.code == CROFT_UNAVAILABLE && pause_unless_stopping(log))
		;
	return NULL;
}

void livelog_begin(struct livelog *log, const char *stream_name)
{
	if (log->stream_name || !stream_name || !*stream_name)
		return;
	log->stream_name = croft_strdup(stream_name);
	if (pthread_create(&log->thread, NULL, read_live, log) == 0) {
		pthread_setname_np(log->thread, log->name);
		return;
	}
	free(log->stream_name); /* without a thread the output comes at the end */
	log->stream_name = NULL;
}

static void stop(struct livelog *log)
{
	if (!log->stream_name)
		return;
	pthread_mutex_lock(&log->lock);
	log->stopping = true;
	if (log->stream)
		croft_stream_cancel(log->stream);
	pthread_cond_signal(&log->wake);
	pthread_mutex_unlock(&log->lock);
	pthread_join(log->thread, NULL);
	free(log->stream_name);
	log->stream_name = NULL;
}

/* The whole log is in the file. What was passed on must be its beginning; if not, the job was run
 * again after that, and all of it is shown. */
static bool pass_on_file(struct livelog *log, int fd, uint64_t size, struct croft_error *err)
{
	enum { CHUNK = 1 << 16 };
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(CHUNK);
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	uint64_t shown = log->written_bytes;
	bool ok = true;
	for (uint64_t at = 0; ok && at < shown && shown <= size;) {
		size_t part = shown - at < CHUNK ? (size_t)(shown - at) : CHUNK;
		ok = croft_pread_all(fd, buffer, part, at, log->name, err);
		if (ok)
			croft_hasher_update(hasher, buffer, part);
		at += part;
	}
	struct croft_digest begins = croft_hasher_finish(hasher),
			    passed = croft_hasher_finish(log->hasher);
	croft_hasher_destroy(hasher);
	if (ok && !croft_digest_equal(&begins, &passed)) {
		warn("the job was run more than once; its complete %s follows", log->name);
		shown = 0;
	}
	for (uint64_t at = shown; ok && at < size;) {
		size_t part = size - at < CHUNK ? (size_t)(size - at) : CHUNK;
		ok = croft_pread_all(fd, buffer, part, at, log->name, err);
		if (ok && !pass_on(log, buffer, part)) {
			*err = log->failure;
			ok = false;
		}
		at += part;
	}
	return ok;
}

static bool pass_on_bytes(struct livelog *log, struct croft_slice bytes, struct croft_error *err)
{
	struct croft_digest passed = croft_hasher_finish(log->hasher);
	uint64_t shown = log->written_bytes;
	struct croft_digest begins =
		croft_digest_of(bytes.data, shown <= bytes.size ? (size_t)shown : 0);
	if (shown > bytes.size || !croft_digest_equal(&begins, &passed)) {
		warn("the job was run more than once; its complete %s follows", log->name);
		shown = 0;
	}
	const char *data = bytes.data;
	if (pass_on(log, data + shown, bytes.size - (size_t)shown))
		return true;
	if (err)
		*err = log->failure;
	return false;
}

/* Longer ones go by a file, which needs a directory for it. */
enum { IN_MEMORY = 4 << 20 };

static bool pass_on_blob(struct livelog *log, const Reapi__Digest *message, struct croft_error *err)
{
	struct croft_digest digest;
	if (!croft_digest_from_message(message, log->name, &digest, err))
		return false;
	if (digest.size_bytes == log->written_bytes) {
		struct croft_hasher *hasher = log->hasher;
		log->hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
		struct croft_digest passed = croft_hasher_finish(hasher);
		croft_hasher_destroy(hasher);
		if (croft_digest_equal(&passed, &digest))
			return true;
		log->written_bytes = 0;
		warn("the job was run more than once; its complete %s follows", log->name);
	}
	if (digest.size_bytes <= IN_MEMORY) {
		CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
		struct croft_slice bytes;
		return croft_remote_read(log->client->remote, &digest, arena, &bytes, err) &&
			pass_on_bytes(log, bytes, err);
	}
	const char *parent = getenv("TMPDIR");
	CROFT_CLEANUP_FD int fd =
		open(parent && *parent ? parent : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "making a temporary file ($TMPDIR says where)");
	return croft_remote_read_to_fd(log->client->remote, &digest, fd, err) &&
		pass_on_file(log, fd, digest.size_bytes, err);
}

bool livelog_finish(struct livelog *log, const Reapi__Digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	stop(log);
	bool ok = true;
	if (log->failure.code != CROFT_OK)
		failure = log->failure, ok = false;
	else if (bytes.data && bytes.size)
		ok = pass_on_bytes(log, bytes, &failure);
	else if (digest && digest->size_bytes > 0)
		ok = pass_on_blob(log, digest, &failure);
	if (ok)
		return true;
	if (err)
		*err = failure;
	return croft_error_wrap(err, "the job's %s", log->name);
}

void livelog_destroy(struct livelog *log)
{
	if (!log)
		return;
	stop(log);
	croft_hasher_destroy(log->hasher);
	pthread_mutex_destroy(&log->lock);
	pthread_cond_destroy(&log->wake);
	free(log);
}
