/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A whole farm on one machine: a server and agents as processes of this one. */
#include "cli/children.h"
#include "cli/commands.h"
#include "cli/state.h"
#include "proto/base/cleanup.h"

#include <inttypes.h>
#include <string.h>

enum { READY_MS = 60000, GRACE_MS = 15000, MOST_ARGUMENTS = 24 };

struct farm {
	const struct options *options;
	struct croft_arena *arena;
	struct children *children;
	const char *state, *host;
	uint64_t agents, slots, budget, cache;
	unsigned port, plane_port;
	const char *parent; /* our pid: children end when this process does */
};

/* A growing argv in the arena. */
static void add(struct farm *farm, char **arguments, const char *option, const char *value)
{
	size_t count = 0;
	while (arguments[count])
		count++;
	if (count + 2 >= MOST_ARGUMENTS)
		abort();
	arguments[count] = (char *)option;
	if (value)
		arguments[count + 1] = croft_arena_strdup(farm->arena, value);
}

static char **server_arguments(struct farm *farm, bool ready)
{
	char **arguments = croft_arena_array(farm->arena, MOST_ARGUMENTS, sizeof(char *));
	add(farm, arguments, "croft", NULL);
	add(farm, arguments, "serve", NULL);
	add(farm, arguments, "--parent", farm->parent);
	add(farm, arguments, "--state", croft_arena_printf(farm->arena, "%s/serve", farm->state));
	add(farm, arguments, "--listen",
		croft_arena_printf(farm->arena, "%s:%u", farm->host, farm->port));
	add(farm, arguments, "--plane",
		croft_arena_printf(farm->arena, "%s:%u", farm->host, farm->plane_port));
	if (farm->budget)
		add(farm, arguments, "--budget",
			croft_arena_printf(farm->arena, "%" PRIu64, farm->budget));
	if (options_given(farm->options, "private-blobs"))
		add(farm, arguments, "--private-blobs", NULL);
	if (options_given(farm->options, "policy"))
		add(farm, arguments, "--policy", options_value(farm->options, "policy"));
	if (options_given(farm->options, "verbose"))
		add(farm, arguments, "--verbose", NULL);
	if (ready)
		add(farm, arguments, "--ready-fd", "3");
	return arguments;
}

static char **agent_arguments(struct farm *farm, const char *name)
{
	char **arguments = croft_arena_array(farm->arena, MOST_ARGUMENTS, sizeof(char *));
	add(farm, arguments, "croft", NULL);
	add(farm, arguments, "agent", NULL);
	add(farm, arguments, "--parent", farm->parent);
	add(farm, arguments, "--name", name);
	add(farm, arguments, "--state", croft_arena_printf(farm->arena, "%s/%s", farm->state, name));
	add(farm, arguments, "--server",
		croft_arena_printf(farm->arena, "grpc://%s:%u", farm->host, farm->port));
	add(farm, arguments, "--slots", croft_arena_printf(farm->arena, "%" PRIu64, farm->slots));
	add(farm, arguments, "--plane", croft_arena_printf(farm->arena, "%s:0", farm->host));
	if (farm->cache)
		add(farm, arguments, "--cache",
			croft_arena_printf(farm->arena, "%" PRIu64, farm->cache));
	if (options_given(farm->options, "private-blobs"))
		add(farm, arguments, "--agent-key", croft_arena_printf(farm->arena, "%s/serve/agent-key", farm->state));
	if (options_given(farm->options, "allow-network"))
		add(farm, arguments, "--allow-network", NULL);
	if (options_given(farm->options, "root-image"))
		add(farm, arguments, "--root-image", options_value(farm->options, "root-image"));
	if (options_given(farm->options, "verbose"))
		add(farm, arguments, "--verbose", NULL);
	return arguments;
}

static bool start_server(struct farm *farm, struct croft_error *err)
{
	char line[64];
	if (!children_start_ready(farm->children, "serve", server_arguments(farm, true), READY_MS, line,
		    sizeof(line), err))
		return false;
	if (sscanf(line, "%u %u", &farm->port, &farm->plane_port) != 2)
		return croft_error_set(err, CROFT_INTERNAL, "the server told \"%s\" as its ports", line);
	/* Should it die, it comes back where its clients and agents look for it. */
	children_change(farm->children, "serve", server_arguments(farm, false));
	return true;
}

