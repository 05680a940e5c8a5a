/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's side: connections to the daemon, its start, its replacement and its end. Each call takes an idle
 * connection or makes one, so that a long measuring does not hold up others. A daemon that has died is started again by
 * the next call.
 */
#include "fs/daemon/client.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

enum { END_MS = 15000, READY_FD = 3 };

/* Connections --------------------------------------------------------------------------------- */

/* Whose generation has passed is one to a daemon that has gone, or is about to. */
struct connection {
	int socket;
	unsigned generation;
};

static bool connect_anew(struct croft_daemon *daemon, struct connection *connection, struct croft_error *err)
{
	pthread_mutex_lock(&daemon->lock);
	connection->generation = daemon->generation;
	pthread_mutex_unlock(&daemon->lock);
	connection->socket = daemon_connect(daemon->config.state, err);
	if (connection->socket < 0)
		err->code = CROFT_UNAVAILABLE;
	return connection->socket >= 0;
}

static bool take_connection(struct croft_daemon *daemon, struct connection *connection, struct croft_error *err)
{
	pthread_mutex_lock(&daemon->lock);
	connection->generation = daemon->generation;
	connection->socket = daemon->idle_count ? daemon->idle[--daemon->idle_count] : -1;
	pthread_mutex_unlock(&daemon->lock);
	return connection->socket >= 0 || connect_anew(daemon, connection, err);
}

static void give_connection(struct croft_daemon *daemon, const struct connection *connection)
{
	pthread_mutex_lock(&daemon->lock);
	bool kept = connection->generation == daemon->generation && daemon->idle_count < IDLE_AT_MOST;
	if (kept)
		daemon->idle[daemon->idle_count++] = connection->socket;
	pthread_mutex_unlock(&daemon->lock);
	if (!kept)
		close(connection->socket);
}

/* Those in use are closed when they are given back. */
static void drop_connections(struct croft_daemon *daemon)
{
	CROFT_LOCKED(&daemon->lock);
	daemon->generation++;
	while (daemon->idle_count)
		close(daemon->idle[--daemon->idle_count]);
}

/* One request and its answer. False with code UNAVAILABLE: nobody is there. */
static bool exchange_by(struct croft_daemon *daemon, const struct connection *connection,
	struct daemon_request *request, int passed_fd, struct daemon_answer *answer, struct croft_error *err)
{
	request->version = DAEMON_VERSION;
	if (!daemon_send_request(connection->socket, request, passed_fd, err) ||
		!daemon_receive_answer(connection->socket, answer, err)) {
		close(connection->socket);
		return false;
	}
	give_connection(daemon, connection);
	if (answer->error.code == CROFT_OK)
		return true;
	*err = answer->error;
	return false;
}

static bool exchange(struct croft_daemon *daemon, struct daemon_request *request, int passed_fd,
	struct daemon_answer *answer, struct croft_error *err)
{
	struct connection connection;
	return take_connection(daemon, &connection, err) &&
		exchange_by(daemon, &connection, request, passed_fd, answer, err);
}

/* Starting and ending ------------------------------------------------------------------------- */

static void reap(struct croft_daemon *daemon, bool wait)
{
	if (daemon->child && waitpid(daemon->child, NULL, wait ? 0 : WNOHANG) != 0)
		daemon->child = 0;
}

/* Executes the program as the daemon; what it says when it is ready, or why not, comes by a pipe. */
static bool spawn(struct croft_daemon *daemon, const char *program, bool take_over,
	struct croft_error *err)
{
	int ready[2];
	if (pipe2(ready, O_CLOEXEC) != 0)
		return croft_error_errno(err, errno, "making a pipe");
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const struct daemon_start start = {READY_FD, take_over, DAEMON_VERSION};
	char **arguments = daemon_arguments(&daemon->config, &start, arena);
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, defaults;
	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGTERM);
	sigaddset(&defaults, SIGINT);
	sigaddset(&defaults, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ready[1], READY_FD);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawnattr_init(&attributes);
	/* Its own session: a ^C is the agent's to deal with. */
	posix_spawnattr_setflags(&attributes,
		POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	int result = posix_spawn(&daemon->child, program, &actions, &attributes, arguments,
		daemon_environment(&daemon->config, arena));
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	close(ready[1]);
	CROFT_CLEANUP_FD int said_fd = ready[0];
	if (result != 0) {
		daemon->child = 0;
		return croft_error_errno(err, result, "executing %s", program);
	}
	char said[512];
	size_t size = 0;
	for (ssize_t got; size < sizeof(said) - 1; size += (size_t)got) {
		got = read(said_fd, said + size, sizeof(said) - 1 - size);
		if (got < 0 && errno == EINTR)
			got = 0;
		else if (got <= 0)
			break;
	}
	said[size] = '\0';
	if (strcmp(said, "ok") == 0)
		return true;
	reap(daemon, true);
	return croft_error_set(err, CROFT_UNAVAILABLE, "the filesystem daemon did not start: %s",
		size ? said : "it ended at once");
}

