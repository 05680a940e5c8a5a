/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server's queues: each thread owns one completion queue of the core, asks it for calls of every
 * method, and runs what completes.
 */
#include "proto/rpc/call.h"

#include "proto/base/cleanup.h"
#include "proto/rpc/tls.h"

#include <errno.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Calls of one method that a queue is ready to take before the core has to wait for it. */
enum { READY_CALLS = 4, DEFAULT_WORKERS = 256, MAX_QUEUE_THREADS = 4 };

struct registered {
	struct registered *next;
	const struct croft_rpc_method *method;
	void *user;
	void *core;
};

struct queue {
	struct croft_server *server;
	grpc_completion_queue *core;
	pthread_t thread;
};

struct croft_server {
	grpc_server *core;
	struct croft_message_limits limits;
	struct croft_workers *workers;
	struct registered *methods;
	struct queue *queues;
	unsigned queue_count;
	int port;
	bool started;
	char *address;

	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t changed;
	size_t running; /* calls that have not ended */
	bool stopping, stopped;
	struct event stop_event;
};

/* A call that is asked for and has not come yet. */
struct awaited {
	struct event event;
	struct queue *queue;
	struct registered *registered; /* NULL: any other method */
	grpc_call *call;
	gpr_timespec deadline;
	grpc_metadata_array metadata;
	grpc_byte_buffer *payload;
	grpc_call_details details;
};

static void call_arrived(struct event *event, bool ok);

/* Whether the core is to tell of a call only when its first message has come. */
static bool reads_payload(const struct croft_rpc_method *method)
{
	return method->kind != CROFT_RPC_BIDI_STREAM;
}

static void await_call(struct queue *queue, struct registered *registered)
{
	struct awaited *awaited = croft_zalloc(sizeof(*awaited));
	awaited->event.complete = call_arrived;
	awaited->queue = queue;
	awaited->registered = registered;
	grpc_metadata_array_init(&awaited->metadata);
	grpc_call_error failed;
	if (registered) {
		failed = grpc_server_request_registered_call(queue->server->core, registered->core,
			&awaited->call, &awaited->deadline, &awaited->metadata,
			reads_payload(registered->method) ? &awaited->payload : NULL, queue->core, queue->core,
			event_hand(&awaited->event));
	} else {
		grpc_call_details_init(&awaited->details);
		failed = grpc_server_request_call(queue->server->core, &awaited->call, &awaited->details,
			&awaited->metadata, queue->core, queue->core, event_hand(&awaited->event));
	}
	if (failed != GRPC_CALL_OK)
		abort(); /* only wrong use of the core is refused; a stopping server fails the event instead */
}

/* False: the server is stopping. */
static bool count_call(struct croft_server *server)
{
	CROFT_LOCKED(&server->lock);
	server->running++;
	return !server->stopping;
}

static void call_arrived(struct event *event, bool ok)
{
	struct awaited *awaited = (struct awaited *)event;
	struct registered *registered = awaited->registered;
	struct croft_server *server = awaited->queue->server;
	if (!ok) {
		grpc_metadata_array_destroy(&awaited->metadata);
		if (!registered)
			grpc_call_details_destroy(&awaited->details);
		free(awaited);
		return;
	}
	if (count_call(server))
		await_call(awaited->queue, registered);
	struct croft_call *call = call_create(server, registered ? registered->method : NULL,
		registered ? registered->user : NULL, awaited->call,
		registered ? awaited->deadline : awaited->details.deadline, &awaited->metadata,
		awaited->payload);
	if (!registered) {
		struct croft_slice path = croft_core_slice(&awaited->details.method);
		call->path = strndup(path.data, path.size);
		grpc_call_details_destroy(&awaited->details);
	}
	free(awaited);
	call_begin(call);
}

void server_call_ended(struct croft_server *server)
{
	CROFT_LOCKED(&server->lock);
	if (--server->running == 0)
		pthread_cond_broadcast(&server->changed);
}

struct croft_workers *server_workers(struct croft_server *server)
{
	return server->workers;
}

const struct croft_message_limits *server_limits(struct croft_server *server)
{
	return &server->limits;
}

