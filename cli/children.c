/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/children.h"

#include "cli/process.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

/* Dying that often in that time is no accident. */
enum { MOST_DEATHS = 5, LINE_ROOM = 4096 };
static const uint64_t deaths_span_ns = 60ull * 1000000000;

struct child {
	const char *name;
	char *const *arguments;
	pid_t pid; /* 0: not running */
	int log;   /* read end of its standard error; -1: closed */
	char line[LINE_ROOM];
	size_t line_size;
	uint64_t deaths_ns[MOST_DEATHS]; /* the last ones, by death_count modulo */
	unsigned death_count;
	uint64_t restart_ns; /* when to start it again; 0: not waiting */
};

struct children {
	struct child **items;
	size_t count;
	int signals; /* signalfd */
	sigset_t before;
	int ending_signal; /* that was received; 0: none */
};

struct children *children_create(struct croft_error *err)
{
	struct children *children = croft_zalloc(sizeof(*children));
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, &children->before);
	children->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (children->signals >= 0)
		return children;
	croft_error_errno(err, errno, "making a signal descriptor");
	free(children);
	return NULL;
}

static struct child *find_child(struct children *children, const char *name)
{
	for (size_t i = 0; i < children->count; i++)
		if (!strcmp(children->items[i]->name, name))
			return children->items[i];
	return NULL;
}

/* Logs ---------------------------------------------------------------------------------------- */

static void print_line(struct child *child)
{
	fprintf(stderr, "[%s] %.*s\n", child->name, (int)child->line_size, child->line);
	child->line_size = 0;
}

static void take_log(struct child *child)
{
	char buffer[4096];
	ssize_t size;
	while (child->log >= 0 && (size = read(child->log, buffer, sizeof(buffer))) != -1) {
		for (ssize_t i = 0; i < size; i++) {
			if (buffer[i] != '\n')
				child->line[child->line_size++] = buffer[i];
			if (buffer[i] == '\n' || child->line_size == LINE_ROOM)
				print_line(child);
		}
		if (size > 0)
			continue;
		close(child->log);
		child->log = -1;
	}
	if (child->log < 0 && child->line_size)
		print_line(child);
}

/* Starting ------------------------------------------------------------------------------------ */

static bool start(struct child *child, int ready, struct croft_error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return croft_error_errno(err, errno, "making a pipe for %s", child->name);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	struct spawn spawn = {.arguments = child->arguments, .output_fd = ends[1], .error_fd = ends[1],
		.keep_fd = ready, .keep_as = ready >= 0 ? 3 : 0, .new_group = true};
	pid_t pid = spawn_self(&spawn, err);
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return false;
	}
	take_log(child);
	if (child->log >= 0)
		close(child->log);
	child->log = ends[0];
	child->pid = pid;
	child->restart_ns = 0;
	return true;
}

static struct child *add_child(struct children *children, const char *name, char *const *arguments)
{
	struct child *child = croft_zalloc(sizeof(*child));
	child->name = name;
	child->arguments = arguments;
	child->log = -1;
	children->items = croft_realloc(children->items, children->count + 1, sizeof(child));
	children->items[children->count++] = child;
	return child;
}

bool children_start(struct children *children, const char *name, char *const *arguments,
	struct croft_error *err)
{
	return start(add_child(children, name, arguments), -1, err);
}

void children_change(struct children *children, const char *name, char *const *arguments)
{
	struct child *child = find_child(children, name);
	if (child)
		child->arguments = arguments;
}

/* The loop ------------------------------------------------------------------------------------ */

static const char *how_it_ended(int status, char text[64])
{
	if (WIFSIGNALED(status))
		snprintf(text, 64, "was ended by %s", strsignal(WTERMSIG(status)));
	else
		snprintf(text, 64, "ended with status %d", WEXITSTATUS(status));
	return text;
}

/* One death: again in a second, unless there were too many. */
static bool take_death(struct child *child, int status, struct croft_error *err)
{
	char text[64];
	uint64_t now = croft_now_ns(), *slot = &child->deaths_ns[child->death_count % MOST_DEATHS];
	child->pid = 0;
	take_log(child);
	how_it_ended(status, text);
	if (child->death_count++ >= MOST_DEATHS && now - *slot < deaths_span_ns)
		return croft_error_set(err, CROFT_INTERNAL,
			"%s %s, for the %uth time in a minute; its last lines above say why", child->name,
			text, MOST_DEATHS + 1);
	*slot = now;
	child->restart_ns = now + 1000000000u;
	fprintf(stderr, "croft farm: %s %s; starting it again\n", child->name, text);
	return true;
}

static bool reap(struct children *children, struct croft_error *err)
{
	bool ok = true;
	for (size_t i = 0; i < children->count; i++) {
		struct child *child = children->items[i];
		int status;
		if (child->pid && waitpid(child->pid, &status, WNOHANG) == child->pid)
			ok = take_death(child, status, ok ? err : NULL) && ok;
	}
	return ok;
}

