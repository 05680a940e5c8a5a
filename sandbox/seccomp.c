/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filter of system calls: an allow-list (seccomp-profile.txt, embedded), and five calls that are
 * judged by their arguments. Compiled once per launcher.
 */
#include "sandbox/internal.h"

#include <errno.h>
#include <sched.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "seccomp-profile.h" /* generated: static const char seccomp_profile[] */

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1ul << 5) /* Linux 5.19, include/uapi/linux/seccomp.h */
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080 /* Linux 5.6, include/uapi/linux/sched.h */
#endif

static const uint64_t NAMESPACE_FLAGS = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
	CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

static bool is(const char *word, size_t size, const char *what)
{
	return strlen(what) == size && memcmp(word, what, size) == 0;
}

static bool applies(const char *word, size_t size, enum croft_seccomp profile)
{
	return is(word, size, "strict") || (is(word, size, "default") && profile != CROFT_SECCOMP_STRICT) ||
		(is(word, size, "compat") && profile == CROFT_SECCOMP_COMPAT);
}

/* The next line of the list; false at its end. `word` says where the call applies; `name` is "" where a
 * line does not give a reason. */
static bool next_line(const char **at, const char **word, size_t *word_size, char name[64])
{
	while (**at) {
		const char *line = *at;
		size_t size = strcspn(line, "\n"), first = strcspn(line, " \n");
		*at += size + (line[size] == '\n');
		if (line[0] == '#' || first >= size)
			continue;
		const char *second = line + first + strspn(line + first, " ");
		size_t length = strcspn(second, " \n");
		const char *reason = second + length + strspn(second + length, " ");
		snprintf(name, 64, "%.*s", *reason == '\n' ? 0 : (int)(length < 63 ? length : 63), second);
		*word = line;
		*word_size = first;
		return true;
	}
	return false;
}

static bool reads_directories(const char *call)
{
	return strcmp(call, "getdents64") == 0 || strcmp(call, "getdents") == 0;
}

static bool add_list(scmp_filter_ctx filter, enum croft_seccomp profile, bool sorted, struct croft_error *err)
{
	const char *at = seccomp_profile, *word;
	size_t size;
	char name[64];
	while (next_line(&at, &word, &size, name)) {
		bool quiet = is(word, size, "quiet");
		if (!name[0])
			return croft_error_set(err, CROFT_INTERNAL, "the list of system calls gives no reason: %.40s", word);
		int number = seccomp_syscall_resolve_name(name);
		/* Calls that this libseccomp does not know yet are denied. */
		if (number < 0 || (!quiet && !applies(word, size, profile)) || (sorted && reads_directories(name)))
			continue;
		int code = seccomp_rule_add(
			filter, quiet ? SCMP_ACT_ERRNO(ENOSYS) : SCMP_ACT_ALLOW, number, 0);
		if (code < 0)
			return croft_error_errno(err, -code, "the rule for %s", name);
	}
	return true;
}

const char *seccomp_allowed_by(const char *call, enum croft_seccomp profile)
{
	static const char *const names[] = {"default", "strict", "compat"};
	const char *at = seccomp_profile, *word;
	size_t size;
	char name[64];
	while (next_line(&at, &word, &size, name))
		for (int other = 0; other < 3; other++)
			if (strcmp(name, call) == 0 && other != (int)profile &&
				applies(word, size, (enum croft_seccomp)other))
				return names[other];
	return NULL;
}

static int allow(scmp_filter_ctx filter, const char *name, struct scmp_arg_cmp argument)
{
	return seccomp_rule_add_array(
		filter, SCMP_ACT_ALLOW, seccomp_syscall_resolve_name(name), 1, &argument);
}

/* Families that builds use. Others (AF_ALG, AF_VSOCK, AF_PACKET, …) reach kernel code that no build
 * needs, and through it the page cache that all jobs share. */
