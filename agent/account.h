/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the result of a job tells about its sandbox. */
#ifndef CROFT_AGENT_ACCOUNT_H
#define CROFT_AGENT_ACCOUNT_H

#include "proto/base/arena.h"
#include "sandbox/sandbox.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"

/* Adds a SandboxAccount to the result's metadata. */
void croft_account_of_sandbox(Reapi__ExecutedActionMetadata *metadata,
	const struct croft_sandbox_result *ended, struct croft_arena *arena);
/* A line for the log of a job that failed, if it was denied system calls; else empty. */
struct croft_slice croft_account_hint(const struct croft_sandbox_result *ended, struct croft_arena *arena);

#endif
