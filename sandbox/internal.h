/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sandbox/: the processes of a sandbox and what they tell each other.
 *
 *	agent ── cell socket ── keeper ── nursery ── clone ── init (pid 1 inside) ── fork ── command
 *	   └── launcher socket ── launcher ── fork ──┘
 *
 * Each slot has two cells, so that the next sandbox is made while one runs. A cell has a keeper
 * (keeper.c): a process in a mount and a network namespace of its own, which mounts the root and reports.
 * Its nursery (nursery.c) lives in the cell's user namespace and cgroup and sees nothing of the host; it
 * clones an init (init.c) ahead, in fresh namespaces, whose child waits to become the command. When the
 * job is over and nothing of it can be found, the cell is used again; else the keeper ends and the
 * launcher (launcher.c), which is forked before the agent has threads, forks another. When the agent dies
 * all keepers end, and take everything with them.
 */
#ifndef CROFT_SANDBOX_INTERNAL_H
#define CROFT_SANDBOX_INTERNAL_H

#include "sandbox/sandbox.h"

#include <linux/filter.h>
#include <sys/resource.h>

enum { IDS_PER_SLOT = 65536, MAX_ROOTS = 16, CELLS_PER_SLOT = 2 };
/* More than the kernel executes, whatever the limit of its stack. */
enum { WIRE_SPEC_MOST = 8 << 20 };

/* A spec as the keeper and the command read it from its memory file: this header, then the strings. Offsets count
 * from the start of the file; 0 is NULL. Lists are arrays of offsets, each of 64 bits, that end with 0. */
struct wire_spec {
	uint64_t size; /* of all */
	uint64_t pid_namespace; /* that the agent takes the job's to be */
	uint32_t uid, gid;
	uint32_t network, seccomp;
	uint32_t root_writable, terminal;
	uint32_t umask, fixed_addresses, cpus, sorted;
	uint32_t roots, input_root, input_target, standin;
	uint32_t writable, arguments, environment, working_directory, hostname;
	uint32_t mount_sources, mount_targets, mount_writable;
	uint64_t memory_bytes, cpu_millis, cpu_ms, processes, file_bytes;
	uint32_t weaken; /* 0 outside tests/escape */
};

/* What a case of tests/escape switches off, to see that it would notice. Only the copy of the library
 * that those tests link has the switch compiled in: nothing can weaken a sandbox of the real one. */
enum weaken {
	WEAKEN_SECCOMP = 1 << 0,
	WEAKEN_CAPABILITIES = 1 << 1,
	WEAKEN_NEW_PRIVILEGES = 1 << 2,
	WEAKEN_USER_NAMESPACE = 1 << 3, /* the slot's kernel ids stay, without a namespace */
	WEAKEN_PID_NAMESPACE = 1 << 4,
	WEAKEN_IPC_NAMESPACE = 1 << 5,
	WEAKEN_UTS_NAMESPACE = 1 << 6,
	WEAKEN_CGROUP_NAMESPACE = 1 << 7,
	WEAKEN_PIVOT = 1 << 8,       /* chroot in its place */
	WEAKEN_SEAL = 1 << 9,        /* read-only roots are writable */
	WEAKEN_OVERLAY = 1 << 10,    /* the first root layer itself, writable */
	WEAKEN_PROC = 1 << 11,       /* all of /proc, pid 1 seen too */
	WEAKEN_DEV = 1 << 12,        /* the host's /dev */
	WEAKEN_NOSUID = 1 << 13,     /* and nodev */
	WEAKEN_DESCRIPTORS = 1 << 14,
	WEAKEN_ENVIRONMENT = 1 << 15,
	WEAKEN_RLIMITS = 1 << 16,
	WEAKEN_DUMPABLE = 1 << 17,
	WEAKEN_AGENT_LOSS = 1 << 18, /* the keeper does not mind that the agent is gone */
	WEAKEN_STREAMS = 1 << 19,    /* stdin is the launcher's */
	WEAKEN_LANDLOCK = 1 << 20,
};
#ifdef CROFT_SANDBOX_WEAKEN
extern uint32_t sandbox_weaken; /* for the sandboxes prepared from now on */
unsigned sandbox_cell(const struct croft_sandbox *sandbox);
#endif
static inline bool weak(const struct wire_spec *spec, enum weaken what)
{
#ifdef CROFT_SANDBOX_WEAKEN
	return spec->weaken & what;
#else
	return false;
#endif
}
/* The spec in a memory file; -1 on error. */
int wire_spec_write(const struct croft_sandbox_spec *spec, uint64_t pid_namespace,
	struct croft_error *err);
