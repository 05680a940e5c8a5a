/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/session.h"

#include "agent/job.h"
#include "agent/peers.h"
#include "agent/presence.h"
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

struct running {
	struct running *next;
	struct croft_session *session;
	struct croft_job *job;
	pthread_t thread;
	bool finished; /* its report may be sent */
	bool acknowledged;
};

struct croft_session {
	const struct croft_agent_config *config;
	struct croft_machine *machine;

	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t changed;
	struct running *jobs;
	unsigned active; /* jobs that hold a slot */
	bool stopping, draining;
	unsigned heartbeat_ms;

	char *plane_address; /* of the filesystem daemon; NULL: none; fixed once that was started */
	uint64_t connections; /* Welcomes so far; guarded by lock */
	/* The connection under way, to be cancelled: a write to it may block for as long as the server is away, and has
	 * write_lock meanwhile. Guarded by lock. */
	struct croft_stream *under_way;
	bool welcomed; /* on that connection */
	pthread_mutex_t write_lock; /* guards: stream, and keeps writes to it one at a time */
	struct croft_stream *stream;
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
	pthread_cond_timedwait(&session->changed, &session->lock, &until);
}

struct croft_session *croft_session_create(const struct croft_agent_config *config,
	struct croft_machine *machine)
{
	struct croft_session *session = croft_zalloc(sizeof(*session));
	session->config = config;
	session->machine = machine;
	session->heartbeat_ms = HEARTBEAT_MS;
	pthread_mutex_init(&session->lock, NULL);
	pthread_mutex_init(&session->write_lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&session->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	return session;
}

uint64_t croft_session_connection(struct croft_session *session)
{
	CROFT_LOCKED(&session->lock);
	return session->connections;
}

void croft_session_send(struct croft_session *session, const Farm__AgentMessage *message)
{
	CROFT_LOCKED(&session->write_lock);
	/* A failed write needs no answer here: the reader sees the same failure and connects again, and
	 * what matters (results) is sent again then. */
	if (session->stream)
		croft_stream_write(session->stream, &message->base, NULL);
}

static void send_refusal(struct croft_session *session, const char *lease, const char *reason)
{
	Farm__JobRefused refused = FARM__JOB_REFUSED__INIT;
	refused.lease = (char *)lease;
	refused.reason = (char *)reason;
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_JOB_REFUSED;
	message.job_refused = &refused;
	croft_session_send(session, &message);
}

/* Jobs ---------------------------------------------------------------------------------------- */

static void *job_thread(void *user)
{
	struct running *running = user;
	struct croft_session *session = running->session;
	croft_job_run(running->job);
	/* Its slot is free before the server hears so: the next job may come at once. */
	pthread_mutex_lock(&session->lock);
	session->active--;
	pthread_mutex_unlock(&session->lock);
	/* The report goes out before the job is marked as finished: a reconnect in between sends it a
	 * second time, which the server takes as one. */
	croft_session_send(session, croft_job_report(running->job));
	CROFT_LOCKED(&session->lock);
	running->finished = true;
	pthread_cond_broadcast(&session->changed);
	return NULL;
}

static void start_job(struct croft_session *session, const Farm__Job *message,
	struct croft_arena *arena)
{
	pthread_mutex_lock(&session->lock);
	bool closed = session->stopping || session->draining;
	bool full = session->active >= session->config->slots;
	struct running *running = NULL;
	if (!closed && !full) {
		running = croft_zalloc(sizeof(*running));
		running->session = session;
		running->job = croft_job_create(session, session->machine, message, arena);
		running->next = session->jobs;
		session->jobs = running;
		session->active++;
		if (pthread_create(&running->thread, NULL, job_thread, running) != 0)
			abort();
	}
	pthread_mutex_unlock(&session->lock);
	if (running)
		return;
	send_refusal(session, message->lease, closed ? "the agent is leaving" : "every slot is taken");
	croft_arena_destroy(arena);
}

/* A job of a batch has to live longer than that. */
static void start_copy(struct croft_session *session, const Farm__Job *message)
{
	struct croft_arena *arena = croft_arena_create();
	const Farm__Job *copy = croft_message_decode(
		&farm__job__descriptor, croft_message_encode(&message->base, arena), arena, NULL, NULL);
	if (!copy)
		abort(); /* it was encoded here */
	start_job(session, copy, arena);
}

static void cancel_job(struct croft_session *session, const char *lease, const char *reason)
{
	CROFT_LOCKED(&session->lock);
	for (struct running *running = session->jobs; running; running = running->next)
		if (strcmp(croft_job_lease(running->job), lease) == 0)
			croft_job_cancel(running->job, reason);
}

/* Frees the jobs that are finished and acknowledged. */
static void reap(struct croft_session *session)
{
	struct running *dead = NULL;
	pthread_mutex_lock(&session->lock);
	for (struct running **at = &session->jobs; *at;) {
		struct running *running = *at;
		if (running->finished && running->acknowledged) {
			*at = running->next;
			running->next = dead;
			dead = running;
		} else {
			at = &running->next;
		}
	}
	pthread_mutex_unlock(&session->lock);
	while (dead) {
		struct running *next = dead->next;
		pthread_join(dead->thread, NULL);
		croft_job_destroy(dead->job);
		free(dead);
		dead = next;
	}
}

static void acknowledge(struct croft_session *session, const char *lease)
{
	pthread_mutex_lock(&session->lock);
	for (struct running *running = session->jobs; running; running = running->next)
		if (strcmp(croft_job_lease(running->job), lease) == 0)
			running->acknowledged = true;
	pthread_mutex_unlock(&session->lock);
	reap(session);
}

/* The server has no use for these any more: end them, and forget their results. */
static void drop_revoked(struct croft_session *session, const Farm__Welcome *welcome)
{
	for (size_t i = 0; i < welcome->n_revoked_leases; i++) {
		cancel_job(session, welcome->revoked_leases[i], "the server gave the lease up");
		acknowledge(session, welcome->revoked_leases[i]);
	}
}

static void resend_results(struct croft_session *session)
{
	CROFT_LOCKED(&session->lock);
	for (struct running *running = session->jobs; running; running = running->next)
		if (running->finished && !running->acknowledged)
			croft_session_send(session, croft_job_report(running->job));
}

/* The stream ------------------------------------------------------------------------------- */

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

/* Where peers find this agent's blobs: "" before its filesystem daemon runs, and when it serves none. */
static const char *own_url(const struct croft_session *session, struct croft_arena *arena)
{
	int port = session->machine->daemon ? croft_daemon_plane_port(session->machine->daemon) : -1;
	return port <= 0 ? "" : croft_peers_own_url(session->plane_address, port, session->config->server, arena);
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
	hello->blob_url = (char *)own_url(session, arena);
	hello->properties = croft_arena_array(arena, config->property_count + 2, sizeof(void *));
	add_property(hello, arena, "OSFamily", 8, "linux");
	add_property(hello, arena, "ISA", 3, machine_isa());
	for (size_t i = 0; i < config->property_count; i++) {
		const char *equals = strchr(config->properties[i], '=');
		if (equals)
			add_property(hello, arena, config->properties[i],
				(size_t)(equals - config->properties[i]), equals + 1);
	}
	CROFT_LOCKED(&session->lock);
	size_t count = 0;
	for (struct running *running = session->jobs; running; running = running->next)
		count++;
	hello->leases = croft_arena_array(arena, count, sizeof(char *));
	for (struct running *running = session->jobs; running; running = running->next)
		hello->leases[hello->n_leases++] = (char *)croft_job_lease(running->job);
}

static void send_hello(struct croft_session *session)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__Hello hello = FARM__HELLO__INIT;
	fill_hello(session, &hello, arena);
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_HELLO;
	message.hello = &hello;
	croft_session_send(session, &message);
}

