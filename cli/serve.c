/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/serve.h"

#include "cli/commands.h"
#include "cli/process.h"
#include "cli/state.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <fcntl.h>
#include <stdio.h>

/* "PORT PLANE-PORT" for whoever waits: a file by option, or a descriptor of `croft farm`. */
struct announcement {
	const char *file;
	int fd; /* -1: none */
};

static void say_ready(void *user, int port, int plane_port)
{
	struct announcement *announcement = user;
	croft_log(CROFT_LOG_INFO, "serving on port %d, blobs on port %d", port, plane_port);
	char text[64];
	struct croft_error err = CROFT_ERROR_INIT;
	size_t size = (size_t)snprintf(text, sizeof(text), "%d %d\n", port, plane_port);
	if (announcement->file && !croft_write_file(AT_FDCWD, announcement->file, text, size, 0644, &err))
		croft_log(CROFT_LOG_ERROR, "%s", err.message);
	if (announcement->fd < 0)
		return;
	if (!croft_write_all(announcement->fd, text, size, "the ports", &err))
		croft_log(CROFT_LOG_ERROR, "%s", err.message);
	close(announcement->fd);
}

/* Of the store a second: a terabyte in three days, and little beside what a disk does. */
enum { SCRUB = 4 << 20 };
/* For about half a million runs: two thousand bytes with forty inputs of weight, three hundred with none. */
enum { OPERATION_LOG = 256 << 20 };
/* Longer than any client takes to come back to an operation of its. */
enum { ABANDON_SECONDS = 300 };

static int run(const struct options *options, struct croft_error *err)
{
	struct croft_tls tls = {
		.certificate_file = options_value(options, "tls-cert"),
		.key_file = options_value(options, "tls-key"),
		.authority_file = options_value(options, "tls-client-ca"),
	};
	uint64_t budget = 0, queue_limit = 0, build_limit = 0, unfit_seconds = 0, abandon_seconds = ABANDON_SECONDS;
	uint64_t ready_fd = UINT32_MAX; /* no descriptor */
	uint64_t scrub = SCRUB, operation_log = OPERATION_LOG;
	if (!options_arguments(options, 0, 0, err) ||
		!options_number(options, "ready-fd", 3, INT32_MAX, &ready_fd, err) ||
		!options_number(options, "queue-limit", 1, UINT32_MAX, &queue_limit, err) ||
		!options_number(options, "build-limit", 1, UINT32_MAX, &build_limit, err) ||
		!options_number(options, "unfit-wait", 1, UINT32_MAX, &unfit_seconds, err) ||
		!options_number(options, "abandon-after", 0, UINT32_MAX, &abandon_seconds, err) ||
		!options_size(options, "budget", &budget, err) || !options_size(options, "scrub", &scrub, err) ||
		!options_size(options, "operation-log", &operation_log, err))
		return MISUSED;
	if (!tls.certificate_file != !tls.key_file || (tls.authority_file && !tls.certificate_file)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"--tls-cert and --tls-key go together, and --tls-client-ca needs both");
		return MISUSED;
	}
	CROFT_CLEANUP_FREE char *state = state_directory(options, "serve", err);
	if (!state || !follow_parent(options_value(options, "parent"), err))
		return FAILED;
	croft_log_setup("serve", options_given(options, "verbose") ? CROFT_LOG_DEBUG : CROFT_LOG_INFO);
	size_t origin_count = options_count(options, "asset-origin");
	CROFT_CLEANUP_FREE const char **origins = croft_array(origin_count + 1, sizeof(*origins));
	for (size_t i = 0; i < origin_count; i++)
		origins[i] = options_at(options, "asset-origin", i);
	struct announcement announcement = {options_value(options, "ports-file"), (int)ready_fd};
	struct croft_serve_config config = {
		.state = state,
		.address = options_value(options, "listen"),
		.plane_address = options_value(options, "plane"),
		.plane_key_file = options_value(options, "plane-key"),
		.tls = tls.certificate_file ? &tls : NULL,
		.queue_limit = queue_limit,
		.build_limit = build_limit,
		.unfit_ms = unfit_seconds * 1000,
		.abandon_ms = abandon_seconds ? abandon_seconds * 1000 : UINT64_MAX,
		.policy = options_value(options, "policy"),
		.private_blobs = options_given(options, "private-blobs"),
		.upstream_url = options_value(options, "upstream"),
		.upstream_authority_file = options_value(options, "upstream-ca"),
		.asset_origins = origins,
		.asset_origin_count = origin_count,
		.scrub_bytes_per_second = scrub,
		.budget_bytes = budget,
		.log_bytes = operation_log,
		.ready = say_ready,
		.user = &announcement,
	};
	return croft_serve_run(&config, err) ? 0 : FAILED;
}

static const struct option_spec serve_options[] = {
	{"state", 0, "DIR", "where everything is kept (else $XDG_STATE_HOME/croft/serve)"},
	{"listen", 0, "ADDR", "for clients and agents (else 127.0.0.1:8980)"},
	{"plane", 0, "ADDR", "for blobs over HTTP (else the same host, port 8981)"},
	{"budget", 0, "SIZE", "most bytes that the store may hold (else 90 % of the free disk)"},
	{"upstream", 0, "URL", "a cache behind this one, read and written through (grpc://, grpcs://, http://,"
		" https://, s3://)"},
	{"upstream-ca", 0, "FILE", "PEM authorities of the upstream's certificate (else the system's)"},
	{"asset-origin", 0, "URL",
		"Remote Asset may fetch what is below (http://, https://, ending with /); may be repeated"},
	{"scrub", 0, "SIZE", "bytes a second of the store that are read and checked while the machine has time (4M; 0: none)"},
	{"operation-log", 0, "SIZE",
		"most bytes of operations.log, a line for each run (256M; 0: none); see croft bench"},
	{"policy", 0, "NAME", "how jobs are placed (else locality)"},
	{"queue-limit", 0, "N", "most operations that wait; more are told to come back (1,000,000)"},
	{"build-limit", 0, "N", "most unfinished operations of one build (500,000)"},
	{"unfit-wait", 0, "SECONDS", "how long jobs wait that no agent fits, before they end (else 60)"},
	{"abandon-after", 0, "SECONDS",
		"how long jobs stay queued that no client waits for (300; 0: for ever)"},
	{"tls-cert", 0, "FILE", "PEM certificate: serve with TLS"},
	{"tls-key", 0, "FILE", "PEM key of that certificate"},
	{"tls-client-ca", 0, "FILE", "PEM authorities: only clients with their certificates are served"},
	{"plane-key", 0, "FILE", "give blobs over HTTP to who knows the key in FILE only (made if"
				 " it is not there; with --tls-client-ca: plane-key below the state)"},
	{"private-blobs", 0, NULL, "to each instance name only its own blobs are there: what it put itself, or"
				 " what was made for it. Agents must know the key in agent-key, below the state"},
	{"ports-file", 0, "FILE", "write both port numbers there once they are open"},
	{"verbose", 'v', NULL, "log more"},
	{"parent", 0, "PID", NULL},
	{"ready-fd", 0, "FD", NULL},
	{0},
};

const struct command command_serve = {
	.name = "serve",
	.arguments = "",
	.summary = "Be the server of a farm: storage, queue and services",
	.details = "Runs until SIGTERM or SIGINT. Whatever was accepted is still there after a crash: start\n"
		   "it again on the same --state. An ADDR is HOST:PORT, [::]:PORT or unix:/PATH; port 0 is\n"
		   "any free one.",
	.options = serve_options,
	.run = run,
};
