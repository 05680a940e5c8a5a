/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The definitions as data: a google.protobuf.FileDescriptorSet of all .proto files here and all that
 * they import. */
#ifndef CROFT_PROTO_DEFS_DESCRIPTORS_H
#define CROFT_PROTO_DEFS_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

extern const size_t croft_descriptors_size;
extern const uint8_t croft_descriptors[];

#endif
