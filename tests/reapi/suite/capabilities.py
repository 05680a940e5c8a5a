# SPDX-License-Identifier: LGPL-2.1-or-later
from .requirements import must, sane
from .server import check


def version(v):
    return (v.major, v.minor, v.patch)


@sane("GetCapabilities answers, with cache capabilities where there is a cache.")
def answers(s):
    check(s.caps.HasField("cache_capabilities") or s.caps.HasField("execution_capabilities"),
          "cache_capabilities or execution_capabilities", s.caps)


@must("The server returns no UNKNOWN digest function, and at least one that can be used.")
def digest_functions_are_known(s):
    cache = s.caps.cache_capabilities
    check(cache.digest_functions, "at least one digest function")
    check(0 not in cache.digest_functions, "no UNKNOWN among the digest functions")


@sane("The suite (and most clients) need SHA-256.")
def sha256_is_supported(s):
    check(1 in s.caps.cache_capabilities.digest_functions, "SHA256 among digest_functions",
          list(s.caps.cache_capabilities.digest_functions))


@sane("The versions are ordered: deprecated, low, high; and of major version 2.")
def versions_are_ordered(s):
    check(s.caps.HasField("low_api_version") and s.caps.HasField("high_api_version"),
          "low_api_version and high_api_version", s.caps)
    low, high = version(s.caps.low_api_version), version(s.caps.high_api_version)
    check(low <= high, f"low {low} <= high {high}")
    check(low[0] <= 2 <= high[0], f"version 2 between {low} and {high}")
    if s.caps.HasField("deprecated_api_version"):
        check(version(s.caps.deprecated_api_version) <= low, "deprecated <= low")


@must("With execution enabled, its digest function is one that is known.")
def execution_digest_function_is_known(s):
    execution = s.caps.execution_capabilities
    s.need(execution.exec_enabled, "execution is not enabled")
    check(execution.digest_function != 0 or execution.digest_functions,
          "a digest function for execution")
    check(0 not in execution.digest_functions, "no UNKNOWN among the digest functions")


@must("The list of digest functions for execution, where there is one, has the one that is named alone.")
def execution_digest_functions_agree(s):
    execution = s.caps.execution_capabilities
    s.need(execution.exec_enabled, "execution is not enabled")
    s.need(execution.digest_functions, "there is no list, which is allowed")
    check(execution.digest_function in execution.digest_functions, "digest_function among digest_functions",
          (execution.digest_function, list(execution.digest_functions)))


@must("The strategy for absolute symlinks is not UNKNOWN, which is no valid value.")
def symlink_strategy_is_known(s):
    check(s.caps.cache_capabilities.symlink_absolute_path_strategy in (1, 2),
          "DISALLOWED (1) or ALLOWED (2)",
          s.caps.cache_capabilities.symlink_absolute_path_strategy)


@sane("Priority ranges are not empty.")
def priority_ranges_are_ordered(s):
    for capabilities in (s.caps.cache_capabilities.cache_priority_capabilities,
                         s.caps.execution_capabilities.execution_priority_capabilities):
        for one in capabilities.priorities:
            check(one.min_priority <= one.max_priority, "min_priority <= max_priority", one)


@sane("Sizes are not negative.")
def limits_are_not_negative(s):
    cache = s.caps.cache_capabilities
    check(cache.max_batch_total_size_bytes >= 0, "max_batch_total_size_bytes >= 0")
    check(cache.max_cas_blob_size_bytes >= 0, "max_cas_blob_size_bytes >= 0")


@must("Chunking functions are only advertised by servers that split or splice.")
def chunking_parameters_go_with_support(s):
    cache = s.caps.cache_capabilities
    if cache.HasField("fast_cdc_2020_params"):
        check(cache.split_blob_support or cache.splice_blob_support,
              "split_blob_support or splice_blob_support beside fast_cdc_2020_params")
        check(cache.fast_cdc_2020_params.avg_chunk_size_bytes > 0, "avg_chunk_size_bytes > 0")
