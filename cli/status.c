/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a farm is doing: status, top. */
#include "cli/commands.h"
#include "cli/farm_status.h"
#include "cli/output.h"
#include "proto/base/cleanup.h"

#include <inttypes.h>
#include <sys/ioctl.h>
#include <time.h>

static void print_head(const Farm__FarmStatus *status, const char *server)
{
	char uptime[SIZE_TEXT], bytes[SIZE_TEXT], budget[SIZE_TEXT], disk[SIZE_TEXT];
	const Farm__StoreStatus *store = status->store;
	printf("farm    %s, croft %s, up %s\n", server, status->version,
		format_duration(status->uptime_ms, uptime));
	printf("jobs    %" PRIu64 " running, %" PRIu64 " queued, %" PRIu64 " done (%" PRIu64
	       " failed), %" PRIu64 " answered from the cache\n",
		status->running, status->queued, status->completed, status->failed, status->cache_hits);
	if (!store)
		return;
	printf("store   %" PRIu64 " blobs, %s of %s, %s on disk; %" PRIu64 " leased, %" PRIu64
	       " actions, %" PRIu64 " names\n",
		store->blobs, format_size(store->bytes, bytes), format_size(store->budget_bytes, budget),
		format_size(store->disk_bytes, disk), store->leased_blobs, store->actions, store->assets);
	if (store->quarantined)
		printf("        %" PRIu64 " damaged blobs are set aside: `croft fsck` says more\n",
			store->quarantined);
}

/* "3.4 MiB/s", and how many blobs are still to come. */
static const char *format_fetching(const Farm__AgentStatus *agent, char text[2 * SIZE_TEXT + 32])
{
	char rate[SIZE_TEXT];
	if (agent->fetching_blobs == 0 && agent->fetched_bytes_per_second == 0)
		return "-";
	int size = snprintf(text, 2 * SIZE_TEXT, "%s/s", format_size(agent->fetched_bytes_per_second, rate));
	if (agent->fetching_blobs)
		snprintf(text + size, 32, ", %" PRIu64 " left", agent->fetching_blobs);
	return text;
}

static void print_agents(const Farm__FarmStatus *status, size_t most)
{
	if (status->n_agents == 0) {
		puts("agents  none: `croft agent --server URL` starts one");
		return;
	}
	printf("\n%-28s %-9s %7s %8s %24s %10s %12s %12s\n", "AGENT", "STATE", "RUNNING", "DONE", "CACHE",
		"FETCHED", "FROM PEERS", "FETCHING");
	for (size_t i = 0; i < status->n_agents && i < most; i++) {
		const Farm__AgentStatus *agent = status->agents[i];
		char cache[SIZE_TEXT], budget[SIZE_TEXT], fetched[SIZE_TEXT], both[2 * SIZE_TEXT + 4];
		char peers[SIZE_TEXT], now[2 * SIZE_TEXT + 32];
		snprintf(both, sizeof(both), "%s of %s", format_size(agent->cache_bytes, cache),
			format_size(agent->cache_budget_bytes, budget));
		printf("%-28s %-9s %3u/%-3u %8" PRIu64 " %24s %10s %12s %12s\n", agent->agent_id, agent->state,
			agent->running, agent->slots, agent->jobs_done, both,
			format_size(agent->fetched_bytes, fetched), format_size(agent->from_peers_bytes, peers),
			format_fetching(agent, now));
	}
}

static void print_operations(const Farm__FarmStatus *status, size_t most)
{
	if (status->n_operations == 0)
		return;
	printf("\n%-44s %-9s %-20s %10s  %s\n", "OPERATION", "STAGE", "AGENT", "AGE", "WHAT");
	for (size_t i = 0; i < status->n_operations && i < most; i++) {
		const Farm__OperationStatus *operation = status->operations[i];
		char age[SIZE_TEXT];
		printf("%-44s %-9s %-20s %10s  ", operation->name, operation->stage, operation->agent_id,
			format_duration(operation->age_ms, age));
		print_name(croft_slice_str(operation->description), stdout);
		putchar('\n');
	}
}

/* JSON ---------------------------------------------------------------------------------------- */

static json_t *json_text(const char *text)
{
	return json_bytes(croft_slice_str(text));
}

static json_t *json_agent(const Farm__AgentStatus *agent)
{
	json_t *properties = json_array();
	for (size_t i = 0; i < agent->n_properties; i++)
		json_array_append_new(properties,
			json_pack("{s:o, s:o}", "name", json_text(agent->properties[i]->name), "value",
				json_text(agent->properties[i]->value)));
	return json_pack("{s:o, s:o, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "id",
		json_text(agent->agent_id), "hostname", json_text(agent->hostname), "slots",
		(json_int_t)agent->slots, "running", (json_int_t)agent->running, "state",
		json_text(agent->state), "cache_bytes", (json_int_t)agent->cache_bytes,
		"cache_budget_bytes", (json_int_t)agent->cache_budget_bytes, "jobs_done",
		(json_int_t)agent->jobs_done, "fetched_bytes", (json_int_t)agent->fetched_bytes,
		"fetched_bytes_per_second", (json_int_t)agent->fetched_bytes_per_second, "fetching_blobs",
		(json_int_t)agent->fetching_blobs, "fetching_bytes", (json_int_t)agent->fetching_bytes,
		"from_peers_bytes", (json_int_t)agent->from_peers_bytes, "served_bytes",
		(json_int_t)agent->served_bytes, "tracked_bytes", (json_int_t)agent->tracked_bytes,
		"blob_url", json_text(agent->blob_url), "properties", properties);
}

