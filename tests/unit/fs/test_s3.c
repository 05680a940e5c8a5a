/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Signatures against the examples of "Signature Calculations for the Authorization Header" in Amazon's S3 API
 * reference, and where accounts are found. */
#include "fs/upstream/s3.h"
#include "proto/base/cleanup.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct croft_error err;

static void the_published_example_is_signed_as_published(void **state)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct s3_account account = {.key_id = (char *)"AKIAIOSFODNN7EXAMPLE",
		.secret = (char *)"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", .region = (char *)"us-east-1"};
	struct s3_request request = {.method = "GET", .host = "examplebucket.s3.amazonaws.com",
		.target = "/?lifecycle=", .at = 1369353600 /* 2013-05-24 00:00:00 */};
	const char *fields = s3_sign(&account, &request, arena);
	assert_non_null(strstr(fields, "x-amz-date: 20130524T000000Z\r\n"));
	assert_non_null(strstr(fields,
		"Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543\r\n"));
	request.target = "/?max-keys=2&prefix=J";
	fields = s3_sign(&account, &request, arena);
	assert_non_null(strstr(fields,
		"Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7\r\n"));
}

/* As botocore signs it (1.44, S3SigV4Auth). */
static void a_put_is_signed_as_others_sign_it(void **state)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct s3_account account = {.key_id = (char *)"AKID", .secret = (char *)"sec/ret", .region = (char *)"eu-west-1"};
	struct croft_digest body = croft_digest_of("hello", 5);
	struct s3_request request = {.method = "PUT", .host = "minio:9000", .body_hash = body.hash, .at = 1767323045,
		.target = "/bucket/some/where/cas/abababababababababababababababababababababababababababababababab"};
	const char *fields = s3_sign(&account, &request, arena);
	assert_non_null(strstr(fields,
		"x-amz-content-sha256: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\r\n"));
	assert_non_null(strstr(fields, "Credential=AKID/20260102/eu-west-1/s3/aws4_request, "));
	assert_non_null(strstr(fields,
		"Signature=6586bc4a349a1bbbf7eef09dbdea9be85a607f72131d8d241574bbe0a911698d\r\n"));
	account.token = (char *)"a/token==";
	fields = s3_sign(&account, &request, arena);
	assert_non_null(strstr(fields, "x-amz-security-token: a/token==\r\n"));
	assert_non_null(strstr(fields, "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, "
		"Signature=ae8f059e7af4815e02c9e8d7b797c318c2dc4a650be576c10ddc26eea2f5c454\r\n"));
}

static void forget_environment(void)
{
	static const char *const names[] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
		"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL",
		"AWS_ENDPOINT_URL_S3"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unsetenv(names[i]);
}

static void accounts_come_from_the_environment_or_the_file(void **state)
{
	struct s3_account account;
	char path[] = "/tmp/croft-test-s3-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	static const char text[] = "# mine\n[default]\naws_access_key_id = one\naws_secret_access_key=two\n\n"
		"[ other ]\n aws_access_key_id=three\naws_secret_access_key = four=4\naws_session_token = five\nregion = six\n";
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	forget_environment();
	setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
	err = CROFT_ERROR_INIT;
	assert_ok(s3_account_find(&account, &err), err);
	assert_string_equal(account.key_id, "one");
	assert_string_equal(account.secret, "two");
	assert_null(account.token);
	assert_string_equal(account.region, "us-east-1");
	s3_account_finish(&account);
	setenv("AWS_PROFILE", "other", 1);
	assert_ok(s3_account_find(&account, &err), err);
	assert_string_equal(account.secret, "four=4");
	assert_string_equal(account.token, "five");
	assert_string_equal(account.region, "six");
	s3_account_finish(&account);
	setenv("AWS_ACCESS_KEY_ID", "seven", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "eight", 1);
	setenv("AWS_REGION", "nine", 1);
	assert_ok(s3_account_find(&account, &err), err);
	assert_string_equal(account.key_id, "seven");
	assert_null(account.token);
	assert_string_equal(account.region, "nine");
	s3_account_finish(&account);
	forget_environment();
	setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere", 1);
	assert_false(s3_account_find(&account, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	unlink(path);
}

static void the_endpoint_is_amazons_unless_another_is_named(void **state)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	forget_environment();
	assert_string_equal(s3_endpoint_url("s3://bucket/some/where", "eu-west-1", arena),
		"https://s3.eu-west-1.amazonaws.com/bucket/some/where");
	setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/", 1);
	assert_string_equal(s3_endpoint_url("s3://bucket", "eu-west-1", arena), "http://127.0.0.1:9000/bucket");
	setenv("AWS_ENDPOINT_URL_S3", "https://minio:9000", 1);
	assert_string_equal(s3_endpoint_url("s3://bucket", "eu-west-1", arena), "https://minio:9000/bucket");
	forget_environment();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_published_example_is_signed_as_published),
		cmocka_unit_test(a_put_is_signed_as_others_sign_it),
		cmocka_unit_test(accounts_come_from_the_environment_or_the_file),
		cmocka_unit_test(the_endpoint_is_amazons_unless_another_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
