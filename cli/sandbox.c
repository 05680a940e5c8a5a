/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/sandbox_spec.h"
#include "cli/state.h"
#include "fs/digest.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { OWN_FAILURE = 125, SPEC_MOST = 16 << 20 };

struct run {
	const struct options *options;
	struct croft_arena *arena;
	struct sandbox_request request;
	char *state; /* of this run alone */
	struct croft_launcher *launcher;
	struct croft_sandbox *sandbox;
	struct croft_sandbox_result result;
	int output_fd; /* where the job's standard output goes */
	int signalled;
};

/* The spec -------------------------------------------------------------------------------------------- */

static const char **texts(struct run *run, const char *option, size_t *count)
{
	*count = options_count(run->options, option);
	const char **list = croft_arena_array(run->arena, *count + 1, sizeof(char *));
	for (size_t i = 0; i < *count; i++)
		list[i] = options_at(run->options, option, i);
	list[*count] = NULL;
	return list;
}

/* "NAME" takes this process's own value. */
static const char **environment(struct run *run)
{
	size_t count, kept = 0;
	const char **list = texts(run, "env", &count);
	for (size_t i = 0; i < count; i++) {
		const char *value = strchr(list[i], '=') ? "" : getenv(list[i]);
		if (!value)
			continue;
		list[kept++] = strchr(list[i], '=')
			? list[i]
			: croft_arena_printf(run->arena, "%s=%s", list[i], value);
	}
	list[kept] = NULL;
	return list;
}

static void use_defaults(struct run *run)
{
	static const char *const root[] = {"/", NULL};
	static const char *const path[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	struct croft_sandbox_spec *spec = &run->request.spec;
	spec->roots = root;
	spec->root_count = 1;
	spec->root_writable = true;
	spec->environment = path;
	spec->working_directory = "/";
}

static bool read_spec_file(struct run *run, struct croft_error *err)
{
	const char *path = options_value(run->options, "spec");
	CROFT_CLEANUP_FREE char *text = NULL;
	size_t size;
	if (!path)
		return true;
	if (!croft_read_file(AT_FDCWD, strcmp(path, "-") ? path : "/dev/stdin", SPEC_MOST, &text, &size, err))
		return false;
	return sandbox_spec_parse(text, size, path, run->arena, &run->request, err);
}

/* What the command line says goes before what the file says. */
static bool read_options(struct run *run, struct croft_error *err)
{
	const struct options *options = run->options;
	struct croft_sandbox_spec *spec = &run->request.spec;
	uint64_t seconds = 0;
	size_t count;
	if (options_given(options, "root"))
		spec->roots = texts(run, "root", &spec->root_count);
	if (options_given(options, "writable")) {
		spec->writable_directories = texts(run, "writable", &spec->writable_count);
		spec->root_writable = false;
	}
	if (options_given(options, "output"))
		run->request.outputs = texts(run, "output", &count);
	if (options_given(options, "env"))
		spec->environment = environment(run);
	if (options_given(options, "workdir"))
		spec->working_directory = options_value(options, "workdir");
	if (options_given(options, "network") &&
		!sandbox_network_parse(options_value(options, "network"), &spec->network, err))
		return false;
	if (options_given(options, "seccomp") &&
		!sandbox_seccomp_parse(options_value(options, "seccomp"), &spec->seccomp, err))
		return false;
	if (!options_number(options, "timeout", 1, 315576000000, &seconds, err) ||
		!options_size(options, "memory", &spec->memory_bytes, err))
		return false;
	if (seconds)
		spec->wall_ms = seconds * 1000;
	if (options->argc > 0)
		spec->arguments = (const char *const *)options->argv;
	spec->terminal = options_given(options, "terminal");
	if (!spec->arguments || !spec->arguments[0])
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "there is no command to run");
	if (spec->working_directory[0] != '/')
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "--workdir: a path inside begins with /");
	if (spec->terminal && (!isatty(0) || options_given(options, "json")))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"--terminal: standard input is to be a terminal, and --json cannot go with it");
	return true;
}

/* Running ----------------------------------------------------------------------------------------------- */

static void on_output(void *user, int stream, struct croft_slice data)
{
	struct run *run = user;
	struct croft_error err = CROFT_ERROR_INIT;
	int fd = stream == 1 ? run->output_fd : STDERR_FILENO;
	if (!croft_write_all(fd, data.data, data.size, "the command's output", &err))
		croft_sandbox_kill(run->sandbox, err.message);
}

