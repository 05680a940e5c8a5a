/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Kernel surface: a call that the profile lacks must not exist at all, with whatever arguments. */
#include "tests/escape/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/kcmp.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>

/* ENOSYS is the filter's answer; any other word comes from the call itself. Arguments are such that the
 * call does no harm even where it is answered. */
static enum verdict reached(long result, const char *call)
{
	if (result < 0 && errno == ENOSYS)
		return say(CONTAINED, "%s does not exist", call);
	if (result < 0)
		return say(ESCAPED, "%s reached the kernel: %m", call);
	return say(ESCAPED, "%s succeeded", call);
}

#define CALL(name, call, ...)                                                                          \
	static enum verdict name(const char *unused)                                                       \
	{                                                                                                  \
		return reached(syscall(call, ##__VA_ARGS__), #name);                                           \
	}

CALL(unshare_user, SYS_unshare, CLONE_NEWUSER)
CALL(unshare_time, SYS_unshare, 0x80 /* CLONE_NEWTIME */)
CALL(setns_call, SYS_setns, -1, 0)
CALL(umount_call, SYS_umount2, "/nowhere", 0)
CALL(fsopen_call, SYS_fsopen, "tmpfs", 0)
CALL(open_tree_call, SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */)
CALL(move_mount_call, SYS_move_mount, -1, "", -1, "", 0)
CALL(mount_setattr_call, SYS_mount_setattr, -1, "", 0, NULL, 0)
CALL(pivot_root_call, SYS_pivot_root, "/nowhere", "/nowhere")
CALL(open_by_handle_at_call, SYS_open_by_handle_at, -1, NULL, 0)
CALL(fanotify_call, SYS_fanotify_init, FAN_CLASS_NOTIF, O_RDONLY)
CALL(userfaultfd_call, SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */)
CALL(add_key_call, SYS_add_key, "user", "croft-escape", "x", 1, KEY_SPEC_PROCESS_KEYRING)
CALL(request_key_call, SYS_request_key, "user", "croft-escape", NULL, 0)
CALL(keyctl_call, SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)
CALL(ptrace_call, SYS_ptrace, 0xffff, 0, 0, 0)
CALL(process_vm_readv_call, SYS_process_vm_readv, 0, NULL, 0, NULL, 0, 1)
CALL(process_madvise_call, SYS_process_madvise, -1, NULL, 0, 0, 0)
CALL(pidfd_getfd_call, SYS_pidfd_getfd, -1, 0, 0)
CALL(modify_ldt_call, SYS_modify_ldt, 0, NULL, 0)
CALL(syslog_call, SYS_syslog, 10 /* SYSLOG_ACTION_SIZE_BUFFER */, NULL, 0)
CALL(kernel_module, SYS_init_module, NULL, 0, "")
CALL(kernel_module_file, SYS_finit_module, -1, "", 0)
CALL(kernel_module_removal, SYS_delete_module, "croft_escape_no_such_module", O_NONBLOCK)
CALL(kexec_call, SYS_kexec_load, 0, 0, NULL, ~0ul)
CALL(kexec_file_call, SYS_kexec_file_load, -1, -1, 0, NULL, ~0ul)
CALL(swapon_call, SYS_swapon, "/nowhere", 0)
CALL(acct_call, SYS_acct, "/nowhere")
CALL(iopl_call, SYS_iopl, 3)
CALL(ioperm_call, SYS_ioperm, 0x3f8, 1, 1)
CALL(reboot_call, SYS_reboot, 0, 0, 0, NULL)
CALL(quotactl_call, SYS_quotactl, 0x80000700, "/nowhere", 0, NULL)
CALL(memfd_secret_call, SYS_memfd_secret, 0)
CALL(sethostname_call, SYS_sethostname, "escaped", 7)
CALL(chroot_call, SYS_chroot, "/nowhere")
CALL(vhangup_call, SYS_vhangup)
CALL(migrate_pages_call, SYS_migrate_pages, 0, 0, NULL, NULL)
CALL(mbind_call, SYS_mbind, NULL, 0, 0, NULL, 0, 0)
CALL(remap_file_pages_call, SYS_remap_file_pages, 0, 0, 0, 0, 0)
CALL(name_to_handle_at_call, SYS_name_to_handle_at, AT_FDCWD, "/", NULL, NULL, 0)
CALL(kcmp_call, SYS_kcmp, 0, 0, KCMP_FILE, 0, 0)
CALL(clone3_user_namespace, SYS_clone3,
	(&(struct clone_args){.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD}), 0 /* a wrong size */)
/* A filter without a default for what it does not know lets in whatever the next kernel brings. */
CALL(call_of_the_future, 599)

static enum verdict clone_user_namespace(const char *unused)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return reached(pid, "clone with a user namespace");
}

static enum verdict mount_tmpfs(const char *unused)
{
	return reached(mount("croft", "/tmp", "tmpfs", 0, "size=4k"), "mount");
}

static enum verdict remount_writable(const char *unused)
{
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOSUID, NULL) < 0)
		return say(CONTAINED, "remounting the root: %m");
	int fd = open("/etc/escaped", O_CREAT | O_WRONLY, 0666);
	return judge(fd >= 0, "writing after a remount");
}

