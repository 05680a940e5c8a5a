/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `croft fs-daemon`: written by daemon_arguments, read by croft_daemon_command. */
#include "fs/daemon/internal.h"

#include "proto/base/arena.h"
#include "proto/base/log.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY_VARIABLE "CROFT_PLANE_KEY"

char **daemon_arguments(const struct croft_daemon_config *config, const struct daemon_start *start,
	struct croft_arena *arena)
{
	char **arguments = croft_arena_array(arena, 32, sizeof(char *));
	size_t count = 0;
	arguments[count++] = (char *)"croft";
	arguments[count++] = (char *)"fs-daemon";
	arguments[count++] = (char *)"--state";
	arguments[count++] = croft_arena_strdup(arena, config->state);
	if (config->origin) {
		arguments[count++] = (char *)"--origin";
		arguments[count++] = croft_arena_strdup(arena, config->origin);
	}
	if (config->plane_address) {
		arguments[count++] = (char *)"--plane";
		arguments[count++] = croft_arena_strdup(arena, config->plane_address);
	}
	arguments[count++] = (char *)"--budget";
	arguments[count++] = croft_arena_printf(arena, "%llu",
		(unsigned long long)config->budget_bytes);
	arguments[count++] = (char *)"--uid";
	arguments[count++] = croft_arena_printf(arena, "%u", config->uid);
	arguments[count++] = (char *)"--gid";
	arguments[count++] = croft_arena_printf(arena, "%u", config->gid);
	arguments[count++] = (char *)"--staging";
	arguments[count++] = (char *)croft_staging_name(config->staging);
	arguments[count++] = (char *)"--ready-fd";
	arguments[count++] = croft_arena_printf(arena, "%d", start->ready_fd);
	arguments[count++] = (char *)"--orphan-ms";
	arguments[count++] = croft_arena_printf(arena, "%u", config->orphan_ms);
	arguments[count++] = (char *)"--agent-version";
	arguments[count++] = croft_arena_printf(arena, "%d", DAEMON_VERSION);
	const struct {
		const char *option, *file;
	} files[] = {{"--tls-cert", config->tls.certificate_file}, {"--tls-key", config->tls.key_file},
		{"--tls-ca", config->tls.authority_file}};
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (files[i].file) {
			arguments[count++] = (char *)files[i].option;
			arguments[count++] = croft_arena_strdup(arena, files[i].file);
		}
	if (config->classic)
		arguments[count++] = (char *)"--classic";
	if (start->take_over)
		arguments[count++] = (char *)"--take-over";
	return arguments;
}

/* Not among the arguments, which everybody on the machine can see. */
char **daemon_environment(const struct croft_daemon_config *config, struct croft_arena *arena)
{
	size_t count = 0, kept = 0;
	while (environ[count])
		count++;
	char **environment = croft_arena_array(arena, count + 2, sizeof(char *));
	for (size_t i = 0; i < count; i++)
		if (strncmp(environ[i], KEY_VARIABLE "=", sizeof(KEY_VARIABLE)) != 0)
			environment[kept++] = environ[i];
	if (config->plane_key)
		environment[kept] = croft_arena_printf(arena, KEY_VARIABLE "=%s", config->plane_key);
	return environment;
}

static bool parse_number(const char *text, uint64_t most, uint64_t *number)
{
	char *end;
	errno = 0;
	*number = strtoull(text, &end, 10);
	return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && *number <= most;
}

int croft_daemon_command(int argc, char **argv)
{
	enum { STATE = 1, ORIGIN, PLANE, BUDGET, USER, GROUP, CLASSIC, STAGING, READY, ORPHAN, AGENT, TAKE,
		CERTIFICATE, KEY, AUTHORITY };
	static const struct option options[] = {
		{"state", required_argument, NULL, STATE},
		{"origin", required_argument, NULL, ORIGIN},
		{"plane", required_argument, NULL, PLANE},
		{"budget", required_argument, NULL, BUDGET},
		{"uid", required_argument, NULL, USER},
		{"gid", required_argument, NULL, GROUP},
		{"classic", no_argument, NULL, CLASSIC},
		{"staging", required_argument, NULL, STAGING},
		{"ready-fd", required_argument, NULL, READY},
		{"orphan-ms", required_argument, NULL, ORPHAN},
		{"agent-version", required_argument, NULL, AGENT},
		{"take-over", no_argument, NULL, TAKE},
		{"tls-cert", required_argument, NULL, CERTIFICATE},
		{"tls-key", required_argument, NULL, KEY},
		{"tls-ca", required_argument, NULL, AUTHORITY},
		{NULL, 0, NULL, 0},
	};
	struct croft_daemon_config config = {.plane_key = getenv(KEY_VARIABLE)};
	struct daemon_start start = {.ready_fd = -1};
	uint64_t number = 0;
	bool ok = true;
	optind = 0; /* glibc: start anew, the caller may have parsed before */
	for (int option; ok && (option = getopt_long(argc, argv, "+", options, NULL)) != -1;) {
		switch (option) {
		case STATE:
			config.state = optarg;
			break;
		case ORIGIN:
			config.origin = optarg;
			break;
		case PLANE:
			config.plane_address = optarg;
			break;
		case BUDGET:
			ok = parse_number(optarg, UINT64_MAX, &config.budget_bytes);
			break;
		case USER:
			ok = parse_number(optarg, UINT32_MAX, &number);
			config.uid = (uint32_t)number;
			break;
		case GROUP:
			ok = parse_number(optarg, UINT32_MAX, &number);
			config.gid = (uint32_t)number;
			break;
		case STAGING:
			ok = croft_staging_parse(optarg, &config.staging, NULL);
			break;
		case READY:
			ok = parse_number(optarg, INT32_MAX, &number);
			start.ready_fd = (int)number;
			break;
		case CLASSIC:
			config.classic = true;
			break;
		case ORPHAN:
			ok = parse_number(optarg, UINT32_MAX, &number);
			config.orphan_ms = (uint32_t)number;
			break;
		case AGENT:
			ok = parse_number(optarg, UINT32_MAX, &number);
			start.version = (uint32_t)number;
			break;
		case CERTIFICATE:
			config.tls.certificate_file = optarg;
			break;
		case KEY:
			config.tls.key_file = optarg;
			break;
		case AUTHORITY:
			config.tls.authority_file = optarg;
			break;
		case TAKE:
			start.take_over = true;
			break;
		default:
			ok = false;
		}
	}
	if (!ok || !config.state || optind != argc) {
		fprintf(stderr,
			"usage: croft fs-daemon --state DIRECTORY [--origin HOST:PORT] [--plane ADDRESS]\n"
			"                       [--budget BYTES] [--uid UID] [--gid GID] [--orphan-ms MS]\n"
			"                       [--staging WAY] [--classic] [--take-over]\n");
		return 2;
	}
	croft_log_setup("fs", CROFT_LOG_INFO);
	struct croft_error err = CROFT_ERROR_INIT;
	if (daemon_main(&config, &start, &err))
		return 0;
	croft_log(CROFT_LOG_ERROR, "%s", err.message);
	return 1;
}
