/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lazy filesystem: one read-only FUSE mount in which every Directory that can be fetched stands
 * as by-digest/<hash>-<size>/. Nothing is moved before it is looked at. Views beside it find trees by what
 * people call them.
 *
 * It runs in the process that calls croft_mount_run. Agents run it as a process of its own, the
 * filesystem daemon (fs/daemon.h), so that they can restart without breaking mounts.
 */
#ifndef CROFT_FS_MOUNT_H
#define CROFT_FS_MOUNT_H

#include "fs/fetch.h"
#include "fs/store.h"

struct croft_mount;

/* A directory beside by-digest in which others say what stands where, and may say otherwise a moment later: names of
 * trees, say. What was said is remembered for a second; the trees themselves never change. The functions are called
 * by threads of their own, several at once, and may block for as long as whoever looks is to wait. */
struct croft_view_place {
	enum { CROFT_VIEW_NOTHING, CROFT_VIEW_FOLDER, CROFT_VIEW_TREE } kind; /* a folder has further places */
	struct croft_digest root; /* of a TREE */
};
/* The visitor copies the name; one that has no '/' and is neither empty nor one of the dots. */
typedef void croft_view_visit(void *visitor, const char *name);
struct croft_mount_view {
	const char *name; /* borrowed until the mount is destroyed */
	void *user;
	/* At "one" or "one/two" below it. What cannot be reached for the moment is UNAVAILABLE or DEADLINE_EXCEEDED
	 * (EHOSTDOWN), what may not be seen PERMISSION_DENIED or UNAUTHENTICATED (EACCES), all else EIO. */
	bool (*look_up)(void *user, const char *path, struct croft_view_place *place, struct croft_error *err);
	/* What there is in the folder at a path, "" being the view itself. NULL: no folder of it tells. */
	bool (*list)(void *user, const char *path, croft_view_visit *visit, void *visitor, struct croft_error *err);
};

/* A mount on its way from one process to another. */
struct croft_mount_saved {
	int device; /* of FUSE: the mount lives for as long as somebody has it open */
	int state;  /* memory file: what the kernel was told, and what it waits for */
};

struct croft_mount_config {
	const char *mountpoint;       /* must exist */
	/* Goes on with this mount, which is at the mountpoint; the descriptors stay the caller's. `root` and
	 * `allow_other` are as they were. */
	const struct croft_mount_saved *saved;
	struct croft_store *store;    /* borrowed */
	struct croft_fetcher *fetcher; /* borrowed; NULL: only what is in the store */
	const struct croft_digest *root; /* mount this tree itself instead of by-digest/; or NULL */
	const struct croft_mount_view *views; /* without a root; copied. Such a mount cannot be handed over */
	size_t view_count;
	bool allow_other;             /* root only: other users may look */
	uint32_t uid, gid;            /* who owns every entry */
	unsigned threads;             /* 0: one per CPU, at most 4 */
	bool classic;                 /* by /dev/fuse only, even where io_uring is offered */
};

struct croft_mount *croft_mount_create(const struct croft_mount_config *config,
	struct croft_error *err);
/* Serves until unmounted or croft_mount_stop; false when it could not go on. */
bool croft_mount_run(struct croft_mount *mount, struct croft_error *err);
void croft_mount_stop(struct croft_mount *mount); /* from any thread or a signal handler */
/* Unmounts, lazily if it is busy, unless it was saved. */
void croft_mount_destroy(struct croft_mount *mount);

/* Handing over, without a request or an open file being lost. Like croft_mount_stop, but whoever asked for
 * something that is not there yet is not answered: */
void croft_mount_suspend(struct croft_mount *mount);
/* After croft_mount_run has ended, and the fetcher (whose unfinished fetches begin anew in the other process). From
 * then on the kernel waits for whoever has the device, and croft_mount_destroy leaves the mount alone. The
 * descriptors are the caller's. */
bool croft_mount_save(struct croft_mount *mount, struct croft_mount_saved *saved,
	struct croft_error *err);
/* Why it cannot be handed over; NULL: it can, and croft_mount_suspend may come next. A mount that runs. */
const char *croft_mount_bound(struct croft_mount *mount);
/* Unmounts if nothing has a file or directory open there; it then ends by itself once no copy of it is mounted
 * elsewhere. False: it is in use. */
bool croft_mount_unmount_idle(struct croft_mount *mount);

/* What was fetched since the process that serves began, and what is on its way. */
struct croft_mount_counters {
	uint64_t fetched_blobs, fetched_bytes, from_peers_bytes, background_bytes, waiting_blobs, waiting_bytes, retries,
		failures, bad_bytes;
};
void croft_mount_counters_of(const struct croft_fetcher *fetcher, struct croft_mount_counters *counters);
/* From any process, of the mount that a directory is in; FAILED_PRECONDITION: it is in none of these. */
bool croft_mount_ask_counters(const char *path, struct croft_mount_counters *counters, struct croft_error *err);

/* Files of at least this size are read in parts: the chunks that hold what is read are fetched. */
enum { CROFT_MOUNT_PARTS_FROM = 4 << 20 };
/* Of what chunks the origin makes a file, so that the mount need not ask. */
void croft_mount_learn_chunks(struct croft_mount *mount, const struct croft_digest *file,
	const struct croft_digest *chunks, size_t count);
/* What was read of such a file, in chunks, in order: at most so many ranges, the last of which then has
 * what lies between further ones, too. 0: it is not known. */
struct croft_mount_range {
	uint64_t offset, length;
};
size_t croft_mount_read_ranges(struct croft_mount *mount, const struct croft_digest *file,
	struct croft_mount_range *ranges, size_t most);

/* Accounts: who caused which fetch. A group is one pid namespace (a job's), named by the inode number
 * of /proc/PID/ns/pid; fetches are charged to the group of the process whose read caused them. */
struct croft_mount_account {
	uint64_t fetched_files, fetched_bytes; /* file blobs; each charged to the first that needs it */
	uint64_t directory_blobs, directory_bytes;
	uint64_t stall_ns; /* wall time in which at least one thread of the group waited */
	uint64_t errors;
	char first_error[256];
};
void croft_mount_account_begin(struct croft_mount *mount, uint64_t pid_namespace);
/* Where the account stands now (for a timeout that does not count stalls); false: none was begun. */
bool croft_mount_account_read(struct croft_mount *mount, uint64_t pid_namespace,
	struct croft_mount_account *account);
bool croft_mount_account_end(struct croft_mount *mount, uint64_t pid_namespace,
	struct croft_mount_account *account);

#endif
