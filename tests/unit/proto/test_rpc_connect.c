/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How connections come about, as calls see it that do not wait for a server that is away. */
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/rpc/client.h"
#include "proto/rpc/server.h"
#include "tests/unit/test.h"

#include "grpc/health/v1/health.pb-c.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a loaded machine may well take. */
enum { SLOW_MS = 1500 };

static bool check(struct croft_call *call, void *user, struct croft_error *err)
{
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	return croft_call_write(call, &response.base, err);
}

static const struct croft_rpc_method methods[] = {
	{"/grpc.health.v1.Health/Check", CROFT_RPC_UNARY, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, check, false},
};

static struct croft_server *start_server(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_server *server =
		croft_server_create(&(struct croft_server_config){.address = "127.0.0.1:0"}, &err);
	assert_ok(server != NULL, err);
	croft_server_add(server, methods, 1, NULL);
	assert_ok(croft_server_start(server, &err), err);
	return server;
}

static struct croft_channel *open_channel(int port)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char target[64];
	snprintf(target, sizeof(target), "grpc://127.0.0.1:%d", port);
	struct croft_channel *channel = croft_channel_create(target, NULL, &err);
	assert_ok(channel != NULL, err);
	return channel;
}

static bool ask(struct croft_channel *channel, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	*err = CROFT_ERROR_INIT;
	return croft_unary(channel, NULL, "/grpc.health.v1.Health/Check", &request.base,
			   &health__health_check_response__descriptor, arena, err) != NULL;
}

/* A relay that takes a connection at once and lets nothing through for a while, as a machine does that has
 * more to do than it can. */
struct relay {
	int listener, port, server_port;
	pthread_t thread;
};

static int tcp_socket(int port, struct sockaddr_in *address)
{
	*address = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(fd, 0);
	return fd;
}

static bool pass(int from, int to)
{
	char bytes[4096];
	ssize_t got = read(from, bytes, sizeof(bytes));
	return got > 0 && croft_write_all(to, bytes, (size_t)got, "a relay", NULL);
}

static void *relay_thread(void *user)
{
	struct relay *relay = user;
	struct sockaddr_in address;
	int client = accept(relay->listener, NULL, NULL);
	int server = tcp_socket(relay->server_port, &address);
	/* Whoever gives up meanwhile is not let through. */
	struct pollfd gone = {.fd = client, .events = POLLRDHUP};
	if (poll(&gone, 1, SLOW_MS) == 0 && connect(server, (struct sockaddr *)&address, sizeof(address)) == 0) {
		struct pollfd ends[] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
		bool open = true;
		while (open && poll(ends, 2, -1) > 0)
			open = (!ends[0].revents || pass(client, server)) && (!ends[1].revents || pass(server, client));
	}
	close(client);
	close(server);
	return NULL;
}

static void relay_start(struct relay *relay, int server_port)
{
	struct sockaddr_in address;
	socklen_t length = sizeof(address);
	relay->server_port = server_port;
	relay->listener = tcp_socket(0, &address);
	assert_return_code(bind(relay->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_return_code(listen(relay->listener, 8), 0);
	assert_return_code(getsockname(relay->listener, (struct sockaddr *)&address, &length), 0);
	relay->port = ntohs(address.sin_port);
	assert_int_equal(pthread_create(&relay->thread, NULL, relay_thread, relay), 0);
}

static void a_connection_that_is_slow_to_come_about_is_waited_for(void **state)
{
	struct croft_error err;
	struct croft_server *server = start_server();
	struct relay relay;
	relay_start(&relay, croft_server_port(server));
	struct croft_channel *channel = open_channel(relay.port);
	assert_ok(ask(channel, &err), err);
	croft_channel_destroy(channel);
	pthread_join(relay.thread, NULL);
	close(relay.listener);
	croft_server_destroy(server);
}

static void a_refused_connection_is_told_and_tried_again(void **state)
{
	struct croft_error err;
	/* A port that nobody listens on until the server does. */
	struct croft_server *server = start_server();
	char address[64];
	snprintf(address, sizeof(address), "127.0.0.1:%d", croft_server_port(server));
	struct croft_channel *channel = open_channel(croft_server_port(server));
	croft_server_destroy(server);
	assert_false(ask(channel, &err));
	assert_int_equal(err.code, CROFT_UNAVAILABLE);
	server = croft_server_create(&(struct croft_server_config){.address = address}, &err);
	assert_ok(server != NULL, err);
	croft_server_add(server, methods, 1, NULL);
	assert_ok(croft_server_start(server, &err), err);
	/* Fails until the next attempt is due. */
	while (!ask(channel, &err))
		assert_int_equal(err.code, CROFT_UNAVAILABLE);
	croft_channel_destroy(channel);
	croft_server_destroy(server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_that_is_slow_to_come_about_is_waited_for),
		cmocka_unit_test(a_refused_connection_is_told_and_tried_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
