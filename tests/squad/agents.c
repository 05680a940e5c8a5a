/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agents. Each has a thread that listens; one more ends their jobs and says that they are alive. */
#include "tests/squad/squad.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include "croft/v1/farm.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 2, JOBS_MOST = 64, TICK_MS = 20, HEARTBEAT_TICKS = 25, AWAY_MS = 1000, ROOTS = 64, LOST_DELTA = 20 };

struct job {
	char lease[64];
	struct croft_digest action;
	uint64_t due_ns; /* when it is over */
	bool told;       /* on this connection */
};

struct fake {
	char id[64];
	const char *server;
	uint64_t random; /* of its thread */
	pthread_mutex_t lock; /* guards: everything below */
	struct croft_stream *stream; /* once it is welcome; for writing */
	struct job jobs[JOBS_MOST]; /* that run, and results that no acknowledgement came for */
	unsigned job_count;
	uint64_t random_cache, epoch, sequence;
	bool holds[ROOTS]; /* heavy roots, the same for all agents */
};

struct agents {
	atomic_bool settled;
	struct fake *fakes;
	unsigned count;
};

/* Its end is heard by reading: what cannot be written is not worth a word. */
static void say(struct croft_stream *stream, Farm__AgentMessage__KindCase kind, void *part)
{
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = kind;
	message.hello = part; /* a union: any of its members */
	croft_stream_write(stream, &message.base, NULL);
}

static void say_done(struct croft_stream *stream, struct job *job)
{
	struct right right = right_result(&job->action);
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	result.exit_code = right.exit_code;
	result.stdout_raw = (ProtobufCBinaryData){strlen(right.text), (uint8_t *)right.text};
	done.lease = job->lease;
	done.result = &result;
	say(stream, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
	job->told = true;
}

static void say_failed(struct croft_stream *stream, char *lease, enum croft_code code, const char *why)
{
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	GoogleRpc__Status status = GOOGLE_RPC__STATUS__INIT;
	status.code = code;
	status.message = (char *)why;
	done.lease = lease;
	done.status = &status;
	say(stream, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
}

/* False: it has none of this lease. */
static bool forget(struct fake *fake, const char *lease)
{
	for (unsigned i = 0; i < fake->job_count; i++)
		if (strcmp(fake->jobs[i].lease, lease) == 0) {
			fake->jobs[i] = fake->jobs[--fake->job_count];
			return true;
		}
	return false;
}

static void say_hello(struct fake *fake, struct croft_stream *stream)
{
	char *leases[JOBS_MOST];
	Farm__Hello hello = FARM__HELLO__INIT;
	Reapi__Platform__Property squad = REAPI__PLATFORM__PROPERTY__INIT, *properties[] = {&squad};
	squad.name = (char *)"squad";
	squad.value = (char *)"yes";
	hello.agent_id = hello.hostname = fake->id;
	hello.slots = SLOTS;
	hello.n_properties = 1;
	hello.properties = properties;
	hello.leases = leases;
	CROFT_LOCKED(&fake->lock);
	for (unsigned i = 0; i < fake->job_count; i++)
		leases[hello.n_leases++] = fake->jobs[i].lease;
	say(stream, FARM__AGENT_MESSAGE__KIND_HELLO, &hello);
}

/* The cache ------------------------------------------------------------------------------------------- */

static Reapi__Digest *root_digest(unsigned number, struct croft_arena *arena)
{
	struct croft_digest digest = croft_digest_of(&number, sizeof(number));
	digest.size_bytes = (uint64_t)(number + 1) << 20;
	return croft_digest_to_message(&digest, arena);
}

static void add_present(Farm__PresenceDelta *delta, unsigned number, struct croft_arena *arena)
{
	Farm__PresentRoot *root = croft_arena_alloc(arena, sizeof(*root));
	farm__present_root__init(root);
	root->root = root_digest(number, arena);
	root->present_bytes = root->total_bytes = (uint64_t)(number + 1) << 20;
	delta->present[delta->n_present++] = root;
}

/* All that it holds, in a new epoch. The lock is held. */
static void say_snapshot(struct fake *fake, struct croft_stream *stream)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__PresenceDelta delta = FARM__PRESENCE_DELTA__INIT;
	delta.epoch = ++fake->epoch;
	fake->sequence = 0;
	delta.snapshot = true;
	delta.present = croft_arena_array(arena, ROOTS, sizeof(void *));
	for (unsigned i = 0; i < ROOTS; i++)
		if (fake->holds[i])
			add_present(&delta, i, arena);
	say(stream, FARM__AGENT_MESSAGE__KIND_PRESENCE, &delta);
}

/* A root comes or goes, unless nothing changes any more. Now and then the server does not hear of it, and finds that out
 * with the next delta. */
static void change_cache(struct fake *fake, bool settled)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Farm__PresenceDelta delta = FARM__PRESENCE_DELTA__INIT;
	Farm__PresentRoot *present[1];
	Reapi__Digest *gone[1];
	delta.epoch = fake->epoch;
	delta.sequence = ++fake->sequence;
	delta.present = present;
	delta.gone = gone;
	unsigned number = (unsigned)(next_random(&fake->random_cache) % ROOTS);
	if (!settled && (fake->holds[number] = !fake->holds[number]))
		add_present(&delta, number, arena);
	else if (!settled)
		gone[delta.n_gone++] = root_digest(number, arena);
	if (settled || next_random(&fake->random_cache) % LOST_DELTA != 0)
		say(fake->stream, FARM__AGENT_MESSAGE__KIND_PRESENCE, &delta);
}

