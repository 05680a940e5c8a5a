/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/escape/cases.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMED(probe) .name = #probe

/* Specs -------------------------------------------------------------------------------------------- */

static void with_tracing(struct croft_sandbox_spec *spec)
{
	spec->seccomp = CROFT_SECCOMP_COMPAT;
}

static void read_only(struct croft_sandbox_spec *spec)
{
	static const char *const outputs[] = {"/out-folder"};
	spec->root_writable = false;
	spec->writable_directories = outputs;
	spec->writable_count = 1;
}

static void ordinary_user(struct croft_sandbox_spec *spec)
{
	spec->uid = spec->gid = 1000;
}

static void terminal(struct croft_sandbox_spec *spec)
{
	spec->terminal = true;
}

static void short_time(struct croft_sandbox_spec *spec)
{
	spec->wall_ms = 300;
	spec->grace_ms = 200;
}

static void few_processes(struct croft_sandbox_spec *spec)
{
	spec->processes = 64;
}

static void little_memory(struct croft_sandbox_spec *spec)
{
	spec->memory_bytes = 64 << 20;
}

static void little_disk(struct croft_sandbox_spec *spec)
{
	spec->disk_bytes = 32 << 20;
}

static void few_inodes(struct croft_sandbox_spec *spec)
{
	spec->disk_inodes = 1000;
}

static void small_files(struct croft_sandbox_spec *spec)
{
	spec->file_bytes = 32 << 20;
}

static void short_log(struct croft_sandbox_spec *spec)
{
	spec->output_log_bytes = 1 << 20;
}

static void a_fifth_of_a_processor(struct croft_sandbox_spec *spec)
{
	spec->cpu_millis = 200;
}

/* Checks --------------------------------------------------------------------------------------------- */

static const char *input_is_unchanged(const struct attempt *attempt)
{
	char path[256], text[64] = "";
	struct stat st;
	snprintf(path, sizeof(path), "%s/etc/input", attempt->world->root);
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (got < 0 || strcmp(text, "input\n") != 0)
		return "the input changed";
	if (stat(path, &st) < 0 || (st.st_mode & 07777) != 0644)
		return "the input's mode changed";
	return NULL;
}

/* One that was sent a signal may not have got to its death yet: it has it pending until then. */
static bool has_signals(const char *status, const char *line)
{
	const char *at = strstr(status, line);
	return at && strtoull(at + strlen(line), NULL, 16) != 0;
}

static bool victim_is_dead(const struct attempt *attempt)
{
	char path[64], text[4096] = "";
	snprintf(path, sizeof(path), "/proc/%d/status", attempt->world->victim);
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	bool lives = got > 0 && !strstr(text, "\nState:\tZ") && !has_signals(text, "\nSigPnd:") &&
		!has_signals(text, "\nShdPnd:");
	return !lives;
}

static const char *victim_lives(const struct attempt *attempt)
{
	/* A busy machine lets it die a while after the signal was sent. */
	for (int i = 0; attempt->weaken && i < 1000 && !victim_is_dead(attempt); i++)
		usleep(10000);
	return victim_is_dead(attempt) ? "the process outside died" : NULL;
}

struct captured {
	char text[4096]; /* names, kinds and contents, one after the other */
	size_t count;
};

static bool keep(void *user, const struct croft_capture_entry *entry, struct croft_error *err)
{
	struct captured *captured = user;
	size_t used = strlen(captured->text);
	captured->count++;
	if (used + entry->path.size + entry->target.size + 300 > sizeof(captured->text))
		return true;
	snprintf(captured->text + used, sizeof(captured->text) - used, "[%.*s]%s%.*s",
		(int)entry->path.size, (const char *)entry->path.data, entry->target.size ? "->" : "",
		(int)entry->target.size, entry->target.size ? (const char *)entry->target.data : "");
	int fd = S_ISREG(entry->mode) ? openat(entry->dirfd, entry->name, O_RDONLY | O_NOFOLLOW) : -1;
	if (fd >= 0) {
		used = strlen(captured->text);
		ssize_t got = read(fd, captured->text + used, 200);
		captured->text[used + (got > 0 ? (size_t)got : 0)] = '\0';
		close(fd);
	}
	return true;
}