/* Signals arrive on this thread only. */
static void *await_signals(void *user)
{
	struct run *run = user;
	sigset_t signals;
	int number;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGUSR2); /* from run_sandbox: it is over */
	while (sigwait(&signals, &number) != 0)
		;
	if (number == SIGUSR2)
		return NULL;
	run->signalled = number;
	croft_sandbox_kill(run->sandbox, "ended by a signal to croft");
	return NULL;
}

static int terminal_master = -1;

static void pass_size(int number)
{
	struct winsize size;
	int saved = errno;
	if (ioctl(0, TIOCGWINSZ, &size) == 0)
		ioctl(terminal_master, TIOCSWINSZ, &size);
	errno = saved;
}

/* Both ways, until the inner end closes or `over` becomes readable. */
static void *pass_terminal(void *user)
{
	int over = *(int *)user;
	char buffer[4096];
	struct croft_error err = CROFT_ERROR_INIT;
	struct pollfd fds[] = {{0, POLLIN, 0}, {terminal_master, POLLIN, 0}, {over, POLLIN, 0}};
	for (;;) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			return NULL;
		for (int i = 0; i < 2; i++) {
			if (!fds[i].revents)
				continue;
			ssize_t got = read(fds[i].fd, buffer, sizeof(buffer));
			if (got <= 0 && i == 0)
				fds[0].fd = -1;
			else if (got <= 0 || !croft_write_all(i ? 1 : terminal_master, buffer, (size_t)got,
									 "the terminal", &err))
				return NULL;
		}
		if (fds[2].revents && !fds[1].revents)
			return NULL;
	}
}

static bool run_terminal(struct run *run, struct croft_error *err)
{
	struct termios before, raw;
	pthread_t passing;
	int over[2];
	terminal_master = croft_sandbox_terminal(run->sandbox);
	if (tcgetattr(0, &before) < 0 || pipe2(over, O_CLOEXEC) < 0)
		return croft_error_errno(err, errno, "preparing the terminal");
	raw = before;
	cfmakeraw(&raw);
	tcsetattr(0, TCSANOW, &raw);
	struct sigaction action = {.sa_handler = pass_size, .sa_flags = SA_RESTART};
	sigaction(SIGWINCH, &action, NULL);
	pass_size(SIGWINCH);
	bool ok = pthread_create(&passing, NULL, pass_terminal, &over[0]) == 0 ||
		croft_error_set(err, CROFT_INTERNAL, "no thread for the terminal");
	if (ok) {
		ok = croft_sandbox_wait(run->sandbox, &run->result, err);
		close(over[1]);
		pthread_join(passing, NULL);
	}
	tcsetattr(0, TCSADRAIN, &before);
	close(over[0]);
	return ok;
}

static bool run_sandbox(struct run *run, struct croft_error *err)
{
	pthread_t signals;
	run->sandbox = croft_sandbox_prepare(run->launcher, &run->request.spec, err);
	if (!run->sandbox || !croft_sandbox_start(run->sandbox, err))
		return false;
	if (pthread_create(&signals, NULL, await_signals, run) != 0)
		return croft_error_set(err, CROFT_INTERNAL, "no thread for signals");
	bool ok = run->request.spec.terminal ? run_terminal(run, err)
										 : croft_sandbox_wait(run->sandbox, &run->result, err);
	pthread_kill(signals, SIGUSR2);
	pthread_join(signals, NULL);
	return ok;
}

/* The result -------------------------------------------------------------------------------------------- */

struct listing {
	json_t *list;
	const char *path;
};