/* Jobs ------------------------------------------------------------------------------------------------ */

/* False: it loses its connection. The lock is held. */
static bool take_job(struct fake *fake, struct croft_stream *stream, const Farm__Job *message)
{
	unsigned chance = (unsigned)(next_random(&fake->random) % 1000);
	if (chance < 10) { /* killed */
		fake->job_count = 0;
		return false;
	}
	if (chance < 20) {
		Farm__JobRefused refused = FARM__JOB_REFUSED__INIT;
		refused.lease = message->lease;
		refused.reason = (char *)"the squad is tired";
		say(stream, FARM__AGENT_MESSAGE__KIND_JOB_REFUSED, &refused);
		return true;
	}
	if (chance < 30) {
		say_failed(stream, message->lease, CROFT_UNAVAILABLE, "the squad could not run it");
		return true;
	}
	if (fake->job_count == JOBS_MOST || strlen(message->lease) >= sizeof(fake->jobs[0].lease)) {
		wrong("%s has %u results that nobody acknowledges", fake->id, fake->job_count);
		return false;
	}
	struct job *job = &fake->jobs[fake->job_count++];
	*job = (struct job){0};
	strcpy(job->lease, message->lease);
	if (!croft_digest_from_message(message->action_digest, "a job's action", &job->action, NULL))
		wrong("a job without an action");
	job->due_ns = croft_now_ns() + right_result(&job->action).run_ms * UINT64_C(1000000);
	return chance >= 50; /* else it runs on, and its result is told to whom it connects to next */
}

static bool hear(struct fake *fake, struct croft_stream *stream, const Farm__ServerMessage *message)
{
	switch (message->kind_case) {
	case FARM__SERVER_MESSAGE__KIND_BATCH:
		for (size_t i = 0; i < message->batch->n_messages; i++)
			if (!hear(fake, stream, message->batch->messages[i]))
				return false;
		return true;
	case FARM__SERVER_MESSAGE__KIND_WELCOME:
		for (size_t i = 0; i < message->welcome->n_revoked_leases; i++)
			forget(fake, message->welcome->revoked_leases[i]);
		for (unsigned i = 0; i < fake->job_count; i++)
			fake->jobs[i].told = false;
		fake->stream = stream;
		return true;
	case FARM__SERVER_MESSAGE__KIND_JOB_ACK:
		forget(fake, message->job_ack->lease);
		return true;
	case FARM__SERVER_MESSAGE__KIND_CANCEL_JOB:
		if (forget(fake, message->cancel_job->lease))
			say_failed(stream, message->cancel_job->lease, CROFT_CANCELLED, "it was cancelled");
		return true;
	case FARM__SERVER_MESSAGE__KIND_RESYNC_PRESENCE:
		say_snapshot(fake, stream);
		return true;
	case FARM__SERVER_MESSAGE__KIND_JOB: return take_job(fake, stream, message->job);
	default: return true;
	}
}

