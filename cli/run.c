/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/job.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "cli/result.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* docker's and env's number for "the tool itself failed". */
enum { OWN_FAILURE = 125 };

struct run {
	const struct options *options;
	struct croft_arena *arena;
	struct client client;
	struct job job;
	struct follow_request request;
	struct result result;
};

static bool read_options(struct run *run, struct croft_error *err)
{
	uint64_t patience = 60, timeout = 0;
	const char *priority_text = options_value(run->options, "priority");
	if (!options_arguments(run->options, 1, SIZE_MAX, err) ||
		!options_number(run->options, "patience", 0, 86400, &patience, err) ||
		!options_number(run->options, "timeout", 1, 315576000000, &timeout, err))
		return false;
	if (priority_text) {
		char *end;
		errno = 0;
		long value = strtol(priority_text, &end, 10);
		if (errno || end == priority_text || *end || value < INT32_MIN || value > INT32_MAX)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"--priority: \"%s\" is not a number", priority_text);
		run->request.priority = (int32_t)value;
	}
	run->request.patience_ms = patience * 1000;
	run->request.skip_cache = options_given(run->options, "skip-cache");
	run->request.kind = options_value(run->options, "kind");
	bool json = options_given(run->options, "json");
	run->request.output_fd = json ? STDERR_FILENO : STDOUT_FILENO;
	run->request.error_fd = STDERR_FILENO;
	run->job = (struct job){
		.options = run->options, .arena = run->arena, .arguments = run->options->argv};
	return job_describe(&run->job, err);
}

/* True: there is an ActionResult, of whatever exit code. */
static bool take_response(struct run *run, const struct follow_result *followed,
	struct croft_error *err)
{
	const Reapi__ExecuteResponse *response = followed->response;
	const GoogleRpc__Status *status = response->status;
	bool failed = status && status->code != CROFT_OK;
	if (response->result)
		result_read(&run->result, followed, &run->job, run->arena);
	if (!failed && response->result)
		return true;
	if (!failed)
		return croft_error_set(err, CROFT_INTERNAL, "the server sent no result");
	const char *why = *status->message ? status->message
					   : croft_code_name((enum croft_code)status->code);
	bool more = *response->message && strcmp(why, response->message);
	return croft_error_set(err, (enum croft_code)status->code, "the job did not run to its end: %s%s%s",
		why, more ? ": " : "", more ? response->message : "");
}

/* Inputs are missing when Execute is refused for them, or when its end names them as details; a job that ran
 * and failed by a precondition of its own (an output that cannot be kept) would do so again. */
static bool inputs_vanished(const struct follow_result *followed, const struct croft_error *failure)
{
	return failure->code == CROFT_FAILED_PRECONDITION &&
		(!followed->response || followed->response->status->n_details > 0);
}

/* Each call is tried again for a while by itself; a server that is away for longer has as long as the job's own calls
 * give it. What was sent before is not sent again. */
static bool upload_patiently(struct run *run, struct croft_error *err)
{
	uint64_t until = croft_now_ns() + run->request.patience_ms * 1000000;
	struct croft_error failure;
	do {
		failure = CROFT_ERROR_INIT;
		if (job_upload(&run->job, &run->client, &failure))
			return true;
		progress("waiting for the server: %s", failure.message);
	} while (failure.code == CROFT_UNAVAILABLE && croft_now_ns() < until && !follow_cancelled());
	progress_clear();
	*err = failure;
	return false;
}

/* An action whose inputs vanished between upload and Execute is uploaded once more. */
static bool execute(struct run *run, struct croft_error *err)
{
	for (int tries = 0;; tries++) {
		struct follow_result followed = {0};
		struct croft_error failure = CROFT_ERROR_INIT;
		uint64_t start = croft_now_ns();
		run->result = (struct result){0};
		if (!upload_patiently(run, err))
			return false;
		run->result.upload_ms = (croft_now_ns() - start) / 1000000;
		start = croft_now_ns();
		run->request.client = &run->client;
		run->request.action = run->job.action_digest;
		bool ok = follow(&run->request, run->arena, &followed, &failure);
		run->result.wall_ms = (croft_now_ns() - start) / 1000000;
		if (ok && take_response(run, &followed, &failure))
			return true;
		if (inputs_vanished(&followed, &failure) && tries == 0 && !follow_cancelled()) {
			warn("%s; uploading the inputs again", failure.message);
			continue;
		}
		*err = failure;
		return false;
	}
}

