/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to fs/upstream: requests that S3 and its like take, signed by AWS Signature Version 4. An account comes from
 * where AWS's own tools look: the environment, then the credentials file.
 */
#ifndef CROFT_FS_UPSTREAM_S3_H
#define CROFT_FS_UPSTREAM_S3_H

#include "fs/digest.h"

#include <time.h>

struct s3_account {
	char *key_id, *secret, *token /* or NULL */, *region;
};

/* NOT_FOUND: there is none. */
bool s3_account_find(struct s3_account *account, struct croft_error *err);
void s3_account_finish(struct s3_account *account);

struct s3_request {
	const char *method, *host; /* as the Host field has it */
	const char *target;        /* path and perhaps query; only what needs no escapes */
	const uint8_t *body_hash;  /* NULL: there is no body */
	time_t at;
};
/* The header fields to add, each line with its end. */
const char *s3_sign(const struct s3_account *account, const struct s3_request *request, struct croft_arena *arena);

/* Can it stand in a target as it is? */
bool s3_is_plain(const char *path);

/* s3://BUCKET[/PREFIX] as the URL of that path at the endpoint that the environment names, or AWS's. */
const char *s3_endpoint_url(const char *url, const char *region, struct croft_arena *arena);

#endif
