/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/internal.h"

#include "google/rpc/error_details.pb-c.h"

/* More would only make the answer's trailers too long to be taken. */
enum { MAX_VIOLATIONS = 64 };

bool digest_function_check(Reapi__DigestFunction__Value function, struct croft_error *err)
{
	if (function == REAPI__DIGEST_FUNCTION__VALUE__UNKNOWN ||
		function == REAPI__DIGEST_FUNCTION__VALUE__SHA256)
		return true;
	const ProtobufCEnumValue *known =
		protobuf_c_enum_descriptor_get_value(&reapi__digest_function__value__descriptor, function);
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"digest function %s (%d) is not supported: SHA256 (1) is", known ? known->name : "unknown",
		(int)function);
}

bool digest_check_empty(const struct croft_digest *digest, const char *what,
	struct croft_error *err)
{
	bool empty_hash = memcmp(digest->hash, croft_digest_empty.hash, CROFT_HASH_SIZE) == 0;
	if (empty_hash == (digest->size_bytes == 0))
		return true;
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: %s", what,
		empty_hash ? "the hash is that of the empty blob, but the size is not 0"
				   : "the size is 0, but the hash is not that of the empty blob");
}

bool digest_read(const Reapi__Digest *message, const char *what, struct croft_digest *digest,
	struct croft_error *err)
{
	return croft_digest_from_message(message, what, digest, err) &&
		digest_check_empty(digest, what, err);
}

GoogleRpc__Status *status_message(const struct croft_error *err, struct croft_arena *arena)
{
	GoogleRpc__Status *status = croft_arena_alloc(arena, sizeof(*status));
	google_rpc__status__init(status);
	if (err) {
		status->code = (int32_t)err->code;
		status->message = croft_arena_strdup(arena, err->message);
	}
	return status;
}

bool fail_missing(struct croft_call *call, const char *what, const struct croft_digest *missing,
	size_t count, struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	GoogleRpc__PreconditionFailure failure = GOOGLE_RPC__PRECONDITION_FAILURE__INIT;
	size_t shown = count < MAX_VIOLATIONS ? count : MAX_VIOLATIONS;
	failure.n_violations = shown;
	failure.violations = croft_arena_array(arena, shown, sizeof(void *));
	char text[CROFT_DIGEST_TEXT];
	for (size_t i = 0; i < shown; i++) {
		GoogleRpc__PreconditionFailure__Violation *violation =
			croft_arena_alloc(arena, sizeof(*violation));
		google_rpc__precondition_failure__violation__init(violation);
		croft_digest_format(&missing[i], '/', text);
		violation->type = "MISSING";
		violation->subject = croft_arena_printf(arena, "blobs/%s", text);
		failure.violations[i] = violation;
	}
	croft_call_add_detail(call, &failure.base);
	croft_digest_format(&missing[0], '/', text);
	return croft_error_set(err, CROFT_FAILED_PRECONDITION,
		"%s: %zu of the blobs that it needs are not in the store, the first is %s", what, count,
		text);
}