/* "[https://]HOST:PORT" of the blob plane: a Welcome that names only ":PORT" means the host of the gRPC target. */
static const char *origin_of(const char *blob_url, const char *target, struct croft_arena *arena)
{
	static const char https[] = "https://";
	const char *scheme = strncmp(blob_url, https, sizeof(https) - 1) == 0 ? https : "";
	const char *address = blob_url + strlen(scheme);
	if (address[0] != ':')
		return blob_url;
	const char *host = strstr(target, "://") ? strstr(target, "://") + 3 : target;
	const char *end = strrchr(host, ':');
	size_t size = end && !strchr(end, ']') ? (size_t)(end - host) : strlen(host);
	return croft_arena_printf(arena, "%s%.*s%s", scheme, (int)size, host, address);
}

/* By default at the address that the server is reached from, on any port: a farm of one machine stays on
 * it, and others find this agent where they would find the server. */
static void choose_plane_address(struct croft_session *session, const char *origin)
{
	const struct croft_agent_config *config = session->config;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	if (config->no_peers)
		return;
	if (strncmp(origin, "https://", 8) == 0 && !(config->tls && config->tls->certificate_file)) {
		croft_log(CROFT_LOG_INFO, "serves no blobs to other agents: this farm's blobs go over TLS only, and there is "
			"no certificate here (--tls-cert)");
		return;
	}
	if (config->plane_address) {
		session->plane_address = croft_strdup(config->plane_address);
		return;
	}
	const char *host = croft_peers_own_host(config->server, arena);
	if (host)
		session->plane_address = croft_strdup(croft_arena_printf(arena, "%s:0", host));
	else
		croft_log(CROFT_LOG_WARNING, "serves no blobs to other agents: the address of this machine towards "
			"%s is not known; --plane says where to listen", config->server);
}

