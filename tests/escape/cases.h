/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is tried from inside, and how the outside sees that it was contained.
 *
 * A case runs its probe twice: once in the sandbox as it is, where nothing may come of it, and once
 * with one protection switched off, where it must succeed or its check must fire. A case that is not
 * shown to succeed says why.
 */
#ifndef CROFT_TESTS_ESCAPE_CASES_H
#define CROFT_TESTS_ESCAPE_CASES_H

#include "sandbox/internal.h"

/* Switches of the driver's own, next to those of the library. */
enum {
	WITHOUT_LIMITS = 1u << 31,  /* none of the spec's limits */
	WITHOUT_NETWORK = 1u << 30, /* the host's network */
	WITH_PATH = 1u << 29,       /* the case's `open` is mounted where it stands on the host */
	BY_HAND = 1u << 28,         /* outputs are read as one would without the library */
	OF_THE_DRIVER = WITHOUT_LIMITS | WITHOUT_NETWORK | WITH_PATH | BY_HAND,
};

/* What a machine may lack. */
enum escape_needs {
	ESCAPE_CGROUPS = 1 << 0,
	ESCAPE_INTERFACES = 1 << 1,
	ESCAPE_LANDLOCK = 1 << 2,
	ESCAPE_SCOPES = 1 << 3, /* Landlock's, of signals and sockets */
	ESCAPE_ROOT = 1 << 4,   /* started as root of the host */
};

struct world {
	char folder[64], root[128], state[128], secret[128], socket_path[128];
	char abstract[64], host_name[256];
	uint32_t uid_base;
	int port;
	key_t memory_key;
	int memory;
	char queue[64];
	pid_t victim; /* has the kernel id that jobs of slot 0 have as user 0 */
	const char *text; /* "secret of the host", at the same address in the victim */
	struct croft_launcher *launcher;
	uint32_t has; /* bits of enum escape_needs */
};

struct attempt {
	const struct world *world;
	const struct escape_case *of;
	uint32_t weaken;
	struct croft_sandbox *sandbox;
	struct croft_sandbox_result result;
	char said[8192]; /* by the probe, as far as it fits */
	size_t said_bytes;
};

enum argument {
	NOTHING,
	SECRET,          /* path of a file with the secret */
	VICTIM,          /* its pid */
	VICTIM_MEMORY,   /* its pid, and where the secret stands in it */
	VICTIM_SECRET,   /* its pid, and the path */
	PORT,
	ABSTRACT,
	SOCKET_PATH,
	MEMORY_KEY,
	QUEUE,
	HOST_NAME,
	FOLDER,
	TENTHS,          /* how long to stay: until ended, or shortly when nothing will end it */
};

struct escape_case {
	const char *name;
	uint32_t weaken;
	const char *why_not; /* weaken 0: why it is not shown to succeed */
	enum argument argument;
	bool may_lack;     /* what it tries may be missing from a kernel or a machine */
	bool no_escape;    /* shows that ordinary things work: not counted */
	uint32_t needs;    /* of the machine; bits of enum escape_needs */
	const char *probe; /* NULL: of the case's name */
	uint32_t without;  /* protections that are switched off both times, to try the one behind them */
	enum croft_end end; /* EXIT: the probe says; otherwise the job is ended so */
	int signal;         /* ended by it is contained as well */
	const char *open;   /* WITH_PATH; NULL: the folder */
	void (*adjust)(struct croft_sandbox_spec *spec);
	/* From outside, after all inside are dead. NULL: fine; else what escaped. */
	const char *(*check)(const struct attempt *attempt);
};
extern const struct escape_case cases[]; /* ended by one without a name */

#endif
