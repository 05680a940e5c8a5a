/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/ring_internal.h"

#include "fs/mount/saved.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

/* What the thread answers at the moment. */
static _Thread_local struct slot *current;

/* Making -------------------------------------------------------------------------------------- */

static int make_uring(struct io_uring *uring, size_t entries)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
			IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = (unsigned)entries * 2,
	};
	return io_uring_queue_init_params((unsigned)entries, uring, &params);
}

bool rings_possible(void)
{
	struct io_uring uring;
	if (make_uring(&uring, 8) < 0)
		return false;
	io_uring_queue_exit(&uring);
	return true;
}

/* One queue for each CPU that there can ever be: "0-7". */
static unsigned possible_cpus(void)
{
	char text[64];
	CROFT_CLEANUP_FD int fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (size <= 0)
		return 0;
	text[size] = '\0';
	const char *last = strrchr(text, '-');
	return (unsigned)strtoul(last ? last + 1 : text, NULL, 10) + 1;
}

/* Where another process can have it too; else anywhere, and the rings cannot be taken elsewhere. */
static bool map_memory(struct rings *rings, struct croft_error *err)
{
	enum { PROTECTION = PROT_READ | PROT_WRITE, KIND = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };
	rings->memory_size = (size_t)rings->queue_count * SLOTS_PER_QUEUE * (PAGE + payload_room());
	void *memory = mmap(RINGS_ADDRESS, rings->memory_size, PROTECTION, KIND | MAP_FIXED_NOREPLACE, -1, 0);
	rings->movable = memory == RINGS_ADDRESS;
	if (memory == MAP_FAILED)
		memory = mmap(NULL, rings->memory_size, PROTECTION, KIND, -1, 0);
	if (memory == MAP_FAILED)
		return croft_error_errno(err, errno, "reserving memory for io_uring");
	rings->memory = memory;
	/* Small pages: most answers are shorter than one. */
	madvise(memory, rings->memory_size, MADV_NOHUGEPAGE);
	return true;
}

static void make_slots(struct ring *ring)
{
	struct rings *rings = ring->rings;
	unsigned queues = 0;
	for (unsigned queue = ring->number; queue < rings->queue_count; queue += rings->count)
		queues++;
	ring->slot_count = (size_t)queues * SLOTS_PER_QUEUE;
	ring->slots = croft_array(ring->slot_count, sizeof(*ring->slots));
	for (size_t i = 0; i < ring->slot_count; i++) {
		struct slot *slot = &ring->slots[i];
		slot->ring = ring;
		slot->queue = (uint16_t)(ring->number + i / SLOTS_PER_QUEUE * rings->count);
		size_t place = (size_t)slot->queue * SLOTS_PER_QUEUE + i % SLOTS_PER_QUEUE;
		slot->payload = rings->memory + place * (PAGE + payload_room());
		slot->header = (struct ring_header *)(slot->payload + payload_room());
		slot->buffers[0] = (struct iovec){slot->header, sizeof(*slot->header)};
		slot->buffers[1] = (struct iovec){slot->payload, payload_room()};
	}
}

/* Entries ------------------------------------------------------------------------------------- */

/* There are as many as slots and one for the wake-up, and each is submitted once at a time. */
static struct io_uring_sqe *take_sqe(struct ring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
	if (!sqe)
		abort();
	/* With IORING_SETUP_SQE128, of which the type does not know. */
	memset(sqe, 0, 2 * sizeof(*sqe));
	return sqe;
}

static void submit(struct slot *slot, uint32_t command, uint64_t commit_id)
{
	struct io_uring_sqe *sqe = take_sqe(slot->ring);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->fd = 0;
	sqe->cmd_op = command;
	sqe->user_data = (uintptr_t)slot;
	if (command == RING_REGISTER) {
		sqe->addr = (uintptr_t)slot->buffers;
		sqe->len = 2;
	}
	struct ring_command request = {.commit_id = commit_id, .queue = slot->queue};
	memcpy((char *)sqe + offsetof(struct io_uring_sqe, cmd), &request, sizeof(request));
}

static void submit_wake(struct ring *ring)
{
	struct io_uring_sqe *sqe = take_sqe(ring);
	io_uring_prep_read(sqe, ring->wake_fd, &ring->wake_value, sizeof(ring->wake_value), 0);
	sqe->user_data = 0;
}

static void commit(struct slot *slot)
{
	uint64_t unique = atomic_exchange(&slot->unique, 0);
	submit(slot, RING_COMMIT_AND_FETCH, unique);
}

/* Puts an answer where the kernel takes it from. */
static void fill(struct slot *slot, const struct iovec *parts, int count)
{
	size_t used = 0, room = payload_room();
	for (int i = 1; i < count && parts[i].iov_len <= room - used; i++) {
		memcpy(slot->payload + used, parts[i].iov_base, parts[i].iov_len);
		used += parts[i].iov_len;
	}
	memcpy(slot->header->in_out, parts[0].iov_base, sizeof(struct fuse_out_header));
	slot->header->entry.payload_size = (uint32_t)used;
}