/* Reads it to `place`, which has room for WIRE_SPEC_MOST, or, for NULL, to where free() takes it from. NULL on
 * error. */
struct wire_spec *wire_spec_read(int fd, void *place);
const char *wire_text(const struct wire_spec *spec, uint32_t offset);
/* NULL-terminated, to be freed. */
const char **wire_list(const struct wire_spec *spec, uint32_t offset);
/* The same for who may allocate nothing: one by one, until NULL, or, once, where the offsets were. */
const char *wire_item(const struct wire_spec *spec, uint32_t offset, size_t i);
const char **wire_list_in_place(struct wire_spec *spec, uint32_t offset);

/* Keeper → agent, on the cell's socket: a sandbox is made. */
struct ready {
	uint64_t pid_namespace;
};
/* Agent → keeper there: any byte, with these descriptors: the spec, control, stdout, stderr,
 * and where there is one (else it is -1) the fanotify group that hears what the job opens. */
enum { REQUEST_FDS = 5 };

/* Agent → keeper, on the job's control socket. Sockets here are all SOCK_SEQPACKET. GO answers STARTED
 * where the namespace is another than the spec says. */
enum command_kind { COMMAND_GO, COMMAND_TERMINATE, COMMAND_KILL };
struct command {
	uint32_t kind;
};

/* A system call that the job was denied. */
struct denied {
	int32_t number;
	uint32_t times;
	uint64_t argument; /* the first, of the first call */
};
enum { DENIED_MOST = 8 };

/* Keeper → agent. */
enum report_kind { REPORT_STARTED, REPORT_ENDED, REPORT_FAILED };
struct report {
	uint32_t kind;
	uint64_t pid_namespace;  /* started */
	int32_t wait_status;     /* ended: of the command; -1: init was killed */
	int32_t exec_errno;      /* ended: the command could not be executed */
	uint64_t user_ns, system_ns, peak_memory_bytes, read_bytes, written_bytes;
	uint32_t memory_measured, memory_exceeded, processes_exceeded;
	uint32_t denied_count;
	struct denied denied[DENIED_MOST];
	char message[400]; /* failed: why the sandbox could not be made */
};

/* end.c: what the agent's side knows when all is over. */
struct end_facts {
	const struct report *report;
	const struct croft_sandbox_spec *spec;
	enum croft_end limit;    /* that the agent's side enforced; EXIT: none */
	bool too_many_inodes;
	const char *unmeasured;  /* why it is not known what it wrote; NULL: it is */
	const char *kill_reason; /* NULL: it was not killed */
};
void end_judge(const struct end_facts *facts, struct croft_sandbox_result *result);
struct launcher_context;
/* Bits of enum croft_enforced. */
uint32_t end_enforced(const struct launcher_context *context);

/* What the launcher sets up once, for all its keepers. */
struct launcher_context {
	const char *state;
	const char *staging; /* where roots are mounted: a path that every user may walk */
	int staging_lock; /* held by all who use it; -1: none */
	unsigned slots;
	uint32_t uid_base;
	bool shared_uids;
	bool privileged; /* root in the initial user namespace */
	bool traces; /* and may look at the namespaces of processes that nobody else may: not in every container */
	bool on_disk; /* what jobs write, rather than in memory */
	int *user_namespaces; /* one per slot, for idmapped mounts; -1: cannot be made */
	struct cgroups *cgroups;
	struct sock_fprog seccomp[3], sorted[3]; /* by profile; where directories are read in order */
	int landlock; /* version; 0: none */
};

static inline unsigned launcher_cells(const struct launcher_context *context)
{
	return context->slots * CELLS_PER_SLOT;
}
/* The cell's directory below the state directory: places/, upper/, work/, input-upper/, input-work/ */
void cell_path(const struct launcher_context *context, unsigned cell, const char *name, char *path,
	size_t size);
/* The kernel ids of the cell's slot begin here. Never two of a slot's cells run a job at a time. */
static inline uint32_t cell_ids(const struct launcher_context *context, unsigned cell)
{
	return context->uid_base +
		(context->shared_uids ? 0 : cell / CELLS_PER_SLOT * IDS_PER_SLOT);
}
/* Where the cell's root is mounted. */
void cell_root(const struct launcher_context *context, unsigned cell, char *path, size_t size);

/* pool.c: the launcher's cells, from the agent's side. */
const struct launcher_context *pool_context(const struct croft_launcher *launcher);
/* Waits for a free slot and a sandbox in it. */
bool pool_take(struct croft_launcher *launcher, unsigned *cell, uint64_t *pid_namespace,
	struct croft_error *err);