static json_t *json_operation(const Farm__OperationStatus *operation)
{
	struct croft_digest action;
	json_t *json = json_pack("{s:o, s:o, s:o, s:I, s:o}", "name", json_text(operation->name),
		"stage", json_text(operation->stage), "agent", json_text(operation->agent_id), "age_ms",
		(json_int_t)operation->age_ms, "description", json_text(operation->description));
	if (croft_digest_from_message(operation->action_digest, "action", &action, NULL))
		json_object_set_new(json, "action", json_digest(&action));
	return json;
}

static json_t *json_store(const Farm__StoreStatus *store)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "blobs", (json_int_t)store->blobs,
		"bytes", (json_int_t)store->bytes, "budget_bytes", (json_int_t)store->budget_bytes,
		"disk_bytes", (json_int_t)store->disk_bytes, "leased_blobs",
		(json_int_t)store->leased_blobs, "actions", (json_int_t)store->actions, "names",
		(json_int_t)store->assets, "quarantined", (json_int_t)store->quarantined);
}

static json_t *json_status(const Farm__FarmStatus *status, const char *server)
{
	json_t *agents = json_array(), *operations = json_array();
	for (size_t i = 0; i < status->n_agents; i++)
		json_array_append_new(agents, json_agent(status->agents[i]));
	for (size_t i = 0; i < status->n_operations; i++)
		json_array_append_new(operations, json_operation(status->operations[i]));
	json_t *json = json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "server",
		json_text(server), "version", json_text(status->version), "blob_url",
		json_text(status->blob_url), "uptime_ms", (json_int_t)status->uptime_ms, "queued",
		(json_int_t)status->queued, "running", (json_int_t)status->running, "completed",
		(json_int_t)status->completed, "failed", (json_int_t)status->failed, "cache_hits",
		(json_int_t)status->cache_hits, "agents", agents, "operations", operations);
	if (status->store)
		json_object_set_new(json, "store", json_store(status->store));
	return json;
}

static int status_run(const struct options *options, struct croft_error *err)
{
	struct client client;
	if (!options_arguments(options, 0, 0, err))
		return MISUSED;
	if (!client_open(&client, options, err))
		return FAILED;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const Farm__FarmStatus *status = farm_status(&client, arena, err);
	bool ok = status != NULL;
	if (ok && options_given(options, "json")) {
		ok = json_print(json_status(status, client.server), err);
	} else if (ok) {
		print_head(status, client.server);
		print_agents(status, SIZE_MAX);
		print_operations(status, SIZE_MAX);
	}
	client_close(&client);
	return ok ? 0 : FAILED;
}

static const struct option_spec status_options[] = {
	{"json", 0, NULL, "as JSON"},
	{0},
};

const struct command command_status = {
	.name = "status",
	.arguments = "",
	.summary = "Show agents, queue and store of the farm",
	.options = status_options,
	.client = true,
	.run = status_run,
};

/* top ----------------------------------------------------------------------------------------- */

static size_t terminal_lines(void)
{
	struct winsize size;
	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 12 ? size.ws_row : 24;
}

static void draw(const Farm__FarmStatus *status, const struct croft_error *failure,
	const char *server)
{
	size_t lines = terminal_lines();
	fputs("\033[H\033[J", stdout);
	if (!status) {
		printf("farm    %s: %s\n", server, failure->message);
	} else {
		size_t agents = (lines - 8) / 2 < status->n_agents ? (lines - 8) / 2 : status->n_agents;
		print_head(status, server);
		print_agents(status, agents);
		print_operations(status, lines - 8 - agents);
	}
	fflush(stdout);
}

static int top_run(const struct options *options, struct croft_error *err)
{
	uint64_t seconds = 1;
	struct client client;
	if (!options_arguments(options, 0, 0, err) ||
		!options_number(options, "interval", 1, 3600, &seconds, err))
		return MISUSED;
	if (!isatty(STDOUT_FILENO)) {
		croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"this needs a terminal; `croft status` prints the same once");
		return FAILED;
	}
	if (!client_open(&client, options, err))
		return FAILED;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	/* Until Ctrl-C; a server that is away may come back. */
	for (;;) {
		struct croft_error failure = CROFT_ERROR_INIT;
		croft_arena_reset(arena);
		draw(farm_status(&client, arena, &failure), &failure, client.server);
		nanosleep(&(struct timespec){(time_t)seconds, 0}, NULL);
	}
}

static const struct option_spec top_options[] = {
	{"interval", 'n', "SECONDS", "between two looks (else 1)"},
	{0},
};

const struct command command_top = {
	.name = "top",
	.arguments = "",
	.summary = "Watch agents and jobs of the farm, until Ctrl-C",
	.options = top_options,
	.client = true,
	.run = top_run,
};