static bool start_agents(struct farm *farm, struct croft_error *err)
{
	for (uint64_t i = 1; i <= farm->agents; i++) {
		const char *name = croft_arena_printf(farm->arena, "agent-%" PRIu64, i);
		if (!children_start(farm->children, name, agent_arguments(farm, name), err))
			return false;
	}
	return true;
}

static void tell(const struct farm *farm)
{
	printf("farm at grpc://%s:%u, blobs at %s:%u, %" PRIu64 " agent%s with %" PRIu64
	       " slots each, all kept in %s\n",
		farm->host, farm->port, farm->host, farm->plane_port, farm->agents,
		farm->agents == 1 ? "" : "s", farm->slots,
		farm->state);
	if (farm->port != 8980)
		printf("  export CROFT_SERVER=grpc://%s:%u\n", farm->host, farm->port);
	puts("  croft import --name NAME DIR     puts a tree in\n"
	     "  croft run --dep NAME -- COMMAND  runs a job over it\n"
	     "  croft status                     shows what goes on\n"
	     "Ctrl-C ends the farm; what it holds is there next time.");
	fflush(stdout);
}

static bool run_farm(struct farm *farm, struct croft_error *err)
{
	farm->children = children_create(err);
	bool ok = farm->children && start_server(farm, err) && start_agents(farm, err);
	if (ok) {
		tell(farm);
		ok = children_watch(farm->children, err);
	}
	if (farm->children)
		children_end(farm->children, GRACE_MS);
	children_destroy(farm->children);
	/* Asked to end before all was up: that is an end as well. */
	return ok || err->code == CROFT_CANCELLED;
}

/* "HOST:PORT" or "[V6]:PORT"; blobs get the next port. */
static bool read_listen(struct farm *farm, struct croft_error *err)
{
	const char *text = options_value(farm->options, "listen");
	const char *colon = text ? strrchr(text, ':') : NULL;
	farm->host = "127.0.0.1";
	farm->port = 8980;
	char rest;
	if (text && (!colon || colon == text || sscanf(colon + 1, "%u%c", &farm->port, &rest) != 1 ||
			    farm->port > 65534))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "--listen: \"%s\" is not HOST:PORT",
			text);
	if (text)
		farm->host = croft_arena_strndup(farm->arena, text, (size_t)(colon - text));
	farm->plane_port = farm->port ? farm->port + 1 : 0;
	return true;
}

static int run(const struct options *options, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct farm farm = {.options = options, .arena = arena, .agents = 1};
	if (!options_arguments(options, 0, 0, err) ||
		!options_number(options, "agents", 1, 64, &farm.agents, err))
		return MISUSED;
	farm.slots = (uint64_t)cpus > farm.agents ? (uint64_t)cpus / farm.agents : 1;
	if (!options_number(options, "slots", 1, 4096, &farm.slots, err) ||
		!options_size(options, "budget", &farm.budget, err) ||
		!options_size(options, "cache", &farm.cache, err) || !read_listen(&farm, err))
		return MISUSED;
	CROFT_CLEANUP_FREE char *state = state_directory(options, "farm", err);
	if (!state)
		return FAILED;
	farm.state = state;
	farm.parent = croft_arena_printf(arena, "%d", (int)getpid());
	return run_farm(&farm, err) ? 0 : FAILED;
}

static const struct option_spec farm_options[] = {
	{"agents", 'n', "N", "agents to start (else 1)"},
	{"slots", 0, "N", "jobs at a time on each (else the CPUs shared out)"},
	{"state", 0, "DIR", "where everything is kept (else $XDG_STATE_HOME/croft/farm)"},
	{"listen", 0, "HOST:PORT", "for clients (else 127.0.0.1:8980); port 0 is any free one"},
	{"budget", 0, "SIZE", "most bytes that the store may hold"},
	{"cache", 0, "SIZE", "most bytes that each agent's cache may hold"},
	{"root-image", 0, "NAME|DIR", "the / of jobs whose inputs are not a whole root (Bazel)"},
	{"allow-network", 0, NULL, "jobs that ask for network=on get this machine's network"},
	{"private-blobs", 0, NULL, "to each instance name only its own blobs are there (see croft serve)"},
	{"policy", 0, "NAME", "how jobs are placed (else locality)"},
	{"verbose", 'v', NULL, "log more"},
	{0},
};

const struct command command_farm = {
	.name = "farm",
	.arguments = "",
	.summary = "Be a whole farm on this machine: a server and agents",
	.details = "Needs no configuration. The logs of all its processes go to standard error; one that\n"
		   "dies is started again. Blobs are served at the next port.",
	.options = farm_options,
	.run = run,
};
