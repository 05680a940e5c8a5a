/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parked calls: many of them, and every way in which they end at the same time. */
#include "proto/rpc/client.h"
#include "proto/rpc/server.h"
#include "tests/unit/test.h"

#include "google/bytestream/bytestream.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The sanitizers' shadow memory and time are dear. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MANY = 1000 };
#else
enum { MANY = 10000 };
#endif

struct session {
	struct croft_call *call;
	atomic_int closed;
	size_t bytes;
};

static struct croft_server *server;
static struct croft_channel *channel;
static struct session sessions[MANY];
static atomic_int next_session, opened, closed, closed_twice;

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void wait_for(atomic_int *counter, int value)
{
	for (int i = 0; i < 60000 && atomic_load(counter) < value; i++)
		pause_ms(1);
	assert_int_equal(atomic_load(counter), value);
}

static void on_closed(void *user)
{
	struct session *session = user;
	if (atomic_fetch_add(&session->closed, 1) > 0)
		atomic_fetch_add(&closed_twice, 1);
	atomic_fetch_add(&closed, 1);
}

static void on_message(void *user, void *message, struct croft_arena **arena)
{
	struct session *session = user;
	const Bytestream__WriteRequest *request = message;
	session->bytes += request->data.len;
	Bytestream__WriteResponse response = BYTESTREAM__WRITE_RESPONSE__INIT;
	response.committed_size = (int64_t)session->bytes;
	croft_call_post(session->call, &response.base);
}

static struct croft_arena *kept;

static void keep_message(void *user, void *message, struct croft_arena **arena)
{
	on_message(user, message, arena);
	croft_arena_destroy(kept);
	kept = *arena;
	*arena = NULL;
}

/* The test holds the reference, until release(). */
static struct session *new_session(struct croft_call *call)
{
	struct session *session = &sessions[atomic_fetch_add(&next_session, 1) % MANY];
	session->call = croft_call_ref(call);
	return session;
}

static bool watch(struct croft_call *call, void *user, struct croft_error *err)
{
	struct session *session = new_session(call);
	croft_call_park(call,
		&(struct croft_parked){.on_closed = on_closed, .user = session, .queue_limit = 1 << 20});
	atomic_fetch_add(&opened, 1); /* from here on it can be posted to */
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	response.status = 1 + (int)(session - sessions);
	croft_call_post(call, &response.base);
	return true;
}

static bool converse(struct croft_call *call, void *user, struct croft_error *err)
{
	struct session *session = new_session(call);
	croft_call_park(call, &(struct croft_parked){.on_message = on_message, .on_closed = on_closed, .user = session});
	atomic_fetch_add(&opened, 1);
	return true;
}

/* On the queue's own thread; it keeps the messages. */
static bool converse_at_once(struct croft_call *call, void *user, struct croft_error *err)
{
	croft_call_park(call, &(struct croft_parked){.on_message = keep_message, .on_closed = on_closed,
		.user = new_session(call), .immediate = true});
	atomic_fetch_add(&opened, 1);
	return true;
}

static bool park_and_fail(struct croft_call *call, void *user, struct croft_error *err)
{
	croft_call_park(call, &(struct croft_parked){.on_closed = on_closed, .user = new_session(call)});
	atomic_fetch_add(&opened, 1);
	return croft_error_set(err, CROFT_ABORTED, "after all");
}

static const struct croft_rpc_method methods[] = {
	{"/test/Watch", CROFT_RPC_SERVER_STREAM, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, watch, false},
	{"/test/Converse", CROFT_RPC_BIDI_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, converse, false},
	{"/test/ConverseAtOnce", CROFT_RPC_BIDI_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, converse_at_once, false},
	{"/test/ParkAndFail", CROFT_RPC_SERVER_STREAM, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, park_and_fail, false},
};

static int set_up(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	server = croft_server_create(
		&(struct croft_server_config){.address = "127.0.0.1:0", .workers = 8}, &err);
	assert_ok(server != NULL, err);
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), NULL);
	assert_ok(croft_server_start(server, &err), err);
	char target[64];
	snprintf(target, sizeof(target), "127.0.0.1:%d", croft_server_port(server));
	channel = croft_channel_create(target, NULL, &err);
	assert_ok(channel != NULL, err);
	memset(sessions, 0, sizeof(sessions));
	next_session = opened = closed = closed_twice = 0;
	*state = croft_arena_create();
	return 0;
}

static void release(void)
{
	for (int i = 0; i < MANY; i++) {
		croft_call_unref(sessions[i].call);
		sessions[i].call = NULL;
	}
}

