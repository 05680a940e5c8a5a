/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A terminal in the sandbox of a job, or in a tree of the farm: put together from `croft mount` and
 * `croft sandbox`, each a process of its own, with what the job's Action says.
 */
#include "agent/options.h"
#include "agent/paths.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/process.h"
#include "cli/ref.h"
#include "cli/state.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/rpc/message.h"

#include "google/longrunning/operations.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_MOUNTS = 2, OWN_FAILURE = 125 };

struct shell {
	const struct options *options;
	struct croft_arena *arena;
	struct client client;
	Reapi__Action *action; /* NULL: only a tree */
	Reapi__Command *command;
	struct croft_digest root;
	struct croft_job_options job;
	char *folder; /* of this run alone: mount points and the spec */
	pid_t mounts[MOST_MOUNTS];
	unsigned mount_count;
};

/* What it is about --------------------------------------------------------------------------------- */

/* NULL, without an error, when these bytes are no such message. */
static void *read_message(struct shell *shell, const struct croft_digest *digest,
	const ProtobufCMessageDescriptor *type, struct croft_error *err)
{
	struct croft_slice data;
	if (!croft_remote_read(shell->client.remote, digest, shell->arena, &data, err))
		return NULL;
	return croft_message_decode(type, data, shell->arena, NULL, NULL);
}

/* A Directory's bytes are no Action: its entries are longer than the digests that stand there. */
static bool read_action(struct shell *shell, const struct croft_digest *digest,
	struct croft_error *err)
{
	struct croft_digest command;
	struct croft_error ignored = CROFT_ERROR_INIT;
	Reapi__Action *action = read_message(shell, digest, &reapi__action__descriptor, err);
	if (!action)
		return false;
	if (!action->command_digest || !action->input_root_digest ||
		!croft_digest_from_message(action->command_digest, "command", &command, &ignored) ||
		!croft_digest_from_message(
			action->input_root_digest, "input root", &shell->root, &ignored))
		return false;
	shell->command = read_message(shell, &command, &reapi__command__descriptor, err);
	if (shell->command)
		shell->action = action;
	return shell->command != NULL;
}

/* The action of a job that the server knows; false without an error when it knows none of that name. */
static bool find_operation(struct shell *shell, const char *name, struct croft_digest *action,
	struct croft_error *err)
{
	Longrunning__GetOperationRequest request = LONGRUNNING__GET_OPERATION_REQUEST__INIT;
	struct croft_error failure = CROFT_ERROR_INIT;
	request.name = (char *)name;
	Longrunning__Operation *operation = croft_unary(shell->client.channel, NULL,
		"/google.longrunning.Operations/GetOperation", &request.base,
		&longrunning__operation__descriptor, shell->arena, &failure);
	if (!operation && failure.code != CROFT_NOT_FOUND && failure.code != CROFT_INVALID_ARGUMENT)
		*err = failure;
	if (!operation || !operation->metadata)
		return false;
	Reapi__ExecuteOperationMetadata *metadata = croft_message_decode(
		&reapi__execute_operation_metadata__descriptor,
		CROFT_SLICE(operation->metadata->value.data, operation->metadata->value.len), shell->arena,
		NULL, err);
	return metadata && metadata->action_digest &&
		croft_digest_from_message(metadata->action_digest, "the job's action", action, err);
}

static bool find(struct shell *shell, const char *text, struct croft_error *err)
{
	struct ref ref;
	struct croft_digest action;
	if (!ref_parse(text, &ref, err))
		return false;
	if (ref.by_digest && !ref.has_path) {
		if (read_action(shell, &ref.digest, err))
			return true;
	} else if (!ref.has_path && find_operation(shell, text, &action, err)) {
		return read_action(shell, &action, err) ||
			croft_error_set(err, CROFT_NOT_FOUND, "the action of %s is not in the store", text);
	}
	return err->code == CROFT_OK && ref_directory(&shell->client, text, &shell->root, err);
}

/* Mounting --------------------------------------------------------------------------------------------- */

static const char *mount_tree(struct shell *shell, const char *ref, struct croft_error *err)
{
	char *target = croft_arena_printf(shell->arena, "%s/tree%u", shell->folder, shell->mount_count);
	int ends[2];
	char byte;
	if (mkdir(target, 0755) < 0 || pipe2(ends, O_CLOEXEC) < 0) {
		croft_error_errno(err, errno, "preparing %s", target);
		return NULL;
	}
	char *arguments[] = {"croft", "mount", "--foreground", "--ready-fd", "3", "--server",
		(char *)shell->client.server, (char *)ref, target, NULL};
	struct spawn spawn = {
		.arguments = arguments, .keep_fd = ends[1], .keep_as = 3, .new_session = true};
	pid_t child = spawn_self(&spawn, err);
	close(ends[1]);
	ssize_t got = child > 0 ? read(ends[0], &byte, 1) : 0;
	close(ends[0]);
	if (child > 0)
		shell->mounts[shell->mount_count++] = child;
	if (child > 0 && got != 1)
		croft_error_set(err, CROFT_FAILED_PRECONDITION, "%s could not be mounted", ref);
	return got == 1 ? target : NULL;
}

