/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which tenants may know of which blobs, where blobs are private (croft serve --private-blobs).
 *
 *	croft_store_put(store, &digest, data, &err) && croft_store_grant(store, tenant, &digest, 1, &err)
 *	…
 *	croft_store_visible(store, tenant, &digest, 1, &visible, &err)
 *
 * A tenant may know of a blob once it has put it itself (to name its digest is not enough: its bytes were checked), or
 * once the blob was made for it: what a result or an asset of its own names. The store keeps each blob once all
 * the same. What was granted outlasts restarts, and goes when the blob does.
 *
 * A tenant is an instance name. CROFT_EVERYTHING is whoever may know of all: then these functions look at nothing.
 */
#ifndef CROFT_FS_PRIVATE_H
#define CROFT_FS_PRIVATE_H

#include "fs/store.h"

#define CROFT_EVERYTHING CROFT_SLICE(NULL, 0)
/* The empty instance name is a tenant, too. */
static inline struct croft_slice croft_tenant(bool private_blobs, struct croft_slice instance_name)
{
	return private_blobs ? CROFT_SLICE(instance_name.size ? instance_name.data : "", instance_name.size)
						 : CROFT_EVERYTHING;
}

/* On disk when it returns. Of a blob that is kept as chunks the chunks, too. */
bool croft_store_grant(struct croft_store *store, struct croft_slice tenant,
	const struct croft_digest *digests, size_t count, struct croft_error *err);
/* All that the refs reach and that is there. */
bool croft_store_grant_closure(struct croft_store *store, struct croft_slice tenant,
	const struct croft_ref *refs, size_t count, struct croft_error *err);
/* All that a record names, for a tenant whose own it is: it had seen all of it, or it was made for it. Of no
 * record nothing. */
bool croft_store_grant_record(struct croft_store *store, struct croft_slice tenant,
	enum croft_record_table table, struct croft_slice key, struct croft_error *err);

/* Whether it is there is another question. The empty blob is visible to all. */
bool croft_store_visible(struct croft_store *store, struct croft_slice tenant,
	const struct croft_digest *digests, size_t count, bool *visible, struct croft_error *err);
/* Sets the error of a blob that is not there; false. */
bool croft_store_not_found(const struct croft_digest *digest, struct croft_error *err);
/* For a single one: NOT_FOUND, in the words of a blob that is not there. */
bool croft_store_check_visible(struct croft_store *store, struct croft_slice tenant,
	const struct croft_digest *digest, struct croft_error *err);
/* What of the closure the tenant may not know of, or is not there to look into; in the arena. Below what it
 * may not know of nothing is looked at. */
bool croft_store_hidden(struct croft_store *store, struct croft_slice tenant, const struct croft_ref *refs,
	size_t count, struct croft_arena *arena, struct croft_digest **hidden, size_t *hidden_count,
	struct croft_error *err);

#endif
