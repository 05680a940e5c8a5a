/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What agents have a number of and jobs take while they run: CPUs, and devices or licences that people
 * name ("croft-resource-gpu=2"). A class that asks for some matches pools that have at least as many;
 * what running jobs took of an agent's is counted.
 *
 * Names are numbered as agents offer them. Of names beyond CROFT_PLACEMENT_COUNTS only that an agent has
 * enough for one job is looked at.
 */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

static const char prefix[] = "croft-resource-", cpus[] = "croft-cpus=";

bool is_counted(const char *text)
{
	return strncmp(text, prefix, sizeof(prefix) - 1) == 0 ||
		strncmp(text, cpus, sizeof(cpus) - 1) == 0;
}

static size_t name_size(const char *text)
{
	return strcspn(text, "=");
}

static uint32_t number_of(const char *text)
{
	const char *equals = text + name_size(text);
	unsigned long number = *equals ? strtoul(equals + 1, NULL, 10) : 0;
	return number < UINT32_MAX ? (uint32_t)number : UINT32_MAX;
}

static bool same_name(const char *a, const char *b)
{
	size_t size = name_size(a);
	return size == name_size(b) && strncmp(a, b, size) == 0;
}

/* COUNTS when it has no number. */
static unsigned find_name(const struct croft_placement *placement, const char *text)
{
	unsigned i = 0;
	while (i < COUNTS && !(placement->count_names[i] && same_name(placement->count_names[i], text)))
		i++;
	return i;
}

static unsigned take_name(struct croft_placement *placement, const char *text)
{
	unsigned found = find_name(placement, text);
	for (unsigned i = 0; found == COUNTS && i < COUNTS; i++)
		if (!placement->count_names[i]) {
			placement->count_names[i] = croft_strdup(text);
			found = i;
		}
	return found;
}

void pool_count(struct croft_placement *placement, struct pool *pool)
{
	for (size_t i = 0; i < pool->property_count; i++) {
		if (!is_counted(pool->properties[i]))
			continue;
		unsigned name = take_name(placement, pool->properties[i]);
		if (name < COUNTS)
			pool->counts[name] = number_of(pool->properties[i]);
	}
}

void class_count(const struct croft_placement *placement, struct class *class)
{
	memset(class->counts, 0, sizeof(class->counts));
	for (size_t i = 0; i < class->requirement_count; i++) {
		if (!is_counted(class->requirements[i]))
			continue;
		unsigned name = find_name(placement, class->requirements[i]);
		if (name < COUNTS)
			class->counts[name] = number_of(class->requirements[i]);
	}
}

bool pool_has_enough(const struct pool *pool, const char *requirement)
{
	for (size_t i = 0; i < pool->property_count; i++)
		if (is_counted(pool->properties[i]) && same_name(pool->properties[i], requirement))
			return number_of(pool->properties[i]) >= number_of(requirement);
	return false;
}

bool croft_placement_offers(const char *property, const char *requirement)
{
	if (is_counted(requirement) && is_counted(property) && same_name(property, requirement))
		return number_of(property) >= number_of(requirement);
	return strcmp(property, requirement) == 0;
}

bool counts_fit(const struct agent *agent, const struct croft_placement_job *job)
{
	for (unsigned i = 0; i < COUNTS; i++)
		if (job->class->counts[i] > 0 &&
			agent->counts_used[i] + job->class->counts[i] > agent->pool->counts[i])
			return false;
	return true;
}

void counts_take(struct agent *agent, const struct croft_placement_job *job)
{
	for (unsigned i = 0; i < COUNTS; i++)
		agent->counts_used[i] += job->class->counts[i];
}

void counts_give(struct agent *agent, const struct croft_placement_job *job)
{
	for (unsigned i = 0; i < COUNTS; i++)
		agent->counts_used[i] -= job->class->counts[i];
}

void counts_free(struct croft_placement *placement)
{
	for (unsigned i = 0; i < COUNTS; i++)
		free(placement->count_names[i]);
}
