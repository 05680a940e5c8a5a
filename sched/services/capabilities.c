/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/internal.h"

#include "fs/chunker.h"

/* Every priority that a client can express is taken. */
static Reapi__PriorityCapabilities__PriorityRange all_priorities = {
	.base = PROTOBUF_C_MESSAGE_INIT(&reapi__priority_capabilities__priority_range__descriptor),
	.min_priority = INT32_MIN,
	.max_priority = INT32_MAX,
};
static Reapi__PriorityCapabilities__PriorityRange *priority_ranges[] = {&all_priorities};

static Reapi__DigestFunction__Value functions[] = {REAPI__DIGEST_FUNCTION__VALUE__SHA256};
static Reapi__Compressor__Value compressors[] = {REAPI__COMPRESSOR__VALUE__ZSTD};
static char *node_properties[] = {"mtime", "unix_mode", "SubtreeReadOnly"};

static Reapi__FastCdc2020Params chunking = {
	.base = PROTOBUF_C_MESSAGE_INIT(&reapi__fast_cdc2020_params__descriptor),
	.avg_chunk_size_bytes = CROFT_CHUNK_AVERAGE,
};

static void fill_cache(Reapi__CacheCapabilities *cache,
	Reapi__ActionCacheUpdateCapabilities *update, Reapi__PriorityCapabilities *priorities)
{
	cache->n_digest_functions = 1;
	cache->digest_functions = functions;
	update->update_enabled = true;
	cache->action_cache_update_capabilities = update;
	cache->cache_priority_capabilities = priorities;
	cache->max_batch_total_size_bytes = BATCH_BYTES;
	cache->symlink_absolute_path_strategy = REAPI__SYMLINK_ABSOLUTE_PATH_STRATEGY__VALUE__ALLOWED;
	cache->n_supported_compressors = 1;
	cache->supported_compressors = compressors;
	cache->n_supported_batch_update_compressors = 1;
	cache->supported_batch_update_compressors = compressors;
	cache->split_blob_support = cache->splice_blob_support = true;
	cache->fast_cdc_2020_params = &chunking;
}

static void fill_execution(Reapi__ExecutionCapabilities *execution,
	Reapi__PriorityCapabilities *priorities)
{
	execution->digest_function = REAPI__DIGEST_FUNCTION__VALUE__SHA256;
	execution->n_digest_functions = 1;
	execution->digest_functions = functions;
	execution->exec_enabled = true;
	execution->execution_priority_capabilities = priorities;
	execution->n_supported_node_properties = sizeof(node_properties) / sizeof(node_properties[0]);
	execution->supported_node_properties = node_properties;
}

static bool get_capabilities(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	Reapi__ServerCapabilities response = REAPI__SERVER_CAPABILITIES__INIT;
	Reapi__CacheCapabilities cache = REAPI__CACHE_CAPABILITIES__INIT;
	Reapi__ExecutionCapabilities execution = REAPI__EXECUTION_CAPABILITIES__INIT;
	Reapi__ActionCacheUpdateCapabilities update = REAPI__ACTION_CACHE_UPDATE_CAPABILITIES__INIT;
	Reapi__PriorityCapabilities priorities = REAPI__PRIORITY_CAPABILITIES__INIT;
	/* Older Bazel versions refuse a lowest version above 2.0. */
	Semver__SemVer low = SEMVER__SEM_VER__INIT, high = SEMVER__SEM_VER__INIT;
	low.major = high.major = 2;
	high.minor = 12;
	priorities.n_priorities = 1;
	priorities.priorities = priority_ranges;
	fill_cache(&cache, &update, &priorities);
	response.cache_capabilities = &cache;
	response.low_api_version = &low;
	response.high_api_version = &high;
	if (services->sched) {
		fill_execution(&execution, &priorities);
		response.execution_capabilities = &execution;
	}
	return croft_call_write(call, &response.base, err);
}

static const struct croft_rpc_method methods[] = {
	{"/build.bazel.remote.execution.v2.Capabilities/GetCapabilities", CROFT_RPC_UNARY,
		&reapi__get_capabilities_request__descriptor, &reapi__server_capabilities__descriptor,
		get_capabilities, true},
};

void serve_capabilities(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
