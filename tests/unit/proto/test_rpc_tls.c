/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/base/io.h"
#include "proto/rpc/client.h"
#include "proto/rpc/server.h"
#include "tests/unit/proto/certificates.h"
#include "tests/unit/test.h"

#include "grpc/health/v1/health.pb-c.h"

#include <fcntl.h>
#include <string.h>

static char folder[] = "/tmp/croft-test-tls-XXXXXX";
static char identity[64];

static const char *in_folder(const char *name)
{
	static char paths[8][128];
	static int next;
	char *path = paths[next++ % 8];
	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static int make_certificates(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	struct certified authority = certified_create("farm authority", NULL);
	struct certified stranger = certified_create("some other authority", NULL);
	struct certified server = certified_create("server", &authority);
	struct certified client = certified_create("builder-7", &authority);
	struct certified forged = certified_create("builder-7", &stranger);
	certified_write(&authority, folder, "authority");
	certified_write(&stranger, folder, "stranger");
	certified_write(&server, folder, "server");
	certified_write(&client, folder, "client");
	certified_write(&forged, folder, "forged");
	certified_free(&authority);
	certified_free(&stranger);
	certified_free(&server);
	certified_free(&client);
	certified_free(&forged);
	return 0;
}

static int remove_certificates(void **state)
{
	return croft_remove_tree(AT_FDCWD, folder, NULL) ? 0 : -1;
}

static bool check(struct croft_call *call, void *user, struct croft_error *err)
{
	const char *who = croft_call_identity(call);
	snprintf(identity, sizeof(identity), "%s", who ? who : "(none)");
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	return croft_call_write(call, &response.base, err);
}

static const struct croft_rpc_method method = {"/grpc.health.v1.Health/Check", CROFT_RPC_UNARY,
	&health__health_check_request__descriptor, &health__health_check_response__descriptor, check,
	false};

/* The code of a call from a client to a server with these files; target's scheme first. */
static enum croft_code call_between(const struct croft_tls *server_tls, const char *scheme,
	const struct croft_tls *client_tls, struct croft_error *err)
{
	*err = CROFT_ERROR_INIT;
	struct croft_server *server = croft_server_create(
		&(struct croft_server_config){.address = "127.0.0.1:0", .tls = server_tls}, err);
	assert_ok(server != NULL, *err);
	croft_server_add(server, &method, 1, NULL);
	assert_ok(croft_server_start(server, err), *err);
	char target[64];
	snprintf(target, sizeof(target), "%s127.0.0.1:%d", scheme, croft_server_port(server));
	struct croft_channel *channel = croft_channel_create(target, client_tls, err);
	struct croft_arena *arena = croft_arena_create();
	Health__HealthCheckRequest request = HEALTH__HEALTH_CHECK_REQUEST__INIT;
	if (channel)
		croft_unary(channel, &(struct croft_call_options){.timeout_ms = 5000}, method.path,
			&request.base, method.response, arena, err);
	croft_channel_destroy(channel);
	croft_arena_destroy(arena);
	croft_server_destroy(server);
	return err->code;
}

static struct croft_tls server_files(bool mutual)
{
	return (struct croft_tls){in_folder("server.crt"), in_folder("server.key"),
		mutual ? in_folder("authority.crt") : NULL};
}

static void a_client_that_knows_the_authority_is_served(void **state)
{
	struct croft_error err;
	struct croft_tls server = server_files(false);
	struct croft_tls client = {.authority_file = in_folder("authority.crt")};
	assert_ok(call_between(&server, "grpcs://", &client, &err) == CROFT_OK, err);
	assert_string_equal(identity, "(none)");
	assert_ok(call_between(&server, "", &client, &err) == CROFT_OK, err);
}

static void a_server_of_another_authority_is_not_talked_to(void **state)
{
	struct croft_error err;
	struct croft_tls server = server_files(false);
	struct croft_tls client = {.authority_file = in_folder("stranger.crt")};
	assert_int_equal(call_between(&server, "grpcs://", &client, &err), CROFT_UNAVAILABLE);
	/* Nor when only the system's authorities count. */
	assert_int_equal(call_between(&server, "grpcs://", NULL, &err), CROFT_UNAVAILABLE);
}

static void a_plain_client_gets_nothing_from_a_tls_server(void **state)
{
	struct croft_error err;
	struct croft_tls server = server_files(false);
	assert_int_equal(call_between(&server, "grpc://", NULL, &err), CROFT_UNAVAILABLE);
}

static void with_mutual_tls_the_client_is_known_by_name(void **state)
{
	struct croft_error err;
	struct croft_tls server = server_files(true);
	struct croft_tls client = {
		in_folder("client.crt"), in_folder("client.key"), in_folder("authority.crt")};
	assert_ok(call_between(&server, "grpcs://", &client, &err) == CROFT_OK, err);
	assert_string_equal(identity, "builder-7");
}

static void with_mutual_tls_others_are_refused(void **state)
{
	struct croft_error err;
	struct croft_tls server = server_files(true);
	struct croft_tls forged = {
		in_folder("forged.crt"), in_folder("forged.key"), in_folder("authority.crt")};
	struct croft_tls none = {.authority_file = in_folder("authority.crt")};
	assert_int_equal(call_between(&server, "grpcs://", &forged, &err), CROFT_UNAVAILABLE);
	assert_int_equal(call_between(&server, "grpcs://", &none, &err), CROFT_UNAVAILABLE);
}

static void tls_files_are_never_passed_over(void **state)
{
	struct croft_error err;
	struct croft_tls server = server_files(false);
	struct croft_tls client = {.authority_file = in_folder("authority.crt")};
	assert_int_equal(call_between(&server, "grpc://", &client, &err), CROFT_INVALID_ARGUMENT);
	assert_non_null(strstr(err.message, "grpcs://"));
	client.certificate_file = in_folder("client.crt");
	assert_int_equal(call_between(&server, "grpcs://", &client, &err), CROFT_INVALID_ARGUMENT);
}

static void bad_files_are_named(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_write_file(AT_FDCWD, in_folder("nonsense"), "x", 1, 0600, &err), err);
	struct croft_tls bad[] = {
		{in_folder("no such file"), in_folder("server.key"), NULL},
		{in_folder("server.crt"), in_folder("nonsense"), NULL},
		{in_folder("server.crt"), NULL, NULL},
		{NULL, NULL, in_folder("authority.crt")},
		{in_folder("server.key"), in_folder("server.crt"), NULL}, /* one for the other */
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct croft_server_config config = {.address = "127.0.0.1:0", .tls = &bad[i]};
		err = CROFT_ERROR_INIT;
		assert_null(croft_server_create(&config, &err));
		assert_int_not_equal(err.code, CROFT_OK);
		if (i == 0)
			assert_non_null(strstr(err.message, "no such file"));
		if (i == 1)
			assert_non_null(strstr(err.message, "nonsense"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_that_knows_the_authority_is_served),
		cmocka_unit_test(a_server_of_another_authority_is_not_talked_to),
		cmocka_unit_test(a_plain_client_gets_nothing_from_a_tls_server),
		cmocka_unit_test(with_mutual_tls_the_client_is_known_by_name),
		cmocka_unit_test(with_mutual_tls_others_are_refused),
		cmocka_unit_test(tls_files_are_never_passed_over),
		cmocka_unit_test(bad_files_are_named),
	};
	return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