/* The output at a path, by the library, or as anybody might read it who follows where it leads. */
static bool capture(const struct attempt *attempt, const char *path, struct captured *captured,
	struct croft_error *err)
{
	*captured = (struct captured){0};
	if (!(attempt->weaken & BY_HAND))
		return croft_sandbox_capture(attempt->sandbox, path, keep, captured, err);
	char real[4096];
	struct stat st;
	snprintf(real, sizeof(real), "%s/%u/upper%s", attempt->world->state,
		sandbox_cell(attempt->sandbox), path);
	if (stat(real, &st) < 0)
		return croft_error_errno(err, errno, "%s", real);
	int fd = S_ISREG(st.st_mode) ? open(real, O_RDONLY) : -1;
	if (fd >= 0) {
		captured->count = 1;
		ssize_t got = read(fd, captured->text, 200);
		captured->text[got > 0 ? got : 0] = '\0';
		close(fd);
	}
	return true;
}

static const char *holds_no_secret(const struct captured *captured)
{
	return strstr(captured->text, "secret of the host") ? "the host's secret became an output" : NULL;
}

static const char *link_is_kept(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	if (!capture(attempt, "/out", &captured, &err))
		return "the link was not captured";
	if (!(attempt->weaken & BY_HAND) && !strstr(captured.text, "]->"))
		return "the link was not kept as a link";
	return holds_no_secret(&captured);
}

static const char *nothing_below_link(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	bool found = capture(attempt, "/out/secret", &captured, &err);
	if (found && holds_no_secret(&captured))
		return holds_no_secret(&captured);
	return found ? "something was captured below a link that leads out" : NULL;
}

static const char *nothing_by_climbing(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	char path[512];
	snprintf(path, sizeof(path), "/../../../../../../../../../../../../../../../..%s", attempt->world->secret);
	bool found = capture(attempt, path, &captured, &err);
	return found ? "an output path climbed out of the root" : NULL;
}

static const char *nothing_in_circles(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	return capture(attempt, "/out/below", &captured, &err) || err.code != CROFT_INVALID_ARGUMENT
		? "links in a circle were followed somewhere"
		: NULL;
}

static const char *output_is_refused(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	return capture(attempt, "/out", &captured, &err) || err.code != CROFT_FAILED_PRECONDITION ||
			!strstr(err.message, "no output can hold")
		? "an output that no tree can hold was not refused"
		: NULL;
}

static const char *sparse_stays_sparse(const struct attempt *attempt)
{
	struct stat st;
	char path[256];
	snprintf(path, sizeof(path), "%s/%u/upper/out", attempt->world->state,
		sandbox_cell(attempt->sandbox));
	if (stat(path, &st) < 0 || st.st_size != 1ll << 40)
		return "the sparse file is not there";
	return st.st_blocks > 2048 ? "a sparse file takes room" : NULL;
}

static const char *depth_is_refused(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	return capture(attempt, "/out", &captured, &err) || err.code != CROFT_RESOURCE_EXHAUSTED
		? "5000 directories in each other were captured"
		: NULL;
}

static const char *odd_names_are_kept(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	if (!capture(attempt, "/out", &captured, &err) || captured.count != 4)
		return "odd names were not captured";
	return strstr(captured.text, "[\xff\xfe new\nline]") && strstr(captured.text, "[-rf *]")
		? NULL
		: "odd names changed";
}

static const char *odd_times_are_kept(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	return capture(attempt, "/out", &captured, &err) && capture(attempt, "/out2", &captured, &err)
		? NULL
		: "files with odd times were not captured";
}

static const char *closed_directories_are_read(const struct attempt *attempt)
{
	struct captured captured;
	struct croft_error err = CROFT_ERROR_INIT;
	return capture(attempt, "/out", &captured, &err) && strstr(captured.text, "[d/f]text")
		? NULL
		: "what lies in a closed directory was not captured";
}

static const char *it_ended_at_once(const struct attempt *attempt)
{
	return attempt->result.wall_ns > 100ull * 1000000000 ? "a grandchild held the job up" : NULL;
}

