#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bazel 4.2 (Debian 12): remote execution over a root image, remote cache by gRPC and HTTP.
. "$(dirname "$0")/lib.sh"
wants bazel bazel-bootstrap
toolchain

# Offline stand-ins for two repositories that Bazel would download: all they do is name native rules.
mkdir "$folder/work"
cp -r "$here/bazel/." "$folder/work/"
cp -r "$here/bazel-repositories" "$folder/repositories"
cat >"$folder/work/.bazelrc" <<TEXT
common --override_repository=rules_cc=$folder/repositories/rules_cc
common --override_repository=rules_java=/usr/share/bazel/rules/java
common --override_repository=remote_coverage_tools=$folder/repositories/coverage
build --noshow_progress --color=no --jobs=4
TEXT
cd "$folder/work"

# bazel COMMAND ARGUMENT...: its output in $folder/bazel.log
bazel() {
    loopback bazel --output_user_root="$folder/bazel" --max_idle_secs=60 "$@" \
        >"$folder/bazel.log" 2>&1
}
trap 'status=$?; loopback bazel --output_user_root="$folder/bazel" shutdown >"$folder/shutdown" 2>&1; chmod -R u+w "$folder/bazel" || true; finish $status' EXIT

serve server
"$CROFT" import --name tools "$toolchain" >/dev/null
agent one --slots 2 --root-image tools
ready 1
farm=--remote_executor=grpc://$address

echo "remote execution: libraries, binaries, generated files, trees, tests"
bazel build $farm //...
has 'processes: [0-9]+ internal, [0-9]+ remote\.$' "$folder/bazel.log"
same "hello 42" "$(bazel-bin/app/app)"
same hello "$(cat bazel-bin/gen/made/link)"
[ -x bazel-bin/gen/made/tool ]
bazel test $farm //...
has 'Executed 3 out of 3 tests: 3 tests pass' "$folder/bazel.log"
has 'shard 2 of 3' bazel-testlogs/gen/sharded_test/shard_3_of_3/test.log
same undeclared "$(python3 -c 'import sys, zipfile
print(zipfile.ZipFile(sys.argv[1]).read("file").decode().strip())' \
    bazel-testlogs/gen/shell_test/test.outputs/outputs.zip)"

echo "a test that fails, and one that takes too long"
status=0
bazel test $farm //gen:failing_test || status=$?
same 3 "$status"
has 'this test fails' bazel-testlogs/gen/failing_test/test.log
status=0
bazel test $farm --test_timeout=2 //gen:slow_test || status=$?
same 3 "$status"
has 'TIMEOUT' "$folder/bazel.log"

echo "a clean rebuild is all hits"
bazel clean
bazel build $farm //...
has 'processes: [0-9]+ remote cache hit, [0-9]+ internal\.$' "$folder/bazel.log"
same "hello 42" "$(bazel-bin/app/app)"

echo "outputs stay where they are until they are wanted"
bazel clean
# (Symlinks in trees are beyond this Bazel then: //gen is left out.)
bazel build $farm --remote_download_minimal //app/...
[ ! -e bazel-bin/app/app ]
bazel build $farm --remote_download_toplevel //app
same "hello 42" "$(bazel-bin/app/app)"

echo "a server that is killed in mid-build"
bazel build $farm //gen:long &
build=$!
for _ in $(seq 300); do "$CROFT" status --json | grep '"running": 1' >/dev/null && break; sleep 0.1; done
crash
sleep 1
serve server
wait "$build"
same long "$(cat bazel-bin/gen/long.txt)"

echo "a store that lost everything"
crash
rm -rf "$folder/server"
serve server
"$CROFT" import --name tools "$toolchain" >/dev/null
ready 1
sed -i 's/a + b;/b + a;/' lib/sum.cc
sed -i 's/hello/greetings/' gen/in.txt
bazel build $farm //...
same "greetings 42" "$(bazel-bin/app/app)"

echo "remote cache by gRPC and by HTTP"
for cache in grpc://$address http://$plane; do
    sed -i "s/\(return .*\);/\1; \/* $RANDOM *\//" app/app_test.cc
    bazel clean
    bazel build --remote_cache="$cache" --spawn_strategy=local --genrule_strategy=local //app/...
    has ' (local|processwrapper-sandbox)' "$folder/bazel.log"
    bazel clean
    bazel build --remote_cache="$cache" --spawn_strategy=local --genrule_strategy=local //app/...
    has 'processes: [0-9]+ remote cache hit, [0-9]+ internal\.$' "$folder/bazel.log"
    same "greetings 42" "$(bazel-bin/app/app)"
done