static int add_sockets(scmp_filter_ctx filter)
{
	static const int families[] = {AF_UNIX, AF_INET, AF_INET6};
	int code = 0;
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]) && code == 0; i++)
		code = allow(filter, "socket", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
	struct scmp_arg_cmp netlink[] = {SCMP_A0(SCMP_CMP_EQ, AF_NETLINK),
		SCMP_A2(SCMP_CMP_EQ, 0 /* NETLINK_ROUTE */)};
	if (code == 0)
		code = seccomp_rule_add_array(
			filter, SCMP_ACT_ALLOW, seccomp_syscall_resolve_name("socket"), 2, netlink);
	if (code == 0)
		code = allow(filter, "socketpair", SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	return code;
}

/* Every ioctl but TIOCSTI (0x5412) and TIOCLINUX (0x541c), which type into the terminal of whoever
 * started the job. The kernel looks at the low 32 bits only, so the high ones must be 0 for the
 * comparison to mean what it says; libseccomp compares all 64. */
static int add_ioctl(scmp_filter_ctx filter)
{
	int number = seccomp_syscall_resolve_name("ioctl");
	struct scmp_arg_cmp below = SCMP_A1(SCMP_CMP_LT, TIOCSTI);
	int code = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 1, &below);
	for (unsigned request = TIOCSTI + 1; request < TIOCLINUX && code == 0; request++)
		code = allow(filter, "ioctl", SCMP_A1(SCMP_CMP_EQ, request));
	/* Above TIOCLINUX: the numbers that share its bits down to one of its zeros and have a one there.
	 * Bits past 31 are zeros of the mask's value too, so a request dressed up with high bits, which the
	 * kernel would cut off, matches nothing. */
	for (unsigned bit = 0; bit < 32 && code == 0; bit++)
		if (!(TIOCLINUX >> bit & 1))
			code = allow(filter, "ioctl",
				SCMP_A1(SCMP_CMP_MASKED_EQ, ~0ull << bit, (uint64_t)(TIOCLINUX >> bit | 1) << bit));
	/* C libraries whose ioctl takes an int (musl) extend the sign of requests from 0x80000000 on, such as
	 * TIOCGPTN; the two are not among these. */
	if (code == 0)
		code = allow(filter, "ioctl",
			SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff80000000ull, 0xffffffff80000000ull));
	return code;
}

static int add_personality(scmp_filter_ctx filter)
{
	static const unsigned long values[] = {
		PER_LINUX, PER_LINUX32, ADDR_NO_RANDOMIZE, UNAME26, 0xffffffff /* only asks */};
	int code = 0;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]) && code == 0; i++)
		code = allow(filter, "personality", SCMP_A0(SCMP_CMP_EQ, values[i]));
	return code;
}

static int add_judged(scmp_filter_ctx filter)
{
	int code = allow(filter, "clone", SCMP_A0(SCMP_CMP_MASKED_EQ, NAMESPACE_FLAGS, 0));
	if (code == 0)
		code = add_sockets(filter);
	if (code == 0)
		code = add_personality(filter);
	return code;
}

static bool export_program(scmp_filter_ctx filter, struct sock_fprog *program,
	struct croft_error *err)
{
	struct stat st;
	int fd = memfd_create("croft-seccomp", MFD_CLOEXEC);
	if (fd < 0 || seccomp_export_bpf(filter, fd) < 0 || fstat(fd, &st) < 0)
		return croft_error_errno(err, errno, "compiling the seccomp filter");
	program->len = (unsigned short)((size_t)st.st_size / sizeof(struct sock_filter));
	program->filter = croft_alloc((size_t)st.st_size);
	bool ok = pread(fd, program->filter, (size_t)st.st_size, 0) == st.st_size;
	close(fd);
	return ok || croft_error_set(err, CROFT_INTERNAL, "the seccomp filter cannot be read back");
}

bool seccomp_compile(enum croft_seccomp profile, bool sorted, struct sock_fprog *program,
	struct croft_error *err)
{
	/* The keeper answers ENOSYS, or the kernel does when the keeper has heard enough (denied.c). */
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_NOTIFY);
	if (!filter)
		return croft_error_set(err, CROFT_INTERNAL, "libseccomp makes no filter");
	/* The native architecture only: another one's calls have numbers that the list does not judge. */
	int code = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (code == 0)
		code = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (code == 0)
		code = add_judged(filter);
	if (code == 0)
		code = add_ioctl(filter);
	bool ok = code == 0 ? add_list(filter, profile, sorted, err) && export_program(filter, program, err)
						: croft_error_errno(err, -code, "building the seccomp filter");
	seccomp_release(filter);
	return ok;
}

bool seccomp_install(const struct sock_fprog *program, bool answered, int *listener, struct croft_error *err)
{
	/* A call that is being answered is not to begin again for a signal: what it read would be passed over. */
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER |
		(answered ? SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV : 0);
	*listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program);
	if (*listener >= 0)
		return true;
	if (answered && (errno == EBUSY || errno == EINVAL))
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"directories cannot be read in order here: %s",
			errno == EBUSY ? "somebody answers the agent's own system calls already"
				       : "that needs Linux 5.19");
	/* An agent in a container whose calls somebody listens to: there can be one listener only. */
	return (errno == EBUSY && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) == 0) ||
		croft_error_errno(err, errno, "loading the seccomp filter");
}
