/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/session.h"

#include "agent/attach.h"
#include "agent/jobs.h"
#include "agent/presence.h"
#include "agent/uplink.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { RECONNECT_FIRST_MS = 100, RECONNECT_MOST_MS = 5000, HEARTBEAT_MS = 2000,
	REFRESHED_ROOTS = 16 /* with each heartbeat */ };

struct croft_session {
	const struct croft_agent_config *config;
	struct croft_machine *machine;
	struct croft_jobs *jobs;

	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t stopped;
	bool stopping;
	unsigned heartbeat_ms;
	/* The connection under way, to be cancelled: a write to it may block for as long as the server is away. */
	struct croft_stream *under_way;
	bool welcomed; /* on that connection */
};

static void wait_ms(struct croft_session *session, unsigned milliseconds)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += milliseconds / 1000;
	until.tv_nsec += (long)(milliseconds % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_cond_timedwait(&session->stopped, &session->lock, &until);
}

struct croft_session *croft_session_create(const struct croft_agent_config *config,
	struct croft_machine *machine)
{
	struct croft_session *session = croft_zalloc(sizeof(*session));
	session->config = config;
	session->machine = machine;
	session->jobs = croft_jobs_create(machine, config->slots);
	session->heartbeat_ms = HEARTBEAT_MS;
	pthread_mutex_init(&session->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&session->stopped, &attributes);
	pthread_condattr_destroy(&attributes);
	return session;
}

static const char *machine_isa(void)
{
	static struct utsname names;
	uname(&names);
	return strcmp(names.machine, "x86_64") == 0 ? "x86-64" : names.machine;
}

static void add_property(Farm__Hello *hello, struct croft_arena *arena, const char *name,
	size_t name_size, const char *value)
{
	Reapi__Platform__Property *property = croft_arena_alloc(arena, sizeof(*property));
	reapi__platform__property__init(property);
	property->name = croft_arena_strndup(arena, name, name_size);
	property->value = croft_arena_strdup(arena, value);
	hello->properties[hello->n_properties++] = property;
}

static void fill_hello(struct croft_session *session, Farm__Hello *hello, struct croft_arena *arena)
{
	const struct croft_agent_config *config = session->config;
	char *hostname = croft_arena_zalloc(arena, 256);
	gethostname(hostname, 255);
	struct sysinfo memory;
	sysinfo(&memory);
	hello->agent_id = (char *)session->machine->agent_id;
	hello->hostname = hostname;
	hello->slots = config->slots;
	hello->cpus = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
	hello->memory_bytes = (uint64_t)memory.totalram * memory.mem_unit;
	hello->version = CROFT_VERSION;
	hello->blob_url = (char *)croft_own_blob_url(session->machine, config->server, arena);
	hello->properties = croft_arena_array(arena, config->property_count + 2, sizeof(void *));
	add_property(hello, arena, "OSFamily", 8, "linux");
	add_property(hello, arena, "ISA", 3, machine_isa());
	for (size_t i = 0; i < config->property_count; i++) {
		const char *equals = strchr(config->properties[i], '=');
		if (equals)
			add_property(hello, arena, config->properties[i],
				(size_t)(equals - config->properties[i]), equals + 1);
	}
	hello->n_leases = croft_jobs_leases(session->jobs, &hello->leases, arena);
}

static void send_hello(struct croft_session *session)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__Hello hello = FARM__HELLO__INIT;
	fill_hello(session, &hello, arena);
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_HELLO;
	message.hello = &hello;
	croft_uplink_send(session->machine->uplink, &message);
}

static void send_presence(struct croft_session *session, Farm__PresenceDelta *delta)
{
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_PRESENCE;
	message.presence = delta;
	croft_uplink_send(session->machine->uplink, &message);
}

static void send_snapshot(struct croft_session *session)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	send_presence(session, croft_presence_snapshot(session->machine->presence, arena));
}

static void refresh_presence(struct croft_session *session)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	if (!session->machine->daemon)
		return;
	Farm__PresenceDelta *delta = croft_presence_refresh(
		session->machine->presence, session->machine->daemon, REFRESHED_ROOTS, arena);
	if (delta)
		send_presence(session, delta);
}

