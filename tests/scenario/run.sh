#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# croft run, as people meet it: output, exit status, inputs, outputs, the cache, Ctrl-C, a server that
# is killed while a job runs.
. "$(dirname "$0")/lib.sh"

root=$folder/root
busybox_root "$root"
mkdir -p "$folder/src"
echo "hello from here" >"$folder/src/greeting"

serve server --unfit-wait 1
"$CROFT" import --name root "$root" >/dev/null
"$CROFT" agent --state "$folder/agent" --name one --slots 2 >>"$folder/agent.log" 2>&1 &
agent=$!
pids+=("$agent")
for _ in $(seq 300); do
    "$CROFT" agents | grep ' ready ' >/dev/null && break
    kill -0 "$agent" || { echo "the agent ended at once" >&2; exit 1; }
    sleep 0.1
done

run() { "$CROFT" run -q -d root "$@"; }

echo "output and exit status are the job's"
same "out" "$(run -- sh -c 'echo out; echo err >&2' 2>"$folder/stderr")"
same "err" "$(cat "$folder/stderr")"
fails 7 "" run -- sh -c 'exit 7'
fails 137 "" run -- sh -c 'kill -KILL $$'
fails 127 "" run -- nothing-of-that-name
fails 125 "root image nowhere: the farm has no tree of this name" "$CROFT" run -q -p croft-root-image=nowhere -- true
none=$(printf '%064d-77' 1)
fails 125 "root image $none: the farm has no tree of this digest" "$CROFT" run -q -p "croft-root-image=$none" -- true
fails 125 "start it with --root-image, or name one" "$CROFT" run -q -p croft-root=image -- true
fails 127 "this agent has no root image: start it with --root-image" "$CROFT" run -q -- nothing-of-that-name
fails 125 "neither a digest nor a name" "$CROFT" run -d nothing -- true
fails 125 "leads out" run -o ../x -- true

echo "much output comes whole"
run -- sh -c 'seq 300000' >"$folder/stdout"
seq 300000 | cmp - "$folder/stdout"

echo "inputs go where they should, outputs come back"
same "hello from here" "$(run -i "$folder/src:in/it" -w in/it -- cat greeting)"
run -i "$folder/src:src" -w src -o made -x made="$folder/made" -x /tmp/one="$folder/one" -s made=made -- \
    sh -c 'mkdir -p made/d; cp greeting made/d/; ln -s d made/l; echo x >made/run; chmod +x made/run
           echo 1 >/tmp/one'
same "hello from here" "$(cat "$folder/made/d/greeting")"
same d "$(readlink "$folder/made/l")"
[ -x "$folder/made/run" ]
same 1 "$(cat "$folder/one")"
same "hello from here" "$("$CROFT" cat made:l/greeting)"
same "hello from here" "$(run -d made:opt/made -- cat /opt/made/d/greeting)"
fails 125 "left nothing" run -x absent="$folder/absent" -- true
fails 125 "no agent offers what the job's platform asks for: pool=none, size=9; none names" run -p pool=none -p size=9 -- true
fails 125 "there is OSFamily=linux" run -p OSFamily=other -- true
fails 125 "contradict" "$CROFT" run -d root -i "$folder/src:bin/sh" -- true
same "X=1 Y=b c" "$(run -e X=1 -e Y='b c' -- sh -c 'echo X=$X Y=$Y')"

echo "a job that failed is told what its sandbox denied it"
fails 1 "croft: that it failed may come of its sandbox: it called sethostname, which no sandbox allows" \
    run -- hostname other
same "" "$(run -- sh -c 'hostname other; true' 2>&1 >/dev/null | grep croft: || true)"
run --json -- sh -c 'hostname other; exit 0' >"$folder/json" 2>/dev/null
python3 - "$folder/json" <<'PYTHON'
import json, sys
account = json.load(open(sys.argv[1]))["sandbox"]
assert account["end"] == "exit" and account["wall_us"] > 0 and account["peak_memory_bytes"] > 0, account
assert account["denied"] == [{"call": "sethostname", "times": 1, "allowed_by": ""}], account
assert sorted(account["enforced"] + account["not_enforced"]) == ["cpu", "landlock", "memory", "processes", "user-ids"], account
PYTHON

echo "limits by platform properties, each with its own reason"
limited() { "$CROFT" run -d root -p "$@"; }
fails 125 "more than its limit of 10 files" limited croft-disk-files=10 -- sh -c 'for i in $(seq 30); do : >/tmp/$i; done'
fails 153 "larger than its limit of 4096 bytes" limited croft-file-bytes=4096 -- dd if=/dev/zero of=/tmp/a bs=8192 count=1
fails 125 "larger than its limit of 10 bytes" limited croft-output-bytes=10 -o out -- sh -c 'seq 100 >out'
# The kernel's limit of one process (SIGXCPU) and that of all processes of the job (SIGKILL) are reached together.
fails "152 or 137" "1.0 seconds of processor time" limited croft-cpu-seconds=1 -- sh -c 'while :; do :; done'

