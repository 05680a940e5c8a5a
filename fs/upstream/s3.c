/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API reference. */
#include "fs/upstream/s3.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Accounts ------------------------------------------------------------------------------------- */

static const char *environment(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

static char *trimmed(char *text)
{
	text += strspn(text, " \t");
	size_t size = strlen(text);
	while (size > 0 && strchr(" \t\r\n", text[size - 1]))
		text[--size] = '\0';
	return text;
}

static void keep(char **place, const char *value)
{
	free(*place);
	*place = croft_strdup(value);
}

static void take_setting(struct s3_account *account, char *line)
{
	char *equals = strchr(line, '=');
	if (!equals)
		return;
	*equals = '\0';
	const char *name = trimmed(line), *value = trimmed(equals + 1);
	if (strcmp(name, "aws_access_key_id") == 0)
		keep(&account->key_id, value);
	else if (strcmp(name, "aws_secret_access_key") == 0)
		keep(&account->secret, value);
	else if (strcmp(name, "aws_session_token") == 0)
		keep(&account->token, value);
	else if (strcmp(name, "region") == 0 && !account->region)
		keep(&account->region, value);
}

/* An INI file: the settings below [profile]. */
static bool read_file(struct s3_account *account, const char *path, const char *profile, struct croft_error *err)
{
	FILE *file = fopen(path, "re");
	if (!file && errno == ENOENT)
		return true;
	if (!file)
		return croft_error_errno(err, errno, "%s", path);
	char *line = NULL;
	size_t room = 0;
	bool ours = false;
	while (getline(&line, &room, file) >= 0) {
		char *text = trimmed(line), *end = strchr(text, ']');
		if (*text == '[' && end) {
			*end = '\0';
			ours = strcmp(trimmed(text + 1), profile) == 0;
		} else if (ours && *text != '#' && *text != ';') {
			take_setting(account, text);
		}
	}
	bool ok = !ferror(file) || croft_error_errno(err, EIO, "%s", path);
	free(line);
	fclose(file);
	return ok;
}

static bool find_credentials(struct s3_account *account, struct croft_error *err)
{
	const char *key_id = environment("AWS_ACCESS_KEY_ID"), *secret = environment("AWS_SECRET_ACCESS_KEY");
	const char *token = environment("AWS_SESSION_TOKEN");
	if (key_id && secret) {
		keep(&account->key_id, key_id);
		keep(&account->secret, secret);
		if (token)
			keep(&account->token, token);
		return true;
	}
	const char *profile = environment("AWS_PROFILE"), *path = environment("AWS_SHARED_CREDENTIALS_FILE");
	const char *home = environment("HOME");
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	if (!path)
		path = croft_arena_printf(arena, "%s/.aws/credentials", home ? home : "");
	if (!read_file(account, path, profile ? profile : "default", err))
		return false;
	return (account->key_id && account->secret) ||
		croft_error_set(err, CROFT_NOT_FOUND,
			"no credentials: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set, nor are they in %s", path);
}

bool s3_account_find(struct s3_account *account, struct croft_error *err)
{
	const char *region = environment("AWS_REGION");
	*account = (struct s3_account){0};
	if (!region)
		region = environment("AWS_DEFAULT_REGION");
	if (region)
		keep(&account->region, region);
	if (find_credentials(account, err)) {
		if (!account->region)
			keep(&account->region, "us-east-1");
		return true;
	}
	s3_account_finish(account);
	return false;
}

void s3_account_finish(struct s3_account *account)
{
	free(account->key_id);
	if (account->secret)
		explicit_bzero(account->secret, strlen(account->secret));
	free(account->secret);
	free(account->token);
	free(account->region);
	*account = (struct s3_account){0};
}

/* Signing -------------------------------------------------------------------------------------- */

struct mac {
	uint8_t bytes[CROFT_HASH_SIZE];
};

static struct mac mac(const void *key, size_t size, const char *text)
{
	struct mac made;
	if (!HMAC(EVP_sha256(), key, (int)size, (const uint8_t *)text, strlen(text), made.bytes, NULL))
		abort();
	return made;
}

static struct mac then(const struct mac *key, const char *text)
{
	return mac(key->bytes, sizeof(key->bytes), text);
}

/* Of the key for one day, so that the secret itself signs nothing. */
static struct mac signature(const struct s3_account *account, const char *day, const char *text)
{
	CROFT_CLEANUP_FREE char *secret = NULL;
	if (asprintf(&secret, "AWS4%s", account->secret) < 0)
		abort();
	struct mac key = mac(secret, strlen(secret), day);
	explicit_bzero(secret, strlen(secret));
	key = then(&key, account->region);
	key = then(&key, "s3");
	key = then(&key, "aws4_request");
	return then(&key, text);
}

static const char *in_hex(const uint8_t hash[CROFT_HASH_SIZE], struct croft_arena *arena)
{
	char text[CROFT_HASH_TEXT];
	croft_hash_format(hash, text);
	return croft_arena_strdup(arena, text);
}

const char *s3_sign(const struct s3_account *account, const struct s3_request *request, struct croft_arena *arena)
{
	struct tm now;
	char time[20], day[12];
	gmtime_r(&request->at, &now);
	strftime(time, sizeof(time), "%Y%m%dT%H%M%SZ", &now);
	strftime(day, sizeof(day), "%Y%m%d", &now);
	const char *body = in_hex(request->body_hash ? request->body_hash : croft_digest_empty.hash, arena);
	const char *query = strchrnul(request->target, '?');
	const char *token = account->token
		? croft_arena_printf(arena, "x-amz-security-token:%s\n", account->token) : "";
	const char *names = account->token ? "host;x-amz-content-sha256;x-amz-date;x-amz-security-token"
									   : "host;x-amz-content-sha256;x-amz-date";
	const char *canonical = croft_arena_printf(arena,
		"%s\n%.*s\n%s\nhost:%s\nx-amz-content-sha256:%s\nx-amz-date:%s\n%s\n%s\n%s", request->method,
		(int)(query - request->target), request->target, *query ? query + 1 : "", request->host, body, time, token,
		names, body);
	struct croft_digest digest = croft_digest_of(canonical, strlen(canonical));
	const char *scope = croft_arena_printf(arena, "%s/%s/s3/aws4_request", day, account->region);
	const char *to_sign = croft_arena_printf(arena, "AWS4-HMAC-SHA256\n%s\n%s\n%s", time, scope,
		in_hex(digest.hash, arena));
	struct mac sign = signature(account, day, to_sign);
	return croft_arena_printf(arena,
		"x-amz-content-sha256: %s\r\nx-amz-date: %s\r\n%s%s%s"
		"Authorization: AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s\r\n",
		body, time, account->token ? "x-amz-security-token: " : "", account->token ? account->token : "",
		account->token ? "\r\n" : "", account->key_id, scope, names, in_hex(sign.bytes, arena));
}

bool s3_is_plain(const char *path)
{
	for (const char *c = path; *c; c++)
		if (!(*c >= 'a' && *c <= 'z') && !(*c >= 'A' && *c <= 'Z') && !(*c >= '0' && *c <= '9') &&
			!strchr("-._~/", *c))
			return false;
	return true;
}

const char *s3_endpoint_url(const char *url, const char *region, struct croft_arena *arena)
{
	const char *place = url + strlen("s3://"), *endpoint = environment("AWS_ENDPOINT_URL_S3");
	if (!endpoint)
		endpoint = environment("AWS_ENDPOINT_URL");
	if (!endpoint)
		return croft_arena_printf(arena, "https://s3.%s.amazonaws.com/%s", region, place);
	size_t size = strlen(endpoint);
	while (size > 0 && endpoint[size - 1] == '/')
		size--;
	return croft_arena_printf(arena, "%.*s/%s", (int)size, endpoint, place);
}
