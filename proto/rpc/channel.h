/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to proto/rpc: what a channel is made of.
 */
#ifndef CROFT_RPC_CHANNEL_H
#define CROFT_RPC_CHANNEL_H

#include "proto/rpc/client.h"
#include "proto/rpc/core.h"

struct croft_channel {
	grpc_channel *core;
	char *target;
};

#endif
