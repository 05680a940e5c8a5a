/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking the rings of a mount to another process. The kernel has no call for it, but what it does suffices
 * (fs/fuse/dev_uring.c of Linux 6.14 to 6.18): an entry belongs to whichever process answered its last request, and it
 * knows an entry's buffers by their addresses only. So an entry with a request in it can be moved: the other process
 * maps memory at the same address, and answers.
 *
 * An entry without a request cannot, and one that is given a request while its ring is closed takes it along. So
 * there must be none: as many requests are made on each CPU as its queue has entries ("kicks": statfs, which always
 * reaches the server), and nobody answers them until the other process does. What is asked for meanwhile waits in
 * the kernel, which gives it to entries that have answered.
 *
 * Queues of CPUs that are switched off get no requests; their entries end with the ring, and new ones are registered.
 */
#include "fs/mount/ring_internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/statfs.h>
#include <time.h>

enum { KICK_STACK = 256 << 10 };

/* Threads that wait to make a request each; they live on until it is answered, whatever becomes of the rings. */
struct kicks {
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t changed;
	unsigned users;
	bool go, dismissed;
	int fd; /* of the mount's root */
};

/* Kicks --------------------------------------------------------------------------------------- */

static bool cpu_is_online(unsigned cpu)
{
	char path[64], state = '1';
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u", cpu);
	if (access(path, F_OK) != 0)
		return false; /* it is possible, but not there */
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || read(fd, &state, 1) != 1 || state == '1'; /* some cannot be switched off */
}

static void leave_kicks(struct kicks *kicks)
{
	pthread_mutex_lock(&kicks->lock);
	bool last = --kicks->users == 0;
	pthread_mutex_unlock(&kicks->lock);
	if (!last)
		return;
	close(kicks->fd);
	pthread_cond_destroy(&kicks->changed);
	pthread_mutex_destroy(&kicks->lock);
	free(kicks);
}

static void *kick(void *user)
{
	struct kicks *kicks = user;
	struct statfs about;
	pthread_mutex_lock(&kicks->lock);
	while (!kicks->go && !kicks->dismissed)
		pthread_cond_wait(&kicks->changed, &kicks->lock);
	bool go = kicks->go;
	pthread_mutex_unlock(&kicks->lock);
	if (go)
		fstatfs(kicks->fd, &about); /* what it says does not matter */
	leave_kicks(kicks);
	return NULL;
}

/* A thread on that CPU. */
static bool add_kick(struct kicks *kicks, unsigned cpu)
{
	pthread_t thread;
	pthread_attr_t attributes;
	cpu_set_t *own = CPU_ALLOC(cpu + 1);
	size_t size = CPU_ALLOC_SIZE(cpu + 1);
	if (!own)
		abort();
	CPU_ZERO_S(size, own);
	CPU_SET_S(cpu, size, own);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, KICK_STACK);
	pthread_attr_setaffinity_np(&attributes, size, own);
	pthread_mutex_lock(&kicks->lock);
	kicks->users++;
	pthread_mutex_unlock(&kicks->lock);
	int result = pthread_create(&thread, &attributes, kick, kicks);
	pthread_attr_destroy(&attributes);
	CPU_FREE(own);
	if (result != 0)
		leave_kicks(kicks);
	return result == 0;
}