bool pool_request(struct croft_launcher *launcher, unsigned cell, const int fds[REQUEST_FDS],
	struct croft_error *err);
/* Its job is over. */
void pool_release(struct croft_launcher *launcher, unsigned cell);

/* What the launcher process is given: its ends of all cells' sockets, and what tells that the agent is
 * gone. */
struct launcher_sockets {
	int agent; /* closes when it is to end */
	int *cells;
};
void launcher_main(struct launcher_context *context, const struct launcher_sockets *sockets)
	__attribute__((noreturn));
/* A user namespace that maps 0 to base and up, for mapping owners on mounts; -1: not to be had. */
int launcher_user_namespace(const struct launcher_context *context, uint32_t base);

/* keeper.c: keeps one cell. requests: the cell's socket; agent: a descriptor that becomes readable when
 * the agent is gone. */
void keeper_main(const struct launcher_context *context, unsigned cell, int requests, int agent)
	__attribute__((noreturn));

/* mounts.c: puts this process (root, one thread) into a mount namespace of its own, whose root is what
 * it sees as "/", and which hears of mounts that the host makes later. */
bool mounts_own(const struct launcher_context *context, struct croft_error *err);

/* network.c: brings up the loopback interface of this process's network namespace. */
bool network_raise_loopback(struct croft_error *err);
/* All that a job can leave in the network namespace of `pid`: sockets, traffic, counts. */
enum { NETWORK_TRACES = 6 };
struct network_watch {
	int files[NETWORK_TRACES];
	bool blind; /* something cannot be seen */
};
#define NETWORK_UNWATCHED {.files = {-1, -1, -1, -1, -1, -1}}
void network_watch(struct network_watch *watch, pid_t pid);
void network_unwatch(struct network_watch *watch);
/* Malloc'ed text, to be compared with that of a fresh one; NULL: cannot be read. */
char *network_traces(const struct network_watch *watch);

/* root.c: the file system of a sandbox, from the host's side. Directories for a job to come; those that no
 * job can write to are made the first time. */
bool root_prepare(const struct launcher_context *context, unsigned cell, bool first,
	struct croft_error *err);
/* Where layers are found: the host's mount namespace and root, and the way back. All -1: here. */
struct host_view {
	int mounts, root, own_mounts;
};
/* The root with everything in it, mounted nowhere yet; -1 on error. `root` is a place for mounting it
 * meanwhile. In any case `rest` is what is to be closed when there is time: closing a mount waits for all of
 * the kernel's readers. */
struct sources;
int root_make(const struct launcher_context *context, unsigned cell, const char *root,
	const struct host_view *host, const struct wire_spec *spec, struct sources **rest,
	struct croft_error *err);
void root_close_sources(struct sources *sources);
/* What its layers are, whatever their names are given to later. */
struct layer {
	dev_t device;
	ino_t inode;
};
void root_layers(const struct sources *sources, struct layer layers[MAX_ROOTS]);
/* Whether the layers that the spec names are those. */
bool root_still_has(const struct host_view *host, const struct wire_spec *spec,
	const struct layer layers[MAX_ROOTS]);
/* The overlay of the job's input, for a root that was made without: mounted nowhere yet; -1 on error. */
int root_make_input(const struct launcher_context *context, unsigned cell, const struct host_view *host,
	const struct wire_spec *spec, struct sources **rest, struct croft_error *err);
/* The fanotify group hears from now on what is opened of the job's inputs, wherever their overlay is
 * mounted. `tree` is the root's, or the input's own. */
bool root_watch(int fanotify, int tree, const char *path, struct croft_error *err);
/* Undoes root_make and what the job wrote; of a root that is kept only what belongs to the input. */
bool root_remove(const struct launcher_context *context, unsigned cell, bool kept, struct croft_error *err);

/* Nothing that a layer holds may change by way of it: a staged file may be one with the cache's own. */
bool root_forbid_writing(int tree, const char *source, struct croft_error *err);
/* Owners of a layer are mapped into the slot's range where the kernel and the file system can: the job's
 * root then owns its inputs. Without, they belong to nobody inside, and can be read but not replaced. */
bool root_map_owners(const struct launcher_context *context, unsigned cell, int tree,
	const char *source, struct croft_error *err);

/* standin.c: what an overlay is made of instead of the input root alone. */
struct standin {
	int names, files; /* trees mounted nowhere; -1: there is none */
};
#define STANDIN_NONE {-1, -1}
/* None where there is anything wrong with it. */
void standin_open(const struct launcher_context *context, const char *folder, struct standin *standin);
void standin_protect(const struct launcher_context *context, unsigned cell, struct standin *standin);
/* To an overlay that is being made; `tree` is the input root. */
bool standin_add(int fs, const struct standin *standin, int tree);
void standin_close(struct standin *standin);

