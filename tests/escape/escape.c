/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs the cases: escape PROBE [NAME…]. Prints one line per case and a count; exits with 0 when all
 * were contained and all that can be shown to succeed without their protection did.
 */
#include "tests/escape/probe.h"
#include "tests/escape/world.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct world world;
static const char *probe_path;

/* One attempt ------------------------------------------------------------------------------------------ */

static void hear(void *user, int stream, struct croft_slice data)
{
	struct attempt *attempt = user;
	if (attempt->said_bytes + data.size < sizeof(attempt->said))
		memcpy(attempt->said + attempt->said_bytes, data.data, data.size);
	attempt->said_bytes += data.size;
}

static const char *argument_of(const struct escape_case *of, uint32_t weaken)
{
	static char text[512];
	switch (of->argument) {
	case SECRET:
		return world.secret;
	case VICTIM:
		snprintf(text, sizeof(text), "%d", world.victim);
		return text;
	case VICTIM_MEMORY:
		snprintf(text, sizeof(text), "%d %p", world.victim, (const void *)world.text);
		return text;
	case VICTIM_SECRET:
		snprintf(text, sizeof(text), "%d %s", world.victim, world.secret);
		return text;
	case PORT:
		snprintf(text, sizeof(text), "%d", world.port);
		return text;
	case ABSTRACT:
		return world.abstract;
	case SOCKET_PATH:
		return world.socket_path;
	case MEMORY_KEY:
		snprintf(text, sizeof(text), "%d", world.memory_key);
		return text;
	case QUEUE:
		return world.queue;
	case HOST_NAME:
		return world.host_name;
	case FOLDER:
		return world.folder;
	case TENTHS:
		return weaken ? "1" : "1200";
	default:
		return "";
	}
}

static void lift_limits(struct croft_sandbox_spec *spec)
{
	spec->wall_ms = spec->memory_bytes = spec->processes = spec->file_bytes = 0;
	spec->disk_bytes = spec->disk_inodes = spec->output_log_bytes = 0;
}

/* The spec of a probe; in static memory, for one sandbox at a time to be prepared. */
static struct croft_sandbox_spec *spec_of(const char *probe, const char *argument)
{
	static const char *roots[1], *arguments[4];
	static const char *const environment[] = {"PATH=/bin", NULL};
	static struct croft_sandbox_spec spec;
	roots[0] = world.root;
	arguments[0] = "/bin/probe";
	arguments[1] = probe;
	arguments[2] = argument;
	spec = (struct croft_sandbox_spec){
		.roots = roots,
		.root_count = 1,
		.root_writable = true,
		.arguments = arguments,
		.environment = environment,
		.working_directory = "/",
		.hostname = "inside",
		.output = hear,
	};
	return &spec;
}

/* False: the sandbox could not be made, with why on standard output. */
static bool attempt_run(struct attempt *attempt, const struct escape_case *of, uint32_t weaken)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox_mount mount = {0};
	*attempt = (struct attempt){.world = &world, .of = of, .weaken = weaken};
	struct croft_sandbox_spec *spec = spec_of(of->probe ? of->probe : of->name, argument_of(of, weaken));
	spec->user = attempt;
	if (of->adjust)
		of->adjust(spec);
	if (weaken & WITHOUT_LIMITS)
		lift_limits(spec);
	if (weaken & WITHOUT_NETWORK)
		spec->network = CROFT_NETWORK_HOST;
	if (weaken & WITH_PATH) {
		mount.source = of->open ? of->open : world.folder;
		mount.target = of->open && strcmp(of->open, "/etc/passwd") == 0 ? "/etc/shadow" : mount.source;
		spec->mounts = &mount;
		spec->mount_count = 1;
	}
	sandbox_weaken = weaken & ~OF_THE_DRIVER;
	/* An ordinary user has no other namespaces without that one, and jobs have its id all the same. */
	if (geteuid() != 0)
		sandbox_weaken &= ~(uint32_t)WEAKEN_USER_NAMESPACE;
	attempt->sandbox = croft_sandbox_prepare(world.launcher, spec, &err);
	sandbox_weaken = 0;
	bool ok = attempt->sandbox && croft_sandbox_start(attempt->sandbox, &err) &&
		croft_sandbox_wait(attempt->sandbox, &attempt->result, &err);
	if (!ok)
		printf("FAILED     %s: %s\n", of->name, err.message);
	return ok;
}

static const char *last_words(struct attempt *attempt)
{
	attempt->said[strcspn(attempt->said, "\n")] = '\0';
	return attempt->said[0] ? attempt->said
		: attempt->result.message[0] ? attempt->result.message
									 : "as its status says";
}

