/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/tls.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <fcntl.h>
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PEM_BYTES = 1 << 20 };

struct pems {
	char *roots;
	grpc_ssl_pem_key_cert_pair pair;
};

static char *read_pem(const char *path, struct croft_error *err)
{
	char *text = NULL;
	size_t size;
	if (!croft_read_file(AT_FDCWD, path, MAX_PEM_BYTES, &text, &size, err))
		return NULL;
	if (strstr(text, "-----BEGIN "))
		return text;
	free(text);
	croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s is no PEM file", path);
	return NULL;
}

static void release_pems(struct pems *pems)
{
	free(pems->roots);
	free((char *)pems->pair.private_key);
	free((char *)pems->pair.cert_chain);
}

static bool read_pems(const struct croft_tls *tls, struct pems *pems, struct croft_error *err)
{
	if (!tls->certificate_file != !tls->key_file)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"TLS needs the certificate's file and the key's file, not one of them");
	if (tls->authority_file && !(pems->roots = read_pem(tls->authority_file, err)))
		return false;
	return !tls->certificate_file ||
		((pems->pair.cert_chain = read_pem(tls->certificate_file, err)) &&
			(pems->pair.private_key = read_pem(tls->key_file, err)));
}

grpc_server_credentials *croft_tls_server(const struct croft_tls *tls, struct croft_error *err)
{
	if (!tls)
		return grpc_insecure_server_credentials_create();
	struct pems pems = {0};
	grpc_server_credentials *credentials = NULL;
	if (!tls->certificate_file)
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "a TLS server needs a certificate and a key");
	else if (read_pems(tls, &pems, err))
		credentials = grpc_ssl_server_credentials_create_ex(pems.roots, &pems.pair, 1,
			pems.roots ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
					   : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
			NULL);
	release_pems(&pems);
	return credentials;
}

grpc_channel_credentials *croft_tls_channel(const struct croft_tls *tls, struct croft_error *err)
{
	static const struct croft_tls none;
	struct pems pems = {0};
	grpc_channel_credentials *credentials = NULL;
	/* Without roots the core takes the system's. */
	if (read_pems(tls ? tls : &none, &pems, err))
		credentials = grpc_ssl_credentials_create(
			pems.roots, pems.pair.cert_chain ? &pems.pair : NULL, NULL, NULL);
	release_pems(&pems);
	return credentials;
}
