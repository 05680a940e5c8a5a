/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/agent.h"

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/process.h"
#include "cli/state.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <string.h>

/* croft_agent_run forks its launcher: nothing here may start a thread, so no client is opened. */
static int run(const struct options *options, struct croft_error *err)
{
	struct croft_tls tls = {
		.certificate_file = options_value(options, "tls-cert"),
		.key_file = options_value(options, "tls-key"),
		.authority_file = options_value(options, "tls-ca"),
	};
	uint64_t slots = 0, cache = 0;
	if (!options_arguments(options, 0, 0, err) ||
		!options_number(options, "slots", 1, 4096, &slots, err) ||
		!options_size(options, "cache", &cache, err))
		return MISUSED;
	const char *staging = options_value(options, "staging");
	enum croft_staging way = CROFT_STAGING_AUTO;
	if (staging && !croft_staging_parse(staging, &way, err))
		return MISUSED;
	size_t count = options_count(options, "property");
	CROFT_CLEANUP_FREE const char **properties = croft_array(count, sizeof(*properties));
	for (size_t i = 0; i < count; i++) {
		properties[i] = options_at(options, "property", i);
		const char *equals = strchr(properties[i], '=');
		if (equals && equals > properties[i])
			continue;
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "--property: \"%s\" is not KEY=VALUE",
			properties[i]);
		return MISUSED;
	}
	CROFT_CLEANUP_FREE char *state = state_directory(options, "agent", err);
	if (!state || !follow_parent(options_value(options, "parent"), err))
		return FAILED;
	croft_log_setup("agent", options_given(options, "verbose") ? CROFT_LOG_DEBUG : CROFT_LOG_INFO);
	bool wants_tls = tls.certificate_file || tls.key_file || tls.authority_file;
	struct croft_agent_config config = {
		.server = server_of(options),
		.state = state,
		.name = options_value(options, "name"),
		.slots = (unsigned)slots,
		.properties = properties,
		.property_count = count,
		.root_image = options_value(options, "root-image"),
		.plane_address = options_value(options, "plane"),
		.no_peers = options_given(options, "no-peers"),
		.cache_bytes = cache,
		.classic_fuse = options_given(options, "classic-fuse"),
		.staging = way,
		.allow_network = options_given(options, "allow-network"),
		.allow_nested = options_given(options, "allow-nested"),
		.tls = wants_tls ? &tls : NULL,
		.key_file = options_value(options, "agent-key"),
	};
	return croft_agent_run(&config, err) ? 0 : FAILED;
}

static const struct option_spec agent_options[] = {
	{"state", 0, "DIR", "cache, mount and sandboxes (else $XDG_STATE_HOME/croft/agent)"},
	{"name", 0, "NAME", "how the farm calls this agent (else the host's name)"},
	{"slots", 0, "N", "jobs at a time (else one per CPU)"},
	{"property", 'p', "KEY=VALUE", "platform property that jobs may ask for; may be given again"},
	{"root-image", 0, "NAME|DIR", "the / of jobs whose inputs are not a whole root (Bazel)"},
	{"plane", 0, "ADDR", "serve the cache to other agents there (else by the way to the server)"},
	{"no-peers", 0, NULL, "neither serve the cache to other agents nor ask them for blobs"},
	{"allow-network", 0, NULL, "jobs that ask for network=on get this machine's network"},
	{"allow-nested", 0, NULL, "jobs that ask for remoteApisSocketPath may call the farm themselves"},
	{"cache", 0, "SIZE", "most bytes that the cache may hold"},
	{"agent-key", 0, "FILE", "the key of a farm whose blobs are private: agent-key of its server's state"},
	{"classic-fuse", 0, NULL, "use /dev/fuse even where FUSE over io_uring is switched on"},
	{"staging", 0, "WAY", "how inputs come to jobs: fuse, reflink, hardlink, copy (else auto)"},
	{"verbose", 'v', NULL, "log more"},
	{"parent", 0, "PID", NULL},
	{0},
};

const struct command command_agent = {
	.name = "agent",
	.arguments = "",
	.summary = "Run jobs of a farm on this machine",
	.details = "Connects to --server, and again whenever the connection is lost. OSFamily and ISA are\n"
		   "among the properties by themselves. SIGTERM or SIGINT: takes no more jobs, ends the\n"
		   "running ones and leaves. SIGUSR2: the process that serves the inputs is replaced by the\n"
		   "program that now stands where this one was started from; jobs go on over that.\n"
		   "\n"
		   "Agents give one another what their caches hold, to spare the server: each serves whole,\n"
		   "verified blobs, by their hash, to whoever can connect, as the server's blob plane does. By\n"
		   "default it listens on any port of the address that it reaches the server from (on loopback\n"
		   "alone when the server runs on this machine); --plane says where instead.\n"
		   "\n"
		   "Inputs come to jobs through FUSE, as they are read. Where there is no /dev/fuse, or --staging\n"
		   "says so, each input root is fetched whole and put on the disk, by one file for each content of\n"
		   "which the files in the roots share the blocks (reflink; Btrfs, XFS) or are names (hardlink), or\n"
		   "by copies (copy). Roots stay for the next job as long as there is room: half of --cache is for\n"
		   "them. With hardlink a job sees link counts above 1, and directories that are staged have the\n"
		   "sizes that their disk gives them; else the ways differ in nothing that a job can see but time.",
	.options = agent_options,
	.client = true,
	.run = run,
};
