/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is agreed on and who is believed. */
#include "fs/tls/internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

static bool fail(const char *what, const char *file, struct croft_error *err)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = ERR_reason_error_string(code);
	croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s%s%s: %s", what, file ? " " : "", file ? file : "",
		reason ? reason : "it cannot be used");
	ERR_clear_error();
	return false;
}

static bool load(SSL_CTX *context, const struct croft_tls *tls, bool server, struct croft_error *err)
{
	const char *authorities = tls ? tls->authority_file : NULL;
	if (tls && tls->certificate_file &&
		SSL_CTX_use_certificate_chain_file(context, tls->certificate_file) != 1)
		return fail("the certificate", tls->certificate_file, err);
	if (tls && tls->key_file &&
		(SSL_CTX_use_PrivateKey_file(context, tls->key_file, SSL_FILETYPE_PEM) != 1 ||
			SSL_CTX_check_private_key(context) != 1))
		return fail("the key", tls->key_file, err);
	if (authorities && SSL_CTX_load_verify_file(context, authorities) != 1)
		return fail("the authorities", authorities, err);
	if (!server && !authorities && SSL_CTX_set_default_verify_paths(context) != 1)
		return fail("the system's authorities", NULL, err);
	if (!server || !authorities)
		return true;
	STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(authorities);
	if (!names)
		return fail("the authorities", authorities, err);
	SSL_CTX_set_client_CA_list(context, names);
	static const unsigned char id[] = "croft"; /* sessions that go on need one where clients have certificates */
	SSL_CTX_set_session_id_context(context, id, sizeof(id) - 1);
	return true;
}

SSL_CTX *tls_context_create(const struct croft_tls *tls, bool server, struct croft_error *err)
{
	if (server && (!tls || !tls->certificate_file || !tls->key_file)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "serving with TLS needs a certificate and a key");
		return NULL;
	}
	SSL_CTX *context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!context)
		abort();
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(context,
		SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	bool verify = !server || tls->authority_file;
	SSL_CTX_set_verify(context,
		verify ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE, NULL);
	if (load(context, tls, server, err))
		return context;
	SSL_CTX_free(context);
	return NULL;
}

bool tls_expect(SSL *ssl, const char *host)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	/* One agent's certificate serves it as a client and, for its peers, as a server. */
	if (!host)
		return X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_ANY) == 1;
	struct in6_addr address;
	if (inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
	return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}
