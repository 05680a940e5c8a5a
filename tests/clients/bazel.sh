#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bazel 4.2 (Debian 12): what bazel-cases.sh does with it.
. "$(dirname "$0")/lib.sh"
wants bazel bazel-bootstrap
toolchain

# Offline stand-ins for two repositories that Bazel would download: all they do is name native rules.
cp -r "$here/bazel-repositories" "$folder/repositories"
repositories="--override_repository=rules_cc=$folder/repositories/rules_cc
--override_repository=rules_java=/usr/share/bazel/rules/java
--override_repository=remote_coverage_tools=$folder/repositories/coverage"
inside() { "$@"; }
run_bazel() { loopback bazel "$@"; }
newer=false
. "$here/bazel-cases.sh"