echo "what makes runs alike"
same "XYZ" "$(limited croft-time-zone=XYZ-3 -q -- date +%Z)"
same "ABC" "$(limited croft-time-zone=XYZ-3 -q -e TZ=ABC-1 -- date +%Z)"
same "C.UTF-8" "$(limited croft-locale=C.UTF-8 -q -- sh -c 'echo $LC_ALL')"
same 2 "$(limited croft-locale=C.UTF-8 -q -- sh -c 'printf äö | wc -m')"
same 4 "$(limited croft-locale=C -q -- sh -c 'printf äö | wc -m')"
scrambled='mkdir d; for i in $(seq 300); do : >d/$(($i * 7919 % 1009)); done; find d >read; LC_ALL=C sort read | cmp - read && echo sorted'
same "sorted" "$(limited croft-directory-order=sorted -q -- sh -c "$scrambled")"
fails 125 "libfaketime" limited croft-clock=2020-01-01 -- date
fails 125 "no platform property croft-tiem-zone" limited croft-tiem-zone=UTC -- date

echo "a job that did not run to its end says why, once, and is not run again by itself"
fails 125 "is a fifo" run -o pipe -- mkfifo pipe
[ "$(grep -c . "$folder/stderr")" -eq 1 ] || { cat "$folder/stderr" >&2; exit 1; }
fails 125 "timeout" run --timeout 1 -- sleep 10
[ "$(grep -o 'ended after its timeout' "$folder/stderr" | wc -l)" -eq 1 ] || { cat "$folder/stderr" >&2; exit 1; }

echo "what no tree can hold is left out where the job says so"
special='mkdir out; mkfifo out/pipe; echo kept >out/file; mkfifo alone; printf unfinished >&2'
fails 125 "is a fifo" run -o out -- sh -c "$special"
fails 125 "not one of refuse, skip" run -p croft-special-outputs=keep -- true
limited croft-special-outputs=skip -q -o out -o alone -x "out=$folder/left" -- sh -c "$special" 2>"$folder/stderr"
same "unfinished
croft: output 'alone' is a fifo and was left out
croft: output 'out/pipe' is a fifo and was left out" "$(cat "$folder/stderr")"
same file "$(ls "$folder/left")"

echo "results are remembered"
"$CROFT" run --json -d root -- sh -c 'echo once' >"$folder/first" 2>/dev/null
"$CROFT" run --json -d root -- sh -c 'echo once' >"$folder/second" 2>"$folder/stderr"
"$CROFT" run --json --skip-cache -d root -- sh -c 'echo once' >"$folder/third" 2>/dev/null
same once "$(cat "$folder/stderr")"
python3 - "$folder" <<'PYTHON'
import json, sys
first, second, third = (json.load(open(f"{sys.argv[1]}/{name}")) for name in ("first", "second", "third"))
assert not first["cached"] and second["cached"] and not third["cached"]
assert first["agent"].startswith("one") and first["exit_code"] == 0
assert first["inputs"]["files"] == 1, first["inputs"]
assert third["inputs"]["fetched_files"] == 0, third["inputs"]
PYTHON

echo "output comes while the job runs"
"$CROFT" run -q -d root -- sh -c 'echo early; sleep 30' >"$folder/live" 2>"$folder/stderr" &
job=$!
for _ in $(seq 100); do grep -q early "$folder/live" && break; sleep 0.1; done
grep -qx early "$folder/live"

echo "Ctrl-C cancels the job"
kill -INT "$job"
status=0
wait "$job" || status=$?
same 130 "$status"
for _ in $(seq 100); do "$CROFT" status --json | grep '"running": 0' >/dev/null && break; sleep 0.1; done
"$CROFT" status --json | grep '"running": 0' >/dev/null

echo "also before it is known what the server calls it"
for delay in $(seq 0 3 60); do
    "$CROFT" run -q -d root -- sh -c "exec sleep 100$delay" >/dev/null 2>"$folder/stderr" &
    job=$!
    sleep "$(printf '0.%03d' "$delay")"
    kill -TERM "$job"
    wait "$job" || true
done
for _ in $(seq 100); do "$CROFT" status --json | grep '"running": 0' >/dev/null && break; sleep 0.1; done
"$CROFT" status --json | grep '"running": 0' >/dev/null

echo "a job outlives its server"
"$CROFT" run -q -d root -- sh -c 'for i in $(seq 60); do echo line $i; sleep 0.1; done' \
    >"$folder/live" 2>"$folder/stderr" &
job=$!
for _ in $(seq 100); do grep -q 'line 5' "$folder/live" && break; sleep 0.1; done
crash
sleep 1
serve server
wait "$job"
for i in $(seq 60); do echo "line $i"; done | cmp - "$folder/live"

echo "a job waits for a server that is away"
crash
"$CROFT" run -q -d root -- echo back >"$folder/live" 2>"$folder/stderr" &
job=$!
sleep 1
serve server
wait "$job"
same back "$(cat "$folder/live")"
grep -q 'waiting up to' "$folder/stderr"

echo "agents are drained and come back"
name=$("$CROFT" agents | cut -d' ' -f1)
"$CROFT" agents drain "$name"
"$CROFT" agents | grep draining >/dev/null
"$CROFT" agents resume "$name"
run --skip-cache -- true

echo "an agent that is told to end does, while its server is away too"
crash
# Its second word is that it lost the server; then it tries to connect again.
for _ in $(seq 100); do grep -q 'lost the server' "$folder/agent.log" && break; sleep 0.1; done
sleep 1
kill -TERM "$agent"
for _ in $(seq 100); do kill -0 "$agent" 2>/dev/null || break; sleep 0.1; done
kill -0 "$agent" 2>/dev/null && { echo "the agent is still there after ten seconds" >&2; exit 1; }
true
