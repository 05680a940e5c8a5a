/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How streams end and how they hold back: who notices what, and when. */
#include "proto/base/cleanup.h"
#include "proto/rpc/client.h"
#include "proto/rpc/server.h"
#include "tests/unit/test.h"

#include "google/bytestream/bytestream.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MANY = 64 }; /* messages of 1 MiB: far more than all buffers on the way hold */

static struct croft_server *server;
static struct croft_channel *channel;
static atomic_int half_closed, lost, handlers, heard, written;
static atomic_bool may_go;

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void wait_for(atomic_int *counter, int value)
{
	for (int i = 0; i < 20000 && atomic_load(counter) < value; i++)
		pause_ms(1);
	assert_int_equal(atomic_load(counter), value);
}

/* Counts how the client's side ended. */
static bool count_ends(struct croft_call *call, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	void *message;
	int got;
	while ((got = croft_call_read(call, arena, &message, err)) > 0)
		atomic_fetch_add(&heard, ((Bytestream__WriteRequest *)message)->finish_write);
	atomic_fetch_add(got == 0 ? &half_closed : &lost, 1);
	atomic_fetch_add(&handlers, 1);
	Bytestream__WriteResponse response = BYTESTREAM__WRITE_RESPONSE__INIT;
	return got == 0 && croft_call_write(call, &response.base, err);
}

/* As ByteStream.Write of a blob that is there already: answers before it has read everything. */
static bool answer_early(struct croft_call *call, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	void *message;
	if (croft_call_read(call, arena, &message, err) <= 0)
		return false;
	Bytestream__WriteResponse response = BYTESTREAM__WRITE_RESPONSE__INIT;
	response.committed_size = 4711;
	return croft_call_write(call, &response.base, err);
}

static bool fail_early(struct croft_call *call, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	void *message;
	if (croft_call_read(call, arena, &message, err) <= 0)
		return false;
	return croft_error_set(err, CROFT_OUT_OF_RANGE, "not this one");
}

static bool send_many(struct croft_call *call, void *user, struct croft_error *err)
{
	static uint8_t data[65536];
	Bytestream__ReadResponse response = BYTESTREAM__READ_RESPONSE__INIT;
	response.data = (ProtobufCBinaryData){sizeof(data), data};
	bool ok = true;
	while (ok && (ok = croft_call_write(call, &response.base, err)))
		atomic_fetch_add(&written, 1);
	atomic_fetch_add(&handlers, 1);
	return ok;
}

/* Pieces of `read_offset` bytes, `read_limit` of them, each full of its number; then it may fail. */
static bool send_payloads(struct croft_call *call, void *user, struct croft_error *err)
{
	const Bytestream__ReadRequest *request = croft_call_request(call);
	size_t size = (size_t)request->read_offset;
	bool ok = true;
	for (int64_t i = 0; ok && i < request->read_limit; i++) {
		memset(croft_call_payload(call, size), (int)i, size);
		bool last = i + 1 == request->read_limit && !request->resource_name[0];
		ok = croft_call_write_payload(call, 10, size, last, err);
		atomic_fetch_add(&written, 1);
	}
	atomic_fetch_add(&handlers, 1);
	return ok && (!request->resource_name[0] ||
		croft_error_set(err, CROFT_DATA_LOSS, "%s", request->resource_name));
}

static bool read_when_told(struct croft_call *call, void *user, struct croft_error *err)
{
	while (!atomic_load(&may_go) && !croft_call_cancelled(call))
		pause_ms(1);
	return count_ends(call, user, err);
}

static bool echo(struct croft_call *call, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Bytestream__ReadResponse response = BYTESTREAM__READ_RESPONSE__INIT;
	void *message;
	int got;
	while ((got = croft_call_read(call, arena, &message, err)) > 0) {
		response.data = ((Bytestream__WriteRequest *)message)->data;
		if (!croft_call_write(call, &response.base, err))
			return false;
		croft_arena_reset(arena);
	}
	return got == 0;
}

