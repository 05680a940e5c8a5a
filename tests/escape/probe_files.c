/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files: reading what is not the job's, changing inputs, leaving odd things as outputs. */
#include "tests/escape/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static enum verdict see_secret(const char *path, const char *how)
{
	const char *text = read_text(path);
	if (text && strstr(text, "secret of the host"))
		return say(ESCAPED, "the secret is seen %s", how);
	return say(CONTAINED, "not seen %s", how);
}

static enum verdict secret_by_path(const char *path)
{
	return see_secret(path, "by its path");
}

static enum verdict secret_by_dots(const char *path)
{
	char climbed[4096] = "";
	for (int i = 0; i < 40; i++)
		strcat(climbed, "../");
	strcat(climbed, path + 1);
	return see_secret(climbed, "by climbing");
}

/* The argument is the victim's pid and the path. */
static enum verdict secret_by_proc_root(const char *argument)
{
	char through[4096], *path;
	long pid = strtol(argument, &path, 10);
	path++;
	snprintf(through, sizeof(through), "/proc/1/root%s", path);
	enum verdict verdict = see_secret(through, "through /proc/1/root");
	if (verdict == ESCAPED)
		return verdict;
	snprintf(through, sizeof(through), "/proc/%ld/root%s", pid, path);
	return see_secret(through, "through another's /proc/PID/root");
}

static enum verdict secret_by_chroot(const char *path)
{
	mkdir("/tmp/deep", 0700);
	int top = open("/", O_RDONLY | O_DIRECTORY);
	if (chroot("/tmp/deep") < 0)
		return say(CONTAINED, "chroot: %m");
	if (fchdir(top) < 0)
		return say(BROKEN, "fchdir: ");
	for (int i = 0; i < 40; i++)
		if (chdir("..") < 0)
			return say(BROKEN, "chdir: ");
	if (chroot(".") < 0)
		return say(CONTAINED, "chroot at the top: %m");
	return see_secret(path, "after leaving by chroot");
}

static enum verdict secret_by_mount(const char *path)
{
	if (mount("/proc/1/root", "/tmp", NULL, MS_BIND | MS_REC, NULL) < 0 &&
		mount("/dev/vda", "/tmp", "ext4", MS_RDONLY, NULL) < 0)
		return say(CONTAINED, "mounting what is outside: %m");
	char through[4096];
	snprintf(through, sizeof(through), "/tmp%s", path);
	return see_secret(through, "through a mount");
}

static enum verdict shadow_file(const char *unused)
{
	return judge_open("/etc/shadow", O_RDONLY);
}

/* Whether the input changed is for the outside to see. */
static enum verdict write_input(const char *unused)
{
	int fd = open("/etc/input", O_WRONLY | O_TRUNC);
	if (fd < 0 || write(fd, "changed\n", 8) != 8)
		return say(CONTAINED, "writing an input: %m");
	close(fd);
	return say(CONTAINED, "written, to a copy or not");
}

static enum verdict write_linked_input(const char *unused)
{
	if (link("/etc/input", "/etc/linked") < 0)
		return say(CONTAINED, "linking an input: %m");
	int fd = open("/etc/linked", O_WRONLY);
	if (fd < 0 || write(fd, "changed\n", 8) != 8)
		return say(CONTAINED, "writing a linked input: %m");
	return say(CONTAINED, "written, to a copy or not");
}

static enum verdict write_mapped_input(const char *unused)
{
	char text[] = "changed\n";
	int fd = open("/etc/input", O_RDWR);
	if (fd < 0 || pwrite(fd, text, 8, 0) != 8 || ftruncate(fd, 8) < 0 || fsync(fd) < 0)
		return say(CONTAINED, "writing an input: %m");
	return say(CONTAINED, "written, to a copy or not");
}

static enum verdict remove_input(const char *unused)
{
	if (unlink("/etc/input") < 0)
		return say(CONTAINED, "removing an input: %m");
	return say(CONTAINED, "gone from the job's view");
}

static enum verdict rename_over_input(const char *unused)
{
	int fd = open("/etc/new", O_CREAT | O_WRONLY, 0666);
	if (fd < 0 || write(fd, "changed\n", 8) != 8 || rename("/etc/new", "/etc/input") < 0)
		return say(CONTAINED, "renaming over an input: %m");
	return say(CONTAINED, "replaced in the job's view");
}

static enum verdict change_input_mode(const char *unused)
{
	if (chmod("/etc/input", 0) < 0)
		return say(CONTAINED, "chmod of an input: %m");
	return say(CONTAINED, "changed in the job's view");
}

static enum verdict write_outside_outputs(const char *unused)
{
	int fd = open("/etc/made", O_CREAT | O_WRONLY, 0666);
	return judge(fd >= 0, "writing outside the outputs");
}

static enum verdict make_device(const char *unused)
{
	return judge(mknod("/tmp/disk", S_IFBLK | 0600, makedev(254, 0)) == 0 ||
			mknod("/tmp/memory", S_IFCHR | 0600, makedev(1, 1)) == 0,
		"making a device");
}

/* A device node that is an input must not open a device. */
static enum verdict device_as_input(const char *unused)
{
	struct stat st;
	if (stat("/etc/device", &st) < 0)
		return say(BROKEN, "the device is missing: ");
	return judge_open("/etc/device", O_RDONLY);
}

static enum verdict setuid_program(const char *unused)
{
	execl("/bin/setuid", "setuid", "who_am_i", NULL);
	return say(BROKEN, "executing /bin/setuid: ");
}