/* Of who listens now: a connection that lay idle may be to a daemon that is gone. */
static bool hello(struct croft_daemon *daemon, struct daemon_answer *answer,
	struct croft_error *err)
{
	struct daemon_request request = {.op = OP_HELLO};
	struct connection connection;
	return connect_anew(daemon, &connection, err) &&
		exchange_by(daemon, &connection, &request, -1, answer, err);
}

static void learn(struct croft_daemon *daemon, const struct daemon_answer *answer)
{
	daemon->pid = answer->hello.pid;
	/* These are the same for every daemon of a config but for a port that the kernel chose. */
	if (!daemon->mountpoint[0])
		snprintf(daemon->mountpoint, sizeof(daemon->mountpoint), "%s",
			answer->hello.mountpoint);
	__atomic_store_n(&daemon->plane_port, answer->hello.plane_port, __ATOMIC_RELAXED);
	__atomic_store_n(&daemon->staging, answer->hello.staging, __ATOMIC_RELAXED);
	__atomic_store_n(&daemon->standins, answer->hello.standins, __ATOMIC_RELAXED);
}

/* One that no socket leads to: its folder was taken away, say. */
static void end_child(struct croft_daemon *daemon)
{
	CROFT_CLEANUP_FD int process = daemon->child ? pidfd_open(daemon->child, 0) : -1;
	if (process < 0)
		return;
	struct pollfd polled = {.fd = process, .events = POLLIN};
	kill(daemon->child, SIGTERM);
	if (poll(&polled, 1, END_MS) <= 0)
		kill(daemon->child, SIGKILL);
	reap(daemon, true);
}

/* Ends the running daemon and waits until it is gone; the socket that stays open to its very end
 * tells. */