static const struct croft_rpc_method methods[] = {
	{"/test/CountEnds", CROFT_RPC_CLIENT_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, count_ends, false},
	{"/test/AnswerEarly", CROFT_RPC_CLIENT_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, answer_early, false},
	{"/test/FailEarly", CROFT_RPC_CLIENT_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, fail_early, false},
	{"/test/SendMany", CROFT_RPC_SERVER_STREAM, &bytestream__read_request__descriptor,
		&bytestream__read_response__descriptor, send_many, false},
	{"/test/SendPayloads", CROFT_RPC_SERVER_STREAM, &bytestream__read_request__descriptor,
		&bytestream__read_response__descriptor, send_payloads, false},
	{"/test/ReadWhenTold", CROFT_RPC_CLIENT_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, read_when_told, false},
	{"/test/Echo", CROFT_RPC_BIDI_STREAM, &bytestream__write_request__descriptor,
		&bytestream__read_response__descriptor, echo, false},
};

static int set_up(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	server = croft_server_create(
		&(struct croft_server_config){.address = "127.0.0.1:0", .workers = 4}, &err);
	assert_ok(server != NULL, err);
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), NULL);
	assert_ok(croft_server_start(server, &err), err);
	char target[64];
	snprintf(target, sizeof(target), "grpc://127.0.0.1:%d", croft_server_port(server));
	channel = croft_channel_create(target, NULL, &err);
	assert_ok(channel != NULL, err);
	half_closed = lost = handlers = heard = written = 0;
	may_go = false;
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

static struct croft_stream *open_stream(const char *path, const struct croft_call_options *options,
	const ProtobufCMessageDescriptor *response)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream = croft_stream_open(channel, options, path, response, &err);
	assert_ok(stream != NULL, err);
	return stream;
}

static bool write_bytes(struct croft_stream *stream, size_t size, struct croft_error *err)
{
	static uint8_t data[1 << 20];
	Bytestream__WriteRequest write = BYTESTREAM__WRITE_REQUEST__INIT;
	write.data = (ProtobufCBinaryData){size, data};
	return croft_stream_write(stream, &write.base, err);
}

static void a_lost_client_is_never_taken_for_a_half_close(void **state)
{
	enum { ROUNDS = 500 };
	for (int i = 0; i < ROUNDS; i++) {
		struct croft_error err = CROFT_ERROR_INIT;
		struct croft_stream *stream =
			open_stream("/test/CountEnds", NULL, &bytestream__write_response__descriptor);
		Bytestream__WriteRequest write = BYTESTREAM__WRITE_REQUEST__INIT;
		write.finish_write = i % 2;
		assert_ok(croft_stream_write(stream, &write.base, &err), err);
		/* Every other is lost at whatever moment it is: one that the server has not seen yet may never
		 * reach the handler. */
		if (i % 2)
			wait_for(&heard, i / 2 + 1);
		croft_stream_destroy(stream); /* cancels */
	}
	croft_server_shutdown(server, 60000); /* waits for all handlers */
	assert_int_equal(atomic_load(&half_closed), 0);
	assert_true(atomic_load(&lost) >= ROUNDS / 2);
}

static void a_half_close_is_told_as_such(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream =
		open_stream("/test/CountEnds", NULL, &bytestream__write_response__descriptor);
	void *message;
	assert_ok(write_bytes(stream, 100, &err), err);
	assert_ok(croft_stream_close_write(stream, &err), err);
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), 1);
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), 0);
	croft_stream_destroy(stream);
	assert_int_equal(atomic_load(&half_closed), 1);
	assert_int_equal(atomic_load(&lost), 0);
}

static void an_early_answer_stops_the_writer_and_can_be_read(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream =
		open_stream("/test/AnswerEarly", NULL, &bytestream__write_response__descriptor);
	int writes = 0;
	while (writes < MANY && write_bytes(stream, 1 << 20, &err))
		writes++;
	assert_true(writes < MANY);
	void *message;
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), 1);
	assert_int_equal(((Bytestream__WriteResponse *)message)->committed_size, 4711);
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), 0);
	croft_stream_destroy(stream);
}

static void an_early_failure_is_what_the_writer_is_told(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream =
		open_stream("/test/FailEarly", NULL, &bytestream__write_response__descriptor);
	int writes = 0;
	while (writes < MANY && write_bytes(stream, 1 << 20, &err))
		writes++;
	assert_true(writes < MANY);
	assert_int_equal(err.code, CROFT_OUT_OF_RANGE);
	assert_string_equal(err.message, "not this one");
	croft_stream_destroy(stream);
}