static bool hear_locked(struct fake *fake, struct croft_stream *stream, const Farm__ServerMessage *message)
{
	CROFT_LOCKED(&fake->lock);
	return hear(fake, stream, message);
}

static void session(struct fake *fake, struct croft_channel *channel, struct croft_arena *arena)
{
	struct croft_stream *stream = croft_stream_open(
		channel, NULL, "/croft.v1.Agents/Session", &farm__server_message__descriptor, NULL);
	void *message;
	if (!stream)
		return;
	say_hello(fake, stream);
	while (croft_stream_read(stream, arena, &message, NULL) == 1 && hear_locked(fake, stream, message))
		croft_arena_reset(arena);
	pthread_mutex_lock(&fake->lock);
	fake->stream = NULL;
	pthread_mutex_unlock(&fake->lock);
	croft_stream_destroy(stream);
}

static void *agent_thread(void *user)
{
	struct fake *fake = user;
	struct croft_channel *channel = croft_channel_create(fake->server, NULL, NULL);
	struct croft_arena *arena = croft_arena_create();
	for (;;) {
		session(fake, channel, arena);
		pause_ms((unsigned)(next_random(&fake->random) % AWAY_MS));
	}
	return NULL;
}

static void tick(struct fake *fake, bool beat, bool settled)
{
	CROFT_LOCKED(&fake->lock);
	if (!fake->stream)
		return;
	uint64_t now_ns = croft_now_ns();
	for (unsigned i = 0; i < fake->job_count; i++)
		if (!fake->jobs[i].told && fake->jobs[i].due_ns <= now_ns)
			say_done(fake->stream, &fake->jobs[i]);
	Farm__Heartbeat heartbeat = FARM__HEARTBEAT__INIT;
	if (!beat)
		return;
	say(fake->stream, FARM__AGENT_MESSAGE__KIND_HEARTBEAT, &heartbeat);
	change_cache(fake, settled);
}

static void *clock_thread(void *user)
{
	struct agents *agents = user;
	for (unsigned ticks = 0;; ticks++) {
		for (unsigned i = 0; i < agents->count; i++)
			tick(&agents->fakes[i], ticks % HEARTBEAT_TICKS == i % HEARTBEAT_TICKS, agents->settled);
		pause_ms(TICK_MS);
	}
	return NULL;
}

void agents_settle(struct agents *agents)
{
	agents->settled = true;
}

void agents_print_held(struct agents *agents, FILE *out)
{
	for (unsigned i = 0; i < agents->count; i++) {
		struct fake *fake = &agents->fakes[i];
		uint64_t bytes = 0;
		CROFT_LOCKED(&fake->lock);
		for (unsigned k = 0; k < ROOTS; k++)
			bytes += fake->holds[k] ? (uint64_t)(k + 1) << 20 : 0;
		fprintf(out, "%s\"%s\": %" PRIu64, i ? ", " : "", fake->id, bytes);
	}
}

struct agents *agents_start(const struct squad *squad, unsigned count)
{
	struct agents *agents = croft_zalloc(sizeof(*agents));
	agents->fakes = croft_zalloc(count * sizeof(*agents->fakes));
	agents->count = count;
	pthread_t thread;
	for (unsigned i = 0; i < count; i++) {
		struct fake *fake = &agents->fakes[i];
		snprintf(fake->id, sizeof(fake->id), "%.40s-%u", squad->name, i);
		fake->server = squad->server;
		fake->random = squad->seed + i;
		fake->random_cache = ~fake->random;
		fake->epoch = (uint64_t)croft_unix_ns(); /* another one than before a restart */
		pthread_mutex_init(&fake->lock, NULL);
		start_thread(&thread, agent_thread, fake);
	}
	start_thread(&thread, clock_thread, agents);
	return agents;
}
