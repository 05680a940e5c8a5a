/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the RPC runtime itself costs: empty handlers, streams of blobs, parked calls. The server is a
 * process of its own, so that its processor time and memory are told apart from the client's.
 *
 *	rpc [--seconds N] [--threads N] [--parked N]
 */
#include "proto/base/arena.h"
#include "proto/rpc/client.h"
#include "proto/rpc/server.h"

#include "google/bytestream/bytestream.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 20, MOST_THREADS = 256, MOST_SAMPLES = 200000 };

static double seconds = 3;
static int threads = 32;
static int parked = 20000;

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void fail(const struct croft_error *err)
{
	fprintf(stderr, "rpc: %s: %s\n", croft_code_name(err->code), err->message);
	exit(1);
}

/* The server ---------------------------------------------------------------------------------- */

static bool empty(struct croft_call *call, void *user, struct croft_error *err)
{
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	return croft_call_write(call, &response.base, err);
}

/* Nothing of an empty handler's is left to do but this: the server's own figures. */
static bool usage(struct croft_call *call, void *user, struct croft_error *err)
{
	struct rusage used;
	getrusage(RUSAGE_SELF, &used);
	FILE *file = fopen("/proc/self/statm", "r");
	long pages = 0;
	if (!file || fscanf(file, "%*d %ld", &pages) != 1)
		pages = 0;
	if (file)
		fclose(file);
	Bytestream__QueryWriteStatusResponse response = BYTESTREAM__QUERY_WRITE_STATUS_RESPONSE__INIT;
	const Bytestream__QueryWriteStatusRequest *request = croft_call_request(call);
	response.committed_size = request->resource_name[0] == 'm'
		? pages * sysconf(_SC_PAGESIZE)
		: (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 + used.ru_utime.tv_usec +
			used.ru_stime.tv_usec;
	return croft_call_write(call, &response.base, err);
}

static void on_closed(void *user)
{
}

static bool park(struct croft_call *call, void *user, struct croft_error *err)
{
	croft_call_park(call, &(struct croft_parked){.on_closed = on_closed});
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	croft_call_post(call, &response.base);
	return true;
}

static bool send_chunks(struct croft_call *call, void *user, struct croft_error *err)
{
	static uint8_t chunk[CHUNK_BYTES];
	const Bytestream__ReadRequest *request = croft_call_request(call);
	Bytestream__ReadResponse response = BYTESTREAM__READ_RESPONSE__INIT;
	response.data = (ProtobufCBinaryData){(size_t)request->read_offset, chunk};
	for (int64_t i = 0; i < request->read_limit; i++)
		if (!croft_call_write(call, &response.base, err))
			return false;
	return true;
}

static bool take_chunks(struct croft_call *call, void *user, struct croft_error *err)
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

static const struct croft_rpc_method methods[] = {
	{"/bench/Worker", CROFT_RPC_UNARY, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, empty, false},
	{"/bench/Immediate", CROFT_RPC_UNARY, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, empty, true},
	{"/bench/Usage", CROFT_RPC_UNARY, &bytestream__query_write_status_request__descriptor,
		&bytestream__query_write_status_response__descriptor, usage, false},
	{"/bench/Park", CROFT_RPC_SERVER_STREAM, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, park, false},
	{"/bench/Down", CROFT_RPC_SERVER_STREAM, &bytestream__read_request__descriptor,
		&bytestream__read_response__descriptor, send_chunks, false},
	{"/bench/Up", CROFT_RPC_CLIENT_STREAM, &bytestream__write_request__descriptor,
		&bytestream__write_response__descriptor, take_chunks, false},
};

/* Serves until the other end of the pipe is closed. */
static int serve(int port_pipe, int life_pipe)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_server *server = croft_server_create(
		&(struct croft_server_config){.address = "127.0.0.1:0"}, &err);
	if (!server)
		fail(&err);
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), NULL);
	if (!croft_server_start(server, &err))
		fail(&err);
	int port = croft_server_port(server);
	char byte;
	if (write(port_pipe, &port, sizeof(port)) != sizeof(port) || read(life_pipe, &byte, 1) != 0)
		return 1;
	croft_server_destroy(server);
	return 0;
}

/* The client ---------------------------------------------------------------------------------- */

static char target[64];

