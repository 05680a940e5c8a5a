/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/action_value.h"

#include "fs/action_result.h"
#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

/* "<instance>\0<hash>" for ActionResults, as the Remote Execution API has it; other values:
 * "<instance>\0plain/<hash>". */
static struct croft_slice key_of(const char *instance_name, const char *kind,
	const uint8_t hash[CROFT_HASH_SIZE], struct croft_arena *arena)
{
	char text[CROFT_HASH_TEXT];
	croft_hash_format(hash, text);
	size_t name = strlen(instance_name) + 1, size = name + strlen(kind) + CROFT_HASH_TEXT - 1;
	char *key = croft_arena_alloc(arena, size + 1);
	memcpy(key, instance_name, name);
	memcpy(key + name, kind, strlen(kind));
	memcpy(key + name + strlen(kind), text, CROFT_HASH_TEXT);
	return CROFT_SLICE(key, size);
}

/* NULL: it is none. Bytes of another kind can be taken for a message of unknown fields. */
static const Reapi__ActionResult *decode(struct croft_slice value, struct croft_arena *arena)
{
	const Reapi__ActionResult *result =
		croft_message_decode(&reapi__action_result__descriptor, value, arena, NULL, NULL);
	bool says_something = result &&
		(result->n_output_files > 0 || result->n_output_directories > 0 ||
			result->n_output_symlinks > 0 || result->n_output_file_symlinks > 0 ||
			result->n_output_directory_symlinks > 0 || result->stdout_digest ||
			result->stderr_digest || result->execution_metadata || result->exit_code != 0);
	return result && (says_something || result->base.n_unknown_fields == 0) ? result : NULL;
}

bool croft_action_value_is_result(struct croft_slice value)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	return decode(value, arena) != NULL;
}

/* The newest value counts, of whatever kind the one before it was. */
static bool forget(struct croft_store *store, struct croft_slice key, struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	if (croft_store_record_delete(store, CROFT_RECORD_ACTION, key, &failure) ||
		failure.code == CROFT_NOT_FOUND)
		return true;
	if (err)
		*err = failure;
	return false;
}

/* Whose it is is written down here, too, and not only when it is read: a read needs no room. */
static bool put_plain(struct croft_store *store, struct croft_slice tenant, struct croft_slice key,
	struct croft_slice value, struct croft_error *err)
{
	struct croft_digest digest = croft_digest_of(value.data, value.size);
	struct croft_ref ref = {CROFT_REF_BLOB, digest};
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(&digest, '/', text);
	return croft_store_put(store, &digest, value, err) &&
		croft_store_grant(store, tenant, &digest, 1, err) &&
		croft_store_record_put(store, CROFT_RECORD_ACTION, key, croft_slice_str(text), &ref,
			digest.size_bytes > 0, 0, err);
}

/* To name a digest is not to have the blob. */
static bool check_refs(struct croft_store *store, struct croft_slice tenant, const struct croft_ref *refs,
	size_t count, struct croft_arena *arena, struct croft_error *err)
{
	struct croft_digest *hidden;
	size_t hidden_count;
	if (!croft_store_hidden(store, tenant, refs, count, arena, &hidden, &hidden_count, err))
		return false;
	return hidden_count == 0 ||
		croft_error_set(err, CROFT_FAILED_PRECONDITION, "it names %zu blobs that are not in the store", hidden_count);
}

bool croft_action_value_put(struct croft_store *store, const char *instance_name, struct croft_slice tenant,
	const uint8_t hash[CROFT_HASH_SIZE], struct croft_slice value, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const Reapi__ActionResult *result = decode(value, arena);
	struct croft_ref *refs;
	size_t count;
	struct croft_slice key = key_of(instance_name, "", hash, arena);
	struct croft_slice plain = key_of(instance_name, "plain/", hash, arena);
	if (!result || !croft_action_result_refs(result, arena, &refs, &count, NULL))
		return put_plain(store, tenant, plain, value, err) && forget(store, key, err);
	return check_refs(store, tenant, refs, count, arena, err) &&
		croft_store_record_put(store, CROFT_RECORD_ACTION, key, value, refs, count, 0, err) &&
		forget(store, plain, err);
}

bool croft_action_value_get(struct croft_store *store, const char *instance_name, struct croft_slice tenant,
	const uint8_t hash[CROFT_HASH_SIZE], struct croft_arena *arena, struct croft_slice *value,
	struct croft_digest *blob, struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	struct croft_slice key = key_of(instance_name, "", hash, arena);
	if (croft_store_record_get(store, CROFT_RECORD_ACTION, key, arena, value, &failure)) {
		if (!value->data)
			*value = CROFT_SLICE("", 0);
		return croft_store_grant_record(store, tenant, CROFT_RECORD_ACTION, key, err);
	}
	if (failure.code != CROFT_NOT_FOUND) {
		if (err)
			*err = failure;
		return false;
	}
	struct croft_slice text, plain = key_of(instance_name, "plain/", hash, arena);
	if (!croft_store_record_get(store, CROFT_RECORD_ACTION, plain, arena, &text, err) ||
		!croft_store_grant_record(store, tenant, CROFT_RECORD_ACTION, plain, err))
		return false;
	*value = CROFT_SLICE(NULL, 0);
	return croft_digest_parse(text, blob, err);
}
