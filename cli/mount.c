/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A tree of the farm, or all of them, as a read-only directory here: own cache, own fetcher, no agent. */
#include "fs/mount.h"

#include "cli/commands.h"
#include "cli/farm_status.h"
#include "cli/mounted.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "cli/process.h"
#include "cli/state.h"
#include "cli/views.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* The variable that holds the key which the plane asks for, if it does. */
#define PLANE_KEY "CROFT_PLANE_KEY"

struct mounting {
	const struct options *options;
	struct croft_arena *arena;
	const char *ref; /* NULL: all trees, by digest */
	struct croft_digest root; /* that of the ref */
	const char *plane, *key; /* the farm's blob plane; its key, or NULL */
	const char *target;
	const char *cache; /* directory of this mount's store */
	int cache_lock;
	uint64_t cache_bytes;
	struct client client; /* for the views, without a ref */

	pthread_t asker;
	bool asks;
	struct croft_arena *asked; /* what the farm said; the asker's until it has told */
	pthread_mutex_t lock;      /* guards: all below, and until then root, plane and key */
	pthread_cond_t change;
	bool told, answered;
	struct croft_error refusal;
};

/* Of a digest nobody has said yet that the farm has a tree by it; better told now than as input/output errors. */
static bool is_there(const struct mounting *mounting, struct client *client, struct croft_error *err)
{
	struct ref ref;
	struct croft_tree_source source = croft_remote_tree_source(client->remote);
	const Reapi__NodeProperties *properties;
	return !ref_parse(mounting->ref, &ref, NULL) || !ref.by_digest ||
		croft_tree_root_properties(&source, &mounting->root, mounting->asked, &properties, err) ||
		croft_error_wrap(err, "\"%s\" is no tree of the farm", mounting->ref);
}

/* What only the farm knows, as long as it is not given. */
static bool ask_farm(struct mounting *mounting, struct client *client, struct croft_error *err)
{
	struct croft_arena *arena = mounting->asked;
	if (mounting->ref && !(ref_directory(client, mounting->ref, &mounting->root, err) && is_there(mounting, client, err)))
		return false;
	if (mounting->plane)
		return true;
	const Farm__FarmStatus *status = farm_status(client, arena, err);
	if (!status)
		return false;
	mounting->plane = plane_address(client->server, status->blob_url, arena, err);
	mounting->key = status->blob_key;
	return mounting->plane != NULL;
}

/* Cache and farm are asked for at the same time: a thread asks, tells, and lets go of its connection, of which nothing
 * is needed later. */
static void *ask(void *user)
{
	struct mounting *mounting = user;
	struct client client;
	struct croft_error err = CROFT_ERROR_INIT;
	bool open = client_open(&client, mounting->options, &err);
	bool ok = open && ask_farm(mounting, &client, &err);
	pthread_mutex_lock(&mounting->lock);
	mounting->told = true;
	mounting->answered = ok;
	mounting->refusal = err;
	pthread_cond_signal(&mounting->change);
	pthread_mutex_unlock(&mounting->lock);
	if (open)
		client_close(&client);
	return NULL;
}

static bool start_asking(struct mounting *mounting, struct croft_error *err)
{
	struct ref ref = {0};
	mounting->plane = options_value(mounting->options, "plane");
	mounting->key = getenv(PLANE_KEY);
	if (mounting->ref && !ref_parse(mounting->ref, &ref, err))
		return false;
	mounting->root = ref.digest;
	bool known = mounting->plane && (!mounting->ref || (ref.by_digest && !ref.has_path));
	if (known) {
		mounting->told = mounting->answered = true;
		return true;
	}
	int result = pthread_create(&mounting->asker, NULL, ask, mounting);
	mounting->asks = result == 0;
	return mounting->asks || croft_error_errno(err, result, "starting a thread");
}

static bool hear_answer(struct mounting *mounting, struct croft_error *err)
{
	CROFT_LOCKED(&mounting->lock);
	while (!mounting->told)
		pthread_cond_wait(&mounting->change, &mounting->lock);
	if (!mounting->answered)
		*err = mounting->refusal;
	return mounting->answered;
}

static void end_asking(struct mounting *mounting)
{
	if (mounting->asks)
		pthread_join(mounting->asker, NULL);
	mounting->asks = false;
}

/* A store has one writer: each mount at a time takes a cache that is free, so that what an earlier
 * mount fetched is found again. */
