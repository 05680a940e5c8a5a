/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * gRPC server reflection, v1 and v1alpha (which differ in the package's name only): tells tools such as
 * grpcurl what services there are and how their messages look. The definitions are part of the binary.
 */
#include "sched/services/internal.h"

#include "proto/base/cleanup.h"
#include "proto/defs/descriptors.h"

#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

typedef Google__Protobuf__DescriptorProto message_type;
typedef Google__Protobuf__FileDescriptorProto file_type;
typedef Google__Protobuf__ServiceDescriptorProto service_type;

struct definition {
	ProtobufCBinaryData bytes;
	const file_type *file;
};

struct reflection {
	struct croft_arena *arena;
	struct definition *definitions;
	size_t count;
	bool executes; /* the scheduler's services are there */
};

struct reflection *reflection_create(bool executes)
{
	struct reflection *reflection = croft_zalloc(sizeof(*reflection));
	reflection->arena = croft_arena_create();
	reflection->executes = executes;
	/* A FileDescriptorSet has on the wire the form of a list of bytes. */
	struct croft_slice set = CROFT_SLICE(croft_descriptors, croft_descriptors_size);
	const Reflection__FileDescriptorResponse *files = croft_message_decode(
		&reflection__file_descriptor_response__descriptor, set, reflection->arena, NULL, NULL);
	if (!files)
		abort(); /* it is part of this binary */
	reflection->count = files->n_file_descriptor_proto;
	reflection->definitions =
		croft_arena_array(reflection->arena, reflection->count, sizeof(struct definition));
	for (size_t i = 0; i < reflection->count; i++) {
		struct definition *definition = &reflection->definitions[i];
		definition->bytes = files->file_descriptor_proto[i];
		definition->file =
			croft_message_decode(&google__protobuf__file_descriptor_proto__descriptor,
				CROFT_SLICE(definition->bytes.data, definition->bytes.len), reflection->arena, NULL,
				NULL);
		if (!definition->file)
			abort();
	}
	return reflection;
}

void reflection_destroy(struct reflection *reflection)
{
	if (!reflection)
		return;
	croft_arena_destroy(reflection->arena);
	free(reflection);
}

/* Symbols -------------------------------------------------------------------------------------- */

/* What follows "prefix." in the symbol ("" when the symbol is the prefix), or NULL. */
static const char *behind(const char *symbol, const char *prefix)
{
	size_t size = strlen(prefix);
	if (strncmp(symbol, prefix, size) != 0)
		return NULL;
	if (symbol[size] == '.')
		return symbol + size + 1;
	return symbol[size] == '\0' ? symbol + size : NULL;
}

static bool has_enum(Google__Protobuf__EnumDescriptorProto *const *enums, size_t count,
	const char *symbol)
{
	for (size_t i = 0; i < count; i++) {
		const char *rest = behind(symbol, enums[i]->name);
		if (rest && *rest == '\0')
			return true;
	}
	return false;
}

/* Definitions nest a few levels deep: they are our own. */
static bool has_message(message_type *const *messages, size_t count, const char *symbol)
{
	for (size_t i = 0; i < count; i++) {
		const message_type *message = messages[i];
		const char *rest = behind(symbol, message->name);
		if (!rest)
			continue;
		if (*rest == '\0' || has_message(message->nested_type, message->n_nested_type, rest) ||
			has_enum(message->enum_type, message->n_enum_type, rest))
			return true;
		for (size_t field = 0; field < message->n_field; field++)
			if (strcmp(message->field[field]->name, rest) == 0)
				return true;
	}
	return false;
}

static bool has_service(const file_type *file, const char *symbol)
{
	for (size_t i = 0; i < file->n_service; i++) {
		const service_type *service = file->service[i];
		const char *rest = behind(symbol, service->name);
		if (rest && *rest == '\0')
			return true;
		for (size_t method = 0; rest && method < service->n_method; method++)
			if (strcmp(service->method[method]->name, rest) == 0)
				return true;
	}
	return false;
}

static bool defines(const file_type *file, const char *symbol)
{
	const char *rest = behind(symbol, file->package);
	return rest && *rest &&
		(has_message(file->message_type, file->n_message_type, rest) ||
			has_enum(file->enum_type, file->n_enum_type, rest) || has_service(file, rest));
}

/* Extensions stand at the top of files in all that we import. */
static const Google__Protobuf__FieldDescriptorProto *next_extension(const file_type *file,
	const char *type, size_t *at)
{
	while (*at < file->n_extension) {
		const Google__Protobuf__FieldDescriptorProto *field = file->extension[(*at)++];
		const char *extendee = field->extendee;
		if (strcmp(extendee + (extendee[0] == '.'), type) == 0)
			return field;
	}
	return NULL;
}

/* Answers -------------------------------------------------------------------------------------- */

static void answer_file(const struct definition *definition,
	Reflection__ServerReflectionResponse *response, struct croft_arena *arena)
{
	Reflection__FileDescriptorResponse *answer = croft_arena_alloc(arena, sizeof(*answer));
	reflection__file_descriptor_response__init(answer);
	answer->n_file_descriptor_proto = 1;
	answer->file_descriptor_proto =
		croft_arena_copy(arena, &definition->bytes, sizeof(definition->bytes));
	response->message_response_case =
		REFLECTION__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
	response->file_descriptor_response = answer;
}

static void answer_error(enum croft_code code, const char *text,
	Reflection__ServerReflectionResponse *response, struct croft_arena *arena)
{
	Reflection__ErrorResponse *answer = croft_arena_alloc(arena, sizeof(*answer));
	reflection__error_response__init(answer);
	answer->error_code = (int32_t)code;
	answer->error_message = (char *)text;
	response->message_response_case =
		REFLECTION__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
	response->error_response = answer;
}

static bool is_served(const struct reflection *reflection, const char *package,
	const char *service)
{
	bool of_scheduler = strcmp(service, "Execution") == 0 ||
		strcmp(package, "google.longrunning") == 0 || strncmp(package, "croft.", 6) == 0;
	return reflection->executes || !of_scheduler;
}

static void answer_services(const struct reflection *reflection,
	Reflection__ServerReflectionResponse *response, struct croft_arena *arena)
{
	Reflection__ListServiceResponse *answer = croft_arena_alloc(arena, sizeof(*answer));
	reflection__list_service_response__init(answer);
	size_t most = 0;
	for (size_t i = 0; i < reflection->count; i++)
		most += reflection->definitions[i].file->n_service;
	answer->service = croft_arena_array(arena, most, sizeof(void *));
	for (size_t i = 0; i < reflection->count; i++) {
		const file_type *file = reflection->definitions[i].file;
		for (size_t at = 0; at < file->n_service; at++) {
			if (!is_served(reflection, file->package, file->service[at]->name))
				continue;
			Reflection__ServiceResponse *one = croft_arena_alloc(arena, sizeof(*one));
			reflection__service_response__init(one);
			one->name =
				croft_arena_printf(arena, "%s.%s", file->package, file->service[at]->name);
			answer->service[answer->n_service++] = one;
		}
	}
	response->message_response_case =
		REFLECTION__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
	response->list_services_response = answer;
}

static void answer_extension_numbers(const struct reflection *reflection, const char *type,
	Reflection__ServerReflectionResponse *response, struct croft_arena *arena)
{
	Reflection__ExtensionNumberResponse *answer = croft_arena_alloc(arena, sizeof(*answer));
	reflection__extension_number_response__init(answer);
	answer->base_type_name = croft_arena_strdup(arena, type);
	size_t most = 0;
	bool known = false;
	for (size_t i = 0; i < reflection->count; i++) {
		most += reflection->definitions[i].file->n_extension;
		known = known || defines(reflection->definitions[i].file, type);
	}
	if (!known) {
		answer_error(CROFT_NOT_FOUND, "no such type is defined here", response, arena);
		return;
	}
	answer->extension_number = croft_arena_array(arena, most, sizeof(int32_t));
	for (size_t i = 0; i < reflection->count; i++) {
		const Google__Protobuf__FieldDescriptorProto *field;
		size_t at = 0;
		while ((field = next_extension(reflection->definitions[i].file, type, &at)))
			answer->extension_number[answer->n_extension_number++] = field->number;
	}
	response->message_response_case =
		REFLECTION__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
	response->all_extension_numbers_response = answer;
}

static bool is_wanted(const Reflection__ServerReflectionRequest *request, const file_type *file)
{
	const Google__Protobuf__FieldDescriptorProto *field;
	size_t at = 0;
	switch (request->message_request_case) {
	case REFLECTION__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
		return strcmp(file->name, request->file_by_filename) == 0;
	case REFLECTION__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
		return defines(file, request->file_containing_symbol);
	case REFLECTION__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
		while ((field = next_extension(
					file, request->file_containing_extension->containing_type, &at)))
			if (field->number == request->file_containing_extension->extension_number)
				return true;
		return false;
	default:
		return false;
	}
}

static void answer(const struct reflection *reflection,
	Reflection__ServerReflectionRequest *request, Reflection__ServerReflectionResponse *response,
	struct croft_arena *arena)
{
	response->valid_host = request->host;
	response->original_request = request;
	switch (request->message_request_case) {
	case REFLECTION__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
		answer_services(reflection, response, arena);
		return;
	case REFLECTION__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
		answer_extension_numbers(
			reflection, request->all_extension_numbers_of_type, response, arena);
		return;
	case REFLECTION__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__NOT_SET:
		answer_error(CROFT_INVALID_ARGUMENT, "the request asks for nothing that is known here",
			response, arena);
		return;
	default:
		break;
	}
	for (size_t i = 0; i < reflection->count; i++)
		if (is_wanted(request, reflection->definitions[i].file)) {
			answer_file(&reflection->definitions[i], response, arena);
			return;
		}
	answer_error(CROFT_NOT_FOUND, "no such file, symbol or extension here", response, arena);
}

static bool info(struct croft_call *call, void *user, struct croft_error *err)
{
	const struct croft_services *services = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	void *request;
	int got;
	while ((got = croft_call_read(call, arena, &request, err)) > 0) {
		Reflection__ServerReflectionResponse response =
			REFLECTION__SERVER_REFLECTION_RESPONSE__INIT;
		answer(services->reflection, request, &response, arena);
		if (!croft_call_write(call, &response.base, err))
			return false;
		croft_arena_reset(arena);
	}
	return got == 0;
}

static const struct croft_rpc_method methods[] = {
	{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", CROFT_RPC_BIDI_STREAM,
		&reflection__server_reflection_request__descriptor,
		&reflection__server_reflection_response__descriptor, info, false},
	{"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", CROFT_RPC_BIDI_STREAM,
		&reflection__server_reflection_request__descriptor,
		&reflection__server_reflection_response__descriptor, info, false},
};

void serve_reflection(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