static const char *mount_root(struct shell *shell, struct croft_error *err)
{
	char digest[CROFT_DIGEST_TEXT];
	if (croft_digest_is_empty(&shell->root)) {
		char *empty = croft_arena_printf(shell->arena, "%s/empty", shell->folder);
		if (mkdir(empty, 0755) == 0)
			return empty;
		croft_error_errno(err, errno, "making %s", empty);
		return NULL;
	}
	croft_digest_format(&shell->root, '-', digest);
	return mount_tree(shell, croft_arena_strdup(shell->arena, digest), err);
}

static void end_mounts(struct shell *shell)
{
	for (unsigned i = 0; i < shell->mount_count; i++) {
		kill(shell->mounts[i], SIGTERM);
		while (waitpid(shell->mounts[i], NULL, 0) < 0 && errno == EINTR)
			;
	}
}

/* The spec --------------------------------------------------------------------------------------------- */

static void put_environment(struct shell *shell, json_t *spec)
{
	json_t *environment = json_object();
	const char *terminal = getenv("TERM");
	json_object_set_new(environment, "PATH",
		json_string("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
	if (terminal && isatty(0))
		json_object_set_new(environment, "TERM", json_string(terminal));
	if (shell->job.time_zone)
		json_object_set_new(environment, "TZ", json_string(shell->job.time_zone));
	if (shell->job.locale)
		json_object_set_new(environment, "LC_ALL", json_string(shell->job.locale));
	for (size_t i = 0; shell->command && i < shell->command->n_environment_variables; i++) {
		const Reapi__Command__EnvironmentVariable *variable =
			shell->command->environment_variables[i];
		json_object_set_new(environment, variable->name, json_string(variable->value));
	}
	json_object_set_new(spec, "environment", environment);
}

static void put_options(const struct shell *shell, json_t *spec)
{
	static const char *const networks[] = {"loopback", "none", "host"};
	static const char *const profiles[] = {"default", "strict", "compat"};
	const struct croft_job_options *job = &shell->job;
	char mask[16];
	snprintf(mask, sizeof(mask), "%o", job->umask_given ? job->umask : 022);
	json_object_set_new(spec, "umask", json_string(mask));
	json_object_set_new(spec, "uid", json_integer(job->uid));
	json_object_set_new(spec, "gid", json_integer(job->gid));
	json_object_set_new(spec, "cpus", json_integer(job->cpus));
	json_object_set_new(spec, "fixed_addresses", json_boolean(job->fixed_addresses));
	json_object_set_new(spec, "sorted_directories", json_boolean(job->sorted_directories));
	json_object_set_new(spec, "network", json_string(networks[job->network]));
	json_object_set_new(spec, "seccomp", json_string(profiles[job->seccomp]));
	if (job->hostname)
		json_object_set_new(spec, "hostname", json_string(job->hostname));
}

static const char *own_directory(const struct shell *shell, const char *path,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *real = realpath(path, NULL);
	if (real)
		return croft_arena_strdup(shell->arena, real);
	croft_error_errno(err, errno, "the root image %s", path);
	return NULL;
}

static json_t *make_spec(struct shell *shell, struct croft_error *err)
{
	const char *image = options_value(shell->options, "root-image");
	const char *directory = "/";
	if (!image)
		image = shell->job.root_image;
	const char *root = mount_root(shell, err);
	const char *base = root;
	if (root && image && shell->job.root != CROFT_ROOT_INPUT)
		base = image[0] == '/' || image[0] == '.' ? own_directory(shell, image, err)
												  : mount_tree(shell, image, err);
	else
		image = NULL;
	if (!base)
		return NULL;
	json_t *spec = json_object(), *roots = json_array();
	json_array_append_new(roots, json_string(base));
	json_object_set_new(spec, "root", roots);
	if (shell->command) {
		struct croft_layout layout;
		if (!croft_layout_of(
				shell->command, image ? "/croft/root" : "/", shell->arena, &layout, err)) {
			json_decref(spec);
			return NULL;
		}
		if (image) {
			json_object_set_new(spec, "input_root", json_string(root));
			json_object_set_new(spec, "input_target", json_string(layout.input_target));
		}
		directory = layout.working_directory;
	}
	json_object_set_new(spec, "working_directory", json_string(directory));
	put_environment(shell, spec);
	put_options(shell, spec);
	return spec;
}

static void tell_command(const struct shell *shell)
{
	fprintf(stderr, "croft shell: the job runs");
	for (size_t i = 0; i < shell->command->n_arguments; i++) {
		const char *argument = shell->command->arguments[i];
		bool plain = *argument && !argument[strcspn(argument, " \t\n'\"\\$`*?()<>|&;#~")];
		fprintf(stderr, plain ? " %s" : " '%s'", argument);
	}
	fprintf(stderr, "\n");
}

/* Running ---------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t sandbox_pid;

static void pass_on(int number)
{
	int saved = errno;
	if (sandbox_pid > 0)
		kill((pid_t)sandbox_pid, number);
	errno = saved;
}

/* The terminal's own signals reach the sandbox without us; we only must not end before it. */
static void outlive(int number)
{
}

static bool run_sandbox(struct shell *shell, const char *spec, int *status, struct croft_error *err)
{
	const struct options *options = shell->options;
	bool terminal = isatty(0) && isatty(1);
	int most = 8 + options->argc, count = 0;
	char **arguments = croft_arena_array(shell->arena, (size_t)most + 1, sizeof(char *));
	arguments[count++] = "croft";
	arguments[count++] = "sandbox";
	arguments[count++] = "-q";
	arguments[count++] = croft_arena_printf(shell->arena, "--spec=%s", spec);
	if (terminal)
		arguments[count++] = "-t";
	arguments[count++] = "--";
	for (int i = 1; i < options->argc; i++)
		arguments[count++] = options->argv[i];
	if (options->argc == 1)
		arguments[count++] = "sh";
	struct spawn spawn = {.arguments = arguments};
	struct sigaction pass = {.sa_handler = pass_on}, ignore = {.sa_handler = outlive};
	sigaction(SIGTERM, &pass, NULL);
	sigaction(SIGHUP, &pass, NULL);
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGQUIT, &ignore, NULL);
	pid_t child = spawn_self(&spawn, err);
	if (child < 0)
		return false;
	sandbox_pid = child;
	while (waitpid(child, status, 0) < 0)
		if (errno != EINTR)
			return croft_error_errno(err, errno, "waiting for the sandbox");
	sandbox_pid = 0;
	*status = WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
	return true;
}

static bool enter(struct shell *shell, int *status, struct croft_error *err)
{
	if (shell->action) {
		Farm__Job message = FARM__JOB__INIT;
		message.action = shell->action;
		message.command = shell->command;
		if (!croft_job_options_read(&shell->job, &message, err))
			return false;
	}
	json_t *spec = make_spec(shell, err);
	if (!spec)
		return false;
	char *path = croft_arena_printf(shell->arena, "%s/spec", shell->folder);
	bool ok = json_dump_file(spec, path, 0) == 0 ||
		croft_error_set(err, CROFT_INTERNAL, "%s could not be written", path);
	json_decref(spec);
	if (ok && shell->command && !options_given(shell->options, "quiet"))
		tell_command(shell);
	return ok && run_sandbox(shell, path, status, err);
}

static int run(const struct options *options, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct shell shell = {.options = options, .arena = arena};
	int status = FAILED;
	if (!options_arguments(options, 1, SIZE_MAX, err))
		return MISUSED;
	CROFT_CLEANUP_FREE char *state = state_directory(options, "shell", err);
	if (!state || !client_open(&shell.client, options, err))
		return FAILED;
	shell.folder = croft_arena_printf(arena, "%s/XXXXXX", state);
	bool ok = find(&shell, options->argv[0], err);
	if (ok && (!mkdtemp(shell.folder) || chmod(shell.folder, 0755) < 0))
		ok = croft_error_errno(err, errno, "making a directory in %s", state);
	if (ok) {
		struct croft_error failure = CROFT_ERROR_INIT;
		ok = enter(&shell, &status, err);
		end_mounts(&shell);
		if (!croft_remove_tree(AT_FDCWD, shell.folder, &failure))
			warn("%s", failure.message);
	}
	client_close(&shell.client);
	return ok ? status : FAILED;
}

static const struct option_spec shell_options[] = {
	{"root-image", 0, "DIR|REF", "the root, over which the job's inputs stand in a folder"},
	{"quiet", 'q', NULL, "do not say what the job runs"},
	{"state", 0, "DIR", "where it keeps its mount points (else ~/.local/state/croft)"},
	{0},
};

const struct command command_shell = {
	.name = "shell",
	.arguments = "REF|ACTION|OPERATION [COMMAND [ARGUMENT]…]",
	.summary = "A terminal in the sandbox of a job, or in a tree of the farm, on this machine",
	.details =
		"Before or after a job ran: its input root (mounted lazily), working directory, environment,\n"
		"user, network and what else its Action asks for are the same. What is changed is gone\n"
		"afterwards. Without a COMMAND it is sh; without a terminal COMMAND just runs. The exit\n"
		"status is the command's; 125 when croft itself failed.\n"
		"\n"
		"  croft shell 1c242549571cee5b293c2e4504267024      the job of `croft status`\n"
		"  croft shell debian/12 bash                        a tree by its name",
	.options = shell_options,
	.client = true,
	.stops_at_argument = true,
	.usage_status = OWN_FAILURE,
	.run = run,
};
