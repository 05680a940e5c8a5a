/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The key of a blob plane, as the password of HTTP's Basic scheme (RFC 7617), which caches' clients know. */
#include "fs/http/http.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define USER "croft"

bool http_key_authorization(const char *key, char text[HTTP_AUTHORIZATION])
{
	char pair[sizeof(USER ":") + HTTP_KEY_MAX];
	text[0] = '\0';
	if (!key || !*key)
		return true;
	if (strlen(key) > HTTP_KEY_MAX)
		return false;
	int size = snprintf(pair, sizeof(pair), USER ":%s", key);
	int prefix = sprintf(text, "Basic ");
	EVP_EncodeBlock((unsigned char *)text + prefix, (unsigned char *)pair, size);
	return true;
}

bool http_key_matches(const char *authorization, struct croft_slice value)
{
	return authorization[0] == '\0' ||
		(value.size == strlen(authorization) &&
			CRYPTO_memcmp(value.data, authorization, value.size) == 0);
}
