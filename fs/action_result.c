/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/action_result.h"

#include "proto/base/log.h"

struct list {
	struct croft_ref *refs;
	size_t count;
};

static bool add(struct list *list, enum croft_ref_kind kind, const Reapi__Digest *message,
	const char *what, const char *path, struct croft_error *err)
{
	struct croft_digest digest;
	if (!croft_digest_from_message(message, what, &digest, err))
		return croft_error_wrap(err, "ActionResult: '%.200s'", path);
	if (digest.size_bytes == 0 && !croft_digest_equal(&digest, &croft_digest_empty))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"ActionResult: '%.200s': %s: hash %.64s is not that of a blob of no bytes", path, what,
			message->hash);
	if (!croft_digest_is_empty(&digest))
		list->refs[list->count++] = (struct croft_ref){kind, digest};
	return true;
}

static bool add_directory(struct list *list, const Reapi__OutputDirectory *directory,
	struct croft_error *err)
{
	if (!directory->tree_digest && !directory->root_directory_digest)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"ActionResult: output directory '%.200s' has neither tree_digest nor "
			"root_directory_digest", directory->path);
	if (directory->tree_digest && !add(list, CROFT_REF_TREE, directory->tree_digest,
			"output directory's tree_digest", directory->path, err))
		return false;
	return !directory->root_directory_digest ||
		add(list, CROFT_REF_DIRECTORY, directory->root_directory_digest,
			"output directory's root_directory_digest", directory->path, err);
}

bool croft_action_result_refs(const Reapi__ActionResult *result, struct croft_arena *arena,
	struct croft_ref **refs, size_t *count, struct croft_error *err)
{
	size_t most = result->n_output_files + 2 * result->n_output_directories + 2;
	struct list list = {croft_arena_array(arena, most, sizeof(struct croft_ref)), 0};
	for (size_t i = 0; i < result->n_output_files; i++)
		if (!add(&list, CROFT_REF_BLOB, result->output_files[i]->digest, "output file",
				result->output_files[i]->path, err))
			return false;
	for (size_t i = 0; i < result->n_output_directories; i++)
		if (!add_directory(&list, result->output_directories[i], err))
			return false;
	if (result->stdout_digest &&
		!add(&list, CROFT_REF_BLOB, result->stdout_digest, "digest", "stdout", err))
		return false;
	if (result->stderr_digest &&
		!add(&list, CROFT_REF_BLOB, result->stderr_digest, "digest", "stderr", err))
		return false;
	*refs = list.refs;
	*count = list.count;
	return true;
}

void croft_action_result_prefer(
	struct croft_store *store, int32_t priority, const struct croft_ref *refs, size_t count)
{
	static const uint64_t hour_ms = 3600 * 1000;
	struct croft_error err = CROFT_ERROR_INIT;
	if (priority < 0 && !croft_store_prefer(store, refs, count, (uint64_t)-(int64_t)priority * hour_ms, &err))
		croft_log(CROFT_LOG_WARNING, "a result is not kept for longer, as its client wants it: %s", err.message);
}
