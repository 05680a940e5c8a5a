/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Help, the manual page and the shell completion, from the table of commands. */
#include "cli/command.h"

#include <string.h>

void help_overview(FILE *out)
{
	fprintf(out, "croft %s: a build farm in one command\n\nusage: croft COMMAND [OPTION]… [ARGUMENT]…\n\n",
		CROFT_VERSION);
	for (size_t i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\nA farm on this machine, and a first job on it:\n"
	      "  croft farm &\n"
	      "  croft import --name sysroot /path/to/a/root\n"
	      "  croft run --dep sysroot --output out -- sh -c 'uname -a > out'\n"
	      "\n`croft COMMAND --help` says more of each.\n",
		out);
}

static void option_text(const struct option_spec *spec, char *text, size_t room)
{
	char letter[8] = "";
	if (spec->letter)
		snprintf(letter, sizeof(letter), "-%c, ", spec->letter);
	snprintf(text, room, "%s--%s%s%s", letter, spec->name, spec->value ? " " : "",
		spec->value ? spec->value : "");
}

void help_command(const struct command *command, FILE *out)
{
	fprintf(out, "usage: croft %s%s%s%s\n\n%s.\n", command->name,
		command_option(command, 0) ? " [OPTION]…" : "", *command->arguments ? " " : "",
		command->arguments, command->summary);
	if (command->details)
		fprintf(out, "\n%s\n", command->details);
	fputc('\n', out);
	const struct option_spec *spec;
	for (size_t i = 0; (spec = command_option(command, i)); i++) {
		if (!spec->help)
			continue;
		char text[80];
		option_text(spec, text, sizeof(text));
		bool wide = strlen(text) > 24; /* the explanation then goes to a line of its own */
		fprintf(out, "  %-24s%s  %s\n", text, wide ? "\n                          " : "",
			spec->help);
	}
	fputs("  -h, --help                this text\n", out);
}

/* The manual ------------------------------------------------------------------------------- */

/* troff: a backslash, and a dot or quote at the start of a line, mean something to it. */
static void man_text(const char *text, FILE *out)
{
	for (bool start = true; *text; start = *text == '\n', text++) {
		if (start && (*text == '.' || *text == '\''))
			fputs("\\&", out);
		if (*text == '\\')
			fputs("\\e", out);
		else if (*text == '-')
			fputs("\\-", out);
		else
			fputc(*text, out);
	}
}

/* Paragraphs; lines that start with a space keep their shape. */
static void man_details(const char *text, FILE *out)
{
	bool shaped = false;
	while (*text) {
		size_t size = strcspn(text, "\n");
		bool indented = *text == ' ';
		if (indented != shaped)
			fputs(indented ? ".RS 4\n.nf\n" : ".fi\n.RE\n", out);
		shaped = indented;
		char line[512];
		snprintf(line, sizeof(line), "%.*s", (int)size, text);
		if (size == 0)
			fputs(".PP", out);
		else
			man_text(line, out);
		fputc('\n', out);
		text += size + (text[size] == '\n');
	}
	if (shaped)
		fputs(".fi\n.RE\n", out);
}

static void man_option(const struct option_spec *spec, FILE *out)
{
	char text[80];
	if (!spec->help)
		return;
	option_text(spec, text, sizeof(text));
	fputs(".TP\n.B ", out);
	man_text(text, out);
	fputc('\n', out);
	man_text(spec->help, out);
	fputc('\n', out);
}

static void man_command(const struct command *command, FILE *out)
{
	fprintf(out, ".SS croft %s%s%s%s\n", command->name,
		command->options ? " [OPTION]..." : "", *command->arguments ? " " : "",
		command->arguments);
	man_text(command->summary, out);
	fputs(".\n", out);
	if (command->details) {
		fputs(".PP\n", out);
		man_details(command->details, out);
	}
	for (size_t i = 0; command->options && command->options[i].name; i++)
		man_option(&command->options[i], out);
}

