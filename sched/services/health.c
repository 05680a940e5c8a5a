/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/internal.h"

#include "grpc/health/v1/health.pb-c.h"

#include "proto/base/cleanup.h"

/* Health.Watch calls that are open. */
struct watcher {
	struct watcher *next, **place;
	struct watchers *watchers;
	struct croft_call *call;
};

struct watchers {
	pthread_mutex_t lock; /* guards: first, stopping */
	struct watcher *first;
	bool stopping;
};

struct watchers *watchers_create(void)
{
	struct watchers *watchers = croft_zalloc(sizeof(*watchers));
	pthread_mutex_init(&watchers->lock, NULL);
	return watchers;
}

void watchers_destroy(struct watchers *watchers)
{
	if (!watchers)
		return;
	pthread_mutex_destroy(&watchers->lock);
	free(watchers);
}

static void post(struct croft_call *call, Health__HealthCheckResponse__ServingStatus status)
{
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	response.status = status;
	croft_call_post(call, &response.base);
}

void watchers_stop(struct watchers *watchers)
{
	struct croft_error gone = CROFT_ERROR_INIT;
	croft_error_set(&gone, CROFT_UNAVAILABLE, "the server is shutting down");
	CROFT_LOCKED(&watchers->lock);
	watchers->stopping = true;
	for (struct watcher *at = watchers->first; at; at = at->next) {
		post(at->call, HEALTH__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING);
		croft_call_finish(at->call, &gone);
	}
}

static bool is_served(const char *service)
{
	static const char *const names[] = {"", "build.bazel.remote.execution.v2.Capabilities",
		"build.bazel.remote.execution.v2.ContentAddressableStorage",
		"build.bazel.remote.execution.v2.ActionCache", "google.bytestream.ByteStream",
		"build.bazel.remote.asset.v1.Fetch", "build.bazel.remote.asset.v1.Push",
		"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(service, names[i]) == 0)
			return true;
	return false;
}

static bool is_executing(const struct croft_services *services, const char *service)
{
	return services->sched &&
		(strcmp(service, "build.bazel.remote.execution.v2.Execution") == 0 ||
			strcmp(service, "google.longrunning.Operations") == 0);
}

static bool check(struct croft_call *call, void *user, struct croft_error *err)
{
	const Health__HealthCheckRequest *request = croft_call_request(call);
	Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
	if (!is_served(request->service) && !is_executing(user, request->service))
		return croft_error_set(
			err, CROFT_NOT_FOUND, "no service '%.200s' is known here", request->service);
	response.status = HEALTH__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	return croft_call_write(call, &response.base, err);
}

static void watch_closed(void *user)
{
	struct watcher *watcher = user;
	pthread_mutex_lock(&watcher->watchers->lock);
	*watcher->place = watcher->next;
	if (watcher->next)
		watcher->next->place = watcher->place;
	pthread_mutex_unlock(&watcher->watchers->lock);
	croft_call_unref(watcher->call);
	free(watcher);
}

static bool watch(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct watchers *watchers = services->watchers;
	const Health__HealthCheckRequest *request = croft_call_request(call);
	bool known = is_served(request->service) || is_executing(services, request->service);
	struct watcher *watcher = croft_zalloc(sizeof(*watcher));
	watcher->watchers = watchers;
	watcher->call = croft_call_ref(call);
	pthread_mutex_lock(&watchers->lock);
	bool stopping = watchers->stopping;
	if (!stopping) {
		watcher->next = watchers->first;
		watcher->place = &watchers->first;
		if (watcher->next)
			watcher->next->place = &watcher->next;
		watchers->first = watcher;
		/* Under the lock, so that whoever stops the watchers finds none that is not parked. */
		croft_call_park(call, &(struct croft_parked){.on_closed = watch_closed, .user = watcher});
		/* An unknown service may come to be: the specification has such a watch wait. */
		post(call, known ? HEALTH__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
						 : HEALTH__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
	}
	pthread_mutex_unlock(&watchers->lock);
	if (!stopping)
		return true;
	croft_call_unref(call);
	free(watcher);
	return croft_error_set(err, CROFT_UNAVAILABLE, "the server is shutting down");
}

static const struct croft_rpc_method methods[] = {
	{"/grpc.health.v1.Health/Check", CROFT_RPC_UNARY, &health__health_check_request__descriptor,
		&health__health_check_response__descriptor, check, true},
	{"/grpc.health.v1.Health/Watch", CROFT_RPC_SERVER_STREAM,
		&health__health_check_request__descriptor, &health__health_check_response__descriptor,
		watch, false},
};

void serve_health(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