static void send_heartbeat(struct croft_session *session)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__Heartbeat heartbeat = FARM__HEARTBEAT__INIT;
	heartbeat.running = croft_jobs_active(session->jobs);
	struct sysinfo memory;
	sysinfo(&memory);
	heartbeat.free_memory_bytes = (uint64_t)memory.freeram * memory.mem_unit;
	struct croft_daemon_stat stat;
	if (session->machine->daemon && croft_daemon_stat(session->machine->daemon, &stat, NULL)) {
		heartbeat.cache_bytes = stat.store.bytes;
		heartbeat.cache_budget_bytes = stat.store.budget_bytes;
		heartbeat.cache_disk_bytes = stat.store.disk_bytes;
		heartbeat.fetched_bytes = stat.fetch.bytes;
		heartbeat.from_peers_bytes = stat.fetch.from_peers_bytes;
		heartbeat.fetching_blobs = stat.fetch.fetching_blobs;
		heartbeat.fetching_bytes = stat.fetch.fetching_bytes;
		heartbeat.served_bytes = stat.served_bytes;
	}
	/* After the daemon was asked: one that was started anew has another port. */
	heartbeat.blob_url = (char *)croft_own_blob_url(session->machine, session->config->server, arena);
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_HEARTBEAT;
	message.heartbeat = &heartbeat;
	croft_uplink_send(session->machine->uplink, &message);
}

static void *heartbeat_thread(void *user)
{
	struct croft_session *session = user;
	for (;;) {
		pthread_mutex_lock(&session->lock);
		if (!session->stopping)
			wait_ms(session, session->heartbeat_ms);
		bool stopping = session->stopping;
		pthread_mutex_unlock(&session->lock);
		if (stopping)
			return NULL;
		send_heartbeat(session);
		refresh_presence(session);
	}
}

/* A job of a batch has to live longer than that. */
static void start_copy(struct croft_session *session, const Farm__Job *message)
{
	struct croft_arena *arena = croft_arena_create();
	const Farm__Job *copy = croft_message_decode(
		&farm__job__descriptor, croft_message_encode(&message->base, arena), arena, NULL, NULL);
	if (!copy)
		abort(); /* it was encoded here */
	croft_jobs_start(session->jobs, copy, arena);
}

/* The server has no use for these any more: end them, and forget their results. */
static void drop_revoked(struct croft_session *session, const Farm__Welcome *welcome)
{
	for (size_t i = 0; i < welcome->n_revoked_leases; i++) {
		croft_jobs_cancel(session->jobs, welcome->revoked_leases[i], "the server gave the lease up");
		croft_jobs_acknowledge(session->jobs, welcome->revoked_leases[i]);
	}
}

static bool handle_batch(
	struct croft_session *session, const Farm__ServerBatch *batch, struct croft_error *err);

static bool handle(struct croft_session *session, const Farm__ServerMessage *message,
	struct croft_error *err)
{
	switch (message->kind_case) {
	case FARM__SERVER_MESSAGE__KIND_JOB:
		start_copy(session, message->job);
		break;
	case FARM__SERVER_MESSAGE__KIND_BATCH:
		return handle_batch(session, message->batch, err);
	case FARM__SERVER_MESSAGE__KIND_WELCOME:
		if (!croft_attach_daemon(session->machine, session->config, message->welcome, err))
			return false;
		pthread_mutex_lock(&session->lock);
		if (message->welcome->heartbeat_ms)
			session->heartbeat_ms = message->welcome->heartbeat_ms;
		session->welcomed = true;
		pthread_mutex_unlock(&session->lock);
		croft_uplink_welcomed(session->machine->uplink);
		croft_log(CROFT_LOG_INFO, "connected to %s", croft_channel_target(session->machine->channel));
		drop_revoked(session, message->welcome);
		send_snapshot(session);
		croft_jobs_resend(session->jobs);
		send_heartbeat(session); /* others hear at once where this agent's blobs are */
		break;
	case FARM__SERVER_MESSAGE__KIND_RESYNC_PRESENCE:
		send_snapshot(session);
		break;
	case FARM__SERVER_MESSAGE__KIND_CANCEL_JOB:
		croft_jobs_cancel(session->jobs, message->cancel_job->lease, message->cancel_job->reason);
		break;
	case FARM__SERVER_MESSAGE__KIND_JOB_ACK:
		croft_jobs_acknowledge(session->jobs, message->job_ack->lease);
		break;
	case FARM__SERVER_MESSAGE__KIND_DRAIN:
		croft_jobs_close(session->jobs);
		croft_log(CROFT_LOG_INFO, "draining: %s", message->drain->reason);
		break;
	default:
		/* A newer server may say more than this agent knows. */
		break;
	}
	return true;
}

static bool handle_batch(
	struct croft_session *session, const Farm__ServerBatch *batch, struct croft_error *err)
{
	for (size_t i = 0; i < batch->n_messages; i++)
		if (!handle(session, batch->messages[i], err))
			return false;
	return true;
}

