/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of fs/store share. README.md has the format on disk and what is promised.
 *
 * A blob's way in: its bytes are appended to the log (log.c; small blobs' bytes, large blobs' names),
 * synced, put into the pending table, acknowledged. The keeper (keeper.c), the one thread that
 * changes the index, later moves pending entries into LMDB and writes down the log position up to
 * which that was done: from there the log is replayed after a crash.
 *
 * Locks: `lock` guards everything in memory and is never held over a system call that can wait for
 * the disk. LMDB's writer lock is taken with `lock` not held.
 */
#ifndef CROFT_FS_STORE_INTERNAL_H
#define CROFT_FS_STORE_INTERNAL_H

#include "fs/chunker.h"
#include "fs/digest_map.h"
#include "fs/store.h"

#include <lmdb.h>
#include <pthread.h>
#include <sys/queue.h>

enum {
	STORE_SMALL_LIMIT = 64 * 1024, /* blobs up to this live in segments; in a chunked store all chunks */
	STORE_BLOCK = 256 * 1024,      /* of a large blob: one checksum each */
	STORE_HEADER = 64,             /* bytes of a record before its payload */
	STORE_INDEX_COST = 192,        /* bytes of index that a blob is reckoned to take */
	STORE_PAGE = 4096,             /* what files are rounded up to when disk bytes are counted */
	STORE_SIZE_BITS = 44,          /* of a blob's size */
};

/* Index ------------------------------------------------------------------------------------- */

/* Where a blob is: the value of the `blobs` table, as it stands on disk (little endian). */
struct store_entry {
	uint64_t size : STORE_SIZE_BITS;
	/* Compressed (pack.c): the bytes of its record's payload by 8, rounded up. 0: it stands as it is. */
	uint64_t packed : 64 - STORE_SIZE_BITS;
	uint64_t used_ms;  /* its place in the `age` table */
	uint64_t lease_ms; /* given when it was stored; later ones are in the lease log */
	uint32_t segment;  /* 0: a file of its own, or a recipe */
	uint32_t offset;   /* of its record in the segment; of a file: the epoch it was written in */
};
/* The epoch of files that were synced before they were published. */
#define STORE_SYNCED UINT32_MAX
/* In the place of an epoch: no file, but a list of chunks, which are blobs themselves (recipe.c). */
#define STORE_RECIPE (UINT32_MAX - 1)

_Static_assert(sizeof(struct store_entry) == 32, "this is the format on disk");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are stored little endian");

/* Sums over all blobs in the index; kept in the `meta` table. */
struct store_totals {
	uint64_t blobs, bytes, large_files, large_disk_bytes;
	uint64_t quarantined, evicted_blobs, evicted_bytes;
};

/* The log up to here is in the index. */
struct store_position {
	uint32_t segment, offset;
};

enum { STORE_RECORD_TABLES = 4 };

struct store_index {
	MDB_env *env;
	MDB_dbi blobs, age, sums, segments, doomed, meta, seen, records[STORE_RECORD_TABLES];
	pthread_mutex_t readers_lock; /* guards: idle, idle_count */
	MDB_txn *idle[64];            /* reset read transactions for use again */
	unsigned idle_count;
	uint64_t allocated; /* bytes of the file that have blocks; the keeper's */
	void *map;          /* the file in memory, as LMDB reads it; NULL: not known */
	size_t map_size;
	uint32_t reads; /* atomic; ended since the start */
};

bool store_mdb_error(struct croft_error *err, int code, const char *what);
bool store_index_open(struct store_index *index, int dirfd, const char *path, bool read_only,
	struct croft_error *err);
void store_index_close(struct store_index *index);
/* Its pages and what is set aside for it. */
uint64_t store_index_disk_bytes(const struct store_index *index);
/* Sets blocks of the disk aside for the index, so that it can still be changed (and blobs be evicted)
 * when the disk is full. */
bool store_index_set_aside(struct store_index *index, uint64_t bytes, struct croft_error *err);

/* Lets go of pages that are mapped when these are many. They stay in the page cache as long as it likes, and
 * are not counted as this process's any more. */
void store_index_trim(struct store_index *index);

MDB_txn *store_read_begin(struct store_index *index, struct croft_error *err);
void store_read_end(struct store_index *index, MDB_txn *txn);
/* 1 found, 0 not there, -1 error */
int store_index_get(struct store_index *index, MDB_txn *txn, const uint8_t *hash,
	struct store_entry *entry, struct croft_error *err);