static struct croft_channel *connect_channel(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_channel *channel = croft_channel_create(target, NULL, &err);
	if (!channel)
		fail(&err);
	return channel;
}

static int64_t server_figure(struct croft_channel *channel, const char *which)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_arena *arena = croft_arena_create();
	Bytestream__QueryWriteStatusRequest request = BYTESTREAM__QUERY_WRITE_STATUS_REQUEST__INIT;
	request.resource_name = (char *)which;
	Bytestream__QueryWriteStatusResponse *response = croft_unary(channel, NULL, "/bench/Usage",
		&request.base, &bytestream__query_write_status_response__descriptor, arena, &err);
	if (!response)
		fail(&err);
	int64_t figure = response->committed_size;
	croft_arena_destroy(arena);
	return figure;
}

struct caller {
	pthread_t thread;
	struct croft_channel *channel;
	const char *path;
	double until;
	size_t calls;
	float *samples; /* microseconds */
};

static void *call_until(void *user)
{
	struct caller *caller = user;
	struct croft_arena *arena = croft_arena_create();
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	struct croft_error err = CROFT_ERROR_INIT;
	for (double before = now(), after; before < caller->until; before = after) {
		if (!croft_unary(caller->channel, NULL, caller->path, &request.base,
				&health__health_check_response__descriptor, arena, &err))
			fail(&err);
		after = now();
		caller->samples[caller->calls++ % MOST_SAMPLES] = (float)((after - before) * 1e6);
		croft_arena_reset(arena);
	}
	croft_arena_destroy(arena);
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static void measure_unary(const char *name, const char *path, int count)
{
	static struct caller callers[MOST_THREADS];
	struct croft_channel *channels[2] = {connect_channel(), connect_channel()};
	int64_t used = server_figure(channels[0], "time");
	double start = now();
	for (int i = 0; i < count; i++) {
		callers[i] = (struct caller){.channel = channels[i % 2], .path = path,
			.until = start + seconds, .samples = croft_array(MOST_SAMPLES, sizeof(float))};
		if (pthread_create(&callers[i].thread, NULL, call_until, &callers[i]) != 0)
			abort();
	}
	size_t calls = 0, kept = 0;
	float *samples = croft_array((size_t)count * MOST_SAMPLES, sizeof(float));
	for (int i = 0; i < count; i++) {
		pthread_join(callers[i].thread, NULL);
		size_t have = callers[i].calls < MOST_SAMPLES ? callers[i].calls : MOST_SAMPLES;
		memcpy(samples + kept, callers[i].samples, have * sizeof(float));
		calls += callers[i].calls;
		kept += have;
		free(callers[i].samples);
	}
	double took = now() - start;
	used = server_figure(channels[0], "time") - used;
	qsort(samples, kept, sizeof(float), by_value);
	printf("unary %-10s %3d threads %8.0f calls/s  server %5.1f us/call  p50 %5.0f us  p99 %5.0f us\n",
		name, count, (double)calls / took, (double)used / (double)calls, (double)samples[kept / 2],
		(double)samples[kept * 99 / 100]);
	free(samples);
	croft_channel_destroy(channels[0]);
	croft_channel_destroy(channels[1]);
}

static void report_stream(const char *name, size_t chunk, double bytes, double took, int64_t used)
{
	printf("stream %-5s %5zu KiB messages %7.2f GB/s  server %5.2f s of processor per GB\n", name,
		chunk >> 10, bytes / took / 1e9, (double)used / 1e6 / (bytes / 1e9));
}

static void measure_down(size_t chunk)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_arena *arena = croft_arena_create();
	struct croft_channel *channel = connect_channel();
	int64_t used = server_figure(channel, "time");
	double start = now(), bytes = 0;
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.read_offset = (int64_t)chunk;
	request.read_limit = INT64_MAX;
	struct croft_stream *stream = croft_stream_open(
		channel, NULL, "/bench/Down", &bytestream__read_response__descriptor, &err);
	if (!croft_stream_write(stream, &request.base, &err) ||
		!croft_stream_close_write(stream, &err))
		fail(&err);
	while (now() - start < seconds) {
		void *message;
		if (croft_stream_read(stream, arena, &message, &err) != 1)
			fail(&err);
		bytes += (double)((Bytestream__ReadResponse *)message)->data.len;
		croft_arena_reset(arena);
	}
	double took = now() - start;
	croft_stream_destroy(stream);
	report_stream("down", chunk, bytes, took, server_figure(channel, "time") - used);
	croft_channel_destroy(channel);
	croft_arena_destroy(arena);
}

