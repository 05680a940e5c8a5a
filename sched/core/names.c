/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/core.h"

#include <stdlib.h>
#include <sys/random.h>
#include <xxhash.h>

enum { NAME_BYTES = 16 };

/* From the kernel, many names' worth at a time. */
static const uint8_t *random_bytes(void)
{
	static __thread uint8_t bytes[NAME_BYTES * 16]; /* getrandom gives up to 256 whole */
	static __thread size_t used = sizeof(bytes);
	if (used == sizeof(bytes)) {
		if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
			abort();
		used = 0;
	}
	used += NAME_BYTES;
	return bytes + used - NAME_BYTES;
}

void make_name(char name[NAME_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *random = random_bytes();
	for (size_t i = 0; i < NAME_BYTES; i++) {
		name[2 * i] = digits[random[i] >> 4];
		name[2 * i + 1] = digits[random[i] & 15];
	}
	name[NAME_TEXT - 1] = '\0';
}

size_t bucket_of(const char *text)
{
	return XXH3_64bits(text, strlen(text)) % BUCKETS;
}

struct operation *find_operation(struct croft_sched *sched, const char *name)
{
	struct operation *operation;
	LIST_FOREACH (operation, &sched->names[bucket_of(name)], name_link)
		if (strcmp(operation->name, name) == 0)
			return operation;
	return NULL;
}

struct task *find_lease(struct croft_sched *sched, const char *lease)
{
	struct task *task;
	LIST_FOREACH (task, &sched->leases[bucket_of(lease)], lease_link)
		if (strcmp(task->lease, lease) == 0)
			return task;
	return NULL;
}

static struct task *find_action(struct croft_sched *sched, const char *instance_name,
	const struct croft_digest *action, bool ended)
{
	struct task *task;
	size_t bucket = XXH3_64bits(action->hash, CROFT_HASH_SIZE) % BUCKETS;
	LIST_FOREACH (task, &sched->actions[bucket], action_link)
		if (croft_digest_equal(&task->action, action) && !task->cancelling &&
			(task->announced == TASK_COMPLETED) == ended && strcmp(task->instance_name, instance_name) == 0)
			return task;
	return NULL;
}

struct task *find_mergeable(struct croft_sched *sched, const char *instance_name,
	const struct croft_digest *action)
{
	return find_action(sched, instance_name, action, false);
}

struct task *find_ended(struct croft_sched *sched, const char *instance_name,
	const struct croft_digest *action)
{
	return find_action(sched, instance_name, action, true);
}
