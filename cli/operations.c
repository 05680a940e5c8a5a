/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Acting on jobs and agents: cancel, why, agents. */
#include "cli/commands.h"
#include "cli/farm_status.h"
#include "cli/output.h"
#include "proto/base/cleanup.h"

#include "google/longrunning/operations.pb-c.h"
#include "google/protobuf/empty.pb-c.h"

#include <inttypes.h>
#include <string.h>

static bool cancel_one(struct client *client, const char *name, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Longrunning__CancelOperationRequest request = LONGRUNNING__CANCEL_OPERATION_REQUEST__INIT;
	request.name = (char *)name;
	return croft_unary(client->channel, NULL, "/google.longrunning.Operations/CancelOperation",
		       &request.base, &google__protobuf__empty__descriptor, arena, err) ||
		croft_error_wrap(err, "cancelling %s", name);
}

static int cancel_run(const struct options *options, struct croft_error *err)
{
	struct client client;
	if (!options_arguments(options, 1, SIZE_MAX, err))
		return MISUSED;
	if (!client_open(&client, options, err))
		return FAILED;
	bool ok = true;
	for (int i = 0; ok && i < options->argc; i++)
		ok = cancel_one(&client, options->argv[i], err);
	client_close(&client);
	return ok ? 0 : FAILED;
}

const struct command command_cancel = {
	.name = "cancel",
	.arguments = "OPERATION…",
	.summary = "Cancel jobs",
	.details = "`croft status` lists the operations.",
	.client = true,
	.run = cancel_run,
};

/* why ----------------------------------------------------------------------------------------- */

static void print_explanation(const Farm__Explanation *why)
{
	char there[SIZE_TEXT], missing[SIZE_TEXT];
	printf("%s is %s%s%s\n", why->operation, why->stage, *why->agent_id ? " on " : "", why->agent_id);
	if (*why->requested_by)
		printf("asked for by %s\n", why->requested_by);
	if (*why->reason)
		printf("%s\n", why->reason);
	if (why->n_candidates)
		printf("\nWhat each agent was expected to cost, in seconds:\n  %-26s %9s %8s %8s %8s %8s %8s %12s %12s\n",
			"CANDIDATE", "ALL", "WAIT", "FETCH", "RUN", "OTHERS", "APART", "THERE", "MISSING");
	for (size_t i = 0; i < why->n_candidates; i++) {
		const Farm__Candidate *candidate = why->candidates[i];
		printf("%c %-26s %9.3f %8.3f %8.3f %8.3f %8.3f %8.3f %12s %12s\n",
			strcmp(candidate->agent_id, why->agent_id) == 0 ? '*' : ' ', candidate->agent_id,
			candidate->score_seconds, candidate->wait_seconds, candidate->fetch_seconds,
			candidate->run_seconds, candidate->others_seconds, candidate->apart_seconds,
			format_size(candidate->bytes_there, there), format_size(candidate->bytes_missing, missing));
	}
	if (why->n_candidates)
		puts("\nWAIT: until a slot is free. FETCH: what is missing of the bytes that it is expected to read.\n"
			 "RUN: its run time, as learned. OTHERS: what its copies and its slot cost jobs that come later.\n"
			 "APART: another agent than the one that jobs like it went to. THERE, MISSING: those bytes.");
}

static json_t *json_explanation(const Farm__Explanation *why)
{
	json_t *candidates = json_array();
	for (size_t i = 0; i < why->n_candidates; i++) {
		const Farm__Candidate *candidate = why->candidates[i];
		json_array_append_new(candidates,
			json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "agent",
				candidate->agent_id, "score_seconds", candidate->score_seconds, "wait_seconds",
				candidate->wait_seconds, "fetch_seconds", candidate->fetch_seconds,
				"run_seconds", candidate->run_seconds, "others_seconds",
				candidate->others_seconds, "apart_seconds", candidate->apart_seconds,
				"bytes_there", (json_int_t)candidate->bytes_there, "bytes_missing",
				(json_int_t)candidate->bytes_missing));
	}
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "operation", why->operation, "stage", why->stage,
		"agent", why->agent_id, "requested_by", why->requested_by, "reason", why->reason, "candidates", candidates);
}

