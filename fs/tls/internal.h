/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of fs/tls share. */
#ifndef CROFT_FS_TLS_INTERNAL_H
#define CROFT_FS_TLS_INTERNAL_H

#include "fs/tls/relay.h"

#include <openssl/ssl.h>

SSL_CTX *tls_context_create(const struct croft_tls *tls, bool server, struct croft_error *err);
/* Whom a client wants on the other side; NULL: anybody whom the authorities know. */
bool tls_expect(SSL *ssl, const char *host);

#endif
