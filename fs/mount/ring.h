/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FUSE over io_uring (Linux 6.14, include/uapi/linux/fuse.h): each possible CPU has a queue of
 * entries; a request comes as the completion of an entry, and answering it asks for the next one in
 * the same system call. Forgets and interrupts go on coming through /dev/fuse.
 *
 * The kernel offers it when /sys/module/fuse/parameters/enable_uring says Y, which it does not by
 * default.
 */
#ifndef CROFT_FS_MOUNT_RING_H
#define CROFT_FS_MOUNT_RING_H

#include "proto/base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

#include <fuse_lowlevel.h>

/* Flags of INIT, of which libfuse 3.14 does not know. */
#define RINGS_INIT_FLAG (1ULL << 41) /* FUSE_OVER_IO_URING */

/* The largest request or answer: each entry has a buffer of so many bytes, which take memory when
 * they are used. */
enum { RINGS_PAYLOAD_PAGES = 64 };
/* Requests of read-ahead at once; fewer than a queue has entries, so that they cannot hold all. */
enum { RINGS_BACKGROUND = 32 };

struct rings;

/* Whether rings as they are needed can be made here. To be asked before INIT is answered: once the
 * flag is set there, the kernel waits for them. */
bool rings_possible(void);
/* The session is borrowed and must be mounted. */
struct rings *rings_create(struct fuse_session *session, struct croft_error *err);
/* After INIT, once. If the kernel does not take them it uses /dev/fuse: false. */
bool rings_start(struct rings *rings, struct croft_error *err);
/* Sends an answer (as libfuse would write it to the device) if it belongs to a request that came by
 * a ring; any thread. */
bool rings_answer(struct rings *rings, const struct iovec *parts, int count);
/* Ends the threads, if there are any; the requests that came stay. */
void rings_stop(struct rings *rings);
/* NULL is fine. */
void rings_destroy(struct rings *rings);

/* ring_move.c: taking the rings to another process. Why that cannot be done; NULL: it can, and what it takes stands
 * ready. */
const char *rings_bound(struct rings *rings, const char *mountpoint);
/* After that, when nobody answers requests any more: from here on what comes is kept, and when it returns each entry
 * of the kernel's has a request, so that none can get lost with the rings. False: the connection is at its end. */
bool rings_hold(struct rings *rings);
/* The request is kept. */
bool rings_has(struct rings *rings, uint64_t unique);
/* Of rings that were stopped: all that is kept. */
void rings_write(struct rings *rings, FILE *file);
/* Into rings that were just created, before anything else is done with them. False: it cannot be. */
bool rings_read(struct rings *rings, FILE *file);
/* Gives the requests that were read to libfuse; before rings_start. */
void rings_run_kept(struct rings *rings);
/* After rings_start: entries that had no request were registered anew, and what came to them meanwhile waits for
 * another request of the same CPU. */
void rings_kick_fresh(struct rings *rings, const char *mountpoint);
void rings_release_kicks(struct rings *rings);

#endif