/* kept.c: the root that a cell's last jobs all had, for the next. */
struct written;
struct kept_root {
	struct wire_spec *spec; /* of the root alone; NULL: the last job's is nobody else's */
	unsigned alike;         /* jobs in a row that had the same, after the first */
	int tree;               /* mounted nowhere; -1: there is none */
	struct layer layers[MAX_ROOTS];
	struct written *written; /* what its writable layer was like; NULL: it serves one job */
	struct wire_spec *shape; /* the last job's, without what it was told */
	size_t shape_size;
	int shape_fd; /* a memory file, which has it if it is written; -1: there is none */
	bool shape_written;
	unsigned shape_alike;
};
/* Of each job, before it begins. */
void kept_remember(struct kept_root *kept, const struct wire_spec *spec, size_t size);
/* Whether to make one ahead. */
bool kept_is_expected(const struct kept_root *kept);
bool kept_make(struct kept_root *kept, const struct launcher_context *context, unsigned cell,
	const struct host_view *host, struct croft_error *err);
/* For one job; -1 on error. */
int kept_mount(struct kept_root *kept);
/* A memory file with the shape that the next job is expected to have; -1: there is none. It stays ours. */
int kept_shape(struct kept_root *kept);
/* Whether the job may have it: its layers are the ones that the spec names, now. And the command that waits, if that
 * has taken the last job's shape. */
bool kept_fits(const struct kept_root *kept, bool shaped, const struct host_view *host,
	const struct wire_spec *spec);
/* It serves no other. */
void kept_spoil(struct kept_root *kept);
/* When the job and all its mounts are gone: whether it is as if there had been none. */
bool kept_is_untouched(const struct kept_root *kept, const struct launcher_context *context, unsigned cell);
void kept_drop(struct kept_root *kept);

/* inside.c: the same from inside. A skeleton is a small tmpfs with root/, proc/ and dev/, where a sandbox
 * is put together before it becomes the root. */
struct skeleton {
	char at[128]; /* its path; "" when it is the root already */
};
/* A /dev of its own nodes, read-only, that is mounted nowhere; -1: may not be made here, and the host's
 * nodes serve. */
int inside_make_dev(void);
/* In the nursery: once. With `alone` nothing of the host remains to be seen. */
bool inside_make_skeleton(const char *place, int dev, bool alone, const struct wire_spec *spec,
	struct skeleton *skeleton, struct croft_error *err);
/* In init: what each job has of its own. */
bool inside_mount_own(const struct skeleton *skeleton, const struct wire_spec *spec,
	struct croft_error *err);
/* In the command: root, a mount, becomes "/". */
bool inside_enter(const struct skeleton *skeleton, int root, const struct wire_spec *spec,
	struct croft_error *err);

/* Keeper → nursery: any byte makes it clone. Back: */
struct birth {
	int32_t pid, failure;
};
/* Init and command → keeper, on the inner socket. */
enum status_kind {
	STATUS_READY,   /* waits for a job */
	STATUS_STARTED, /* its root is made; it executes the command, or waits for a byte before it does */
	STATUS_CLOSED,  /* its system calls are filtered from now on; comes with the filter's listener */
	STATUS_EXEC,    /* the command cannot be executed */
	STATUS_ENDED,   /* the command ended */
	STATUS_FAILED,  /* the sandbox could not be made */
	STATUS_ENTERED, /* the command is in the root that it was given ahead */
};
struct status {
	uint32_t kind;
	int32_t number; /* exec: errno; ended: as wait() tells it */
	uint64_t pid_namespace;
	char message[400];
};
/* Keeper → command there: this, with descriptors. Ahead of the job the root and perhaps
 * a spec that is like the job's but for arguments, environment and streams; with the job the spec, stdout,
 * stderr and, unless it mounts it itself, the root; when it is in it already the input, if there is one. */
