/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/output.h"
#include "proto/base/cleanup.h"

#include "croft/v1/farm.pb-c.h"

#include <inttypes.h>

static int gc_run(const struct options *options, struct croft_error *err)
{
	struct client client;
	Farm__CollectGarbageRequest request = FARM__COLLECT_GARBAGE_REQUEST__INIT;
	if (!options_arguments(options, 0, 0, err) ||
		!options_size(options, "target", &request.target_bytes, err))
		return MISUSED;
	if (!client_open(&client, options, err))
		return FAILED;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_call_options call = {.timeout_ms = 3600 * 1000};
	const Farm__CollectGarbageResponse *response = croft_unary(client.channel, &call,
		"/croft.v1.Farm/CollectGarbage", &request.base,
		&farm__collect_garbage_response__descriptor, arena, err);
	char bytes[SIZE_TEXT];
	bool ok = response != NULL;
	if (ok && options_given(options, "json"))
		ok = json_print(json_pack("{s:I, s:I}", "freed_blobs", (json_int_t)response->freed_blobs, "freed_bytes",
					(json_int_t)response->freed_bytes), err);
	else if (ok)
		printf("freed %" PRIu64 " blobs, %s\n", response->freed_blobs,
			format_size(response->freed_bytes, bytes));
	client_close(&client);
	return ok ? 0 : FAILED;
}

static const struct option_spec gc_options[] = {
	{"target", 0, "SIZE", "evict until the store holds no more than this (else its budget)"},
	{"json", 0, NULL, "as JSON"},
	{0},
};

const struct command command_gc = {
	.name = "gc",
	.arguments = "",
	.summary = "Evict the least recently used from the farm's store",
	.details = "What is leased (in use, or promised to a client a short while ago) stays.",
	.options = gc_options,
	.client = true,
	.run = gc_run,
};
