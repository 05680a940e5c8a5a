/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The user and password that a URL names (RFC 3986, section 3.2.1), as HTTP's Basic scheme has them (RFC 7617).
 * They are taken out of the URL here, so that nothing that is said of an upstream shows them. */
#include "fs/upstream/internal.h"

#include <openssl/evp.h>

enum { ACCOUNT_MOST = 1024 };

static int digit_of(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* The byte at *at, which may be written as %xx; -1: it may not stand in a name or password. */
static int next_byte(const char **at)
{
	int byte = (unsigned char)*(*at)++;
	if (byte == '%') {
		int high = digit_of(**at), low = high < 0 ? -1 : digit_of((*at)[1]);
		if (low < 0)
			return -1;
		byte = high << 4 | low;
		*at += 2;
	}
	return byte < ' ' || byte == 0x7f ? -1 : byte;
}

/* USER:PASSWORD from `at` to `end`, decoded; 0: it is none. */
static size_t decode(const char *at, const char *end, unsigned char pair[ACCOUNT_MOST])
{
	size_t size = 0;
	const char *colon = memchr(at, ':', (size_t)(end - at));
	if (!colon || colon == at || end - at > ACCOUNT_MOST)
		return 0;
	while (at < end) {
		bool is_colon = *at == ':';
		int byte = next_byte(&at);
		/* The reader takes the first colon for the end of the name. */
		if (byte < 0 || (byte == ':' && !is_colon && at <= colon))
			return 0;
		pair[size++] = (unsigned char)byte;
	}
	return size;
}

bool upstream_account(const char *url, struct croft_arena *arena, const char **plain, const char **fields,
	struct croft_error *err)
{
	const char *host = strstr(url, "://");
	host = host ? host + 3 : url + strlen(url);
	const char *end = host + strcspn(host, "/"), *at = memrchr(host, '@', (size_t)(end - host));
	*plain = url;
	*fields = NULL;
	if (!at)
		return true;
	*plain = croft_arena_printf(arena, "%.*s%s", (int)(host - url), url, at + 1);
	if (strncmp(url, "http", 4) != 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"'%s': only http:// and https:// upstreams are given a user and password", *plain);
	unsigned char pair[ACCOUNT_MOST], text[(ACCOUNT_MOST + 2) / 3 * 4 + 1];
	size_t size = decode(host, at, pair);
	if (size == 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"'%s': what stands before it is no USER:PASSWORD@ (other signs as %%xx; in all at most %d)", *plain,
			(int)ACCOUNT_MOST);
	EVP_EncodeBlock(text, pair, (int)size);
	*fields = croft_arena_printf(arena, "Authorization: Basic %s\r\n", text);
	return true;
}