static bool deliver(struct run *run, struct croft_error *err)
{
	bool json = options_given(run->options, "json");
	/* What a failed job left behind is shown, not delivered. */
	if (run->result.exit_code == 0 && !result_deliver(&run->result, run->options, &run->client, err))
		return false;
	if (json)
		return result_print_json(&run->result, err);
	if (!options_given(run->options, "quiet"))
		result_print(&run->result, stderr);
	return true;
}

static int run_job(struct run *run, struct croft_error *err)
{
	follow_catch_signals();
	if (!client_open_patiently(&run->client, run->options, run->request.patience_ms, err))
		return FAILED;
	bool ok = execute(run, err) && deliver(run, err);
	client_close(&run->client);
	if (ok)
		return run->result.exit_code;
	if (!follow_cancelled())
		return FAILED;
	fprintf(stderr, "croft run: cancelled: %s\n", err->message);
	return 128 + follow_cancelled();
}

static int run(const struct options *options, struct croft_error *err)
{
	struct run all = {.options = options, .arena = croft_arena_create()};
	int status = read_options(&all, err) ? run_job(&all, err) : MISUSED;
	croft_arena_destroy(all.arena);
	return status;
}

static const struct option_spec run_options[] = {
	{"dep", 'd', "REF[:PATH]", "put a tree of the farm into the job's root, at PATH if given"},
	{"input", 'i', "DIR|REF[:PATH]", "put a directory of this machine there, or a tree"},
	{"replace", 0, NULL, "where two inputs differ in a file, take the later (else: an error)"},
	{"output", 'o', "PATH", "keep what the job leaves at PATH; may be given again"},
	{"export", 'x', "PATH=LOCAL", "and bring it to this machine when the job succeeds"},
	{"save", 's', "PATH=NAME", "and give it a name in the farm when the job succeeds"},
	{"env", 'e', "NAME[=VALUE]", "environment of the job, which has only PATH otherwise"},
	{"workdir", 'w', "DIR", "where the command starts (else the root)"},
	{"platform", 'p', "KEY=VALUE", "what the agent must offer; may be given again"},
	{"timeout", 0, "SECONDS", "end the job after that time"},
	{"no-cache", 0, NULL, "do not remember the result"},
	{"skip-cache", 0, NULL, "run the job even when its result is known"},
	{"priority", 0, "N", "lower goes first (else 0)"},
	{"kind", 0, "NAME", "what kind of job it is: the farm learns for each kind what it reads"},
	{"patience", 0, "SECONDS", "how long the server may be away before giving up (else 60)"},
	{"json", 0, NULL, "print the result as JSON; the job's own output goes to standard error"},
	{"quiet", 'q', NULL, "no summary"},
	{0},
};

const struct command command_run = {
	.name = "run",
	.arguments = "-- COMMAND [ARGUMENT]…",
	.summary = "Run one command on the farm",
	.details =
		"The job's root holds the inputs and nothing else: nothing of this machine or of the\n"
		"agent is in it. Its output is passed on as it comes, and its exit status is croft's.\n"
		"The server may go away and come back meanwhile. Ctrl-C cancels the job.\n"
		"\n"
		"  croft run -d gcc -d libc6 -i ./src:src -w /src -o hello -x hello=./hello \\\n"
		"      -- gcc -o hello hello.c\n"
		"\n"
		"Exit status: the job's own; 128 + N when signal N ended it; 125 when croft itself or the\n"
		"farm failed.",
	.options = run_options,
	.client = true,
	.stops_at_argument = true,
	.usage_status = OWN_FAILURE,
	.run = run,
};