/* Any table; the value lives as long as the transaction does. */
int store_table_get(MDB_txn *txn, MDB_dbi table, const void *key, size_t key_size,
	struct croft_slice *value, struct croft_error *err);
bool store_table_put(MDB_txn *txn, MDB_dbi table, const void *key, size_t key_size,
	const void *value, size_t value_size, struct croft_error *err);
/* One that is not there is fine. */
bool store_table_delete(MDB_txn *txn, MDB_dbi table, const void *key, size_t key_size,
	struct croft_error *err);

/* Blobs in the index. Both keep `age` in step and hand out what stood there before (segment 0 and
 * size 0: nothing). */
bool store_index_put(struct store_index *index, MDB_txn *txn, const uint8_t *hash,
	const struct store_entry *entry, struct croft_slice sums, struct store_entry *old,
	struct croft_error *err);
bool store_index_remove(struct store_index *index, MDB_txn *txn, const uint8_t *hash,
	struct store_entry *old, struct croft_error *err);

/* A malloc'ed copy of the bytes. */
static inline struct croft_slice store_copy(struct croft_slice bytes)
{
	void *copy = croft_alloc(bytes.size);
	memcpy(copy, bytes.data, bytes.size);
	return CROFT_SLICE(copy, bytes.size);
}

/* Hashes ------------------------------------------------------------------------------------ */

/* The part of a hash that memory is keyed with. Two blobs of the same key share a lease, which does
 * no harm. */
static inline uint64_t store_key(const uint8_t *hash)
{
	uint64_t key;
	memcpy(&key, hash, sizeof(key));
	return key ? key : 1;
}

/* Activity: what happened to blobs lately (activity.c) ----------------------------------------- */

struct store_active {
	uint64_t key; /* 0: a free slot */
	uint64_t used_ms, lease_ms;
	uint32_t pins;
	uint32_t unsaved; /* used_ms is newer than the index */
};

struct store_activity {
	struct store_active *slots; /* open addressing; a power of two of them */
	size_t count, room;
	uint64_t seed;
};

void store_activity_init(struct store_activity *activity, uint64_t seed);
void store_activity_finish(struct store_activity *activity);
struct store_active *store_activity_find(const struct store_activity *activity, uint64_t key);
/* Makes it when it is not there. Valid until the next call. */
struct store_active *store_activity_get(struct store_activity *activity, uint64_t key);
/* Forgets the saved ones that are neither pinned nor leased past `now_ms`. */
void store_activity_sweep(struct store_activity *activity, uint64_t now_ms);

/* Pending: what the index does not say yet (pending.c) ------------------------------------------ */

enum store_pending_state {
	STORE_WRITING, /* being appended to the log: the index still decides */
	STORE_PRESENT, /* entry says where */
	STORE_GONE,    /* not there any more; nobody may store it anew until that is done */
};

struct store_pending {
	struct store_pending *next;
	uint8_t hash[CROFT_HASH_SIZE];
	enum store_pending_state state;
	bool evicted;    /* GONE: by eviction, counted as such */
	bool rewrite;    /* PRESENT: the totals have it already */
	uint64_t serial; /* changes with every change */
	struct store_entry entry;
	struct croft_slice sums; /* of a large blob; owned */
};

struct store_pending_table {
	struct store_pending **buckets;
	size_t count, room, settled; /* settled: those not WRITING */
	uint64_t seed, serial;
};

void store_pending_init(struct store_pending_table *table, uint64_t seed);
void store_pending_finish(struct store_pending_table *table);
struct store_pending *store_pending_find(const struct store_pending_table *table,
	const uint8_t *hash);
/* Adds or changes. Takes over `sums`. */
struct store_pending *store_pending_set(struct store_pending_table *table, const uint8_t *hash,
	enum store_pending_state state, const struct store_entry *entry, struct croft_slice sums);
void store_pending_remove(struct store_pending_table *table, const uint8_t *hash);

/* Segments (segment.c) ------------------------------------------------------------------------- */

struct store_segment {
	uint32_t number;
	int fd;
	uint32_t size; /* where the next record goes; the file may be longer by zeros */
	uint32_t live; /* bytes of records that the index points at */
	unsigned refs; /* readers; the list's own is not counted */
	bool removed;  /* out of the list: closed with the last reader */
	bool stuck;    /* could not be emptied: not tried again */
};

