/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Small files that are read one after the other as they stand in their directory (cat, grep -r, tar): those
 * behind are fetched ahead, more each time, so that a directory costs a few round trips and not one for each
 * file. Whoever reads here and there, as a compiler does, gets what it reads and nothing else, but over a link on
 * which each file would cost a long round trip.
 */
#ifndef CROFT_FS_MOUNT_SIBLINGS_H
#define CROFT_FS_MOUNT_SIBLINGS_H

#include <stddef.h>
#include <stdint.h>

struct siblings;
struct request;
struct node;

struct siblings *siblings_create(void);
void siblings_destroy(struct siblings *siblings);
/* Where a file's node was seen last: at that place in the directory that is the node `parent`. */
void siblings_note(struct siblings *siblings, uint64_t node, uint64_t parent, size_t place);
/* The file's first bytes are being read. */
void siblings_read(struct request *request, const struct node *node);
/* It is not here, and will be waited for. Where that takes long, others of its directory are guessed to be read soon;
 * what is guessed is a small share of what was fetched for need. */
void siblings_missed(struct request *request, const struct node *node);
/* So much was fetched. */
void siblings_earn(struct siblings *siblings, uint64_t bytes);

#endif
