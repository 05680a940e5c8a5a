/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/agent.h"

#include "agent/attach.h"
#include "agent/image.h"
#include "agent/opens.h"
#include "agent/peers.h"
#include "agent/presence.h"
#include "agent/session.h"
#include "agent/uplink.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_TRIES = 100 /* a tenth of a second apart */ };

struct signalled {
	struct croft_machine *machine;
	struct croft_session *session;
};

static void *signal_thread(void *user)
{
	const struct signalled *signalled = user;
	sigset_t wanted;
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGUSR1); /* from croft_agent_run: the session ended by itself */
	sigaddset(&wanted, SIGUSR2); /* from people: the program was replaced */
	int signal_number;
	do {
		sigwait(&wanted, &signal_number);
		if (signal_number == SIGUSR2)
			croft_renew_daemon(signalled->machine);
	} while (signal_number == SIGUSR2);
	if (signal_number != SIGUSR1)
		croft_session_stop(signalled->session);
	return NULL;
}

/* Two agents on one state directory would share a cache and a mount point. */
/* What a killed agent leaves (its launcher, supervisors that end its jobs) holds the lock for a moment
 * longer: only when all of it is gone may its directories be used anew. */
static bool wait_for_lock(int fd)
{
	struct timespec pause = {.tv_nsec = 100 * 1000000};
	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return true;
		if (errno != EWOULDBLOCK)
			return false;
		nanosleep(&pause, NULL);
	}
	return false;
}

static int lock_state(const char *state, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *path = NULL;
	if (asprintf(&path, "%s/lock", state) < 0)
		abort();
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd >= 0 && wait_for_lock(fd))
		return fd;
	if (fd >= 0 && errno == EWOULDBLOCK)
		croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"another agent uses %s: give each its own --state", state);
	else
		croft_error_errno(err, errno, "locking %s", path);
	if (fd >= 0)
		close(fd);
	return -1;
}

/* "NAME-xxxxxxxx": made once, kept in the state directory, so that a restarted agent is known. */
static char *agent_id(const struct croft_agent_config *config, struct croft_arena *arena,
	struct croft_error *err)
{
	const char *path = croft_arena_printf(arena, "%s/id", config->state);
	char *text;
	size_t size;
	struct croft_error missing = CROFT_ERROR_INIT;
	if (croft_read_file(AT_FDCWD, path, 4096, &text, &size, &missing)) {
		char *id = croft_arena_strndup(arena, text, strcspn(text, "\n"));
		free(text);
		return id;
	}
	if (missing.code != CROFT_NOT_FOUND) {
		*err = missing;
		return NULL;
	}
	char hostname[256] = "";
	gethostname(hostname, sizeof(hostname) - 1);
	uint32_t random;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		random = (uint32_t)croft_now_ns();
	char *id = croft_arena_printf(arena, "%s-%08x", config->name ? config->name : hostname, random);
	return croft_write_file(AT_FDCWD, path, id, strlen(id), 0644, err) ? id : NULL;
}

static bool make_state(const struct croft_agent_config *config, struct croft_machine *machine,
	struct croft_arena *arena, struct croft_error *err)
{
	machine->state = croft_arena_printf(arena, "%s/jobs", config->state);
	return croft_make_directories(croft_arena_printf(arena, "%s/empty", machine->state), err) &&
		croft_make_directories(croft_arena_printf(arena, "%s/sandboxes", config->state), err);
}

/* Jobs are root of their inputs. Where the kernel cannot map owners on FUSE, the mount itself says who
 * owns them: one range of ids, which all slots share. $CROFT_OWNERS_UNMAPPED is for tests. */
static uint32_t owner_of_inputs(void)
{
	struct utsname kernel;
	unsigned major = 0, minor = 0;
	bool known = uname(&kernel) == 0 && sscanf(kernel.release, "%u.%u", &major, &minor) == 2;
	bool mapped = known && (major > 6 || (major == 6 && minor >= 12));
	if (geteuid() != 0 || (mapped && !getenv("CROFT_OWNERS_UNMAPPED")))
		return 0;
	return CROFT_DEFAULT_UID_BASE;
}

/* One line of the log for each. */
static void tell_limits(const char *limits)
{
	while (*limits) {
		int length = (int)strcspn(limits, "\n");
		croft_log(CROFT_LOG_WARNING, "this machine cannot enforce %.*s", length, limits);
		limits += length + (limits[length] != '\0');
	}
}

static bool start_launcher(const struct croft_agent_config *config, struct croft_machine *machine,
	struct croft_arena *arena, struct croft_error *err)
{
	struct croft_launcher_config launcher = {
		.state = croft_arena_printf(arena, "%s/sandboxes", config->state),
		.slots = config->slots,
		.uid_base = machine->owner,
		.shared_uids = machine->owner != 0,
	};
	const char *limits = "";
	machine->launcher = croft_launcher_start(&launcher, arena, &limits, err);
	if (!machine->launcher)
		return croft_error_wrap(err, "starting the sandbox launcher");
	tell_limits(limits);
	return true;
}

static bool run_session(const struct croft_agent_config *config, struct croft_machine *machine,
	struct croft_error *err)
{
	struct croft_session *session = croft_session_create(config, machine);
	struct signalled signalled = {machine, session};
	pthread_t signals;
	if (pthread_create(&signals, NULL, signal_thread, &signalled) != 0)
		abort();
	croft_log(CROFT_LOG_INFO, "%s with %u slots, for %s", machine->agent_id, config->slots,
		config->server);
	bool ok = croft_session_run(session, err);
	pthread_kill(signals, SIGUSR1);
	pthread_join(signals, NULL);
	croft_session_destroy(session);
	return ok;
}

bool croft_agent_run(const struct croft_agent_config *asked, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_agent_config config = *asked;
	struct croft_machine machine = {
		.root_image = config.root_image, .allow_network = config.allow_network,
		.nested_server = config.allow_nested ? config.server : NULL,
		.owner = owner_of_inputs()};
	if (config.slots == 0)
		config.slots = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	if (config.allow_nested && config.tls)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"--allow-nested passes on what jobs say as it is, which a server with TLS does not take: give jobs "
			"network=on and certificates of their own instead");
	if (!croft_make_directories(config.state, err))
		return false;
	CROFT_CLEANUP_FD int lock = lock_state(config.state, err);
	if (lock < 0 || !make_state(&config, &machine, arena, err))
		return false;
	if (config.root_image && !croft_image_check(config.root_image, config.state, err))
		return false;
	machine.agent_id = agent_id(&config, arena, err);
	if (!machine.agent_id)
		return false;

	/* Before any thread exists: the launcher is forked, and every later thread inherits the mask. */
	bool ok = start_launcher(&config, &machine, arena, err);
	sigset_t blocked;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigaddset(&blocked, SIGUSR1);
	sigaddset(&blocked, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	if (ok) {
		machine.uplink = croft_uplink_create();
		machine.presence = croft_presence_create();
		machine.listeners = croft_listeners_create();
		machine.peers = config.no_peers ? NULL : croft_peers_create();
		machine.channel = croft_channel_create(config.server, config.tls, err);
		ok = machine.channel && run_session(&config, &machine, err);
	}
	croft_daemon_detach(machine.daemon, false);
	free(machine.plane_address);
	croft_presence_destroy(machine.presence);
	croft_listeners_destroy(machine.listeners);
	croft_peers_destroy(machine.peers);
	croft_uplink_destroy(machine.uplink);
	croft_channel_destroy(machine.channel);
	croft_launcher_stop(machine.launcher);
	return ok;
}
