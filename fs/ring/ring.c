/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/ring/ring.h"

#include "fs/ring/workers.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

enum { ENTRIES = 512, COMPLETIONS = 4096 };

struct ring {
	struct io_uring uring;
	pthread_t thread;
	char name[16];
	bool quit;
	uint64_t now_ns;
	struct ring_timer *timers; /* soonest first */
	struct ring_workers *workers;

	struct ring_event woken;
	int wake_fd;
	uint64_t wake_count;
	pthread_mutex_t lock; /* guards: posts, last_post, started, start_error */
	pthread_cond_t start;
	struct ring_post *posts, **last_post;
	bool started;
	struct croft_error start_error;

	struct io_uring_buf_ring *buffers;
	char *buffer_memory;
	unsigned buffer_count, buffer_size;
};

/* Posts ---------------------------------------------------------------------------------------- */

void ring_post(struct ring *ring, struct ring_post *post)
{
	post->next = NULL;
	pthread_mutex_lock(&ring->lock);
	bool first = !ring->posts;
	*ring->last_post = post;
	ring->last_post = &post->next;
	pthread_mutex_unlock(&ring->lock);
	/* Whoever made the list start has woken the thread already. */
	if (first)
		eventfd_write(ring->wake_fd, 1);
}

static void listen_for_posts(struct ring *ring)
{
	struct io_uring_sqe *sqe = ring_sqe(ring);
	io_uring_prep_read(sqe, ring->wake_fd, &ring->wake_count, sizeof(ring->wake_count), 0);
	io_uring_sqe_set_data(sqe, &ring->woken);
}

static void run_posts(struct ring_event *event, int result, uint32_t flags)
{
	struct ring *ring = ring_container(event, struct ring, woken);
	pthread_mutex_lock(&ring->lock);
	struct ring_post *post = ring->posts;
	ring->posts = NULL;
	ring->last_post = &ring->posts;
	pthread_mutex_unlock(&ring->lock);
	listen_for_posts(ring);
	while (post) {
		struct ring_post *next = post->next;
		post->run(post);
		post = next;
	}
}

/* Timers --------------------------------------------------------------------------------------- */

void ring_timer_clear(struct ring *ring, struct ring_timer *timer)
{
	if (!timer->set)
		return;
	timer->set = false;
	if (timer->previous)
		timer->previous->next = timer->next;
	else
		ring->timers = timer->next;
	if (timer->next)
		timer->next->previous = timer->previous;
}

void ring_timer_set(struct ring *ring, struct ring_timer *timer, uint64_t at_ns)
{
	ring_timer_clear(ring, timer);
	struct ring_timer *before = NULL, *after = ring->timers;
	while (after && after->at_ns <= at_ns) {
		before = after;
		after = after->next;
	}
	timer->set = true;
	timer->at_ns = at_ns;
	timer->previous = before;
	timer->next = after;
	if (before)
		before->next = timer;
	else
		ring->timers = timer;
	if (after)
		after->previous = timer;
}

static void run_timers(struct ring *ring)
{
	while (ring->timers && ring->timers->at_ns <= ring->now_ns) {
		struct ring_timer *timer = ring->timers;
		ring_timer_clear(ring, timer);
		timer->run(timer);
	}
}

uint64_t ring_now_ns(const struct ring *ring)
{
	return ring->now_ns;
}

/* The loop ------------------------------------------------------------------------------------- */

struct io_uring_sqe *ring_sqe(struct ring *ring)
{
	struct io_uring_sqe *sqe;
	while (!(sqe = io_uring_get_sqe(&ring->uring)))
		io_uring_submit(&ring->uring);
	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

void ring_cancel(struct ring *ring, int fd)
{
	io_uring_prep_cancel_fd(ring_sqe(ring), fd, IORING_ASYNC_CANCEL_ALL);
}

void ring_quit(struct ring *ring)
{
	ring->quit = true;
}

static void wait_for_completions(struct ring *ring)
{
	struct io_uring_cqe *cqe;
	if (!ring->timers) {
		io_uring_submit_and_wait(&ring->uring, 1);
		return;
	}
	uint64_t now = croft_now_ns(), at = ring->timers->at_ns;
	uint64_t left = at > now ? at - now : 0;
	struct __kernel_timespec wait = {
		(long long)(left / 1000000000), (long long)(left % 1000000000)};
	io_uring_submit_and_wait_timeout(&ring->uring, &cqe, 1, &wait, NULL);
}

static void run_completions(struct ring *ring)
{
	struct io_uring_cqe *cqe;
	while (!ring->quit && io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
		struct ring_event *event = io_uring_cqe_get_data(cqe);
		int result = cqe->res;
		uint32_t flags = cqe->flags;
		io_uring_cqe_seen(&ring->uring, cqe);
		if (event)
			event->run(event, result, flags);
	}
}

static bool set_up(struct ring *ring, struct croft_error *err)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = COMPLETIONS,
	};
	int failure = io_uring_queue_init_params(ENTRIES, &ring->uring, &params);
	if (failure == -EINVAL) { /* before Linux 6.1 */
		params.flags = IORING_SETUP_CQSIZE;
		failure = io_uring_queue_init_params(ENTRIES, &ring->uring, &params);
	}
	if (failure < 0) {
		croft_error_errno(err, -failure, "setting up io_uring for %s", ring->name);
		if (err)
			err->code = CROFT_UNAVAILABLE;
		return false;
	}
	ring->woken.run = run_posts;
	listen_for_posts(ring);
	return true;
}

