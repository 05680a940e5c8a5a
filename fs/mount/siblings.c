/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/siblings.h"

#include "fs/mount/internal.h"
#include "proto/base/cleanup.h"

enum {
	HINTS = 1 << 16, /* files whose place is known; those listed last */
	SCANS = 64,      /* directories that are being read through */
	SMALL_BYTES = 64 << 10,
	GAP = 2,         /* places from one file read to the next: at most every second is not read */
	IN_ORDER = 3,    /* files read in order that make a scan */
	AHEAD_FIRST = 16, AHEAD_MOST = 512, AHEAD_BYTES = 4 << 20,
	MISSES = 2,      /* of a directory, then others in it are guessed */
	GUESS_SHARE = 32, /* of what was fetched may be guessed */
	LONG_NS = 4000000, /* a round trip */
};

struct hint {
	uint32_t node, parent, place;
};

struct scan {
	uint32_t directory; /* its node; 0: unused */
	uint32_t last;      /* place that was read last */
	uint32_t run;       /* how many were read in order up to there */
	uint32_t until;     /* what stands before that was fetched ahead */
	uint32_t ahead;     /* how many to fetch the next time */
	uint32_t misses;
	uint32_t guessed;   /* so many places behind the one that was missed first, all around */
	uint32_t guessed_from;
	uint64_t used;
};

struct siblings {
	pthread_mutex_t lock; /* guards: all below */
	struct hint hints[HINTS];
	struct scan scans[SCANS];
	uint64_t uses;
	uint64_t earned; /* bytes that may be guessed */
	uint32_t finished_ahead; /* of the scan that came to its directory's end last, if none broke off since */
};

struct siblings *siblings_create(void)
{
	struct siblings *siblings = croft_zalloc(sizeof(*siblings));
	pthread_mutex_init(&siblings->lock, NULL);
	return siblings;
}

void siblings_destroy(struct siblings *siblings)
{
	if (!siblings)
		return;
	pthread_mutex_destroy(&siblings->lock);
	free(siblings);
}

void siblings_note(struct siblings *siblings, uint64_t node, uint64_t parent, size_t place)
{
	CROFT_LOCKED(&siblings->lock);
	siblings->hints[node % HINTS] =
		(struct hint){(uint32_t)node, (uint32_t)parent, (uint32_t)place};
}

static bool find_hint(struct siblings *siblings, uint64_t node, struct hint *hint)
{
	CROFT_LOCKED(&siblings->lock);
	*hint = siblings->hints[node % HINTS];
	return hint->node == node;
}

static struct scan *scan_of(struct siblings *siblings, uint32_t directory)
{
	struct scan *oldest = &siblings->scans[0];
	for (struct scan *scan = siblings->scans; scan < siblings->scans + SCANS; scan++) {
		if (scan->directory == directory)
			return scan;
		if (scan->used < oldest->used)
			oldest = scan;
	}
	*oldest = (struct scan){.directory = directory};
	return oldest;
}

static bool is_small(const struct directory_entry *entry)
{
	return entry->kind == NODE_FILE && entry->size > 0 && entry->size <= SMALL_BYTES;
}

static uint32_t next_small(const struct directory *directory, uint32_t from)
{
	while (from < directory->count && !is_small(&directory->entries[from]))
		from++;
	return from;
}

/* How many files to fetch ahead from *from on; the reader is at `place`. The lock is held. */
static uint32_t advance(struct siblings *siblings, struct scan *scan, const struct directory *directory,
	uint32_t place, uint32_t *from)
{
	bool first = scan->used == 0, in_order;
	scan->used = ++siblings->uses;
	if (first) {
		/* Who read the directory before from end to end goes on like that. */
		in_order = siblings->finished_ahead && place == next_small(directory, 0);
		scan->run = in_order ? IN_ORDER : 0;
		scan->ahead = in_order ? siblings->finished_ahead : AHEAD_FIRST;
		scan->until = place + 1;
	} else {
		uint32_t due = next_small(directory, scan->last + 1);
		in_order = place > scan->last && place < due + GAP;
		if (!in_order) {
			scan->run = 0;
			scan->ahead = AHEAD_FIRST;
			scan->until = place + 1;
			siblings->finished_ahead = 0;
		}
	}
	scan->last = place;
	scan->run++;
	if (scan->until <= place)
		scan->until = place + 1;
	if (scan->run > IN_ORDER && next_small(directory, place + 1) == directory->count)
		siblings->finished_ahead = scan->ahead;
	/* As many again when half of the last are read. */
	if (scan->run <= IN_ORDER || scan->until - place > scan->ahead / 4)
		return 0;
	*from = scan->until;
	uint32_t count = scan->ahead;
	scan->ahead = scan->ahead * 2 < AHEAD_MOST ? scan->ahead * 2 : AHEAD_MOST;
	return count;
}

