#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# croft farm: all of a farm in one command, that starts again what dies and leaves nothing behind.
. "$(dirname "$0")/lib.sh"

mkdir -p "$folder/root/bin"
cp /bin/busybox "$folder/root/bin/sh"
start_farm -n 2 --slots 1 --policy round-robin

echo "a farm runs jobs"
ready 2
"$CROFT" import --name root "$folder/root" >/dev/null
same 42 "$("$CROFT" run -q -d root -- sh -c 'echo 42')"

echo "jobs are placed by the policy that was asked for"
"$CROFT" run --json -d root -- sh -c 'echo 44' >"$folder/job.json" 2>/dev/null
operation=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["operation"])' <"$folder/job.json")
"$CROFT" why "$operation" | grep -F "its turn in the round" >/dev/null
fails 1 "no-such" "$CROFT" serve --state "$folder/none" --listen 127.0.0.1:0 --policy no-such

echo "croft top shows what began after its first look"
python3 - "$CROFT" <<'PYTHON'
import os, pty, re, select, signal, subprocess, sys, time
croft = sys.argv[1]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(croft, [croft, "top"])
printed, until = b"", time.monotonic() + 60
def read_to(pattern):
    global printed
    while not re.search(pattern, printed):
        assert select.select([terminal], [], [], max(0, until - time.monotonic()))[0], printed
        printed += os.read(terminal, 1 << 16)
read_to(rb" ready ")
assert b" sh" not in printed, printed
job = subprocess.Popen([croft, "run", "-q", "-d", "root", "--", "sh", "-c", "sleep 100"], stderr=subprocess.DEVNULL)
read_to(rb" running +\S+ .* sh\r?\n")
os.kill(pid, signal.SIGINT)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (-signal.SIGINT, 130), printed
job.send_signal(signal.SIGINT)
job.wait()
PYTHON

echo "what dies is started again"
children() { ps -o pid=,args= --ppid "$farm" | grep "croft $1 " | awk '{print $1}'; }
old=$(children serve)
kill -KILL "$old"
same 43 "$("$CROFT" run -q -d root -- sh -c 'echo 43')"
[ "$(children serve)" != "$old" ]
kill -KILL "$(children agent | head -1)"
sleep 0.5
ready 2

echo "it ends whole"
kill -INT "$farm"
status=0
wait "$farm" || status=$?
same 0 "$status"
if grep -q "$folder" /proc/mounts; then
    grep "$folder" /proc/mounts
    exit 1
fi
if ps -eo args= | grep -v grep | grep "$folder/farm"; then exit 1; fi

echo "what it held is there next time"
rm "$folder/farm.out" # the shell empties it only after the line below has begun
"$CROFT" farm --state "$folder/farm" --listen 127.0.0.1:0 >"$folder/farm.out" 2>>"$folder/farm.log" &
farm=$!
pids+=("$farm")
for _ in $(seq 300); do grep -qs '^farm at' "$folder/farm.out" && break; sleep 0.1; done
CROFT_SERVER=$(sed -n 's/^farm at \([^,]*\),.*/\1/p' "$folder/farm.out")
same bin "$("$CROFT" ls root)"
mkdir "$folder/home"
ln -s "$folder" "$folder/home/croft"
XDG_STATE_HOME="$folder/home" "$CROFT" store stat | grep '^blobs ' >/dev/null

echo "a second one in the same place is refused"
fails 1 "before it was ready" "$CROFT" farm --state "$folder/farm" --listen 127.0.0.1:0
