/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/client.h"
#include "proto/rpc/server.h"
#include "tests/unit/test.h"

#include "google/bytestream/bytestream.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARKED = 2000, CHUNK = 1 << 20 };

static atomic_int closed_calls;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct croft_call *parked_calls[PARKED];
static int parked_count;

/* Health.Check answers by the service's name. */
static bool check(struct croft_call *call, void *user, struct croft_error *err)
{
	const Health__HealthCheckRequest *request = croft_call_request(call);
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	if (strcmp(request->service, "fail") == 0) {
		GoogleRpc__PreconditionFailure__Violation violation =
			GOOGLE_RPC__PRECONDITION_FAILURE__VIOLATION__INIT;
		GoogleRpc__PreconditionFailure__Violation *violations[] = {&violation};
		violation.type = "MISSING";
		violation.subject = "blobs/x/1";
		GoogleRpc__PreconditionFailure failure = GOOGLE_RPC__PRECONDITION_FAILURE__INIT;
		failure.n_violations = 1;
		failure.violations = violations;
		croft_call_add_detail(call, &failure.base);
		return croft_error_set(err, CROFT_FAILED_PRECONDITION, "50%% is missing: ü");
	}
	if (strcmp(request->service, "silent") == 0)
		return true;
	if (strcmp(request->service, "slow") == 0)
		while (!croft_call_cancelled(call))
			sched_yield();
	if (strcmp(request->service, "header") == 0) {
		struct croft_slice value = croft_call_header(call, "x-test-bin");
		if (value.size != 3 || memcmp(value.data, "\0\1\xff", 3) != 0)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the header is not as sent");
	}
	response.status = HEALTH__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	return croft_call_write(call, &response.base, err);
}

static void on_closed(void *user)
{
	croft_call_unref(user);
	atomic_fetch_add(&closed_calls, 1);
}

/* Health.Watch is parked; "echo" of the first message is posted by the test. */
static bool watch(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_parked parked = {.on_closed = on_closed, .user = croft_call_ref(call)};
	croft_call_park(call, &parked);
	pthread_mutex_lock(&lock);
	parked_calls[parked_count++ % PARKED] = call;
	pthread_mutex_unlock(&lock);
	return true;
}

/* ByteStream.Read sends read_limit messages of 1 MiB. */
static bool read_blob(struct croft_call *call, void *user, struct croft_error *err)
{
	const Bytestream__ReadRequest *request = croft_call_request(call);
	uint8_t *data = calloc(1, CHUNK);
	Bytestream__ReadResponse response = BYTESTREAM__READ_RESPONSE__INIT;
	response.data = (ProtobufCBinaryData){CHUNK, data};
	bool ok = true;
	for (int64_t i = 0; ok && i < request->read_limit; i++)
		ok = croft_call_write(call, &response.base, err);
	free(data);
	return ok;
}

static bool write_blob(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_arena *arena = croft_arena_create();
	Bytestream__WriteResponse response = BYTESTREAM__WRITE_RESPONSE__INIT;
	void *message;
	int got;
	while ((got = croft_call_read(call, arena, &message, err)) > 0) {
		response.committed_size += (int64_t)((Bytestream__WriteRequest *)message)->data.len;
		croft_arena_reset(arena);
	}
	croft_arena_destroy(arena);
	return got == 0 && croft_call_write(call, &response.base, err);
}

struct echo {
	struct croft_call *call;
};

static void echo_message(void *user, void *message, struct croft_arena **arena)
{
	struct echo *echo = user;
	Bytestream__WriteResponse response = BYTESTREAM__WRITE_RESPONSE__INIT;
	response.committed_size = (int64_t)((Bytestream__WriteRequest *)message)->data.len;
	croft_call_post(echo->call, &response.base);
}

static void echo_closed(void *user)
{
	struct echo *echo = user;
	croft_call_unref(echo->call);
	free(echo);
	atomic_fetch_add(&closed_calls, 1);
}

static bool echo_sizes(struct croft_call *call, void *user, struct croft_error *err)
{
	struct echo *echo = calloc(1, sizeof(*echo));
	echo->call = croft_call_ref(call);
	croft_call_park(call, &(struct croft_parked){
		.on_message = echo_message, .on_closed = echo_closed, .user = echo});
	return true;
}

