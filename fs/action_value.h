/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What HTTP caches keep under /ac/<hash>: ActionResults, and whatever else a client takes the action
 * cache for (ccache puts its own entries there). ActionResults are the records that the
 * Remote Execution API serves; anything else is a blob with a record that keeps it alive, under a
 * key that the API does not reach.
 */
#ifndef CROFT_FS_ACTION_VALUE_H
#define CROFT_FS_ACTION_VALUE_H

#include "fs/private.h"

/* FAILED_PRECONDITION: an ActionResult that names what is not there, or what the tenant may not know of. */
bool croft_action_value_put(struct croft_store *store, const char *instance_name, struct croft_slice tenant,
	const uint8_t hash[CROFT_HASH_SIZE], struct croft_slice value, struct croft_error *err);

/* An ActionResult: *value in the arena. Else *blob is where the value is, and value->data is NULL. */
bool croft_action_value_get(struct croft_store *store, const char *instance_name, struct croft_slice tenant,
	const uint8_t hash[CROFT_HASH_SIZE], struct croft_arena *arena, struct croft_slice *value,
	struct croft_digest *blob, struct croft_error *err);

/* Is this what a client of the API would take for an ActionResult that says something? */
bool croft_action_value_is_result(struct croft_slice value);

#endif
