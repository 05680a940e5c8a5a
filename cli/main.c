/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The croft command: finds the sub-command, runs it, reports how it ended. */
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "proto/base/log.h"

#include <locale.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

const struct command *const commands[] = {
	&command_farm,
	&command_run,
	&command_serve,
	&command_agent,
	&command_mount,
	&command_sandbox,
	&command_shell,
	&command_fs_daemon,
	&command_import,
	&command_export,
	&command_ls,
	&command_cat,
	&command_du,
	&command_find,
	&command_diff,
	&command_status,
	&command_top,
	&command_cancel,
	&command_why,
	&command_inputs,
	&command_agents,
	&command_blob,
	&command_gc,
	&command_fsck,
	&command_store,
	&command_bench,
	&command_completion,
	&command_help,
	NULL,
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; commands[i]; i++)
		if (!strcmp(commands[i]->name, name))
			return commands[i];
	return NULL;
}

static const char *advice(const struct command *command, const struct croft_error *err)
{
	if (err->sys_errno == EADDRINUSE)
		return "does another farm or server run on this machine? --listen takes another address "
		       "(port 0: any free one), and so does --plane of `croft serve`";
	if (!command->client)
		return NULL;
	if (err->code == CROFT_UNAVAILABLE)
		return "is the server running there? `croft farm` starts one on this machine; --server or "
		       "$CROFT_SERVER name another";
	if (err->code == CROFT_UNAUTHENTICATED)
		return "--tls-cert and --tls-key name the certificate to show to the server";
	return NULL;
}

static int usage_error(const struct command *command, const struct croft_error *err)
{
	fprintf(stderr, "croft %s: %s\nusage: croft %s%s%s%s\n`croft %s --help` says more.\n",
		command->name, err->message, command->name,
		command_option(command, 0) ? " [OPTION]…" : "", *command->arguments ? " " : "",
		command->arguments, command->name);
	return command->usage_status ? command->usage_status : 2;
}

static int run_command(const struct command *command, int argc, char **argv)
{
	if (command->forward)
		return command->forward(argc, argv);
	croft_log_setup(command->name, CROFT_LOG_WARNING); /* daemons choose again */
	struct croft_error err = CROFT_ERROR_INIT;
	struct options options;
	bool help;
	int status = MISUSED;
	bool parsed = options_parse(&options, command, argc, argv, &help, &err);
	if (parsed && help) {
		help_command(command, stdout);
		status = output_flush(&err) ? 0 : 1;
	} else if (parsed) {
		status = command->run(&options, &err);
		if (status == 0 && !output_flush(&err))
			status = FAILED;
		progress_clear();
	}
	options_finish(&options);
	if (status >= 0)
		return status;
	if (status == MISUSED)
		return usage_error(command, &err);
	fprintf(stderr, "croft %s: %s\n", command->name, err.message);
	const char *hint = advice(command, &err);
	if (hint)
		fprintf(stderr, "croft %s: %s\n", command->name, hint);
	return command->usage_status ? command->usage_status : 1;
}

int main(int argc, char **argv)
{
	/* Names are bytes; to libarchive they are UTF-8 where they can be, whatever the user's locale. */
	setlocale(LC_CTYPE, "C.UTF-8");
	if (argc < 2) {
		help_overview(stderr);
		return 2;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("croft %s\n", CROFT_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		help_overview(stdout);
		return 0;
	}
	const struct command *command = find_command(argv[1]);
	if (command)
		return run_command(command, argc - 1, argv + 1);
	fprintf(stderr, "croft: there is no command \"%s\"; `croft --help` lists them\n", argv[1]);
	return 2;
}
