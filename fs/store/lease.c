/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leases last over restarts: each is written to a log (leases/<number>) before the answer that gives
 * it goes out; with one sync for all who wait at that moment, in a durable store. What is granted is
 * half as long again as what was asked for, so that most renewals need not be written.
 *
 * A log file is a row of batches: struct batch_head, then that many struct lease. The first that
 * does not match its checksum ends it. Files go when the last lease in them has ended.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#define XXH_INLINE_ALL
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
	ZEROS = 256 << 10,     /* written ahead: see log.c */
	FILE_MOST = 16 << 20,  /* a new file then */
};
static const uint32_t batch_magic = 0x316c5243; /* "CRl1" */

struct batch_head {
	uint32_t magic, count;
	uint64_t checksum; /* XXH3 of the leases, seeded with the count */
};
struct lease {
	uint64_t key, until_ms;
};

struct lease_file {
	uint32_t number;
	uint64_t size, until_ms; /* the last to end */
	struct lease_file *next;
};

struct store_leases {
	int dir_fd, fd; /* fd: of the newest file; -1: none yet */
	struct lease_file *files; /* newest first */
	uint64_t begun_ms;        /* the newest */
	uint64_t zeroed;
	uint64_t bytes; /* of all; `lock` */
	/* Of those who wait; `lock`. */
	struct lease *waiting;
	size_t count, room;
	uint64_t ticket, written;
	bool writing;
	pthread_cond_t done;
};

uint64_t store_lease_bytes(const struct croft_store *store)
{
	return store->leases ? store->leases->bytes : 0;
}

void store_lease(struct croft_store *store, uint64_t key, uint64_t until_ms, uint64_t grant_ms)
{
	struct store_active *active = store_activity_get(&store->activity, key);
	store_use(active, store_now_ms(store));
	if (active->lease_ms >= until_ms)
		return;
	active->lease_ms = grant_ms;
	struct store_leases *leases = store->leases;
	if (!leases) /* read-only */
		return;
	if (leases->count == leases->room) {
		leases->room = leases->room ? 2 * leases->room : 1024;
		leases->waiting = croft_realloc(leases->waiting, leases->room, sizeof(*leases->waiting));
	}
	leases->waiting[leases->count++] = (struct lease){key, active->lease_ms};
}

static void file_name(uint32_t number, char name[16])
{
	snprintf(name, 16, "%08x", number);
}

static bool open_file(struct croft_store *store, struct croft_error *err)
{
	struct store_leases *leases = store->leases;
	struct lease_file *file = croft_zalloc(sizeof(*file));
	file->number = leases->files ? leases->files->number + 1 : 1;
	char name[16];
	file_name(file->number, name);
	int fd = openat(leases->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 || (store->config.durable && fsync(leases->dir_fd) < 0)) {
		croft_error_errno(err, errno, "%s: creating leases/%s", store->path, name);
		if (fd >= 0)
			close(fd);
		free(file);
		return false;
	}
	if (leases->fd >= 0)
		close(leases->fd);
	leases->fd = fd;
	leases->zeroed = 0;
	leases->begun_ms = store_now_ms(store);
	file->next = leases->files;
	leases->files = file;
	return true;
}

/* Only one thread at a time: `writing`. */
static bool write_batch(struct croft_store *store, const struct lease *batch, size_t count,
	struct croft_error *err)
{
	struct store_leases *leases = store->leases;
	if ((leases->fd < 0 || leases->files->size > FILE_MOST ||
			store_now_ms(store) - leases->begun_ms > store->config.lease_ms) &&
		!open_file(store, err))
		return false;
	struct lease_file *file = leases->files;
	size_t bytes = sizeof(struct batch_head) + count * sizeof(*batch);
	size_t zeros = store->config.durable && file->size + bytes > leases->zeroed ? ZEROS : 0;
	CROFT_CLEANUP_FREE unsigned char *buffer = croft_zalloc(bytes + zeros);
	struct batch_head head = {batch_magic, (uint32_t)count,
		XXH3_64bits_withSeed(batch, count * sizeof(*batch), count)};
	memcpy(buffer, &head, sizeof(head));
	memcpy(buffer + sizeof(head), batch, count * sizeof(*batch));
	if (!croft_pwrite_all(leases->fd, buffer, bytes + zeros, file->size, "the log of leases", err))
		return false;
	if (store->config.durable && fdatasync(leases->fd) < 0)
		return croft_error_errno(err, errno, "syncing the log of leases");
	if (zeros)
		leases->zeroed = file->size + bytes + zeros;
	file->size += bytes;
	for (size_t i = 0; i < count; i++)
		if (file->until_ms < batch[i].until_ms)
			file->until_ms = batch[i].until_ms;
	return true;
}

/* Writes what waits. `lock` held before and after, not meanwhile. */
static void lead(struct croft_store *store)
{
	struct store_leases *leases = store->leases;
	struct lease *batch = leases->waiting;
	size_t count = leases->count;
	uint64_t ticket = leases->ticket;
	leases->waiting = NULL;
	leases->count = leases->room = 0;
	leases->writing = true;
	pthread_mutex_unlock(&store->lock);
	struct croft_error err = CROFT_ERROR_INIT;
	/* On a disk that full they hold as long as this process lives. */
	if (count && !write_batch(store, batch, count, &err))
		croft_log(CROFT_LOG_WARNING, "%s: leases will not outlast a restart: %s", store->path,
			err.message);
	free(batch);
	pthread_mutex_lock(&store->lock);
	leases->bytes += count * sizeof(*batch) + sizeof(struct batch_head);
	leases->writing = false;
	leases->written = ticket;
	pthread_cond_broadcast(&leases->done);
}