static void *queue_thread(void *user)
{
	struct queue *queue = user;
	for (;;) {
		grpc_event event = grpc_completion_queue_next(
			queue->core, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		struct event *what = event.tag;
		event_complete(what, event.success);
	}
}

/* Starting ----------------------------------------------------------------------------------- */

static bool bind_port(struct croft_server *server, const struct croft_tls *tls,
	struct croft_error *err)
{
	grpc_server_credentials *credentials = croft_tls_server(tls, err);
	if (!credentials)
		return false;
	server->port = grpc_server_add_http2_port(server->core, server->address, credentials);
	grpc_server_credentials_release(credentials);
	if (server->port <= 0)
		return croft_error_set(err, CROFT_UNAVAILABLE,
			"cannot listen on %s: is something else listening there, or is it no address of this "
			"machine?", server->address);
	return true;
}

static grpc_server *create_core(size_t wire_bytes)
{
	grpc_arg arguments[] = {
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ALLOW_REUSEPORT, {.integer = 0}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
			{.integer = (int)wire_bytes}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, {.integer = -1}},
		/* A peer that vanished without a word is noticed within half a minute. */
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_KEEPALIVE_TIME_MS, {.integer = 20000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_KEEPALIVE_TIMEOUT_MS, {.integer = 10000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, {.integer = 1}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, {.integer = 0}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
			{.integer = 5000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_HTTP2_MAX_PING_STRIKES, {.integer = 0}},
	};
	grpc_channel_args list = {sizeof(arguments) / sizeof(arguments[0]), arguments};
	return grpc_server_create(&list, NULL);
}

/* Of those that this process may run on. */
static unsigned count_cpus(void)
{
	cpu_set_t set;
	int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	return cpus < 1 ? 1 : (unsigned)cpus;
}

static void create_queues(struct croft_server *server, unsigned count)
{
	if (count == 0)
		count = count_cpus() < MAX_QUEUE_THREADS ? count_cpus() : MAX_QUEUE_THREADS;
	server->queue_count = count;
	server->queues = croft_array(count, sizeof(*server->queues));
	for (unsigned i = 0; i < count; i++) {
		server->queues[i].server = server;
		server->queues[i].core = grpc_completion_queue_create_for_next(NULL);
		grpc_server_register_completion_queue(server->core, server->queues[i].core, NULL);
	}
}

struct croft_server *croft_server_create(const struct croft_server_config *config,
	struct croft_error *err)
{
	croft_core_init();
	struct croft_server *server = croft_zalloc(sizeof(*server));
	const struct croft_message_limits *defaults = &croft_message_default_limits;
	server->limits = config->limits;
	if (!server->limits.wire_bytes)
		server->limits.wire_bytes = defaults->wire_bytes;
	if (!server->limits.decoded_bytes)
		server->limits.decoded_bytes = defaults->decoded_bytes;
	if (!server->limits.depth)
		server->limits.depth = defaults->depth;
	server->address = croft_strdup(config->address);
	server->core = create_core(server->limits.wire_bytes);
	server->workers = croft_workers_create(config->workers ? config->workers : DEFAULT_WORKERS);
	pthread_mutex_init(&server->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&server->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	create_queues(server, config->queue_threads);
	if (bind_port(server, config->tls, err))
		return server;
	croft_server_destroy(server);
	return NULL;
}

void croft_server_add(struct croft_server *server, const struct croft_rpc_method *methods,
	size_t count, void *user)
{
	for (size_t i = 0; i < count; i++) {
		struct registered *registered = croft_zalloc(sizeof(*registered));
		registered->method = &methods[i];
		registered->user = user;
		registered->core = grpc_server_register_method(server->core, methods[i].path, NULL,
			reads_payload(&methods[i]) ? GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER
									   : GRPC_SRM_PAYLOAD_NONE,
			0);
		if (!registered->core)
			abort(); /* the same path twice */
		registered->next = server->methods;
		server->methods = registered;
	}
}

bool croft_server_start(struct croft_server *server, struct croft_error *err)
{
	grpc_server_start(server->core);
	server->started = true;
	for (unsigned i = 0; i < server->queue_count; i++) {
		struct queue *queue = &server->queues[i];
		for (struct registered *at = server->methods; at; at = at->next)
			for (int ready = 0; ready < READY_CALLS; ready++)
				await_call(queue, at);
		await_call(queue, NULL);
		if (pthread_create(&queue->thread, NULL, queue_thread, queue) != 0)
			abort();
		char name[16];
		snprintf(name, sizeof(name), "rpc-queue-%u", i);
		pthread_setname_np(queue->thread, name);
	}
	return true;
}

int croft_server_port(const struct croft_server *server)
{
	return strncmp(server->address, "unix:", 5) == 0 ? 0 : server->port;
}

/* Stopping ------------------------------------------------------------------------------------ */

static void stop_complete(struct event *event, bool ok)
{
	struct croft_server *server =
		(struct croft_server *)((char *)event - offsetof(struct croft_server, stop_event));
	CROFT_LOCKED(&server->lock);
	server->stopped = true;
	pthread_cond_broadcast(&server->changed);
}

/* Waits for all calls to end, at most until then. */
static bool wait_ended(struct croft_server *server, const struct timespec *until)
{
	CROFT_LOCKED(&server->lock);
	while (server->running > 0 || !server->stopped) {
		if (!until)
			pthread_cond_wait(&server->changed, &server->lock);
		else if (pthread_cond_timedwait(&server->changed, &server->lock, until) == ETIMEDOUT)
			return false;
	}
	return true;
}

void croft_server_shutdown(struct croft_server *server, unsigned grace_ms)
{
	pthread_mutex_lock(&server->lock);
	bool again = server->stopping || !server->started;
	server->stopping = true;
	pthread_mutex_unlock(&server->lock);
	if (again)
		return;
	server->stop_event.complete = stop_complete;
	grpc_server_shutdown_and_notify(server->core, server->queues[0].core, event_hand(&server->stop_event));
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += grace_ms / 1000;
	until.tv_nsec += (long)(grace_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	if (!wait_ended(server, &until)) {
		grpc_server_cancel_all_calls(server->core);
		wait_ended(server, NULL);
	}
}

void croft_server_destroy(struct croft_server *server)
{
	if (!server)
		return;
	croft_server_shutdown(server, 0);
	croft_workers_destroy(server->workers);
	/* A server that never started wants its shutdown all the same; its queue has no thread. */
	if (!server->started) {
		grpc_server_shutdown_and_notify(server->core, server->queues[0].core, NULL);
		grpc_completion_queue_next(
			server->queues[0].core, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	}
	grpc_server_destroy(server->core);
	for (unsigned i = 0; i < server->queue_count; i++)
		grpc_completion_queue_shutdown(server->queues[i].core);
	for (unsigned i = 0; i < server->queue_count; i++) {
		if (server->started)
			pthread_join(server->queues[i].thread, NULL);
		else
			queue_thread(&server->queues[i]);
		grpc_completion_queue_destroy(server->queues[i].core);
	}
	while (server->methods) {
		struct registered *next = server->methods->next;
		free(server->methods);
		server->methods = next;
	}
	free(server->queues);
	free(server->address);
	pthread_cond_destroy(&server->changed);
	pthread_mutex_destroy(&server->lock);
	free(server);
}