/* The filesystem daemon fetches from the farm's blob plane, whose address comes with Welcome. */
static bool attach_daemon(struct croft_session *session, const Farm__Welcome *welcome,
	struct croft_error *err)
{
	const struct croft_agent_config *config = session->config;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *origin = origin_of(welcome->blob_url, config->server, arena);
	const char *key = *welcome->blob_key ? welcome->blob_key : NULL;
	if (session->machine->daemon) /* a restarted server may have another port */
		return croft_daemon_set_origin(session->machine->daemon, origin, key, err);
	choose_plane_address(session, origin);
	struct croft_daemon_config daemon = {
		.state = croft_arena_printf(arena, "%s/fs", config->state),
		.origin = origin,
		.tls = config->tls ? *config->tls : (struct croft_tls){0},
		.plane_key = key,
		.plane_address = session->plane_address,
		.budget_bytes = config->cache_bytes,
		.classic = config->classic_fuse,
		.uid = session->machine->owner,
		.gid = session->machine->owner,
		.staging = config->staging,
	};
	if (!croft_make_directories(daemon.state, err))
		return false;
	struct croft_daemon *attached = croft_daemon_attach(&daemon, err);
	/* The thread that hears signals looks at it, too. */
	__atomic_store_n(&session->machine->daemon, attached, __ATOMIC_RELEASE);
	return attached != NULL || croft_error_wrap(err, "starting the filesystem");
}

void croft_session_renew_daemon(struct croft_session *session)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_daemon *daemon = __atomic_load_n(&session->machine->daemon, __ATOMIC_ACQUIRE);
	if (!daemon)
		croft_log(CROFT_LOG_WARNING, "there is no filesystem daemon to replace yet");
	else if (croft_daemon_renew(daemon, &err))
		croft_log(CROFT_LOG_INFO, "the filesystem daemon was replaced, its mount goes on");
	else
		croft_log(CROFT_LOG_WARNING, "the filesystem daemon was not replaced: %s", err.message);
}

static void send_presence(struct croft_session *session, Farm__PresenceDelta *delta)
{
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_PRESENCE;
	message.presence = delta;
	croft_session_send(session, &message);
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

static void send_heartbeat(struct croft_session *session, uint32_t running)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__Heartbeat heartbeat = FARM__HEARTBEAT__INIT;
	heartbeat.running = running;
	struct sysinfo memory;
	sysinfo(&memory);
	heartbeat.free_memory_bytes = (uint64_t)memory.freeram * memory.mem_unit;
	struct croft_daemon_stat stat;
	if (session->machine->daemon && croft_daemon_stat(session->machine->daemon, &stat, NULL)) {
		heartbeat.cache_bytes = stat.store.bytes;
		heartbeat.cache_budget_bytes = stat.store.budget_bytes;
		heartbeat.fetched_bytes = stat.fetch.bytes;
		heartbeat.from_peers_bytes = stat.fetch.from_peers_bytes;
		heartbeat.fetching_blobs = stat.fetch.fetching_blobs;
		heartbeat.fetching_bytes = stat.fetch.fetching_bytes;
		heartbeat.served_bytes = stat.served_bytes;
	}
	/* After the daemon was asked: one that was started anew has another port. */
	heartbeat.blob_url = (char *)own_url(session, arena);
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_HEARTBEAT;
	message.heartbeat = &heartbeat;
	croft_session_send(session, &message);
}

