/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's side: starting, output, limits of time, the result.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "sandbox/view.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEFAULT_GRACE_MS = 2000, LOOK_MS = 1000, READ_BYTES = 64 * 1024 };

struct croft_sandbox {
	struct croft_launcher *launcher;
	unsigned cell;
	uint64_t pid_namespace;
	uint64_t cpu_before_ns;
	struct croft_sandbox_spec spec; /* of which only numbers and callbacks outlive prepare */
	char *input_target;
	char **roots;
	char *input_root;
	int spec_fd;
	int terminal, terminal_socket;
	int streams[2]; /* reading ends; -1: at its end */
	uint64_t streamed[2];

	pthread_mutex_t lock; /* guards: control, kill_reason */
	int control;
	char kill_reason[200];
	bool killed;
	enum croft_end limit; /* CROFT_END_EXIT: none was hit */
	uint64_t started_ns;
	bool taken, ended;
	bool too_many_inodes;
	struct croft_error unmeasured; /* why it is not known what it wrote */
	uint64_t captured_bytes;
};

/* Preparing ------------------------------------------------------------------------------------------- */

static bool check_spec(const struct croft_sandbox_spec *spec, struct croft_error *err)
{
	if (spec->root_count == 0 || spec->root_count > MAX_ROOTS)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "a sandbox has 1 to %d root layers", MAX_ROOTS);
	if (!spec->arguments || !spec->arguments[0])
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "a sandbox needs a command");
	for (size_t i = 0; i < spec->root_count; i++)
		if (strpbrk(spec->roots[i], ":,\\"))
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"root layer '%s': its path has a ':', ',' or '\\'", spec->roots[i]);
	for (size_t i = 0; i < spec->root_count; i++)
		for (size_t k = 0; k < i; k++)
			if (strcmp(spec->roots[i], spec->roots[k]) == 0)
				return croft_error_set(
					err, CROFT_INVALID_ARGUMENT, "root layer '%s' is given twice", spec->roots[i]);
	return true;
}

struct croft_sandbox *croft_sandbox_prepare(struct croft_launcher *launcher,
	const struct croft_sandbox_spec *spec, struct croft_error *err)
{
	if (!check_spec(spec, err))
		return NULL;
	struct croft_sandbox *sandbox = croft_zalloc(sizeof(*sandbox));
	sandbox->launcher = launcher;
	sandbox->spec = *spec;
	sandbox->terminal_socket = -1;
	sandbox->control = sandbox->terminal = sandbox->streams[0] = sandbox->streams[1] = -1;
	pthread_mutex_init(&sandbox->lock, NULL);
	sandbox->roots = croft_array(spec->root_count + 1, sizeof(char *));
	for (size_t i = 0; i < spec->root_count; i++)
		sandbox->roots[i] = croft_strdup(spec->roots[i]);
	sandbox->input_root = spec->input_root ? croft_strdup(spec->input_root) : NULL;
	sandbox->input_target = spec->input_target ? croft_strdup(spec->input_target) : NULL;
	sandbox->spec_fd = -1;
	sandbox->taken = pool_take(launcher, &sandbox->cell, &sandbox->pid_namespace, err);
	if (sandbox->taken)
		sandbox->spec_fd = wire_spec_write(spec, sandbox->pid_namespace, err);
	if (sandbox->spec_fd >= 0)
		return sandbox;
	croft_sandbox_destroy(sandbox);
	return NULL;
}

static bool make_streams(struct croft_sandbox *sandbox, int inner[2], struct croft_error *err)
{
	if (sandbox->spec.terminal) {
		/* The terminal is one of the sandbox's own, so that it has a name inside: what controls it comes
		 * out by this socket. */
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
			return croft_error_errno(err, errno, "making a socket for the terminal");
		sandbox->terminal_socket = pair[0];
		inner[0] = pair[1];
		inner[1] = fcntl(inner[0], F_DUPFD_CLOEXEC, 0);
		return inner[1] >= 0 || croft_error_errno(err, errno, "opening the terminal");
	}
	for (int i = 0; i < 2; i++) {
		int pipe_fds[2];
		if (pipe2(pipe_fds, O_CLOEXEC) < 0)
			return croft_error_errno(err, errno, "making a pipe");
		sandbox->streams[i] = pipe_fds[0];
		inner[i] = pipe_fds[1];
		fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
	}
	return true;
}

