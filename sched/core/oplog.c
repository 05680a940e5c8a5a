/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/oplog.h"

#include "google/rpc/status.pb-c.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char header[] = "croft-operation-log 1\n";
enum { ROOT_DIGITS = 16 /* of a hash: enough to tell roots apart */ };

struct oplog {
	char *path, *older;
	int fd; /* -1: it could not be opened */
	uint64_t size, most; /* of the file */
	FILE *lines; /* into the buffer */
	char *buffer;
	size_t buffered;
	bool torn;   /* the file may end inside a line */
	bool failed; /* which was told */
};

static void tell(struct oplog *log, const char *what)
{
	if (!log->failed)
		croft_log(CROFT_LOG_WARNING, "the operation log goes without what happens now: %s %s: %s", what,
			log->path, strerror(errno));
	log->failed = true;
}

static bool open_file(struct oplog *log)
{
	struct stat stat;
	log->fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (log->fd < 0 || fstat(log->fd, &stat) != 0) {
		tell(log, "opening");
		return false;
	}
	log->size = (uint64_t)stat.st_size;
	if (log->size < sizeof(header) - 1 && ftruncate(log->fd, 0) == 0)
		log->size = 0;
	log->torn = log->size > 0;
	return true;
}

struct oplog *oplog_open(const char *path, uint64_t most_bytes)
{
	struct oplog *log = croft_zalloc(sizeof(*log));
	log->path = croft_strdup(path);
	if (asprintf(&log->older, "%s.1", path) < 0)
		abort();
	log->most = most_bytes / 2;
	log->lines = open_memstream(&log->buffer, &log->buffered);
	if (!log->lines)
		abort();
	open_file(log);
	return log;
}

void oplog_close(struct oplog *log)
{
	if (!log)
		return;
	oplog_flush(log);
	if (log->fd >= 0)
		close(log->fd);
	fclose(log->lines);
	free(log->buffer);
	free(log->path);
	free(log->older);
	free(log);
}

/* Lines ------------------------------------------------------------------------------------------- */

/* As in a URL, so that no value has a space or a line's end in it. */
static void put_text(FILE *lines, const char *name, struct croft_slice text)
{
	const unsigned char *bytes = text.data;
	fprintf(lines, " %s=", name);
	for (size_t i = 0; i < text.size; i++)
		if (bytes[i] <= ' ' || bytes[i] == '%' || bytes[i] == 0x7f)
			fprintf(lines, "%%%02X", bytes[i]);
		else
			putc_unlocked(bytes[i], lines);
}

static void put_number(FILE *lines, const char *name, uint64_t number)
{
	fprintf(lines, " %s=%" PRIu64, name, number);
}

static void put_end(FILE *lines, const Farm__JobDone *done)
{
	if (done->status)
		fprintf(lines, " end=status:%d", done->status->code);
	else
		fprintf(lines, " end=exit:%d", done->result ? done->result->exit_code : 0);
}

static void put_inputs(FILE *lines, const Farm__InputAccount *inputs)
{
	put_number(lines, "inputs", inputs->input_bytes);
	put_number(lines, "fetched", inputs->fetched_bytes);
	put_number(lines, "touched", inputs->touched_bytes);
	put_number(lines, "stall", inputs->stall_ms);
}

static void put_outputs(FILE *lines, const Reapi__ActionResult *result)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < result->n_output_files; i++)
		if (result->output_files[i]->digest)
			bytes += (uint64_t)result->output_files[i]->digest->size_bytes;
	put_number(lines, "outputs", result->n_output_files + result->n_output_directories);
	put_number(lines, "output-bytes", bytes);
}

static void put_roots(FILE *lines, const Farm__JobDone *done)
{
	const char *separator = " roots=";
	for (size_t i = 0; i < done->n_roots; i++) {
		const Farm__PresentRoot *root = done->roots[i];
		if (!root->root || strlen(root->root->hash) < ROOT_DIGITS)
			continue;
		fprintf(lines, "%s%.*s:%" PRIu64 ":%" PRIu64, separator, ROOT_DIGITS, root->root->hash,
			root->present_bytes, root->total_bytes);
		separator = ",";
	}
}

void oplog_add(struct oplog *log, const struct oplog_run *run, const Farm__JobDone *done, double run_seconds)
{
	FILE *lines = log->lines;
	fprintf(lines, "run operation=%s", run->operation);
	put_number(lines, "queued", (uint64_t)(run->queued_unix_ns / 1000000));
	if (run->leased_unix_ns) {
		/* The time of day may have been set back in between. */
		int64_t wait_ns = run->leased_unix_ns - run->queued_unix_ns;
		put_number(lines, "wait", wait_ns > 0 ? (uint64_t)wait_ns / 1000000 : 0);
	}
	put_number(lines, "run", (uint64_t)(run_seconds * 1000 + 0.5));
	put_text(lines, "agent", croft_slice_str(run->agent_id));
	put_number(lines, "slots", run->slots);
	put_number(lines, "attempt", run->attempt);
	put_text(lines, "kind", run->info.kind);
	put_text(lines, "family", run->info.family);
	put_text(lines, "tenant", run->info.tenant);
	fprintf(lines, " priority=%" PRId32, run->priority);
	put_end(lines, done);
	if (done->inputs)
		put_inputs(lines, done->inputs);
	if (done->result)
		put_outputs(lines, done->result);
	put_roots(lines, done);
	putc_unlocked('\n', lines);
}

/* The file ------------------------------------------------------------------------------------------ */

static bool turn_over(struct oplog *log)
{
	if (rename(log->path, log->older) != 0) {
		tell(log, "renaming");
		return false;
	}
	close(log->fd);
	return open_file(log);
}

static bool write_text(struct oplog *log, const char *text, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!croft_write_all(log->fd, text, size, log->path, &err)) {
		log->torn = ftruncate(log->fd, (off_t)log->size) != 0;
		errno = err.sys_errno;
		tell(log, "writing");
		return false;
	}
	log->size += size;
	return true;
}

static bool begin(struct oplog *log)
{
	if (log->size == 0)
		return write_text(log, header, sizeof(header) - 1);
	bool torn = log->torn;
	log->torn = false;
	return !torn || write_text(log, "\n", 1);
}

void oplog_flush(struct oplog *log)
{
	fflush(log->lines);
	size_t size = log->buffered;
	if (size == 0)
		return;
	if ((log->fd >= 0 || open_file(log)) && (log->size == 0 || log->size + size <= log->most || turn_over(log)) &&
		begin(log) && write_text(log, log->buffer, size) && log->failed) {
		croft_log(CROFT_LOG_INFO, "the operation log goes on");
		log->failed = false;
	}
	rewind(log->lines);
}