static const char *log_is_cut(const struct attempt *attempt)
{
	return attempt->said_bytes > 2u << 20 ? "more was logged than allowed" : NULL;
}

/* The table -------------------------------------------------------------------------------------------- */

#define OF_KERNEL(probe) {NAMED(probe), .weaken = WEAKEN_SECCOMP, .may_lack = true}
static const char BY_KERNEL[] = "the kernel refuses it to any user namespace";
static const char NO_SWITCH[] = "there is no such protection to take away: it must be kept, or refused";

const struct escape_case cases[] = {
	/* kernel surface */
	OF_KERNEL(unshare_user),
	OF_KERNEL(unshare_time),
	OF_KERNEL(setns_call),
	OF_KERNEL(umount_call),
	OF_KERNEL(fsopen_call),
	OF_KERNEL(open_tree_call),
	OF_KERNEL(move_mount_call),
	OF_KERNEL(mount_setattr_call),
	OF_KERNEL(pivot_root_call),
	OF_KERNEL(open_by_handle_at_call),
	OF_KERNEL(fanotify_call),
	OF_KERNEL(userfaultfd_call),
	OF_KERNEL(add_key_call),
	OF_KERNEL(request_key_call),
	OF_KERNEL(keyctl_call),
	OF_KERNEL(ptrace_call),
	OF_KERNEL(process_vm_readv_call),
	OF_KERNEL(process_madvise_call),
	OF_KERNEL(pidfd_getfd_call),
	OF_KERNEL(modify_ldt_call),
	OF_KERNEL(syslog_call),
	OF_KERNEL(kernel_module),
	OF_KERNEL(kernel_module_file),
	OF_KERNEL(kernel_module_removal),
	OF_KERNEL(kexec_call),
	OF_KERNEL(kexec_file_call),
	OF_KERNEL(swapon_call),
	OF_KERNEL(acct_call),
	OF_KERNEL(iopl_call),
	OF_KERNEL(ioperm_call),
	OF_KERNEL(reboot_call),
	OF_KERNEL(quotactl_call),
	OF_KERNEL(memfd_secret_call),
	OF_KERNEL(sethostname_call),
	OF_KERNEL(chroot_call),
	OF_KERNEL(vhangup_call),
	OF_KERNEL(migrate_pages_call),
	OF_KERNEL(mbind_call),
	OF_KERNEL(remap_file_pages_call),
	OF_KERNEL(name_to_handle_at_call),
	OF_KERNEL(kcmp_call),
	OF_KERNEL(clone3_user_namespace),
	OF_KERNEL(clone_user_namespace),
	OF_KERNEL(io_uring),
	OF_KERNEL(bpf),
	OF_KERNEL(perf),
	OF_KERNEL(clock_settime_call),
	OF_KERNEL(adjtimex_call),
	OF_KERNEL(personality_executable),
	{NAMED(call_of_the_future), .why_not = "no kernel has it yet"},
	{NAMED(mount_tmpfs), .weaken = WEAKEN_SECCOMP | WEAKEN_CAPABILITIES},
	{NAMED(remount_writable), .weaken = WEAKEN_SECCOMP | WEAKEN_CAPABILITIES | WEAKEN_LANDLOCK, .adjust = read_only},
	{NAMED(terminal_injection), .weaken = WEAKEN_SECCOMP, .adjust = terminal},
	{NAMED(console_injection), .weaken = WEAKEN_SECCOMP, .adjust = terminal},
	{NAMED(system_call_of_i386), .weaken = WEAKEN_SECCOMP, .may_lack = true, .signal = SIGSYS},
	{NAMED(system_call_of_x32), .weaken = WEAKEN_SECCOMP, .may_lack = true, .signal = SIGSYS},
	{NAMED(page_at_zero), .why_not = "the kernel asks for a capability over the host"},
	{NAMED(ordinary_calls), .no_escape = true},

	/* files */
	{NAMED(secret_by_path), .argument = SECRET, .weaken = WITH_PATH},
	{NAMED(secret_by_dots), .argument = SECRET, .weaken = WITH_PATH},
	{NAMED(secret_by_proc_root), .argument = VICTIM_SECRET,
		.weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_LANDLOCK},
	{NAMED(secret_by_chroot), .argument = SECRET,
		.weaken = WEAKEN_PIVOT | WEAKEN_SECCOMP | WEAKEN_CAPABILITIES},
	{NAMED(secret_by_mount), .argument = SECRET,
		.why_not = "nothing outside can be named any more once the old root is unmounted"},
	{NAMED(shadow_file), .weaken = WITH_PATH, .open = "/etc/passwd"},
	{NAMED(write_input), .weaken = WEAKEN_OVERLAY, .check = input_is_unchanged},
	{NAMED(write_linked_input), .weaken = WEAKEN_OVERLAY, .check = input_is_unchanged},
	{NAMED(write_mapped_input), .weaken = WEAKEN_OVERLAY, .check = input_is_unchanged},
	{NAMED(remove_input), .weaken = WEAKEN_OVERLAY, .check = input_is_unchanged},
	{NAMED(rename_over_input), .weaken = WEAKEN_OVERLAY, .check = input_is_unchanged},
	{NAMED(change_input_mode), .weaken = WEAKEN_OVERLAY, .check = input_is_unchanged},
	{NAMED(write_outside_outputs), .weaken = WEAKEN_SEAL, .adjust = read_only},
	{NAMED(make_device), .why_not = BY_KERNEL},
	{NAMED(device_as_input), .needs = ESCAPE_ROOT, .weaken = WEAKEN_NOSUID},
	{NAMED(setuid_program), .needs = ESCAPE_ROOT, .weaken = WEAKEN_NOSUID | WEAKEN_NEW_PRIVILEGES,
		.adjust = ordinary_user},
	{NAMED(overlay_attributes), .why_not = BY_KERNEL},
	{NAMED(file_capabilities), .weaken = WEAKEN_CAPABILITIES},
	{NAMED(output_link_to_secret), .argument = SECRET, .weaken = BY_HAND, .check = link_is_kept},
	{NAMED(output_below_link), .argument = SECRET, .weaken = BY_HAND, .check = nothing_below_link},
	{NAMED(output_below_climbing_link), .argument = SECRET, .check = nothing_below_link,
		.why_not = "followed by hand it leads nowhere in particular"},
	{.name = "output_path_that_climbs", .probe = "ordinary_calls", .argument = SECRET, .weaken = BY_HAND,
		.check = nothing_by_climbing},
	{NAMED(output_links_in_a_circle), .why_not = NO_SWITCH, .check = nothing_in_circles},
	{NAMED(output_fifo), .weaken = BY_HAND, .check = output_is_refused},
	{NAMED(output_socket), .weaken = BY_HAND, .check = output_is_refused},
	{NAMED(output_sparse), .why_not = NO_SWITCH, .check = sparse_stays_sparse},
	{NAMED(output_deep), .why_not = NO_SWITCH, .check = depth_is_refused},
	{NAMED(output_odd_names), .why_not = NO_SWITCH, .check = odd_names_are_kept},
	{NAMED(output_odd_times), .why_not = NO_SWITCH, .check = odd_times_are_kept},
	{NAMED(output_closed_directories), .weaken = BY_HAND, .check = closed_directories_are_read},
	{NAMED(output_whiteouts), .why_not = BY_KERNEL},

	/* processes */
	{NAMED(kill_everybody), .needs = ESCAPE_ROOT, .weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_LANDLOCK,
		.check = victim_lives},
	{NAMED(kill_victim), .argument = VICTIM, .weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_LANDLOCK},
	{NAMED(trace_victim), .argument = VICTIM, .adjust = with_tracing,
		.weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_LANDLOCK},
	{NAMED(read_victim), .argument = VICTIM_MEMORY, .adjust = with_tracing,
		.weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_LANDLOCK},
	{NAMED(take_victims_descriptor), .argument = VICTIM,
		.weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_SECCOMP | WEAKEN_LANDLOCK},
	{NAMED(victims_memory_file), .argument = VICTIM,
		.weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_LANDLOCK},
	{NAMED(victims_environment), .argument = VICTIM,
		.weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE | WEAKEN_LANDLOCK},
	{NAMED(memory_of_pid_one), .weaken = WEAKEN_PROC | WEAKEN_DUMPABLE | WEAKEN_CAPABILITIES | WEAKEN_LANDLOCK},
	{NAMED(command_line_of_pid_one), .weaken = WEAKEN_PROC},
	{NAMED(trace_pid_one), .adjust = with_tracing, .weaken = WEAKEN_DUMPABLE | WEAKEN_CAPABILITIES | WEAKEN_LANDLOCK},
	{NAMED(kill_pid_one), .why_not = "without its namespace pid 1 is the machine's"},
	{NAMED(daemon_left_behind), .weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE},
	{NAMED(output_held_open), .weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE,
		.check = it_ended_at_once},
	{NAMED(ignore_termination), .argument = TENTHS, .adjust = short_time,
		.end = CROFT_END_WALL_CLOCK, .weaken = WITHOUT_LIMITS},
	{NAMED(real_time_scheduling), .why_not = "the kernel asks for a capability over the host"},
	{NAMED(raised_priority), .why_not = "the kernel asks for a capability over the host"},
	{NAMED(out_of_memory_score), .why_not = "the kernel asks for a capability over the host"},
	{NAMED(core_dump), .weaken = WEAKEN_RLIMITS},
	{NAMED(capabilities_left), .weaken = WEAKEN_CAPABILITIES},
	{NAMED(kernel_user_id), .needs = ESCAPE_ROOT, .why_not = "a job would be the host's root"},

	/* network and IPC */
	{NAMED(loopback_of_the_host), .argument = PORT, .weaken = WITHOUT_NETWORK},
	{NAMED(abstract_socket), .argument = ABSTRACT, .weaken = WITHOUT_NETWORK | WEAKEN_LANDLOCK},
	{NAMED(path_socket), .argument = SOCKET_PATH,
		.weaken = WEAKEN_PIVOT | WEAKEN_SECCOMP | WEAKEN_CAPABILITIES},
	{NAMED(other_interfaces), .weaken = WITHOUT_NETWORK, .needs = ESCAPE_INTERFACES},
	{NAMED(loopback_of_its_own), .no_escape = true},
	OF_KERNEL(vsock),
	OF_KERNEL(crypto_sockets),
	OF_KERNEL(packet_sockets),
	OF_KERNEL(xdp_sockets),
	OF_KERNEL(netfilter_netlink),
	OF_KERNEL(audit_netlink),
	OF_KERNEL(bluetooth_sockets),
	{NAMED(raw_sockets), .weaken = WEAKEN_CAPABILITIES},
	{NAMED(shared_memory_of_the_host), .argument = MEMORY_KEY, .weaken = WEAKEN_IPC_NAMESPACE},
	{NAMED(message_queue_of_the_host), .argument = QUEUE, .weaken = WEAKEN_IPC_NAMESPACE},
	{NAMED(file_in_shared_memory), .why_not = "it is shown by running it twice"},
	{.name = "file_in_shared_memory", .why_not = "the second time: nothing of the first is left"},

	/* the host's state */
	{NAMED(core_pattern), .why_not = "only the host's root may write it at all"},
	{NAMED(kernel_settings), .weaken = WEAKEN_PROC},
	{NAMED(magic_keys), .why_not = "only the host's root may write it at all"},
	{NAMED(kernel_memory), .weaken = WEAKEN_PROC, .may_lack = true},
	{NAMED(kernel_symbols), .weaken = WEAKEN_PROC},
	{NAMED(kernel_keys), .weaken = WEAKEN_PROC},
	{NAMED(kernel_log), .weaken = WEAKEN_DEV},
	{NAMED(devices), .weaken = WEAKEN_DEV},
	{NAMED(terminals), .weaken = WEAKEN_DEV},
	{NAMED(system_folder), .weaken = WITH_PATH, .open = "/sys"},
	{NAMED(control_groups), .weaken = WEAKEN_CGROUP_NAMESPACE, .needs = ESCAPE_CGROUPS},
	{NAMED(host_name), .argument = HOST_NAME, .weaken = WEAKEN_UTS_NAMESPACE},
	{NAMED(inherited_descriptors), .weaken = WEAKEN_DESCRIPTORS},
	{NAMED(inherited_input), .weaken = WEAKEN_STREAMS},
	{NAMED(inherited_environment), .weaken = WEAKEN_ENVIRONMENT},
	{NAMED(processes_seen), .weaken = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE},
	{NAMED(paths_of_the_host), .argument = FOLDER, .weaken = WEAKEN_OVERLAY},

	/* Landlock alone, with what stands in front of it taken away */
	{.name = "mounts_behind_landlock", .probe = "remount_writable", .adjust = read_only,
		.without = WEAKEN_SECCOMP | WEAKEN_CAPABILITIES, .weaken = WEAKEN_LANDLOCK,
		.needs = ESCAPE_LANDLOCK},
	{.name = "tracing_behind_landlock", .probe = "trace_victim", .argument = VICTIM,
		.adjust = with_tracing, .without = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE,
		.weaken = WEAKEN_LANDLOCK, .needs = ESCAPE_LANDLOCK},
	{.name = "memory_behind_landlock", .probe = "victims_memory_file", .argument = VICTIM,
		.without = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE, .weaken = WEAKEN_LANDLOCK,
		.needs = ESCAPE_LANDLOCK},
	{.name = "signals_behind_landlock", .probe = "kill_victim", .argument = VICTIM,
		.without = WEAKEN_PID_NAMESPACE | WEAKEN_USER_NAMESPACE, .weaken = WEAKEN_LANDLOCK,
		.needs = ESCAPE_SCOPES},
	{.name = "abstract_socket_in_the_hosts_network", .probe = "abstract_socket", .argument = ABSTRACT,
		.without = WITHOUT_NETWORK, .weaken = WEAKEN_LANDLOCK, .needs = ESCAPE_SCOPES},

	/* resources */
	{NAMED(fork_bomb), .adjust = few_processes, .weaken = WITHOUT_LIMITS},
	{NAMED(memory_bomb), .adjust = little_memory, .weaken = WITHOUT_LIMITS, .end = CROFT_END_MEMORY,
		.needs = ESCAPE_CGROUPS},
	{NAMED(tmpfs_bomb), .adjust = little_memory, .weaken = WITHOUT_LIMITS, .end = CROFT_END_MEMORY,
		.needs = ESCAPE_CGROUPS},
	{NAMED(disk_bomb), .argument = TENTHS, .adjust = little_disk, .weaken = WITHOUT_LIMITS,
		.end = CROFT_END_DISK},
	{NAMED(nameless_disk_bomb), .argument = TENTHS, .adjust = little_disk, .weaken = WITHOUT_LIMITS,
		.end = CROFT_END_DISK},
	/* An ordinary user is not shown what processes of other namespaces have mapped. */
	{NAMED(mapped_disk_bomb), .argument = TENTHS, .adjust = little_disk, .weaken = WITHOUT_LIMITS,
		.end = CROFT_END_DISK, .needs = ESCAPE_ROOT},
	{NAMED(reserved_disk_bomb), .argument = TENTHS, .adjust = little_disk, .weaken = WITHOUT_LIMITS,
		.end = CROFT_END_DISK},
	{NAMED(inode_bomb), .argument = TENTHS, .adjust = few_inodes, .weaken = WITHOUT_LIMITS,
		.end = CROFT_END_DISK},
	{NAMED(file_bomb), .adjust = small_files, .weaken = WITHOUT_LIMITS},
	{NAMED(output_bomb), .adjust = short_log, .weaken = WITHOUT_LIMITS, .end = CROFT_END_LOG,
		.check = log_is_cut},
	{NAMED(descriptor_bomb), .weaken = WEAKEN_RLIMITS, .may_lack = true},
	{NAMED(locked_memory), .weaken = WEAKEN_RLIMITS},
	{NAMED(processor_bomb), .adjust = a_fifth_of_a_processor, .needs = ESCAPE_CGROUPS,
		.why_not = "a busy machine looks the same"},
	{0},
};
