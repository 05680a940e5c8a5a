/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What became of a task's tries, for people: the server log "croft" of its ExecuteResponse.
 *
 * Only a task that was tried in vain has one, or one that ended without a result; of all others nothing is kept or
 * written. Its text is put into the store by the journal's thread, before clients are told the end.
 */
#include "sched/core/core.h"

#include "fs/private.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ACCOUNT_MOST = 64 << 10, TIME_TEXT = 32 };

static const char *time_text(int64_t unix_ns, char text[TIME_TEXT])
{
	time_t seconds = (time_t)(unix_ns / 1000000000);
	struct tm parts;
	gmtime_r(&seconds, &parts);
	size_t size = strftime(text, TIME_TEXT, "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(text + size, TIME_TEXT - size, ".%03dZ", (int)(unix_ns / 1000000 % 1000));
	return text;
}

__attribute__((format(printf, 2, 3))) static void add(struct task *task, const char *format, ...)
{
	char *more, *whole;
	const char *before = task->account ? task->account : "";
	va_list values;
	va_start(values, format);
	if (vasprintf(&more, format, values) < 0)
		abort();
	va_end(values);
	if (asprintf(&whole, "%s%s", before, more) < 0)
		abort();
	free(more);
	free(task->account);
	task->account = whole;
}

const char *requested_by(const struct task *task, struct croft_arena *arena)
{
	const Reapi__RequestMetadata *metadata = croft_message_decode(
		&reapi__request_metadata__descriptor, task->request_metadata, arena, NULL, NULL);
	const char *text = "";
	if (!metadata)
		return text;
	const Reapi__ToolDetails *tool = metadata->tool_details;
	const char *const parts[][2] = {{"", tool ? tool->tool_name : ""}, {" ", tool ? tool->tool_version : ""},
		{" invocation ", metadata->tool_invocation_id}, {" target ", metadata->target_id},
		{" ", metadata->action_mnemonic}};
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (*parts[i][1])
			text = croft_arena_printf(arena, "%s%s%s", text, parts[i][0] + (*text == '\0' && *parts[i][0]),
				parts[i][1]);
	return text;
}

void account_try(struct task *task, const char *why)
{
	char from[TIME_TEXT], to[TIME_TEXT];
	if (task->account && strlen(task->account) > ACCOUNT_MOST)
		return; /* agents said much */
	add(task, "try %u on %s, %s to %s: %s\n", task->attempts, task->agent_id ? task->agent_id : "an agent",
		task->leased_unix_ns ? time_text(task->leased_unix_ns, from) : "before the server's restart",
		time_text(croft_unix_ns(), to), why);
	if (task->where)
		add(task, "  placed there: %s\n", task->where->reason);
}

void account_drop(struct task *task)
{
	free(task->account);
	task->account = NULL;
}

/* Messages in a row are one, with the fields of all. */
static void append_log(struct croft_slice *response, const struct croft_digest *digest)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__LogFile file = REAPI__LOG_FILE__INIT;
	Reapi__ExecuteResponse__ServerLogsEntry entry = REAPI__EXECUTE_RESPONSE__SERVER_LOGS_ENTRY__INIT;
	Reapi__ExecuteResponse__ServerLogsEntry *entries[] = {&entry};
	Reapi__ExecuteResponse more = REAPI__EXECUTE_RESPONSE__INIT;
	file.digest = croft_digest_to_message(digest, arena);
	file.human_readable = true;
	entry.key = (char *)"croft";
	entry.value = &file;
	more.n_server_logs = 1;
	more.server_logs = entries;
	size_t size = protobuf_c_message_get_packed_size(&more.base);
	uint8_t *bytes = croft_realloc((void *)response->data, response->size + size, 1);
	protobuf_c_message_pack(&more.base, bytes + response->size);
	*response = CROFT_SLICE(bytes, response->size + size);
}

void account_end(struct task *task, enum croft_code code, const char *message, struct croft_slice *response)
{
	char action[CROFT_DIGEST_TEXT], queued[TIME_TEXT], ended[TIME_TEXT];
	if (code == CROFT_CANCELLED || task->abandoned || task->attempts == 0) {
		account_drop(task);
		return;
	}
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *by = requested_by(task, arena);
	char *tries = task->account;
	task->account = NULL;
	croft_digest_format(&task->action, '/', action);
	add(task, "action %s of '%s': %s\nqueued %s%s%s\n%s", action, task->instance_name,
		task->description ? task->description : "", time_text(task->queued_unix_ns, queued), *by ? " by " : "", by,
		tries ? tries : "");
	free(tries);
	add(task, "ended %s: %s%s%s\n", time_text(croft_unix_ns(), ended), croft_code_name(code), *message ? ": " : "",
		message);
	struct croft_digest digest = croft_digest_of(task->account, strlen(task->account));
	append_log(response, &digest);
}

void account_run(struct task *task, const Farm__JobDone *done, struct croft_slice *response)
{
	if (task->cancelling || (!done->status && !task->account)) {
		account_drop(task);
		return;
	}
	const char *code = done->status ? croft_code_name((enum croft_code)done->status->code) : "it gave a result";
	char *why;
	if (asprintf(&why, "%s%s%s", code, done->status ? ": " : "", done->status ? done->status->message : "") < 0)
		abort();
	account_try(task, why);
	free(why);
	if (done->inputs)
		add(task, "  it fetched %" PRIu64 " bytes of its inputs, for which it waited %.3f s\n",
			done->inputs->fetched_bytes, (double)done->inputs->stall_ms / 1000);
	account_end(task, done->status ? (enum croft_code)done->status->code : CROFT_OK,
		done->status ? done->status->message : "", response);
}

void accounts_put(struct croft_sched *sched, struct task *const *tasks, size_t count)
{
	struct croft_store *store = sched->store;
	CROFT_CLEANUP_FREE struct croft_digest *digests = croft_array(count, sizeof(*digests));
	CROFT_CLEANUP_FREE struct croft_slice *texts = croft_array(count, sizeof(*texts));
	CROFT_CLEANUP_FREE struct croft_error *errors = croft_array(count, sizeof(*errors));
	for (size_t i = 0; i < count; i++) {
		texts[i] = croft_slice_str(tasks[i]->account);
		digests[i] = croft_digest_of(texts[i].data, texts[i].size);
		errors[i] = (struct croft_error)CROFT_ERROR_INIT;
	}
	croft_store_put_many(store, digests, texts, count, errors);
	for (size_t i = 0; i < count; i++) {
		struct croft_slice tenant =
			croft_tenant(sched->config.private_blobs, croft_slice_str(tasks[i]->instance_name));
		/* Without it the end is told all the same: this is for people. */
		if (errors[i].code != CROFT_OK || !croft_store_grant(store, tenant, &digests[i], 1, &errors[i]))
			croft_log(CROFT_LOG_WARNING, "the account of %s's tries is not kept: %s", tasks[i]->id,
				errors[i].message);
	}
}
