/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each tenant has seen: the table `seen`, whose keys are a blob's hash and then the tenant's, so that what was
 * granted of a blob is found when the blob goes. The value's flags say more of a Directory or Tree: that all below it
 * was seen, so that nobody need look there again. This holds until something that was seen goes, which another tenant
 * may put anew: then `removals` counts up, and what was said under an older count is looked at again.
 */
#include "fs/store/digests.h"
#include "fs/store/internal.h"

#include "fs/digest_map.h"
#include "fs/private.h"
#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include <stdlib.h>

enum { TENANT = 16, KEY = CROFT_HASH_SIZE + TENANT };
/* Pages that a key comes to take, reckoned high: it stands in a tree that is half empty. */
enum { KEY_COST = 256 };

enum seen_flags { SEEN_BLOB = 1, SEEN_DIRECTORY = 2, SEEN_TREE = 4 };

/* As it stands on disk. */
struct seen {
	uint64_t removals; /* of which the flags about what is below are true */
	uint64_t flags;
};
_Static_assert(sizeof(struct seen) == 16, "this is the format on disk");

struct store_seen_write {
	struct store_seen_write *next;
	uint8_t (*keys)[KEY];
	const struct seen *values;
	size_t count;
	bool done, ok;
	struct croft_error err;
};

static void make_key(uint8_t key[KEY], const uint8_t *hash, const uint8_t tenant[TENANT])
{
	memcpy(key, hash, CROFT_HASH_SIZE);
	memcpy(key + CROFT_HASH_SIZE, tenant, TENANT);
}

/* Names come from outside: one that another's key could be made of must not be found. */
static void name_tenant(uint8_t id[TENANT], struct croft_slice tenant)
{
	struct croft_digest digest = croft_digest_of(tenant.data, tenant.size);
	memcpy(id, digest.hash, TENANT);
}

static bool read_removals(struct croft_store *store, MDB_txn *txn, uint64_t *removals, struct croft_error *err)
{
	struct croft_slice value;
	int found = store_table_get(txn, store->index.meta, STORE_META_REMOVALS, strlen(STORE_META_REMOVALS),
		&value, err);
	*removals = 0;
	if (found == 1 && value.size == sizeof(*removals))
		memcpy(removals, value.data, sizeof(*removals));
	return found >= 0;
}

static bool read_seen(struct croft_store *store, MDB_txn *txn, const uint8_t tenant[TENANT],
	const struct croft_digest *digest, struct seen *seen, struct croft_error *err)
{
	uint8_t key[KEY];
	struct croft_slice value;
	make_key(key, digest->hash, tenant);
	*seen = (struct seen){0};
	int found = store_table_get(txn, store->index.seen, key, KEY, &value, err);
	if (found == 1 && value.size == sizeof(*seen))
		memcpy(seen, value.data, sizeof(*seen));
	return found >= 0;
}

/* By the hash: whoever asks by URL knows no size, and a wrong one says nothing. */
static bool is_empty(const struct croft_digest *digest)
{
	return memcmp(digest->hash, croft_digest_empty.hash, CROFT_HASH_SIZE) == 0;
}

/* Writing: those who come while a commit is under way share the next one ------------------------- */

static bool commit(struct croft_store *store, const struct store_seen_write *first, struct croft_error *err)
{
	MDB_txn *txn;
	int code = mdb_txn_begin(store->index.env, NULL, 0, &txn);
	if (code)
		return store_mdb_error(err, code, "noting what was seen");
	for (const struct store_seen_write *write = first; write; write = write->next)
		for (size_t i = 0; i < write->count; i++)
			if (!store_table_put(txn, store->index.seen, write->keys[i], KEY, &write->values[i],
					sizeof(struct seen), err)) {
				mdb_txn_abort(txn);
				return false;
			}
	code = mdb_txn_commit(txn);
	return code == 0 || store_mdb_error(err, code, "committing what was seen");
}

static bool write_all(struct croft_store *store, struct store_seen_write *write, struct croft_error *err)
{
	pthread_mutex_lock(&store->lock);
	*store->seen.last = write;
	store->seen.last = &write->next;
	while (!write->done) {
		if (store->seen.writing) {
			pthread_cond_wait(&store->seen.written, &store->lock);
			continue;
		}
		struct store_seen_write *first = store->seen.first;
		store->seen.first = NULL;
		store->seen.last = &store->seen.first;
		store->seen.writing = true;
		pthread_mutex_unlock(&store->lock);
		struct croft_error failure = CROFT_ERROR_INIT;
		bool ok = commit(store, first, &failure);
		pthread_mutex_lock(&store->lock);
		store->seen.writing = false;
		for (struct store_seen_write *next; first; first = next) {
			next = first->next; /* its owner may leave once it is done */
			first->ok = ok;
			first->err = failure;
			first->done = true;
		}
		pthread_cond_broadcast(&store->seen.written);
	}
	pthread_mutex_unlock(&store->lock);
	if (!write->ok && err)
		*err = write->err;
	return write->ok;
}

