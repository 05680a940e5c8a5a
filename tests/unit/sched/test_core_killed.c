/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server is killed about the moment at which an agent reports a result: whatever it had done by then, the action
 * is not run again, and its client hears of one end. The server is a process of its own, this program once more.
 */
#include "tests/unit/sched/farm_fixture.h"

#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 24, EXIT_CODE = 7, MOST_SPINS = 400000 };

extern char **environ;

static struct fake one;
static struct croft_digest actions[ROUNDS][2];
static pid_t server;

/* The server's process: says its port, and serves until it is killed. */
static _Noreturn void be_server(const char *folder)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(farm.folder, sizeof(farm.folder), "%s", folder);
	snprintf(farm.journal, sizeof(farm.journal), "%s/journal", folder);
	farm.arena = croft_arena_create();
	farm.config.reconnect_ms = 3600000;
	farm.store = croft_store_open(&(struct croft_store_config){.path = folder, .budget_bytes = 1 << 30}, &err);
	assert_ok(farm.store, err);
	farm_serve();
	dprintf(STDOUT_FILENO, "%d\n", croft_server_port(farm.server));
	for (;;)
		pause();
}

static void start_server(void)
{
	int ends[2];
	char self[256] = "", port[16] = "", target[32];
	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	posix_spawn_file_actions_t files;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
	char *arguments[] = {self, farm.folder, NULL};
	assert_int_equal(posix_spawn(&server, self, &files, NULL, arguments, environ), 0);
	posix_spawn_file_actions_destroy(&files);
	close(ends[1]);
	assert_true(read(ends[0], port, sizeof(port) - 1) > 0);
	close(ends[0]);
	snprintf(target, sizeof(target), "127.0.0.1:%d", atoi(port));
	farm.channel = croft_channel_create(target, NULL, &err);
	assert_ok(farm.channel, err);
}

static void kill_server(void)
{
	assert_int_equal(kill(server, SIGKILL), 0);
	assert_int_equal(waitpid(server, NULL, 0), server);
	fake_leave(&one);
	croft_channel_destroy(farm.channel);
}

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	farm_start(state);
	char salt[16];
	for (int i = 0; i < 2 * ROUNDS; i++) {
		snprintf(salt, sizeof(salt), "%d", i);
		actions[i / 2][i % 2] = farm_action(salt);
	}
	croft_store_close(farm.store);
	start_server();
	fake_connect(&one, 1);
	return 0;
}

static int tear_down(void **state)
{
	struct croft_error failed = CROFT_ERROR_INIT;
	kill_server();
	croft_arena_destroy(farm.arena);
	assert_ok(croft_remove_tree(AT_FDCWD, farm.folder, &failed), failed);
	return 0;
}

static void ends_as_reported(struct croft_stream *stream)
{
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_int_equal(response->status ? response->status->code : 0, 0);
	assert_non_null(response->result);
	assert_int_equal(response->result->exit_code, EXIT_CODE);
}

/* As an agent does that still has a result which was not acknowledged, if it has. */
static void come_back(const char *lease)
{
	if (fake_connect_with(&one, 1, lease)->n_revoked_leases == 0 && lease)
		fake_done(&one, lease, EXIT_CODE);
}

/* The next job that is given away is another: the first was not given a second time. */
static void next_is_another(int round)
{
	struct croft_stream *stream = farm_execute_with(NULL, actions[round][1]);
	const Farm__Job *job = fake_job(&one);
	struct croft_digest given;
	assert_ok(croft_digest_from_message(job->action_digest, "job", &given, &err), err);
	assert_true(croft_digest_equal(&given, &actions[round][1]));
	fake_done(&one, job->lease, EXIT_CODE);
	ends_as_reported(stream);
	fake_hear(&one, FARM__SERVER_MESSAGE__KIND_JOB_ACK);
}

