/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the end of a sandbox means for its job.
 */
#ifndef CROFT_AGENT_VERDICT_H
#define CROFT_AGENT_VERDICT_H

#include "sandbox/sandbox.h"

/* An exit (with any code) is a result: true. A limit is an error of the job with a code of its own; a cancel is
 * neither, and CANCELLED. */
bool croft_verdict(const struct croft_sandbox_result *ended, struct croft_error *err);

#endif
