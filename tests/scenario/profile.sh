#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What jobs read is counted, warm or cold, and fetched ahead for the next of their kind.
. "$(dirname "$0")/lib.sh"

mkdir -p "$folder/root/bin" "$folder/root/data"
cp /bin/busybox "$folder/root/bin/sh"; cp /bin/busybox "$folder/root/bin/cat"
for i in $(seq 20); do echo "file $i" >"$folder/root/data/$i"; done
"$CROFT" farm -n 2 --slots 1 --state "$folder/farm" --listen 127.0.0.1:0 >"$folder/farm.out" 2>"$folder/farm.log" &
farm=$!
pids+=("$farm")
for _ in $(seq 300); do grep -qs '^farm at' "$folder/farm.out" && break; sleep 0.1; done
CROFT_SERVER=$(sed -n 's/^farm at \([^,]*\),.*/\1/p' "$folder/farm.out")
export CROFT_SERVER
"$CROFT" import --name root "$folder/root" >/dev/null

# run COMMAND: its account of inputs as "NAME VALUE" lines in $folder/account.
run() {
    timeout 120 "$CROFT" run --json --no-cache -d root -- sh -c "$1" >"$folder/run.json" 2>"$folder/run.err"
    python3 -c 'import json,sys
for name, value in json.load(open(sys.argv[1]))["inputs"].items(): print(name, value)' \
        "$folder/run.json" >"$folder/account"
}
count() { sed -n "s/^$1 //p" "$folder/account"; }
busybox=$(stat -c %s /bin/busybox)

echo "what a job opens is counted, and what is warm as well"
run 'cat /data/3 /data/7'
same 22 "$(count files)"
same 3 "$(count touched_files)"
same $((busybox + 14)) "$(count touched_bytes)"
run 'cat /data/3 /data/7 /data/3; test -e /data/4'
same 0 "$(count fetched_bytes)"
same 3 "$(count touched_files)"

echo "another agent fetches ahead what jobs of this kind read, also after the server was restarted"
children() { ps -o pid=,args= --ppid "$farm" | grep "croft $1 " | awk '{print $1}'; }
ready() {
    for _ in $(seq 300); do
        [ "$("$CROFT" agents 2>/dev/null | grep -c ' ready ')" -eq "$1" ] && return
        sleep 0.1
    done
    echo "there are no $1 ready agents" >&2
    return 1
}
used=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["agent"])' "$folder/run.json")
old=$(children serve)
kill -TERM "$old"
for _ in $(seq 300); do kill -0 "$old" 2>/dev/null || break; sleep 0.1; done
ready 2
"$CROFT" agents drain "$used" >/dev/null
run 'cat /data/3 /data/7'
same 3 "$(count prefetched_files)"
same $((busybox + 14)) "$(count prefetched_bytes)"
same 0 "$(count fetched_files)"
same 0 "$(count wasted_bytes)"
