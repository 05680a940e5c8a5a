/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/placement/posting.h"

#include "proto/base/arena.h"

#include <stdlib.h>
#include <string.h>

enum form { LIST, GROUPS, DENSE };
/* Holders of a list: a group table pays above the one, and is given up below the other. */
enum { LIST_MOST = 48, LIST_AGAIN = 24 };
/* Members of a group that are compared at once; there is room to read as many beyond the last. */
enum { LANES = 8 };

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
static uint16_t *members(const struct posting *posting, uint32_t agents) /* groups */
{
	return begins(posting) + groups_of(agents) + 1;
}
/* The low byte of its number, and the level above: both come in one cache line and are compared at once. */
static uint16_t member_of(uint32_t agent, uint8_t level)
{
	return (uint16_t)(level << 8 | (agent & 0xff));
}
static uint8_t *list_levels(const struct posting *posting)
{
	return posting->data + posting->room * sizeof(uint16_t);
}
/* Of the holder at a place of list or groups. */
static uint8_t level_at(const struct posting *posting, uint32_t agents, int at)
{
	return posting->form == LIST ? list_levels(posting)[at]
								 : (uint8_t)(members(posting, agents)[at] >> 8);
}

static size_t size_of(enum form form, uint32_t room, uint32_t agents)
{
	switch (form) {
	case LIST:
		return room * (sizeof(uint16_t) + 1);
	case GROUPS:
		return (groups_of(agents) + 1) * sizeof(uint16_t) + room * sizeof(uint16_t);
	default:
		return agents;
	}
}

static size_t allocated(enum form form, uint32_t room, uint32_t agents)
{
	return size_of(form, room, agents) + (form == GROUPS ? LANES * sizeof(uint16_t) : 0);
}

size_t posting_bytes(const struct posting *posting, uint32_t agents)
{
	return posting->data ? allocated(posting->form, posting->room, agents) + 16 : 0;
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
	const uint16_t *member = members(posting, agents);
	uint32_t group = agent / POSTING_GROUP;
	for (int i = begin[group], end = begin[group + 1]; i < end; i++)
		if ((uint8_t)member[i] == (uint8_t)agent)
			return i;
	return -1;
}

/* Without a jump that depends on where it stands, which no processor foresees: most groups of a large farm
 * are no longer than what is compared at once. */
static uint8_t get_of_group(const uint16_t *member, int count, uint32_t agent)
{
	typedef uint16_t lanes __attribute__((vector_size(LANES * sizeof(uint16_t))));
	const lanes places = {0, 1, 2, 3, 4, 5, 6, 7};
	lanes found = {0};
	for (int i = 0; i < count; i += LANES) {
		lanes some;
		memcpy(&some, member + i, sizeof(some));
		lanes same = (lanes)((some & 0xff) == (uint16_t)(agent & 0xff));
		found |= some & same & (lanes)(places < (uint16_t)(count - i));
	}
	uint64_t halves[2];
	memcpy(halves, &found, sizeof(found));
	uint64_t both = halves[0] | halves[1];
	both |= both >> 32;
	return (uint8_t)((both | both >> 16) >> 8);
}

void posting_get_many(const struct posting *posting, uint32_t agents, const uint32_t *list,
	size_t count, uint8_t *levels)
{
	if (posting->count == 0) {
		memset(levels, 0, count);
	} else if (posting->form == DENSE) {
		for (size_t i = 0; i < count; i++)
			levels[i] = posting->data[list[i]];
	} else if (posting->form == GROUPS) {
		const uint16_t *begin = begins(posting), *member = members(posting, agents);
		for (size_t i = 0; i < count; i++) {
			const uint16_t *at = begin + list[i] / POSTING_GROUP;
			levels[i] = get_of_group(member + at[0], at[1] - at[0], list[i]);
		}
	} else {
		for (size_t i = 0; i < count; i++) {
			int at = find(posting, agents, list[i]);
			levels[i] = at < 0 ? 0 : list_levels(posting)[at];
		}
	}
}

uint8_t posting_get(const struct posting *posting, uint32_t agents, uint32_t agent)
{
	uint8_t level;
	posting_get_many(posting, agents, &agent, 1, &level);
	return level;
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
	const uint16_t *member = members(posting, agents);
	for (size_t i = 0; i < count; i++)
		__builtin_prefetch(member + begins(posting)[list[i] / POSTING_GROUP]);
}

/* Forms --------------------------------------------------------------------------------------------- */