static void take_signals(struct children *children)
{
	struct signalfd_siginfo info;
	while (read(children->signals, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD)
			children->ending_signal = (int)info.ssi_signo;
}

/* Waits for logs, signals and `extra` (-1: none); true when extra can be read. */
static bool wait_for_events(struct children *children, int extra, int timeout_ms)
{
	struct pollfd *set = croft_array(children->count + 2, sizeof(*set));
	set[0] = (struct pollfd){.fd = children->signals, .events = POLLIN};
	set[1] = (struct pollfd){.fd = extra, .events = POLLIN};
	for (size_t i = 0; i < children->count; i++)
		set[i + 2] = (struct pollfd){.fd = children->items[i]->log, .events = POLLIN};
	poll(set, children->count + 2, timeout_ms);
	bool readable = set[1].revents != 0;
	for (size_t i = 0; i < children->count; i++)
		if (set[i + 2].revents)
			take_log(children->items[i]);
	if (set[0].revents)
		take_signals(children);
	free(set);
	return readable;
}

static bool wait_until_ready(struct children *children, struct child *child, int ready,
	unsigned timeout_ms, char *line, size_t room, struct croft_error *err)
{
	uint64_t end_ns = croft_now_ns() + timeout_ms * 1000000ull;
	for (uint64_t now; (now = croft_now_ns()) < end_ns;) {
		int status;
		char text[64];
		if (wait_for_events(children, ready, (int)((end_ns - now) / 1000000 + 1))) {
			ssize_t size = read(ready, line, room - 1);
			if (size > 0) {
				line[size] = '\0';
				return true;
			}
			/* It closed the pipe: it is about to be dead. */
			waitpid(child->pid, &status, 0);
			child->pid = 0;
			take_log(child);
			return croft_error_set(err, CROFT_INTERNAL, "%s %s before it was ready",
				child->name, how_it_ended(status, text));
		}
		if (children->ending_signal)
			return croft_error_set(err, CROFT_CANCELLED, "%s",
				strsignal(children->ending_signal));
	}
	return croft_error_set(err, CROFT_DEADLINE_EXCEEDED, "%s was not ready after %u s", child->name,
		timeout_ms / 1000);
}

bool children_start_ready(struct children *children, const char *name, char *const *arguments,
	unsigned timeout_ms, char *line, size_t room, struct croft_error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return croft_error_errno(err, errno, "making a pipe for %s", name);
	struct child *child = add_child(children, name, arguments);
	bool ok = start(child, ends[1], err);
	close(ends[1]);
	ok = ok && wait_until_ready(children, child, ends[0], timeout_ms, line, room, err);
	close(ends[0]);
	return ok;
}

/* Milliseconds until a child is to be started again; -1: none is. */
static int next_restart(const struct children *children)
{
	uint64_t now = croft_now_ns();
	int next = -1;
	for (size_t i = 0; i < children->count; i++) {
		uint64_t at = children->items[i]->restart_ns;
		int wait = at > now ? (int)((at - now) / 1000000 + 1) : 0;
		if (at && (next < 0 || wait < next))
			next = wait;
	}
	return next;
}

bool children_watch(struct children *children, struct croft_error *err)
{
	while (!children->ending_signal) {
		if (!reap(children, err))
			return false;
		wait_for_events(children, -1, next_restart(children));
		uint64_t now = croft_now_ns();
		for (size_t i = 0; i < children->count && !children->ending_signal; i++) {
			struct child *child = children->items[i];
			if (child->restart_ns && child->restart_ns <= now && !start(child, -1, err))
				return false;
		}
	}
	return true;
}

/* Ending -------------------------------------------------------------------------------------- */

static bool wait_for_end(struct children *children, struct child *child, unsigned timeout_ms)
{
	uint64_t end_ns = croft_now_ns() + timeout_ms * 1000000ull;
	for (uint64_t now = croft_now_ns();; now = croft_now_ns()) {
		if (waitpid(child->pid, NULL, WNOHANG) != 0) {
			child->pid = 0;
			take_log(child);
			return true;
		}
		if (now >= end_ns)
			return false;
		/* SIGCHLD ends the wait; one that came before it is why it is short. */
		int left = (int)((end_ns - now) / 1000000 + 1);
		wait_for_events(children, -1, left < 100 ? left : 100);
	}
}

void children_end(struct children *children, unsigned grace_ms)
{
	for (size_t i = children->count; i-- > 0;) {
		struct child *child = children->items[i];
		child->restart_ns = 0;
		if (!child->pid)
			continue;
		kill(child->pid, SIGTERM);
		if (wait_for_end(children, child, grace_ms))
			continue;
		fprintf(stderr, "croft farm: %s does not end; killing it\n", child->name);
		kill(child->pid, SIGKILL);
		wait_for_end(children, child, 60000);
	}
}

void children_destroy(struct children *children)
{
	if (!children)
		return;
	children_end(children, 5000);
	for (size_t i = 0; i < children->count; i++) {
		if (children->items[i]->log >= 0)
			close(children->items[i]->log);
		free(children->items[i]);
	}
	free(children->items);
	close(children->signals);
	sigprocmask(SIG_SETMASK, &children->before, NULL);
	free(children);
}