/* The ring is made here, since only the thread that made it may use it (SINGLE_ISSUER). */
static void *run(void *user)
{
	struct ring *ring = user;
	pthread_setname_np(pthread_self(), ring->name);
	struct croft_error err = CROFT_ERROR_INIT;
	bool ready = set_up(ring, &err);
	pthread_mutex_lock(&ring->lock);
	ring->start_error = err;
	ring->started = true;
	pthread_cond_signal(&ring->start);
	pthread_mutex_unlock(&ring->lock);
	if (!ready)
		return NULL;
	ring->now_ns = croft_now_ns();
	while (!ring->quit) {
		wait_for_completions(ring);
		ring->now_ns = croft_now_ns();
		run_completions(ring);
		run_timers(ring);
	}
	io_uring_queue_exit(&ring->uring);
	return NULL;
}

static bool start_thread(struct ring *ring, struct croft_error *err)
{
	/* Signals are the main thread's; a blocked SIGPIPE makes sendfile answer EPIPE. */
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failure = pthread_create(&ring->thread, NULL, run, ring);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failure)
		return croft_error_errno(err, failure, "starting thread %s", ring->name);
	pthread_mutex_lock(&ring->lock);
	while (!ring->started)
		pthread_cond_wait(&ring->start, &ring->lock);
	pthread_mutex_unlock(&ring->lock);
	if (ring->start_error.code == CROFT_OK)
		return true;
	pthread_join(ring->thread, NULL);
	if (err)
		*err = ring->start_error;
	return false;
}

static void discard(struct ring *ring)
{
	ring_workers_destroy(ring->workers);
	if (ring->wake_fd >= 0)
		close(ring->wake_fd);
	if (ring->buffers)
		munmap(ring->buffers, ring->buffer_count * sizeof(struct io_uring_buf));
	free(ring->buffer_memory);
	pthread_mutex_destroy(&ring->lock);
	pthread_cond_destroy(&ring->start);
	free(ring);
}

struct ring *ring_start(const char *name, unsigned workers, struct croft_error *err)
{
	struct ring *ring = croft_zalloc(sizeof(*ring));
	snprintf(ring->name, sizeof(ring->name), "%s", name);
	pthread_mutex_init(&ring->lock, NULL);
	pthread_cond_init(&ring->start, NULL);
	ring->last_post = &ring->posts;
	ring->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (ring->wake_fd < 0)
		croft_error_errno(err, errno, "making an eventfd");
	else if ((ring->workers = ring_workers_create(name, workers, err)) && start_thread(ring, err))
		return ring;
	discard(ring);
	return NULL;
}

void ring_destroy(struct ring *ring)
{
	if (!ring)
		return;
	pthread_join(ring->thread, NULL);
	discard(ring);
}

/* Workers -------------------------------------------------------------------------------------- */

static void work_is_done(struct ring_post *post)
{
	struct ring_work *work = ring_container(post, struct ring_work, back);
	work->done(work);
}

void ring_work(struct ring *ring, struct ring_work *work)
{
	work->ring = ring;
	work->back.run = work_is_done;
	ring_workers_submit(ring->workers, work);
}

/* Provided buffers ----------------------------------------------------------------------------- */

bool ring_provide_buffers(struct ring *ring, unsigned count, unsigned size, struct croft_error *err)
{
	size_t bytes = count * sizeof(struct io_uring_buf);
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	if (memory == MAP_FAILED)
		return croft_error_errno(err, errno, "mapping the receive buffers' ring");
	struct io_uring_buf_reg registration = {
		.ring_addr = (uintptr_t)memory, .ring_entries = count, .bgid = 0};
	int failure = io_uring_register_buf_ring(&ring->uring, &registration, 0);
	if (failure < 0) {
		munmap(memory, bytes);
		return croft_error_errno(err, -failure, "registering receive buffers");
	}
	ring->buffers = memory;
	ring->buffer_memory = croft_array(count, size);
	ring->buffer_count = count;
	ring->buffer_size = size;
	io_uring_buf_ring_init(ring->buffers);
	for (unsigned i = 0; i < count; i++)
		io_uring_buf_ring_add(ring->buffers, ring->buffer_memory + (size_t)i * size, size,
			(unsigned short)i, io_uring_buf_ring_mask(count), (int)i);
	io_uring_buf_ring_advance(ring->buffers, (int)count);
	return true;
}

char *ring_buffer(struct ring *ring, uint32_t completion_flags)
{
	return ring->buffer_memory +
		(size_t)(completion_flags >> IORING_CQE_BUFFER_SHIFT) * ring->buffer_size;
}

void ring_buffer_return(struct ring *ring, uint32_t completion_flags)
{
	io_uring_buf_ring_add(ring->buffers, ring_buffer(ring, completion_flags), ring->buffer_size,
		(unsigned short)(completion_flags >> IORING_CQE_BUFFER_SHIFT),
		io_uring_buf_ring_mask(ring->buffer_count), 0);
	io_uring_buf_ring_advance(ring->buffers, 1);
}
