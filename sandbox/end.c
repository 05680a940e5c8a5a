/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why a job ended, in one word and one sentence. */
#include "sandbox/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

const char *croft_end_name(enum croft_end end)
{
	static const char *const names[] = {"exit", "signal", "wall-clock", "memory", "disk", "log",
		"killed", "exec", "cpu", "processes", "file-size"};
	return names[end];
}

const char *croft_enforced_name(enum croft_enforced one)
{
	static const char *const names[] = {"user-ids", "memory", "processes", "cpu", "landlock"};
	return names[__builtin_ctz(one)];
}

uint32_t end_enforced(const struct launcher_context *context)
{
	return (context->privileged && !context->shared_uids ? CROFT_ENFORCED_USER_IDS : 0) |
		(context->landlock ? CROFT_ENFORCED_LANDLOCK : 0) | cgroups_enforce(context->cgroups);
}

/* Limits that the kernel enforces, told by how the job failed. */
static enum croft_end kernel_limit(const struct end_facts *facts,
	const struct croft_sandbox_result *result)
{
	const struct report *end = facts->report;
	if (result->exit_code == 0)
		return CROFT_END_EXIT;
	if (end->memory_exceeded)
		return CROFT_END_MEMORY;
	/* A shell says 128 + signal for what it ran. */
	if (result->exit_code == 128 + SIGXCPU && facts->spec->cpu_ms)
		return CROFT_END_CPU;
	if (result->exit_code == 128 + SIGXFSZ && facts->spec->file_bytes)
		return CROFT_END_FILE_SIZE;
	return end->processes_exceeded ? CROFT_END_PROCESSES : CROFT_END_EXIT;
}

static void tell_limit(const struct end_facts *facts, struct croft_sandbox_result *result)
{
	const struct croft_sandbox_spec *spec = facts->spec;
	char *text = result->message;
	size_t size = sizeof(result->message);
	if (result->end == CROFT_END_WALL_CLOCK)
		snprintf(text, size, "ended after its timeout of %.1f seconds", (double)spec->wall_ms / 1000);
	else if (result->end == CROFT_END_LOG)
		snprintf(text, size, "ended because it printed more than %llu bytes",
			(unsigned long long)spec->output_log_bytes);
	else if (result->end == CROFT_END_DISK && facts->unmeasured)
		snprintf(text, size, "ended because what it wrote to disk cannot be measured: %s", facts->unmeasured);
	else if (result->end == CROFT_END_DISK && facts->too_many_inodes)
		snprintf(text, size, "ended because it made more than its limit of %llu files",
			(unsigned long long)spec->disk_inodes);
	else if (result->end == CROFT_END_DISK)
		snprintf(text, size, "ended because it wrote more than its limit of %llu bytes of disk",
			(unsigned long long)spec->disk_bytes);
	else if (result->end == CROFT_END_MEMORY)
		snprintf(text, size, "ended because it needed more memory than its limit of %llu bytes",
			(unsigned long long)spec->memory_bytes);
	else if (result->end == CROFT_END_CPU)
		snprintf(text, size, "ended after its limit of %.1f seconds of processor time",
			(double)spec->cpu_ms / 1000);
	else if (result->end == CROFT_END_PROCESSES)
		snprintf(text, size, "failed after it was refused more than its limit of %llu processes",
			(unsigned long long)spec->processes);
	else if (result->end == CROFT_END_FILE_SIZE)
		snprintf(text, size, "ended because a file was to become larger than its limit of %llu bytes",
			(unsigned long long)spec->file_bytes);
}

void end_judge(const struct end_facts *facts, struct croft_sandbox_result *result)
{
	const struct report *end = facts->report;
	int status = end->wait_status;
	bool died = status == -1 || WIFSIGNALED(status);
	result->signal = status == -1 ? SIGKILL : WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	result->exit_code = died ? 128 + result->signal : WEXITSTATUS(status);
	result->end = died ? CROFT_END_SIGNAL : CROFT_END_EXIT;
	enum croft_end kernel = kernel_limit(facts, result);
	result->denied_count = end->denied_count < CROFT_DENIED_MOST ? end->denied_count : CROFT_DENIED_MOST;
	for (size_t i = 0; i < result->denied_count; i++)
		denials_tell(&end->denied[i], facts->spec->seccomp, &result->denied[i]);
	if (end->exec_errno) {
		char reason[128];
		result->end = CROFT_END_EXEC;
		result->exit_code = end->exec_errno == ENOENT ? 127 : 126;
		snprintf(result->message, sizeof(result->message), "the command cannot be executed: %s",
			strerror_r(end->exec_errno, reason, sizeof(reason)));
	} else if (facts->limit != CROFT_END_EXIT) {
		result->end = facts->limit;
		tell_limit(facts, result);
	} else if (facts->kill_reason) {
		result->end = CROFT_END_KILLED;
		snprintf(result->message, sizeof(result->message), "%s", facts->kill_reason);
	} else if (kernel != CROFT_END_EXIT) {
		result->end = kernel;
		tell_limit(facts, result);
	} else if (died) {
		snprintf(result->message, sizeof(result->message), "ended by signal %d (%s)", result->signal,
			strsignal(result->signal));
	}
}
