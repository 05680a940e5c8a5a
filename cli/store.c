/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Care of a store on this machine: fsck, store. */
#include "fs/store.h"

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/state.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

/* `croft serve` keeps its store in store/ of its state, `croft farm` that of its server in serve/, agents
 * their cache in fs/cache/. */
static char *store_below(const char *state, bool *durable, struct croft_error *err)
{
	static const char *const places[] = {"store", "serve/store", "fs/cache", "cache"};
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char *path = NULL;
		if (asprintf(&path, "%s/%s", state, places[i]) < 0)
			abort();
		*durable = i < 2;
		struct stat st;
		if (stat(path, &st) == 0)
			return path;
		if (errno != ENOENT && errno != ENOTDIR)
			croft_error_errno(err, errno, "looking for a store in %s", path);
		free(path);
	}
	return NULL;
}

static char *find_store(const struct options *options, bool *durable, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *serve = state_path(options, "serve", err);
	CROFT_CLEANUP_FREE char *farm = state_path(options, "farm", err);
	if (!serve || !farm)
		return NULL;
	char *path = store_below(serve, durable, err);
	if (!path)
		path = store_below(farm, durable, err);
	if (path)
		*err = CROFT_ERROR_INIT;
	else if (err->code == CROFT_OK)
		croft_error_set(err, CROFT_NOT_FOUND,
			"%s has neither store/ nor fs/cache/: --state names the state directory of a `croft serve`, "
			"`croft farm` or `croft agent`",
			serve);
	return path;
}

enum access { WRITE, READ, WRITE_IF_FREE };

/* In use by another process, of another user, or on a disk that is not to be written. */
static bool may_only_be_read(const struct croft_error *err)
{
	return err->code == CROFT_FAILED_PRECONDITION || err->sys_errno == EROFS || err->sys_errno == EACCES;
}

/* Opening for writing takes in what the log holds after a crash; a store that others write to, or that cannot be written, is
 * only read. */
static struct croft_store *open_store(const struct options *options, enum access access,
	bool *read_only, struct croft_error *err)
{
	struct croft_store_config config = {.read_only = access == READ, .chunked = true};
	CROFT_CLEANUP_FREE char *path = find_store(options, &config.durable, err);
	if (!path)
		return NULL;
	config.path = path;
	struct croft_store *store = croft_store_open(&config, err);
	if (!store && access == WRITE_IF_FREE && may_only_be_read(err)) {
		*err = CROFT_ERROR_INIT;
		config.read_only = true;
		store = croft_store_open(&config, err);
	}
	if (read_only)
		*read_only = config.read_only;
	return store;
}

/* A damaged index cannot tell of anything: a new one is made of what the segments hold. False with `err` as it was: it is
 * not that, or it cannot be set aside. */
static bool renew_index(const struct options *options, struct croft_error *err)
{
	bool durable;
	struct croft_error failure = CROFT_ERROR_INIT;
	if (err->code != CROFT_DATA_LOSS)
		return false;
	CROFT_CLEANUP_FREE char *path = find_store(options, &durable, &failure);
	if (!path || !croft_store_set_index_aside(path, &failure))
		return false;
	croft_log(CROFT_LOG_WARNING,
		"%s: it is %s/index.damaged now, and a new one is made; action results and assets are lost", err->message, path);
	*err = CROFT_ERROR_INIT;
	return true;
}

static void show_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
	char done[SIZE_TEXT], total[SIZE_TEXT];
	progress("checked %s of %s", format_size(done_bytes, done), format_size(total_bytes, total));
}

static bool check_all(const struct options *options, bool repair, bool *in_use, struct croft_fsck_report *report,
	struct croft_error *err)
{
	struct croft_store *store = open_store(options, repair ? WRITE : WRITE_IF_FREE, in_use, err);
	if (!store)
		return false;
	bool ok = croft_store_fsck(store, repair, show_progress, NULL, report, err);
	croft_store_close(store);
	progress_clear();
	return ok;
}

