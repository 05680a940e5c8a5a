/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/uplink.h"

#include "proto/base/cleanup.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct croft_uplink {
	pthread_mutex_t lock; /* guards: stream, and keeps writes to it one at a time */
	struct croft_stream *stream;
	_Atomic uint64_t connections;
};

struct croft_uplink *croft_uplink_create(void)
{
	struct croft_uplink *uplink = croft_zalloc(sizeof(*uplink));
	pthread_mutex_init(&uplink->lock, NULL);
	return uplink;
}

void croft_uplink_destroy(struct croft_uplink *uplink)
{
	if (!uplink)
		return;
	pthread_mutex_destroy(&uplink->lock);
	free(uplink);
}

void croft_uplink_use(struct croft_uplink *uplink, struct croft_stream *stream)
{
	CROFT_LOCKED(&uplink->lock);
	uplink->stream = stream;
}

void croft_uplink_welcomed(struct croft_uplink *uplink)
{
	atomic_fetch_add(&uplink->connections, 1);
}

uint64_t croft_uplink_connection(struct croft_uplink *uplink)
{
	return atomic_load(&uplink->connections);
}

void croft_uplink_send(struct croft_uplink *uplink, const Farm__AgentMessage *message)
{
	CROFT_LOCKED(&uplink->lock);
	if (uplink->stream)
		croft_stream_write(uplink->stream, &message->base, NULL);
}
