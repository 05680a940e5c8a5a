/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * It is a process of its own since to answer may take as long as the network does, and the keeper is to hear of limits
 * and ends meanwhile.
 */
#include "sandbox/answers.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

bool answers_still_waits(int listener, const struct seccomp_notif *asked)
{
	uint64_t id = asked->id;
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

/* False: nobody is left who could call. */
static bool answer_next(struct denials *denials, struct sorted *sorted)
{
	struct seccomp_notif asked = {0};
	if (ioctl(denials->listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0)
		return errno == ENOENT || errno == EINTR;
	struct seccomp_notif_resp reply = {.id = asked.id};
	int64_t value = -ENOSYS;
	if (asked.data.nr == SYS_getdents64 || asked.data.nr == SYS_getdents)
		value = sorted_answer(sorted, denials->listener, &asked);
	else
		denials_note(denials, &asked.data);
	if (value == ANSWER_BY_KERNEL)
		reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else if (value < 0)
		reply.error = (int32_t)value;
	else
		reply.val = value;
	return ioctl(denials->listener, SECCOMP_IOCTL_NOTIF_SEND, &reply) == 0 || errno == ENOENT;
}

static void answer_all(struct denials *denials)
{
	/* Nothing else of the keeper's stays open here, such as what tells others that it is gone. */
	enum { LISTENER = 3 };
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "croft-answers");
	if ((denials->listener != LISTENER && dup2(denials->listener, LISTENER) < 0) ||
		syscall(SYS_close_range, LISTENER + 1, ~0u, 0) < 0)
		_exit(1);
	denials->listener = LISTENER;
	struct sorted *sorted = sorted_create();
	struct pollfd fd = {LISTENER, POLLIN, 0};
	do
		while (poll(&fd, 1, -1) < 0 && errno == EINTR)
			;
	while (fd.revents & POLLIN && answer_next(denials, sorted));
	_exit(0);
}

bool answers_start(struct answers *answers, struct denials *denials, struct croft_error *err)
{
	/* Where both see it. */
	answers->heard = mmap(NULL, sizeof(*denials), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (answers->heard == MAP_FAILED) {
		answers->heard = NULL;
		return croft_error_errno(err, errno, "memory for a job's answers");
	}
	*answers->heard = *denials;
	/* Raw, as in nursery.c. */
	answers->pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
	if (answers->pid == 0)
		answer_all(answers->heard);
	int failure = errno;
	/* Without anybody who listens the kernel says that there is no such call. */
	denials_end(denials);
	if (answers->pid > 0)
		return true;
	answers_end(answers, denials);
	return croft_error_errno(err, failure, "starting the process that sorts directories");
}

void answers_end(struct answers *answers, struct denials *denials)
{
	if (!answers->heard)
		return;
	if (answers->pid > 0) {
		kill(answers->pid, SIGKILL);
		while (waitpid(answers->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	denials->count = answers->heard->count;
	memcpy(denials->calls, answers->heard->calls, sizeof(denials->calls));
	munmap(answers->heard, sizeof(*answers->heard));
	*answers = (struct answers){0};
}
