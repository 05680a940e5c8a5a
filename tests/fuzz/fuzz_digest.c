/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/digest.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct croft_digest digest, again;
	if (!croft_digest_parse(CROFT_SLICE(data, size), &digest, NULL))
		return 0;
	/* What parses must read back as the same. */
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(&digest, '/', text);
	if (!croft_digest_parse(croft_slice_str(text), &again, NULL) ||
		!croft_digest_equal(&digest, &again))
		abort();
	return 0;
}
