/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Landlock: a second wall, which the job's own process puts up last. Whoever is behind it changes no mounts
 * and no root, even with the privilege to; makes no device nodes; traces nobody outside, and (since Linux
 * 6.12) sends no signal and reaches no abstract socket there, which counts for a job in the host's network.
 * Nothing that is handled is looked at when files are opened, so builds do not pay for it.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Versions of the interface, and what Debian 12's headers do not know yet: include/uapi/linux/landlock.h. */
enum { ABI_REFER = 2, ABI_SCOPES = 6 };
enum { SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0, SCOPE_SIGNAL = 1 << 1 };
enum { ACCESS_FS_REFER = 1 << 13 };

struct attributes {
	uint64_t handled_access_fs, handled_access_net, scoped;
};

int landlock_version(void)
{
	int version = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	/* The first forbids all moving between directories. */
	return version >= ABI_REFER ? version : 0;
}

bool landlock_scopes(int version)
{
	return version >= ABI_SCOPES;
}

bool landlock_confine(int version, struct croft_error *err)
{
	struct attributes attributes = {
		.handled_access_fs =
			LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK | ACCESS_FS_REFER,
		.scoped = landlock_scopes(version) ? SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL : 0,
	};
	CROFT_CLEANUP_FD int rules =
		(int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0);
	CROFT_CLEANUP_FD int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct landlock_path_beneath_attr everywhere = {
		.allowed_access = ACCESS_FS_REFER, .parent_fd = root};
	if (rules < 0 || root < 0 ||
		syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &everywhere, 0) < 0 ||
		syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		return croft_error_errno(err, errno, "confining the job by Landlock");
	return true;
}
