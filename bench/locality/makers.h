/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Trace makers. */
#ifndef CROFT_BENCH_LOCALITY_MAKERS_H
#define CROFT_BENCH_LOCALITY_MAKERS_H

#include "bench/locality/trace.h"

struct debian_options {
	const char *directory; /* for apt's lists: they are fetched anew if they changed */
	const char *mirror, *suite; /* NULL: deb.debian.org, bookworm */
	bool lazy; /* synthetic read shares instead of whole packages */
};
struct trace *make_debian(const struct debian_options *options, struct croft_error *err);

/* Of what a farm ran: `path` is a server's operation log, or the state directory of the server or of `croft farm`
 * with it. With how many agents and slots that was. */
struct own_farm {
	unsigned agents, slots; /* slots: the most of any of them */
};
struct trace *make_own(const char *path, struct own_farm *farm, struct croft_error *err);

#endif
