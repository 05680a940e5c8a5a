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

static void give_birth(const struct nursery *nursery)
{
	struct birth birth = {0};
	/* Its parent is the keeper, which waits for it. Raw: libc's fork would run what belongs to the
	 * agent's threads. */
	birth.pid = (int32_t)syscall(
		SYS_clone, nursery->namespaces | CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, 0);
	if (birth.pid == 0) {
		close(nursery->births);
		_exit(init_main(nursery));
	}
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
	return (!nursery->raise_loopback || network_raise_loopback(err)) &&
		inside_make_skeleton(
			place, nursery->dev, nursery->alone, spec, &nursery->skeleton, err) &&
		init_drop_early(nursery, err);
}

void nursery_main(struct nursery *nursery)
{
	char byte;
	struct croft_error err = CROFT_ERROR_INIT;
	prctl(PR_SET_NAME, "croft-ready");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
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
