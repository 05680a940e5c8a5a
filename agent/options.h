/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job asks of its sandbox by platform properties (see docs/platform.md for the list).
 */
#ifndef CROFT_AGENT_OPTIONS_H
#define CROFT_AGENT_OPTIONS_H

#include "proto/base/error.h"
#include "sandbox/sandbox.h"

#include "croft/v1/farm.pb-c.h"

struct croft_job_options {
	/* What the input root is: "/", or a folder over a root image; or the job does not say. */
	enum { CROFT_ROOT_UNSAID, CROFT_ROOT_INPUT, CROFT_ROOT_IMAGE } root;
	const char *root_image; /* the job's own choice; or NULL: the agent's. Borrowed from the job */
	uint32_t uid, gid;
	enum croft_network network;
	const char *farm_socket; /* where it finds the farm's calls, absolute inside; NULL: nowhere. Borrowed */
	/* Limits; 0: none. */
	uint64_t memory_bytes, processes, disk_bytes, disk_inodes, file_bytes, capture_bytes, cpu_seconds;
	/* What makes runs alike; NULL, false and 0: as usual. */
	const char *hostname, *time_zone, *locale; /* borrowed from the job */
	bool umask_given, fixed_addresses, sorted_directories;
	uint32_t umask, cpus;
	enum croft_seccomp seccomp;
	bool skip_special; /* fifos, sockets and devices among its outputs are left out */
};

/* INVALID_ARGUMENT names a property whose value makes no sense. */
bool croft_job_options_read(struct croft_job_options *options, const Farm__Job *job,
	struct croft_error *err);

#endif
