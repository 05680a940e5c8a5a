/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What goes beside the messages: status, details, headers, trailers. */
#include "proto/rpc/client.h"
#include "proto/rpc/server.h"
#include "tests/unit/test.h"

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct croft_server *server;
static struct croft_channel *channel;

/* As many MISSING violations as the request's service says. */
static bool miss(struct croft_call *call, int count, struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	GoogleRpc__PreconditionFailure failure = GOOGLE_RPC__PRECONDITION_FAILURE__INIT;
	failure.violations = croft_arena_array(arena, (size_t)count, sizeof(void *));
	for (int i = 0; i < count; i++) {
		GoogleRpc__PreconditionFailure__Violation *violation =
			croft_arena_alloc(arena, sizeof(*violation));
		google_rpc__precondition_failure__violation__init(violation);
		violation->type = (char *)"MISSING";
		violation->subject = croft_arena_printf(arena,
			"blobs/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/%d", i);
		failure.violations[failure.n_violations++] = violation;
	}
	croft_call_add_detail(call, &failure.base);
	GoogleRpc__RetryInfo retry = GOOGLE_RPC__RETRY_INFO__INIT;
	croft_call_add_detail(call, &retry.base);
	return croft_error_set(err, CROFT_FAILED_PRECONDITION, "%d blobs are missing", count);
}

static bool check(struct croft_call *call, void *user, struct croft_error *err)
{
	const Health__HealthCheckRequest *request = croft_call_request(call);
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	if (strncmp(request->service, "miss ", 5) == 0)
		return miss(call, atoi(request->service + 5), err);
	if (strcmp(request->service, "bytes") == 0) {
		GoogleRpc__RetryInfo retry = GOOGLE_RPC__RETRY_INFO__INIT;
		croft_call_add_detail(call, &retry.base);
		return croft_error_set(err, CROFT_NOT_FOUND, "a\xff\xc3\xa4\xed\xa0\x80\xf0\x9f\x98\x80\xc3");
	}
	if (strcmp(request->service, "long") == 0) {
		char text[600];
		memset(text, 0xe4, sizeof(text));
		text[sizeof(text) - 1] = '\0';
		return croft_error_set(err, CROFT_NOT_FOUND, "%s", text);
	}
	if (strcmp(request->service, "trailer") == 0) {
		croft_call_set_trailer(call, "x-plain", CROFT_SLICE("a\nb\xff", 4));
		croft_call_set_trailer(call, "x-bytes-bin", CROFT_SLICE("\0\n\xff", 3));
	}
	if (strcmp(request->service, "peer") == 0 && strncmp(croft_call_peer(call), "ipv4:127.0.0.1:", 15) != 0)
		return croft_error_set(err, CROFT_INTERNAL, "the peer is %s", croft_call_peer(call));
	if (strcmp(request->service, "deadline") == 0) {
		uint64_t left = croft_call_time_left_ms(call);
		if (left < 1000 || left > 5100) /* on the wire it is rounded up */
			return croft_error_set(err, CROFT_INTERNAL, "%llu ms left", (unsigned long long)left);
	}
	if (strcmp(request->service, "header") == 0) {
		struct croft_slice value = croft_call_header(call, "x-large-bin");
		response.status = (Health__HealthCheckResponse__ServingStatus)value.size;
	}
	return croft_call_write(call, &response.base, err);
}

static const struct croft_rpc_method method = {"/grpc.health.v1.Health/Check", CROFT_RPC_UNARY,
	&health__health_check_request__descriptor, &health__health_check_response__descriptor, check,
	false};

static int set_up(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	server = croft_server_create(&(struct croft_server_config){.address = "127.0.0.1:0"}, &err);
	assert_ok(server != NULL, err);
	croft_server_add(server, &method, 1, NULL);
	assert_ok(croft_server_start(server, &err), err);
	char target[64];
	snprintf(target, sizeof(target), "127.0.0.1:%d", croft_server_port(server));
	channel = croft_channel_create(target, NULL, &err);
	assert_ok(channel != NULL, err);
	*state = croft_arena_create();
	return 0;
}

static int tear_down(void **state)
{
	croft_arena_destroy(*state);
	croft_channel_destroy(channel);
	croft_server_destroy(server);
	return 0;
}

static Health__HealthCheckResponse *ask(void **state, const char *service,
	struct croft_call_options options, struct croft_error *err)
{
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	request.service = (char *)service;
	*err = CROFT_ERROR_INIT;
	return croft_unary(
		channel, &options, method.path, &request.base, method.response, *state, err);
}

