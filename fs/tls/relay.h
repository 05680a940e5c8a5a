/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to fs: TLS on sockets of code that speaks plainly. A relay takes a connected socket over and gives a
 * descriptor for it, one end of a pair of sockets, which carries what is inside the encryption: with the ends of both
 * directions, each for itself, as of a TCP socket. What fails (certificates, a broken record) is an early end there,
 * and said in the log.
 *
 *	struct tls_relay *relay = tls_relay_start("croft-tls", &tls, true, 2, &err);
 *	int plain = tls_relay_begin(relay, accept(…), NULL, &err);
 *
 * A connection holds two more descriptors, its TLS state, and while bytes are on their way a buffer each direction.
 */
#ifndef CROFT_FS_TLS_RELAY_H
#define CROFT_FS_TLS_RELAY_H

#include "proto/base/error.h"
#include "proto/rpc/server.h" /* struct croft_tls */

struct tls_relay;

/* `server`: a certificate is needed, and with authorities clients need one of theirs. Else the other side's must be of
 * the authorities (NULL: the system's). The name is of its threads, at most 13 characters. */
struct tls_relay *tls_relay_start(const char *name, const struct croft_tls *tls, bool server, unsigned threads,
	struct croft_error *err);
/* Ends what it carries. NULL is fine. */
void tls_relay_stop(struct tls_relay *relay);

/* The socket is the relay's from here on, also on failure (-1). Of a client: the certificate must be for `host`, a name
 * or an address; NULL: any that the authorities signed will do. */
int tls_relay_begin(struct tls_relay *relay, int socket, const char *host, struct croft_error *err);

#endif
