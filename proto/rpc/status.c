/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a call ends on the wire: reply, trailers, status, and google.rpc.Status with its details.
 */
#include "proto/rpc/call.h"

#include "proto/base/cleanup.h"

#include "google/rpc/status.pb-c.h"

#include <string.h>

/*
 * What the details may take together. Many clients (grpc-java, the C core) refuse a header list of more
 * than 8 KiB, and the core then sends RESOURCE_EXHAUSTED in place of the real status. The details go in
 * base64, beside the status's message, which can grow threefold in percent encoding.
 */
enum { DETAIL_BYTES = 4096 };

struct detail {
	struct detail *next;
	Google__Protobuf__Any any;
};

/* Shortens the message's lists until it fits; false if it does not fit with empty ones. */
static bool shorten(ProtobufCMessage *message, size_t room)
{
	const ProtobufCMessageDescriptor *type = message->descriptor;
	for (unsigned i = 0; i < type->n_fields; i++) {
		if (type->fields[i].label != PROTOBUF_C_LABEL_REPEATED)
			continue;
		size_t *count = (size_t *)((char *)message + type->fields[i].quantifier_offset);
		while (*count > 0 && protobuf_c_message_get_packed_size(message) > room)
			*count -= 1 + *count / 8;
	}
	return protobuf_c_message_get_packed_size(message) <= room;
}

void croft_call_add_detail(struct croft_call *call, const ProtobufCMessage *message)
{
	struct croft_arena *arena = call->arena;
	ProtobufCMessage *copy = croft_arena_copy(arena, message, message->descriptor->sizeof_message);
	if (!shorten(copy, DETAIL_BYTES - call->detail_bytes))
		return; /* the error's sentence has to do */
	struct croft_slice bytes = croft_message_encode(copy, arena);
	struct detail *detail = croft_arena_zalloc(arena, sizeof(*detail));
	google__protobuf__any__init(&detail->any);
	detail->any.type_url =
		croft_arena_printf(arena, "type.googleapis.com/%s", message->descriptor->name);
	detail->any.value = (ProtobufCBinaryData){bytes.size, (uint8_t *)bytes.data};
	detail->next = call->details;
	call->details = detail;
	call->detail_bytes += bytes.size;
}

void croft_call_set_trailer(struct croft_call *call, const char *name, struct croft_slice value)
{
	call->trailers = croft_realloc(call->trailers, call->trailer_count + 1, sizeof(grpc_metadata));
	grpc_metadata *trailer = &call->trailers[call->trailer_count++];
	memset(trailer, 0, sizeof(*trailer));
	trailer->key = grpc_slice_from_copied_string(name);
	trailer->value = croft_core_copy(value);
	if (!grpc_header_key_is_legal(trailer->key))
		abort(); /* names stand in the program */
	if (grpc_is_binary_header(trailer->key))
		return;
	for (uint8_t *at = GRPC_SLICE_START_PTR(trailer->value); at < GRPC_SLICE_END_PTR(trailer->value);
		 at++)
		if (*at < 0x20 || *at > 0x7e)
			*at = '?';
}

/* The length of the UTF-8 character at text; 0 if there is none. */
static size_t character_length(const unsigned char *text)
{
	if (text[0] < 0x80)
		return 1;
	size_t length = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
	if (text[0] < 0xc2 || text[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	/* Longer than needed, a surrogate, or past the last character. */
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
		(text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return length;
}

/* Names of files are bytes, and long sentences are cut anywhere; but clients refuse a google.rpc.Status
 * whose message is not UTF-8. */
static void make_utf8(char *text)
{
	for (unsigned char *at = (unsigned char *)text; *at;) {
		size_t length = character_length(at);
		if (length == 0)
			*at = '?';
		at += length ? length : 1;
	}
}

/* google.rpc.Status with the details, for grpc-status-details-bin. */
static void add_details_trailer(struct croft_call *call, const struct croft_error *err)
{
	if (!call->details)
		return;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	GoogleRpc__Status status = GOOGLE_RPC__STATUS__INIT;
	status.code = (int32_t)err->code;
	status.message = (char *)err->message;
	for (struct detail *detail = call->details; detail; detail = detail->next)
		status.n_details++;
	status.details = croft_arena_array(arena, status.n_details, sizeof(void *));
	size_t at = status.n_details;
	for (struct detail *detail = call->details; detail; detail = detail->next)
		status.details[--at] = &detail->any;
	croft_call_set_trailer(
		call, "grpc-status-details-bin", croft_message_encode(&status.base, arena));
}

static grpc_op status_op(struct croft_call *call, enum croft_code code, grpc_slice *message)
{
	return (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
		.data.send_status_from_server = {
			.trailing_metadata_count = call->trailer_count,
			.trailing_metadata = call->trailers,
			.status = (grpc_status_code)code,
			.status_details = message,
		}};
}

void call_send_status(struct croft_call *call, const struct croft_error *err)
{
	grpc_op ops[3];
	size_t count = call_initial_op(call, &ops[0]);
	grpc_slice message = grpc_empty_slice();
	if (err) {
		struct croft_error shown = *err;
		make_utf8(shown.message);
		add_details_trailer(call, &shown);
		message = grpc_slice_from_copied_string(shown.message);
	} else if (call->reply) {
		ops[count++] = (grpc_op){
			.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = call->reply};
	}
	ops[count++] = status_op(call, err ? err->code : CROFT_OK, &message);
	/* The core refuses only what is wrongly put together, and would leave the call open for ever. */
	if (!call_start_batch(call, ops, count, &call->finished))
		abort();
	grpc_slice_unref(message);
}
