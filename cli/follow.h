/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executing an action and staying with it to its end: through lost connections and restarts of the
 * server, with its output passed on as it comes.
 */
#ifndef CROFT_CLI_FOLLOW_H
#define CROFT_CLI_FOLLOW_H

#include "cli/connect.h"

struct follow_request {
	struct client *client;
	struct croft_digest action;
	bool skip_cache;
	int32_t priority;
	const char *kind;      /* action mnemonic, or NULL */
	uint64_t patience_ms;  /* how long the server may be unreachable */
	int output_fd, error_fd; /* where stdout and stderr of the job go */
};

/* Memory of the caller; the response is in its arena. */
struct follow_result {
	const char *operation;
	const Reapi__ExecuteResponse *response;
};

/* From now on SIGINT, SIGTERM and SIGHUP cancel the operation that is followed; a second one, or one
 * when nothing is followed, ends the process. Threads inherit this: call it before there are any. */
void follow_catch_signals(void);

/* True when the operation has ended and there is a response, whatever it says. */
bool follow(const struct follow_request *request, struct croft_arena *arena,
	struct follow_result *result, struct croft_error *err);

/* The signal that asked to cancel, or 0. */
int follow_cancelled(void);

#endif
