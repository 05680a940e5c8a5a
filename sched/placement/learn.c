/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/placement/learn.h"

#include "proto/base/arena.h"

#include <stdlib.h>
#include <xxhash.h>

/* Shares are kept in sets of four, 4 MiB in all; a set's least used entry gives way. */
enum { WAYS = 4, SETS = 1 << 16, BUCKETS = 1 << 15 };
static const uint32_t NONE = UINT32_MAX;
/* What a job reads of an input of which nothing is known: with lazy inputs a tenth is usual, but
 * believing too little misplaces jobs and too much only ranks inputs by size. */
static const double DEFAULT_SHARE = 0.25;
static const double DEFAULT_RUN_SECONDS = 10;

struct share {
	uint64_t key;
	float share;
	uint16_t runs;
	uint16_t used; /* clock of its last use, in coarse steps */
};

struct learn {
	struct kind *kinds;
	uint32_t count, room;
	uint32_t oldest, newest; /* of those that nobody refers to */
	uint32_t buckets[BUCKETS];
	struct share (*shares)[WAYS];
	uint64_t uses;
};

struct learn *learn_create(void)
{
	struct learn *learn = croft_zalloc(sizeof(*learn));
	learn->shares = croft_zalloc(sizeof(struct share[SETS][WAYS]));
	memset(learn->buckets, 0xff, sizeof(learn->buckets));
	learn->oldest = learn->newest = NONE;
	learn_kind(learn, 0);
	return learn;
}

void learn_destroy(struct learn *learn)
{
	if (!learn)
		return;
	free(learn->kinds);
	free(learn->shares);
	free(learn);
}

/* Kinds -------------------------------------------------------------------------------------------- */

/* Only kinds without references stand in the list by age. */
static void list_leave(struct learn *learn, struct kind *kind)
{
	if (kind->older != NONE)
		learn->kinds[kind->older].newer = kind->newer;
	else
		learn->oldest = kind->newer;
	if (kind->newer != NONE)
		learn->kinds[kind->newer].older = kind->older;
	else
		learn->newest = kind->older;
}

static void list_join(struct learn *learn, uint32_t at)
{
	struct kind *kind = &learn->kinds[at];
	kind->older = learn->newest;
	kind->newer = NONE;
	if (learn->newest != NONE)
		learn->kinds[learn->newest].newer = at;
	else
		learn->oldest = at;
	learn->newest = at;
}

static uint32_t *bucket_of(struct learn *learn, uint64_t key)
{
	return &learn->buckets[(key ^ key >> 32) % BUCKETS];
}

static uint32_t take_oldest(struct learn *learn)
{
	uint32_t at = learn->oldest;
	struct kind *kind = &learn->kinds[at];
	list_leave(learn, kind);
	uint32_t *link = bucket_of(learn, kind->key);
	while (*link != at)
		link = &learn->kinds[*link].next;
	*link = kind->next;
	return at;
}

static uint32_t find_kind(struct learn *learn, uint64_t key)
{
	uint32_t at = *bucket_of(learn, key);
	while (at != NONE && learn->kinds[at].key != key)
		at = learn->kinds[at].next;
	return at;
}

uint32_t learn_kind(struct learn *learn, uint64_t key)
{
	uint32_t *bucket = bucket_of(learn, key), at = find_kind(learn, key);
	if (at != NONE) {
		if (learn->kinds[at].references++ == 0)
			list_leave(learn, &learn->kinds[at]);
		return at;
	}
	if (learn->count >= LEARN_KINDS && learn->oldest != NONE) {
		at = take_oldest(learn);
	} else {
		if (learn->count == learn->room) {
			learn->room += learn->room < 256 ? 256 : learn->room / 2;
			learn->kinds = croft_realloc(learn->kinds, learn->room, sizeof(struct kind));
		}
		at = learn->count++;
	}
	struct kind *kind = &learn->kinds[at];
	*kind = (struct kind){.key = key, .next = *bucket, .references = 1};
	for (int i = 0; i < LEARN_AGENTS; i++)
		kind->agents[i] = NONE;
	*bucket = at;
	return at;
}

void learn_unref(struct learn *learn, uint32_t kind)
{
	if (--learn->kinds[kind].references == 0)
		list_join(learn, kind);
}