static void stop_running(struct croft_daemon *daemon)
{
	struct daemon_request request = {.version = DAEMON_VERSION, .op = OP_STOP};
	CROFT_CLEANUP_FD int socket = daemon_connect(daemon->config.state, NULL);
	drop_connections(daemon);
	if (socket < 0 || !daemon_send_request(socket, &request, -1, NULL)) {
		end_child(daemon);
		return;
	}
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	uint64_t until_ns = croft_now_ns() + (uint64_t)END_MS * 1000000;
	for (;;) {
		uint64_t now_ns = croft_now_ns();
		struct pollfd polled = {.fd = socket, .events = POLLIN};
		int result = poll(&polled, 1, now_ns < until_ns ? (int)((until_ns - now_ns) / 1000000) : 0);
		if (result < 0 && errno == EINTR)
			continue;
		struct croft_error err = CROFT_ERROR_INIT;
		if (result > 0 &&
			(daemon_receive_answer(socket, answer, &err) ||
				err.code == CROFT_FAILED_PRECONDITION))
			continue; /* its answer; its end is still to come */
		if (result == 0 && daemon->pid > 0) {
			croft_log(CROFT_LOG_WARNING, "the filesystem daemon does not end: killing it");
			kill(daemon->pid, SIGKILL);
			umount2(daemon->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
		}
		break;
	}
	free(answer);
}

/* False: the one that runs goes on. `starting` held. */
static bool replace(struct croft_daemon *daemon, const char *program, struct croft_error *err)
{
	pid_t before = daemon->child;
	if (!spawn(daemon, program, true, err)) {
		daemon->child = before;
		return false;
	}
	drop_connections(daemon);
	if (before)
		waitpid(before, NULL, 0); /* it said that it is done */
	return true;
}

static void note_program(struct croft_daemon *daemon)
{
	ssize_t size = readlink("/proc/self/exe", daemon->program, sizeof(daemon->program) - 1);
	daemon->program[size < 0 ? 0 : size] = '\0';
}

/* Whether the daemon that runs is as it should be. Another program is replaced when an agent starts; later its
 * agent may have replaced it itself. */
static bool is_as_wanted(struct croft_daemon *daemon, const struct daemon_answer *answer)
{
	char config[DAEMON_TEXT], build[DAEMON_BUILD];
	daemon_config_text(&daemon->config, config);
	daemon_build_text(build);
	return strcmp(config, answer->hello.config) == 0 &&
		(daemon->attached || strcmp(build, answer->hello.build) == 0);
}

/* A daemon with this config runs when it returns true. `starting` held. */
static bool make_run(struct croft_daemon *daemon, struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct croft_error other = CROFT_ERROR_INIT;
	bool runs = hello(daemon, answer, &other);
	if (runs) {
		learn(daemon, answer);
		if (is_as_wanted(daemon, answer))
			return true;
	}
	runs = runs || other.code == CROFT_FAILED_PRECONDITION; /* of another version */
	if (runs && replace(daemon, "/proc/self/exe", &other)) {
		croft_log(CROFT_LOG_INFO, "the filesystem daemon was replaced, its mount goes on");
	} else {
		if (runs || daemon->attached)
			croft_log(CROFT_LOG_WARNING, "%s%s; starting it again",
				runs ? "" : "the filesystem daemon is gone: ", other.message);
		drop_connections(daemon);
		stop_running(daemon);
		reap(daemon, false);
		if (!spawn(daemon, "/proc/self/exe", false, err))
			return false;
	}
	if (!hello(daemon, answer, err))
		return false;
	learn(daemon, answer);
	return true;
}

bool daemon_ensure_running(struct croft_daemon *daemon, struct croft_error *err)
{
	CROFT_LOCKED(&daemon->starting);
	bool ok = make_run(daemon, err);
	daemon->attached |= ok;
	return ok;
}

bool croft_daemon_renew(struct croft_daemon *daemon, struct croft_error *err)
{
	CROFT_LOCKED(&daemon->starting);
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	bool ok = replace(daemon, daemon->program, err) && hello(daemon, answer, err);
	if (ok)
		learn(daemon, answer);
	return ok;
}

static void copy_file(struct croft_arena *arena, const char **file)
{
	if (*file)
		*file = croft_arena_strdup(arena, *file);
}

struct croft_daemon *croft_daemon_attach(const struct croft_daemon_config *config,
	struct croft_error *err)
{
	struct croft_daemon *daemon = croft_zalloc(sizeof(*daemon));
	struct croft_arena *arena = daemon->arena = croft_arena_create();
	daemon->config = *config;
	daemon->config.state = croft_arena_strdup(arena, config->state);
	if (config->origin)
		daemon->config.origin = croft_arena_strdup(arena, config->origin);
	if (config->plane_key)
		daemon->config.plane_key = croft_arena_strdup(arena, config->plane_key);
	copy_file(arena, &daemon->config.tls.certificate_file);
	copy_file(arena, &daemon->config.tls.key_file);
	copy_file(arena, &daemon->config.tls.authority_file);
	if (config->plane_address)
		daemon->config.plane_address = croft_arena_strdup(arena, config->plane_address);
	pthread_mutex_init(&daemon->lock, NULL);
	pthread_mutex_init(&daemon->starting, NULL);
	note_program(daemon);
	if (croft_make_directories(config->state, err) && daemon_ensure_running(daemon, err))
		return daemon;
	croft_daemon_detach(daemon, true);
	return NULL;
}

void croft_daemon_detach(struct croft_daemon *daemon, bool keep)
{
	if (!daemon)
		return;
	drop_connections(daemon);
	if (!keep) {
		stop_running(daemon);
		reap(daemon, true);
	}
	pthread_mutex_destroy(&daemon->lock);
	pthread_mutex_destroy(&daemon->starting);
	croft_arena_destroy(daemon->arena);
	free(daemon);
}

bool daemon_call(struct croft_daemon *daemon, struct daemon_request *request, int passed_fd,
	struct daemon_answer *answer, struct croft_error *err)
{
	struct croft_error first = CROFT_ERROR_INIT;
	if (exchange(daemon, request, passed_fd, answer, &first))
		return true;
	if (first.code == CROFT_UNAVAILABLE) {
		drop_connections(daemon);
		if (daemon_ensure_running(daemon, &first) &&
			exchange(daemon, request, passed_fd, answer, &first))
			return true;
	}
	if (err)
		*err = first;
	return false;
}

const char *croft_daemon_mountpoint(const struct croft_daemon *daemon)
{
	return daemon->mountpoint;
}

int croft_daemon_plane_port(const struct croft_daemon *daemon)
{
	return __atomic_load_n(&daemon->plane_port, __ATOMIC_RELAXED);
}
