/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/account.h"

#include "proto/rpc/message.h"

#include "croft/v1/farm.pb-c.h"

static Farm__SandboxAccount__DeniedCall *denied_call(const struct croft_denied_call *from,
	struct croft_arena *arena)
{
	Farm__SandboxAccount__DeniedCall *call = croft_arena_alloc(arena, sizeof(*call));
	farm__sandbox_account__denied_call__init(call);
	call->call = (char *)from->call;
	call->times = from->times;
	call->allowed_by = (char *)(from->allowed_by ? from->allowed_by : "");
	return call;
}

void croft_account_of_sandbox(Reapi__ExecutedActionMetadata *metadata,
	const struct croft_sandbox_result *ended, struct croft_arena *arena)
{
	char *enforced[CROFT_ENFORCED_COUNT], *not_enforced[CROFT_ENFORCED_COUNT];
	Farm__SandboxAccount__DeniedCall *denied[CROFT_DENIED_MOST];
	Farm__SandboxAccount account = FARM__SANDBOX_ACCOUNT__INIT;
	account.end = (char *)croft_end_name(ended->end);
	account.wall_us = ended->wall_ns / 1000;
	account.user_us = ended->user_ns / 1000;
	account.system_us = ended->system_ns / 1000;
	account.peak_memory_bytes = ended->peak_memory_bytes;
	account.memory_measured = ended->memory_measured;
	account.read_bytes = ended->read_bytes;
	account.written_bytes = ended->written_bytes;
	account.enforced = enforced;
	account.not_enforced = not_enforced;
	for (int bit = 0; bit < CROFT_ENFORCED_COUNT; bit++) {
		char *name = (char *)croft_enforced_name((enum croft_enforced)(1 << bit));
		if (ended->enforced >> bit & 1)
			enforced[account.n_enforced++] = name;
		else
			not_enforced[account.n_not_enforced++] = name;
	}
	account.denied = denied;
	for (size_t i = 0; i < ended->denied_count; i++)
		denied[account.n_denied++] = denied_call(&ended->denied[i], arena);
	croft_message_attach(
		&metadata->auxiliary_metadata, &metadata->n_auxiliary_metadata, &account.base, arena);
}

struct croft_slice croft_account_hint(const struct croft_sandbox_result *ended, struct croft_arena *arena)
{
	char hint[1024];
	if (!croft_sandbox_hint(ended, "the platform property croft-seccomp=", hint, sizeof(hint)))
		return CROFT_SLICE("", 0);
	return croft_slice_str(
		croft_arena_printf(arena, "croft: that it failed may come of its sandbox: %s\n", hint));
}