static int tear_down(void **state)
{
	croft_arena_destroy(*state);
	croft_channel_destroy(channel);
	croft_server_shutdown(server, 5000);
	int still_open = atomic_load(&opened) - atomic_load(&closed);
	release();
	croft_server_destroy(server);
	return still_open || atomic_load(&closed_twice) ? -1 : 0;
}

static struct croft_stream *open_watch(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	struct croft_stream *stream = croft_stream_open(
		channel, NULL, "/test/Watch", &health__health_check_response__descriptor, &err);
	assert_ok(croft_stream_write(stream, &request.base, &err), err);
	assert_ok(croft_stream_close_write(stream, &err), err);
	return stream;
}

static struct croft_stream *open_method(const char *path)
{
	struct croft_error err = CROFT_ERROR_INIT;
	/* On a busy machine the first connection may take more than one attempt. */
	struct croft_call_options options = {.wait_for_ready = true};
	struct croft_stream *stream = croft_stream_open(
		channel, &options, path, &bytestream__write_response__descriptor, &err);
	assert_ok(stream != NULL, err);
	return stream;
}

static struct croft_stream *open_conversation(void)
{
	return open_method("/test/Converse");
}

static int number_of_threads(void)
{
	FILE *file = fopen("/proc/self/status", "r");
	char line[256];
	int count = 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "Threads: %d", &count) == 1)
			break;
	fclose(file);
	return count;
}

/* Each hears from the server once at first, and once when it is told that the end has come. */
static void ten_thousand_calls_wait_without_threads(void **state)
{
	static struct croft_stream *streams[MANY];
	struct croft_error err = CROFT_ERROR_INIT;
	int threads_before = number_of_threads();
	void *message;
	for (int i = 0; i < MANY; i++)
		streams[i] = open_watch();
	for (int i = 0; i < MANY; i++)
		assert_int_equal(croft_stream_read(streams[i], *state, &message, &err), 1);
	wait_for(&opened, MANY);
	assert_true(number_of_threads() < threads_before + 40);
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	response.status = 1000000;
	for (int i = 0; i < MANY; i++) {
		if (i % 2) {
			croft_call_post_last(sessions[i].call, &response.base);
		} else {
			assert_true(croft_call_post(sessions[i].call, &response.base));
			croft_call_finish(sessions[i].call, NULL);
		}
		assert_false(croft_call_post(sessions[i].call, &response.base));
	}
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(croft_stream_read(streams[i], *state, &message, &err), 1);
		assert_int_equal(((Health__HealthCheckResponse *)message)->status, 1000000);
		assert_int_equal(croft_stream_read(streams[i], *state, &message, &err), 0);
		croft_stream_destroy(streams[i]);
		croft_arena_reset(*state);
	}
	wait_for(&closed, MANY);
}

static void ten_thousand_sessions_talk(void **state)
{
	static struct croft_stream *streams[MANY];
	struct croft_error err = CROFT_ERROR_INIT;
	Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
	uint8_t data[100] = {0};
	void *message;
	for (int i = 0; i < MANY; i++)
		streams[i] = open_conversation();
	for (int round = 1; round <= 2; round++) {
		request.data = (ProtobufCBinaryData){10, data};
		for (int i = 0; i < MANY; i++)
			assert_ok(croft_stream_write(streams[i], &request.base, &err), err);
		for (int i = 0; i < MANY; i++) {
			assert_ok(croft_stream_read(streams[i], *state, &message, &err) == 1, err);
			assert_int_equal(((Bytestream__WriteResponse *)message)->committed_size, 10 * round);
			croft_arena_reset(*state);
		}
	}
	for (int i = 0; i < MANY; i++)
		croft_stream_destroy(streams[i]);
	wait_for(&closed, MANY);
}

static void messages_may_be_kept(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream = open_method("/test/ConverseAtOnce");
	Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
	uint8_t data[100] = {0};
	void *message;
	request.data = (ProtobufCBinaryData){sizeof(data), data};
	for (int round = 1; round <= 100; round++) {
		assert_ok(croft_stream_write(stream, &request.base, &err), err);
		assert_ok(croft_stream_read(stream, *state, &message, &err) == 1, err);
		assert_int_equal(((Bytestream__WriteResponse *)message)->committed_size, 100 * round);
	}
	croft_stream_destroy(stream);
	wait_for(&closed, 1);
	assert_non_null(kept);
	croft_arena_destroy(kept);
	kept = NULL;
}

struct racer {
	pthread_t thread;
	int seed;
};

/* Posts to and finishes random calls, open or not. */
static void *race(void *user)
{
	struct racer *racer = user;
	unsigned random = (unsigned)racer->seed;
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	Bytestream__WriteResponse other = BYTESTREAM__WRITE_RESPONSE__INIT;
	while (atomic_load(&closed) < 600) {
		random = random * 1664525 + 1013904223;
		int which = (int)((random >> 8) % 600);
		struct croft_call *call = sessions[which].call;
		if (random >> 24 < 250)
			croft_call_post(call, which % 2 ? &response.base : &other.base);
		else
			croft_call_finish(call, NULL);
	}
	return NULL;
}

