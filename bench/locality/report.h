/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What simulations found, side by side. */
#ifndef CROFT_BENCH_LOCALITY_REPORT_H
#define CROFT_BENCH_LOCALITY_REPORT_H

#include "bench/locality/simulate.h"

#include <stdio.h>

struct report_row {
	const char *name; /* of the policy, or of a bound */
	struct simulation_result result;
};

enum report_form { REPORT_TABLE, REPORT_JSON, REPORT_CSV };

/* Rates are against the first row. */
void report_print(FILE *out, enum report_form form, const struct report_row *rows, size_t count);
/* Bytes moved, makespan and waits as a chart. */
bool report_svg(const char *path, const char *title, const struct report_row *rows, size_t count,
	struct croft_error *err);

#endif