static void measure_up(size_t chunk)
{
	static uint8_t data[CHUNK_BYTES];
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_arena *arena = croft_arena_create();
	struct croft_channel *channel = connect_channel();
	int64_t used = server_figure(channel, "time");
	double start = now(), bytes = 0;
	Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
	request.data = (ProtobufCBinaryData){chunk, data};
	struct croft_stream *stream = croft_stream_open(
		channel, NULL, "/bench/Up", &bytestream__write_response__descriptor, &err);
	for (; now() - start < seconds; bytes += (double)chunk)
		if (!croft_stream_write(stream, &request.base, &err))
			fail(&err);
	void *message;
	if (!croft_stream_close_write(stream, &err) ||
		croft_stream_read(stream, arena, &message, &err) != 1)
		fail(&err);
	double took = now() - start;
	croft_stream_destroy(stream);
	report_stream("up", chunk, bytes, took, server_figure(channel, "time") - used);
	croft_channel_destroy(channel);
	croft_arena_destroy(arena);
}

static void measure_parked(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_arena *arena = croft_arena_create();
	struct croft_channel *channel = connect_channel();
	struct croft_stream **streams = croft_array((size_t)parked, sizeof(void *));
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	int64_t before = server_figure(channel, "memory");
	double start = now();
	for (int i = 0; i < parked; i++) {
		streams[i] = croft_stream_open(
			channel, NULL, "/bench/Park", &health__health_check_response__descriptor, &err);
		if (!croft_stream_write(streams[i], &request.base, &err) ||
			!croft_stream_close_write(streams[i], &err))
			fail(&err);
	}
	for (int i = 0; i < parked; i++) {
		void *message;
		if (croft_stream_read(streams[i], arena, &message, &err) != 1)
			fail(&err);
		croft_arena_reset(arena);
	}
	double took = now() - start;
	int64_t memory = server_figure(channel, "memory") - before;
	printf("parked %d calls in %.2f s, server memory %.1f MB, %.0f bytes per call\n", parked, took,
		(double)memory / 1e6, (double)memory / parked);
	for (int i = 0; i < parked; i++)
		croft_stream_destroy(streams[i]);
	free(streams);
	croft_channel_destroy(channel);
	croft_arena_destroy(arena);
}

static void read_options(int argc, char **argv)
{
	static const struct option options[] = {{"seconds", required_argument, NULL, 's'},
		{"threads", required_argument, NULL, 't'}, {"parked", required_argument, NULL, 'p'}, {0}};
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (option == 's')
			seconds = atof(optarg);
		else if (option == 't')
			threads = atoi(optarg);
		else if (option == 'p')
			parked = atoi(optarg);
		else
			exit(2);
	}
	if (threads < 1 || threads > MOST_THREADS || seconds <= 0 || parked < 0) {
		fprintf(stderr, "rpc: 1 to %d threads, more than 0 seconds\n", MOST_THREADS);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	read_options(argc, argv);
	int ports[2], life[2], port = 0;
	if (pipe(ports) != 0 || pipe(life) != 0)
		abort();
	/* Before the core has threads: it does not survive a fork. */
	pid_t child = fork();
	if (child == 0) {
		close(life[1]);
		close(ports[0]);
		_exit(serve(ports[1], life[0]));
	}
	close(ports[1]);
	close(life[0]);
	if (child < 0 || read(ports[0], &port, sizeof(port)) != sizeof(port))
		return 1;
	snprintf(target, sizeof(target), "grpc://127.0.0.1:%d", port);
	measure_unary("worker", "/bench/Worker", 1);
	measure_unary("worker", "/bench/Worker", threads);
	measure_unary("immediate", "/bench/Immediate", 1);
	measure_unary("immediate", "/bench/Immediate", threads);
	for (size_t chunk = 64 << 10; chunk <= CHUNK_BYTES; chunk *= 4) {
		measure_down(chunk);
		measure_up(chunk);
	}
	if (parked > 0)
		measure_parked();
	close(life[1]);
	int status;
	return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}