struct kind *learn_get(struct learn *learn, uint32_t kind)
{
	return &learn->kinds[kind];
}

size_t learn_count(const struct learn *learn)
{
	return learn->count;
}

/* The mean of the first runs, then the newer ones weigh more. */
static void smooth(float *mean, uint32_t runs, double seen)
{
	double weight = runs < 4 ? 1.0 / (runs + 1) : 0.2;
	*mean = (float)(*mean + weight * (seen - *mean));
}

static void count_run(struct kind *kind, double run_seconds, uint64_t memory_bytes)
{
	if (run_seconds > 0)
		smooth(&kind->run_seconds, kind->runs++, run_seconds);
	float memory = (float)memory_bytes;
	if (memory > kind->memory_bytes)
		kind->memory_bytes = memory;
	else if (memory > 0)
		kind->memory_bytes += 0.1f * (memory - kind->memory_bytes);
}

void learn_run(struct learn *learn, uint32_t kind, uint32_t family, double run_seconds,
	uint64_t memory_bytes)
{
	if (kind != 0)
		count_run(&learn->kinds[kind], run_seconds, memory_bytes);
	if (family != 0 && family != kind)
		count_run(&learn->kinds[family], run_seconds, memory_bytes);
	/* All jobs together are never asked for memory. */
	count_run(&learn->kinds[0], run_seconds, 0);
}

void learn_agent(struct learn *learn, uint32_t kind, uint32_t agent)
{
	uint32_t *agents = learn->kinds[kind].agents;
	if (agents[0] == agent)
		return;
	agents[1] = agents[0];
	agents[0] = agent;
}

double learn_run_seconds(const struct learn *learn, uint32_t kind, uint32_t family)
{
	uint32_t from[] = {kind, family, 0};
	for (int i = 0; i < 3; i++)
		if (learn->kinds[from[i]].runs > 0)
			return learn->kinds[from[i]].run_seconds;
	return DEFAULT_RUN_SECONDS;
}

uint64_t learn_memory(const struct learn *learn, uint32_t kind, uint32_t family)
{
	if (learn->kinds[kind].memory_bytes > 0)
		return (uint64_t)learn->kinds[kind].memory_bytes;
	return (uint64_t)learn->kinds[family].memory_bytes;
}

/* Chains ------------------------------------------------------------------------------------------- */

/* A longer chain counts at once; that there is a shorter one as well says little, for a job's outputs may have many
 * readers. */
void learn_follows(struct learn *learn, uint64_t maker_key, uint64_t reader_key, double run_seconds)
{
	uint32_t maker = find_kind(learn, maker_key), reader = find_kind(learn, reader_key);
	if (maker_key == 0 || maker_key == reader_key || maker == NONE || reader == NONE)
		return;
	struct kind *before = &learn->kinds[maker];
	const struct kind *after = &learn->kinds[reader];
	float seconds = (float)run_seconds + after->behind_seconds;
	if (seconds > before->behind_seconds && after->behind_jobs < LEARN_CHAIN) {
		before->behind_seconds = seconds;
		before->behind_jobs = after->behind_jobs + 1;
	} else if (seconds < before->behind_seconds) {
		before->behind_seconds += (seconds - before->behind_seconds) / 64;
	}
}

double learn_behind_seconds(const struct learn *learn, uint32_t kind, uint32_t family)
{
	double seconds = learn->kinds[kind].behind_seconds;
	return seconds > 0 || learn->kinds[kind].runs > 0 ? seconds : learn->kinds[family].behind_seconds;
}

/* Shares ------------------------------------------------------------------------------------------- */

static uint64_t share_key(uint64_t kind_key, uint64_t label)
{
	uint64_t both[] = {kind_key, label};
	return XXH3_64bits(both, sizeof(both)) | 1; /* 0 marks an unused entry */
}

static const struct share *find_share(const struct learn *learn, uint64_t key)
{
	const struct share *set = learn->shares[key >> 32 & (SETS - 1)];
	for (int i = 0; i < WAYS; i++)
		if (set[i].key == key)
			return &set[i];
	return NULL;
}

