/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/serve.h"

#include "sched/memory.h"
#include "sched/plane_key.h"

#include "fs/plane.h"
#include "proto/base/io.h"
#include "proto/base/log.h"
#include "sched/services.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

/* What calls that are under way have to end by themselves when the server stops. Clients try again
 * what is cut off, and uploads go on where they were. */
enum { GRACE_MS = 2000 };

static const char default_address[] = "127.0.0.1:8980";
static const char default_plane_port[] = "8981";

struct serving {
	struct croft_arena *arena;
	struct croft_store *store;
	struct croft_upstream *upstream;
	const char *plane_key; /* NULL: none is asked for */
	const char *agent_key; /* NULL: likewise */
	struct croft_plane *plane;
	struct croft_sched *sched;
	struct croft_services *services;
	struct croft_server *server;
};

/* The gRPC address with the other port; a socket in the file system has no host to share. */
static const char *plane_address(const struct croft_serve_config *config, const char *address,
	struct croft_arena *arena)
{
	if (config->plane_address)
		return config->plane_address;
	const char *colon = strrchr(address, ':');
	if (strncmp(address, "unix:", 5) == 0 || !colon)
		return croft_arena_printf(arena, "127.0.0.1:%s", default_plane_port);
	return croft_arena_printf(
		arena, "%.*s:%s", (int)(colon - address), address, default_plane_port);
}

static bool open_store(struct serving *serving, const struct croft_serve_config *config,
	struct croft_error *err)
{
	const char *path = croft_arena_printf(serving->arena, "%s/store", config->state);
	const char *journal = croft_arena_printf(serving->arena, "%s/journal", config->state);
	if (!croft_make_directories(path, err) || !croft_make_directories(journal, err))
		return false;
	serving->store = croft_store_open(
		&(struct croft_store_config){
			.path = path, .budget_bytes = config->budget_bytes, .durable = true, .chunked = true,
			.scrub_bytes_per_second = config->scrub_bytes_per_second},
		err);
	return serving->store || croft_error_wrap(err, "opening the store");
}

static bool start_upstream(struct serving *serving, const struct croft_serve_config *config,
	struct croft_error *err)
{
	if (!config->upstream_url)
		return true;
	if (config->private_blobs)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"blobs cannot be private with an upstream: it does not tell whose they are");
	serving->upstream = croft_upstream_start(
		&(struct croft_upstream_config){.store = serving->store, .url = config->upstream_url,
			.authority_file = config->upstream_authority_file}, err);
	return serving->upstream || croft_error_wrap(err, "the upstream");
}

/* A farm that knows its clients by certificates gives no blobs to strangers. */
static bool read_keys(struct serving *serving, const struct croft_serve_config *config,
	struct croft_error *err)
{
	const char *file = config->plane_key_file;
	if (!file && config->tls && config->tls->authority_file)
		file = croft_arena_printf(serving->arena, "%s/plane-key", config->state);
	serving->plane_key = file ? plane_key_read(file, serving->arena, err) : NULL;
	if (file && !serving->plane_key)
		return false;
	if (!config->private_blobs)
		return true;
	file = croft_arena_printf(serving->arena, "%s/agent-key", config->state);
	serving->agent_key = plane_key_read(file, serving->arena, err);
	return serving->agent_key != NULL;
}

static bool start_plane(struct serving *serving, const struct croft_serve_config *config,
	const char *address, struct croft_error *err)
{
	if (!read_keys(serving, config, err))
		return false;
	const char *at = plane_address(config, address, serving->arena);
	serving->plane = croft_plane_start(
		&(struct croft_plane_config){
			.address = at, .store = serving->store, .instance_name = "", .writable = true,
			.key = serving->plane_key,
			.private_blobs = config->private_blobs,
			.full_key = serving->agent_key,
			.tls = config->tls,
			.upstream = serving->upstream},
		err);
	return serving->plane || croft_error_wrap(err, "starting the blob plane on %s", at);
}