static const struct croft_rpc_method methods[] = {
	{"/grpc.health.v1.Health/Check", CROFT_RPC_UNARY, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, check, false},
	{"/grpc.health.v1.Health/Watch", CROFT_RPC_SERVER_STREAM,
		&health__health_check_request__descriptor, &health__health_check_response__descriptor, watch,
		false},
	{"/google.bytestream.ByteStream/Read", CROFT_RPC_SERVER_STREAM,
		&bytestream__read_request__descriptor, &bytestream__read_response__descriptor, read_blob,
		false},
	{"/google.bytestream.ByteStream/Write", CROFT_RPC_CLIENT_STREAM,
		&bytestream__write_request__descriptor, &bytestream__write_response__descriptor, write_blob,
		false},
	{"/test/EchoSizes", CROFT_RPC_BIDI_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, echo_sizes, false},
};

static struct croft_server *server;
static struct croft_channel *channel;

static int set_up(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	server = croft_server_create(&(struct croft_server_config){.address = "127.0.0.1:0"}, &err);
	assert_ok(server != NULL, err);
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), NULL);
	assert_ok(croft_server_start(server, &err), err);
	char target[64];
	snprintf(target, sizeof(target), "grpc://127.0.0.1:%d", croft_server_port(server));
	channel = croft_channel_create(target, NULL, &err);
	assert_ok(channel != NULL, err);
	closed_calls = 0;
	pthread_mutex_lock(&lock);
	parked_count = 0;
	pthread_mutex_unlock(&lock);
	return 0;
}

static int tear_down(void **state)
{
	croft_channel_destroy(channel);
	croft_server_destroy(server);
	return 0;
}

static Health__HealthCheckResponse *ask(const char *service,
	const struct croft_call_options *options, struct croft_arena *arena, struct croft_error *err)
{
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	request.service = (char *)service;
	return croft_unary(channel, options, "/grpc.health.v1.Health/Check", &request.base,
		&health__health_check_response__descriptor, arena, err);
}

static void a_unary_call_is_answered(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	Health__HealthCheckResponse *response = ask("x", NULL, arena, &err);
	assert_ok(response != NULL, err);
	assert_int_equal(response->status, 1);
	struct croft_metadata header = {"x-test-bin", {"\0\1\xff", 3}};
	response = ask("header",
		&(struct croft_call_options){.metadata = &header, .metadata_count = 1}, arena, &err);
	assert_ok(response != NULL, err);
	assert_null(ask("silent", NULL, arena, &err));
	assert_int_equal(err.code, CROFT_INTERNAL);
	croft_arena_destroy(arena);
}