static bool is_stopping(struct croft_session *session)
{
	CROFT_LOCKED(&session->lock);
	return session->stopping;
}

/* One connection, until it is lost. False: the agent cannot work. */
static bool converse(struct croft_session *session, struct croft_stream *stream,
	struct croft_error *err)
{
	for (;;) {
		struct croft_arena *arena = croft_arena_create();
		void *raw = NULL;
		struct croft_error lost = CROFT_ERROR_INIT;
		int got = croft_stream_read(stream, arena, &raw, &lost);
		if (got <= 0) {
			croft_arena_destroy(arena);
			if (!is_stopping(session))
				croft_log(CROFT_LOG_WARNING, "lost the server: %s",
					got == 0 ? "it ended the session" : lost.message);
			return true;
		}
		const Farm__ServerMessage *message = raw;
		if (message->kind_case == FARM__SERVER_MESSAGE__KIND_JOB) {
			croft_jobs_start(session->jobs, message->job, arena); /* the job keeps the arena */
			continue;
		}
		bool ok = handle(session, message, err);
		croft_arena_destroy(arena);
		if (!ok)
			return false;
	}
}

static bool connect_once(struct croft_session *session, bool *connected, struct croft_error *err)
{
	struct croft_metadata key = {.name = "croft-agent-key"};
	struct croft_call_options options = {.wait_for_ready = true, .metadata = &key};
	struct croft_error failed = CROFT_ERROR_INIT;
	CROFT_CLEANUP_FREE char *text = NULL;
	size_t size = 0;
	if (session->config->key_file) {
		enum { KEY_MOST = 128 };
		if (!croft_read_file(AT_FDCWD, session->config->key_file, KEY_MOST + 2, &text, &size, err))
			return false;
		key.value = CROFT_SLICE(text, strcspn(text, "\r\n"));
		options.metadata_count = 1;
	}
	struct croft_stream *stream = croft_stream_open(session->machine->channel, &options,
		"/croft.v1.Agents/Session", &farm__server_message__descriptor, &failed);
	*connected = stream != NULL;
	if (!stream) {
		croft_log(CROFT_LOG_WARNING, "connecting: %s", failed.message);
		return true;
	}
	pthread_mutex_lock(&session->lock);
	session->under_way = stream;
	session->welcomed = false;
	if (session->stopping)
		croft_stream_cancel(stream); /* the stop came before it was there to cancel */
	pthread_mutex_unlock(&session->lock);
	croft_uplink_use(session->machine->uplink, stream);
	send_hello(session);
	bool ok = converse(session, stream, err);
	pthread_mutex_lock(&session->lock);
	session->under_way = NULL;
	pthread_mutex_unlock(&session->lock);
	croft_uplink_use(session->machine->uplink, NULL);
	croft_stream_destroy(stream);
	return ok;
}

bool croft_session_run(struct croft_session *session, struct croft_error *err)
{
	pthread_t heartbeat;
	if (pthread_create(&heartbeat, NULL, heartbeat_thread, session) != 0)
		abort();
	unsigned pause = RECONNECT_FIRST_MS;
	bool ok = true;
	while (ok && !is_stopping(session)) {
		bool connected = false;
		uint64_t before = croft_now_ns();
		ok = connect_once(session, &connected, err);
		bool lasted = croft_now_ns() - before > 1000000000;
		pause = connected && lasted ? RECONNECT_FIRST_MS : pause * 2;
		if (pause > RECONNECT_MOST_MS)
			pause = RECONNECT_MOST_MS;
		CROFT_LOCKED(&session->lock);
		if (ok && !session->stopping)
			wait_ms(session, pause);
	}
	croft_session_stop(session);
	pthread_join(heartbeat, NULL);
	croft_jobs_end(session->jobs, "the agent is stopping");
	return ok;
}

void croft_session_stop(struct croft_session *session)
{
	pthread_mutex_lock(&session->lock);
	bool first = !session->stopping;
	session->stopping = true;
	croft_jobs_close(session->jobs);
	pthread_cond_broadcast(&session->stopped);
	/* Who was not yet heard by the server has nothing to refuse. */
	if (session->under_way && !session->welcomed)
		croft_stream_cancel(session->under_way);
	else if (first)
		croft_jobs_give_back(session->jobs, "the agent is stopping");
	if (session->under_way)
		croft_stream_cancel(session->under_way);
	pthread_mutex_unlock(&session->lock);
}

void croft_session_destroy(struct croft_session *session)
{
	if (!session)
		return;
	croft_jobs_destroy(session->jobs);
	pthread_cond_destroy(&session->stopped);
	pthread_mutex_destroy(&session->lock);
	free(session);
}