bool store_seen_remove(struct croft_store *store, MDB_txn *txn, const uint8_t *hash, bool *removed,
	struct croft_error *err)
{
	MDB_stat stat;
	MDB_cursor *cursor;
	int code = mdb_stat(txn, store->index.seen, &stat);
	if (code || stat.ms_entries == 0)
		return code == 0 || store_mdb_error(err, code, "looking for who has seen a blob");
	code = mdb_cursor_open(txn, store->index.seen, &cursor);
	if (code)
		return store_mdb_error(err, code, "looking for who has seen a blob");
	for (;;) {
		MDB_val key = {CROFT_HASH_SIZE, (void *)hash}, value;
		code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		if (code || key.mv_size != KEY || memcmp(key.mv_data, hash, CROFT_HASH_SIZE) != 0)
			break;
		code = mdb_cursor_del(cursor, 0);
		if (code)
			break;
		*removed = true;
	}
	mdb_cursor_close(cursor);
	return code == 0 || code == MDB_NOTFOUND || store_mdb_error(err, code, "forgetting who has seen a blob");
}

bool store_seen_count_removal(struct croft_store *store, MDB_txn *txn, struct croft_error *err)
{
	uint64_t removals;
	if (!read_removals(store, txn, &removals, err))
		return false;
	removals++;
	return store_table_put(txn, store->index.meta, STORE_META_REMOVALS, strlen(STORE_META_REMOVALS), &removals,
		sizeof(removals), err);
}

/* Walking ---------------------------------------------------------------------------------------- */

struct walk {
	struct croft_store *store;
	uint8_t tenant[TENANT];
	bool grant; /* what is not visible becomes so; else it is hidden */
	MDB_txn *txn;
	uint64_t removals;
	bool incomplete; /* something could not be looked into */
	struct croft_digest_map *met;
	struct digests files, directories, trees; /* to be looked at; directories from `looked` on */
	struct digests below; /* Directories and Trees that were looked into: `below_flags` */
	struct digests hidden;
};

static bool add_digest(struct walk *walk, const Reapi__Digest *message, struct digests *list,
	struct croft_error *err)
{
	struct croft_digest digest;
	if (!croft_digest_from_message(message, "a digest in a Directory", &digest, err))
		return false;
	void **met = croft_digest_map_at(walk->met, &digest);
	/* A blob may be both, in a strange tree. */
	enum { FILE_MET = 1, DIRECTORY_MET = 2 };
	uintptr_t bit = list == &walk->files ? FILE_MET : DIRECTORY_MET;
	uintptr_t before = (uintptr_t)*met;
	*met = (void *)(before | bit | 4);
	if (!(before & bit) && !is_empty(&digest))
		digests_append(list, &digest);
	return true;
}

/* Of directories those that are not `held` (NULL: none is). */
static bool add_directory(struct walk *walk, const Reapi__Directory *directory, const struct digest_set *held,
	struct croft_error *err)
{
	for (size_t i = 0; i < directory->n_files; i++)
		if (!add_digest(walk, directory->files[i]->digest, &walk->files, err))
			return false;
	for (size_t i = 0; i < directory->n_directories; i++) {
		struct croft_digest digest;
		if (held && croft_digest_from_message(directory->directories[i]->digest, "a directory", &digest, NULL) &&
			digest_set_has(held, &digest))
			continue;
		if (!add_digest(walk, directory->directories[i]->digest, &walk->directories, err))
			return false;
	}
	return true;
}

static bool add_tree(struct walk *walk, const Reapi__Tree *tree, struct croft_slice bytes, struct croft_error *err)
{
	struct digest_set held = {0};
	digest_set_add_children(&held, bytes);
	bool ok = !tree->root || add_directory(walk, tree->root, &held, err);
	for (size_t i = 0; ok && i < tree->n_children; i++)
		ok = add_directory(walk, tree->children[i], &held, err);
	digest_set_finish(&held);
	return ok;
}

static bool add_message(struct walk *walk, bool tree, struct croft_slice bytes, struct croft_arena *arena,
	struct croft_error *err)
{
	if (!tree) {
		const Reapi__Directory *directory =
			croft_message_decode(&reapi__directory__descriptor, bytes, arena, NULL, err);
		return directory && add_directory(walk, directory, NULL, err);
	}
	const Reapi__Tree *message = croft_message_decode(&reapi__tree__descriptor, bytes, arena, NULL, err);
	return message && add_tree(walk, message, bytes, err);
}