static void hand_over(struct slot *slot)
{
	struct ring *ring = slot->ring;
	pthread_mutex_lock(&ring->lock);
	slot->next = ring->answered;
	ring->answered = slot;
	pthread_mutex_unlock(&ring->lock);
	eventfd_write(ring->wake_fd, 1);
}

static struct slot *find(struct rings *rings, uint64_t unique)
{
	for (unsigned i = 0; i < rings->count; i++)
		for (size_t j = 0; j < rings->rings[i].slot_count; j++)
			if (atomic_load(&rings->rings[i].slots[j].unique) == unique)
				return &rings->rings[i].slots[j];
	return NULL;
}

bool rings_answer(struct rings *rings, const struct iovec *parts, int count)
{
	const struct fuse_out_header *header = parts[0].iov_base;
	if (header->unique == 0 || !atomic_load(&rings->running))
		return false;
	if (current && atomic_load(&current->unique) == header->unique) {
		fill(current, parts, count);
		commit(current);
		return true;
	}
	struct slot *slot = find(rings, header->unique);
	if (!slot)
		return false;
	fill(slot, parts, count);
	hand_over(slot);
	return true;
}

/* Requests ------------------------------------------------------------------------------------ */

/* Puts the request together as /dev/fuse would hand it out. */
void ring_handle(struct slot *slot, char *request, bool own)
{
	const struct fuse_in_header *header = (void *)slot->header->in_out;
	size_t payload_size = slot->header->entry.payload_size;
	size_t arguments = header->len - sizeof(*header);
	atomic_store(&slot->unique, header->unique);
	memcpy(&taken_header, header, sizeof(taken_header));
	current = own ? slot : NULL;
	if (header->len < sizeof(*header) || header->len > REQUEST_BYTES || payload_size > arguments ||
		arguments - payload_size > sizeof(slot->header->op_in)) {
		struct fuse_out_header refusal = {.len = sizeof(refusal), .error = -EIO,
			.unique = header->unique};
		rings_answer(slot->ring->rings, &(struct iovec){&refusal, sizeof(refusal)}, 1);
	} else {
		size_t first = arguments - payload_size;
		memcpy(request, header, sizeof(*header));
		memcpy(request + sizeof(*header), slot->header->op_in, first);
		memcpy(request + sizeof(*header) + first, slot->payload, payload_size);
		struct fuse_buf buffer = {.mem = request, .size = header->len};
		fuse_session_process_buf(slot->ring->rings->session, &buffer);
	}
	current = NULL;
}

static void commit_answered(struct ring *ring)
{
	pthread_mutex_lock(&ring->lock);
	struct slot *slot = ring->answered;
	ring->answered = NULL;
	pthread_mutex_unlock(&ring->lock);
	for (struct slot *next; slot; slot = next) {
		next = slot->next;
		commit(slot);
	}
	if (atomic_load(&ring->rings->holding))
		ring_tell(ring->rings);
}

/* False: the connection is at its end. */
static bool complete(struct ring *ring, const struct io_uring_cqe *cqe, char *request)
{
	struct slot *slot = (struct slot *)(uintptr_t)cqe->user_data;
	if (!slot) {
		commit_answered(ring);
		submit_wake(ring);
		return true;
	}
	if (cqe->res == 0) {
		if (atomic_load(&ring->rings->holding))
			ring_hold(slot);
		else
			ring_handle(slot, request, true);
		return true;
	}
	if (cqe->res == -ENOTCONN || cqe->res == -ECONNABORTED || cqe->res == -ECANCELED)
		return false;
	atomic_store(&slot->lost, true);
	croft_log(CROFT_LOG_WARNING, "FUSE over io_uring: queue %u lost an entry: %s", slot->queue,
		strerror(-cqe->res));
	return ++ring->lost < ring->slot_count;
}

static void say_started(struct rings *rings, const struct croft_error *failure)
{
	CROFT_LOCKED(&rings->lock);
	rings->started++;
	if (failure && !rings->failed) {
		rings->failed = true;
		rings->failure = *failure;
	}
	pthread_cond_broadcast(&rings->changed);
}

static bool register_slots(struct ring *ring, struct croft_error *err)
{
	int result = make_uring(&ring->uring, ring->slot_count + 1);
	if (result < 0)
		return croft_error_errno(err, -result, "making an io_uring");
	/* So that no request counts references to them: other threads have the same table of descriptors. */
	int device = fuse_session_fd(ring->rings->session);
	io_uring_register_ring_fd(&ring->uring);
	result = io_uring_register_files(&ring->uring, &device, 1);
	if (result < 0) {
		io_uring_queue_exit(&ring->uring);
		return croft_error_errno(err, -result, "making an io_uring");
	}
	for (size_t i = 0; i < ring->slot_count; i++)
		if (!ring->slots[i].taken_over)
			submit(&ring->slots[i], RING_REGISTER, 0);
	submit_wake(ring);
	result = io_uring_submit(&ring->uring);
	struct io_uring_cqe *cqe;
	/* One that the kernel does not take completes at once; the others when a request comes. */
	if (result >= 0 && io_uring_peek_cqe(&ring->uring, &cqe) == 0 && cqe->res < 0)
		result = cqe->res;
	if (result >= 0)
		return true;
	io_uring_queue_exit(&ring->uring);
	return croft_error_errno(err, -result, "registering with FUSE");
}