struct store_segments {
	struct store_segment **items; /* by number */
	size_t count, room;
};

/* As it stands in the file, little endian. */
struct store_record {
	uint32_t magic, kind;
	uint8_t hash[CROFT_HASH_SIZE];
	uint64_t size;         /* of the blob */
	uint32_t payload_size; /* that follow; BLOB: fewer than size when they are compressed */
	uint32_t segment;      /* this one's number: no other segment's bytes are taken for a record */
	uint64_t checksum;     /* XXH3 of the payload, seeded with the XXH3 of what is above */
};
_Static_assert(sizeof(struct store_record) == STORE_HEADER, "this is the format on disk");

enum { STORE_RECORD_BLOB = 1, STORE_RECORD_LARGE = 2, STORE_RECORD_RECIPE = 3 };

static inline uint64_t store_record_bytes(uint64_t payload_size)
{
	return STORE_HEADER + ((payload_size + 7) & ~(uint64_t)7);
}
static inline bool store_is_recipe(const struct store_entry *entry)
{
	return entry->segment == 0 && entry->offset == STORE_RECIPE;
}
static inline bool store_is_file(const struct store_entry *entry)
{
	return entry->segment == 0 && entry->offset != STORE_RECIPE;
}
/* A recipe's chunks are counted for themselves. */
static inline uint64_t store_entry_bytes(const struct store_entry *entry)
{
	return store_is_recipe(entry) ? 0 : entry->size;
}
/* Of a record; up to 7 more than there are of one that is packed, but not more than there is room. */
static inline uint64_t store_payload_bytes(const struct store_entry *entry)
{
	return entry->packed ? 8 * (uint64_t)entry->packed : entry->size;
}
static inline uint64_t store_packed_units(uint64_t payload_size)
{
	return (payload_size + 7) / 8;
}
static inline uint64_t store_entry_disk_bytes(const struct store_entry *entry)
{
	return entry->segment ? store_record_bytes(store_payload_bytes(entry))
						  : (store_entry_bytes(entry) + STORE_PAGE - 1) & ~(uint64_t)(STORE_PAGE - 1);
}

void store_record_fill(struct store_record *record, uint32_t kind,
	const struct croft_digest *digest, uint32_t segment, struct croft_slice payload);
/* Header and payload belong together and to this segment. */
bool store_record_check(const struct store_record *record, uint32_t segment, const void *payload);

/* The file's name below segments/. */
void store_segment_name(uint32_t number, char name[16]);
struct store_segment *store_segment_find(const struct store_segments *segments, uint32_t number);
struct store_segment *store_segment_add(struct store_segments *segments, uint32_t number, int fd);
/* `lock` held; may close a file. */
void store_segment_unref(struct croft_store *store, struct store_segment *segment);
/* Out of the list and unlinked; its bytes count until the last reader is gone. `lock` held. */
void store_segment_remove(struct croft_store *store, struct store_segment *segment);

/* The same, of a record that stays where it is: its payload is read in small pieces. */
bool store_record_check_in_place(const struct store_record *record, const struct store_segment *segment, uint32_t offset);

/* A blob in the open segment of which nobody knows before it is synced; in the pending table it is
 * STORE_WRITING. */
struct store_unsynced {
	uint8_t hash[CROFT_HASH_SIZE];
	struct store_entry entry;
};

enum { STORE_LATE_PARTS = 256 };

/* The store ------------------------------------------------------------------------------------- */

struct croft_store {
	struct croft_store_config config;
	char *path;
	int root_fd, segments_fd, large_fd, temporary_fd, quarantine_fd, lock_fd;
	uint32_t segment_limit; /* bytes of a segment */
	uint32_t epoch;         /* grows with every start after which unsynced files may be wrong */
	uint64_t clock_ms, opened_ns; /* wall clock at opening; it only goes forward from there */
	struct store_index index;

	pthread_mutex_t lock; /* guards: all below, but for what is said to be the keeper's */
	pthread_cond_t changed; /* budget, pending, log: something may go on */
	struct store_activity activity;
	struct store_pending_table pending;
	struct store_segments segments;
	/* Changes whenever something stops being where it was: an answer from the index that was read
	 * before is to be asked for again. */
	uint64_t generation;

