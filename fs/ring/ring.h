/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to fs: one thread around an io_uring, and a few workers beside it for calls that block.
 *
 *	struct ring *ring = ring_start("croft-plane", 4, &err);
 *	ring_post(ring, &begin);                      // from any thread: runs on the ring's thread
 *	…
 *	struct io_uring_sqe *sqe = ring_sqe(ring);    // on the ring's thread only, like all below
 *	io_uring_prep_recv(sqe, fd, buffer, size, 0);
 *	io_uring_sqe_set_data(sqe, &connection->received);
 *
 * State belongs to the ring's thread. What a worker is given belongs to it until `done` runs, back
 * on the ring's thread.
 */
#ifndef CROFT_FS_RING_RING_H
#define CROFT_FS_RING_RING_H

#include "proto/base/error.h"

#include <liburing.h>
#include <stddef.h>
#include <stdint.h>

struct ring;

/* Where a completion goes; embedded in what waits for it. */
struct ring_event {
	void (*run)(struct ring_event *event, int result, uint32_t flags);
};

struct ring_post {
	void (*run)(struct ring_post *post);
	struct ring_post *next;
};

struct ring_timer {
	void (*run)(struct ring_timer *timer);
	uint64_t at_ns;
	struct ring_timer *previous, *next;
	bool set;
};

struct ring_work {
	void (*work)(struct ring_work *work); /* on a worker */
	void (*done)(struct ring_work *work); /* on the ring's thread */
	struct ring *ring;
	struct ring_work *next;
	struct ring_post back;
};

#define ring_container(pointer, type, member)                                                      \
	((type *)((char *)(pointer) - offsetof(type, member)))

/* UNAVAILABLE when the kernel has no io_uring for us. `name` at most 15 characters, as threads have. */
struct ring *ring_start(const char *name, unsigned workers, struct croft_error *err);
/* Waits for the thread, which ends when ring_quit was called, and for the workers. NULL is fine. */
void ring_destroy(struct ring *ring);

/* From any thread, at any time before ring_quit. In order. */
void ring_post(struct ring *ring, struct ring_post *post);

/* Here on: the ring's thread only. */
void ring_quit(struct ring *ring);
/* Cleared; user data NULL means: the completion is of no interest. */
struct io_uring_sqe *ring_sqe(struct ring *ring);
/* Ends all that is under way on the descriptor; each operation still completes. */
void ring_cancel(struct ring *ring, int fd);
void ring_work(struct ring *ring, struct ring_work *work);
/* Setting a set timer moves it. */
void ring_timer_set(struct ring *ring, struct ring_timer *timer, uint64_t at_ns);
void ring_timer_clear(struct ring *ring, struct ring_timer *timer);
/* The time as of this turn of the loop. */
uint64_t ring_now_ns(const struct ring *ring);

/* Receive buffers that the kernel picks from, so that connections that wait hold none: buffer group
 * 0. Once per ring. */
bool ring_provide_buffers(struct ring *ring, unsigned count /* a power of two */, unsigned size,
	struct croft_error *err);
char *ring_buffer(struct ring *ring, uint32_t completion_flags);
void ring_buffer_return(struct ring *ring, uint32_t completion_flags);

#endif