static struct kicks *make_kicks(const char *mountpoint)
{
	int fd = open(mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	struct kicks *kicks = croft_zalloc(sizeof(*kicks));
	pthread_mutex_init(&kicks->lock, NULL);
	pthread_cond_init(&kicks->changed, NULL);
	kicks->users = 1;
	kicks->fd = fd;
	return kicks;
}

static void tell_kicks(struct kicks *kicks, bool go)
{
	CROFT_LOCKED(&kicks->lock);
	kicks->go = go;
	kicks->dismissed = !go;
	pthread_cond_broadcast(&kicks->changed);
}

void rings_release_kicks(struct rings *rings)
{
	if (!rings->kicks)
		return;
	if (!atomic_load(&rings->holding))
		tell_kicks(rings->kicks, false);
	leave_kicks(rings->kicks);
	rings->kicks = NULL;
}

/* The process that goes -------------------------------------------------------------------------- */

const char *rings_bound(struct rings *rings, const char *mountpoint)
{
	if (!rings->movable)
		return "the memory of FUSE over io_uring lies where another process may not have it";
	rings_release_kicks(rings);
	rings->kicks = make_kicks(mountpoint);
	if (!rings->kicks)
		return "its mount cannot be opened";
	for (unsigned queue = 0; queue < rings->queue_count; queue++)
		for (unsigned i = 0; cpu_is_online(queue) && i < SLOTS_PER_QUEUE; i++)
			if (!add_kick(rings->kicks, queue)) {
				rings_release_kicks(rings);
				return "FUSE over io_uring has to be used from every CPU, and some cannot be";
			}
	return NULL;
}

void ring_tell(struct rings *rings)
{
	CROFT_LOCKED(&rings->lock);
	pthread_cond_broadcast(&rings->changed);
}

void ring_hold(struct slot *slot)
{
	const struct fuse_in_header *header = (void *)slot->header->in_out;
	atomic_store(&slot->unique, header->unique);
	ring_tell(slot->ring->rings);
}

static bool has_answered(struct ring *ring)
{
	CROFT_LOCKED(&ring->lock);
	return ring->answered != NULL;
}

static const struct slot *slots_of(const struct rings *rings, unsigned queue)
{
	return &rings->rings[queue % rings->count].slots[(size_t)(queue / rings->count) * SLOTS_PER_QUEUE];
}

static bool is_full(const struct rings *rings, unsigned queue)
{
	const struct slot *slots = slots_of(rings, queue);
	for (unsigned i = 0; i < SLOTS_PER_QUEUE; i++)
		if (!atomic_load(&slots[i].unique) && !atomic_load(&slots[i].lost))
			return !cpu_is_online(queue);
	return true;
}

static bool are_full(struct rings *rings)
{
	for (unsigned i = 0; i < rings->count; i++)
		if (has_answered(&rings->rings[i]))
			return false;
	for (unsigned queue = 0; queue < rings->queue_count; queue++)
		if (!is_full(rings, queue))
			return false;
	return true;
}

bool rings_hold(struct rings *rings)
{
	if (!rings->kicks)
		return false;
	atomic_store(&rings->holding, true);
	tell_kicks(rings->kicks, true);
	for (unsigned i = 0; i < rings->count; i++)
		eventfd_write(rings->rings[i].wake_fd, 1);
	pthread_mutex_lock(&rings->lock);
	while (!are_full(rings) && !atomic_load(&rings->broken)) {
		/* Nobody tells that a CPU was switched off. */
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec++;
		pthread_cond_timedwait(&rings->changed, &rings->lock, &until);
	}
	pthread_mutex_unlock(&rings->lock);
	return !atomic_load(&rings->broken);
}

bool rings_has(struct rings *rings, uint64_t unique)
{
	for (unsigned i = 0; i < rings->count; i++)
		for (size_t j = 0; j < rings->rings[i].slot_count; j++)
			if (atomic_load(&rings->rings[i].slots[j].unique) == unique)
				return true;
	return false;
}

/* The file ------------------------------------------------------------------------------------ */

struct saved_rings {
	uint64_t address, slot_bytes;
	uint32_t queues, slots_per_queue, count, padding;
};

/* Its header and payload follow. */
struct saved_slot {
	uint32_t queue, index, payload_size, padding;
};

static uint32_t payload_of(const struct slot *slot)
{
	uint32_t size = slot->header->entry.payload_size;
	return size < payload_room() ? size : (uint32_t)payload_room();
}

void rings_write(struct rings *rings, FILE *file)
{
	struct saved_rings saved = {(uintptr_t)rings->memory, PAGE + payload_room(), rings->queue_count,
		SLOTS_PER_QUEUE, 0, 0};
	for (unsigned i = 0; i < rings->count; i++)
		for (size_t j = 0; j < rings->rings[i].slot_count; j++)
			saved.count += atomic_load(&rings->rings[i].slots[j].unique) != 0;
	fwrite(&saved, sizeof(saved), 1, file);
	for (unsigned i = 0; i < rings->count; i++)
		for (size_t j = 0; j < rings->rings[i].slot_count; j++) {
			const struct slot *slot = &rings->rings[i].slots[j];
			if (!atomic_load(&slot->unique))
				continue;
			struct saved_slot about = {slot->queue, (uint32_t)(j % SLOTS_PER_QUEUE), payload_of(slot), 0};
			fwrite(&about, sizeof(about), 1, file);
			fwrite(slot->header, sizeof(*slot->header), 1, file);
			fwrite(slot->payload, 1, about.payload_size, file);
		}
}

/* The process that comes ----------------------------------------------------------------------- */

static bool read_slot(struct rings *rings, FILE *file)
{
	struct saved_slot about;
	if (fread(&about, sizeof(about), 1, file) != 1 || about.queue >= rings->queue_count ||
		about.index >= SLOTS_PER_QUEUE || about.payload_size > payload_room())
		return false;
	struct ring *ring = &rings->rings[about.queue % rings->count];
	struct slot *slot = &ring->slots[(size_t)(about.queue / rings->count) * SLOTS_PER_QUEUE + about.index];
	const struct fuse_in_header *header = (void *)slot->header->in_out;
	if (slot->queue != about.queue || slot->taken_over ||
		fread(slot->header, sizeof(*slot->header), 1, file) != 1 ||
		fread(slot->payload, 1, about.payload_size, file) != about.payload_size)
		return false;
	slot->taken_over = true;
	atomic_store(&slot->unique, header->unique);
	return header->unique != 0;
}

bool rings_read(struct rings *rings, FILE *file)
{
	struct saved_rings saved;
	if (fread(&saved, sizeof(saved), 1, file) != 1 || saved.address != (uintptr_t)rings->memory ||
		saved.slot_bytes != PAGE + payload_room() || saved.queues != rings->queue_count ||
		saved.slots_per_queue != SLOTS_PER_QUEUE)
		return false;
	for (uint32_t i = 0; i < saved.count; i++)
		if (!read_slot(rings, file))
			return false;
	atomic_store(&rings->running, true);
	return true;
}

void rings_run_kept(struct rings *rings)
{
	char *request = croft_alloc(REQUEST_BYTES);
	for (unsigned i = 0; i < rings->count; i++)
		for (size_t j = 0; j < rings->rings[i].slot_count; j++)
			if (rings->rings[i].slots[j].taken_over)
				ring_handle(&rings->rings[i].slots[j], request, false);
	free(request);
}

void rings_kick_fresh(struct rings *rings, const char *mountpoint)
{
	struct kicks *kicks = make_kicks(mountpoint);
	for (unsigned queue = 0; kicks && queue < rings->queue_count; queue++) {
		if (!slots_of(rings, queue)->taken_over && cpu_is_online(queue))
			add_kick(kicks, queue);
	}
	if (!kicks)
		return;
	tell_kicks(kicks, true);
	leave_kicks(kicks);
}
