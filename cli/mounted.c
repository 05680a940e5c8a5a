/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mounted.h"

#include "cli/output.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { RENEWED_EVERY_MS = 200, LINE_BYTES = 256 };

/* "210 blobs, 48.1 MiB fetched; 3 blobs, 12.0 MiB on their way; 2 retries" */
static const char *describe(const struct croft_mount_counters *counters, char line[LINE_BYTES])
{
	char fetched[SIZE_TEXT], waiting[SIZE_TEXT];
	int size = snprintf(line, LINE_BYTES, "%" PRIu64 " blobs, %s fetched", counters->fetched_blobs,
		format_size(counters->fetched_bytes, fetched));
	if (counters->waiting_blobs)
		size += snprintf(line + size, LINE_BYTES - (size_t)size, "; %" PRIu64 " blobs, %s on their way",
			counters->waiting_blobs, format_size(counters->waiting_bytes, waiting));
	if (counters->retries)
		size += snprintf(line + size, LINE_BYTES - (size_t)size, "; %" PRIu64 " retries", counters->retries);
	if (counters->failures)
		snprintf(line + size, LINE_BYTES - (size_t)size, "; %" PRIu64 " failed", counters->failures);
	return line;
}

bool mounted_print(const char *path, bool json, struct croft_error *err)
{
	struct croft_mount_counters counters;
	char line[LINE_BYTES];
	if (!croft_mount_ask_counters(path, &counters, err))
		return false;
	if (!json) {
		puts(describe(&counters, line));
		return output_flush(err);
	}
	return json_print(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
				  "fetched_blobs", (json_int_t)counters.fetched_blobs,
				  "fetched_bytes", (json_int_t)counters.fetched_bytes,
				  "from_peers_bytes", (json_int_t)counters.from_peers_bytes,
				  "background_bytes", (json_int_t)counters.background_bytes,
				  "waiting_blobs", (json_int_t)counters.waiting_blobs,
				  "waiting_bytes", (json_int_t)counters.waiting_bytes,
				  "retries", (json_int_t)counters.retries,
				  "failures", (json_int_t)counters.failures,
				  "bad_bytes", (json_int_t)counters.bad_bytes),
		err);
}

struct mounted_line {
	const struct croft_fetcher *fetcher;
	pthread_t thread;
	int end_fd;
};

static void *renew(void *user)
{
	struct mounted_line *line = user;
	struct pollfd end = {.fd = line->end_fd, .events = POLLIN};
	struct croft_mount_counters counters, before = {0};
	char text[LINE_BYTES];
	while (poll(&end, 1, RENEWED_EVERY_MS) <= 0) {
		croft_mount_counters_of(line->fetcher, &counters);
		if (memcmp(&counters, &before, sizeof(counters)) != 0)
			progress("%s", describe(&counters, text));
		before = counters;
	}
	progress_clear();
	return NULL;
}

struct mounted_line *mounted_line_start(const struct croft_fetcher *fetcher)
{
	if (!isatty(STDERR_FILENO))
		return NULL;
	struct mounted_line *line = croft_zalloc(sizeof(*line));
	line->fetcher = fetcher;
	line->end_fd = eventfd(0, EFD_CLOEXEC);
	if (line->end_fd >= 0 && pthread_create(&line->thread, NULL, renew, line) == 0) {
		pthread_setname_np(line->thread, "progress");
		return line;
	}
	warn("what is fetched cannot be shown: %s", strerror(errno));
	if (line->end_fd >= 0)
		close(line->end_fd);
	free(line);
	return NULL;
}

void mounted_line_stop(struct mounted_line *line)
{
	if (!line)
		return;
	eventfd_write(line->end_fd, 1);
	pthread_join(line->thread, NULL);
	close(line->end_fd);
	free(line);
}
