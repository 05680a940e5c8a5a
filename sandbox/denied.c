/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job called and was denied. The filter's last word on a call that is not in the list is to ask the
 * listener, which is the keeper: it notes the call and answers ENOSYS. A job that goes on asking is not
 * listened to for ever: once the listener is closed the kernel itself answers ENOSYS.
 */
#include "sandbox/internal.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { HEARD_MOST = 4096 };

void denials_listen(struct denials *denials, int listener)
{
	denials_end(denials);
	denials->listener = listener;
	denials->count = denials->heard = 0;
}

void denials_end(struct denials *denials)
{
	if (denials->listener >= 0)
		close(denials->listener);
	denials->listener = -1;
}

void denials_note(struct denials *denials, const struct seccomp_data *data)
{
	for (uint32_t i = 0; i < denials->count; i++) {
		struct denied *known = &denials->calls[i];
		if (known->number == data->nr && (data->nr != SCMP_SYS(socket) || known->argument == data->args[0])) {
			known->times++;
			return;
		}
	}
	if (denials->count < DENIED_MOST)
		denials->calls[denials->count++] =
			(struct denied){.number = data->nr, .times = 1, .argument = data->args[0]};
}

void denials_hear(struct denials *denials)
{
	struct seccomp_notif asked = {0};
	if (ioctl(denials->listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0) {
		/* A signal took the caller away, or us. Otherwise nobody is left who could call. */
		if (errno != ENOENT && errno != EINTR)
			denials_end(denials);
		return;
	}
	denials_note(denials, &asked.data);
	struct seccomp_notif_resp answer = {.id = asked.id, .error = -ENOSYS};
	bool told = ioctl(denials->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) == 0 || errno == ENOENT;
	if (!told || ++denials->heard >= HEARD_MOST)
		denials_end(denials);
}

void denials_tell(const struct denied *denied, enum croft_seccomp profile, struct croft_denied_call *call)
{
	char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, denied->number);
	call->times = denied->times;
	call->allowed_by = name ? seccomp_allowed_by(name, profile) : NULL;
	if (!name)
		snprintf(call->call, sizeof(call->call), "system call %d", denied->number);
	else if (denied->number == SCMP_SYS(socket))
		snprintf(call->call, sizeof(call->call), "socket (address family %d)", (int)denied->argument);
	else
		snprintf(call->call, sizeof(call->call), "%.60s", name);
	free(name);
}

bool croft_sandbox_hint(const struct croft_sandbox_result *result, const char *choose, char *text,
	size_t size)
{
	size_t used = 0;
	text[0] = '\0';
	for (size_t i = 0; i < result->denied_count && used < size; i++) {
		const struct croft_denied_call *call = &result->denied[i];
		used += (size_t)snprintf(text + used, size - used, "%s%s, which ", i ? "; " : "it called ", call->call);
		if (used < size && call->allowed_by)
			used += (size_t)snprintf(text + used, size - used, "%s%s allows", choose, call->allowed_by);
		else if (used < size)
			used += (size_t)snprintf(text + used, size - used, "no sandbox allows");
	}
	return result->denied_count > 0;
}