/* When the sandbox could not be made none comes: croft_sandbox_wait says why. */
static void receive_terminal(struct croft_sandbox *sandbox)
{
	char byte;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	ssize_t got;
	while ((got = recvmsg(sandbox->terminal_socket, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	struct cmsghdr *header = got == 1 ? CMSG_FIRSTHDR(&message) : NULL;
	if (header && header->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&sandbox->terminal, CMSG_DATA(header), sizeof(int));
	close(sandbox->terminal_socket);
	sandbox->terminal_socket = -1;
}

static void command(struct croft_sandbox *sandbox, enum command_kind kind)
{
	struct command message = {kind};
	CROFT_LOCKED(&sandbox->lock);
	if (sandbox->control >= 0 &&
		send(sandbox->control, &message, sizeof(message), MSG_NOSIGNAL) < 0)
		return; /* it has ended by itself */
}

bool croft_sandbox_start(struct croft_sandbox *sandbox, struct croft_error *err)
{
	int inner[2] = {-1, -1}, control[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0)
		return croft_error_errno(err, errno, "making the control socket");
	bool ok = make_streams(sandbox, inner, err);
	if (ok) {
		int fds[REQUEST_FDS] = {sandbox->spec_fd, control[1], inner[0], inner[1],
			sandbox->spec.opens > 0 ? sandbox->spec.opens : -1};
		if (sandbox->spec.cpu_ms)
			sandbox->cpu_before_ns =
				cgroups_cpu_ns(pool_context(sandbox->launcher)->cgroups, sandbox->cell);
		sandbox->started_ns = croft_now_ns();
		if (sandbox->spec.started)
			sandbox->spec.started(sandbox->spec.user, sandbox->pid_namespace);
		ok = pool_request(sandbox->launcher, sandbox->cell, fds, err);
	}
	for (int i = 0; i < 2; i++)
		if (inner[i] >= 0)
			close(inner[i]);
	close(control[1]);
	pthread_mutex_lock(&sandbox->lock);
	sandbox->control = control[0];
	bool killed = sandbox->killed;
	pthread_mutex_unlock(&sandbox->lock);
	if (killed)
		command(sandbox, COMMAND_KILL);
	if (ok && sandbox->spec.terminal)
		receive_terminal(sandbox);
	return ok;
}

/* Running ----------------------------------------------------------------------------------------------- */

void croft_sandbox_kill(struct croft_sandbox *sandbox, const char *reason)
{
	pthread_mutex_lock(&sandbox->lock);
	if (!sandbox->killed)
		snprintf(sandbox->kill_reason, sizeof(sandbox->kill_reason), "%s", reason);
	sandbox->killed = true;
	pthread_mutex_unlock(&sandbox->lock);
	command(sandbox, COMMAND_KILL);
}

/* The first limit that is hit is the one that is told. */
static void hit(struct croft_sandbox *sandbox, enum croft_end limit)
{
	if (sandbox->limit != CROFT_END_EXIT)
		return;
	sandbox->limit = limit;
	command(sandbox, COMMAND_KILL);
}

static void read_stream(struct croft_sandbox *sandbox, int i)
{
	char buffer[READ_BYTES];
	ssize_t got = read(sandbox->streams[i], buffer, sizeof(buffer));
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		close(sandbox->streams[i]);
		sandbox->streams[i] = -1;
		return;
	}
	uint64_t most = sandbox->spec.output_log_bytes;
	size_t size = (size_t)got;
	if (most && sandbox->streamed[i] + size > most) {
		size = (size_t)(most - sandbox->streamed[i]);
		hit(sandbox, CROFT_END_LOG);
	}
	sandbox->streamed[i] += size;
	if (size && sandbox->spec.output)
		sandbox->spec.output(sandbox->spec.user, i + 1, CROFT_SLICE(buffer, size));
}

/* When the job is to be looked at next; what is due is done. */
struct clockwork {
	uint64_t wall_ns, kill_ns, look_ns; /* 0: none */
};

static int next_timeout(const struct clockwork *clock, uint64_t now_ns)
{
	uint64_t due = UINT64_MAX, times[] = {clock->wall_ns, clock->kill_ns, clock->look_ns};
	for (int i = 0; i < 3; i++)
		if (times[i] && times[i] < due)
			due = times[i];
	if (due == UINT64_MAX)
		return -1;
	return due <= now_ns ? 0 : (int)((due - now_ns) / 1000000 + 1);
}

static void check_cpu(struct croft_sandbox *sandbox)
{
	uint64_t used_ns = cgroups_cpu_ns(pool_context(sandbox->launcher)->cgroups, sandbox->cell);
	if (sandbox->spec.cpu_ms && used_ns - sandbox->cpu_before_ns > sandbox->spec.cpu_ms * 1000000)
		hit(sandbox, CROFT_END_CPU);
}

static bool measure_disk(const struct croft_sandbox *sandbox, bool ended, uint64_t *bytes,
	uint64_t *inodes, struct croft_error *err)
{
	static const char *const layers[] = {"upper", "input-upper"};
	char path[4096];
	for (int i = 0; i < 2; i++) {
		cell_path(pool_context(sandbox->launcher), sandbox->cell, layers[i], path, sizeof(path));
		if (!view_usage(path, ended, bytes, inodes, err))
			return false;
	}
	cell_path(pool_context(sandbox->launcher), sandbox->cell, "upper", path, sizeof(path));
	return ended || view_held(path, sandbox->pid_namespace, bytes, inodes, err);
}

/* What cannot be measured may be too much. */
static void check_disk(struct croft_sandbox *sandbox, bool ended)
{
	uint64_t bytes = 0, inodes = 0;
	if ((!sandbox->spec.disk_bytes && !sandbox->spec.disk_inodes) || sandbox->limit == CROFT_END_DISK)
		return;
	bool measured = measure_disk(sandbox, ended, &bytes, &inodes, &sandbox->unmeasured);
	sandbox->too_many_inodes = measured && sandbox->spec.disk_inodes && inodes > sandbox->spec.disk_inodes;
	if (!measured || sandbox->too_many_inodes ||
		(sandbox->spec.disk_bytes && bytes > sandbox->spec.disk_bytes))
		hit(sandbox, CROFT_END_DISK);
}

static void tick(struct croft_sandbox *sandbox, struct clockwork *clock)
{
	uint64_t now_ns = croft_now_ns();
	if (clock->wall_ns && now_ns >= clock->wall_ns) {
		uint64_t more_ms = sandbox->spec.extend ? sandbox->spec.extend(sandbox->spec.user) : 0;
		if (more_ms) {
			clock->wall_ns = now_ns + more_ms * 1000000;
		} else {
			uint64_t grace_ms = sandbox->spec.grace_ms ? sandbox->spec.grace_ms : DEFAULT_GRACE_MS;
			clock->wall_ns = 0;
			clock->kill_ns = now_ns + grace_ms * 1000000;
			sandbox->limit = CROFT_END_WALL_CLOCK;
			command(sandbox, COMMAND_TERMINATE);
		}
	}
	if (clock->kill_ns && now_ns >= clock->kill_ns) {
		clock->kill_ns = 0;
		command(sandbox, COMMAND_KILL);
	}
	if (clock->look_ns && now_ns >= clock->look_ns) {
		clock->look_ns = now_ns + LOOK_MS * 1000000ull;
		check_cpu(sandbox);
		check_disk(sandbox, false);
	}
}

static void on_started(struct croft_sandbox *sandbox, const struct report *report,
	struct clockwork *clock)
{
	sandbox->started_ns = croft_now_ns();
	if (sandbox->spec.wall_ms)
		clock->wall_ns = sandbox->started_ns + sandbox->spec.wall_ms * 1000000;
	if (sandbox->spec.disk_bytes || sandbox->spec.disk_inodes || sandbox->spec.cpu_ms)
		clock->look_ns = sandbox->started_ns + LOOK_MS * 1000000ull;
	if (report->pid_namespace == sandbox->pid_namespace)
		return;
	/* What it asks for is not to be had ahead: it was made anew, and waits for our word. */
	sandbox->pid_namespace = report->pid_namespace;
	if (sandbox->spec.started)
		sandbox->spec.started(sandbox->spec.user, report->pid_namespace);
	command(sandbox, COMMAND_GO);
}

/* Until the keeper has told the end and all output was read. */
static bool pump(struct croft_sandbox *sandbox, struct report *end, struct croft_error *err)
{
	struct clockwork clock = {0};
	bool told = false;
	while (!told || sandbox->streams[0] >= 0 || sandbox->streams[1] >= 0) {
		struct pollfd fds[] = {{sandbox->streams[0], POLLIN, 0}, {sandbox->streams[1], POLLIN, 0},
			{told ? -1 : sandbox->control, POLLIN, 0}};
		if (poll(fds, 3, told ? 0 : next_timeout(&clock, croft_now_ns())) < 0 && errno != EINTR)
			return croft_error_errno(err, errno, "waiting for a sandbox");
		if (!told)
			tick(sandbox, &clock);
		for (int i = 0; i < 2; i++)
			if (fds[i].revents)
				read_stream(sandbox, i);
		if (told && !fds[0].revents && !fds[1].revents)
			break; /* all inside are dead: whoever still holds a pipe is none of them */
		if (!fds[2].revents)
			continue;
		ssize_t got = recv(sandbox->control, end, sizeof(*end), 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got != (ssize_t)sizeof(*end))
			return croft_error_set(err, CROFT_INTERNAL,
				"the sandbox's keeper ended without a word: was it killed?");
		if (end->kind == REPORT_STARTED)
			on_started(sandbox, end, &clock);
		else
			told = true;
	}
	return true;
}

bool croft_sandbox_wait(struct croft_sandbox *sandbox, struct croft_sandbox_result *result,
	struct croft_error *err)
{
	struct report end = {0};
	*result = (struct croft_sandbox_result){0};
	if (!pump(sandbox, &end, err))
		return false;
	sandbox->ended = true;
	if (end.kind == REPORT_FAILED)
		return croft_error_set(err, CROFT_INTERNAL, "making the sandbox: %s", end.message);
	result->wall_ns = croft_now_ns() - sandbox->started_ns;
	result->user_ns = end.user_ns;
	result->system_ns = end.system_ns;
	result->peak_memory_bytes = end.peak_memory_bytes;
	result->memory_measured = end.memory_measured;
	result->read_bytes = end.read_bytes;
	result->written_bytes = end.written_bytes;
	result->enforced = end_enforced(pool_context(sandbox->launcher));
	/* A job that was quicker than the look at its disk did not get away with it. */
	check_disk(sandbox, true);
	pthread_mutex_lock(&sandbox->lock);
	bool killed = sandbox->killed;
	pthread_mutex_unlock(&sandbox->lock);
	struct end_facts facts = {
		.report = &end,
		.spec = &sandbox->spec,
		.limit = sandbox->limit,
		.too_many_inodes = sandbox->too_many_inodes,
		.unmeasured = sandbox->unmeasured.code == CROFT_OK ? NULL : sandbox->unmeasured.message,
		.kill_reason = killed ? sandbox->kill_reason : NULL,
	};
	end_judge(&facts, result);
	return true;
}

#ifdef CROFT_SANDBOX_WEAKEN
unsigned sandbox_cell(const struct croft_sandbox *sandbox)
{
	return sandbox->cell;
}
#endif

int croft_sandbox_terminal(struct croft_sandbox *sandbox)
{
	return sandbox->terminal;
}

/* Afterwards -------------------------------------------------------------------------------------------- */

struct bounded_capture {
	struct croft_sandbox *sandbox;
	bool (*entry)(void *user, const struct croft_capture_entry *entry, struct croft_error *err);
	void *user;
};

static bool count_entry(void *user, const struct croft_capture_entry *entry, struct croft_error *err)
{
	struct bounded_capture *bounded = user;
	struct croft_sandbox *sandbox = bounded->sandbox;
	uint64_t most = sandbox->spec.capture_bytes;
	if (entry->changed && __builtin_add_overflow(sandbox->captured_bytes, entry->size_bytes,
							&sandbox->captured_bytes))
		sandbox->captured_bytes = UINT64_MAX;
	if (most && sandbox->captured_bytes > most)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"the job's outputs are larger than its limit of %llu bytes", (unsigned long long)most);
	return bounded->entry(bounded->user, entry, err);
}

bool croft_sandbox_capture(struct croft_sandbox *sandbox, const char *path,
	bool (*entry)(void *user, const struct croft_capture_entry *entry, struct croft_error *err),
	void *user, struct croft_error *err)
{
	char upper[4096];
	const char *target = sandbox->input_target;
	size_t size = target ? strlen(target) : 0;
	bool in_input = sandbox->input_root && strncmp(path, target, size) == 0 &&
		(path[size] == '/' || path[size] == '\0');
	cell_path(pool_context(sandbox->launcher), sandbox->cell, in_input ? "input-upper" : "upper", upper,
		sizeof(upper));
	const char *input[] = {sandbox->input_root, NULL};
	struct view view;
	const char *const *lowers = in_input ? input : (const char *const *)sandbox->roots;
	if (!view_open(&view, pool_context(sandbox->launcher)->privileged, upper, lowers, err))
		return false;
	struct bounded_capture bounded = {sandbox, entry, user};
	bool ok = view_capture(&view, in_input ? path + size : path, sandbox->spec.special_outputs,
		count_entry, &bounded, err);
	view_close(&view);
	return ok;
}

void croft_sandbox_destroy(struct croft_sandbox *sandbox)
{
	if (!sandbox)
		return;
	if (sandbox->control >= 0) {
		if (!sandbox->ended) {
			/* Until everything inside is dead. */
			struct report last = {0};
			command(sandbox, COMMAND_KILL);
			while (recv(sandbox->control, &last, sizeof(last), 0) > 0 &&
				last.kind == REPORT_STARTED)
				;
		}
		close(sandbox->control);
	}
	for (int i = 0; i < 2; i++)
		if (sandbox->streams[i] >= 0)
			close(sandbox->streams[i]);
	if (sandbox->terminal >= 0)
		close(sandbox->terminal);
	if (sandbox->terminal_socket >= 0)
		close(sandbox->terminal_socket);
	if (sandbox->spec_fd >= 0)
		close(sandbox->spec_fd);
	if (sandbox->taken)
		pool_release(sandbox->launcher, sandbox->cell);
	for (size_t i = 0; sandbox->roots[i]; i++)
		free(sandbox->roots[i]);
	free(sandbox->roots);
	free(sandbox->input_root);
	free(sandbox->input_target);
	pthread_mutex_destroy(&sandbox->lock);
	free(sandbox);
}