/* The kernel queues a request with the CPU that it comes from: answered there, no other CPU has to be woken. One
 * that this process may not run on serves from elsewhere. */
static void stay_on_cpu(const struct ring *ring)
{
	cpu_set_t *own = CPU_ALLOC(ring->number + 1);
	size_t size = CPU_ALLOC_SIZE(ring->number + 1);
	if (!own)
		abort();
	CPU_ZERO_S(size, own);
	CPU_SET_S(ring->number, size, own);
	if (ring->rings->count == ring->rings->queue_count)
		pthread_setaffinity_np(pthread_self(), size, own);
	CPU_FREE(own);
}

static void *serve(void *user)
{
	struct ring *ring = user;
	stay_on_cpu(ring);
	struct croft_error err = CROFT_ERROR_INIT;
	if (!register_slots(ring, &err)) {
		say_started(ring->rings, &err);
		return NULL;
	}
	say_started(ring->rings, NULL);
	char *request = croft_alloc(REQUEST_BYTES);
	bool connected = true;
	while (connected && !atomic_load(&ring->rings->stop)) {
		int result = io_uring_submit_and_wait(&ring->uring, 1);
		if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
			break;
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;
		io_uring_for_each_cqe(&ring->uring, head, cqe) {
			connected = complete(ring, cqe, request) && connected;
			seen++;
		}
		io_uring_cq_advance(&ring->uring, seen);
	}
	free(request);
	if (!atomic_load(&ring->rings->stop)) {
		atomic_store(&ring->rings->broken, true);
		ring_tell(ring->rings);
	}
	/* Answers that were given meanwhile still go out. */
	commit_answered(ring);
	io_uring_submit(&ring->uring);
	io_uring_queue_exit(&ring->uring);
	return NULL;
}

void rings_stop(struct rings *rings)
{
	atomic_store(&rings->stop, true);
	for (unsigned i = 0; i < rings->threads; i++) {
		eventfd_write(rings->rings[i].wake_fd, 1);
		pthread_join(rings->rings[i].thread, NULL);
	}
	rings->threads = 0;
}

void rings_destroy(struct rings *rings)
{
	if (!rings)
		return;
	rings_stop(rings);
	rings_release_kicks(rings);
	for (unsigned i = 0; i < rings->count; i++) {
		struct ring *ring = &rings->rings[i];
		free(ring->slots);
		if (ring->wake_fd >= 0)
			close(ring->wake_fd);
		pthread_mutex_destroy(&ring->lock);
	}
	if (rings->memory)
		munmap(rings->memory, rings->memory_size);
	free(rings->rings);
	pthread_mutex_destroy(&rings->lock);
	pthread_cond_destroy(&rings->changed);
	free(rings);
}

struct rings *rings_create(struct fuse_session *session, struct croft_error *err)
{
	struct rings *rings = croft_zalloc(sizeof(*rings));
	rings->session = session;
	rings->queue_count = possible_cpus();
	rings->count = rings->queue_count < RINGS_AT_MOST ? rings->queue_count : RINGS_AT_MOST;
	rings->rings = croft_array(rings->count ? rings->count : 1, sizeof(*rings->rings));
	pthread_mutex_init(&rings->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&rings->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	bool ok = rings->count > 0 ||
		croft_error_set(err, CROFT_INTERNAL, "how many CPUs there can be is not known");
	ok = ok && map_memory(rings, err);
	for (unsigned i = 0; i < rings->count; i++) {
		struct ring *ring = &rings->rings[i];
		ring->rings = rings;
		ring->number = i;
		pthread_mutex_init(&ring->lock, NULL);
		ring->wake_fd = eventfd(0, EFD_CLOEXEC);
		if (ring->wake_fd < 0)
			ok = croft_error_errno(err, errno, "making an eventfd");
		if (ok)
			make_slots(ring);
	}
	if (ok)
		return rings;
	rings_destroy(rings);
	return NULL;
}

bool rings_start(struct rings *rings, struct croft_error *err)
{
	int result = 0;
	atomic_store(&rings->running, true);
	for (unsigned i = 0; i < rings->count && result == 0; i++) {
		result = pthread_create(&rings->rings[i].thread, NULL, serve, &rings->rings[i]);
		if (result != 0)
			break;
		rings->threads++;
		pthread_setname_np(rings->rings[i].thread, "fs-ring");
	}
	pthread_mutex_lock(&rings->lock);
	while (rings->started < rings->threads)
		pthread_cond_wait(&rings->changed, &rings->lock);
	bool ok = !rings->failed;
	if (!ok && err)
		*err = rings->failure;
	pthread_mutex_unlock(&rings->lock);
	if (result != 0)
		ok = croft_error_errno(err, result, "starting a thread");
	atomic_store(&rings->running, ok);
	return ok;
}
