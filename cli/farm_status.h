/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls of croft.v1.Farm that several commands make. */
#ifndef CROFT_CLI_FARM_STATUS_H
#define CROFT_CLI_FARM_STATUS_H

#include "cli/connect.h"

#include "croft/v1/farm.pb-c.h"

/* In the arena, or NULL. */
const Farm__FarmStatus *farm_status(struct client *client, struct croft_arena *arena,
	struct croft_error *err);

/* The farm's blob plane as "host:port"; one without a host is on the gRPC server's. */
const char *plane_address(const char *server, const char *blob_url, struct croft_arena *arena,
	struct croft_error *err);

#endif
