/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job asks of its sandbox by platform properties (see docs/platform.md for the list).
 */
#ifndef CROFT_AGENT_OPTIONS_H
#define CROFT_AGENT_OPTIONS_H

#include "proto/base/error.h"
#include "sandbox/sandbox.h"

#include "croft/v1/farm.pb-c.h"

struct croft_job_options {
	bool over_image; /* the input root is a folder over the agent's root image, not "/" */
	uint32_t uid, gid;
	enum croft_network network;
	uint64_t memory_bytes;
};

/* `has_image`: what to take for granted when the job does not say (croft-root). INVALID_ARGUMENT
 * names a property whose value makes no sense. */
bool croft_job_options_read(struct croft_job_options *options, const Farm__Job *job, bool has_image,
	struct croft_error *err);

#endif
