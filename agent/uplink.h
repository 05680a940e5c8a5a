/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way up to the server: what the session connects and all others send by. Thread-safe.
 */
#ifndef CROFT_AGENT_UPLINK_H
#define CROFT_AGENT_UPLINK_H

#include "proto/rpc/client.h"

#include "croft/v1/farm.pb-c.h"

struct croft_uplink;
struct croft_uplink *croft_uplink_create(void);
void croft_uplink_destroy(struct croft_uplink *uplink);

/* From now on messages go by this stream, borrowed until the next call; NULL: there is none. Waits for a write
 * that is under way. */
void croft_uplink_use(struct croft_uplink *uplink, struct croft_stream *stream);
/* The server welcomed this agent on the stream in use. */
void croft_uplink_welcomed(struct croft_uplink *uplink);
/* How many times it did up to now. */
uint64_t croft_uplink_connection(struct croft_uplink *uplink);

/* May block for as long as the server takes nothing. While there is no connection it does nothing, and a failed
 * write is not told: the session sees the same failure and connects again, and what matters (results) is sent
 * again then. */
void croft_uplink_send(struct croft_uplink *uplink, const Farm__AgentMessage *message);

#endif
