/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filesystem daemon: store, fetcher and mount in a process of their own, and the agent's handle
 * to it over a unix socket (one request and one answer at a time; any thread).
 */
#ifndef CROFT_FS_DAEMON_H
#define CROFT_FS_DAEMON_H

#include "fs/mount.h"

#include <linux/limits.h>

/* How trees come to jobs. Everything but FUSE puts whole trees on the disk, of which the cache's budget may be
 * half: by copies that share their blocks with others of the same content, by further names of one file, or
 * by plain copies. AUTO: FUSE where it can be mounted, else REFLINK where the disk can do it, else COPY. */
enum croft_staging {
	CROFT_STAGING_AUTO,
	CROFT_STAGING_FUSE,
	CROFT_STAGING_REFLINK,
	CROFT_STAGING_HARDLINK,
	CROFT_STAGING_COPY,
};
const char *croft_staging_name(enum croft_staging staging); /* "auto", "fuse", … */
bool croft_staging_parse(const char *name, enum croft_staging *staging, struct croft_error *err);

struct croft_daemon_config {
	const char *state;       /* directory: cache/ (the store), mnt/ (the mount), socket */
	const char *origin;      /* blob plane of the farm, "host:port" or "https://host:port" */
	/* For https, of the plane for peers too, which needs certificate and key; files, NULL: as fetch.h. */
	struct croft_tls tls;
	const char *plane_key;   /* that the farm's planes ask for, this one's too; NULL: none */
	const char *plane_address; /* serve the cache to peers here; NULL: do not */
	uint64_t budget_bytes;   /* of the cache; 0: as the store's default */
	uint32_t uid, gid;       /* who owns what the mount shows */
	bool classic;            /* FUSE by /dev/fuse even where io_uring is offered */
	/* Without an agent for so long, and with nothing open in its mount, it ends by itself; 0: 10 minutes. */
	uint32_t orphan_ms;
	enum croft_staging staging;
};

/* The daemon's main function: returns when told to stop (SIGTERM) or on a fatal error. */
bool croft_daemon_main(const struct croft_daemon_config *config, struct croft_error *err);

/* The hidden command `croft fs-daemon`: argv[0] is "fs-daemon". Logs; returns the exit status. */
int croft_daemon_command(int argc, char **argv);

/* The agent's side. Starts the daemon (by executing /proc/self/exe with the hidden "fs-daemon"
 * command) unless one already answers on the state directory's socket. One of another program or configuration is
 * replaced without those who use its mount noticing, where that can be. */
struct croft_daemon;
struct croft_daemon *croft_daemon_attach(const struct croft_daemon_config *config,
	struct croft_error *err);
/* Leaves the daemon running when `keep`. */
void croft_daemon_detach(struct croft_daemon *daemon, bool keep);

/* Another daemon, of the program that now stands where this one was started from, takes over from the one that runs.
 * Whoever uses the mount sees no more than a pause; if it cannot, the one that runs goes on. */
bool croft_daemon_renew(struct croft_daemon *daemon, struct croft_error *err);

/* Where a tree stands for a job: in the mount, where nothing of it has been fetched yet, or staged whole. */
struct croft_staged {
	char path[PATH_MAX];
	/* What shows the same and is read faster: a folder with names and attributes in names/, the data of some files in
	 * files/ and of all others in the tree (croft_sandbox_spec's standin); "": there is none. */
	char standin[PATH_MAX];
	int hold; /* keeps them there; -1: nothing needs keeping */
	uint64_t fetched_files, fetched_bytes; /* by staging */
};
#define CROFT_STAGED_INIT {.hold = -1}
bool croft_daemon_stage(struct croft_daemon *daemon, const struct croft_digest *root,
	struct croft_staged *staged, struct croft_error *err);
void croft_daemon_unstage(struct croft_staged *staged);

/* Where the mount is, or would be. */
const char *croft_daemon_mountpoint(const struct croft_daemon *daemon);
int croft_daemon_plane_port(const struct croft_daemon *daemon);

bool croft_daemon_account_begin(struct croft_daemon *daemon, uint64_t pid_namespace,
	struct croft_error *err);
bool croft_daemon_account_read(struct croft_daemon *daemon, uint64_t pid_namespace,
	struct croft_mount_account *account, struct croft_error *err);
bool croft_daemon_account_end(struct croft_daemon *daemon, uint64_t pid_namespace,
	struct croft_mount_account *account, struct croft_error *err);

/* Gives the cache a blob that this machine made (a job's output), so that it is never fetched:
 * the daemon copies or reflinks from the descriptor and verifies. */
bool croft_daemon_adopt(struct croft_daemon *daemon, const struct croft_digest *digest, int fd,
	struct croft_error *err);
/* The server came back elsewhere: what waits for it goes on there. With another key the daemon is replaced, as with
 * any other configuration. */
bool croft_daemon_set_origin(struct croft_daemon *daemon, const char *origin, const char *plane_key,
	struct croft_error *err);
bool croft_daemon_set_peers(struct croft_daemon *daemon, const char *const *peers, size_t count,
	struct croft_error *err);
/* Files and bytes below an input root, from its Directory messages (which are fetched). */
struct croft_tree_totals;
bool croft_daemon_measure(struct croft_daemon *daemon, const struct croft_digest *root,
	struct croft_tree_totals *totals, struct croft_error *err);

/* How much of a tree, or of a blob, the cache holds. */
bool croft_daemon_present(struct croft_daemon *daemon, const struct croft_digest *root,
	bool directory, uint64_t *bytes, struct croft_error *err);

/* Fetches ahead what a job is expected to read, in that order and behind everything that somebody
 * waits for, until croft_daemon_touched. */
struct croft_prefetch_wish {
	struct croft_digest digest;
	uint64_t offset, length; /* length 0: all of it */
};
bool croft_daemon_prefetch(struct croft_daemon *daemon, uint64_t pid_namespace,
	const struct croft_prefetch_wish *wishes, size_t count, struct croft_error *err);
/* At the job's end. `paths` are the files that it opened, relative to its input root, each with a NUL
 * behind it; `digests` has room for `count`, one for each path: size_bytes UINT64_MAX where the tree has
 * no such file. What was read of those that are read in parts is malloc'ed, in the order of the paths;
 * a file without a range: it is not known how much. */
struct croft_prefetch_account {
	uint64_t files, bytes; /* moved */
	uint64_t wasted_bytes; /* of these, not opened */
};
struct croft_read_range {
	uint64_t path, offset, length;
};
bool croft_daemon_touched(struct croft_daemon *daemon, uint64_t pid_namespace,
	const struct croft_digest *root, struct croft_slice paths, struct croft_digest *digests,
	size_t count, struct croft_prefetch_account *account, struct croft_read_range **ranges,
	size_t *range_count, struct croft_error *err);

struct croft_daemon_stat {
	struct croft_store_stat store;
	struct croft_fetch_stat fetch;
	uint64_t served_bytes; /* to peers */
};
bool croft_daemon_stat(struct croft_daemon *daemon, struct croft_daemon_stat *stat,
	struct croft_error *err);

#endif