static void a_failure_carries_its_details(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice details = {0};
	struct croft_call_options options = {.details_arena = arena, .details = &details};
	assert_null(ask("fail", &options, arena, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	assert_string_equal(err.message, "50% is missing: ü");
	GoogleRpc__Status *status =
		croft_message_decode(&google_rpc__status__descriptor, details, arena, NULL, &err);
	assert_ok(status != NULL, err);
	assert_int_equal(status->n_details, 1);
	assert_string_equal(
		status->details[0]->type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
	croft_arena_destroy(arena);
}

static void an_unknown_method_is_unimplemented(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	assert_null(croft_unary(channel, NULL, "/no.Such/Method", &request.base,
		&health__health_check_response__descriptor, arena, &err));
	assert_int_equal(err.code, CROFT_UNIMPLEMENTED);
	assert_non_null(strstr(err.message, "/no.Such/Method"));
	croft_arena_destroy(arena);
}

static void a_malformed_request_is_refused(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	/* Field 1 is a number here and a string there. */
	Bytestream__WriteResponse number = BYTESTREAM__WRITE_RESPONSE__INIT;
	number.committed_size = 7;
	assert_null(croft_unary(channel, NULL, "/grpc.health.v1.Health/Check", &number.base,
		&health__health_check_response__descriptor, arena, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	croft_arena_destroy(arena);
}

static void a_deadline_ends_a_call_on_both_sides(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	assert_null(ask("slow", &(struct croft_call_options){.timeout_ms = 50}, arena, &err));
	assert_int_equal(err.code, CROFT_DEADLINE_EXCEEDED);
	croft_arena_destroy(arena);
	/* tear_down hangs if the handler was not told */
}

static void messages_stream_down_and_up(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	Bytestream__ReadRequest read = BYTESTREAM__READ_REQUEST__INIT;
	read.read_limit = 20;
	struct croft_stream *stream = croft_stream_open(channel, NULL,
		"/google.bytestream.ByteStream/Read", &bytestream__read_response__descriptor, &err);
	assert_ok(croft_stream_write(stream, &read.base, &err), err);
	assert_ok(croft_stream_close_write(stream, &err), err);
	int count = 0, got;
	void *message;
	while ((got = croft_stream_read(stream, arena, &message, &err)) > 0) {
		count++;
		assert_int_equal(((Bytestream__ReadResponse *)message)->data.len, CHUNK);
		croft_arena_reset(arena);
	}
	assert_ok(got == 0, err);
	assert_int_equal(count, 20);
	croft_stream_destroy(stream);

	stream = croft_stream_open(channel, NULL, "/google.bytestream.ByteStream/Write",
		&bytestream__write_response__descriptor, &err);
	uint8_t *data = calloc(1, CHUNK);
	Bytestream__WriteRequest write = BYTESTREAM__WRITE_REQUEST__INIT;
	write.resource_name = "r";
	write.data = (ProtobufCBinaryData){CHUNK, data};
	for (int i = 0; i < 20; i++)
		assert_ok(croft_stream_write(stream, &write.base, &err), err);
	free(data);
	assert_ok(croft_stream_close_write(stream, &err), err);
	assert_int_equal(croft_stream_read(stream, arena, &message, &err), 1);
	assert_int_equal(((Bytestream__WriteResponse *)message)->committed_size, 20 * CHUNK);
	assert_int_equal(croft_stream_read(stream, arena, &message, &err), 0);
	croft_stream_destroy(stream);
	croft_arena_destroy(arena);
}

/* Not "cancelled", which nobody did: whoever called tries again, as with a server that is gone. */
static void a_server_that_goes_in_the_middle_of_a_call_is_unavailable(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	Bytestream__ReadRequest read = BYTESTREAM__READ_REQUEST__INIT;
	read.read_limit = 1000000;
	struct croft_stream *stream = croft_stream_open(channel, NULL,
		"/google.bytestream.ByteStream/Read", &bytestream__read_response__descriptor, &err);
	assert_ok(croft_stream_write(stream, &read.base, &err), err);
	void *message;
	assert_int_equal(croft_stream_read(stream, arena, &message, &err), 1);
	croft_server_shutdown(server, 0);
	while (croft_stream_read(stream, arena, &message, &err) > 0)
		croft_arena_reset(arena);
	assert_int_equal(err.code, CROFT_UNAVAILABLE);
	croft_stream_destroy(stream);
	croft_arena_destroy(arena);
}

static void a_reader_that_leaves_ends_the_writer(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	Bytestream__ReadRequest read = BYTESTREAM__READ_REQUEST__INIT;
	read.read_limit = 1000000;
	struct croft_stream *stream = croft_stream_open(channel, NULL,
		"/google.bytestream.ByteStream/Read", &bytestream__read_response__descriptor, &err);
	assert_ok(croft_stream_write(stream, &read.base, &err), err);
	void *message;
	assert_int_equal(croft_stream_read(stream, arena, &message, &err), 1);
	croft_stream_cancel(stream);
	while (croft_stream_read(stream, arena, &message, &err) > 0)
		croft_arena_reset(arena);
	assert_int_equal(err.code, CROFT_CANCELLED);
	croft_stream_destroy(stream);
	croft_arena_destroy(arena);
}

static void wait_for(atomic_int *counter, int value)
{
	for (int i = 0; i < 10000 && atomic_load(counter) < value; i++) {
		struct timespec pause = {0, 1000000};
		nanosleep(&pause, NULL);
	}
	assert_int_equal(atomic_load(counter), value);
}

static void parked_calls_hold_no_thread_and_close_once(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	static struct croft_stream *streams[PARKED];
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	for (int i = 0; i < PARKED; i++) {
		streams[i] = croft_stream_open(channel, NULL, "/grpc.health.v1.Health/Watch",
			&health__health_check_response__descriptor, &err);
		assert_ok(croft_stream_write(streams[i], &request.base, &err), err);
		assert_ok(croft_stream_close_write(streams[i], &err), err);
	}
	for (;;) {
		pthread_mutex_lock(&lock);
		int count = parked_count;
		pthread_mutex_unlock(&lock);
		if (count == PARKED)
			break;
		sched_yield();
	}
	/* A third is answered and ended from here, a third cancelled by the client, a third left open for
	 * the shutdown. */
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	response.status = 2;
	for (int i = 0; i < PARKED / 3; i++) {
		assert_true(croft_call_post(parked_calls[i], &response.base));
		assert_true(croft_call_post(parked_calls[i], &response.base));
		croft_call_finish(parked_calls[i], NULL);
	}
	int messages = 0, ended = 0;
	for (int i = 0; i < PARKED; i++) {
		if (i % 3 == 0) {
			croft_stream_cancel(streams[i]);
			void *message;
			int got;
			while ((got = croft_stream_read(streams[i], arena, &message, &err)) > 0)
				messages++;
			ended += got == 0;
		}
	}
	croft_arena_destroy(arena);
	for (int i = 0; i < PARKED; i++)
		croft_stream_destroy(streams[i]);
	croft_server_shutdown(server, 2000);
	wait_for(&closed_calls, PARKED);
}

static void a_session_echoes_until_the_client_leaves(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream = croft_stream_open(
		channel, NULL, "/test/EchoSizes", &bytestream__write_response__descriptor, &err);
	uint8_t data[100] = {0};
	void *message;
	for (size_t i = 0; i < 100; i++) {
		Bytestream__WriteRequest write = BYTESTREAM__WRITE_REQUEST__INIT;
		write.resource_name = "r";
		write.data = (ProtobufCBinaryData){i, data};
		assert_ok(croft_stream_write(stream, &write.base, &err), err);
		assert_int_equal(croft_stream_read(stream, arena, &message, &err), 1);
		assert_int_equal(((Bytestream__WriteResponse *)message)->committed_size, i);
		croft_arena_reset(arena);
	}
	assert_ok(croft_stream_close_write(stream, &err), err);
	assert_int_equal(croft_stream_read(stream, arena, &message, &err), 0);
	croft_stream_destroy(stream);
	wait_for(&closed_calls, 1);
	croft_arena_destroy(arena);
}

static void a_taken_port_is_an_error(void **state)
{
	char address[64];
	snprintf(address, sizeof(address), "127.0.0.1:%d", croft_server_port(server));
	struct croft_error err = CROFT_ERROR_INIT;
	assert_null(croft_server_create(&(struct croft_server_config){.address = address}, &err));
	assert_int_equal(err.code, CROFT_UNAVAILABLE);
}

static void nobody_there_is_unavailable(void **state)
{
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	croft_server_shutdown(server, 0);
	assert_null(ask("x", NULL, arena, &err));
	assert_int_equal(err.code, CROFT_UNAVAILABLE);
	croft_arena_destroy(arena);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(a_unary_call_is_answered),
		WITH_SERVER(a_failure_carries_its_details),
		WITH_SERVER(an_unknown_method_is_unimplemented),
		WITH_SERVER(a_malformed_request_is_refused),
		WITH_SERVER(a_deadline_ends_a_call_on_both_sides),
		WITH_SERVER(messages_stream_down_and_up),
		WITH_SERVER(a_server_that_goes_in_the_middle_of_a_call_is_unavailable),
		WITH_SERVER(a_reader_that_leaves_ends_the_writer),
		WITH_SERVER(parked_calls_hold_no_thread_and_close_once),
		WITH_SERVER(a_session_echoes_until_the_client_leaves),
		WITH_SERVER(a_taken_port_is_an_error),
		WITH_SERVER(nobody_there_is_unavailable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
