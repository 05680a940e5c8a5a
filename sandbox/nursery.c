/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the inits of a cell are born: a process in the cell's user namespace and cgroup, that sees nothing
 * of the host and holds no privilege there. What is alike for all jobs is done once, here, and inherited.
 */
#include "sandbox/internal.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int be_init(void *user)
{
	struct nursery *nursery = user;
	close(nursery->births);
	_exit(init_main(nursery));
}

/* Its parent is the keeper, which waits for it. Where it shares our memory there is none to copy, nor to let go of;
 * we keep still for as long as it lives. */
static pid_t clone_init(struct nursery *nursery)
{
	unsigned long flags = nursery->namespaces | CLONE_PARENT | SIGCHLD;
	if (!scratch_wipe(nursery->scratch))
		return -1;
	if (nursery->shares)
		return clone(be_init, scratch_init_stack(nursery->scratch), (int)(flags | CLONE_VM), nursery);
	/* Raw: libc's fork would run what belongs to the agent's threads. */
	pid_t pid = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, 0);
	if (pid == 0)
		be_init(nursery);
	return pid;
}

static void give_birth(struct nursery *nursery)
{
	struct birth birth = {.pid = clone_init(nursery)};
	birth.failure = birth.pid < 0 ? errno : 0;
	if (send(nursery->births, &birth, sizeof(birth), MSG_NOSIGNAL) < 0)
		_exit(1);
}

static bool make(struct nursery *nursery, struct croft_error *err)
{
	const struct wire_spec *spec = nursery->spec;
	char place[4096];
	if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0) {
		/* An ordinary user's namespace has only the id that the job will have. */
		if (nursery->context->privileged)
			return croft_error_errno(err, errno, "becoming root of the namespace");
	}
	/* The command may have our uid: it must not trace us. This also takes back what changing ids undid. */
	prctl(PR_SET_DUMPABLE, weak(spec, WEAKEN_DUMPABLE));
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	cell_root(nursery->context, nursery->cell, place, sizeof(place));
	nursery->scratch = scratch_make();
	if (!nursery->scratch)
		return croft_error_errno(err, errno, "reserving memory");
	return (!nursery->raise_loopback || network_raise_loopback(err)) &&
		inside_make_skeleton(
			place, nursery->dev, nursery->alone, spec, &nursery->skeleton, err) &&
		init_drop_early(nursery, err);
}

/* Whatever the agent ignores; its children inherit it. */
static void reset_signals(void)
{
	struct sigaction plain = {.sa_handler = SIG_DFL};
	for (int number = 1; number < NSIG; number++)
		sigaction(number, &plain, NULL);
}

void nursery_main(struct nursery *nursery)
{
	char byte;
	struct croft_error err = CROFT_ERROR_INIT;
	prctl(PR_SET_NAME, "croft-ready");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	reset_signals();
	sigset_t awaited;
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGCHLD);
	sigaddset(&awaited, SIGTERM);
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	/* The first byte comes when the ids are mapped. */
	if (recv(nursery->births, &byte, 1, 0) != 1)
		_exit(1);
	bool made = make(nursery, &err);
	if (nursery->dev >= 0)
		close(nursery->dev);
	if (!made) {
		struct status status = {.kind = STATUS_FAILED};
		snprintf(status.message, sizeof(status.message), "%s", err.message);
		status_tell(nursery->inner, &status);
		_exit(1);
	}
	do
		give_birth(nursery);
	while (recv(nursery->births, &byte, 1, 0) == 1);
	_exit(0);
}
