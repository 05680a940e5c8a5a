/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/opens.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <unistd.h>

enum {
	PATHS_AT_MOST = 1 << 17,
	BUCKETS_AT_FIRST = 1024,
	IDLE_AT_MOST = 64,
	/* How long events gather while a job opens files: then no open has a thread to wake. Longer was
	 * measured to be dearer. */
	GATHER_MS = 10,
};

struct croft_listeners {
	int links; /* /proc/self/fd, held open: to walk there for each event is a quarter of what its path costs */
	pthread_mutex_t lock; /* guards: everything below */
	int idle[IDLE_AT_MOST];
	unsigned count;
};

struct croft_opens {
	struct croft_listeners *listeners;
	int fanotify, stop;
	pthread_t thread;
	bool running;
	bool incomplete; /* something was opened that is not noted; of the thread as well */
	/* Of the thread, until it has ended: */
	char *text;
	size_t size, room, count;
	size_t *buckets, bucket_count; /* a path's place in `text` + 1, by its hash; open addressing */
};

static uint64_t hash_of(const char *text)
{
	uint64_t hash = 14695981039346656037u;
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 1099511628211u;
	return hash;
}

static size_t *place_of(const struct croft_opens *opens, const char *path)
{
	size_t at = hash_of(path) & (opens->bucket_count - 1);
	while (opens->buckets[at] && strcmp(opens->text + opens->buckets[at] - 1, path) != 0)
		at = (at + 1) & (opens->bucket_count - 1);
	return &opens->buckets[at];
}

static void grow(struct croft_opens *opens)
{
	free(opens->buckets);
	opens->bucket_count *= 2;
	opens->buckets = croft_array(opens->bucket_count, sizeof(*opens->buckets));
	for (size_t at = 0; at < opens->size; at += strlen(opens->text + at) + 1)
		*place_of(opens, opens->text + at) = at + 1;
}

static void note(struct croft_opens *opens, const char *path)
{
	size_t *place = place_of(opens, path), size = strlen(path) + 1;
	if (*place)
		return;
	if (opens->count == PATHS_AT_MOST) {
		opens->incomplete = true;
		return;
	}
	if (opens->size + size > opens->room) {
		opens->room = (opens->size + size) * 2;
		opens->text = croft_realloc(opens->text, opens->room, 1);
	}
	*place = opens->size + 1;
	memcpy(opens->text + opens->size, path, size);
	opens->size += size;
	if (++opens->count * 2 > opens->bucket_count)
		grow(opens);
}

/* Of one that was removed since it was opened the kernel says so, behind its name; but a name may end like that. */
static void note_removed(struct croft_opens *opens, char *path, size_t size)
{
	static const char removed[] = " (deleted)";
	size_t tail = sizeof(removed) - 1;
	if (size <= tail || strcmp(path + size - tail, removed) != 0)
		return;
	path[size - tail] = '\0';
	note(opens, path);
}

/* The path of an opened file as it is below the job's root: its mount is none of ours. One that was renamed since has
 * its new one, which is no input's. */
static void on_event(struct croft_opens *opens, const struct fanotify_event_metadata *event)
{
	char link[16], path[PATH_MAX];
	if (event->fd < 0) {
		opens->incomplete = true; /* no descriptor was to be had, or the queue ran over */
		return;
	}
	snprintf(link, sizeof(link), "%d", event->fd);
	ssize_t size = readlinkat(opens->listeners->links, link, path, sizeof(path) - 1);
	close(event->fd);
	if (size < 0)
		opens->incomplete = true; /* a path longer than the kernel tells */
	if (size <= 1 || path[0] != '/')
		return;
	path[size] = '\0';
	note(opens, path + 1);
	note_removed(opens, path + 1, (size_t)size - 1);
}

/* All that there are now; false: there were none. */
static bool read_events(struct croft_opens *opens)
{
	char buffer[8192] __attribute__((aligned(8)));
	for (bool any = false;; any = true) {
		ssize_t size = read(opens->fanotify, buffer, sizeof(buffer));
		if (size < 0 && errno == EINTR)
			continue;
		if (size <= 0)
			return any;
		const struct fanotify_event_metadata *event = (const void *)buffer;
		for (; FAN_EVENT_OK(event, size); event = FAN_EVENT_NEXT(event, size))
			on_event(opens, event);
	}
}