static void *heartbeat_thread(void *user)
{
	struct croft_session *session = user;
	for (;;) {
		pthread_mutex_lock(&session->lock);
		if (!session->stopping)
			wait_ms(session, session->heartbeat_ms);
		bool stopping = session->stopping;
		uint32_t running = session->active;
		pthread_mutex_unlock(&session->lock);
		if (stopping)
			return NULL;
		send_heartbeat(session, running);
		refresh_presence(session);
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
		if (!attach_daemon(session, message->welcome, err))
			return false;
		pthread_mutex_lock(&session->lock);
		if (message->welcome->heartbeat_ms)
			session->heartbeat_ms = message->welcome->heartbeat_ms;
		session->connections++;
		session->welcomed = true;
		pthread_mutex_unlock(&session->lock);
		croft_log(CROFT_LOG_INFO, "connected to %s", croft_channel_target(session->machine->channel));
		drop_revoked(session, message->welcome);
		send_snapshot(session);
		resend_results(session);
		pthread_mutex_lock(&session->lock);
		uint32_t running = session->active;
		pthread_mutex_unlock(&session->lock);
		send_heartbeat(session, running); /* others hear at once where this agent's blobs are */
		break;
	case FARM__SERVER_MESSAGE__KIND_RESYNC_PRESENCE:
		send_snapshot(session);
		break;
	case FARM__SERVER_MESSAGE__KIND_CANCEL_JOB:
		cancel_job(session, message->cancel_job->lease, message->cancel_job->reason);
		break;
	case FARM__SERVER_MESSAGE__KIND_JOB_ACK:
		acknowledge(session, message->job_ack->lease);
		break;
	case FARM__SERVER_MESSAGE__KIND_DRAIN:
		pthread_mutex_lock(&session->lock);
		session->draining = true;
		pthread_mutex_unlock(&session->lock);
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
			start_job(session, message->job, arena); /* the job keeps the arena */
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
	pthread_mutex_lock(&session->write_lock);
	session->stream = stream;
	pthread_mutex_unlock(&session->write_lock);
	send_hello(session);
	bool ok = converse(session, stream, err);
	pthread_mutex_lock(&session->lock);
	session->under_way = NULL;
	pthread_mutex_unlock(&session->lock);
	pthread_mutex_lock(&session->write_lock);
	session->stream = NULL;
	pthread_mutex_unlock(&session->write_lock);
	croft_stream_destroy(stream);
	return ok;
}

/* The lock is held. */
static bool has_unfinished(const struct croft_session *session)
{
	for (const struct running *running = session->jobs; running; running = running->next)
		if (!running->finished)
			return true;
	return false;
}

static void end_jobs(struct croft_session *session)
{
	pthread_mutex_lock(&session->lock);
	for (struct running *running = session->jobs; running; running = running->next)
		croft_job_cancel(running->job, "the agent is stopping");
	while (has_unfinished(session))
		pthread_cond_wait(&session->changed, &session->lock);
	for (struct running *running = session->jobs; running; running = running->next)
		running->acknowledged = true;
	pthread_mutex_unlock(&session->lock);
	reap(session);
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
	end_jobs(session);
	return ok;
}

void croft_session_stop(struct croft_session *session)
{
	pthread_mutex_lock(&session->lock);
	bool first = !session->stopping;
	session->stopping = true;
	pthread_cond_broadcast(&session->changed);
	/* Who was not yet heard by the server has nothing to refuse. */
	if (session->under_way && !session->welcomed)
		croft_stream_cancel(session->under_way);
	else if (first)
		for (struct running *running = session->jobs; running; running = running->next)
			if (!running->finished)
				send_refusal(session, croft_job_lease(running->job), "the agent is stopping");
	if (session->under_way)
		croft_stream_cancel(session->under_way);
	pthread_mutex_unlock(&session->lock);
}

void croft_session_destroy(struct croft_session *session)
{
	if (!session)
		return;
	free(session->plane_address);
	pthread_cond_destroy(&session->changed);
	pthread_mutex_destroy(&session->lock);
	pthread_mutex_destroy(&session->write_lock);
	free(session);
}