static bool open_sched(struct serving *serving, const struct croft_serve_config *config,
	struct croft_error *err)
{
	struct croft_sched_config sched = {
		.path = croft_arena_printf(serving->arena, "%s/journal", config->state),
		.log_path = config->log_bytes
			? croft_arena_printf(serving->arena, "%s/operations.log", config->state)
			: NULL,
		.log_bytes = config->log_bytes,
		.store = serving->store,
		.upstream = serving->upstream,
		/* Agents put the host in front by which they know this server. */
		.blob_url = croft_arena_printf(
			serving->arena, "%s:%d", config->tls ? "https://" : "", croft_plane_port(serving->plane)),
		.blob_key = serving->plane_key,
		.private_blobs = config->private_blobs,
		.agent_key = serving->agent_key,
		.policy = config->policy,
		.queue_limit = config->queue_limit,
		.tenant_limit = config->build_limit,
		.unfit_ms = config->unfit_ms,
		.abandon_ms = config->abandon_ms,
	};
	serving->sched = croft_sched_open(&sched, err);
	return serving->sched || croft_error_wrap(err, "opening the scheduler");
}

static bool start_server(struct serving *serving, const struct croft_serve_config *config,
	const char *address, struct croft_error *err)
{
	serving->services = croft_services_create(
		&(struct croft_services_config){.store = serving->store,
			.sched = serving->sched,
			.upstream = serving->upstream,
			.private_blobs = config->private_blobs,
			.asset_origins = config->asset_origins,
			.asset_origin_count = config->asset_origin_count,
			.folder = config->state},
		err);
	if (!serving->services)
		return false;
	serving->server = croft_server_create(
		&(struct croft_server_config){.address = address, .tls = config->tls}, err);
	if (!serving->server)
		return false;
	croft_services_serve(serving->services, serving->server);
	croft_sched_serve(serving->sched, serving->server);
	return croft_server_start(serving->server, err);
}

/* In the opposite order of the start: nobody is left who could call what is being closed. */
static void stop(struct serving *serving)
{
	if (serving->server) {
		croft_services_stop(serving->services);
		croft_server_shutdown(serving->server, GRACE_MS);
	}
	croft_server_destroy(serving->server);
	croft_services_destroy(serving->services);
	croft_sched_close(serving->sched);
	if (serving->plane)
		croft_plane_stop(serving->plane);
	croft_upstream_stop(serving->upstream);
	if (serving->store)
		croft_store_close(serving->store);
	croft_arena_destroy(serving->arena);
}

static int wait_for_end(const sigset_t *ending)
{
	const struct timespec turn = {.tv_sec = MEMORY_TURN_SECONDS};
	struct memory_watch watch = {0};
	int signal_number;
	while ((signal_number = sigtimedwait(ending, NULL, &turn)) < 0)
		if (errno == EAGAIN)
			memory_turn(&watch, memory_processor_ms());
	return signal_number;
}

static bool serve(struct serving *serving, const struct croft_serve_config *config,
	const sigset_t *ending, struct croft_error *err)
{
	const char *address = config->address ? config->address : default_address;
	if (!open_store(serving, config, err) || !start_upstream(serving, config, err) ||
		!start_plane(serving, config, address, err) ||
		!open_sched(serving, config, err) || !start_server(serving, config, address, err))
		return false;
	if (config->ready)
		config->ready(config->user, croft_server_port(serving->server),
			croft_plane_port(serving->plane));
	croft_log(CROFT_LOG_INFO, "%s: shutting down", strsignal(wait_for_end(ending)));
	return true;
}

/* A connection with TLS takes three. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

bool croft_serve_run(const struct croft_serve_config *config, struct croft_error *err)
{
	struct serving serving = {.arena = croft_arena_create()};
	raise_descriptor_limit();
	sigset_t ending, before;
	sigemptyset(&ending);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGINT);
	/* Before any thread starts, so that all inherit it and the signals wait for sigwait. */
	pthread_sigmask(SIG_BLOCK, &ending, &before);
	struct sigaction ignore = {.sa_handler = SIG_IGN}, pipe_before;
	sigaction(SIGPIPE, &ignore, &pipe_before);
	bool ok = serve(&serving, config, &ending, err);
	stop(&serving);
	sigaction(SIGPIPE, &pipe_before, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ok;
}