/* A job that opens nothing costs nothing; one that opens much is heard in batches. */
static bool wait_for_events(struct croft_opens *opens, bool busy)
{
	struct pollfd polled[] = {{opens->stop, POLLIN, 0}, {opens->fanotify, POLLIN, 0}};
	return busy ? poll(polled, 1, GATHER_MS) == 0 : poll(polled, 2, -1) < 0 || !polled[0].revents;
}

static void *listen_all(void *user)
{
	struct croft_opens *opens = user;
	bool busy = false;
	while (wait_for_events(opens, busy))
		busy = read_events(opens);
	read_events(opens); /* what was opened before the end was said */
	return NULL;
}

/* Groups --------------------------------------------------------------------------------------------- */

struct croft_listeners *croft_listeners_create(void)
{
	struct croft_listeners *listeners = croft_zalloc(sizeof(*listeners));
	pthread_mutex_init(&listeners->lock, NULL);
	listeners->links = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return listeners;
}

void croft_listeners_destroy(struct croft_listeners *listeners)
{
	if (!listeners)
		return;
	while (listeners->count > 0)
		close(listeners->idle[--listeners->count]);
	if (listeners->links >= 0)
		close(listeners->links);
	pthread_mutex_destroy(&listeners->lock);
	free(listeners);
}

static int take_group(struct croft_listeners *listeners)
{
	CROFT_LOCKED(&listeners->lock);
	if (listeners->count > 0)
		return listeners->idle[--listeners->count];
	return fanotify_init(
		FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS,
		O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NOATIME | O_NONBLOCK);
}

/* Without its mark it hears of nothing more. */
static void give_group(struct croft_listeners *listeners, int fanotify)
{
	bool clean = fanotify_mark(fanotify, FAN_MARK_FLUSH | FAN_MARK_FILESYSTEM, 0, AT_FDCWD, "/") == 0;
	pthread_mutex_lock(&listeners->lock);
	bool kept = clean && listeners->count < IDLE_AT_MOST;
	if (kept)
		listeners->idle[listeners->count++] = fanotify;
	pthread_mutex_unlock(&listeners->lock);
	if (!kept)
		close(fanotify);
}

/* One job ------------------------------------------------------------------------------------------- */

struct croft_opens *croft_opens_start(struct croft_listeners *listeners)
{
	/* Without /proc nothing could be told of an event. */
	int fanotify = listeners->links >= 0 ? take_group(listeners) : -1;
	if (fanotify < 0)
		return NULL;
	struct croft_opens *opens = croft_zalloc(sizeof(*opens));
	opens->listeners = listeners;
	opens->fanotify = fanotify;
	opens->stop = eventfd(0, EFD_CLOEXEC);
	opens->bucket_count = BUCKETS_AT_FIRST;
	opens->buckets = croft_array(opens->bucket_count, sizeof(*opens->buckets));
	opens->running = opens->stop >= 0 &&
		pthread_create(&opens->thread, NULL, listen_all, opens) == 0;
	if (opens->running)
		return opens;
	croft_log(CROFT_LOG_WARNING, "listening to what a job opens: no descriptor or thread is to be had");
	croft_opens_destroy(opens);
	return NULL;
}

int croft_opens_fd(const struct croft_opens *opens)
{
	return opens ? opens->fanotify : 0;
}

static void stop(struct croft_opens *opens)
{
	if (!opens->running)
		return;
	eventfd_write(opens->stop, 1);
	pthread_join(opens->thread, NULL);
	opens->running = false;
}

struct croft_slice croft_opens_finish(struct croft_opens *opens, const char *prefix, size_t *count)
{
	stop(opens);
	while (*prefix == '/')
		prefix++;
	size_t skipped = strlen(prefix), kept = 0;
	*count = 0;
	for (size_t at = 0, size; at < opens->size; at += size) {
		const char *path = opens->text + at;
		size = strlen(path) + 1;
		if (skipped && (strncmp(path, prefix, skipped) != 0 || path[skipped] != '/'))
			continue;
		size_t from = skipped ? skipped + 1 : 0;
		memmove(opens->text + kept, path + from, size - from);
		kept += size - from;
		++*count;
	}
	opens->size = kept;
	return CROFT_SLICE(opens->text, kept);
}

bool croft_opens_complete(const struct croft_opens *opens)
{
	return !opens->incomplete;
}

void croft_opens_destroy(struct croft_opens *opens)
{
	if (!opens)
		return;
	stop(opens);
	read_events(opens); /* what was not waited for is not the next job's */
	give_group(opens->listeners, opens->fanotify);
	if (opens->stop >= 0)
		close(opens->stop);
	free(opens->text);
	free(opens->buckets);
	free(opens);
}