static void a_server_writes_no_further_than_the_client_reads(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream =
		open_stream("/test/SendMany", NULL, &bytestream__read_response__descriptor);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	assert_ok(croft_stream_write(stream, &request.base, &err), err);
	assert_ok(croft_stream_close_write(stream, &err), err);
	void *message;
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), 1);
	int seen = -1;
	while (seen != atomic_load(&written)) {
		seen = atomic_load(&written);
		pause_ms(200);
	}
	/* A window's worth: a few MiB at most, however long the client sleeps. */
	assert_true(seen < 16 * 16);
	croft_stream_destroy(stream);
	wait_for(&handlers, 1);
}

static struct croft_stream *ask_payloads(int64_t size, int64_t count, const char *failure)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream =
		open_stream("/test/SendPayloads", NULL, &bytestream__read_response__descriptor);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.read_offset = size;
	request.read_limit = count;
	request.resource_name = (char *)failure;
	assert_ok(croft_stream_write(stream, &request.base, &err), err);
	assert_ok(croft_stream_close_write(stream, &err), err);
	return stream;
}

/* Reads that many, as they should be. */
static void expect_payloads(struct croft_stream *stream, struct croft_arena *arena, size_t size,
	int count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	for (int i = 0; i < count; i++) {
		void *message;
		assert_int_equal(croft_stream_read(stream, arena, &message, &err), 1);
		const Bytestream__ReadResponse *response = message;
		assert_int_equal(response->data.len, size);
		for (size_t at = 0; at < size; at += 1 + size / 7)
			assert_int_equal(response->data.data[at], i & 0xff);
		croft_arena_reset(arena);
	}
}

static void payloads_come_whole_and_in_order(void **state)
{
	static const size_t sizes[] = {0, 1, 127, 128, 5000, 200000, 1 << 20};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (int count = 0; count < 12; count += 1 + count) {
			struct croft_error err = CROFT_ERROR_INIT;
			void *message;
			struct croft_stream *stream = ask_payloads((int64_t)sizes[i], count, "");
			expect_payloads(stream, *state, sizes[i], count);
			assert_int_equal(croft_stream_read(stream, *state, &message, &err), 0);
			croft_stream_destroy(stream);
		}
	}
}

static void payloads_are_sent_before_the_failure_that_follows(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	void *message;
	struct croft_stream *stream = ask_payloads(300000, 20, "no more");
	expect_payloads(stream, *state, 300000, 20);
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), -1);
	assert_int_equal(err.code, CROFT_DATA_LOSS);
	assert_string_equal(err.message, "no more");
	croft_stream_destroy(stream);
}

static void payloads_wait_for_the_client_and_end_with_it(void **state)
{
	struct croft_stream *stream = ask_payloads(1 << 20, 1 << 20, "");
	expect_payloads(stream, *state, 1 << 20, 1);
	int seen = -1;
	while (seen != atomic_load(&written)) {
		seen = atomic_load(&written);
		pause_ms(200);
	}
	/* What the core and the connection hold, which grows with the bandwidth that it sees. */
	assert_true(seen < MANY / 2);
	croft_stream_destroy(stream);
	wait_for(&handlers, 1);
}

struct writing {
	struct croft_stream *stream;
	atomic_int writes;
};

static void *write_on(void *user)
{
	struct writing *writing = user;
	struct croft_error err = CROFT_ERROR_INIT;
	while (writing->writes < MANY && write_bytes(writing->stream, 1 << 20, &err))
		atomic_fetch_add(&writing->writes, 1);
	croft_stream_close_write(writing->stream, NULL);
	return NULL;
}

static void a_client_writes_no_further_than_the_server_reads(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct writing writing = {
		.stream = open_stream("/test/ReadWhenTold", NULL, &bytestream__write_response__descriptor)};
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, write_on, &writing), 0);
	int seen = -1;
	while (seen != writing.writes) {
		seen = writing.writes;
		pause_ms(200);
	}
	/* What the core and the connection hold, which grows with the bandwidth that it sees. */
	assert_true(seen < MANY / 2);
	atomic_store(&may_go, true);
	void *message;
	assert_int_equal(croft_stream_read(writing.stream, *state, &message, &err), 1);
	pthread_join(thread, NULL);
	assert_int_equal(writing.writes, MANY);
	croft_stream_destroy(writing.stream);
}