static int why_run(const struct options *options, struct croft_error *err)
{
	struct client client;
	if (!options_arguments(options, 1, 1, err))
		return MISUSED;
	if (!client_open(&client, options, err))
		return FAILED;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__ExplainRequest request = FARM__EXPLAIN_REQUEST__INIT;
	request.operation = options->argv[0];
	const Farm__Explanation *why = croft_unary(client.channel, NULL, "/croft.v1.Farm/Explain",
		&request.base, &farm__explanation__descriptor, arena, err);
	bool ok = why != NULL;
	if (ok && options_given(options, "json"))
		ok = json_print(json_explanation(why), err);
	else if (ok)
		print_explanation(why);
	client_close(&client);
	return ok ? 0 : FAILED;
}

static const struct option_spec why_options[] = {
	{"json", 0, NULL, "as JSON"},
	{0},
};

const struct command command_why = {
	.name = "why",
	.arguments = "OPERATION",
	.summary = "Say why a job waits, or why it went where it did",
	.options = why_options,
	.client = true,
	.run = why_run,
};

/* agents -------------------------------------------------------------------------------------- */

static bool drain(struct client *client, const char *agent, bool resume, const char *reason,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__DrainAgentRequest request = FARM__DRAIN_AGENT_REQUEST__INIT;
	request.agent_id = (char *)agent;
	request.resume = resume;
	if (reason)
		request.reason = (char *)reason;
	return croft_unary(client->channel, NULL, "/croft.v1.Farm/DrainAgent", &request.base,
		       &farm__drain_agent_response__descriptor, arena, err) != NULL;
}

static bool list_agents(struct client *client, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const Farm__FarmStatus *status = farm_status(client, arena, err);
	for (size_t i = 0; status && i < status->n_agents; i++) {
		const Farm__AgentStatus *agent = status->agents[i];
		printf("%s %s %u/%u", agent->agent_id, agent->state, agent->running, agent->slots);
		for (size_t at = 0; at < agent->n_properties; at++)
			printf(" %s=%s", agent->properties[at]->name, agent->properties[at]->value);
		if (*agent->drain_reason)
			printf(" (%s)", agent->drain_reason);
		putchar('\n');
	}
	return status != NULL;
}

static int agents_run(const struct options *options, struct croft_error *err)
{
	struct client client;
	const char *verb = options->argc ? options->argv[0] : "list";
	bool resume = !strcmp(verb, "resume"), acts = resume || !strcmp(verb, "drain");
	if (!acts && strcmp(verb, "list")) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" is none of list, drain, resume", verb);
		return MISUSED;
	}
	if (!options_arguments(options, acts ? 2 : 0, acts ? SIZE_MAX : 1, err))
		return MISUSED;
	if (!client_open(&client, options, err))
		return FAILED;
	bool ok = acts || list_agents(&client, err);
	for (int i = 1; ok && acts && i < options->argc; i++)
		ok = drain(&client, options->argv[i], resume, options_value(options, "reason"), err);
	client_close(&client);
	return ok ? 0 : FAILED;
}

static const struct option_spec agents_options[] = {
	{"reason", 0, "TEXT", "why it is drained, for those who look"},
	{0},
};

const struct command command_agents = {
	.name = "agents",
	.arguments = "[list | drain AGENT… | resume AGENT…]",
	.summary = "List agents, or take them out of the farm and back",
	.details = "A drained agent ends its running jobs and gets no more, until it is resumed: the\n"
		"farm remembers it over restarts of the agent and of the server.",
	.options = agents_options,
	.client = true,
	.run = agents_run,
};