/* What escaped; NULL: nothing. "" when the probe could not try. */
static const char *escaped(struct attempt *attempt)
{
	const struct escape_case *of = attempt->of;
	const struct croft_sandbox_result *result = &attempt->result;
	bool expected = of->end != CROFT_END_EXIT && result->end == of->end;
	bool killed = of->signal && result->end == CROFT_END_SIGNAL && result->signal == of->signal;
	unsigned left = world_leftovers(&world, true);
	const char *seen = of->check ? of->check(attempt) : NULL;
	if (left)
		return "processes outlived the job";
	if (seen)
		return seen;
	if (expected || killed)
		return NULL;
	if (result->end != CROFT_END_EXIT)
		return "it ended in another way than expected";
	if (result->exit_code == ESCAPED)
		return last_words(attempt);
	if (result->exit_code != CONTAINED)
		return "";
	return of->end == CROFT_END_EXIT ? NULL : "its limit did not end it";
}

/* Cases ------------------------------------------------------------------------------------------------ */

struct counts {
	unsigned contained, shown, unshown, missing, failed;
};

static void contained_as_it_is(const struct escape_case *of, struct counts *counts)
{
	struct attempt attempt;
	bool ran = attempt_run(&attempt, of, of->without);
	const char *what = ran ? escaped(&attempt) : "";
	if (ran && what)
		printf("FAILED     %s: %s (end %d, status %d: %s)\n", of->name,
			*what ? what : "the probe could not try", attempt.result.end, attempt.result.exit_code,
			last_words(&attempt));
	else if (ran)
		printf("contained  %s: %s\n", of->name, last_words(&attempt));
	counts->failed += !ran || what;
	counts->contained += ran && !what && !of->no_escape;
	croft_sandbox_destroy(attempt.sandbox);
}

static void shown_when_weakened(const struct escape_case *of, struct counts *counts)
{
	struct attempt attempt;
	bool ran = attempt_run(&attempt, of, of->without | of->weaken);
	const char *what = ran ? escaped(&attempt) : NULL;
	const char *unshowable = of->may_lack ? "this machine has none"
		: geteuid() != 0 && (of->without | of->weaken) & WEAKEN_USER_NAMESPACE
		? "its user namespace, without which an ordinary user has no others, contains it as well"
		: NULL;
	if (ran && what && *what) {
		counts->shown++;
	} else if (ran && !what && unshowable) {
		printf("           (%s is not shown: %s)\n", of->name, unshowable);
		counts->unshown++;
	} else if (ran) {
		printf("FAILED     %s: without its protection it was still contained, so nothing was "
			   "tested (end %d, status %d: %s)\n",
			of->name, attempt.result.end, attempt.result.exit_code, last_words(&attempt));
	}
	counts->failed += !ran || (what ? !*what : !unshowable);
	croft_sandbox_destroy(attempt.sandbox);
	world_restore(&world, probe_path);
	world_revive(&world);
}

static const char *const lacking[] = {"no cgroup can be made", "the host has no interface but loopback",
	"the kernel has no Landlock that serves, or it is off", "its Landlock knows no scopes (Linux 6.12)",
	"an ordinary user has one id, makes no devices, would hit all that is its own, and is not shown what is mapped"};

static void run_case(const struct escape_case *of, struct counts *counts)
{
	uint32_t missing = of->needs & ~world.has;
	if (missing) {
		printf("not here   %s: %s\n", of->name, lacking[__builtin_ctz(missing)]);
		counts->missing++;
		return;
	}
	contained_as_it_is(of, counts);
	if (of->weaken)
		shown_when_weakened(of, counts);
	else if (!of->no_escape)
		counts->unshown++;
	fflush(stdout);
}

/* Two jobs at once --------------------------------------------------------------------------------------- */

struct holder {
	struct attempt attempt;
	int held[2]; /* a byte when the meeting place is held */
};

static void hear_holder(void *user, int stream, struct croft_slice data)
{
	struct holder *holder = user;
	if (write(holder->held[1], "h", 1) < 0)
		stop("telling that the place is held");
}

static void *wait_holder(void *user)
{
	struct holder *holder = user;
	struct croft_error err = CROFT_ERROR_INIT;
	if (!croft_sandbox_wait(holder->attempt.sandbox, &holder->attempt.result, &err))
		stop("%s", err.message);
	if (write(holder->held[1], "e", 1) < 0)
		stop("telling that the holder ended");
	return NULL;
}