static uint32_t choose(const struct directory *directory, uint32_t from, uint32_t most,
	struct croft_digest *digests, size_t *count)
{
	uint64_t bytes = 0;
	uint32_t at = from;
	for (*count = 0; at < directory->count && *count < most && bytes < AHEAD_BYTES; at++) {
		const struct directory_entry *entry = &directory->entries[at];
		if (!is_small(entry))
			continue;
		digests[*count].size_bytes = entry->size;
		memcpy(digests[(*count)++].hash, entry->hash, sizeof(entry->hash));
		bytes += entry->size;
	}
	return at;
}

static void fetch_missing(struct request *request, struct croft_digest *digests, size_t count)
{
	bool there[AHEAD_MOST];
	size_t missing = 0;
	if (!count || !croft_store_has(request->mount->store, digests, count, there, NULL))
		return;
	for (size_t i = 0; i < count; i++)
		if (!there[i])
			digests[missing++] = digests[i];
	if (missing)
		request_fetch_ahead(request->mount, digests, missing, request_group(request));
}

/* The directory that the file was seen in last, and where; to be released. NULL: not known. */
static struct directory *find_place(struct request *request, const struct node *node, struct hint *hint)
{
	struct croft_mount *mount = request->mount;
	struct node parent;
	if (!mount->fetcher || node->size > SMALL_BYTES || request->on_heap ||
		!find_hint(mount->siblings, request->node, hint) ||
		!nodes_get(mount->nodes, hint->parent, &parent) || parent.kind != NODE_DIRECTORY)
		return NULL;
	struct croft_digest digest = node_digest(&parent);
	struct directory *directory = directory_cache_get(mount->directories, &digest);
	/* The id of the parent may be another's by now. */
	if (directory && (hint->place >= directory->count ||
		memcmp(directory->entries[hint->place].hash, node->hash, sizeof(node->hash)) != 0)) {
		directory_cache_release(mount->directories, directory);
		directory = NULL;
	}
	return directory;
}

void siblings_read(struct request *request, const struct node *node)
{
	struct croft_mount *mount = request->mount;
	struct croft_digest digests[AHEAD_MOST];
	struct hint hint;
	struct directory *directory = find_place(request, node, &hint);
	if (!directory)
		return;
	uint32_t from = 0;
	size_t count = 0;
	pthread_mutex_lock(&mount->siblings->lock);
	struct scan *scan = scan_of(mount->siblings, hint.parent);
	uint32_t most = advance(mount->siblings, scan, directory, hint.place, &from);
	if (most)
		scan->until = choose(directory, from, most, digests, &count);
	pthread_mutex_unlock(&mount->siblings->lock);
	fetch_missing(request, digests, count);
	directory_cache_release(mount->directories, directory);
}

/* Guessing ------------------------------------------------------------------------------------ */

void siblings_earn(struct siblings *siblings, uint64_t bytes)
{
	CROFT_LOCKED(&siblings->lock);
	siblings->earned += bytes / GUESS_SHARE;
}

/* Those behind the ones that were guessed before, for half of what may be spent. The lock is held. */
static size_t guess(struct siblings *siblings, struct scan *scan, const struct directory *directory,
	struct croft_digest *digests)
{
	uint64_t bytes = 0, most = siblings->earned / 2;
	size_t count = 0;
	for (; scan->guessed < directory->count && count < AHEAD_MOST; scan->guessed++) {
		size_t at = ((size_t)scan->guessed_from + scan->guessed) % directory->count;
		const struct directory_entry *entry = &directory->entries[at];
		if (!is_small(entry))
			continue;
		if (bytes + entry->size > most)
			break;
		digests[count].size_bytes = entry->size;
		memcpy(digests[count++].hash, entry->hash, sizeof(entry->hash));
		bytes += entry->size;
	}
	siblings->earned -= bytes;
	return count;
}

void siblings_missed(struct request *request, const struct node *node)
{
	struct croft_mount *mount = request->mount;
	struct croft_digest digests[AHEAD_MOST];
	struct hint hint;
	if (!mount->fetcher || croft_fetch_round_trip_ns(mount->fetcher) < LONG_NS)
		return;
	struct directory *directory = find_place(request, node, &hint);
	if (!directory)
		return;
	size_t count = 0;
	pthread_mutex_lock(&mount->siblings->lock);
	struct scan *scan = scan_of(mount->siblings, hint.parent);
	if (scan->misses++ == 0)
		scan->guessed_from = hint.place;
	if (scan->misses >= MISSES)
		count = guess(mount->siblings, scan, directory, digests);
	pthread_mutex_unlock(&mount->siblings->lock);
	fetch_missing(request, digests, count);
	directory_cache_release(mount->directories, directory);
}
