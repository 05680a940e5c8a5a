/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ByteStream's names of blobs: what is found in them lies in them and is well formed. */
#include "sched/services/resource.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(struct croft_slice part, const uint8_t *data, size_t size)
{
	const uint8_t *start = part.data;
	if (part.size > 0 && (start < data || start + part.size > data + size))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct croft_slice name = {data, size};
	struct resource resource;
	char text[CROFT_DIGEST_TEXT];
	if (resource_parse_read(name, &resource, NULL)) {
		check_inside(resource.instance, data, size);
		croft_hash_format(resource.digest.hash, text);
		/* It ends with its digest, whatever stands before; the size may begin with zeros. */
		size_t digits = 0;
		while (digits < size && data[size - 1 - digits] != '/')
			digits++;
		size_t tail = digits + 1 + CROFT_HASH_TEXT - 1;
		if (tail > size || memcmp(data + size - tail, text, CROFT_HASH_TEXT - 1) != 0)
			abort();
	}
	if (resource_parse_write(name, &resource, NULL)) {
		check_inside(resource.instance, data, size);
		check_inside(resource.uuid, data, size);
		if (resource.uuid.size == 0)
			abort();
	}
	resource_is_log(name);
	return 0;
}
