/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A sandbox's spec as JSON: what `croft sandbox --spec` reads. Its fields are listed in the command's help. */
#ifndef CROFT_CLI_SANDBOX_SPEC_H
#define CROFT_CLI_SANDBOX_SPEC_H

#include "proto/base/arena.h"
#include "sandbox/sandbox.h"

struct sandbox_request {
	struct croft_sandbox_spec spec; /* its strings are the arena's */
	const char **outputs;           /* paths to capture; NULL-terminated or NULL */
};

/* Unknown fields and wrong types are errors that name the field. */
bool sandbox_spec_parse(const char *text, size_t size, const char *what, struct croft_arena *arena,
	struct sandbox_request *request, struct croft_error *err);

bool sandbox_network_parse(const char *name, enum croft_network *network, struct croft_error *err);
bool sandbox_seccomp_parse(const char *name, enum croft_seccomp *seccomp, struct croft_error *err);

#endif