static bool look_into(struct walk *walk, const struct croft_digest *digest, bool tree, struct croft_error *err)
{
	struct seen seen;
	if (!read_seen(walk->store, walk->txn, walk->tenant, digest, &seen, err))
		return false;
	if ((seen.flags & (tree ? SEEN_TREE : SEEN_DIRECTORY)) && seen.removals == walk->removals)
		return true;
	if (!walk->grant && !(seen.flags & SEEN_BLOB)) {
		digests_append(&walk->hidden, digest);
		return true;
	}
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes;
	struct croft_error failure = CROFT_ERROR_INIT;
	if (!store_get(walk->store, digest, STORE_LOOK, arena, &bytes, &failure)) {
		if (failure.code != CROFT_NOT_FOUND && failure.code != CROFT_DATA_LOSS) {
			*err = failure;
			return false;
		}
		walk->incomplete = true;
		digests_append(&walk->hidden, digest);
		return true;
	}
	digests_append(&walk->below, digest);
	return add_message(walk, tree, bytes, arena, err);
}

static bool look(struct walk *walk, const struct croft_ref *refs, size_t count, size_t *trees,
	struct croft_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (!is_empty(&refs[i].digest))
			digests_append(refs[i].kind == CROFT_REF_BLOB ? &walk->files
				: refs[i].kind == CROFT_REF_TREE  ? &walk->trees
												  : &walk->directories, &refs[i].digest);
	for (size_t i = 0; i < walk->trees.count; i++)
		if (!look_into(walk, &walk->trees.items[i], true, err))
			return false;
	*trees = walk->below.count;
	for (size_t i = 0; i < walk->directories.count; i++) {
		struct croft_digest digest = walk->directories.items[i]; /* the list grows */
		if (!look_into(walk, &digest, false, err))
			return false;
	}
	return true;
}

/* Of the files those that the tenant has not seen, with their chunks, or into `hidden`. */
static bool look_at_files(struct walk *walk, struct digests *unseen, struct croft_error *err)
{
	for (size_t i = 0; i < walk->files.count; i++) {
		const struct croft_digest *digest = &walk->files.items[i];
		struct seen seen;
		if (!read_seen(walk->store, walk->txn, walk->tenant, digest, &seen, err))
			return false;
		if (seen.flags & SEEN_BLOB)
			continue;
		digests_append(walk->grant ? unseen : &walk->hidden, digest);
		if (!walk->grant || digest->size_bytes <= CROFT_CHUNK_MOST)
			continue;
		CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
		struct croft_digest *chunks;
		size_t count;
		struct croft_error failure = CROFT_ERROR_INIT;
		if (croft_store_get_recipe(walk->store, digest, arena, &chunks, &count, &failure)) {
			for (size_t k = 0; k < count; k++)
				digests_append(unseen, &chunks[k]);
		} else if (failure.code != CROFT_FAILED_PRECONDITION && failure.code != CROFT_NOT_FOUND) {
			*err = failure;
			return false;
		}
	}
	return true;
}

static bool note(struct walk *walk, const struct digests *unseen, size_t trees, struct croft_error *err)
{
	bool all = !walk->incomplete && (walk->grant || walk->hidden.count == 0);
	size_t below = all || walk->grant ? walk->below.count : 0, count = below + unseen->count;
	if (count == 0 || walk->store->config.read_only)
		return true;
	CROFT_CLEANUP_FREE uint8_t(*keys)[KEY] = croft_array(count, KEY);
	CROFT_CLEANUP_FREE struct seen *values = croft_array(count, sizeof(*values));
	for (size_t i = 0; i < count; i++) {
		const struct croft_digest *digest =
			i < below ? &walk->below.items[i] : &unseen->items[i - below];
		make_key(keys[i], digest->hash, walk->tenant);
		values[i] = (struct seen){walk->removals, SEEN_BLOB};
		if (i >= below) {
			struct seen before; /* what is known of what is below a Directory stays */
			if (!read_seen(walk->store, walk->txn, walk->tenant, digest, &before, err))
				return false;
			values[i].flags |= before.flags;
			values[i].removals = before.flags ? before.removals : walk->removals;
		} else if (all) {
			values[i].flags |= i < trees ? SEEN_TREE : SEEN_DIRECTORY;
		}
	}
	if (!store_reserve(walk->store, count * KEY_COST, 0, err))
		return false;
	struct store_seen_write write = {.keys = keys, .values = values, .count = count};
	bool ok = write_all(walk->store, &write, err);
	store_unreserve(walk->store, count * KEY_COST, 0);
	return ok;
}

