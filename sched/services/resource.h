/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names by which ByteStream knows blobs; see ContentAddressableStorage's comment in
 * remote_execution.proto for the grammar. */
#ifndef CROFT_SCHED_SERVICES_RESOURCE_H
#define CROFT_SCHED_SERVICES_RESOURCE_H

#include "fs/digest.h"

struct resource {
	struct croft_slice instance; /* borrowed from the name, like all slices here */
	struct croft_slice uuid;     /* writes only */
	bool zstd;
	struct croft_digest digest;
};

/* [INSTANCE/]blobs/[FUNCTION/]HASH/SIZE or [INSTANCE/]compressed-blobs/zstd/[FUNCTION/]HASH/SIZE */
bool resource_parse_read(struct croft_slice name, struct resource *resource,
	struct croft_error *err);
/* [INSTANCE/]uploads/UUID/ and one of the above, and then whatever the client likes. */
bool resource_parse_write(struct croft_slice name, struct resource *resource,
	struct croft_error *err);
/* [INSTANCE/]operations/NAME/stdout or stderr: the log of a running operation. */
bool resource_is_log(struct croft_slice name);

#endif
