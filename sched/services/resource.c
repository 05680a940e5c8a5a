/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/resource.h"

#include "sched/services/internal.h"

/* Of an upload; more than any UUID, little enough to be kept for thousands. */
enum { UUID_MAX = 128 };

/* The next segment of the path, and the path behind its '/'; false at the end. */
static bool next_segment(struct croft_slice *path, struct croft_slice *segment)
{
	if (!path->data)
		return false;
	const char *slash = memchr(path->data, '/', path->size);
	size_t size = slash ? (size_t)(slash - (const char *)path->data) : path->size;
	*segment = CROFT_SLICE(path->data, size);
	*path = slash ? CROFT_SLICE(slash + 1, path->size - size - 1) : CROFT_SLICE(NULL, 0);
	return true;
}

static bool is(struct croft_slice segment, const char *text)
{
	return croft_slice_equal(segment, croft_slice_str(text));
}

static bool bad(struct croft_slice name, const char *problem, struct croft_error *err)
{
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "resource name '%.*s': %s",
		name.size > 200 ? 200 : (int)name.size, (const char *)name.data, problem);
}

/* Cuts the instance off: all up to the first segment that is one of the two keywords. */
static bool skip_instance(struct croft_slice name, struct croft_slice *path,
	struct croft_slice *keyword, struct resource *resource, const char *first, const char *second)
{
	*path = name;
	while (next_segment(path, keyword)) {
		if (!is(*keyword, first) && !is(*keyword, second))
			continue;
		const char *start = name.data;
		size_t before = (size_t)((const char *)keyword->data - start);
		resource->instance = CROFT_SLICE(start, before ? before - 1 : 0);
		return true;
	}
	return false;
}

static bool parse_size(struct croft_slice text, uint64_t *size)
{
	const char *digits = text.data;
	*size = 0;
	for (size_t i = 0; i < text.size; i++)
		if (digits[i] < '0' || digits[i] > '9' || __builtin_mul_overflow(*size, 10, size) ||
			__builtin_add_overflow(*size, (uint64_t)(digits[i] - '0'), size) ||
			*size > INT64_MAX)
			return false;
	return text.size > 0;
}

/* What follows "blobs" or "compressed-blobs". */
static bool parse_blob(struct croft_slice name, struct croft_slice keyword,
	struct croft_slice *path, struct resource *resource, struct croft_error *err)
{
	struct croft_slice segment = {NULL, 0};
	resource->zstd = is(keyword, "compressed-blobs");
	if (resource->zstd && (!next_segment(path, &segment) || !is(segment, "zstd")))
		return bad(name, "the only compressor that is supported is zstd", err);
	if (!next_segment(path, &segment))
		return bad(name, "it ends before the hash", err);
	/* The function is to be left out for SHA-256; to name it does no harm. */
	if (is(segment, "sha256") && !next_segment(path, &segment))
		return bad(name, "it ends before the hash", err);
	if (!croft_hash_parse(segment, resource->digest.hash))
		return bad(name, "not 64 lower-case hex digits (SHA-256, the digest function that is "
			"supported) where the hash should be", err);
	if (!next_segment(path, &segment) || !parse_size(segment, &resource->digest.size_bytes))
		return bad(name, "no size below 2^63 behind the hash", err);
	return digest_check_empty(&resource->digest, "resource name", err);
}

bool resource_parse_read(struct croft_slice name, struct resource *resource,
	struct croft_error *err)
{
	struct croft_slice path, keyword;
	*resource = (struct resource){0};
	if (!skip_instance(name, &path, &keyword, resource, "blobs", "compressed-blobs"))
		return bad(name, "'[INSTANCE/]blobs/HASH/SIZE' or "
			"'[INSTANCE/]compressed-blobs/zstd/HASH/SIZE' is wanted", err);
	if (!parse_blob(name, keyword, &path, resource, err))
		return false;
	return !path.data || bad(name, "there is something behind the size", err);
}

bool resource_parse_write(struct croft_slice name, struct resource *resource,
	struct croft_error *err)
{
	struct croft_slice path, keyword;
	*resource = (struct resource){0};
	if (!skip_instance(name, &path, &keyword, resource, "uploads", "uploads") ||
		!next_segment(&path, &resource->uuid) || !next_segment(&path, &keyword) ||
		(!is(keyword, "blobs") && !is(keyword, "compressed-blobs")))
		return bad(name, "'[INSTANCE/]uploads/UUID/blobs/HASH/SIZE' or "
			"'[INSTANCE/]uploads/UUID/compressed-blobs/zstd/HASH/SIZE' is wanted", err);
	if (resource->uuid.size == 0 || resource->uuid.size > UUID_MAX)
		return bad(name, "the part behind 'uploads' is no UUID", err);
	return parse_blob(name, keyword, &path, resource, err);
}

bool resource_is_log(struct croft_slice name)
{
	struct croft_slice path = name, segment;
	while (next_segment(&path, &segment)) {
		if (is(segment, "blobs") || is(segment, "compressed-blobs"))
			return false;
		if (is(segment, "operations"))
			return true;
	}
	return false;
}