	struct {
		struct store_append *head, **tail;
		bool writing;
		struct store_segment *open; /* the last of segments; NULL before the first record */
		uint32_t last;              /* the highest segment number ever used */
		uint32_t zeroed;            /* the open segment is filled with zeros up to here */
		uint32_t synced;            /* of the open segment: what stands behind it is `unsynced` */
		struct store_unsynced *unsynced;
		size_t unsynced_count, unsynced_room;
		bool renamed[256];          /* directories of large/ that changed: synced before a checkpoint */
	} log;

	/* Records that wait to be written: one of those who wait commits for all. */
	struct {
		struct store_record_write *first, **last;
		bool writing;
		pthread_cond_t done;
	} records;

	/* What was seen, and waits to be noted; likewise (seen.c). */
	struct {
		struct store_seen_write *first, **last;
		bool writing;
		pthread_cond_t written;
	} seen;

	/* Records that the index does not have yet; their callers' logs do (late.c). */
	struct {
		/* By the hash of the key and, as the size, the table; a map for each first byte. */
		struct croft_digest_map *parts[STORE_LATE_PARTS];
		TAILQ_HEAD(, croft_late_record) order; /* as they were published */
		size_t count, next_part;
		uint64_t bytes, published; /* published: how many ever were */
		uint64_t due_ns;           /* when some are to be written; 0: there are none */
		pthread_mutex_t writing;   /* taken before `lock`: one writes at a time */
	} late;

	uint64_t next_temporary;
	struct store_totals totals; /* of index and pending */
	uint64_t segment_bytes;     /* of all open segment files */
	uint64_t reserved_bytes, reserved_inodes;
	uint64_t index_bytes, quarantine_bytes, quarantine_files;
	uint64_t budget_bytes, budget_inodes;
	uint64_t disk_bytes; /* what could be used as the disk was at the last look */

	struct store_leases *leases; /* see lease.c; NULL: read-only */
	struct store_closures *closures; /* see node.c */
	uint64_t damage; /* counts what was found bad: what was known to be complete may not be */

	struct {
		pthread_t thread;
		pthread_cond_t wake;
		bool running, stop;
	} scrub;

	struct {
		pthread_t thread;
		pthread_cond_t wake;
		bool running, stop;
		uint64_t asked, done; /* checkpoints wanted and made */
		bool collect;         /* somebody waits for an eviction down to… */
		uint64_t collect_bytes;
		uint64_t want_bytes, want_inodes; /* that writers wait for */
		bool look;              /* somebody waits for a look at the disk */
		uint64_t looked_ns;     /* when there was the last for that reason */
		uint64_t barren_ns; /* when the last round began that could not free enough; 0: none */
		struct croft_error failure;       /* of the last checkpoint; OK when it went well */
		uint64_t first_ns;                /* since when something is pending; keeper's */
		uint64_t swept_ms;                /* keeper's */
		struct store_position position;   /* keeper's: as in the index */
		uint8_t (*unlinked)[CROFT_HASH_SIZE]; /* keeper's: doomed files that are gone */
		size_t unlinked_count;
	} keeper;
};

uint64_t store_now_ms(const struct croft_store *store);
bool store_not_found(const struct croft_digest *digest, struct croft_error *err);

/* Disk bytes that count against the budget. `lock` held. */
uint64_t store_used_bytes(const struct croft_store *store);
uint64_t store_used_inodes(const struct croft_store *store);
/* What they may come to. `lock` held. */
uint64_t store_limit_bytes(const struct croft_store *store);
/* Asks how much room the disk has; sets some of it aside for the index. The keeper's. */
void store_look_at_disk(struct croft_store *store);
/* Formats that much of the state that changes at start and end only. */
bool store_put_state(struct croft_store *store, MDB_txn *txn, uint32_t clean,
	struct croft_error *err);
bool store_is_no_room(const struct croft_error *err);
/* Room for a blob, for which others may have to go; RESOURCE_EXHAUSTED. `lock` not held. */
bool store_reserve(struct croft_store *store, uint64_t bytes, uint64_t inodes,
	struct croft_error *err);
void store_unreserve(struct croft_store *store, uint64_t bytes, uint64_t inodes);

/* Finding (find.c) ------------------------------------------------------------------------------ */

/* What is done to a blob in the same step as finding it, so that nothing comes between. */
enum store_grip {
	STORE_LOOK,
	STORE_TOUCH, /* used now */
	STORE_LEASE, /* used now and leased */
	STORE_PIN,   /* not evicted until it is unpinned */
	STORE_OPEN,  /* used now and pinned */
};

