# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the tests of both Bazels, which set:
#   toolchain     the root that jobs run in
#   repositories  options, one a line, that name what Bazel would download
#   run_bazel     starts it; `inside` starts another program where it runs; `leave` is called at the end
#   newer         true for what only the newer one knows
mkdir -p "$folder/work"
cp -r "$here/bazel/." "$folder/work/"
cat >"$folder/work/.bazelrc" <<TEXT
common ${repositories//$'\n'--/$'\n'common --}
build --noshow_progress --color=no --jobs=4
TEXT
cd "$folder/work"

# bazel COMMAND ARGUMENT...: its output in $folder/bazel.log
bazel() {
    run_bazel --output_user_root="$folder/bazel" --max_idle_secs=60 "$@" >"$folder/bazel.log" 2>&1
}
bazel_pids() { ps -eo pid=,args= | grep -F -- "$folder/bazel" | grep '[b]azel(' | awk '{print $1}'; }
end() {
    local status=$?
    run_bazel --output_user_root="$folder/bazel" shutdown >"$folder/shutdown" 2>&1
    ! declare -F leave >/dev/null || leave
    chmod -R u+w "$folder/bazel" || true
    finish "$status"
}
trap end EXIT

# running COUNT: waits until so many jobs run.
running() {
    for _ in $(seq 600); do
        "$CROFT" status --json | grep "\"running\": $1" >/dev/null && return
        sleep 0.1
    done
    echo "there are not $1 running jobs" >&2
    tail "$folder/bazel.log" >&2
    return 1
}
jobs_done() {
    "$CROFT" status --json | python3 -c 'import json, sys; print(sum(a["jobs_done"] for a in json.load(sys.stdin)["agents"]))'
}
all_hits='processes: [0-9]+ remote cache hit, [0-9]+ internal\.$'

serve server --unfit-wait 2
"$CROFT" import --name tools "$toolchain" >/dev/null
agent one --slots 2 --root-image tools
ready 1
farm=--remote_executor=grpc://$address

echo "remote execution: libraries, binaries, generated files, trees, tests"
bazel build $farm //...
has 'processes: [0-9]+ internal, [0-9]+ remote\.$' "$folder/bazel.log"
same "hello 42" "$(inside bazel-bin/app/app)"
same hello "$(cat bazel-bin/gen/made/link)"
[ -x bazel-bin/gen/made/tool ]
zipped=
! $newer || zipped=--zip_undeclared_test_outputs
# shellcheck disable=SC2086
bazel test $farm $zipped //...
has 'Executed 3 out of 3 tests: 3 tests pass' "$folder/bazel.log"
has 'shard 2 of 3' bazel-testlogs/gen/sharded_test/shard_3_of_3/test.log
same undeclared "$(python3 -c 'import sys, zipfile
print(zipfile.ZipFile(sys.argv[1]).read("file").decode().strip())' \
    bazel-testlogs/gen/shell_test/test.outputs/outputs.zip)"

echo "a test that fails"
status=0
bazel test $farm //gen:failing_test || status=$?
same 3 "$status"
has 'this test fails' bazel-testlogs/gen/failing_test/test.log
echo "a failed test is run again, or is an answer to who asks for such"
# A failed test's test.xml is made by an action of its own, which the newer Bazel says is never to be cached.
own=0
! $newer || own=1
failed_again() { # JOBS EXECUTED OPTION...
    local before jobs=$1 executed=$2
    shift 2
    bazel clean
    before=$(jobs_done)
    status=0
    bazel test $farm "$@" //gen:failing_test || status=$?
    same 3 "$status"
    has "Executed $executed out of 1 test" "$folder/bazel.log"
    has 'this test fails' bazel-testlogs/gen/failing_test/test.log
    same "$jobs" "$(($(jobs_done) - before))"
}
failed_again $((1 + own)) 1
failed_again $own 0 --remote_exec_header=croft-failed-results=yes
has '\(cached\) FAILED' "$folder/bazel.log"

echo "a test that takes too long"
status=0
bazel test $farm --test_timeout=2 //gen:slow_test || status=$?
same 3 "$status"
has 'TIMEOUT' "$folder/bazel.log"

echo "a clean rebuild is all hits"
bazel clean
trees=
! $newer || trees="--experimental_remote_merkle_tree_cache --experimental_remote_merkle_tree_cache_size=10000"
# shellcheck disable=SC2086
bazel build $farm $trees //...
has "$all_hits" "$folder/bazel.log"
same "hello 42" "$(inside bazel-bin/app/app)"

echo "outputs stay where they are until they are wanted"
bazel clean
# (Symlinks in trees are beyond the older Bazel then: //gen is left out.)
bazel build $farm --remote_download_minimal //app/...
[ ! -e bazel-bin/app/app ]
bazel build $farm --remote_download_toplevel //app
same "hello 42" "$(inside bazel-bin/app/app)"

echo "platform properties choose the agent and its root image"
status=0
bazel build $farm //gen:where || status=$?
[ "$status" -ne 0 ]
has 'no agent offers.*pool=special' "$folder/bazel.log"
mkdir -p "$folder/extra/etc"
echo special >"$folder/extra/etc/where"
image=$("$CROFT" import --name special "$toolchain" "$folder/extra")
agent two --slots 1 --root-image special --property pool=special
special=$agent
ready 2
bazel build $farm //gen:where
same special "$(cat bazel-bin/gen/where.txt)"
bazel build $farm --remote_default_exec_properties="croft-root-image=$image" //gen:anywhere
same special "$(cat bazel-bin/gen/anywhere.txt)"
status=0
bazel build $farm --remote_default_exec_properties=croft-root-image=nowhere //gen:anywhere || status=$?
[ "$status" -ne 0 ]
has 'root image nowhere: the farm has no tree of this name' "$folder/bazel.log"
kill -TERM "$special"
wait "$special" || true

echo "the client, the server and an agent are killed in mid-build"
agent three --slots 1 --root-image tools
three=$agent
ready 2
bazel build $farm //gen:all_long &
build=$!
running 3
kill -KILL $(bazel_pids) 2>/dev/null || true
wait "$build" && { echo "the client was killed too late" >&2; exit 1; }
bazel build $farm //gen:all_long &
build=$!
running 3
crash
sleep 1
serve server
running 3
kill -KILL "$three"
wait "$three" 2>/dev/null || true
wait "$build" || { tail -n 40 "$folder/bazel.log" >&2; exit 1; }
same "long 9" "$(cat bazel-bin/gen/long9.txt)"
agent three --slots 1 --root-image tools
ready 2

echo "a store that lost everything"
crash
rm -rf "$folder/server"
serve server
"$CROFT" import --name tools "$toolchain" >/dev/null
ready 2
sed -i 's/a + b;/b + a;/' lib/sum.cc
sed -i 's/hello/greetings/' gen/in.txt
# Of the newer, what was left on the farm and is gone has to be built anew: it does so when told to try again.
again=
! $newer || again=--experimental_remote_cache_eviction_retries=5
# shellcheck disable=SC2086
bazel build $farm $again //...
same "greetings 42" "$(inside bazel-bin/app/app)"

echo "remote cache by gRPC, compressed where the client can, and by HTTP"
caches=("--remote_cache=grpc://$address" "--remote_cache=http://$plane")
! $newer || caches+=("--remote_cache=grpc://$address --remote_cache_compression")
for cache in "${caches[@]}"; do
    # shellcheck disable=SC2206
    local_build=(build $cache --spawn_strategy=local --genrule_strategy=local)
    sed -i "s/\(return .*\);/\1; \/* $RANDOM *\//" app/app_test.cc
    bazel clean
    bazel "${local_build[@]}" //app/...
    has ' (local|processwrapper-sandbox)' "$folder/bazel.log"
    bazel clean
    bazel "${local_build[@]}" //app/...
    has "$all_hits" "$folder/bazel.log"
    same "greetings 42" "$(inside bazel-bin/app/app)"
done
