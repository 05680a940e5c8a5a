/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A launcher, and a root of nothing but busybox. A test may say where and how many before it includes this. */
#ifndef CROFT_TESTS_SANDBOX_FIXTURE_H
#define CROFT_TESTS_SANDBOX_FIXTURE_H

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "sandbox/sandbox.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef FIXTURE_FOLDER
#define FIXTURE_FOLDER "/tmp/croft-test-XXXXXX"
#endif
#ifndef FIXTURE_SLOTS
#define FIXTURE_SLOTS 2
#endif

static char folder[64], root[128], state[128];
static struct croft_launcher *launcher;
static struct croft_arena *arena;
static char printed[1 << 16];
static size_t printed_size;

static void run_host(const char *format, ...)
{
	char command[1024];
	va_list args;
	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	assert_int_equal(system(command), 0);
}

static int set_up(void **unused)
{
	struct croft_error err = CROFT_ERROR_INIT;
	strcpy(folder, FIXTURE_FOLDER);
	assert_non_null(mkdtemp(folder));
	snprintf(root, sizeof(root), "%s/root", folder);
	snprintf(state, sizeof(state), "%s/state", folder);
	run_host("chmod 755 %s && mkdir -p %s/bin %s/etc %s && cp /bin/busybox %s/bin/ && ln -s busybox %s/bin/sh && "
			 "echo secret >%s/etc/input",
		folder, root, root, state, root, root, root);
	arena = croft_arena_create();
	launcher = croft_launcher_start(
		&(struct croft_launcher_config){.state = state, .slots = FIXTURE_SLOTS}, arena, NULL, &err);
	assert_ok(launcher != NULL, err);
	return 0;
}

static int tear_down(void **unused)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_launcher_stop(launcher);
	croft_arena_destroy(arena);
	run_host("test -z \"$(find %s -mindepth 1)\"", state);
	assert_ok(croft_remove_tree(AT_FDCWD, folder, &err), err);
	return 0;
}

static void keep_output(void *user, int stream, struct croft_slice data)
{
	if (printed_size + data.size < sizeof(printed))
		memcpy(printed + printed_size, data.data, data.size);
	printed_size += data.size;
}

static uint64_t started_namespace;

static void keep_namespace(void *user, uint64_t pid_namespace)
{
	started_namespace = pid_namespace;
}

static const char *const environment[] = {"PATH=/bin", NULL};

__attribute__((unused)) static struct croft_sandbox_spec spec_of(const char *const *arguments)
{
	static const char *roots[1];
	roots[0] = root;
	return (struct croft_sandbox_spec){
		.roots = roots,
		.root_count = 1,
		.root_writable = true,
		.arguments = arguments,
		.environment = environment,
		.working_directory = "/",
		.started = keep_namespace,
		.output = keep_output,
	};
}

static struct croft_sandbox *run_spec(const struct croft_sandbox_spec *spec,
	struct croft_sandbox_result *result)
{
	struct croft_error err = CROFT_ERROR_INIT;
	printed_size = 0;
	memset(printed, 0, sizeof(printed));
	struct croft_sandbox *sandbox = croft_sandbox_prepare(launcher, spec, &err);
	assert_ok(sandbox != NULL, err);
	assert_ok(croft_sandbox_start(sandbox, &err), err);
	assert_ok(croft_sandbox_wait(sandbox, result, &err), err);
	return sandbox;
}

#endif
