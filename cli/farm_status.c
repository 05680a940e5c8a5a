/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/farm_status.h"

#include <string.h>

const Farm__FarmStatus *farm_status(struct client *client, struct croft_arena *arena,
	struct croft_error *err)
{
	Farm__GetStatusRequest request = FARM__GET_STATUS_REQUEST__INIT;
	return croft_unary(client->channel, NULL, "/croft.v1.Farm/GetStatus", &request.base,
		&farm__farm_status__descriptor, arena, err);
}

const char *plane_address(const char *server, const char *blob_url, struct croft_arena *arena,
	struct croft_error *err)
{
	const char *scheme = strstr(server, "://");
	const char *host = scheme ? scheme + 3 : server;
	const char *colon = strrchr(host, ':');
	const char *secure = strncmp(blob_url, "https://", 8) == 0 ? "https://" : "";
	const char *given = blob_url;
	blob_url += strlen(secure);
	if (*blob_url && *blob_url != ':')
		return given;
	if (!strncmp(server, "unix:", 5) || !colon || !*blob_url) {
		croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"%s does not say where its blob plane is; --plane HOST:PORT does", server);
		return NULL;
	}
	return croft_arena_printf(arena, "%s%.*s%s", secure, (int)(colon - host), host, blob_url);
}