void store_lease_commit(struct croft_store *store)
{
	struct store_leases *leases = store->leases;
	if (!leases)
		return;
	CROFT_LOCKED(&store->lock);
	/* Ours are waiting, being written by someone else, or there was nothing new. */
	if (leases->count == 0 && !leases->writing)
		return;
	uint64_t mine = leases->count ? ++leases->ticket : leases->ticket;
	while (leases->written < mine) {
		if (leases->writing)
			pthread_cond_wait(&leases->done, &store->lock);
		else
			lead(store);
	}
}

/* Reading back ---------------------------------------------------------------------------------- */

static void take_batch(struct croft_store *store, struct lease_file *file, const struct lease *batch,
	size_t count, uint64_t now_ms)
{
	for (size_t i = 0; i < count; i++) {
		if (file->until_ms < batch[i].until_ms)
			file->until_ms = batch[i].until_ms;
		if (batch[i].until_ms <= now_ms)
			continue;
		struct store_active *active = store_activity_get(&store->activity, batch[i].key);
		if (active->lease_ms < batch[i].until_ms)
			active->lease_ms = batch[i].until_ms;
	}
}

static bool read_file(struct croft_store *store, struct lease_file *file, struct croft_error *err)
{
	char name[16];
	file_name(file->number, name);
	CROFT_CLEANUP_FD int fd = openat(store->leases->dir_fd, name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return croft_error_errno(err, errno, "%s: reading leases/%s", store->path, name);
	file->size = (uint64_t)st.st_size;
	uint64_t now_ms = store_now_ms(store);
	struct batch_head head;
	for (uint64_t at = 0; at + sizeof(head) <= file->size;) {
		if (!croft_pread_all(fd, &head, sizeof(head), at, "the log of leases", err))
			return false;
		uint64_t bytes = (uint64_t)head.count * sizeof(struct lease);
		if (head.magic != batch_magic || bytes > file->size - at - sizeof(head))
			break;
		CROFT_CLEANUP_FREE struct lease *batch = croft_alloc((size_t)bytes + 1);
		if (!croft_pread_all(
				fd, batch, (size_t)bytes, at + sizeof(head), "the log of leases", err))
			return false;
		if (head.checksum != XXH3_64bits_withSeed(batch, (size_t)bytes, head.count))
			break;
		take_batch(store, file, batch, head.count, now_ms);
		at += sizeof(head) + bytes;
	}
	return true;
}

bool store_leases_open(struct croft_store *store, struct croft_error *err)
{
	struct store_leases *leases = store->leases = croft_zalloc(sizeof(*leases));
	leases->fd = leases->dir_fd = -1;
	pthread_cond_init(&leases->done, NULL);
	if (mkdirat(store->root_fd, "leases", 0755) < 0 && errno != EEXIST)
		return croft_error_errno(err, errno, "%s: making leases/", store->path);
	leases->dir_fd = openat(store->root_fd, "leases", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (leases->dir_fd < 0)
		return croft_error_errno(err, errno, "%s: opening leases/", store->path);
	CROFT_CLEANUP_FREE uint32_t *numbers = NULL;
	size_t count = 0;
	if (!store_list_numbered(leases->dir_fd, &numbers, &count, err))
		return croft_error_wrap(err, "%s: leases/", store->path);
	struct lease_file **tail = &leases->files;
	for (size_t i = count; i-- > 0;) { /* the newest is the first of the list */
		struct lease_file *file = *tail = croft_zalloc(sizeof(*file));
		file->number = numbers[i];
		tail = &file->next;
		if (!read_file(store, file, err))
			return false;
		leases->bytes += file->size;
	}
	return true;
}

void store_leases_close(struct croft_store *store)
{
	struct store_leases *leases = store->leases;
	if (!leases)
		return;
	for (struct lease_file *next, *file = leases->files; file; file = next) {
		next = file->next;
		free(file);
	}
	if (leases->fd >= 0)
		close(leases->fd);
	if (leases->dir_fd >= 0)
		close(leases->dir_fd);
	pthread_cond_destroy(&leases->done);
	free(leases->waiting);
	free(leases);
	store->leases = NULL;
}

void store_leases_sweep(struct croft_store *store)
{
	struct store_leases *leases = store->leases;
	CROFT_LOCKED(&store->lock);
	uint64_t now_ms = store_now_ms(store);
	uint64_t until_ms = now_ms + store->config.lease_ms;
	/* What is held or open must still be there for who comes back after a restart. */
	for (size_t i = 0; i < store->activity.room; i++) {
		const struct store_active *active = &store->activity.slots[i];
		if (active->key && active->pins &&
			active->lease_ms < until_ms - store->config.lease_ms / 2)
			store_lease(store, active->key, until_ms, until_ms);
	}
	if (leases->writing)
		return;
	/* The newest is being written to, if there is one open. */
	struct lease_file **at = &leases->files;
	if (*at && leases->fd >= 0)
		at = &(*at)->next;
	while (*at) {
		struct lease_file *file = *at;
		if (file->until_ms > now_ms) {
			at = &file->next;
			continue;
		}
		char name[16];
		file_name(file->number, name);
		unlinkat(leases->dir_fd, name, 0);
		leases->bytes -= file->size < leases->bytes ? file->size : leases->bytes;
		*at = file->next;
		free(file);
	}
}
