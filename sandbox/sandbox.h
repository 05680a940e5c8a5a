/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One command, run in isolation over a read-only root with a writable layer on top.
 *
 *	int main(…) {
 *		struct croft_launcher *launcher = croft_launcher_start(&config, &err); // before threads
 *		…
 *		struct croft_sandbox *sandbox = croft_sandbox_prepare(launcher, &spec, &err);
 *		croft_sandbox_start(sandbox, &err);
 *		croft_sandbox_wait(sandbox, &result, &err);
 *		croft_sandbox_capture(sandbox, …);
 *		croft_sandbox_destroy(sandbox);
 *	}
 *
 * The launcher is a single-threaded process, forked before the caller has threads; it alone clones.
 * Everything else may be called from any thread, one thread per sandbox at a time (croft_sandbox_kill
 * and croft_sandbox_stdin from any).
 */
#ifndef CROFT_SANDBOX_H
#define CROFT_SANDBOX_H

#include "proto/base/arena.h"
#include "proto/base/error.h"
#include "proto/base/slice.h"

#include <sys/types.h>

struct croft_launcher;
struct croft_sandbox;

enum croft_seccomp { CROFT_SECCOMP_DEFAULT, CROFT_SECCOMP_STRICT, CROFT_SECCOMP_COMPAT };
enum croft_network { CROFT_NETWORK_LOOPBACK, CROFT_NETWORK_NONE, CROFT_NETWORK_HOST };

enum { CROFT_DEFAULT_UID_BASE = 0x70000000 }; /* beyond what distributions hand out */

struct croft_launcher_config {
	const char *state;  /* directory for upper layers, on a local disk; emptied at start */
	unsigned slots;     /* sandboxes at once */
	uint32_t uid_base;  /* as root: slot i runs as kernel uids uid_base + i * 65536 …; 0: the default */
	bool shared_uids;   /* all slots run as uid_base …: for layers whose owners cannot be mapped, and
	                     * that belong to uid_base */
};

/* Says in `limits` (may be NULL) what this machine cannot enforce, one line each, for the log. */
struct croft_launcher *croft_launcher_start(const struct croft_launcher_config *config,
	struct croft_arena *arena, const char **limits, struct croft_error *err);
/* Kills every sandbox. */
void croft_launcher_stop(struct croft_launcher *launcher);

struct croft_sandbox_mount {
	const char *source; /* on the host */
	const char *target; /* absolute, inside; made in the writable layer when it is missing */
	bool writable;
};

/* All strings are borrowed for the call of croft_sandbox_prepare. */
struct croft_sandbox_spec {
	/* Read-only layers, topmost first; at least one. Any local directory, such as a tree of the lazy
	 * filesystem. */
	const char *const *roots;
	size_t root_count;
	/* Where an input root stands that is not "/" (Bazel): a writable overlay of this directory is
	 * mounted at `input_target` inside; NULL: none. */
	const char *input_root;
	const char *input_target;
	/* Shows the same as the input root (as the only of `roots`, where there is no `input_root`), and is read faster: a
	 * folder with all names and attributes in names/, each file of which says by overlayfs's attributes where its data
	 * are: at that path in files/, or else in the input root. NULL: none. One that is not there is done without. */
	const char *standin;
	/* Where outputs may appear, absolute inside: made (with parents) and writable by the job. With
	 * `root_writable` the job may write everywhere that permissions allow. */
	const char *const *writable_directories;
	size_t writable_count;
	bool root_writable;

	const char *const *arguments; /* NULL-terminated; arguments[0] without '/' is looked up in PATH of
				       * `environment`; relative ones from the working directory */
	const char *const *environment; /* NULL-terminated "NAME=value"; nothing else is inherited */
	const char *working_directory;  /* absolute inside; made when missing */
	uint32_t uid, gid;              /* inside */
	const char *hostname;           /* NULL: "croft" */

	/* What makes runs alike. */
	bool umask_given;
	uint32_t umask;       /* 022 when not given */
	bool fixed_addresses; /* no randomisation of addresses */
	uint32_t cpus;        /* that it may use, and sees; 0: all that there are */
	bool sorted_directories; /* read in the order of their names' bytes; each reading costs a round trip to
				  * a process beside it, and the kernel's own (/proc) are as they are */

	const struct croft_sandbox_mount *mounts;
	size_t mount_count;
	enum croft_network network;
	enum croft_seccomp seccomp;
	bool terminal; /* stdin, stdout and stderr are one pseudo-terminal (croft shell) */

	uint64_t wall_ms;         /* 0: no limit, here and below */
	uint64_t grace_ms;        /* from SIGTERM to SIGKILL; 0: 2 s */
	uint64_t memory_bytes, cpu_millis /* thousandths of a CPU */, processes, file_bytes;
	uint64_t disk_bytes, disk_inodes; /* of the writable layer; looked at every second and at the end.
					   * Files without a name count where a process has them open or,
					   * as root, mapped */
	uint64_t output_log_bytes;        /* of stdout and stderr each */
	uint64_t cpu_ms;                  /* processor time of all its processes together */
	uint64_t capture_bytes;           /* of all that croft_sandbox_capture names, as the files say they
					   * are long: a sparse terabyte counts as one */
	bool special_outputs;             /* croft_sandbox_capture names fifos, sockets and devices, too */

