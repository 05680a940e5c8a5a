/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records. LMDB's keys are short, so a record's key is the SHA-256 of what the caller calls key, and
 * the value is: struct head, the refs, the caller's key, the caller's value.
 */
#include "fs/store/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <stdlib.h>

enum {
	RECORD_MOST = 64 << 20,
	WALK_AT_ONCE = 1024, /* by one transaction: while it is open, no page that it sees is used again */
};

struct head {
	int64_t expires_unix_ns; /* 0: never */
	uint64_t stored_ms;
	uint32_t ref_count, key_size;
};
struct stored_ref {
	uint32_t kind, reserved;
	uint64_t size;
	uint8_t hash[CROFT_HASH_SIZE];
};
_Static_assert(sizeof(struct head) == 24 && sizeof(struct stored_ref) == 48,
	"this is the format on disk");

static void *lay_out(struct croft_store *store, struct croft_slice key, struct croft_slice value,
	const struct croft_ref *refs, size_t count, int64_t expires_unix_ns, size_t *size)
{
	struct head head = {expires_unix_ns, store_now_ms(store), (uint32_t)count, (uint32_t)key.size};
	*size = sizeof(head) + count * sizeof(struct stored_ref) + key.size + value.size;
	unsigned char *bytes = croft_alloc(*size), *at = bytes;
	memcpy(at, &head, sizeof(head));
	at += sizeof(head);
	for (size_t i = 0; i < count; i++, at += sizeof(struct stored_ref)) {
		struct stored_ref ref = {.kind = refs[i].kind, .size = refs[i].digest.size_bytes};
		memcpy(ref.hash, refs[i].digest.hash, CROFT_HASH_SIZE);
		memcpy(at, &ref, sizeof(ref));
	}
	if (key.size)
		memcpy(at, key.data, key.size);
	if (value.size)
		memcpy(at + key.size, value.data, value.size);
	return bytes;
}

/* The parts of a stored value: the refs go to the arena, the rest is borrowed. */
static bool take_apart(struct croft_slice stored, struct croft_arena *arena, struct head *head,
	struct croft_ref **refs, struct croft_slice *key, struct croft_slice *value)
{
	if (stored.size < sizeof(*head))
		return false;
	const unsigned char *at = stored.data;
	memcpy(head, at, sizeof(*head));
	at += sizeof(*head);
	uint64_t fixed =
		sizeof(*head) + (uint64_t)head->ref_count * sizeof(struct stored_ref) + head->key_size;
	if (stored.size < fixed)
		return false;
	*refs = croft_arena_array(arena, head->ref_count + 1, sizeof(**refs));
	for (uint32_t i = 0; i < head->ref_count; i++, at += sizeof(struct stored_ref)) {
		struct stored_ref ref;
		memcpy(&ref, at, sizeof(ref));
		(*refs)[i].kind = ref.kind;
		(*refs)[i].digest.size_bytes = ref.size;
		memcpy((*refs)[i].digest.hash, ref.hash, CROFT_HASH_SIZE);
	}
	*key = CROFT_SLICE(at, head->key_size);
	*value = CROFT_SLICE(at + head->key_size, stored.size - fixed);
	return true;
}

bool store_record_refs(struct croft_slice stored, struct croft_arena *arena,
	struct croft_ref **refs, size_t *count)
{
	struct head head;
	struct croft_slice key, value;
	if (!take_apart(stored, arena, &head, refs, &key, &value))
		return false;
	*count = head.ref_count;
	return true;
}

static bool check_table(const struct croft_store *store, enum croft_record_table table, bool write,
	struct croft_error *err)
{
	if ((unsigned)table >= STORE_RECORD_TABLES)
		return croft_error_set(err, CROFT_INTERNAL, "there is no record table %d", (int)table);
	return !write || !store->config.read_only ||
		   croft_error_set(
			   err, CROFT_FAILED_PRECONDITION, "%s was opened read-only", store->path);
}

/* Writing: those who come while a commit is under way share the next one ------------------------- */

struct store_record_write {
	struct store_record_write *next;
	enum croft_record_table table;
	const uint8_t *hash;
	const void *bytes; /* NULL: delete */
	size_t size;
	bool done, ok;
	struct croft_error err;
};

static bool apply(struct croft_store *store, MDB_txn *txn, const struct store_record_write *write,
	struct croft_error *err)
{
	MDB_dbi dbi = store->index.records[write->table];
	return write->bytes
		? store_table_put(txn, dbi, write->hash, CROFT_HASH_SIZE, write->bytes, write->size, err)
		: store_table_delete(txn, dbi, write->hash, CROFT_HASH_SIZE, err);
}

/* From `first` up to `end`, in one transaction. */
static bool commit(struct croft_store *store, const struct store_record_write *first,
	const struct store_record_write *end, struct croft_error *err)
{
	MDB_txn *txn;
	int code = mdb_txn_begin(store->index.env, NULL, 0, &txn);
	if (code)
		return store_mdb_error(err, code, "writing a record");
	for (const struct store_record_write *write = first; write != end; write = write->next)
		if (!apply(store, txn, write, err)) {
			mdb_txn_abort(txn);
			return false;
		}
	code = mdb_txn_commit(txn);
	return code == 0 || store_mdb_error(err, code, "committing a record");
}