static struct share *make_share(struct learn *learn, uint64_t key)
{
	struct share *set = learn->shares[key >> 32 & (SETS - 1)], *victim = set;
	uint16_t clock = (uint16_t)(learn->uses++ >> 12);
	for (int i = 0; i < WAYS; i++) {
		if (set[i].key == key) {
			set[i].used = clock;
			return &set[i];
		}
		if ((uint16_t)(clock - set[i].used) > (uint16_t)(clock - victim->used) || !set[i].key)
			victim = &set[i];
	}
	*victim = (struct share){.key = key, .used = clock};
	return victim;
}

static void see_share(struct learn *learn, uint64_t key, double seen)
{
	struct share *share = make_share(learn, key);
	smooth(&share->share, share->runs, seen);
	if (share->runs < UINT16_MAX)
		share->runs++;
}

void learn_touched(struct learn *learn, uint64_t kind_key, uint64_t family_key, uint64_t label,
	double share)
{
	see_share(learn, share_key(kind_key, label), share);
	if (family_key)
		see_share(learn, share_key(family_key, label), share);
	see_share(learn, share_key(0, label), share);
	see_share(learn, share_key(0, 0), share);
}

double learn_share(const struct learn *learn, uint64_t kind_key, uint64_t family_key,
	uint64_t label)
{
	uint64_t from[][2] = {{kind_key, label}, {family_key, label}, {0, label}, {0, 0}};
	for (int i = 0; i < 4; i++) {
		const struct share *share = find_share(learn, share_key(from[i][0], from[i][1]));
		if (share)
			return share->share;
	}
	return DEFAULT_SHARE;
}

/* Keeping ------------------------------------------------------------------------------------------ */

/* Of this machine's byte order: a record is read by the server that wrote it, or dropped. */
struct record {
	uint32_t version; /* 1: a kind, 2: a share, 3: what follows a kind */
	uint32_t runs;    /* 3: jobs of the chain */
	uint64_t key;
	float a, b; /* run seconds and memory; the share; the chain's seconds */
};

void learn_save(const struct learn *learn, void (*emit)(void *user, struct croft_slice record),
	void *user)
{
	for (uint32_t i = 0; i < learn->count; i++) {
		const struct kind *kind = &learn->kinds[i];
		struct record record = {1, kind->runs, kind->key, kind->run_seconds, kind->memory_bytes};
		if (kind->runs > 0)
			emit(user, CROFT_SLICE(&record, sizeof(record)));
		record = (struct record){3, kind->behind_jobs, kind->key, kind->behind_seconds, 0};
		if (kind->behind_jobs > 0)
			emit(user, CROFT_SLICE(&record, sizeof(record)));
	}
	for (size_t set = 0; set < SETS; set++) {
		for (int way = 0; way < WAYS; way++) {
			const struct share *share = &learn->shares[set][way];
			struct record record = {2, share->runs, share->key, share->share, 0};
			if (share->key)
				emit(user, CROFT_SLICE(&record, sizeof(record)));
		}
	}
}

static bool sane(float value, float most)
{
	return value >= 0 && value <= most; /* false for what is not a number */
}

bool learn_load(struct learn *learn, struct croft_slice bytes)
{
	struct record record;
	if (bytes.size != sizeof(record))
		return false;
	memcpy(&record, bytes.data, sizeof(record));
	if (record.version == 1 && sane(record.a, 1e9f) && sane(record.b, 1e18f)) {
		uint32_t at = learn_kind(learn, record.key);
		struct kind *kind = &learn->kinds[at];
		kind->runs = record.runs;
		kind->run_seconds = record.a;
		kind->memory_bytes = record.b;
		learn_unref(learn, at);
		return true;
	}
	if (record.version == 3 && sane(record.a, 1e9f) && record.runs <= LEARN_CHAIN) {
		uint32_t at = learn_kind(learn, record.key);
		learn->kinds[at].behind_seconds = record.a;
		learn->kinds[at].behind_jobs = record.runs;
		learn_unref(learn, at);
		return true;
	}
	if (record.version == 2 && record.key && sane(record.a, 1)) {
		struct share *share = make_share(learn, record.key);
		share->share = record.a;
		share->runs = record.runs < UINT16_MAX ? (uint16_t)record.runs : UINT16_MAX;
		return true;
	}
	return false;
}