static bool run(struct walk *walk, struct croft_slice tenant, const struct croft_ref *refs, size_t count,
	struct croft_error *err)
{
	struct digests unseen = {0};
	size_t trees = 0;
	struct croft_error failure = CROFT_ERROR_INIT;
	name_tenant(walk->tenant, tenant);
	walk->met = croft_digest_map_create();
	walk->txn = store_read_begin(&walk->store->index, &failure);
	bool ok = walk->txn && read_removals(walk->store, walk->txn, &walk->removals, &failure) &&
		look(walk, refs, count, &trees, &failure) && look_at_files(walk, &unseen, &failure) &&
		note(walk, &unseen, trees, &failure);
	store_read_end(&walk->store->index, walk->txn);
	croft_digest_map_destroy(walk->met);
	free(walk->files.items);
	free(walk->directories.items);
	free(walk->trees.items);
	free(walk->below.items);
	free(unseen.items);
	if (!ok && err)
		*err = failure;
	return ok;
}

/* Public ----------------------------------------------------------------------------------------- */

bool croft_store_grant_closure(struct croft_store *store, struct croft_slice tenant,
	const struct croft_ref *refs, size_t count, struct croft_error *err)
{
	if (!tenant.data || count == 0)
		return true;
	struct walk walk = {.store = store, .grant = true};
	bool ok = run(&walk, tenant, refs, count, err);
	free(walk.hidden.items);
	return ok;
}

bool croft_store_grant_record(struct croft_store *store, struct croft_slice tenant,
	enum croft_record_table table, struct croft_slice key, struct croft_error *err)
{
	if (!tenant.data)
		return true;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest name = croft_digest_of(key.data, key.size);
	struct croft_slice stored;
	struct croft_ref *refs;
	size_t count = 0;
	MDB_txn *txn = store_read_begin(&store->index, err);
	if (!txn)
		return false;
	int found = store_table_get(
		txn, store->index.records[table], name.hash, CROFT_HASH_SIZE, &stored, err);
	bool ok = found == 0 || (found == 1 && (store_record_refs(stored, arena, &refs, &count) ||
											   croft_error_set(err, CROFT_DATA_LOSS, "a record is too short")));
	store_read_end(&store->index, txn);
	return ok && croft_store_grant_closure(store, tenant, refs, count, err);
}

bool croft_store_grant(struct croft_store *store, struct croft_slice tenant,
	const struct croft_digest *digests, size_t count, struct croft_error *err)
{
	if (!tenant.data || count == 0)
		return true;
	CROFT_CLEANUP_FREE struct croft_ref *refs = croft_array(count, sizeof(*refs));
	for (size_t i = 0; i < count; i++)
		refs[i] = (struct croft_ref){CROFT_REF_BLOB, digests[i]};
	return croft_store_grant_closure(store, tenant, refs, count, err);
}

bool croft_store_hidden(struct croft_store *store, struct croft_slice tenant, const struct croft_ref *refs,
	size_t count, struct croft_arena *arena, struct croft_digest **hidden, size_t *hidden_count,
	struct croft_error *err)
{
	*hidden = NULL;
	*hidden_count = 0;
	if (!tenant.data)
		return true;
	struct walk walk = {.store = store};
	bool ok = run(&walk, tenant, refs, count, err);
	if (ok && walk.hidden.count > 0) {
		*hidden_count = walk.hidden.count;
		*hidden = croft_arena_copy(arena, walk.hidden.items, walk.hidden.count * sizeof(**hidden));
	}
	free(walk.hidden.items);
	return ok;
}

bool croft_store_visible(struct croft_store *store, struct croft_slice tenant,
	const struct croft_digest *digests, size_t count, bool *visible, struct croft_error *err)
{
	memset(visible, true, count * sizeof(*visible));
	if (!tenant.data || count == 0)
		return true;
	uint8_t id[TENANT];
	name_tenant(id, tenant);
	MDB_txn *txn = store_read_begin(&store->index, err);
	bool ok = txn != NULL;
	for (size_t i = 0; ok && i < count; i++) {
		struct seen seen;
		ok = read_seen(store, txn, id, &digests[i], &seen, err);
		visible[i] = ok && ((seen.flags & SEEN_BLOB) || is_empty(&digests[i]));
	}
	store_read_end(&store->index, txn);
	return ok;
}

bool croft_store_not_found(const struct croft_digest *digest, struct croft_error *err)
{
	return store_not_found(digest, err);
}

bool croft_store_check_visible(struct croft_store *store, struct croft_slice tenant,
	const struct croft_digest *digest, struct croft_error *err)
{
	bool visible;
	return croft_store_visible(store, tenant, digest, 1, &visible, err) &&
		(visible || store_not_found(digest, err));
}
