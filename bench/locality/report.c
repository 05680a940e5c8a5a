/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench/locality/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>

struct column {
	const char *name, *title;
	size_t offset;
	double unit; /* what the table divides by */
	int decimals;
};

#define COLUMN(field, title, unit, decimals)                                                       \
	{#field, title, offsetof(struct simulation_result, field), unit, decimals}
static const struct column columns[] = {
	COLUMN(bytes_moved, "moved GB", 1e9, 1),
	COLUMN(bytes_read, "read GB", 1e9, 1),
	COLUMN(origin_peak, "peak MB/s", 1e6, 0),
	COLUMN(makespan, "makespan s", 1, 0),
	COLUMN(wait_mean, "wait s", 1, 2),
	COLUMN(wait_p99, "p99 s", 1, 1),
	COLUMN(wait_max, "most s", 1, 0),
	COLUMN(decisions_per_second, "decisions/s", 1, 0),
	COLUMN(decision_p99_us, "p99 us", 1, 1),
	COLUMN(fairness, "fairness", 1, 3),
	COLUMN(busy_share, "busy", 1, 2),
};
enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };

static double value_of(const struct simulation_result *result, const struct column *column)
{
	return *(const double *)((const char *)result + column->offset);
}

static double hit_share(const struct simulation_result *result)
{
	return result->bytes_read > 0 ? 1 - result->bytes_moved / result->bytes_read : 0;
}

static void print_table(FILE *out, const struct report_row *rows, size_t count)
{
	fprintf(out, "%-14s %7s %6s", "policy", "moved", "hits");
	for (size_t i = 0; i < COLUMNS; i++)
		fprintf(out, " %11s", columns[i].title);
	fprintf(out, " %8s %12s\n", "map MB", "skips");
	for (size_t i = 0; i < count; i++) {
		const struct simulation_result *result = &rows[i].result;
		fprintf(out, "%-14s %6.3fx %6.3f", rows[i].name,
			result->bytes_moved / rows[0].result.bytes_moved, hit_share(result));
		for (size_t k = 0; k < COLUMNS; k++)
			fprintf(out, " %11.*f", columns[k].decimals, value_of(result, &columns[k]) / columns[k].unit);
		fprintf(out, " %8.1f %5u of %u\n", (double)result->presence_bytes / 1e6, result->most_skips,
			result->skip_bound);
	}
}

static void print_json(FILE *out, const struct report_row *rows, size_t count)
{
	fputs("[", out);
	for (size_t i = 0; i < count; i++) {
		const struct simulation_result *result = &rows[i].result;
		fprintf(out, "%s\n {\"policy\": \"%s\", \"jobs\": %" PRIu64 ", \"hit_share\": %.6f", i ? "," : "",
			rows[i].name, result->jobs, hit_share(result));
		for (size_t k = 0; k < COLUMNS; k++)
			fprintf(out, ", \"%s\": %.6g", columns[k].name, value_of(result, &columns[k]));
		fprintf(out, ", \"presence_bytes\": %zu, \"most_skips\": %u, \"skip_bound\": %u}",
			result->presence_bytes, result->most_skips, result->skip_bound);
	}
	fputs("\n]\n", out);
}

static void print_csv(FILE *out, const struct report_row *rows, size_t count)
{
	fputs("policy,jobs,hit_share", out);
	for (size_t k = 0; k < COLUMNS; k++)
		fprintf(out, ",%s", columns[k].name);
	fputs(",presence_bytes,most_skips,skip_bound\n", out);
	for (size_t i = 0; i < count; i++) {
		const struct simulation_result *result = &rows[i].result;
		fprintf(out, "%s,%" PRIu64 ",%.6f", rows[i].name, result->jobs, hit_share(result));
		for (size_t k = 0; k < COLUMNS; k++)
			fprintf(out, ",%.6g", value_of(result, &columns[k]));
		fprintf(out, ",%zu,%u,%u\n", result->presence_bytes, result->most_skips, result->skip_bound);
	}
}

void report_print(FILE *out, enum report_form form, const struct report_row *rows, size_t count)
{
	switch (form) {
	case REPORT_TABLE: print_table(out, rows, count); break;
	case REPORT_JSON: print_json(out, rows, count); break;
	case REPORT_CSV: print_csv(out, rows, count); break;
	}
}

/* The chart ---------------------------------------------------------------------------------------- */

enum { BAR_HEIGHT = 18, NAME_WIDTH = 130, BAR_WIDTH = 220, PANEL_WIDTH = 320, TOP = 56 };

static void draw_panel(FILE *out, unsigned number, const char *title, const struct column *column,
	const struct report_row *rows, size_t count)
{
	double most = 0;
	for (size_t i = 0; i < count; i++)
		if (value_of(&rows[i].result, column) > most)
			most = value_of(&rows[i].result, column);
	unsigned left = NAME_WIDTH + number * PANEL_WIDTH;
	fprintf(out, "<text x='%u' y='%u' font-weight='bold'>%s</text>\n", left, TOP - 10, title);
	for (size_t i = 0; i < count; i++) {
		double value = value_of(&rows[i].result, column);
		double width = most > 0 ? value / most * BAR_WIDTH : 0;
		unsigned top = TOP + (unsigned)i * (BAR_HEIGHT + 4);
		fprintf(out,
			"<rect x='%u' y='%u' width='%.1f' height='%u' fill='%s'/>"
			"<text x='%.1f' y='%u'>%.*f</text>\n",
			left, top, width, BAR_HEIGHT, i == 0 ? "#b0413e" : "#3b6ea5", left + width + 4,
			top + BAR_HEIGHT - 5, column->decimals, value / column->unit);
	}
}

bool report_svg(const char *path, const char *title, const struct report_row *rows, size_t count,
	struct croft_error *err)
{
	FILE *out = fopen(path, "we");
	if (!out)
		return croft_error_errno(err, errno, "creating %s", path);
	fprintf(out,
		"<svg xmlns='http://www.w3.org/2000/svg' width='%u' height='%u' font-family='sans-serif' "
		"font-size='12'>\n<text x='4' y='20' font-size='15'>%s</text>\n",
		NAME_WIDTH + 3 * PANEL_WIDTH, TOP + (unsigned)count * (BAR_HEIGHT + 4) + 8, title);
	for (size_t i = 0; i < count; i++)
		fprintf(out, "<text x='4' y='%u'>%s</text>\n",
			TOP + (unsigned)i * (BAR_HEIGHT + 4) + BAR_HEIGHT - 5, rows[i].name);
	draw_panel(out, 0, "bytes moved, GB", &columns[0], rows, count);
	draw_panel(out, 1, "makespan, s", &columns[3], rows, count);
	draw_panel(out, 2, "wait, 99th percentile, s", &columns[5], rows, count);
	fputs("</svg>\n", out);
	bool ok = !ferror(out);
	return fclose(out) == 0 && ok ? true : croft_error_errno(err, errno, "writing %s", path);
}
