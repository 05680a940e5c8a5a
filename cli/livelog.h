/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One output stream of a running job, passed on as it is written, each byte once: a thread reads the
 * live stream; when the result is there, what it lacks comes from the log's blob.
 */
#ifndef CROFT_CLI_LIVELOG_H
#define CROFT_CLI_LIVELOG_H

#include "cli/connect.h"

struct livelog;

/* `name` is for messages. */
struct livelog *livelog_create(struct client *client, int fd, const char *name);
/* Starts reading, once the stream's name is known; "" and repetitions are ignored. */
void livelog_begin(struct livelog *log, const char *stream_name);
/* Stops reading and passes on the rest of the complete log: `bytes` when it has data, else the blob
 * `digest` names (NULL: the job wrote nothing, or the log is lost). */
bool livelog_finish(struct livelog *log, const Reapi__Digest *digest, struct croft_slice bytes,
	struct croft_error *err);
void livelog_destroy(struct livelog *log);

#endif
