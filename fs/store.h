/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store: content-addressed blobs and the records that name them, on one local disk. The server
 * uses it for everything it keeps; an agent's filesystem daemon uses it as its cache.
 *
 *	struct croft_store *store = croft_store_open(
 *		&(struct croft_store_config){.path = "/var/lib/croft", .durable = true}, &err);
 *	croft_store_put(store, &digest, CROFT_SLICE(data, size), &err);
 *	croft_store_get(store, &digest, arena, &bytes, &err);
 *
 * Promises. Nothing is stored whose SHA-256 was not checked. With `durable`, what a put or commit
 * acknowledged survives a crash of the machine; without, it may be gone after one, but is never
 * wrong (every record is checksummed, and what fails the check is quarantined and counted missing).
 * The byte budget holds at every moment; nothing leased is evicted to keep it: when only leased
 * blobs are left, puts fail with RESOURCE_EXHAUSTED. A full disk gives the same and leaves all
 * readable.
 *
 * Every function may be called from any thread. One process opens a store for writing at a time
 * (a second gets FAILED_PRECONDITION naming the first's pid).
 */
#ifndef CROFT_FS_STORE_H
#define CROFT_FS_STORE_H

#include "fs/digest.h"
#include "proto/base/arena.h"

#include <sys/types.h>

struct croft_store;

struct croft_store_config {
	const char *path;
	uint64_t budget_bytes;  /* 0: 90 % of what the disk has free plus what the store holds */
	uint64_t budget_inodes; /* 0: likewise */
	uint64_t aside_from;    /* of a budget of so much or more an eighth is the caller's to use; 0: all is ours */
	uint64_t lease_ms;      /* how long an answer "it is there" stays true; 0: 30 minutes */
	bool durable;           /* sync before acknowledging; a put is leased like an answer */
	/* Blobs over CROFT_CHUNK_MOST are kept as content-defined chunks (fs/chunker.h), which they share
	 * with others; no blob is a file of its own. */
	bool chunked;
	/* What was not used for so long is compressed when it is moved to other files; 0: an hour. */
	uint64_t cold_ms;
	bool read_only;         /* for tools beside a running server: no writer lock, no eviction */
	/* Bytes a second that a background thread reads and checks, round and round; 0: none. While the
	 * machine is busy, as `scrub_busy` says (NULL: its processors), it waits, up to 2 s for each MiB. */
	uint64_t scrub_bytes_per_second;
	bool (*scrub_busy)(void *user);
	void *scrub_user;
};

struct croft_store *croft_store_open(const struct croft_store_config *config,
	struct croft_error *err);
void croft_store_close(struct croft_store *store);

/* Blobs ------------------------------------------------------------------------------------- */

/* Whole blobs in memory. DATA_LOSS when a stored copy turned out bad (it is quarantined: from then
 * on NOT_FOUND); NOT_FOUND names the digest. Putting checks the digest: INVALID_ARGUMENT. */
bool croft_store_put(struct croft_store *store, const struct croft_digest *digest,
	struct croft_slice data, struct croft_error *err);
bool croft_store_get(struct croft_store *store, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err);

/* Many at once, in fewer look-ups and reads; errors[i] says how each fared. False if any failed. */
bool croft_store_get_many(struct croft_store *store, const struct croft_digest *digests,
	size_t count, struct croft_arena *arena, struct croft_slice *data, struct croft_error *errors);

/* The same, each to where it is wanted: `room` is asked once for each digest, in their order, and told
 * whether it is there; if so it says where the bytes go, which are read some time before the call returns. What is
 * there and cannot be read has an error, and anything in its room. */
typedef void *croft_store_room(void *user, size_t index, const struct croft_error *err);
bool croft_store_read_many(struct croft_store *store, const struct croft_digest *digests, size_t count,
	croft_store_room *room, void *user, struct croft_error *errors);

/* Many at once in one commit; errors[i] says how each fared. False if any failed. */
bool croft_store_put_many(struct croft_store *store, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count, struct croft_error *errors);

/* missing[i] = true for each digest that is not there; extends the lease of those that are, before
 * it returns. The empty blob is never missing. */
bool croft_store_find_missing(struct croft_store *store, const struct croft_digest *digests,
	size_t count, bool *missing, struct croft_error *err);

/* Only looks: what is there is neither used nor leased by it. */
bool croft_store_has(struct croft_store *store, const struct croft_digest *digests, size_t count,
	bool *there, struct croft_error *err);

/* The digest of the blob that has this hash, for those who are asked for a hash alone; NOT_FOUND. */
bool croft_store_find_hash(struct croft_store *store, const uint8_t hash[CROFT_HASH_SIZE],
	struct croft_digest *digest, struct croft_error *err);

/* Adds a blob piece by piece; nothing is visible before commit. */
struct croft_store_writer;
struct croft_store_writer *croft_store_write(struct croft_store *store,
	const struct croft_digest *digest, struct croft_error *err);
bool croft_store_writer_append(struct croft_store_writer *writer, const void *data, size_t size,
	struct croft_error *err);
uint64_t croft_store_writer_size(const struct croft_store_writer *writer);
/* More may be long in coming: threads and most of the memory are given back until then. */
void croft_store_writer_rest(struct croft_store_writer *writer);
/* Verifies, makes durable, publishes. The writer is gone after either of these. Committing what
 * someone else has stored meanwhile succeeds. */
bool croft_store_writer_commit(struct croft_store_writer *writer, struct croft_error *err);
void croft_store_writer_abort(struct croft_store_writer *writer); /* NULL is fine */

/* An open blob cannot be evicted or compacted away from under its user. */
struct croft_store_blob;
struct croft_store_blob *croft_store_open_blob(struct croft_store *store,
	const struct croft_digest *digest, struct croft_error *err);
/* Up to size bytes; fewer only at the end of the blob; -1 on error (the part that is returned was
 * checked against its record checksum). */
ssize_t croft_store_blob_read(struct croft_store_blob *blob, void *buffer, size_t size,
	uint64_t offset, struct croft_error *err);
/* How many bytes from `offset` on, `most` at most, are best read at once: to the end of what stands in one place, and of
 * what else fits wholly. */
size_t croft_store_blob_run(const struct croft_store_blob *blob, uint64_t offset, size_t most);
/* The file that holds the bytes and where they start in it, for sendfile and passthrough; borrowed.
 * -1 when the blob is kept as chunks. One that is compressed is unpacked into a file in memory. */
int croft_store_blob_fd(struct croft_store_blob *blob, uint64_t *offset);
/* The same for the bytes from `offset` on, as many as stand in one place; also of blobs kept as chunks. The
 * file is borrowed until the next call for this blob, which is one thread's at a time. */
int croft_store_blob_extent(struct croft_store_blob *blob, uint64_t offset, uint64_t *file_offset,
	uint64_t *size);
/* Bytes that are sent from their file are not read by croft_store_blob_read, so these are to be checked first:
 * croft_store_blob_check does it for an extent, by reading all of the chunk that it is of; DATA_LOSS. What was
 * checked since the blob was opened is not checked again. */
bool croft_store_blob_checked(const struct croft_store_blob *blob, uint64_t offset);
bool croft_store_blob_check(struct croft_store_blob *blob, uint64_t offset, struct croft_error *err);
void croft_store_blob_close(struct croft_store_blob *blob);

/* Chunks -------------------------------------------------------------------------------------- */

/* How a blob was put together, in the arena; its lease and those of the chunks are extended.
 * NOT_FOUND when it is not there, FAILED_PRECONDITION when it is there in one piece. */
bool croft_store_get_recipe(struct croft_store *store, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_digest **chunks, size_t *count, struct croft_error *err);
/* Adds the blob that these chunks (blobs of the store) are when put together, after checking that they
 * are: INVALID_ARGUMENT if not; NOT_FOUND names a chunk that is not there. One that is there already
 * stays as it is. Where the store is not chunked, or the chunks are not of about its own size, their
 * bytes are put as croft_store_write would. */
bool croft_store_put_recipe(struct croft_store *store, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count, struct croft_error *err);

/* Leases ------------------------------------------------------------------------------------ */

/* What a closure starts from. */
enum croft_ref_kind {
	CROFT_REF_BLOB,      /* the blob alone */
	CROFT_REF_DIRECTORY, /* a Directory message and, below it, everything */
	CROFT_REF_TREE,      /* a Tree message and every file that it names */
};
struct croft_ref {
	enum croft_ref_kind kind;
	struct croft_digest digest;
};

/* All that the refs reach is there and leased until lease_ms from now, or nothing changes and
 * missing[] (in the arena) lists what is not there; false only for errors. lease_ms 0: the
 * store's. Malformed Directory messages are INVALID_ARGUMENT. Repeats are cheap: complete subtrees
 * are remembered for as long as their lease holds. */
bool croft_store_lease_closure(struct croft_store *store, const struct croft_ref *refs,
	size_t count, uint64_t lease_ms, struct croft_arena *arena,
	struct croft_digest **missing, size_t *missing_count, struct croft_error *err);

/* In the order of eviction the closure counts as used so much later than now, if it is complete: what was used
 * meanwhile goes first. It is not held back by it where all else has gone. A crash may undo what is minutes old. */
#define CROFT_STORE_PREFER_MS (UINT64_C(720) * 3600 * 1000) /* no more than that */
bool croft_store_prefer(struct croft_store *store, const struct croft_ref *refs, size_t count, uint64_t later_ms,
	struct croft_error *err);

/* Holds a closure (found complete by the call above) with no end in time, until released: for
 * queued and running operations. Kept in memory; whoever needs it after a restart takes it anew. */
struct croft_hold;
struct croft_hold *croft_store_hold(struct croft_store *store, const struct croft_ref *refs,
	size_t count, struct croft_error *err);
void croft_store_release(struct croft_hold *hold);

/* Records: small values that keep closures alive -------------------------------------------- */

enum croft_record_table {
	CROFT_RECORD_ACTION,   /* key: instance name, NUL, action hash; value: ActionResult */
	CROFT_RECORD_FAILURE,  /* the same, for results that are remembered but not served */
	CROFT_RECORD_ASSET,    /* key: instance, URI and qualifiers; value: as the asset service likes */
	CROFT_RECORD_PROFILE,  /* key: kind of job; value: AccessProfile */
};

/* Replaces. expires_unix_ns 0: never by time. The refs must be complete: FAILED_PRECONDITION. */
bool croft_store_record_put(struct croft_store *store, enum croft_record_table table,
	struct croft_slice key, struct croft_slice value, const struct croft_ref *refs, size_t count,
	int64_t expires_unix_ns, struct croft_error *err);
/* Many of them by one commit; each says what became of it. */
struct croft_record {
	enum croft_record_table table;
	struct croft_slice key, value;
	const struct croft_ref *refs;
	size_t ref_count;
	int64_t expires_unix_ns;
	bool ok;
	struct croft_error failed; /* why, if not */
};
void croft_store_record_put_many(
	struct croft_store *store, struct croft_record *records, size_t count);
/* Records that their caller has in a log of its own, so that nobody waits for this store's disk. `prepare` checks and
 * leases as a put does; those that are not ok have no late record. `publish`, once the caller's log is on disk: from
 * then on the record is found, and soon after it is on disk here, too. When `indexed` has reached the number that
 * publish gave the caller's log may forget it; after a crash before that the caller puts it again, if it is not there. */
struct croft_late_record;
void croft_store_record_prepare(struct croft_store *store, struct croft_record *records, size_t count,
	struct croft_late_record **late);
uint64_t croft_store_record_publish(struct croft_store *store, struct croft_late_record *late);
uint64_t croft_store_records_indexed(struct croft_store *store);
/* Instead of publishing it; takes NULL. */
void croft_store_record_drop(struct croft_store *store, struct croft_late_record *late);
/* Whether or not all that it names is there. */
bool croft_store_record_has(
	struct croft_store *store, enum croft_record_table table, struct croft_slice key);
/* The value in the arena, and its whole closure present and leased in the same step; NOT_FOUND when
 * there is no such record, or not all of what it names is there. */
bool croft_store_record_get(struct croft_store *store, enum croft_record_table table,
	struct croft_slice key, struct croft_arena *arena, struct croft_slice *value,
	struct croft_error *err);
/* Shows the visitor those of a table that have not expired, in no order, whether or not all that they name is there;
 * what it sees is valid until it returns, and it may not call the store. Records that come or go meanwhile may be seen. */
typedef void croft_record_visit(void *user, struct croft_slice key, struct croft_slice value);
bool croft_store_record_walk(struct croft_store *store, enum croft_record_table table,
	croft_record_visit *visit, void *user, struct croft_error *err);
bool croft_store_record_delete(struct croft_store *store, enum croft_record_table table,
	struct croft_slice key, struct croft_error *err);

/* Care ---------------------------------------------------------------------------------------- */

struct croft_store_stat {
	uint64_t blobs, bytes, disk_bytes, budget_bytes;
	uint64_t leased_blobs, records_action, records_asset, quarantined;
	uint64_t evicted_blobs, evicted_bytes;
};
void croft_store_stat(struct croft_store *store, struct croft_store_stat *stat);

/* Evicts the least recently used down to target_bytes (0: the budget), sparing what is leased. */
bool croft_store_collect(struct croft_store *store, uint64_t target_bytes, uint64_t *freed_bytes,
	uint64_t *freed_blobs, struct croft_error *err);

struct croft_fsck_report {
	uint64_t blobs_checked, bytes_checked, bad_blobs, dangling_records, orphans, repaired;
};
/* For a store that nobody has open and whose index is damaged (opening it or fsck fails with DATA_LOSS): that becomes
 * index.damaged/, and the next to open the store makes a new one of what the segments hold. Records (action results,
 * assets, who may see what) are lost. */
bool croft_store_set_index_aside(const char *path, struct croft_error *err);
/* Reads every blob and checks every SHA-256 and every record's closure (of a store opened read-only:
 * blobs alone). progress may be NULL. */
bool croft_store_fsck(struct croft_store *store, bool repair,
	void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes), void *user,
	struct croft_fsck_report *report, struct croft_error *err);

#endif