/* When they cannot be written together each says for itself why. */
static void commit_all(struct croft_store *store, struct store_record_write *first)
{
	struct croft_error err = CROFT_ERROR_INIT;
	bool together = commit(store, first, NULL, &err);
	for (struct store_record_write *write = first; write; write = write->next) {
		write->err = err;
		write->ok = together || (first->next && commit(store, write, write->next, &write->err));
	}
}

/* One that was published before must not be written over what comes now. */
static bool write_published(struct croft_store *store, const struct store_record_write *writes, size_t count,
	struct croft_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (store_late_has(store, writes[i].table, writes[i].hash))
			return store_late_write(store, err);
	return true;
}

/* Returns when they are on disk, or failed. */
static void write_records(struct croft_store *store, struct store_record_write *writes, size_t count)
{
	if (count == 0)
		return;
	struct croft_error err = CROFT_ERROR_INIT;
	if (!write_published(store, writes, count, &err)) {
		for (size_t i = 0; i < count; i++)
			writes[i].err = err;
		return;
	}
	pthread_mutex_lock(&store->lock);
	for (size_t i = 0; i < count; i++) {
		*store->records.last = &writes[i];
		store->records.last = &writes[i].next;
	}
	while (!writes[count - 1].done) {
		if (store->records.writing) {
			pthread_cond_wait(&store->records.done, &store->lock);
			continue;
		}
		struct store_record_write *first = store->records.first;
		store->records.first = NULL;
		store->records.last = &store->records.first;
		store->records.writing = true;
		pthread_mutex_unlock(&store->lock);
		commit_all(store, first);
		pthread_mutex_lock(&store->lock);
		store->records.writing = false;
		for (struct store_record_write *next; first; first = next) {
			next = first->next; /* its owner may leave once it is done */
			first->done = true;
		}
		pthread_cond_broadcast(&store->records.done);
	}
	pthread_mutex_unlock(&store->lock);
}

bool store_record_prepare(struct croft_store *store, const struct croft_record *record, void **bytes,
	size_t *size, struct croft_error *err)
{
	size_t count = record->ref_count;
	if (!check_table(store, record->table, true, err))
		return false;
	if (record->key.size > RECORD_MOST || record->value.size > RECORD_MOST ||
		count > RECORD_MOST / sizeof(struct stored_ref))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "a record of more than %d bytes",
			(int)RECORD_MOST);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest *missing;
	size_t missing_count;
	if (!store_lease_closure(
			store, record->refs, count, 0, arena, &missing, &missing_count, err))
		return false;
	if (missing_count) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(&missing[0], '/', text);
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the record names %zu blobs that are not in the store, the first is %s", missing_count,
			text);
	}
	*bytes = lay_out(
		store, record->key, record->value, record->refs, count, record->expires_unix_ns, size);
	if (store_reserve(store, 2 * *size, 0, err))
		return true;
	free(*bytes);
	return false;
}

void croft_store_record_put_many(
	struct croft_store *store, struct croft_record *records, size_t count)
{
	CROFT_CLEANUP_FREE struct store_record_write *writes = croft_array(count + 1, sizeof(*writes));
	CROFT_CLEANUP_FREE struct croft_digest *names = croft_array(count + 1, sizeof(*names));
	CROFT_CLEANUP_FREE struct croft_record **written = croft_array(count + 1, sizeof(*written));
	size_t ready = 0;
	for (size_t i = 0; i < count; i++) {
		struct croft_record *record = &records[i];
		void *bytes = NULL;
		size_t size = 0;
		record->failed = (struct croft_error)CROFT_ERROR_INIT;
		record->ok = store_record_prepare(store, record, &bytes, &size, &record->failed);
		if (!record->ok)
			continue;
		names[ready] = croft_digest_of(record->key.data, record->key.size);
		writes[ready] = (struct store_record_write){.table = record->table,
			.hash = names[ready].hash, .bytes = bytes, .size = size};
		written[ready++] = record;
	}
	if (ready)
		store_lease_commit(store);
	write_records(store, writes, ready);
	for (size_t i = 0; i < ready; i++) {
		written[i]->ok = writes[i].ok;
		written[i]->failed = writes[i].err;
		store_unreserve(store, 2 * writes[i].size, 0);
		free((void *)writes[i].bytes);
	}
}

bool croft_store_record_put(struct croft_store *store, enum croft_record_table table,
	struct croft_slice key, struct croft_slice value, const struct croft_ref *refs, size_t count,
	int64_t expires_unix_ns, struct croft_error *err)
{
	struct croft_record record = {.table = table, .key = key, .value = value, .refs = refs,
		.ref_count = count, .expires_unix_ns = expires_unix_ns};
	croft_store_record_put_many(store, &record, 1);
	if (!record.ok && err)
		*err = record.failed;
	return record.ok;
}

