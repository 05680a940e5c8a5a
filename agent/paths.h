/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a job's paths stand inside its sandbox.
 *
 * REAPI clients mean one of two things by an input root: the job's whole file system (BuildStream),
 * or a folder in which the job works over a root image that the agent has (Bazel).
 */
#ifndef CROFT_AGENT_PATHS_H
#define CROFT_AGENT_PATHS_H

#include "proto/base/arena.h"
#include "proto/base/error.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"

struct croft_output_path {
	const char *declared; /* echoed in the result */
	const char *inside;   /* absolute, normal */
	/* Legacy fields name the kind; output_paths takes what it finds. */
	enum { CROFT_OUTPUT_ANY, CROFT_OUTPUT_FILE, CROFT_OUTPUT_DIRECTORY } kind;
};

struct croft_layout {
	const char *input_target;      /* where the input root stands: "/" or a folder */
	const char *working_directory; /* absolute, normal */
	struct croft_output_path *outputs;
	size_t output_count;
	const char **writable; /* directories that must exist and be writable */
	size_t writable_count;
};

/* Everything in the arena. INVALID_ARGUMENT names a path that is absolute where it must not be, or
 * that leaves the input root by "..". */
bool croft_layout_of(const Reapi__Command *command, const char *input_target,
	struct croft_arena *arena, struct croft_layout *layout, struct croft_error *err);

/* Resolves "." and ".." of `relative` below `base` (absolute, normal) without looking at any file;
 * NULL when it would leave `top` (absolute, normal). */
const char *croft_path_resolve(const char *top, const char *base, const char *relative,
	struct croft_arena *arena);

#endif
