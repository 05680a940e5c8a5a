/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Output of running jobs: kept in memory while they run, read from their result's blobs afterwards.
 */
#include "sched/core/core.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

enum { READ_BYTES = 256 * 1024 };

/* How many of the bytes from `offset` to `end` are in the log already. A gap begins it anew (this
 * server was away meanwhile), and so does what reaches further back. */
static uint64_t known_bytes(struct live_log *log, uint64_t offset, uint64_t end)
{
	uint64_t log_end = log->start + log->size;
	if (log->size > 0 && offset <= log_end && (offset >= log->start || end < log_end))
		return log_end - offset;
	log->start = offset;
	log->size = 0;
	return 0;
}

void log_append(struct croft_sched *sched, struct task *task, int stream, uint64_t offset,
	struct croft_slice data)
{
	if (data.size == 0)
		return;
	if (!task->logs)
		task->logs = croft_zalloc(sizeof(*task->logs));
	struct live_log *log = &task->logs->streams[stream];
	uint64_t known = known_bytes(log, offset, offset + data.size);
	if (known >= data.size)
		return;
	data = CROFT_SLICE((const char *)data.data + known, data.size - (size_t)known);
	size_t excess = log->size + data.size > LOG_KEEP_BYTES ? log->size + data.size - LOG_KEEP_BYTES : 0;
	if (excess > log->size)
		excess = log->size;
	if (excess) {
		memmove(log->data, log->data + excess, log->size - excess);
		log->size -= excess;
		log->start += excess;
	}
	if (log->room < log->size + data.size) {
		log->room = (log->size + data.size) * 2;
		log->data = croft_realloc(log->data, log->room, 1);
	}
	memcpy(log->data + log->size, data.data, data.size);
	log->size += data.size;
	pthread_cond_broadcast(&sched->log_changed);
}

void logs_free(struct task *task)
{
	for (int i = 0; task->logs && i < 2; i++)
		free(task->logs->streams[i].data);
	free(task->logs);
	task->logs = NULL;
}

/* "operations/NAME/stdout" */
static bool parse(const char *resource, char name[NAME_TEXT], int *stream)
{
	if (strncmp(resource, "operations/", 11) != 0 || strlen(resource) < 11 + NAME_TEXT)
		return false;
	memcpy(name, resource + 11, NAME_TEXT - 1);
	name[NAME_TEXT - 1] = '\0';
	const char *end = resource + 11 + NAME_TEXT - 1;
	*stream = strcmp(end, "/stderr") == 0;
	return *stream || strcmp(end, "/stdout") == 0;
}

/* The digest of a completed task's log; false: it has none. */
static bool result_log(const struct task *task, int stream, struct croft_digest *digest)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const Reapi__ExecuteResponse *response = croft_message_decode(
		&reapi__execute_response__descriptor, task->response, arena, NULL, NULL);
	if (!response || !response->result)
		return false;
	const Reapi__Digest *message =
		stream ? response->result->stderr_digest : response->result->stdout_digest;
	return message && croft_digest_from_message(message, "a log", digest, NULL);
}

static bool read_result_log(struct croft_sched *sched, const struct croft_digest *digest,
	uint64_t offset, struct croft_arena *arena, struct croft_slice *data, bool *finished,
	struct croft_error *err)
{
	*data = CROFT_SLICE(NULL, 0);
	*finished = true;
	if (offset >= digest->size_bytes)
		return true;
	struct croft_store_blob *blob = croft_store_open_blob(sched->store, digest, err);
	if (!blob)
		return false;
	char *buffer = croft_arena_alloc(arena, READ_BYTES);
	ssize_t got = croft_store_blob_read(blob, buffer, READ_BYTES, offset, err);
	croft_store_blob_close(blob);
	if (got < 0)
		return false;
	*data = CROFT_SLICE(buffer, (size_t)got);
	*finished = offset + (uint64_t)got >= digest->size_bytes;
	return true;
}

static bool read_live_log(const struct live_log *log, uint64_t offset, struct croft_arena *arena,
	struct croft_slice *data, struct croft_error *err)
{
	if (offset < log->start)
		return croft_error_set(err, CROFT_OUT_OF_RANGE,
			"the log's bytes before offset %llu are no longer kept: read the result's log when the "
			"operation is done", (unsigned long long)log->start);
	uint64_t skip = offset - log->start;
	size_t size = skip < log->size ? log->size - (size_t)skip : 0;
	if (size > READ_BYTES)
		size = READ_BYTES;
	*data = CROFT_SLICE(size ? croft_arena_copy(arena, log->data + skip, size) : NULL, size);
	return true;
}

bool croft_sched_read_log(struct croft_sched *sched, const char *resource_name, uint64_t offset,
	struct croft_arena *arena, struct croft_slice *data, bool *finished, unsigned wait_ms,
	struct croft_error *err)
{
	char name[NAME_TEXT];
	int stream;
	if (!parse(resource_name, name, &stream))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"'%s' is no log: operations/NAME/stdout or stderr is wanted", resource_name);
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	sched_lock(sched);
	for (bool late = false;;) {
		struct operation *operation = find_operation(sched, name);
		if (!operation) {
			sched_unlock(sched);
			return croft_error_set(err, CROFT_NOT_FOUND, "there is no operation %s", name);
		}
		if (operation->task->state == TASK_COMPLETED || operation->cancelled) {
			struct croft_digest digest;
			bool has = result_log(operation->task, stream, &digest);
			sched_unlock(sched);
			*data = CROFT_SLICE(NULL, 0);
			*finished = true;
			return !has || read_result_log(sched, &digest, offset, arena, data, finished, err);
		}
		const struct live_logs *logs = operation->task->logs;
		bool ok = read_live_log(
			logs ? &logs->streams[stream] : &(struct live_log){0}, offset, arena, data, err);
		*finished = false;
		if (!ok || data->size > 0 || late || sched->stopping) {
			sched_unlock(sched);
			return ok;
		}
		late = pthread_cond_timedwait(&sched->log_changed, &sched->lock, &until) == ETIMEDOUT;
	}
}
