/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/placement/posting.h"

#include "proto/base/arena.h"

#include <stdlib.h>
#include <string.h>

enum form { LIST, GROUPS, DENSE };
/* Holders of a list: a group table pays above the one, and is given up below the other. */
enum { LIST_MOST = 48, LIST_AGAIN = 24 };

static uint32_t groups_of(uint32_t agents)
{
	return (agents + POSTING_GROUP - 1) / POSTING_GROUP;
}

/* The parts of data. */
static uint16_t *ids(const struct posting *posting) /* list */
{
	return (uint16_t *)posting->data;
}
static uint16_t *begins(const struct posting *posting) /* groups: one more than there are */
{
	return (uint16_t *)posting->data;
}
static uint8_t *lows(const struct posting *posting, uint32_t agents) /* groups */
{
	return posting->data + (groups_of(agents) + 1) * sizeof(uint16_t);
}
static uint8_t *levels(const struct posting *posting, uint32_t agents)
{
	switch (posting->form) {
	case LIST:
		return posting->data + posting->room * sizeof(uint16_t);
	case GROUPS:
		return lows(posting, agents) + posting->room;
	default:
		return posting->data;
	}
}

static size_t size_of(enum form form, uint32_t room, uint32_t agents)
{
	switch (form) {
	case LIST:
		return room * (sizeof(uint16_t) + 1);
	case GROUPS:
		return (groups_of(agents) + 1) * sizeof(uint16_t) + room * 2;
	default:
		return agents;
	}
}

size_t posting_bytes(const struct posting *posting, uint32_t agents)
{
	return posting->data ? size_of(posting->form, posting->room, agents) + 16 : 0;
}

void posting_finish(struct posting *posting)
{
	free(posting->data);
	*posting = (struct posting){0};
}

/* Place of an agent in list or groups; -1 if it is not there. */
static int find(const struct posting *posting, uint32_t agents, uint32_t agent)
{
	if (posting->form == LIST) {
		const uint16_t *id = ids(posting);
		for (int i = 0; i < posting->count; i++)
			if (id[i] == agent)
				return i;
		return -1;
	}
	const uint16_t *begin = begins(posting);
	const uint8_t *low = lows(posting, agents);
	uint32_t group = agent / POSTING_GROUP;
	for (int i = begin[group], end = begin[group + 1]; i < end; i++)
		if (low[i] == (uint8_t)agent)
			return i;
	return -1;
}

uint8_t posting_get(const struct posting *posting, uint32_t agents, uint32_t agent)
{
	if (posting->count == 0)
		return 0;
	if (posting->form == DENSE)
		return posting->data[agent];
	int at = find(posting, agents, agent);
	return at < 0 ? 0 : levels(posting, agents)[at];
}

void posting_prefetch(const struct posting *posting, uint32_t agents, const uint32_t *list, size_t count)
{
	if (posting->count == 0)
		return;
	if (posting->form == LIST) {
		__builtin_prefetch(posting->data);
		__builtin_prefetch(posting->data + 64);
		return;
	}
	for (size_t i = 0; i < count; i++)
		__builtin_prefetch(posting->form == DENSE ? (const void *)&posting->data[list[i]]
			: (const void *)&begins(posting)[list[i] / POSTING_GROUP]);
}

void posting_prefetch_groups(
	const struct posting *posting, uint32_t agents, const uint32_t *list, size_t count)
{
	if (posting->count == 0 || posting->form != GROUPS)
		return;
	const uint8_t *low = lows(posting, agents), *level = levels(posting, agents);
	for (size_t i = 0; i < count; i++) {
		uint32_t begin = begins(posting)[list[i] / POSTING_GROUP];
		__builtin_prefetch(low + begin);
		__builtin_prefetch(level + begin);
	}
}

/* Forms --------------------------------------------------------------------------------------------- */

static void to_dense(const struct posting *posting, uint32_t agents, uint8_t *dense)
{
	const uint8_t *level = levels(posting, agents);
	if (posting->form == DENSE) {
		memcpy(dense, posting->data, agents);
	} else if (posting->form == LIST) {
		for (int i = 0; i < posting->count; i++)
			dense[ids(posting)[i]] = level[i];
	} else {
		const uint16_t *begin = begins(posting);
		for (uint32_t group = 0; group < groups_of(agents); group++)
			for (int i = begin[group]; i < begin[group + 1]; i++)
				dense[group * POSTING_GROUP + lows(posting, agents)[i]] = level[i];
	}
}

static void from_dense(struct posting *posting, uint32_t agents, const uint8_t *dense)
{
	int at = 0;
	uint8_t *level = levels(posting, agents);
	for (uint32_t agent = 0; agent < agents; agent++) {
		if (posting->form == GROUPS && agent % POSTING_GROUP == 0)
			begins(posting)[agent / POSTING_GROUP] = (uint16_t)at;
		if (!dense[agent])
			continue;
		if (posting->form == LIST)
			ids(posting)[at] = (uint16_t)agent;
		else
			lows(posting, agents)[at] = (uint8_t)agent;
		level[at++] = dense[agent];
	}
	if (posting->form == GROUPS)
		begins(posting)[groups_of(agents)] = (uint16_t)at;
}

/* Lays it out anew. Rare: a posting changes form a few times in its life. */
static void convert(struct posting *posting, uint32_t from_agents, enum form form, uint32_t room,
	uint32_t agents)
{
	uint32_t most = from_agents > agents ? from_agents : agents;
	uint8_t *dense = croft_zalloc(most);
	if (posting->count)
		to_dense(posting, from_agents, dense);
	free(posting->data);
	posting->form = (uint8_t)form;
	posting->room = (uint16_t)room;
	if (form == DENSE) {
		posting->data = dense;
		return;
	}
	posting->data = croft_alloc(size_of(form, room, agents));
	from_dense(posting, agents, dense);
	free(dense);
}

