/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/logs.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { TAIL_BYTES = 1 << 20 };

struct croft_job_logs {
	int folder;
	struct stream {
		int fd;
		char name[128];
		uint64_t size;
		struct croft_error failed; /* the first write that did */
	} streams[2];
};

static bool open_stream(struct croft_job_logs *logs, int i, const char *lease,
	struct croft_error *err)
{
	struct stream *stream = &logs->streams[i];
	snprintf(stream->name, sizeof(stream->name), "%.100s.%s", lease, i ? "stderr" : "stdout");
	stream->fd =
		openat(logs->folder, stream->name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	return stream->fd >= 0 || croft_error_errno(err, errno, "creating the log %s", stream->name);
}

bool croft_job_logs_open(const char *folder, const char *lease, struct croft_job_logs **result,
	struct croft_error *err)
{
	struct croft_job_logs *logs = croft_zalloc(sizeof(*logs));
	logs->streams[0].fd = logs->streams[1].fd = -1;
	logs->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (logs->folder < 0)
		croft_error_errno(err, errno, "opening %s", folder);
	else if (open_stream(logs, 0, lease, err) && open_stream(logs, 1, lease, err)) {
		*result = logs;
		return true;
	}
	croft_job_logs_destroy(logs);
	return false;
}

void croft_job_logs_append(struct croft_job_logs *logs, int stream, struct croft_slice data)
{
	struct stream *log = &logs->streams[stream - 1];
	if (log->failed.code == CROFT_OK)
		croft_write_all(log->fd, data.data, data.size, log->name, &log->failed);
	log->size += data.size;
}

uint64_t croft_job_logs_size(const struct croft_job_logs *logs, int stream)
{
	return logs->streams[stream - 1].size;
}

struct croft_slice croft_job_logs_tail(const struct croft_job_logs *logs, int stream,
	struct croft_arena *arena)
{
	const struct stream *log = &logs->streams[stream - 1];
	size_t size = log->size < TAIL_BYTES ? (size_t)log->size : TAIL_BYTES;
	char *bytes = croft_arena_alloc(arena, size + 1);
	if (log->failed.code != CROFT_OK ||
		!croft_pread_all(log->fd, bytes, size, log->size - size, log->name, NULL))
		return CROFT_SLICE("", 0);
	return CROFT_SLICE(bytes, size);
}

bool croft_job_logs_finish(struct croft_job_logs *logs, struct croft_upload *upload,
	Reapi__ActionResult *result, struct croft_arena *arena, struct croft_error *err)
{
	for (int i = 0; i < 2; i++) {
		struct stream *log = &logs->streams[i];
		struct croft_digest digest;
		if (log->failed.code != CROFT_OK) {
			if (err)
				*err = log->failed;
			return false;
		}
		if (!croft_digest_of_fd(log->fd, &digest, err) ||
			!croft_upload_file(upload, &digest, logs->folder, log->name, err))
			return false;
		*(i ? &result->stderr_digest : &result->stdout_digest) =
			croft_digest_to_message(&digest, arena);
	}
	return true;
}

void croft_job_logs_destroy(struct croft_job_logs *logs)
{
	if (!logs)
		return;
	for (int i = 0; i < 2; i++) {
		if (logs->streams[i].fd < 0)
			continue;
		close(logs->streams[i].fd);
		unlinkat(logs->folder, logs->streams[i].name, 0);
	}
	if (logs->folder >= 0)
		close(logs->folder);
	free(logs);
}
