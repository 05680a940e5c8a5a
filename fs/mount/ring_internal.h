/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ring.c and ring_move.c share. */
#ifndef CROFT_FS_MOUNT_RING_INTERNAL_H
#define CROFT_FS_MOUNT_RING_INTERNAL_H

#include "fs/mount/ring.h"

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

/* From include/uapi/linux/fuse.h of Linux 6.14; Debian 12's headers are older. */
enum { RING_REGISTER = 1, RING_COMMIT_AND_FETCH = 2 };
struct ring_header {
	char in_out[128]; /* fuse_in_header, fuse_out_header */
	char op_in[128];  /* the first argument of a request */
	struct {
		uint64_t flags, commit_id;
		uint32_t payload_size, padding;
		uint64_t reserved;
	} entry;
};
struct ring_command {
	uint64_t flags, commit_id;
	uint16_t queue;
	uint8_t padding[6];
};
_Static_assert(sizeof(struct ring_header) == 288, "as the kernel has it");
_Static_assert(sizeof(struct ring_command) == 24, "as the kernel has it");

enum {
	RINGS_AT_MOST = 16, /* threads; each serves the queues of several CPUs on larger machines */
	/* A request that waits for a fetch holds its entry, so there must be more of them than
	 * threads of a job may wait at once on one CPU. */
	SLOTS_PER_QUEUE = 64,
	REQUEST_BYTES = 16384, /* of one request to a read-only filesystem */
	PAGE = 4096,
};

/* The kernel knows buffers by their addresses, so a process that goes on with a ring must have them at the same ones:
 * below all that the kernel places by itself (mmap_base is above 0x7eff00000000), and where the thread
 * sanitizer allows memory. */
#define RINGS_ADDRESS ((char *)0x7e9000000000)

struct slot {
	struct ring *ring;
	uint16_t queue;
	atomic_bool lost;            /* the kernel did not take it */
	bool taken_over;             /* it has the request of another process's: registered already */
	atomic_uint_fast64_t unique; /* of the request that is being answered; 0: none */
	struct ring_header *header;
	char *payload;
	struct iovec buffers[2]; /* for registering */
	struct slot *next;       /* in the ring's list of answers of other threads */
};

struct ring {
	struct rings *rings;
	unsigned number;
	struct io_uring uring;
	pthread_t thread;
	int wake_fd; /* others have answered, or it is to stop */
	uint64_t wake_value;
	struct slot *slots;
	size_t slot_count, lost;
	pthread_mutex_t lock; /* guards: answered */
	struct slot *answered;
};

struct rings {
	struct fuse_session *session;
	unsigned queue_count, count;
	struct ring *rings;
	char *memory; /* headers and payloads of all queues */
	size_t memory_size;
	bool movable; /* the memory is where another process can have it, too */
	unsigned threads; /* that were started */
	atomic_bool running, stop, holding, broken; /* broken: a thread ended by itself */
	struct kicks *kicks; /* ring_move.c; or NULL */

	pthread_mutex_t lock; /* guards: started, failed, failure */
	pthread_cond_t changed; /* by the monotonic clock */
	unsigned started;
	bool failed;
	struct croft_error failure;
};

static inline size_t payload_room(void)
{
	return (size_t)RINGS_PAYLOAD_PAGES * PAGE;
}

/* ring.c: answers the request that lies in the slot's buffers. `own`: by the thread that serves the slot. */
void ring_handle(struct slot *slot, char *request, bool own);
/* ring_move.c: the request in the slot is kept as it is. */
void ring_hold(struct slot *slot);
/* ring_move.c: something changed that rings_hold may wait for. */
void ring_tell(struct rings *rings);

#endif