void posting_resize(struct posting *posting, uint32_t from_agents, uint32_t to_agents)
{
	if (posting->data && posting->form != LIST)
		convert(posting, from_agents, posting->form, posting->room, to_agents);
}

static uint32_t more_room(uint32_t count)
{
	return count + 4 + count / 16;
}

/* Room for one more, in the form that is then the smallest. */
static void make_room(struct posting *posting, uint32_t agents)
{
	if (posting->data && posting->count < posting->room)
		return;
	uint32_t room = more_room(posting->count);
	enum form form = posting->data ? posting->form : LIST;
	if (form == LIST && room > LIST_MOST &&
		size_of(GROUPS, room, agents) < size_of(LIST, room, agents))
		form = GROUPS;
	if (size_of(form, room, agents) >= agents) {
		convert(posting, agents, DENSE, 0, agents);
		return;
	}
	if (form != LIST) {
		convert(posting, agents, form, room, agents);
		return;
	}
	uint8_t *data = croft_alloc(size_of(LIST, room, agents));
	if (posting->count) {
		memcpy(data, posting->data, posting->count * sizeof(uint16_t));
		memcpy(data + room * sizeof(uint16_t), levels(posting, agents), posting->count);
	}
	free(posting->data);
	posting->data = data;
	posting->room = (uint16_t)room;
}

static void shrink(struct posting *posting, uint32_t agents)
{
	uint32_t room = more_room(posting->count);
	if (posting->count == 0)
		posting_finish(posting);
	else if (posting->form == GROUPS && posting->count < LIST_AGAIN)
		convert(posting, agents, LIST, room, agents);
	else if (posting->form == DENSE && size_of(GROUPS, room, agents) < agents / 2)
		convert(posting, agents, GROUPS, room, agents);
	else if (posting->form == DENSE && posting->count < LIST_AGAIN &&
		size_of(LIST, room, agents) < agents / 2)
		convert(posting, agents, LIST, room, agents);
}

/* Changes -------------------------------------------------------------------------------------------- */

static void set_dense(struct posting *posting, uint32_t agents, uint32_t agent, uint8_t level)
{
	uint8_t *at = &posting->data[agent];
	posting->count = (uint16_t)(posting->count + (level != 0) - (*at != 0));
	*at = level;
	if (!level)
		shrink(posting, agents);
}

static void insert(struct posting *posting, uint32_t agents, uint32_t agent, uint8_t level)
{
	uint8_t *levels_ = levels(posting, agents);
	if (posting->form == LIST) {
		ids(posting)[posting->count] = (uint16_t)agent;
		levels_[posting->count++] = level;
		return;
	}
	uint16_t *begin = begins(posting);
	uint8_t *low = lows(posting, agents);
	uint32_t group = agent / POSTING_GROUP, at = begin[group + 1];
	memmove(low + at + 1, low + at, posting->count - at);
	memmove(levels_ + at + 1, levels_ + at, posting->count - at);
	low[at] = (uint8_t)agent;
	levels_[at] = level;
	posting->count++;
	for (uint32_t i = group + 1; i <= groups_of(agents); i++)
		begin[i]++;
}

static void erase(struct posting *posting, uint32_t agents, uint32_t agent, int at)
{
	uint8_t *levels_ = levels(posting, agents);
	posting->count--;
	if (posting->form == LIST) {
		ids(posting)[at] = ids(posting)[posting->count];
		levels_[at] = levels_[posting->count];
	} else {
		uint8_t *low = lows(posting, agents);
		memmove(low + at, low + at + 1, (size_t)(posting->count - at));
		memmove(levels_ + at, levels_ + at + 1, (size_t)(posting->count - at));
		for (uint32_t i = agent / POSTING_GROUP + 1; i <= groups_of(agents); i++)
			begins(posting)[i]--;
	}
	shrink(posting, agents);
}

uint8_t posting_set(struct posting *posting, uint32_t agents, uint32_t agent, uint8_t level)
{
	if (posting->data && posting->form == DENSE) {
		uint8_t before = posting->data[agent];
		set_dense(posting, agents, agent, level);
		return before;
	}
	int at = posting->count ? find(posting, agents, agent) : -1;
	if (at >= 0) {
		uint8_t before = levels(posting, agents)[at];
		if (level)
			levels(posting, agents)[at] = level;
		else
			erase(posting, agents, agent, at);
		return before;
	}
	if (level) {
		make_room(posting, agents);
		if (posting->form == DENSE)
			set_dense(posting, agents, agent, level);
		else
			insert(posting, agents, agent, level);
	}
	return 0;
}

size_t posting_sample(const struct posting *posting, uint32_t agents, uint64_t random,
	unsigned probes, bool (*want)(void *user, uint32_t agent), void *user, uint32_t *found,
	size_t most)
{
	size_t count = 0;
	if (posting->count == 0)
		return 0;
	uint32_t places = posting->form == DENSE ? agents : posting->count;
	if (probes > places)
		probes = places;
	uint32_t at = (uint32_t)(random % places), group = 0;
	if (posting->form == GROUPS)
		while (begins(posting)[group + 1] <= at)
			group++;
	for (unsigned i = 0; i < probes && count < most; i++, at++) {
		if (at == places)
			at = group = 0;
		uint32_t agent = at;
		if (posting->form == LIST) {
			agent = ids(posting)[at];
		} else if (posting->form == GROUPS) {
			while (begins(posting)[group + 1] <= at)
				group++;
			agent = group * POSTING_GROUP + lows(posting, agents)[at];
		} else if (!posting->data[at]) {
			continue;
		}
		if (want(user, agent))
			found[count++] = agent;
	}
	return count;
}
