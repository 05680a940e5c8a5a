/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ByteStream's reading and writing half share. */
#ifndef CROFT_SCHED_SERVICES_BYTE_STREAM_H
#define CROFT_SCHED_SERVICES_BYTE_STREAM_H

#include "proto/rpc/server.h"

/* A client may send the resource name as a header too, for routers on the way; then both must be
 * the same. */
bool byte_stream_check_header(struct croft_call *call, const char *resource_name,
	struct croft_error *err);

#endif