static enum verdict who_am_i(const char *unused)
{
	return geteuid() == getuid() ? say(CONTAINED, "still user %u", geteuid())
								 : say(ESCAPED, "user %u became %u", getuid(), geteuid());
}

/* Names that overlayfs itself reads. */
static enum verdict overlay_attributes(const char *unused)
{
	mkdir("/tmp/d", 0755);
	return judge(setxattr("/tmp/d", "trusted.overlay.redirect", "/etc", 4, 0) == 0,
		"setting overlayfs's own attributes");
}

static enum verdict file_capabilities(const char *unused)
{
	int fd = open("/tmp/f", O_CREAT | O_WRONLY, 0755);
	static const unsigned capabilities[] = {0x02000001, 0xffffffff, 0, 0xffffffff, 0};
	return judge(fsetxattr(fd, "security.capability", capabilities, sizeof(capabilities), 0) == 0,
		"giving a file capabilities");
}

/* Outputs. What becomes of them is for the outside to see; these only must be able to make them. */
static enum verdict made(bool ok)
{
	return ok ? say(CONTAINED, "made") : say(BROKEN, "making it: ");
}

static enum verdict output_link_to_secret(const char *path)
{
	return made(symlink(path, "/out") == 0);
}

static enum verdict output_below_link(const char *path)
{
	char *slash = strrchr(path, '/'), folder[4096];
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
	return made(symlink(folder, "/out") == 0);
}

static enum verdict output_below_climbing_link(const char *path)
{
	char *slash = strrchr(path, '/'), folder[4096];
	snprintf(folder, sizeof(folder), "../../../../../..%.*s", (int)(slash - path), path);
	return made(symlink(folder, "/out") == 0);
}

static enum verdict output_links_in_a_circle(const char *unused)
{
	return made(symlink("/b", "/a") == 0 && symlink("/a", "/b") == 0 && symlink("/a", "/out") == 0);
}

static enum verdict output_fifo(const char *unused)
{
	return made(mkfifo("/out", 0666) == 0);
}

static enum verdict output_socket(const char *unused)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/out"};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return made(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
}

static enum verdict output_sparse(const char *unused)
{
	int fd = open("/out", O_CREAT | O_WRONLY, 0666);
	return made(fd >= 0 && ftruncate(fd, 1ll << 40) == 0);
}

static enum verdict output_deep(const char *unused)
{
	bool ok = mkdir("/out", 0777) == 0 && chdir("/out") == 0;
	for (int i = 0; ok && i < 5000; i++)
		ok = mkdir("d", 0777) == 0 && chdir("d") == 0;
	return made(ok);
}

static enum verdict output_odd_names(const char *unused)
{
	char longest[256];
	memset(longest, 'n', 255);
	longest[255] = '\0';
	int a, b, c;
	bool ok = mkdir("/out", 0777) == 0 && chdir("/out") == 0 &&
		(a = creat(longest, 0666)) >= 0 && (b = creat("\xff\xfe new\nline", 0666)) >= 0 &&
		(c = creat("-rf *", 0666)) >= 0;
	return made(ok);
}

static enum verdict output_odd_times(const char *unused)
{
	struct timespec times[2] = {{-1000000000, 1}, {-1000000000, 1}};
	int fd = creat("/out", 0666);
	bool ok = fd >= 0 && futimens(fd, times) == 0;
	times[0].tv_sec = times[1].tv_sec = 1ll << 33;
	ok = ok && (fd = creat("/out2", 0666)) >= 0 && futimens(fd, times) == 0;
	return made(ok);
}

static enum verdict output_closed_directories(const char *unused)
{
	bool ok = mkdir("/out", 0777) == 0 && mkdir("/out/d", 0777) == 0;
	int fd = ok ? creat("/out/d/f", 0000) : -1;
	return made(fd >= 0 && write(fd, "text", 4) == 4 && chmod("/out/d", 0) == 0 &&
		chmod("/out", 0) == 0);
}

static enum verdict output_whiteouts(const char *unused)
{
	/* overlayfs's mark of a removed name, by hand. */
	if (mknod("/etc/white", S_IFCHR, makedev(0, 0)) < 0)
		return say(CONTAINED, "making a whiteout: %m");
	return say(ESCAPED, "a whiteout was made by hand");
}

#define PROBE(name) {#name, name}
const struct probe file_probes[] = {PROBE(secret_by_path), PROBE(secret_by_dots),
	PROBE(secret_by_proc_root), PROBE(secret_by_chroot), PROBE(secret_by_mount),
	PROBE(shadow_file), PROBE(write_input), PROBE(write_linked_input), PROBE(write_mapped_input),
	PROBE(remove_input), PROBE(rename_over_input), PROBE(change_input_mode),
	PROBE(write_outside_outputs), PROBE(make_device), PROBE(device_as_input),
	PROBE(setuid_program), PROBE(who_am_i), PROBE(overlay_attributes), PROBE(file_capabilities),
	PROBE(output_link_to_secret), PROBE(output_below_link), PROBE(output_below_climbing_link),
	PROBE(output_links_in_a_circle), PROBE(output_fifo), PROBE(output_socket),
	PROBE(output_sparse), PROBE(output_deep), PROBE(output_odd_names), PROBE(output_odd_times),
	PROBE(output_closed_directories), PROBE(output_whiteouts), {0}};