/* found[i] tells; a digest of the right hash and a wrong size is not found. until_ms: of leases. With
 * LOOK, TOUCH and LEASE a recipe is found only with all of its chunks, which share its fate; with
 * PIN the caller sees to them: recipes[i] (else NULL) tells which are such. */
bool store_find_parts(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum store_grip grip, uint64_t until_ms, bool *found, bool *recipes, struct croft_error *err);
bool store_find_many(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum store_grip grip, uint64_t until_ms, bool *found, struct croft_error *err);
/* One, and where: its segment with a reference (NULL: large). 1, 0, -1. */
int store_find(struct croft_store *store, const struct croft_digest *digest, enum store_grip grip,
	struct store_entry *entry, struct store_segment **segment, struct croft_error *err);
/* Up to STORE_FIND_MOST at once, and where: as store_find. `err` must be OK before. */
enum { STORE_FIND_MOST = 256 };
struct store_place {
	struct store_entry entry;
	struct store_segment *segment;
};
bool store_find_places(struct croft_store *store, const struct croft_digest *digests, size_t count,
	enum store_grip grip, bool *found, struct store_place *places, struct croft_error *err);
/* Checksums of a large blob, or the chunks of a recipe (array of struct croft_digest); malloc'ed;
 * empty when it is gone by now. */
bool store_find_sums(struct croft_store *store, const uint8_t *hash, struct croft_slice *sums,
	struct croft_error *err);

/* Whether the index names a segment that is not there; such a blob is not found. */
bool store_is_lost(struct croft_store *store, const uint8_t *hash, struct store_entry *entry);

/* `lock` held. Some count as used later than they were: croft_store_prefer. */
static inline void store_use(struct store_active *active, uint64_t used_ms)
{
	if (active->used_ms < used_ms)
		active->used_ms = used_ms;
	active->unsaved = 1;
}
void store_pin(struct croft_store *store, uint64_t key);
void store_unpin(struct croft_store *store, uint64_t key);
bool store_is_protected(const struct croft_store *store, uint64_t key, uint64_t now_ms);

/* Leases (lease.c) -------------------------------------------------------------------------------- */

/* Used now and leased until `until_ms`; if it was not yet, at once until `grant_ms`, so that the next
 * to ask finds it leased for long enough. store_lease_commit must follow before anyone is told.
 * `lock` held. */
void store_lease(struct croft_store *store, uint64_t key, uint64_t until_ms, uint64_t grant_ms);
/* Whatever was leased before outlasts a restart when it returns. `lock` not held. */
void store_lease_commit(struct croft_store *store);
/* croft_store_lease_closure without that. */
bool store_lease_closure(struct croft_store *store, const struct croft_ref *refs, size_t count,
	uint64_t lease_ms, struct croft_arena *arena, struct croft_digest **missing,
	size_t *missing_count, struct croft_error *err);
bool store_leases_open(struct croft_store *store, struct croft_error *err);
void store_leases_close(struct croft_store *store);
/* Renews those of what is held, removes files that are over. */
void store_leases_sweep(struct croft_store *store);
uint64_t store_lease_bytes(const struct croft_store *store); /* `lock` held */

/* The log (log.c) ------------------------------------------------------------------------------- */

struct store_append {
	struct store_append *next;
	uint32_t kind; /* STORE_RECORD_… */
	bool move;     /* a record that is there already, from another segment */
	bool later;    /* BLOB: need not be on disk yet, and is there for nobody until the next sync */
	struct croft_digest digest;
	struct croft_slice payload; /* RECIPE: an array of struct croft_digest */
	struct store_entry entry; /* used_ms and lease_ms from the caller; the rest is filled in */
	uint64_t reserved_bytes, reserved_inodes; /* given back or turned into what is used */
	bool done, ok;
	struct croft_error err;
	struct store_record record; /* the log's own */
};
/* Appends and, in a durable store, syncs; each item says how it fared. Several callers share one
 * sync. False if any failed. All items are `later`, or none: such may still be lost by a sync that fails,
 * so whoever builds on them looks whether they are there once he has synced something behind them. */
