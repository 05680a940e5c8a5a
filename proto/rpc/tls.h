/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to proto/rpc: the core's credentials from PEM files.
 */
#ifndef CROFT_RPC_TLS_H
#define CROFT_RPC_TLS_H

#include "proto/rpc/server.h"

#include <grpc/grpc.h>

/* tls NULL: insecure. NULL with err on failure. */
grpc_server_credentials *croft_tls_server(const struct croft_tls *tls, struct croft_error *err);
/* tls NULL: the system's roots, no certificate of our own. */
grpc_channel_credentials *croft_tls_channel(const struct croft_tls *tls, struct croft_error *err);

#endif