static enum verdict io_uring(const char *unused)
{
	struct io_uring_params params = {0};
	return reached(syscall(SYS_io_uring_setup, 2, &params), "io_uring_setup");
}

static enum verdict bpf(const char *unused)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
	return reached(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)), "bpf");
}

static enum verdict perf(const char *unused)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.exclude_kernel = 1};
	return reached(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0), "perf_event_open");
}

static enum verdict clock_settime_call(const char *unused)
{
	/* Not a clock that anybody may set. */
	return reached(syscall(SYS_clock_settime, 1 /* monotonic */, NULL), "clock_settime");
}

static enum verdict adjtimex_call(const char *unused)
{
	struct timex asks = {0};
	return reached(syscall(SYS_adjtimex, &asks), "adjtimex");
}

static enum verdict personality_executable(const char *unused)
{
	return reached(syscall(SYS_personality, READ_IMPLIES_EXEC), "personality");
}

static enum verdict terminal_injection(const char *unused)
{
	/* The kernel looks at the low half only: the high half is to get past a filter that looks at all. */
	if (syscall(SYS_ioctl, 0, 0x100000000ul | TIOCSTI, "x") == 0 || errno != ENOSYS)
		return say(ESCAPED, "TIOCSTI in disguise reached the kernel: %m");
	return reached(ioctl(0, TIOCSTI, "x"), "TIOCSTI");
}

static enum verdict console_injection(const char *unused)
{
	char paste = 3;
	return reached(ioctl(0, TIOCLINUX, &paste), "TIOCLINUX");
}

static enum verdict system_call_of_i386(const char *unused)
{
	long result = 20; /* getpid there, writev here */
	__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
	if (result == -ENOSYS)
		return say(CONTAINED, "the entry of i386 is closed");
	return say(ESCAPED, "a system call of i386 returned %ld", result);
}

static enum verdict system_call_of_x32(const char *unused)
{
	long result = syscall(0x40000000 | SYS_getpid);
	if (result < 0 && errno == ENOSYS)
		return say(CONTAINED, "calls of x32 do not exist");
	return say(ESCAPED, "a system call of x32 returned %ld", result);
}

static enum verdict page_at_zero(const char *unused)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return judge(page != MAP_FAILED, "a page at address 0");
}

/* Two dozen calls that the profile has, and threads: containment that breaks everything proves nothing. */
static enum verdict ordinary_calls(const char *unused)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(7);
	int status;
	if (pid < 0 || waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 7)
		return say(ESCAPED, "fork does not work: ");
	int fd = open("/tmp/file", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "x", 1) != 1 || rename("/tmp/file", "/tmp/other") < 0 ||
		unlink("/tmp/other") < 0)
		return say(ESCAPED, "files do not work: ");
	if (personality(0xffffffff) < 0)
		return say(ESCAPED, "asking for the personality does not work: ");
	return say(CONTAINED, "an ordinary program runs");
}

#define PROBE(name) {#name, name}
const struct probe kernel_probes[] = {
	PROBE(unshare_user), PROBE(unshare_time), PROBE(setns_call), PROBE(umount_call),
	PROBE(fsopen_call), PROBE(open_tree_call), PROBE(move_mount_call), PROBE(mount_setattr_call),
	PROBE(pivot_root_call), PROBE(open_by_handle_at_call),
	PROBE(fanotify_call), PROBE(userfaultfd_call), PROBE(add_key_call), PROBE(request_key_call),
	PROBE(keyctl_call), PROBE(ptrace_call), PROBE(process_vm_readv_call),
	PROBE(process_madvise_call), PROBE(pidfd_getfd_call), PROBE(modify_ldt_call),
	PROBE(syslog_call), PROBE(kernel_module), PROBE(kernel_module_file),
	PROBE(kernel_module_removal), PROBE(kexec_call), PROBE(kexec_file_call), PROBE(swapon_call),
	PROBE(acct_call), PROBE(iopl_call), PROBE(ioperm_call), PROBE(reboot_call),
	PROBE(quotactl_call), PROBE(memfd_secret_call), PROBE(sethostname_call), PROBE(chroot_call),
	PROBE(vhangup_call), PROBE(migrate_pages_call), PROBE(mbind_call),
	PROBE(remap_file_pages_call), PROBE(name_to_handle_at_call), PROBE(kcmp_call),
	PROBE(clone3_user_namespace), PROBE(call_of_the_future), PROBE(clone_user_namespace),
	PROBE(mount_tmpfs), PROBE(remount_writable), PROBE(io_uring), PROBE(bpf), PROBE(perf),
	PROBE(clock_settime_call), PROBE(adjtimex_call), PROBE(personality_executable),
	PROBE(terminal_injection), PROBE(console_injection), PROBE(system_call_of_i386),
	PROBE(system_call_of_x32), PROBE(page_at_zero), PROBE(ordinary_calls), {0}};
