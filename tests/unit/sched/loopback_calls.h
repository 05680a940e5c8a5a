/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For tests that call services: one loopback, anew for each test; `err` has what the last call said. */
#ifndef CROFT_TESTS_UNIT_SCHED_LOOPBACK_CALLS_H
#define CROFT_TESTS_UNIT_SCHED_LOOPBACK_CALLS_H

#include "tests/unit/sched/loopback.h"

static struct loopback loopback;
static struct croft_error err;

static int set_up(void **state)
{
	loopback_start(&loopback);
	err = CROFT_ERROR_INIT;
	return 0;
}

static int tear_down(void **state)
{
	loopback_stop(&loopback);
	return 0;
}

static inline void *call(const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response)
{
	return croft_unary(loopback.channel, NULL, path, request, response, loopback.arena, &err);
}

#endif
