/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sandbox/: the processes of a sandbox and what they tell each other.
 *
 *	agent ── control socket ── supervisor ── clone ── init (pid 1 inside) ── fork ── command
 *	   └── launcher socket ── launcher ── fork ──┘
 *
 * The launcher (launcher.c) is forked before the agent has threads. For each sandbox it forks a
 * supervisor (supervisor.c), which builds the root in a mount namespace of its own, clones init
 * (init.c) into fresh namespaces, and lives until everything inside is dead. When the agent dies, the
 * control socket closes and the supervisor kills all.
 */
#ifndef CROFT_SANDBOX_INTERNAL_H
#define CROFT_SANDBOX_INTERNAL_H

#include "sandbox/sandbox.h"

#include <linux/filter.h>
#include <sys/resource.h>

enum { IDS_PER_SLOT = 65536, MAX_ROOTS = 16 };

/* A spec as the supervisor reads it from its memory file: this header, then the strings. Offsets count
 * from the start of the file; 0 is NULL. Lists are arrays of offsets that end with 0. */
struct wire_spec {
	uint32_t slot;
	uint32_t uid, gid;
	uint32_t network, seccomp;
	uint32_t root_writable, terminal;
	uint32_t roots, input_root, input_target;
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
	WEAKEN_AGENT_LOSS = 1 << 18, /* the supervisor does not mind that the agent is gone */
	WEAKEN_STREAMS = 1 << 19,    /* stdin is the launcher's */
};
#ifdef CROFT_SANDBOX_WEAKEN
extern uint32_t sandbox_weaken; /* for the sandboxes prepared from now on */
#endif
static inline bool weak(const struct wire_spec *spec, enum weaken what)
{
#ifdef CROFT_SANDBOX_WEAKEN
	return spec->weaken & what;
#else
	return false;
#endif
}
/* The spec in a sealed memory file; -1 on error. */
int wire_spec_write(const struct croft_sandbox_spec *spec, unsigned slot, struct croft_error *err);
const struct wire_spec *wire_spec_map(int fd);
const char *wire_text(const struct wire_spec *spec, uint32_t offset);
/* NULL-terminated, in malloc'ed memory that is never freed (the process ends soon). */
const char **wire_list(const struct wire_spec *spec, uint32_t offset);

/* Agent → supervisor, on the control socket (SOCK_SEQPACKET). */
enum command_kind { COMMAND_GO, COMMAND_TERMINATE, COMMAND_KILL };
struct command {
	uint32_t kind;
};

/* Supervisor → agent. */
enum report_kind { REPORT_STARTED, REPORT_ENDED, REPORT_FAILED };
struct report {
	uint32_t kind;
	uint64_t pid_namespace;  /* started */
	int32_t wait_status;     /* ended: of the command; -1: init was killed */
	int32_t exec_errno;      /* ended: the command could not be executed */
	uint64_t user_ns, system_ns, peak_memory_bytes, read_bytes, written_bytes;
	uint32_t memory_measured, memory_exceeded, processes_exceeded;
	char message[400]; /* failed: why the sandbox could not be made */
};

/* end.c: what the agent's side knows when all is over. */
struct end_facts {
	const struct report *report;
	const struct croft_sandbox_spec *spec;
	enum croft_end limit;    /* that the agent's side enforced; EXIT: none */
	bool too_many_inodes;
	const char *kill_reason; /* NULL: it was not killed */
};
void end_judge(const struct end_facts *facts, struct croft_sandbox_result *result);

/* What the launcher sets up once, shared by its supervisors. */
struct launcher_context {
	const char *state;
	const char *staging; /* where roots are mounted: a path that every user may walk */
	unsigned slots;
	uint32_t uid_base;
	bool shared_uids;
	bool privileged; /* root in the initial user namespace */
	int *user_namespaces; /* one per slot, for idmapped mounts; -1: cannot be made */
	struct cgroups *cgroups;
	struct sock_fprog seccomp[3];
};

/* slot's directory below the state directory: upper/, work/, input-upper/, input-work/, lower0/… */
void slot_path(const struct launcher_context *context, unsigned slot, const char *name, char *path,
	size_t size);
/* The slot's kernel ids begin here. */
static inline uint32_t slot_ids(const struct launcher_context *context, unsigned slot)
{
	return context->uid_base + (context->shared_uids ? 0 : slot * IDS_PER_SLOT);
}
/* Where the slot's root is mounted. */
void slot_root(const struct launcher_context *context, unsigned slot, char *path, size_t size);

void launcher_main(struct launcher_context *context, int socket) __attribute__((noreturn));
/* A user namespace that maps 0 to base and up, for mapping owners on mounts; -1: not to be had. */
int launcher_user_namespace(const struct launcher_context *context, uint32_t base);
/* Runs one sandbox in a process of its own. */
void supervisor_main(const struct launcher_context *context, const struct wire_spec *spec,
	int control, int out, int errors) __attribute__((noreturn));

/* mounts.c: puts this process (root, one thread) into a mount namespace of its own, whose root is what
 * it sees as "/", and which hears of mounts that the host makes later. */
bool mounts_own(const struct launcher_context *context, struct croft_error *err);

/* root.c: the file system of a sandbox. */
bool root_mount_layers(const struct launcher_context *context, const struct wire_spec *spec,
	struct croft_error *err);
/* Inside, as pid 1 and still seeing the host: makes slot/root the root, with /proc, /dev and the like. */
bool root_enter(const struct launcher_context *context, const struct wire_spec *spec,
	struct croft_error *err);

/* init.c: pid 1 inside. status: where it tells how the command ended (struct init_status). */
struct init_status {
	int32_t wait_status;
	int32_t exec_errno;
	char failed[400]; /* not empty: the sandbox could not be made */
};
struct init_context {
	const struct launcher_context *launcher;
	const struct wire_spec *spec;
	int go, status; /* waits for a byte on go before it begins, and another before it executes */
	int out, errors;
};
int init_main(const struct init_context *context);

/* seccomp.c: the compiled filter for one profile. */
bool seccomp_compile(enum croft_seccomp profile, struct sock_fprog *program,
	struct croft_error *err);

/* cgroup.c */
struct cgroups;
/* Never fails: what cannot be had is said in limits (one line each, in the arena). */
struct cgroups *cgroups_open(unsigned slots, struct croft_arena *arena, const char **limits);
bool cgroups_begin(struct cgroups *cgroups, const struct wire_spec *spec, struct croft_error *err);
bool cgroups_enter(struct cgroups *cgroups, unsigned slot, pid_t pid, struct croft_error *err);
/* Whether the number of processes is limited, so that refusals are counted. */
bool cgroups_limit_processes(const struct cgroups *cgroups);
/* What the job used; to be asked when it is over. */
void cgroups_measure(struct cgroups *cgroups, unsigned slot, struct report *report);
/* Processor time so far; 0 where no cgroup counts it. */
uint64_t cgroups_cpu_ns(const struct cgroups *cgroups, unsigned slot);
/* Ready for the next job. */
void cgroups_end(struct cgroups *cgroups, unsigned slot);
void cgroups_close(struct cgroups *cgroups);

#endif