static bool list_entry(void *user, const struct croft_capture_entry *entry, struct croft_error *err)
{
	struct listing *listing = user;
	json_t *one = json_object();
	size_t size = strlen(listing->path) + entry->path.size + 2;
	CROFT_CLEANUP_FREE char *path = croft_alloc(size);
	int length = snprintf(path, size, "%s%s%.*s", listing->path, entry->path.size ? "/" : "",
		(int)entry->path.size, (const char *)entry->path.data);
	json_array_append_new(listing->list, one);
	json_set_bytes(one, "path", CROFT_SLICE(path, (size_t)length));
	json_object_set_new(one, "type", json_string(croft_capture_kind(entry->mode)));
	json_object_set_new(one, "changed", json_boolean(entry->changed));
	if (S_ISLNK(entry->mode))
		json_set_bytes(one, "target", entry->target);
	if (!S_ISREG(entry->mode))
		return true;
	struct croft_digest digest;
	CROFT_CLEANUP_FD int fd = openat(entry->dirfd, entry->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening the output %s", path);
	if (!croft_digest_of_fd(fd, &digest, err))
		return croft_error_wrap(err, "reading the output %s", path);
	json_object_set_new(one, "executable", json_boolean((entry->mode & 0111) != 0));
	json_object_set_new(one, "digest", json_digest(&digest));
	return true;
}

static bool list_outputs(struct run *run, json_t *list, struct croft_error *err)
{
	for (size_t i = 0; run->request.outputs && run->request.outputs[i]; i++) {
		struct listing listing = {list, run->request.outputs[i]};
		struct croft_error failure = CROFT_ERROR_INIT;
		if (croft_sandbox_capture(run->sandbox, listing.path, list_entry, &listing, &failure))
			continue;
		if (failure.code != CROFT_NOT_FOUND) {
			*err = failure;
			return croft_error_wrap(err, "capturing %s", listing.path);
		}
	}
	return true;
}

static json_t *json_enforced(uint32_t bits)
{
	json_t *list = json_array();
	for (int bit = 0; bit < CROFT_ENFORCED_COUNT; bit++)
		if (bits >> bit & 1)
			json_array_append_new(
				list, json_string(croft_enforced_name((enum croft_enforced)(1 << bit))));
	return list;
}

static json_t *json_denied(const struct croft_sandbox_result *result)
{
	json_t *list = json_array();
	for (size_t i = 0; i < result->denied_count; i++) {
		const struct croft_denied_call *call = &result->denied[i];
		json_array_append_new(list,
			json_pack("{s:s, s:i, s:s?}", "call", call->call, "times", (int)call->times, "allowed_by",
				call->allowed_by));
	}
	return list;
}

static bool print_result(struct run *run, struct croft_error *err)
{
	const struct croft_sandbox_result *result = &run->result;
	json_t *json = json_object(), *outputs = json_array();
	json_object_set_new(json, "end", json_string(croft_end_name(result->end)));
	json_object_set_new(json, "exit_code", json_integer(result->exit_code));
	json_object_set_new(json, "signal", json_integer(result->signal));
	json_object_set_new(json, "message", json_string(result->message));
	json_object_set_new(json, "wall_ms", json_integer((json_int_t)(result->wall_ns / 1000000)));
	json_object_set_new(json, "user_ms", json_integer((json_int_t)(result->user_ns / 1000000)));
	json_object_set_new(json, "system_ms", json_integer((json_int_t)(result->system_ns / 1000000)));
	json_object_set_new(
		json, "peak_memory_bytes", json_integer((json_int_t)result->peak_memory_bytes));
	json_object_set_new(json, "memory_measured", json_boolean(result->memory_measured));
	json_object_set_new(json, "read_bytes", json_integer((json_int_t)result->read_bytes));
	json_object_set_new(json, "written_bytes", json_integer((json_int_t)result->written_bytes));
	json_object_set_new(json, "enforced", json_enforced(result->enforced));
	json_object_set_new(json, "not_enforced", json_enforced(~result->enforced));
	json_object_set_new(json, "denied", json_denied(result));
	json_object_set_new(json, "outputs", outputs);
	if (list_outputs(run, outputs, err))
		return json_print(json, err);
	json_decref(json);
	return false;
}

/* ------------------------------------------------------------------------------------------------------- */

static bool start_launcher(struct run *run, struct croft_error *err)
{
	const char *limits = "";
	CROFT_CLEANUP_FREE char *folder = state_directory(run->options, "sandbox", err);
	if (!folder)
		return false;
	if (asprintf(&run->state, "%s/run-XXXXXX", folder) < 0)
		abort();
	if (!mkdtemp(run->state)) {
		croft_error_errno(err, errno, "making a directory in %s", folder);
		free(run->state);
		run->state = NULL;
		return false;
	}
	struct croft_launcher_config config = {.state = run->state, .slots = 1};
	run->launcher = croft_launcher_start(&config, run->arena, &limits, err);
	if (!run->launcher)
		return false;
	for (const char *line = limits; *line && !options_given(run->options, "quiet");) {
		size_t size = strcspn(line, "\n");
		warn("not enforced here: %.*s", (int)size, line);
		line += size + (line[size] == '\n');
	}
	return true;
}

static int finish(struct run *run, bool ok, struct croft_error *err)
{
	croft_sandbox_destroy(run->sandbox);
	croft_launcher_stop(run->launcher);
	struct croft_error failure = CROFT_ERROR_INIT;
	if (run->state && !croft_remove_tree(AT_FDCWD, run->state, &failure))
		warn("%s", failure.message);
	free(run->state);
	if (run->signalled)
		return 128 + run->signalled;
	return ok ? run->result.exit_code : FAILED;
}

static void say_why(const struct croft_sandbox_result *result)
{
	char hint[1024];
	if (result->message[0])
		fprintf(stderr, "croft sandbox: %s\n", result->message);
	if (result->exit_code && croft_sandbox_hint(result, "--seccomp=", hint, sizeof(hint)))
		fprintf(stderr, "croft sandbox: that it failed may come of the sandbox: %s\n", hint);
}

static int run(const struct options *options, struct croft_error *err)
{
	struct run run = {.options = options, .arena = croft_arena_create()};
	bool json = options_given(options, "json");
	run.output_fd = json ? STDERR_FILENO : STDOUT_FILENO;
	use_defaults(&run);
	int status = MISUSED;
	if (read_spec_file(&run, err) && read_options(&run, err)) {
		run.request.spec.output = on_output;
		run.request.spec.user = &run;
		sigset_t signals, before;
		sigemptyset(&signals);
		sigaddset(&signals, SIGINT);
		sigaddset(&signals, SIGTERM);
		sigaddset(&signals, SIGHUP);
		sigaddset(&signals, SIGUSR2);
		pthread_sigmask(SIG_BLOCK, &signals, &before);
		bool ok = start_launcher(&run, err) && run_sandbox(&run, err) && (!json || print_result(&run, err));
		if (ok && !json && !options_given(options, "quiet"))
			say_why(&run.result);
		status = finish(&run, ok, err);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	croft_arena_destroy(run.arena);
	return status;
}

static const struct option_spec sandbox_options[] = {
	{"spec", 's', "FILE", "the spec as JSON; - reads standard input"},
	{"root", 'r', "DIR", "a read-only layer of the root, the topmost first (else /)"},
	{"writable", 0, "PATH", "make everything but such directories and /tmp read-only"},
	{"env", 'e', "NAME[=VALUE]", "environment of the command, which has only PATH otherwise"},
	{"workdir", 'w', "PATH", "where the command starts (else /)"},
	{"network", 0, "KIND", "loopback (the default), none or host"},
	{"seccomp", 0, "PROFILE", "default, strict or compat (which allows tracing)"},
	{"timeout", 0, "SECONDS", "end it after that time"},
	{"memory", 0, "SIZE", "end it when it needs more"},
	{"output", 'o', "PATH", "capture what it leaves there; may be given again"},
	{"terminal", 't', NULL, "give it a terminal: croft sandbox -t -- sh"},
	{"json", 0, NULL, "print the result as JSON; the command's output goes to standard error"},
	{"quiet", 'q', NULL, "do not say what is not enforced here, or why the command ended"},
	{"state", 0, "DIR", "where what it writes is kept while it runs (else ~/.local/state/croft)"},
	{0},
};

const struct command command_sandbox = {
	.name = "sandbox",
	.arguments = "[-- COMMAND [ARGUMENT]…]",
	.summary = "Run one command in the sandbox of jobs, on this machine",
	.details =
		"The command sees the root layers, and changes only a layer of its own that is gone\n"
		"afterwards. It has namespaces, limits and a list of system calls as a job of the farm has.\n"
		"No farm is needed.\n"
		"\n"
		"  croft sandbox -t -- bash\n"
		"  croft sandbox --root ./image --output /out --json -- make -C /src\n"
		"\n"
		"A spec is a JSON object; options go before its fields. Those that it may have:\n"
		"\n"
		"  root                 a directory or a list of them, the topmost first\n"
		"  input_root, input_target   a directory, and where a writable view of it stands inside\n"
		"  writable             list of directories; without it all of the root may be written\n"
		"  command, environment, working_directory, uid, gid, hostname\n"
		"  umask (\"022\"), fixed_addresses (true: no randomisation), cpus (how many it sees),\n"
		"  sorted_directories (true: directories are read in the order of names)\n"
		"  mounts               list of {\"source\": …, \"target\": …, \"writable\": true}\n"
		"  network, seccomp     as the options say\n"
		"  outputs              list of paths to capture\n"
		"  special_outputs      true: fifos, sockets and devices are listed, rather than an error\n"
		"  limits               object of wall_ms, grace_ms, cpu_ms, cpu_millis, memory_bytes,\n"
		"                       processes, file_bytes, disk_bytes, disk_inodes, output_log_bytes,\n"
		"                       capture_bytes\n"
		"\n"
		"The result (--json) has end (exit, signal, wall-clock, memory, disk, log, killed, exec, cpu,\n"
		"processes, file-size), exit_code, message, times, peak_memory_bytes, read_bytes and\n"
		"written_bytes, what this machine could enforce and what not, the system calls that were\n"
		"denied with a profile that allows them, and the outputs.\n"
		"\n"
		"Exit status: the command's own; 128 + N when signal N ended it; 126 or 127 when it could\n"
		"not be executed; 125 when croft itself failed.",
	.options = sandbox_options,
	.stops_at_argument = true,
	.usage_status = OWN_FAILURE,
	.run = run,
};
