#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# croft farm: all of a farm in one command, that starts again what dies and leaves nothing behind.
. "$(dirname "$0")/lib.sh"

mkdir -p "$folder/root/bin"
cp /bin/busybox "$folder/root/bin/sh"
start_farm -n 2 --slots 1

echo "a farm runs jobs"
ready 2
"$CROFT" import --name root "$folder/root" >/dev/null
same 42 "$("$CROFT" run -q -d root -- sh -c 'echo 42')"

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