/* Whether the second job reached the first. */
static bool jobs_meet(enum croft_network network, uint32_t weaken)
{
	struct holder holder = {0};
	struct attempt guest = {.world = &world};
	struct croft_error err = CROFT_ERROR_INIT;
	pthread_t thread;
	char name[96], byte;
	snprintf(name, sizeof(name), "%s-meeting", world.abstract);
	if (pipe(holder.held) < 0)
		stop("making a pipe");
	struct croft_sandbox_spec *spec = spec_of("hold_meeting_place", name);
	spec->network = network;
	spec->output = hear_holder;
	spec->user = &holder;
	sandbox_weaken = weaken;
	holder.attempt.sandbox = croft_sandbox_prepare(world.launcher, spec, &err);
	if (!holder.attempt.sandbox || !croft_sandbox_start(holder.attempt.sandbox, &err) ||
		pthread_create(&thread, NULL, wait_holder, &holder) != 0)
		stop("%s", err.message);
	if (read(holder.held[0], &byte, 1) != 1 || byte != 'h')
		stop("the first job did not hold the meeting place");
	spec = spec_of("meet_another_job", name);
	spec->network = network;
	spec->user = &guest;
	guest.sandbox = croft_sandbox_prepare(world.launcher, spec, &err);
	sandbox_weaken = 0;
	if (!guest.sandbox || !croft_sandbox_start(guest.sandbox, &err) ||
		!croft_sandbox_wait(guest.sandbox, &guest.result, &err))
		stop("%s", err.message);
	croft_sandbox_kill(holder.attempt.sandbox, "they had their time");
	pthread_join(thread, NULL);
	croft_sandbox_destroy(holder.attempt.sandbox);
	croft_sandbox_destroy(guest.sandbox);
	close(holder.held[0]);
	close(holder.held[1]);
	return guest.result.exit_code == ESCAPED;
}

static void count(struct counts *counts, const char *name, bool contained, bool shown)
{
	if (!contained)
		printf("FAILED     %s\n", name);
	else if (!shown)
		printf("FAILED     %s: without its protection it was still contained\n", name);
	else
		printf("contained  %s\n", name);
	counts->contained += contained;
	counts->shown += shown;
	counts->failed += !contained || !shown;
}

/* The agent dies ----------------------------------------------------------------------------------------- */

static void hear_agent(void *user, int stream, struct croft_slice data)
{
	if (write(*(int *)user, "r", 1) < 0)
		_exit(1);
}

/* An agent of its own, killed while its job runs. Whether the job ends with it. */
static bool dies_with_agent(uint32_t weaken)
{
	int running[2];
	char byte;
	if (pipe2(running, O_CLOEXEC) < 0)
		stop("making a pipe");
	fflush(stdout);
	pid_t agent = fork();
	if (agent == 0) {
		char state[192];
		struct croft_error err = CROFT_ERROR_INIT;
		struct croft_arena *arena = croft_arena_create();
		struct croft_sandbox_result result;
		snprintf(state, sizeof(state), "%s/agent", world.folder);
		if (!croft_make_directories(state, &err))
			stop("%s", err.message);
		struct croft_launcher *launcher = croft_launcher_start(
			&(struct croft_launcher_config){
				.state = state, .slots = 1, .uid_base = world.uid_base},
			arena, NULL, &err);
		struct croft_sandbox_spec *spec = spec_of("ignore_termination", "1200");
		spec->output = hear_agent;
		spec->user = &running[1];
		sandbox_weaken = weaken;
		struct croft_sandbox *sandbox =
			launcher ? croft_sandbox_prepare(launcher, spec, &err) : NULL;
		if (sandbox && croft_sandbox_start(sandbox, &err))
			croft_sandbox_wait(sandbox, &result, &err);
		stop("%s", err.message);
	}
	close(running[1]);
	if (agent < 0 || read(running[0], &byte, 1) != 1)
		stop("the second agent's job did not start");
	kill(agent, SIGKILL);
	waitpid(agent, NULL, 0);
	/* Its pipe closes when the last process that prints is gone; its supervisor takes a moment more. */
	struct pollfd fd = {running[0], POLLIN, 0};
	bool died = poll(&fd, 1, weaken ? 1000 : 60000) == 1;
	for (int i = 0; died && i < 200 && world_leftovers(&world, false) != 0; i++)
		usleep(100000);
	died = died && world_leftovers(&world, false) == 0;
	world_leftovers(&world, true);
	close(running[0]);
	return died;
}

/* ------------------------------------------------------------------------------------------------------- */

static bool wanted(const char *name, int argc, char **argv)
{
	for (int i = 2; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return true;
	return argc <= 2;
}

int main(int argc, char **argv)
{
	struct counts counts = {0};
	if (argc < 2)
		stop("usage: escape PROBE [NAME…]");
	probe_path = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	world_make(&world, probe_path);
	for (const struct escape_case *of = cases; of->name; of++)
		if (wanted(of->name, argc, argv))
			run_case(of, &counts);
	if (wanted("two_jobs_meet", argc, argv))
		count(&counts, "two_jobs_meet", !jobs_meet(CROFT_NETWORK_LOOPBACK, 0),
			jobs_meet(CROFT_NETWORK_HOST, WEAKEN_LANDLOCK));
	if (wanted("agent_killed", argc, argv))
		count(&counts, "agent_killed", dies_with_agent(0), !dies_with_agent(WEAKEN_AGENT_LOSS));
	world_end(&world);
	printf("%u contained, %u of them shown to succeed without their protection, %u that cannot be "
		   "shown, %u not possible on this machine, %u failed\n",
		counts.contained, counts.shown, counts.unshown, counts.missing, counts.failed);
	return counts.failed > 0 || (argc <= 2 && counts.contained + counts.missing < 80);
}