static void to_dense(const struct posting *posting, uint32_t agents, uint8_t *dense)
{
	if (posting->form == DENSE) {
		memcpy(dense, posting->data, agents);
	} else if (posting->form == LIST) {
		for (int i = 0; i < posting->count; i++)
			dense[ids(posting)[i]] = list_levels(posting)[i];
	} else {
		const uint16_t *begin = begins(posting);
		const uint16_t *member = members(posting, agents);
		for (uint32_t group = 0; group < groups_of(agents); group++)
			for (int i = begin[group]; i < begin[group + 1]; i++)
				dense[group * POSTING_GROUP + (uint8_t)member[i]] = (uint8_t)(member[i] >> 8);
	}
}

static void from_dense(struct posting *posting, uint32_t agents, const uint8_t *dense)
{
	int at = 0;
	for (uint32_t agent = 0; agent < agents; agent++) {
		if (posting->form == GROUPS && agent % POSTING_GROUP == 0)
			begins(posting)[agent / POSTING_GROUP] = (uint16_t)at;
		if (!dense[agent])
			continue;
		if (posting->form == LIST) {
			ids(posting)[at] = (uint16_t)agent;
			list_levels(posting)[at] = dense[agent];
		} else {
			members(posting, agents)[at] = member_of(agent, dense[agent]);
		}
		at++;
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
	posting->data = croft_alloc(allocated(form, room, agents));
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
	uint8_t *data = croft_alloc(allocated(LIST, room, agents));
	if (posting->count) {
		memcpy(data, posting->data, posting->count * sizeof(uint16_t));
		memcpy(data + room * sizeof(uint16_t), list_levels(posting), posting->count);
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
	if (posting->form == LIST) {
		ids(posting)[posting->count] = (uint16_t)agent;
		list_levels(posting)[posting->count++] = level;
		return;
	}
	uint16_t *begin = begins(posting);
	uint16_t *member = members(posting, agents);
	uint32_t group = agent / POSTING_GROUP, at = begin[group + 1];
	memmove(member + at + 1, member + at, (posting->count - at) * sizeof(*member));
	member[at] = member_of(agent, level);
	posting->count++;
	for (uint32_t i = group + 1; i <= groups_of(agents); i++)
		begin[i]++;
}

static void erase(struct posting *posting, uint32_t agents, uint32_t agent, int at)
{
	posting->count--;
	if (posting->form == LIST) {
		ids(posting)[at] = ids(posting)[posting->count];
		list_levels(posting)[at] = list_levels(posting)[posting->count];
	} else {
		uint16_t *member = members(posting, agents);
		memmove(member + at, member + at + 1, (size_t)(posting->count - at) * sizeof(*member));
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
		uint8_t before = level_at(posting, agents, at);
		if (!level)
			erase(posting, agents, agent, at);
		else if (posting->form == LIST)
			list_levels(posting)[at] = level;
		else
			members(posting, agents)[at] = member_of(agent, level);
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

static uint32_t places_of(const struct posting *posting, uint32_t agents)
{
	return posting->form == DENSE ? agents : posting->count;
}

void posting_walk_begin(const struct posting *posting, uint32_t agents, uint64_t random,
	unsigned probes, struct posting_walk *walk)
{
	uint32_t places = places_of(posting, agents);
	*walk = (struct posting_walk){0};
	if (posting->count == 0)
		return;
	walk->left = probes < places ? probes : places;
	walk->at = (uint32_t)(random % places);
	if (posting->form == DENSE)
		__builtin_prefetch(&posting->data[walk->at]);
	else if (posting->form == GROUPS)
		__builtin_prefetch(&members(posting, agents)[walk->at]);
}

size_t posting_walk(const struct posting *posting, uint32_t agents, struct posting_walk *walk,
	uint32_t *found, size_t most)
{
	size_t count = 0;
	uint32_t places = places_of(posting, agents);
	for (; walk->left > 0 && count < most; walk->left--, walk->at++) {
		if (walk->at == places)
			walk->at = walk->group = 0;
		uint32_t agent = walk->at;
		if (posting->form == LIST) {
			agent = ids(posting)[walk->at];
		} else if (posting->form == GROUPS) {
			while (begins(posting)[walk->group + 1] <= walk->at)
				walk->group++;
			agent = walk->group * POSTING_GROUP + (uint8_t)members(posting, agents)[walk->at];
		} else if (!posting->data[walk->at]) {
			continue;
		}
		found[count++] = agent;
	}
	return count;
}
