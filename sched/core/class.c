/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/core.h"

#include <stdio.h>
#include <stdlib.h>

#define MEMORY "croft-memory-bytes"

/* What a job asks of its sandbox rather than of an agent (BuildStream's four, and croft's own). */
static bool is_option(const char *name)
{
	return strcmp(name, "unixUID") == 0 || strcmp(name, "unixGID") == 0 ||
		strcmp(name, "network") == 0 || strcmp(name, "remoteApisSocketPath") == 0 ||
		(strncmp(name, "croft-", 6) == 0 && strncmp(name, "croft-resource-", 15) != 0 &&
			strcmp(name, "croft-cpus") != 0 && strcmp(name, MEMORY) != 0);
}

/* It is asked of an agent, but no agent need name it. */
bool class_is_memory(const char *requirement)
{
	return strncmp(requirement, MEMORY "=", sizeof(MEMORY)) == 0;
}

static int compare_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static char *join(char *const *requirements, size_t count)
{
	size_t size = 1;
	for (size_t i = 0; i < count; i++)
		size += strlen(requirements[i]) + 1;
	char *key = croft_alloc(size), *at = key;
	for (size_t i = 0; i < count; i++)
		at += sprintf(at, "%s\n", requirements[i]);
	*at = '\0';
	return key;
}

struct task_class *class_of(struct croft_sched *sched, const Reapi__Platform *platform)
{
	size_t most = platform ? platform->n_properties : 0, count = 0;
	char **requirements = croft_array(most, sizeof(char *));
	for (size_t i = 0; i < most; i++) {
		const Reapi__Platform__Property *property = platform->properties[i];
		if (is_option(property->name))
			continue;
		if (asprintf(&requirements[count++], "%s=%s", property->name, property->value) < 0)
			abort();
	}
	qsort(requirements, count, sizeof(char *), compare_text);
	char *key = join(requirements, count);
	struct task_class *class;
	LIST_FOREACH (class, &sched->classes, link)
		if (strcmp(class->key, key) == 0)
			break;
	if (class) {
		for (size_t i = 0; i < count; i++)
			free(requirements[i]);
		free(requirements);
		free(key);
		return class;
	}
	class = croft_zalloc(sizeof(*class));
	class->key = key;
	class->requirements = requirements;
	class->requirement_count = count;
	for (size_t i = 0; i < count; i++)
		if (class_is_memory(requirements[i]))
			class->memory_bytes = strtoull(requirements[i] + sizeof(MEMORY), NULL, 10);
	LIST_INSERT_HEAD(&sched->classes, class, link);
	return class;
}

static bool offers(const struct agent *agent, const char *requirement)
{
	for (size_t i = 0; i < agent->property_count; i++)
		if (croft_placement_offers(agent->properties[i], requirement))
			return true;
	return class_is_memory(requirement);
}

bool class_matches(const struct task_class *class, const struct agent *agent)
{
	for (size_t i = 0; i < class->requirement_count; i++)
		if (!offers(agent, class->requirements[i]))
			return false;
	return true;
}

void classes_free(struct croft_sched *sched)
{
	struct task_class *class;
	while ((class = LIST_FIRST(&sched->classes))) {
		LIST_REMOVE(class, link);
		for (size_t i = 0; i < class->requirement_count; i++)
			free(class->requirements[i]);
		free(class->requirements);
		free(class->key);
		free(class);
	}
}