bool store_log_append(struct croft_store *store, struct store_append *items, size_t count);
/* What is there for nobody yet is there now, or gone when the disk fails. */
void store_log_sync(struct croft_store *store);
/* Payload of a STORE_RECORD_LARGE: the temporary file's name, then the checksums. */
struct store_large_note {
	uint64_t temporary;
	uint64_t sums[];
};
void store_large_path(const uint8_t *hash, char path[80]);
void store_temporary_name(uint64_t number, char name[32]);
/* The numbers that files below `dir_fd` have for names (8 hexadecimal digits), ascending; malloc'ed. */
bool store_list_numbered(int dir_fd, uint32_t **numbers, size_t *count, struct croft_error *err);
/* Opens all segments; everything behind the position comes back into the pending table. */
bool store_replay(struct croft_store *store, struct store_position position,
	struct croft_error *err);

/* The keeper (keeper.c) -------------------------------------------------------------------------- */

bool store_keeper_start(struct croft_store *store, struct croft_error *err);
void store_keeper_stop(struct croft_store *store);
/* Waits until all that is pending now is in the index. */
bool store_flush(struct croft_store *store, struct croft_error *err);
/* Names of the `meta` table. */
#define STORE_META_FORMAT "format"
#define STORE_META_EPOCH "epoch"
#define STORE_META_CLEAN "clean" /* 1: closed in good order */
#define STORE_META_BOOT "boot"   /* the run of the machine in which it was written */
#define STORE_META_POSITION "position"
#define STORE_META_TOTALS "totals"
#define STORE_META_CLOCK "clock"
#define STORE_META_BUDGET "budget" /* of the process that wrote last */
#define STORE_META_REMOVALS "removals" /* see seen.c */
/* The keeper's own step. */
bool store_checkpoint(struct croft_store *store, struct croft_error *err);
/* Frees until the store is down to these; false when there was nothing to free. The keeper's. */
bool store_evict(struct croft_store *store, uint64_t target_bytes, uint64_t target_inodes);
/* Last uses that the index does not know yet; all of them, or those it pays to write. The
 * keeper's. */
bool store_save_uses(struct croft_store *store, bool all, struct croft_error *err);

/* A stored blob is bad: counted missing from now on, its bytes moved to quarantine/. */
void store_quarantine(struct croft_store *store, const struct croft_digest *digest,
	const struct store_entry *entry, const char *why);

/* Bytes (blob.c): pread of a whole small record, checked; `buffer` has room for it with its header. */
bool store_record_read(struct croft_store *store, const struct store_segment *segment,
	const struct croft_digest *digest, const struct store_entry *entry, void *buffer,
	struct croft_error *err);

/* Who has seen a blob that goes (seen.c), in the transaction in which it leaves the index. *removed: somebody had; then
 * the removal is to be counted in the same transaction. */
bool store_seen_remove(struct croft_store *store, MDB_txn *txn, const uint8_t *hash, bool *removed,
	struct croft_error *err);
bool store_seen_count_removal(struct croft_store *store, MDB_txn *txn, struct croft_error *err);

/* Ways in (write.c). */
/* A server's put is an answer "it is there"; a cache's is not. */
uint64_t store_put_lease_ms(const struct croft_store *store);
/* 1: it is there, and used and leased now. */
int store_is_there(struct croft_store *store, const struct croft_digest *digest,
	struct croft_error *err);
bool store_mismatch(const struct croft_digest *wanted, const struct croft_digest *got,
	struct croft_error *err);
bool store_refuse_read_only(const struct croft_store *store, struct croft_error *err);

/* A zstd frame of the bytes behind STORE_HEADER free ones, to be freed, and how long it is; NULL: not worth it,
 * and the size stays as it was. */
unsigned char *store_pack(struct croft_slice bytes, size_t *size);
/* False: they are not `size` bytes. */
bool store_unpack(struct croft_slice packed, void *bytes, size_t size);

/* Header and bytes of the blob (unpacked), checked, into the buffer; DATA_LOSS when they are not its. */
bool store_record_load(const struct store_segment *segment, const struct croft_digest *digest,
	const struct store_entry *entry, void *buffer, struct croft_error *err);
/* Whether the bytes read from where it stands are the digest's whole record. */
bool store_record_is(const struct store_segment *segment, const struct croft_digest *digest,
	const struct store_entry *entry, const void *header, const void *payload);
/* Quarantines it; false with DATA_LOSS. */
bool store_is_bad(struct croft_store *store, const struct croft_digest *digest,
	const struct store_entry *entry, const char *why, struct croft_error *err);