static void a_blocked_writer_is_freed_by_a_cancel_from_elsewhere(void **state)
{
	struct writing writing = {
		.stream = open_stream("/test/ReadWhenTold", NULL, &bytestream__write_response__descriptor)};
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, write_on, &writing), 0);
	pause_ms(50);
	croft_stream_cancel(writing.stream);
	pthread_join(thread, NULL);
	croft_stream_destroy(writing.stream);
}

static void one_thread_reads_while_another_writes(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct writing writing = {
		.stream = open_stream("/test/Echo", NULL, &bytestream__read_response__descriptor)};
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, write_on, &writing), 0);
	void *message;
	int got, count = 0;
	while ((got = croft_stream_read(writing.stream, *state, &message, &err)) > 0) {
		assert_int_equal(((Bytestream__ReadResponse *)message)->data.len, 1 << 20);
		croft_arena_reset(*state);
		count++;
	}
	assert_ok(got == 0, err);
	assert_int_equal(count, MANY);
	pthread_join(thread, NULL);
	croft_stream_destroy(writing.stream);
}

static void the_deadline_ends_a_stream_that_is_read_and_written(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream = open_stream("/test/CountEnds",
		&(struct croft_call_options){.timeout_ms = 100}, &bytestream__write_response__descriptor);
	void *message;
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), -1);
	assert_int_equal(err.code, CROFT_DEADLINE_EXCEEDED);
	assert_false(write_bytes(stream, 1, &err));
	assert_int_equal(err.code, CROFT_DEADLINE_EXCEEDED);
	croft_stream_destroy(stream);
	wait_for(&lost, 1);
}

/* More handlers than workers wait for clients that do nothing: others are still served. */
static void clients_that_do_nothing_do_not_hold_up_others(void **state)
{
	enum { IDLE = 64 };
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *idle[IDLE];
	for (int i = 0; i < IDLE; i++) {
		idle[i] = open_stream("/test/CountEnds", NULL, &bytestream__write_response__descriptor);
		assert_ok(write_bytes(idle[i], 1, &err), err);
	}
	a_half_close_is_told_as_such(state);
	for (int i = 0; i < IDLE; i++)
		croft_stream_destroy(idle[i]);
	wait_for(&lost, IDLE);
}

static void a_stopping_server_ends_streams_in_time(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_stream *stream =
		open_stream("/test/CountEnds", NULL, &bytestream__write_response__descriptor);
	assert_ok(write_bytes(stream, 1, &err), err);
	struct croft_stream *polite =
		open_stream("/test/AnswerEarly", NULL, &bytestream__write_response__descriptor);
	assert_ok(write_bytes(polite, 1, &err), err);
	void *message;
	assert_int_equal(croft_stream_read(polite, *state, &message, &err), 1);
	croft_server_shutdown(server, 100);
	assert_int_equal(atomic_load(&lost), 1);
	assert_int_equal(croft_stream_read(stream, *state, &message, &err), -1);
	assert_int_equal(croft_stream_read(polite, *state, &message, &err), 0);
	croft_stream_destroy(stream);
	croft_stream_destroy(polite);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(a_lost_client_is_never_taken_for_a_half_close),
		WITH_SERVER(a_half_close_is_told_as_such),
		WITH_SERVER(an_early_answer_stops_the_writer_and_can_be_read),
		WITH_SERVER(an_early_failure_is_what_the_writer_is_told),
		WITH_SERVER(a_server_writes_no_further_than_the_client_reads),
		WITH_SERVER(payloads_come_whole_and_in_order),
		WITH_SERVER(payloads_are_sent_before_the_failure_that_follows),
		WITH_SERVER(payloads_wait_for_the_client_and_end_with_it),
		WITH_SERVER(a_client_writes_no_further_than_the_server_reads),
		WITH_SERVER(a_blocked_writer_is_freed_by_a_cancel_from_elsewhere),
		WITH_SERVER(one_thread_reads_while_another_writes),
		WITH_SERVER(the_deadline_ends_a_stream_that_is_read_and_written),
		WITH_SERVER(clients_that_do_nothing_do_not_hold_up_others),
		WITH_SERVER(a_stopping_server_ends_streams_in_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