static int fsck_run(const struct options *options, struct croft_error *err)
{
	if (!options_arguments(options, 0, 0, err))
		return MISUSED;
	bool repair = options_given(options, "repair");
	bool in_use;
	struct croft_fsck_report report = {0};
	bool ok = check_all(options, repair, &in_use, &report, err) ||
		(repair && renew_index(options, err) && check_all(options, repair, &in_use, &report, err));
	if (!ok)
		return FAILED;
	uint64_t bad = report.bad_blobs + report.dangling_records;
	char bytes[SIZE_TEXT];
	if (options_given(options, "json"))
		ok = json_print(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "blobs_checked",
					(json_int_t)report.blobs_checked, "bytes_checked",
					(json_int_t)report.bytes_checked, "bad_blobs",
					(json_int_t)report.bad_blobs, "dangling_records",
					(json_int_t)report.dangling_records, "orphans",
					(json_int_t)report.orphans, "repaired", (json_int_t)report.repaired,
					"in_use", in_use),
			err);
	else
		printf("%s: %" PRIu64 " blobs, %s read; %" PRIu64 " bad, %" PRIu64
		       " records with something missing, %" PRIu64 " orphans, %" PRIu64 " repaired%s\n",
			bad == 0 ? "clean" : "damaged", report.blobs_checked,
			format_size(report.bytes_checked, bytes), report.bad_blobs,
			report.dangling_records, report.orphans, report.repaired,
			in_use ? " (in use, or only to be read: records and stray files were not looked at)" : "");
	return !ok ? FAILED : bad > report.repaired;
}

static const struct option_spec fsck_options[] = {
	{"state", 0, "DIR", "of a serve, farm or agent (else $XDG_STATE_HOME/croft/serve or .../farm)"},
	{"repair", 0, NULL,
		"set damaged blobs aside and forget what depends on them; of an index that cannot be read make a new one "
		"(server stopped)"},
	{"json", 0, NULL, "as JSON"},
	{0},
};

const struct command command_fsck = {
	.name = "fsck",
	.arguments = "",
	.summary = "Read a whole store and check every digest and every record",
	.details = "Exit status 0: all is right, 1: not. Without --repair the server may go on\n"
		   "running: then blobs are checked, and what would change meanwhile is not.",
	.options = fsck_options,
	.run = fsck_run,
};

static int store_run(const struct options *options, struct croft_error *err)
{
	if (!options_arguments(options, 1, 1, err))
		return MISUSED;
	if (strcmp(options->argv[0], "stat")) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" is not stat", options->argv[0]);
		return MISUSED;
	}
	struct croft_store *store = open_store(options, READ, NULL, err);
	if (!store)
		return FAILED;
	struct croft_store_stat stat;
	croft_store_stat(store, &stat);
	croft_store_close(store);
	const struct {
		const char *name;
		uint64_t value;
	} values[] = {
		{"blobs", stat.blobs},
		{"bytes", stat.bytes},
		{"disk_bytes", stat.disk_bytes},
		{"budget_bytes", stat.budget_bytes},
		{"records_action", stat.records_action},
		{"records_asset", stat.records_asset},
		{"quarantined", stat.quarantined},
	};
	json_t *json = json_object();
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		json_object_set_new(json, values[i].name, json_integer((json_int_t)values[i].value));
		if (!options_given(options, "json"))
			printf("%-16s %" PRIu64 "\n", values[i].name, values[i].value);
	}
	if (options_given(options, "json"))
		return json_print(json, err) ? 0 : FAILED;
	json_decref(json);
	return 0;
}

static const struct option_spec store_options[] = {
	{"state", 0, "DIR", "of a serve, farm or agent (else $XDG_STATE_HOME/croft/serve or .../farm)"},
	{"json", 0, NULL, "as JSON"},
	{0},
};

const struct command command_store = {
	.name = "store",
	.arguments = "stat",
	.summary = "Count what a store on this machine holds",
	.details = "Of one in use: as it was about a second ago. disk_bytes are all its files, which the budget\n"
		   "is for; bytes are those of the blobs.",
	.options = store_options,
	.run = store_run,
};
