#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# BuildStream 2 is interrupted at its terminal, and loses its connection in mid-build.
. "$(dirname "$0")/bst.sh"
toolchain

project

serve server
agent one --slots 1
ready 1

echo "Ctrl-C at the terminal: the job ends, and nothing of it is left"
home first remote
loopback PYTHONPATH="$(echo "$client_bst"/lib/python3*/site-packages)" /usr/bin/python3 "$here/terminal.py" "$folder/now" \
    /usr/bin/python3 -m buildstream --config "$folder/$current.conf" build endless.bst >"$folder/terminal.log" 2>&1 &
build=$!
running 1
# It can cancel what it has heard the name of; that is long sent after a second.
for _ in $(seq 100); do
    "$CROFT" status --json | grep -E '"age_ms": [0-9]{4}' >/dev/null && break
    sleep 0.1
done
touch "$folder/now"
wait "$build" && { echo "a build that was interrupted cannot succeed" >&2; exit 1; }
has 'User interrupted with \^C' "$folder/terminal.log"
has 'Terminating all jobs at user request' "$folder/terminal.log"
running 0
same 0 "$("$CROFT" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["queued"])')"
[ -z "$(ps -eo args= | grep '[s]leep 10000')" ]
end_casd

echo "its connections are lost for a while: it finds its job again"
/usr/bin/python3 "$here/cut.py" "$address" "$folder/port" &
cut=$!
pids+=("$cut")
for _ in $(seq 100); do [ -e "$folder/port" ] && break; sleep 0.1; done
real=$address
address=127.0.0.1:$(cat "$folder/port")
home second remote
address=$real
bst build slow.bst &
build=$!
running 1
done=$("$CROFT" status --json | grep -o '"jobs_done": [0-9]*')
kill -USR1 "$cut"
sleep 1
kill -USR2 "$cut"
wait "$build" || { cat "$folder/bst.log" >&2; exit 1; }
bst artifact checkout --directory "$folder/slow" slow.bst
same slow "$(cat "$folder/slow/slow")"
same "\"jobs_done\": $((${done##* } + 1))" "$("$CROFT" status --json | grep -o '"jobs_done": [0-9]*')"