static struct croft_stream *begin(int round, char **name, const char **lease)
{
	struct croft_stream *stream = farm_execute_with(NULL, actions[round][0]);
	*lease = fake_job(&one)->lease;
	*name = croft_arena_strdup(farm.arena, farm_read(stream)->name);
	return stream;
}

static void killed_while_it_hears_of_a_result(void **state)
{
	unsigned seed = (unsigned)getpid();
	print_message("seed %u\n", seed);
	for (int round = 0; round < ROUNDS; round++) {
		char *name;
		const char *lease;
		struct croft_stream *stream = begin(round, &name, &lease);
		fake_done(&one, lease, EXIT_CODE);
		/* For as long as it takes to read, to write down or to acknowledge it. */
		for (volatile int spins = round ? rand_r(&seed) % MOST_SPINS : 0; spins > 0; spins--)
			;
		kill_server();
		croft_stream_destroy(stream);
		start_server();
		come_back(lease);
		ends_as_reported(farm_wait(name));
		next_is_another(round);
	}
}

static struct croft_digest log_of(const Reapi__ExecuteResponse *response)
{
	struct croft_digest digest;
	assert_int_equal(response->n_server_logs, 1);
	assert_ok(croft_digest_from_message(response->server_logs[0]->value->digest, "log", &digest, &err), err);
	return digest;
}

/* Whatever the client is told then, the log that it names is there. */
static void killed_while_it_hears_of_a_failure(void **state)
{
	unsigned seed = (unsigned)getpid();
	struct croft_digest logs[ROUNDS];
	print_message("seed %u\n", seed);
	for (int round = 0; round < ROUNDS; round++) {
		char *name;
		const char *lease;
		struct croft_stream *stream = begin(round, &name, &lease);
		fake_failed(&one, lease, CROFT_DEADLINE_EXCEEDED);
		for (volatile int spins = round ? rand_r(&seed) % MOST_SPINS : 0; spins > 0; spins--)
			;
		kill_server();
		croft_stream_destroy(stream);
		start_server();
		if (fake_connect_with(&one, 1, lease)->n_revoked_leases == 0)
			fake_failed(&one, lease, CROFT_DEADLINE_EXCEEDED);
		logs[round] = log_of(farm_finish(farm_wait(name)));
	}
	kill_server();
	farm.store = croft_store_open(&(struct croft_store_config){.path = farm.folder, .budget_bytes = 1 << 30}, &err);
	assert_ok(farm.store, err);
	struct croft_slice text;
	for (int round = 0; round < ROUNDS; round++)
		assert_ok(croft_store_get(farm.store, &logs[round], farm.arena, &text, &err), err);
	croft_store_close(farm.store);
	start_server();
	fake_connect(&one, 1);
}

static void killed_before_the_agent_hears_that_it_is_acknowledged(void **state)
{
	char *name;
	const char *lease;
	struct croft_stream *stream = begin(0, &name, &lease);
	fake_done(&one, lease, EXIT_CODE);
	ends_as_reported(stream);
	kill_server();
	start_server();
	come_back(lease);
	ends_as_reported(farm_wait(name));
	next_is_another(0);
}

static void killed_once_it_is_acknowledged(void **state)
{
	char *name;
	const char *lease;
	struct croft_stream *stream = begin(0, &name, &lease);
	fake_done(&one, lease, EXIT_CODE);
	fake_hear(&one, FARM__SERVER_MESSAGE__KIND_JOB_ACK);
	kill_server();
	croft_stream_destroy(stream);
	start_server();
	come_back(NULL);
	ends_as_reported(farm_wait(name));
	next_is_another(0);
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
	if (argc > 1)
		be_server(argv[1]);
	const struct CMUnitTest tests[] = {
		ON_A_FARM(killed_while_it_hears_of_a_result),
		ON_A_FARM(killed_while_it_hears_of_a_failure),
		ON_A_FARM(killed_before_the_agent_hears_that_it_is_acknowledged),
		ON_A_FARM(killed_once_it_is_acknowledged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
