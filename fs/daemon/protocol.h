/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes over the daemon's socket: one datagram each way (SOCK_SEQPACKET), structs of the host,
 * since both ends are the same machine and mostly the same program. An agent that is newer than the
 * daemon sees so from `version`, which stays first, and has it replaced by OP_HAND_OVER, which stays 2, or ends it by
 * OP_STOP, which stays 1.
 */
#ifndef CROFT_FS_DAEMON_PROTOCOL_H
#define CROFT_FS_DAEMON_PROTOCOL_H

#include "fs/daemon.h"
#include "fs/tree.h"

#include <linux/limits.h>

enum { DAEMON_VERSION = 9, DAEMON_TEXT = 16384, DAEMON_BUILD = 64 };

enum daemon_op {
	OP_STOP = 1,
	OP_HAND_OVER = 2, /* handover.c; no agent's */
	OP_HELLO,
	OP_ACCOUNT_BEGIN,
	OP_ACCOUNT_READ,
	OP_ACCOUNT_END,
	OP_ADOPT,
	OP_SET_PEERS,
	OP_SET_ORIGIN, /* `text`: where it is now */
	OP_MEASURE,
	OP_STAT,
	OP_PRESENT,
	OP_PREFETCH, /* passed: a memory file of struct croft_prefetch_wish */
	OP_TOUCHED,  /* passed: a memory file of paths, each with a NUL behind it, `list_size` bytes of
		      * them; the digests go behind these, then the ranges */
	OP_STAGE,
};

struct daemon_request {
	uint32_t version, op;
	uint64_t pid_namespace;
	struct croft_digest digest;
	uint32_t is_directory; /* OP_PRESENT */
	uint32_t peer_count, text_size;
	uint32_t list_size; /* OP_TOUCHED */
	char text[DAEMON_TEXT]; /* peers, each with a NUL behind it */
};

struct daemon_answer {
	uint32_t version;
	struct croft_error error;
	union {
		struct {
			int32_t pid, plane_port;
			uint32_t staging; /* as it came out: never AUTO */
			uint32_t standins; /* bool: OP_STAGE may find some */
			char mountpoint[PATH_MAX];
			char config[DAEMON_TEXT]; /* what daemon_config_text makes of it; "": it is ending */
			char build[DAEMON_BUILD];
		} hello;
		struct croft_mount_account account;
		struct croft_tree_totals totals;
		struct croft_daemon_stat stat;
		uint64_t present_bytes;
		struct {
			char path[PATH_MAX]; /* of a tree in the mount: of its stand-in, "" where there is none */
			uint64_t fetched_files, fetched_bytes;
		} staged;
		struct {
			struct croft_prefetch_account prefetch;
			size_t range_count;
		} touched;
	};
};

/* What has to be the same for an agent to go on with a running daemon. */
void daemon_config_text(const struct croft_daemon_config *config, char text[DAEMON_TEXT]);

/* Which program runs: its file. */
void daemon_build_text(char text[DAEMON_BUILD]);

/* The socket in the state directory, whose path may be longer than a socket address can be: -1 on
 * error. */
int daemon_listen(const char *state, struct croft_error *err);
int daemon_connect(const char *state, struct croft_error *err);

/* passed_fd -1: none. */
bool daemon_send_request(int socket, const struct daemon_request *request, int passed_fd,
	struct croft_error *err);
/* False at the other end's end (code CANCELLED) and on error. */
bool daemon_receive_request(int socket, struct daemon_request *request, int *passed_fd,
	struct croft_error *err);
bool daemon_send_answer(int socket, const struct daemon_answer *answer, struct croft_error *err);
bool daemon_receive_answer(int socket, struct daemon_answer *answer, struct croft_error *err);

#endif