/* As croft_store_put_many; the digests were computed from the data just now, and the blobs are to be there
 * `later` (see struct store_append). */
bool store_put_later(struct croft_store *store, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count, struct croft_error *errors);

/* Storing by chunks (cutter.c). All that a cutter has stored stays pinned until it is destroyed. */
struct store_cutter;
struct store_cutter *store_cutter_create(struct croft_store *store, uint64_t size);
bool store_cutter_append(struct store_cutter *cutter, const unsigned char *data, size_t size,
	struct croft_error *err);
/* When all has been appended; the chunks live as long as the cutter. */
bool store_cutter_finish(struct store_cutter *cutter, const struct croft_digest **chunks,
	size_t *count, struct croft_error *err);
/* Until more comes, it does without threads and with as little memory as it can. */
void store_cutter_rest(struct store_cutter *cutter);
void store_cutter_destroy(struct store_cutter *cutter); /* NULL is fine */

/* As croft_store_get, with another grip than STORE_TOUCH. */
bool store_get(struct croft_store *store, const struct croft_digest *digest, enum store_grip grip,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err);

/* Recipes (recipe.c) ------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct croft_digest) == 40, "an array of these is a recipe on disk");

static inline bool store_is_small(const struct croft_store *store, uint64_t size)
{
	return size <= (store->config.chunked ? CROFT_CHUNK_MOST : STORE_SMALL_LIMIT);
}
/* Does to a recipe's chunks what was done to it. *complete false: they are not all there (and, with
 * STORE_PIN, none is pinned). */
bool store_recipe_grip(struct croft_store *store, const struct croft_digest *digest,
	enum store_grip grip, uint64_t until_ms, struct croft_slice *recipe, bool *complete,
	struct croft_error *err);
/* Publishes; the chunks are pinned by the caller. */
bool store_recipe_put(struct croft_store *store, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count, struct croft_error *err);
static inline size_t store_recipe_count(struct croft_slice recipe)
{
	return recipe.size / sizeof(struct croft_digest);
}

/* Checking (check.c) ------------------------------------------------------------------------------ */

/* Reads all of a stored blob and compares SHA-256 and checksums. 1: good; 0: bad, `why` says what
 * is; 2: it went meanwhile; -1: error. Nothing is changed. */
int store_check_blob(struct croft_store *store, const uint8_t *hash, const char **why,
	struct store_entry *entry, struct croft_error *err);
/* Hashes of the index in order, up to `room`, from behind `after` (NULL: the first). -1: error. */
ssize_t store_list_blobs(struct croft_store *store, const uint8_t *after,
	uint8_t (*hashes)[CROFT_HASH_SIZE], size_t room, struct croft_error *err);
bool store_machine_is_busy(const char *loadavg, unsigned processors);
bool store_scrub_start(struct croft_store *store, struct croft_error *err);
void store_scrub_stop(struct croft_store *store);

/* Records (record.c) ------------------------------------------------------------------------------ */

/* The refs of a stored value; false: it is damaged. */
/* Leases what the record names; the value as it is stored (malloc'ed), with room for it set aside: twice its size. */
bool store_record_prepare(struct croft_store *store, const struct croft_record *record, void **bytes,
	size_t *size, struct croft_error *err);
bool store_record_refs(struct croft_slice stored, struct croft_arena *arena,
	struct croft_ref **refs, size_t *count);

/* Closures (closure.c) --------------------------------------------------------------------------- */
void store_closures_init(struct croft_store *store);
void store_closures_finish(struct croft_store *store);
/* `lock` held. */
void store_closures_sweep(struct croft_store *store, uint64_t now_ms);

/* Late records (late.c) ---------------------------------------------------------------------------- */

void store_late_init(struct croft_store *store);
void store_late_finish(struct croft_store *store);
/* Some of them. */
bool store_late_step(struct croft_store *store, struct croft_error *err);
/* All that were published are in the index, and on disk, when it returns true. */
bool store_late_write(struct croft_store *store, struct croft_error *err);
/* Whether one waits under that name. */
bool store_late_has(struct croft_store *store, enum croft_record_table table, const uint8_t *hash);
/* A copy of it, as it is stored. */
bool store_late_get(struct croft_store *store, enum croft_record_table table, const uint8_t *hash,
	struct croft_arena *arena, struct croft_slice *stored);

#endif