static void ends_from_all_sides_are_told_once(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	static struct croft_stream *streams[600];
	struct racer racers[3];
	for (int i = 0; i < 600; i++)
		streams[i] = i % 2 ? open_watch() : open_conversation();
	for (int i = 0; i < 600; i += 2) {
		Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
		croft_stream_write(streams[i], &request.base, &err);
	}
	wait_for(&opened, 600);
	for (int i = 0; i < 3; i++) {
		racers[i].seed = i;
		assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
	}
	for (int i = 0; i < 600; i++) {
		if (i % 3 == 0)
			croft_stream_cancel(streams[i]);
		else if (i % 3 == 1)
			croft_stream_close_write(streams[i], &err);
		croft_stream_destroy(streams[i]);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(racers[i].thread, NULL);
	wait_for(&closed, 600);
}

static void a_client_that_does_not_read_is_dropped(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream = open_watch();
	wait_for(&opened, 1);
	void *message;
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), 1);
	Bytestream__ReadResponse response = BYTESTREAM__READ_RESPONSE__INIT;
	uint8_t *data = calloc(1, 65536);
	response.data = (ProtobufCBinaryData){65536, data};
	int posted = 0;
	while (posted < 10000 && croft_call_post(sessions[0].call, &response.base))
		posted++;
	free(data);
	/* 1 MiB in our queue, and what the transport and its windows took. */
	assert_in_range(posted, 10, 1000);
	wait_for(&closed, 1);
	croft_stream_destroy(stream);
}

static void what_is_queued_is_sent_before_the_end(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT, end = CROFT_ERROR_INIT;
	struct croft_stream *stream = open_watch();
	wait_for(&opened, 1);
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	for (int i = 1; i <= 1000; i++) {
		response.status = i;
		assert_true(croft_call_post(sessions[0].call, &response.base));
	}
	croft_error_set(&end, CROFT_ABORTED, "that was all");
	croft_call_finish(sessions[0].call, &end);
	void *message;
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), 1); /* watch's own */
	for (int i = 1; i <= 1000; i++) {
		assert_int_equal(croft_stream_read(stream, *state, &message, &err), 1);
		assert_int_equal(((Health__HealthCheckResponse *)message)->status, i);
	}
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), -1);
	assert_int_equal(err.code, CROFT_ABORTED);
	assert_string_equal(err.message, "that was all");
	croft_stream_destroy(stream);
}

static void a_handler_that_parks_may_still_fail(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	struct croft_stream *stream = croft_stream_open(
		channel, NULL, "/test/ParkAndFail", &health__health_check_response__descriptor, &err);
	assert_ok(croft_stream_write(stream, &request.base, &err), err);
	void *message;
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), -1);
	assert_int_equal(err.code, CROFT_ABORTED);
	croft_stream_destroy(stream);
	wait_for(&closed, 1);
}

static void a_malformed_message_ends_the_session(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream = open_conversation();
	Bytestream__QueryWriteStatusResponse wrong = BYTESTREAM__QUERY_WRITE_STATUS_RESPONSE__INIT;
	wrong.committed_size = 7; /* field 1, a number where a string is */
	assert_ok(croft_stream_write(stream, &wrong.base, &err), err);
	void *message;
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), -1);
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	croft_stream_destroy(stream);
	wait_for(&closed, 1);
}

static void a_stopping_server_closes_parked_calls(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *streams[100];
	void *message;
	for (int i = 0; i < 100; i++)
		streams[i] = i % 2 ? open_watch() : open_conversation();
	wait_for(&opened, 100);
	croft_server_shutdown(server, 50);
	assert_int_equal(atomic_load(&closed), 100);
	for (int i = 0; i < 100; i++) {
		int got;
		while ((got = croft_stream_read(streams[i], *state, &message, &err)) > 0)
			;
		assert_int_equal(got, -1);
		croft_stream_destroy(streams[i]);
	}
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(ten_thousand_calls_wait_without_threads),
		WITH_SERVER(ten_thousand_sessions_talk),
		WITH_SERVER(messages_may_be_kept),
		WITH_SERVER(ends_from_all_sides_are_told_once),
		WITH_SERVER(a_client_that_does_not_read_is_dropped),
		WITH_SERVER(what_is_queued_is_sent_before_the_end),
		WITH_SERVER(a_handler_that_parks_may_still_fail),
		WITH_SERVER(a_malformed_message_ends_the_session),
		WITH_SERVER(a_stopping_server_closes_parked_calls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