static bool take_cache(struct mounting *mounting, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *state = state_directory(mounting->options, "mount-cache", err);
	for (unsigned i = 0; state && i < 1000; i++) {
		char *path = croft_arena_printf(mounting->arena, "%s/%u", state, i);
		if (!croft_make_directories(path, err))
			return false;
		int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return croft_error_errno(err, errno, "opening %s", path);
		if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
			mounting->cache = path;
			mounting->cache_lock = fd;
			return true;
		}
		close(fd);
	}
	return state && croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
				"%s: a thousand caches are in use", state);
}

static struct croft_mount *mounted; /* for the signal handler */

static void on_signal(int number)
{
	croft_mount_stop(mounted);
}

static void catch_signals(struct croft_mount *mount)
{
	mounted = mount;
	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

/* Who waits for the end of our output waits for the command, not for the mount: from here on errors
 * go to a log beside the cache. */
static bool leave_caller(const struct mounting *mounting, int ready, struct croft_error *err)
{
	const char *log = croft_arena_printf(mounting->arena, "%s.log", mounting->cache);
	int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", log);
	bool ok = dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0 && chdir("/") == 0;
	close(fd);
	if (!ok)
		return croft_error_errno(err, errno, "going to the background");
	ok = croft_write_all(ready, "", 1, "the waiting process", err);
	close(ready);
	return ok;
}

/* Serves to the end; `ready` (-1: nobody waits) is written to once the tree can be seen. */
static bool serve(struct mounting *mounting, int ready, struct croft_error *err)
{
	struct croft_store_config store_config = {
		.path = mounting->cache, .budget_bytes = mounting->cache_bytes, .chunked = true};
	struct croft_store *store = croft_store_open(&store_config, err);
	if (!hear_answer(mounting, err) || !store) { /* what the farm says goes before */
		croft_store_close(store);
		return false;
	}
	const struct croft_tls tls = {
		.certificate_file = options_value(mounting->options, "tls-cert"),
		.key_file = options_value(mounting->options, "tls-key"),
		.authority_file = options_value(mounting->options, "tls-ca"),
	};
	struct croft_fetcher_config fetch_config = {
		.store = store, .tls = &tls, .origin = mounting->plane, .key = mounting->key,
		.instance = instance_of(mounting->options)};
	struct croft_fetcher *fetcher = croft_fetcher_start(&fetch_config, err);
	struct croft_mount *mount = NULL;
	struct croft_mount_view views[VIEWS];
	if (mounting->client.remote)
		views_init(views, &mounting->client);
	if (fetcher) {
		struct croft_mount_config config = {.mountpoint = mounting->target,
			.store = store,
			.fetcher = fetcher,
			.root = mounting->ref ? &mounting->root : NULL,
			.views = views,
			.view_count = mounting->client.remote ? VIEWS : 0,
			.allow_other = getuid() == 0,
			.uid = getuid(),
			.gid = getgid()};
		mount = croft_mount_create(&config, err);
	}
	bool ok = mount != NULL;
	if (ok) {
		catch_signals(mount);
		struct mounted_line *line = ready < 0 ? mounted_line_start(fetcher) : NULL;
		ok = ready < 0 || leave_caller(mounting, ready, err);
		ok = ok && croft_mount_run(mount, err);
		mounted_line_stop(line);
		croft_mount_destroy(mount);
	}
	croft_fetcher_stop(fetcher);
	croft_store_close(store);
	return ok;
}

static bool serve_here(struct mounting *mounting, int ready, struct croft_error *err)
{
	croft_log_setup("mount", CROFT_LOG_WARNING);
	bool ok = take_cache(mounting, err) &&
		(mounting->ref || client_make(&mounting->client, mounting->options, err)) &&
		serve(mounting, ready, err);
	if (mounting->client.remote)
		client_close(&mounting->client);
	if (mounting->cache_lock >= 0)
		close(mounting->cache_lock);
	return ok;
}

/* In the background: another process of this program serves, told by its command line what the farm
 * said. This one leaves once the tree can be seen, or with the other's error (on standard error). */
static bool serve_behind(const struct mounting *mounting, struct croft_error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return croft_error_errno(err, errno, "making a pipe");
	char digest[CROFT_DIGEST_TEXT];
	croft_digest_format(&mounting->root, '-', digest);
	static const char *const passed[] = {"state", "cache", "server", "instance", "tls-cert", "tls-key", "tls-ca"};
	enum { FIXED = 7, PASSED = sizeof(passed) / sizeof(*passed) };
	char *arguments[FIXED + PASSED + 3] = {"croft", "mount", "--foreground", "--ready-fd", "3", "--plane",
		(char *)mounting->plane};
	size_t count = FIXED;
	if (mounting->key && *mounting->key)
		setenv(PLANE_KEY, mounting->key, 1);
	for (size_t i = 0; i < PASSED; i++) {
		const char *value = options_value(mounting->options, passed[i]);
		if (value)
			arguments[count++] = croft_arena_printf(mounting->arena, "--%s=%s", passed[i], value);
	}
	if (mounting->ref)
		arguments[count++] = digest;
	arguments[count] = (char *)mounting->target;
	struct spawn spawn = {
		.arguments = arguments, .keep_fd = ends[1], .keep_as = 3, .new_session = true};
	pid_t child = spawn_self(&spawn, err);
	close(ends[1]);
	char byte;
	ssize_t size = child > 0 ? read(ends[0], &byte, 1) : 0;
	close(ends[0]);
	if (child < 0 || size == 1)
		return child > 0;
	waitpid(child, NULL, 0);
	return croft_error_set(err, CROFT_FAILED_PRECONDITION, "%s could not be mounted",
		mounting->ref ? mounting->ref : "the farm");
}

static int tell_status(const struct options *options, struct croft_error *err)
{
	if (!options_arguments(options, 1, 1, err))
		return MISUSED;
	return mounted_print(options->argv[0], options_given(options, "json"), err) ? 0 : FAILED;
}

static int run(const struct options *options, struct croft_error *err)
{
	if (options_given(options, "status"))
		return tell_status(options, err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	CROFT_CLEANUP_ARENA struct croft_arena *asked = croft_arena_create();
	struct mounting mounting = {.options = options, .arena = arena, .cache_lock = -1, .asked = asked,
		.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};
	uint64_t ready = UINT32_MAX; /* no descriptor */
	if (!options_arguments(options, 1, 2, err) ||
		!options_number(options, "ready-fd", 3, INT32_MAX, &ready, err) ||
		!options_size(options, "cache", &mounting.cache_bytes, err))
		return MISUSED;
	const char *place = options->argv[options->argc - 1];
	mounting.ref = options->argc == 2 ? options->argv[0] : NULL;
	char *target = realpath(place, NULL);
	if (!target) {
		croft_error_errno(err, errno, "mounting on %s", place);
		return FAILED;
	}
	mounting.target = croft_arena_strdup(arena, target);
	free(target);
	struct stat stat_of_target;
	if (stat(mounting.target, &stat_of_target) == 0 && !S_ISDIR(stat_of_target.st_mode)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "mounting on %s: it is no directory", place);
		return FAILED;
	}
	if (!start_asking(&mounting, err))
		return FAILED;
	bool ok;
	if (options_given(options, "foreground")) {
		ok = serve_here(&mounting, (int)ready, err);
		end_asking(&mounting);
	} else {
		ok = hear_answer(&mounting, err);
		end_asking(&mounting);
		ok = ok && serve_behind(&mounting, err);
	}
	return ok ? 0 : FAILED;
}

static const struct option_spec mount_options[] = {
	{"foreground", 'f', NULL, "stay until unmounted or interrupted"},
	{"status", 0, NULL, "what the mount at DIR has fetched and is fetching"},
	{"json", 0, NULL, "the same as JSON"},
	{"plane", 0, "HOST:PORT", "the farm's blob plane (https://HOST:PORT with TLS), its key in"
		" $CROFT_PLANE_KEY (else the server is asked)"},
	{"cache", 0, "SIZE", "most bytes that the cache may hold"},
	{"state", 0, "DIR", "where caches are (else $XDG_STATE_HOME/croft/mount-cache)"},
	{"ready-fd", 0, "FD", NULL},
	{0},
};

const struct command command_mount = {
	.name = "mount",
	.arguments = "[REF[:PATH]] DIR",
	.summary = "Show a tree of the farm, or all of them, as a read-only directory",
	.details = "Without a REF the whole farm is there: trees by name in DIR/names (what `croft ls` lists; the\n"
		   "'/' of a name makes directories), the jobs that failed and are remembered in DIR/failed, by\n"
		   "operation (inputs, outputs, stdout, stderr), and, without being listed, any job by its Action\n"
		   "at DIR/actions/HASH-SIZE and any tree at DIR/by-digest/HASH-SIZE. What names and jobs are\n"
		   "changes within a second; while the server cannot be reached it is \"Host is down\" after 10 s.\n"
		   "Nothing is moved before it is read, and what was read stays in a cache for the next mount.\n"
		   "With --foreground a terminal shows what is fetched; `croft mount --status DIR` tells it of any\n"
		   "mount, an agent's too.\n"
		   "`umount DIR` or `fusermount3 -u DIR` ends it.",
	.options = mount_options,
	.client = true,
	.run = run,
};
