/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command finds its server, also where the RPC core mistakes a connection under way for a failure. */
#include "cli/command.h"
#include "cli/connect.h"
#include "tests/unit/sched/loopback.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct option_spec none[] = {{0}};
static const struct command plain = {
	.name = "plain", .arguments = "", .options = none, .client = true};
const struct command *const commands[] = {&plain, NULL};

/* How many connections are still to lose what connect() said. */
static atomic_int losses;

static _Thread_local int connecting = -1;

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
	int result = (int)syscall(SYS_connect, fd, address, size);
	if (result != 0 && errno == EINPROGRESS)
		connecting = fd;
	return result;
}

/* The core's: gRPC 1.51 reads the errno of connect() only after it has made other calls, this among
 * them. */
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	int result = (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
	if (result == 0 && operation == EPOLL_CTL_ADD && fd == connecting &&
		atomic_fetch_sub(&losses, 1) > 0)
		errno = ENOENT;
	return result;
}

static bool opens(const char *server, struct croft_error *err)
{
	char option[64];
	snprintf(option, sizeof(option), "--server=%s", server);
	char *argv[] = {"plain", option, NULL};
	struct options options;
	struct client client;
	bool help;
	assert_ok(options_parse(&options, &plain, 2, argv, &help, err), *err);
	bool opened = client_open(&client, &options, err);
	if (opened)
		client_close(&client);
	options_finish(&options);
	return opened;
}

static void a_connection_under_way_is_no_failure(void **state)
{
	struct loopback loopback = {0};
	loopback_start(&loopback);
	struct croft_error err = CROFT_ERROR_INIT;
	atomic_store(&losses, 1);
	assert_ok(opens(croft_channel_target(loopback.channel), &err), err);
	assert_true(atomic_load(&losses) <= 0); /* one was lost */
	loopback_stop(&loopback);
}

static void a_server_that_is_not_there_is_told(void **state)
{
	struct loopback loopback = {0};
	loopback_start(&loopback);
	char gone[64];
	snprintf(gone, sizeof(gone), "%s", croft_channel_target(loopback.channel));
	loopback_stop(&loopback);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(opens(gone, &err));
	assert_int_equal(err.code, CROFT_UNAVAILABLE);
	assert_non_null(strstr(err.message, gone));
	assert_non_null(strstr(err.message, "Connection refused"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_under_way_is_no_failure),
		cmocka_unit_test(a_server_that_is_not_there_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
