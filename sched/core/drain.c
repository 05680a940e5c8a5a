/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Agents that are to get no more jobs. That is said of a name, not of a connection: it outlasts the agent's
 * restart, and as a record of the journal the server's.
 */
#include "sched/core/core.h"

#include <stdlib.h>

#define PREFIX "draining:" /* of its key; no key of a task begins so */

struct draining {
	LIST_ENTRY(draining) link;
	char *reason;
	char agent_id[];
};

struct draining *draining_find(const struct croft_sched *sched, const char *agent_id)
{
	struct draining *draining;
	LIST_FOREACH (draining, &sched->draining, link)
		if (strcmp(draining->agent_id, agent_id) == 0)
			return draining;
	return NULL;
}

const char *draining_reason(const struct draining *draining)
{
	return draining->reason;
}

static struct draining *add(struct croft_sched *sched, struct croft_slice agent_id,
	struct croft_slice reason)
{
	struct draining *draining = croft_zalloc(sizeof(*draining) + agent_id.size + 1);
	memcpy(draining->agent_id, agent_id.data, agent_id.size);
	draining->reason = croft_zalloc(reason.size + 1);
	if (reason.size)
		memcpy(draining->reason, reason.data, reason.size);
	LIST_INSERT_HEAD(&sched->draining, draining, link);
	return draining;
}

static void forget(struct draining *draining)
{
	LIST_REMOVE(draining, link);
	free(draining->reason);
	free(draining);
}

bool draining_restore(struct croft_sched *sched, struct croft_slice key, struct croft_slice value)
{
	size_t prefix = strlen(PREFIX);
	if (key.size <= prefix || memcmp(key.data, PREFIX, prefix) != 0)
		return false;
	add(sched, CROFT_SLICE((const char *)key.data + prefix, key.size - prefix), value);
	return true;
}

void draining_free(struct croft_sched *sched)
{
	while (!LIST_EMPTY(&sched->draining))
		forget(LIST_FIRST(&sched->draining));
}

/* Returns when it is on disk. The lock is held, but not over the waiting. */
static void write_down(struct croft_sched *sched, const char *agent_id, const char *reason)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *key = croft_arena_printf(arena, PREFIX "%s", agent_id);
	record_write(sched, croft_slice_str(key), reason ? croft_slice_str(reason) : CROFT_SLICE(NULL, 0));
}

bool draining_set(struct croft_sched *sched, const char *agent_id, const char *reason,
	struct croft_error *err)
{
	struct draining *draining = draining_find(sched, agent_id);
	struct agent *agent = find_agent(sched, agent_id);
	if (!draining && !agent)
		return croft_error_set(err, CROFT_NOT_FOUND,
			"there is no agent '%s': croft status lists them", agent_id);
	if (strlen(agent_id) > DRAINING_NAME_MOST)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"an agent's name of more than %d bytes cannot be kept", DRAINING_NAME_MOST);
	if (draining)
		forget(draining);
	if (reason)
		add(sched, croft_slice_str(agent_id), croft_slice_str(reason));
	if (agent) {
		agent->draining = reason != NULL;
		agent_open(sched, agent);
	}
	dispatch(sched);
	write_down(sched, agent_id, reason);
	return true;
}