/* The value as it is stored, in the arena. 1, 0, -1: an error. */
static int find_stored(struct croft_store *store, enum croft_record_table table, const uint8_t *hash,
	struct croft_arena *arena, struct croft_slice *stored, struct croft_error *err)
{
	/* First what the index may not have: it leaves there only when the index has it. */
	if (store_late_get(store, table, hash, arena, stored))
		return 1;
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return -1;
	int found = store_table_get(txn, store->index.records[table], hash, CROFT_HASH_SIZE, stored, err);
	if (found == 1)
		*stored = CROFT_SLICE(croft_arena_copy(arena, stored->data, stored->size), stored->size);
	store_read_end(&store->index, txn);
	return found;
}

bool croft_store_record_get(struct croft_store *store, enum croft_record_table table,
	struct croft_slice key, struct croft_arena *arena, struct croft_slice *value,
	struct croft_error *err)
{
	if (!check_table(store, table, false, err))
		return false;
	struct croft_digest name = croft_digest_of(key.data, key.size);
	struct head head;
	struct croft_ref *refs;
	struct croft_slice stored, stored_key;
	int found = find_stored(store, table, name.hash, arena, &stored, err);
	if (found < 0)
		return false;
	if (!found || !take_apart(stored, arena, &head, &refs, &stored_key, value) ||
		!croft_slice_equal(key, stored_key) ||
		(head.expires_unix_ns && head.expires_unix_ns <= croft_unix_ns()))
		return croft_error_set(err, CROFT_NOT_FOUND, "there is no such record");
	struct croft_digest *missing;
	size_t missing_count;
	if (!croft_store_lease_closure(
			store, refs, head.ref_count, 0, arena, &missing, &missing_count, err))
		return false;
	return missing_count == 0 ||
		   croft_error_set(err, CROFT_NOT_FOUND,
			   "%zu blobs that the record names are not in the store any more", missing_count);
}

bool croft_store_record_has(
	struct croft_store *store, enum croft_record_table table, struct croft_slice key)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest name = croft_digest_of(key.data, key.size);
	struct croft_slice stored;
	return check_table(store, table, false, NULL) &&
		find_stored(store, table, name.hash, arena, &stored, NULL) == 1;
}

/* Up to WALK_AT_ONCE of those behind `last` (which is replaced), or the first. 1: there may be more, 0: none, -1. */
static int walk_some(struct croft_store *store, MDB_dbi table, bool begun, uint8_t last[CROFT_HASH_SIZE],
	croft_record_visit *visit, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	MDB_cursor *cursor;
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return -1;
	MDB_val name = {CROFT_HASH_SIZE, last}, stored;
	int64_t now_ns = croft_unix_ns();
	int code = mdb_cursor_open(txn, table, &cursor);
	if (code == 0) {
		code = mdb_cursor_get(cursor, &name, &stored, begun ? MDB_SET_RANGE : MDB_FIRST);
		if (code == 0 && begun && memcmp(name.mv_data, last, CROFT_HASH_SIZE) == 0)
			code = mdb_cursor_get(cursor, &name, &stored, MDB_NEXT);
		for (unsigned i = 0; code == 0 && i < WALK_AT_ONCE; i++) {
			struct head head;
			struct croft_ref *refs;
			struct croft_slice key, value;
			croft_arena_reset(arena);
			memcpy(last, name.mv_data, CROFT_HASH_SIZE);
			if (take_apart(CROFT_SLICE(stored.mv_data, stored.mv_size), arena, &head, &refs, &key, &value) &&
				(!head.expires_unix_ns || head.expires_unix_ns > now_ns))
				visit(user, key, value);
			code = mdb_cursor_get(cursor, &name, &stored, MDB_NEXT);
		}
		mdb_cursor_close(cursor);
	}
	store_read_end(&store->index, txn);
	if (code == 0 || code == MDB_NOTFOUND)
		return code == 0;
	store_mdb_error(err, code, "listing records");
	return -1;
}

bool croft_store_record_walk(struct croft_store *store, enum croft_record_table table,
	croft_record_visit *visit, void *user, struct croft_error *err)
{
	if (!check_table(store, table, false, err) ||
		(!store->config.read_only && !store_late_write(store, err)))
		return false;
	uint8_t last[CROFT_HASH_SIZE];
	int more = walk_some(store, store->index.records[table], false, last, visit, user, err);
	while (more > 0)
		more = walk_some(store, store->index.records[table], true, last, visit, user, err);
	return more == 0;
}

bool croft_store_record_delete(struct croft_store *store, enum croft_record_table table,
	struct croft_slice key, struct croft_error *err)
{
	if (!check_table(store, table, true, err))
		return false;
	struct croft_digest name = croft_digest_of(key.data, key.size);
	struct store_record_write write = {.table = table, .hash = name.hash};
	write_records(store, &write, 1);
	if (!write.ok && err)
		*err = write.err;
	return write.ok;
}
