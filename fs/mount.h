/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lazy filesystem: one read-only FUSE mount in which every Directory that can be fetched stands
 * as by-digest/<hash>-<size>/. Nothing is moved before it is looked at.
 *
 * It runs in the process that calls croft_mount_run. Agents run it as a process of its own, the
 * filesystem daemon (fs/daemon.h), so that they can restart without breaking mounts.
 */
#ifndef CROFT_FS_MOUNT_H
#define CROFT_FS_MOUNT_H

#include "fs/fetch.h"
#include "fs/store.h"

struct croft_mount;

struct croft_mount_config {
	const char *mountpoint;       /* must exist */
	struct croft_store *store;    /* borrowed */
	struct croft_fetcher *fetcher; /* borrowed; NULL: only what is in the store */
	const struct croft_digest *root; /* mount this tree itself instead of by-digest/; or NULL */
	bool allow_other;             /* root only: other users may look */
	uint32_t uid, gid;            /* who owns every entry */
	unsigned threads;             /* 0: one per CPU, at most 4 */
};

struct croft_mount *croft_mount_create(const struct croft_mount_config *config,
	struct croft_error *err);
/* Serves until unmounted or croft_mount_stop; false when it could not go on. */
bool croft_mount_run(struct croft_mount *mount, struct croft_error *err);
void croft_mount_stop(struct croft_mount *mount); /* from any thread or a signal handler */
/* Unmounts, lazily if it is busy. */
void croft_mount_destroy(struct croft_mount *mount);

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