struct order {
	uint32_t ahead;
	uint32_t wait; /* for a byte before the command is executed */
};
struct nursery {
	const struct launcher_context *context;
	unsigned cell;
	const struct wire_spec *spec; /* what is special; of the pool: nothing */
	int births, inner;
	int dev;
	unsigned long namespaces; /* of its inits */
	bool alone;
	bool raise_loopback;
	bool shares; /* its memory, with its inits */
	struct skeleton skeleton;
	struct scratch *scratch;
};
/* Sanitizers know no processes with one memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { INIT_SHARES = false, COMMAND_SHARES = false };
#else
enum { INIT_SHARES = true, COMMAND_SHARES = true };
#endif
/* scratch.c: all that an init and the command allocate. It is given anew to each. */
struct scratch;
struct scratch *scratch_make(void);
/* Before it is used again: of the last nothing is left. */
bool scratch_wipe(struct scratch *scratch);
void *scratch_init_stack(struct scratch *scratch);
void *scratch_command_stack(struct scratch *scratch);
/* For one spec at a time. */
void *scratch_spec(struct scratch *scratch);
void nursery_main(struct nursery *nursery) __attribute__((noreturn));
int init_main(struct nursery *nursery);
bool status_tell(int inner, const struct status *status);
/* What needs no spec and is inherited by all jobs. */
bool init_drop_early(const struct nursery *nursery, struct croft_error *err);

/* seccomp.c: the compiled filter for one profile. `sorted`: whoever listens answers calls that read directories. */
bool seccomp_compile(enum croft_seccomp profile, bool sorted, struct sock_fprog *program,
	struct croft_error *err);
/* For this process. `listener` hears of calls that are denied; -1: there cannot be one here, which is an error
 * where calls are to be `answered`. */
bool seccomp_install(const struct sock_fprog *program, bool answered, int *listener, struct croft_error *err);
/* Another profile that allows the call; NULL: none. */
const char *seccomp_allowed_by(const char *call, enum croft_seccomp profile);

/* denied.c: what a job was denied, from the keeper's side. */
struct denials {
	int listener; /* -1: nobody listens */
	uint32_t count, heard;
	struct denied calls[DENIED_MOST];
};
void denials_listen(struct denials *denials, int listener);
/* The listener is readable. */
void denials_hear(struct denials *denials);
struct seccomp_data;
void denials_note(struct denials *denials, const struct seccomp_data *data);
void denials_end(struct denials *denials);
/* answers.h: a process that listens in the keeper's place, and answers some of the calls. */
struct answers {
	pid_t pid;
	struct denials *heard; /* of both; NULL: there is none */
};
/* For people. */
void denials_tell(const struct denied *denied, enum croft_seccomp profile, struct croft_denied_call *call);

/* landlock.c: the version that this kernel has; 0: none that serves. */
int landlock_version(void);
/* Whether signals and abstract sockets are covered. */
bool landlock_scopes(int version);
/* This process, which has no_new_privs, and whose root is the job's. */
bool landlock_confine(int version, struct croft_error *err);

/* cgroup.c and cgroup_tree.c: one for each cell. */
struct cgroups;
/* Never fails: what cannot be had is said in limits (one line each, in the arena). */
struct cgroups *cgroups_open(unsigned cells, struct croft_arena *arena, const char **limits);
/* Bits of enum croft_enforced. */
uint32_t cgroups_enforce(const struct cgroups *cgroups);
/* A fresh one in the place of the old, whose files this process keeps. */
void cgroups_renew(struct cgroups *cgroups, unsigned cell);
/* For a keeper: files of the cell's group stay open once they were. Not in its children. */
void cgroups_keep(struct cgroups *cgroups, unsigned cell);
void cgroups_forget(struct cgroups *cgroups);
bool cgroups_enter(struct cgroups *cgroups, unsigned cell, pid_t pid, struct croft_error *err);
/* `others`: processes in it that are none of the job's. */
bool cgroups_limit(struct cgroups *cgroups, unsigned cell, const struct wire_spec *spec,
	unsigned others, struct croft_error *err);
/* Whether the number of processes is limited, so that refusals are counted. */
bool cgroups_limit_processes(const struct cgroups *cgroups);
/* What its counters say now: a job's use is the difference of two. */
struct cgroup_counters {
	uint64_t cpu_ns, user_ns, system_ns, kills, refusals, read_bytes, written_bytes, memory_bytes,
		peak_bytes;
	bool traffic; /* whether bytes read and written are known */
};
void cgroups_count(struct cgroups *cgroups, unsigned cell, struct cgroup_counters *counters);
/* What the job used since; to be asked when it is over. */
void cgroups_measure(struct cgroups *cgroups, unsigned cell, const struct cgroup_counters *before,
	struct report *report);
/* Whether it may serve another job, whose use can be told from this one's. */
bool cgroups_reusable(struct cgroups *cgroups, unsigned cell,
	const struct cgroup_counters *before);
/* Processor time so far; 0 where no cgroup counts it. */
uint64_t cgroups_cpu_ns(struct cgroups *cgroups, unsigned cell);
void cgroups_close(struct cgroups *cgroups);

#endif
