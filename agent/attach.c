/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/attach.h"

#include "agent/peers.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <string.h>

const char *croft_own_blob_url(const struct croft_machine *machine, const char *server,
	struct croft_arena *arena)
{
	int port = machine->daemon ? croft_daemon_plane_port(machine->daemon) : -1;
	return port <= 0 ? "" : croft_peers_own_url(machine->plane_address, port, server, arena);
}

/* "[https://]HOST:PORT" of the blob plane: a Welcome that names only ":PORT" means the host of the gRPC target. */
static const char *origin_of(const char *blob_url, const char *target, struct croft_arena *arena)
{
	static const char https[] = "https://";
	const char *scheme = strncmp(blob_url, https, sizeof(https) - 1) == 0 ? https : "";
	const char *address = blob_url + strlen(scheme);
	if (address[0] != ':')
		return blob_url;
	const char *host = strstr(target, "://") ? strstr(target, "://") + 3 : target;
	const char *end = strrchr(host, ':');
	size_t size = end && !strchr(end, ']') ? (size_t)(end - host) : strlen(host);
	return croft_arena_printf(arena, "%s%.*s%s", scheme, (int)size, host, address);
}

/* By default at the address that the server is reached from, on any port: a farm of one machine stays on
 * it, and others find this agent where they would find the server. */
static void choose_plane_address(struct croft_machine *machine, const struct croft_agent_config *config,
	const char *origin)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	if (config->no_peers)
		return;
	if (strncmp(origin, "https://", 8) == 0 && !(config->tls && config->tls->certificate_file)) {
		croft_log(CROFT_LOG_INFO, "serves no blobs to other agents: this farm's blobs go over TLS only, and there is "
			"no certificate here (--tls-cert)");
		return;
	}
	if (config->plane_address) {
		machine->plane_address = croft_strdup(config->plane_address);
		return;
	}
	const char *host = croft_peers_own_host(config->server, arena);
	if (host)
		machine->plane_address = croft_strdup(croft_arena_printf(arena, "%s:0", host));
	else
		croft_log(CROFT_LOG_WARNING, "serves no blobs to other agents: the address of this machine towards "
			"%s is not known; --plane says where to listen", config->server);
}

bool croft_attach_daemon(struct croft_machine *machine, const struct croft_agent_config *config,
	const Farm__Welcome *welcome, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *origin = origin_of(welcome->blob_url, config->server, arena);
	const char *key = *welcome->blob_key ? welcome->blob_key : NULL;
	if (machine->daemon) /* a restarted server may have another port */
		return croft_daemon_set_origin(machine->daemon, origin, key, err);
	choose_plane_address(machine, config, origin);
	struct croft_daemon_config daemon = {
		.state = croft_arena_printf(arena, "%s/fs", config->state),
		.origin = origin,
		.tls = config->tls ? *config->tls : (struct croft_tls){0},
		.plane_key = key,
		.plane_address = machine->plane_address,
		.budget_bytes = config->cache_bytes,
		.classic = config->classic_fuse,
		.uid = machine->owner,
		.gid = machine->owner,
		.staging = config->staging,
	};
	if (!croft_make_directories(daemon.state, err))
		return false;
	struct croft_daemon *attached = croft_daemon_attach(&daemon, err);
	/* The thread that hears signals looks at it, too. */
	__atomic_store_n(&machine->daemon, attached, __ATOMIC_RELEASE);
	return attached != NULL || croft_error_wrap(err, "starting the filesystem");
}

void croft_renew_daemon(struct croft_machine *machine)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_daemon *daemon = __atomic_load_n(&machine->daemon, __ATOMIC_ACQUIRE);
	if (!daemon)
		croft_log(CROFT_LOG_WARNING, "there is no filesystem daemon to replace yet");
	else if (croft_daemon_renew(daemon, &err))
		croft_log(CROFT_LOG_INFO, "the filesystem daemon was replaced, its mount goes on");
	else
		croft_log(CROFT_LOG_WARNING, "the filesystem daemon was not replaced: %s", err.message);
}