static void man_page(FILE *out)
{
	fprintf(out, ".TH CROFT 1 \"\" \"croft %s\" \"User Commands\"\n", CROFT_VERSION);
	fputs(".SH NAME\ncroft \\- a build farm in one command\n"
	      ".SH SYNOPSIS\n.B croft\n.I COMMAND\n[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n"
	      ".SH DESCRIPTION\n"
	      "A farm is one server and any number of agents. The server keeps content and queues jobs;\n"
	      "agents run them in sandboxes over inputs that are fetched as they are read. Clients of\n"
	      "the Remote Execution API work with it as they are; these commands are for people.\n"
	      ".PP\nA REF names content: a digest \\fIHASH\\-SIZE\\fR of a Directory, or a name given by\n"
	      "\\fBcroft import \\-\\-name\\fR; \\fIREF:PATH\\fR is what stands at a path in it.\n"
	      ".SH COMMANDS\n",
		out);
	for (size_t i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			man_command(commands[i], out);
	fputs(".SH OPTIONS OF EVERY COMMAND THAT TALKS TO A SERVER\n", out);
	for (size_t i = 0; client_options[i].name; i++)
		man_option(&client_options[i], out);
	fputs(".SH EXIT STATUS\n0 when all went well, 1 when it did not, 2 for a wrong command line.\n"
	      "\\fBcroft run\\fR ends as the job did, and with 125 for a failure of its own.\n"
	      ".SH ENVIRONMENT\n.TP\n.B CROFT_SERVER\nthe farm, when there is no \\-\\-server.\n"
	      ".TP\n.B CROFT_INSTANCE\nthe instance name, when there is no \\-\\-instance.\n"
	      ".TP\n.B XDG_STATE_HOME\nwhere farms and mounts keep their state (else ~/.local/state).\n",
		out);
}

static const struct option_spec help_options[] = {
	{"man", 0, NULL, "print the manual page, in troff"},
	{0},
};

static int help_run(const struct options *options, struct croft_error *err)
{
	if (options_given(options, "man")) {
		man_page(stdout);
		return 0;
	}
	if (options->argc == 0)
		help_overview(stdout);
	for (int i = 0; i < options->argc; i++) {
		size_t at = 0;
		while (commands[at] && strcmp(commands[at]->name, options->argv[i]))
			at++;
		if (!commands[at]) {
			croft_error_set(err, CROFT_INVALID_ARGUMENT, "there is no command \"%s\"",
				options->argv[i]);
			return MISUSED;
		}
		help_command(commands[at], stdout);
	}
	return 0;
}

const struct command command_help = {
	.name = "help",
	.arguments = "[COMMAND]…",
	.summary = "Explain croft, or commands of it",
	.options = help_options,
	.run = help_run,
};

/* Completion ------------------------------------------------------------------------------- */

static int completion_run(const struct options *options, struct croft_error *err)
{
	if (!options_arguments(options, 1, 1, err))
		return MISUSED;
	if (strcmp(options->argv[0], "bash")) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"there is completion for bash only, not for \"%s\"", options->argv[0]);
		return MISUSED;
	}
	fputs("# bash completion for croft: source <(croft completion bash)\n"
	      "_croft() {\n"
	      "    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words\n"
	      "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words='",
		stdout);
	for (size_t i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			printf("%s ", commands[i]->name);
	fputs("'\n    else\n        case $command in\n", stdout);
	for (size_t i = 0; commands[i]; i++) {
		if (commands[i]->hidden)
			continue;
		printf("        %s) words='--help", commands[i]->name);
		const struct option_spec *spec;
		for (size_t at = 0; (spec = command_option(commands[i], at)); at++)
			if (spec->help)
				printf(" --%s", spec->name);
		fputs("' ;;\n", stdout);
	}
	fputs("        esac\n        [[ $word == -* ]] || words=\n    fi\n"
	      "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
	      "}\ncomplete -o default -F _croft croft\n",
		stdout);
	return 0;
}

const struct command command_completion = {
	.name = "completion",
	.arguments = "bash",
	.summary = "Print shell completion, to be sourced",
	.run = completion_run,
};