	/* Called on a thread of the library. `started` before the command's first instruction: the
	 * inode number of its pid namespace. Output as it comes. All may be NULL. */
	void (*started)(void *user, uint64_t pid_namespace);
	void (*output)(void *user, int stream /* 1 or 2 */, struct croft_slice data);
	/* Asked before the wall clock ends a job: milliseconds by which to put it off (time that the job
	 * spent waiting for lazy fetches); 0: end it. */
	uint64_t (*extend)(void *user);
	void *user;
	/* A fanotify group (borrowed) that hears of each file opened of the inputs (of `input_root` where
	 * there is one, else of the root); 0: none. Only as root of the host. */
	int opens;
};

/* Why it ended. */
enum croft_end {
	CROFT_END_EXIT,
	CROFT_END_SIGNAL,    /* by a signal of its own */
	CROFT_END_WALL_CLOCK,
	CROFT_END_MEMORY,
	CROFT_END_DISK,
	CROFT_END_LOG,
	CROFT_END_KILLED,    /* croft_sandbox_kill */
	CROFT_END_EXEC,      /* the command could not be executed: see message */
	CROFT_END_CPU,       /* it used up its processor time */
	CROFT_END_PROCESSES, /* it failed, having been refused a process */
	CROFT_END_FILE_SIZE, /* a file was to become too large */
};
/* A word for programs to read: "exit", "wall-clock", …; static. */
const char *croft_end_name(enum croft_end end);

/* A system call that the profile denied. */
struct croft_denied_call {
	char call[64];          /* "ptrace", "socket (address family 38)" */
	const char *allowed_by; /* a profile; NULL: none. Static */
	uint32_t times;         /* as far as it was counted */
};
enum { CROFT_DENIED_MOST = 8 };

/* What not every machine can enforce; the rest always is. */
enum croft_enforced {
	CROFT_ENFORCED_USER_IDS = 1 << 0,  /* kernel ids that only this job had */
	CROFT_ENFORCED_MEMORY = 1 << 1,    /* a limit of memory for all of its processes together */
	CROFT_ENFORCED_PROCESSES = 1 << 2, /* a limit of their number whose refusals are told */
	CROFT_ENFORCED_CPU = 1 << 3,       /* shares of processors, and processor time of all together */
	CROFT_ENFORCED_LANDLOCK = 1 << 4,
};
enum { CROFT_ENFORCED_COUNT = 5 };
/* "user-ids", "memory", …; static. */
const char *croft_enforced_name(enum croft_enforced one);

struct croft_sandbox_result {
	enum croft_end end;
	int exit_code;      /* 128 + signal when a signal ended it; 126 or 127 for CROFT_END_EXEC */
	int signal;
	char message[256];  /* one sentence for the user when it did not simply exit; "" otherwise */
	uint64_t wall_ns, user_ns, system_ns, peak_memory_bytes, read_bytes, written_bytes;
	bool memory_measured; /* by a cgroup; otherwise the largest single process */
	uint32_t enforced; /* bits of enum croft_enforced */
	size_t denied_count;
	struct croft_denied_call denied[CROFT_DENIED_MOST]; /* in the order of the first time */
};
/* What it was denied, as a sentence for the log of a job that failed: "it called ptrace, which
 * <choose>compat allows". False: nothing. */
bool croft_sandbox_hint(const struct croft_sandbox_result *result, const char *choose, char *text,
	size_t size);

struct croft_sandbox *croft_sandbox_prepare(struct croft_launcher *launcher,
	const struct croft_sandbox_spec *spec, struct croft_error *err);
bool croft_sandbox_start(struct croft_sandbox *sandbox, struct croft_error *err);
/* Ends it with `reason` in the result's message. */
void croft_sandbox_kill(struct croft_sandbox *sandbox, const char *reason);
/* Returns when every process of it is dead and all its output was handed over. */
bool croft_sandbox_wait(struct croft_sandbox *sandbox, struct croft_sandbox_result *result,
	struct croft_error *err);
/* Terminal mode: the master side; borrowed. */
int croft_sandbox_terminal(struct croft_sandbox *sandbox);

/* After wait: what stands at a path (absolute inside; ".." and symlinked parents that lead out of the
 * root are INVALID_ARGUMENT) in the merged view, entry by entry. Directories first, then what is in
 * them, in name order. NOT_FOUND when nothing is there. Entries that no tree can hold (fifo, socket,
 * device) are FAILED_PRECONDITION naming the path, unless the spec has `special_outputs`; more than
 * `capture_bytes` in all is RESOURCE_EXHAUSTED. `changed` false: the entry comes from a root
 * layer untouched (its whole subtree, for a directory: it is not descended into). */
struct croft_capture_entry {
	struct croft_slice path;   /* relative to the captured path; "" for itself */
	mode_t mode;
	int64_t mtime_ns;
	uint64_t size_bytes;
	struct croft_slice target; /* symlinks */
	bool changed;
	int dirfd;                 /* with `name`: opens a file's bytes; valid within the callback */
	const char *name;
};
bool croft_sandbox_capture(struct croft_sandbox *sandbox, const char *path,
	bool (*entry)(void *user, const struct croft_capture_entry *entry, struct croft_error *err),
	void *user, struct croft_error *err);

/* "file", "directory", "symlink", "fifo", "socket" or "device"; static. */
const char *croft_capture_kind(mode_t mode);

/* Kills what still runs, unmounts, removes the writable layer (off the caller's path). */
void croft_sandbox_destroy(struct croft_sandbox *sandbox);

#endif
