/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Directory messages of a peer in the form in which the mount looks into them. */
#include "fs/mount/directory.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest digest = croft_digest_of(data, size);
	struct directory *directory = directory_decode(&digest, CROFT_SLICE(data, size), &err);
	if (!directory) {
		if (err.code == CROFT_OK)
			abort();
		return 0;
	}
	for (uint32_t i = 0; i < directory->count; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		struct croft_slice name = directory_name(directory, entry);
		/* Every entry is found under its own name, and no other is. */
		if (directory_find(directory, name) != entry || strlen(name.data) != name.size)
			abort();
		if (entry->kind == NODE_DIRECTORY)
			continue;
		struct node node = directory_node(directory, entry);
		if (node.kind == NODE_SYMLINK && strlen(node.target) != node.size)
			abort();
	}
	directory_free(directory);
	return 0;
}
