/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an init and the command write to while they live in the nursery's memory: stacks, and what the job is told.
 * However they end, killed at any instruction or executed, nothing else of them is there: it is wiped before the
 * next uses it, and the nursery does not grow. Hence neither of them allocates. It stays mapped, since taking pages
 * away interrupts all processors that had used them.
 */
#include "sandbox/internal.h"

#include <sys/mman.h>

enum {
	GUARD = 64 << 10,
	/* Sanitizers need more. */
	INIT_STACK = INIT_SHARES ? 32 << 10 : 512 << 10,
	COMMAND_STACK = INIT_SHARES ? 64 << 10 : 512 << 10,
	WIPE_MOST = 64 << 10,
};

struct scratch {
	char guard_init[GUARD], init[INIT_STACK];
	char guard_command[GUARD], command[COMMAND_STACK];
	char guard_spec[GUARD], spec[WIRE_SPEC_MOST];
};

static bool open_part(void *part, size_t size)
{
	return mprotect(part, size, PROT_READ | PROT_WRITE) == 0;
}

struct scratch *scratch_make(void)
{
	struct scratch *scratch =
		mmap(NULL, sizeof(*scratch), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return scratch != MAP_FAILED && open_part(scratch->init, sizeof(scratch->init)) &&
			open_part(scratch->command, sizeof(scratch->command)) &&
			open_part(scratch->spec, sizeof(scratch->spec))
		? scratch
		: NULL;
}

bool scratch_wipe(struct scratch *scratch)
{
	const struct wire_spec *spec = (const struct wire_spec *)scratch->spec;
	/* A spec is read from its beginning on, and that says how long it is. */
	size_t size = spec->size < sizeof(*spec) ? sizeof(*spec) : spec->size;
	explicit_bzero(scratch->init, sizeof(scratch->init));
	explicit_bzero(scratch->command, sizeof(scratch->command));
	if (size > WIPE_MOST)
		return madvise(scratch->spec, sizeof(scratch->spec), MADV_DONTNEED) == 0;
	explicit_bzero(scratch->spec, size);
	return true;
}

void *scratch_init_stack(struct scratch *scratch)
{
	return scratch->init + sizeof(scratch->init);
}

void *scratch_command_stack(struct scratch *scratch)
{
	return scratch->command + sizeof(scratch->command);
}

void *scratch_spec(struct scratch *scratch)
{
	return scratch->spec;
}
