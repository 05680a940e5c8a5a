#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Jobs that call the farm themselves, by a socket in their root (remoteApisSocketPath).
. "$(dirname "$0")/lib.sh"

# A root with croft in it, and what croft is linked with.
root=$folder/root
mkdir -p "$root/bin"
cp /bin/busybox "$root/bin/sh"
cp "$CROFT" "$root/bin/croft"
ldd "$CROFT" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done

serve server
"$CROFT" import --name root "$root" >/dev/null
agent() { # ARGUMENT...
    "$CROFT" agent --state "$folder/agent" --name one --slots 2 "$@" >>"$folder/agent.log" 2>&1 &
    agent=$!
    pids+=("$agent")
    for _ in $(seq 300); do "$CROFT" agents | grep ' ready ' >/dev/null && return; sleep 0.1; done
    return 1
}
agent
# What sanitizers want of a sandbox, where croft is built with them.
run() { "$CROFT" run -q -d root -e ASAN_OPTIONS=detect_leaks=0 -e TSAN_OPTIONS=report_bugs=0 -p croft-address-randomization=off "$@"; }

echo "only where the agent allows it"
fails 125 "--allow-nested" run -p remoteApisSocketPath=run/farm.sock -- sh -c true
kill -TERM "$agent"
wait "$agent"
agent --allow-nested
fails 125 "no path in the job's root" run -p remoteApisSocketPath=../../farm.sock -- sh -c true

echo "a job asks the farm, and runs another job on it"
same one "$(run -p remoteApisSocketPath=run/farm.sock -- /bin/croft agents --server unix:/run/farm.sock |
    grep -o '^one')"
same inner "$(run -p remoteApisSocketPath=/run/farm.sock -- \
    /bin/croft run -q --server unix:/run/farm.sock -d root -- sh -c 'echo inner')"

echo "much goes both ways"
head -c 20000000 /dev/urandom >"$folder/large"
mkdir "$folder/input"
mv "$folder/large" "$folder/input/"
same "$(sha256sum <"$folder/input/large")" "$(run -p remoteApisSocketPath=run/farm.sock -i "$folder/input:in" -o out \
    -- sh -c '/bin/croft import --server unix:/run/farm.sock --name there /in >/dev/null &&
        /bin/croft cat --server unix:/run/farm.sock there:large' | sha256sum)"

echo "nothing of it stays"
[ -z "$(find "$folder/agent/jobs" -name '*.socket')" ]
for _ in $(seq 100); do [ "$(ls "/proc/$agent/task" | wc -l)" -lt 60 ] && break; sleep 0.1; done
[ "$(ls "/proc/$agent/task" | wc -l)" -lt 60 ]