static void few_details_arrive_whole(void **state)
{
	struct croft_error err;
	struct croft_slice bytes = {0};
	ask(state, "miss 10", (struct croft_call_options){.details_arena = *state, .details = &bytes},
		&err);
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	GoogleRpc__Status *status =
		croft_message_decode(&google_rpc__status__descriptor, bytes, *state, NULL, &err);
	assert_int_equal(status->n_details, 2);
	GoogleRpc__PreconditionFailure *failure = croft_message_decode(
		&google_rpc__precondition_failure__descriptor,
		CROFT_SLICE(status->details[0]->value.data, status->details[0]->value.len), *state, NULL,
		&err);
	assert_int_equal(failure->n_violations, 10);
	assert_string_equal(status->details[1]->type_url, "type.googleapis.com/google.rpc.RetryInfo");
}

static void many_details_are_shortened_to_what_clients_take(void **state)
{
	struct croft_error err;
	struct croft_slice bytes = {0};
	ask(state, "miss 100000",
		(struct croft_call_options){.details_arena = *state, .details = &bytes}, &err);
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	assert_string_equal(err.message, "100000 blobs are missing");
	assert_in_range(bytes.size, 3000, 5000);
	GoogleRpc__Status *status =
		croft_message_decode(&google_rpc__status__descriptor, bytes, *state, NULL, &err);
	GoogleRpc__PreconditionFailure *failure = croft_message_decode(
		&google_rpc__precondition_failure__descriptor,
		CROFT_SLICE(status->details[0]->value.data, status->details[0]->value.len), *state, NULL,
		&err);
	assert_in_range(failure->n_violations, 30, 100);
	assert_non_null(strstr(failure->violations[0]->subject, "/0"));
}

static void a_status_is_utf8_whatever_it_names(void **state)
{
	struct croft_error err;
	struct croft_slice bytes = {0};
	ask(state, "bytes", (struct croft_call_options){.details_arena = *state, .details = &bytes},
		&err);
	assert_string_equal(err.message, "a?\xc3\xa4???\xf0\x9f\x98\x80?");
	GoogleRpc__Status *status =
		croft_message_decode(&google_rpc__status__descriptor, bytes, *state, NULL, &err);
	assert_string_equal(status->message, err.message);
	assert_int_equal(status->code, CROFT_NOT_FOUND);
	/* Threefold in percent encoding, it still arrives. */
	ask(state, "long", (struct croft_call_options){0}, &err);
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	assert_int_equal(strlen(err.message), 511);
}

static void trailers_are_sent(void **state)
{
	struct croft_error err;
	assert_ok(ask(state, "trailer", (struct croft_call_options){0}, &err) != NULL, err);
}

static void a_peer_and_a_deadline_are_told(void **state)
{
	struct croft_error err;
	assert_ok(ask(state, "peer", (struct croft_call_options){0}, &err) != NULL, err);
	assert_ok(
		ask(state, "deadline", (struct croft_call_options){.timeout_ms = 5000}, &err) != NULL, err);
}

static void headers_that_cannot_be_sent_are_refused(void **state)
{
	static const struct croft_metadata bad[] = {
		{"X-Upper", {"a", 1}}, {"", {"a", 1}}, {"x-text", {"a\nb", 3}}, {"x text", {"a", 1}}};
	struct croft_error err = CROFT_ERROR_INIT;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct croft_call_options options = {.metadata = &bad[i], .metadata_count = 1};
		assert_null(ask(state, "", options, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		assert_null(croft_stream_open(channel, &options, method.path, method.response, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	}
}

static void a_large_header_arrives(void **state)
{
	char value[4000];
	memset(value, 7, sizeof(value));
	struct croft_metadata header = {"x-large-bin", {value, sizeof(value)}};
	struct croft_error err;
	Health__HealthCheckResponse *response = ask(
		state, "header", (struct croft_call_options){.metadata = &header, .metadata_count = 1}, &err);
	assert_ok(response != NULL, err);
	assert_int_equal(response->status, sizeof(value));
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(few_details_arrive_whole),
		WITH_SERVER(many_details_are_shortened_to_what_clients_take),
		WITH_SERVER(a_status_is_utf8_whatever_it_names),
		WITH_SERVER(trailers_are_sent),
		WITH_SERVER(a_peer_and_a_deadline_are_told),
		WITH_SERVER(headers_that_cannot_be_sent_are_refused),
		WITH_SERVER(a_large_header_arrives),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
