/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The scrub: a thread that checks stored blobs, round and round at a low rate, so that decay is found while
 * another copy can still be had. Builds go first: while the machine has more to run than processors it waits, but not
 * for ever. (A lower scheduling class would have it wait for them while it holds what they need, such as
 * the store's lock, and an ordinary user may not leave that class again.)
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
	LIST = 256,
	AT_ONCE = 1 << 20, /* bytes between two waits: small blobs are not worth a wake-up each */
	BUSY_MS = 250,     /* until a busy machine is looked at again */
	BUSY_LOOKS = 8,    /* as often, then it is this thread's turn: there are farms that are never idle */
};

/* Whether `running` tasks, of which this thread is one, leave a processor free; /proc/loadavg tells them as
 * "0.20 0.18 0.12 RUNNING/ALL PID". */
bool store_machine_is_busy(const char *loadavg, unsigned processors)
{
	unsigned running;
	return sscanf(loadavg, "%*s %*s %*s %u/", &running) == 1 && running > processors;
}

static bool busy(const struct croft_store *store)
{
	if (store->config.scrub_busy)
		return store->config.scrub_busy(store->config.scrub_user);
	char text[128];
	CROFT_CLEANUP_FD int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (size <= 0)
		return false;
	text[size] = '\0';
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	return store_machine_is_busy(text, processors > 0 ? (unsigned)processors : 1);
}

/* False: the store is closing. */
static bool wait_ns(struct croft_store *store, uint64_t ns)
{
	uint64_t until_ns = croft_now_ns() + ns;
	struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
	CROFT_LOCKED(&store->lock);
	while (!store->scrub.stop && croft_now_ns() < until_ns)
		pthread_cond_timedwait(&store->scrub.wake, &store->lock, &until);
	return !store->scrub.stop;
}

/* Waits as long as reading `bytes` may take at the rate, and until the machine has nothing better to do. */
static bool pace(struct croft_store *store, uint64_t bytes)
{
	bool go_on = wait_ns(store,
		(uint64_t)((double)bytes * 1e9 / (double)store->config.scrub_bytes_per_second));
	for (unsigned looks = 0; go_on && looks < BUSY_LOOKS && busy(store); looks++)
		go_on = wait_ns(store, (uint64_t)BUSY_MS * 1000000);
	return go_on;
}

/* The blob's size, if it was read. */
static uint64_t scrub_blob(struct croft_store *store, const uint8_t *hash)
{
	const char *why;
	struct store_entry entry = {0};
	int good = store_check_blob(store, hash, &why, &entry, NULL);
	if (good == 0) {
		struct croft_digest digest = {.size_bytes = entry.size};
		memcpy(digest.hash, hash, CROFT_HASH_SIZE);
		store_quarantine(store, &digest, &entry, why);
	}
	return good == 2 ? 0 : entry.size;
}

static void *scrub(void *user)
{
	struct croft_store *store = user;
	uint8_t hashes[LIST][CROFT_HASH_SIZE], last[CROFT_HASH_SIZE];
	uint64_t owed = 0;
	bool begun = false, go_on = true;
	while (go_on) {
		struct croft_error err = CROFT_ERROR_INIT;
		ssize_t count = store_list_blobs(store, begun ? last : NULL, hashes, LIST, &err);
		if (count <= 0) { /* from the start again; not at once when there is nothing */
			if (count < 0)
				croft_log(CROFT_LOG_WARNING, "%s: scrub: %s", store->path, err.message);
			begun = false;
			go_on = pace(store, owed + 10 * store->config.scrub_bytes_per_second);
			owed = 0;
			continue;
		}
		for (ssize_t i = 0; go_on && i < count; i++) {
			owed += scrub_blob(store, hashes[i]);
			if (owed < AT_ONCE && owed < store->config.scrub_bytes_per_second)
				continue;
			go_on = pace(store, owed);
			owed = 0;
		}
		memcpy(last, hashes[count - 1], CROFT_HASH_SIZE);
		begun = true;
	}
	return NULL;
}

bool store_scrub_start(struct croft_store *store, struct croft_error *err)
{
	if (!store->config.scrub_bytes_per_second)
		return true;
	int code = pthread_create(&store->scrub.thread, NULL, scrub, store);
	if (code)
		return croft_error_errno(err, code, "starting the store's scrub");
	pthread_setname_np(store->scrub.thread, "store-scrub");
	store->scrub.running = true;
	return true;
}

void store_scrub_stop(struct croft_store *store)
{
	if (!store->scrub.running)
		return;
	pthread_mutex_lock(&store->lock);
	store->scrub.stop = true;
	pthread_cond_signal(&store->scrub.wake);
	pthread_mutex_unlock(&store->lock);
	pthread_join(store->scrub.thread, NULL);
	store->scrub.running = false;
}
