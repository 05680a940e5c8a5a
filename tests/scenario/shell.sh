#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# croft shell: a tree, an action, a job of the server, after it ran; with and without a terminal.
. "$(dirname "$0")/lib.sh"

export XDG_STATE_HOME=$folder/home
root=$folder/root
busybox_root "$root"
mkdir -p "$folder/src"
echo "an input" >"$folder/src/input"
serve server
"$CROFT" import --name root "$root" >/dev/null
"$CROFT" agent --state "$folder/agent" --name one --slots 1 >>"$folder/agent.log" 2>&1 &
pids+=("$!")
"$CROFT" run --json -d root -i "$folder/src:in" -w in/work -e KIND=job \
    -- sh -c 'cat ../input' >"$folder/json" 2>"$folder/stderr"
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$folder/json" "$1"; }
shell() { "$CROFT" shell -q "$@"; }
nothing_left() {
    same "" "$(find "$folder/home/croft/shell" "$folder/home/croft/sandbox" -mindepth 1)"
    same "" "$(grep -F "$folder/home" /proc/mounts || true)"
}

echo "a tree, by name and by path"
same "0 /" "$(shell root sh -c 'echo $(id -u) $(pwd)')"
fails 3 "" shell root sh -c 'exit 3'
fails 127 "" shell root no-such
nothing_left

echo "a job's action: its inputs, working directory and environment"
action=$(field action)
same "/in/work an input job" "$(shell "$action" sh -c 'echo $(pwd) $(cat ../input) $KIND')"
same "changed" "$(shell "$action" sh -c 'echo changed >../input; cat ../input')"
same "an input" "$(shell "$action" cat ../input)"
"$CROFT" shell "$action" true 2>"$folder/stderr"
same "croft shell: the job runs sh -c 'cat ../input'" "$(cat "$folder/stderr")"

echo "over a root image"
same "/croft/root/in/work an input" "$(shell --root-image "$root" "$action" sh -c 'echo $(pwd) $(cat ../input)')"
same "an input" "$(shell --root-image root "$action" cat ../input)"

echo "a job that the server knows"
same "an input" "$(shell "$(field operation)" cat ../input)"
fails 125 "no-such" shell no-such-name true
nothing_left

echo "a terminal, with its size"
python3 - "$CROFT" "$action" >"$folder/terminal" <<'PYTHON'
import fcntl, os, pty, struct, sys, termios
pid, master = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    os.execv(sys.argv[1], [sys.argv[1], "shell", "-q", sys.argv[2]])
os.write(master, b"test -t 0 && tty && stty size && cat ../input; (sleep 100 & jobs; kill %1); exit 4\n")
text = b""
try:
    while data := os.read(master, 4096):
        text += data
except OSError:
    pass
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.write(text.decode())
assert status == 4, (status, text)
assert b"/dev/pts/0" in text and b"33 77" in text and b"an input" in text, text
PYTHON
nothing_left
