#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# croft sandbox by hand: a spec as JSON, its options, results, limits, a terminal, signals; nothing is left.
. "$(dirname "$0")/lib.sh"

root=$folder/root
busybox_root "$root"
mkdir -p "$root/etc"
echo "as it was" >"$root/etc/input"
sandbox() { "$CROFT" sandbox -q --state "$folder/state" --root "$root" "$@"; }
nothing_left() {
    same "" "$(find "$folder/state" -mindepth 1)"
    same "" "$(grep -F "$folder" /proc/mounts || true)"
}
# field NAME: of the last JSON result
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$folder/json" "$1"; }

echo "output and exit status are the command's"
same "out" "$(sandbox -- sh -c 'echo out; echo err >&2' 2>"$folder/stderr")"
same "err" "$(cat "$folder/stderr")"
fails 3 "" sandbox -- sh -c 'exit 3'
fails 137 "ended by signal 9" "$CROFT" sandbox --state "$folder/state" --root "$root" -- sh -c 'kill -9 $$'
fails 127 "cannot be executed" "$CROFT" sandbox --state "$folder/state" --root "$root" -- no-such
fails 125 "there is no command" sandbox

echo "what was denied and what is enforced is told"
fails 1 "called sethostname, which no sandbox allows" "$CROFT" sandbox --state "$folder/state" --root "$root" -- hostname x
fails 1 "ioprio_get, which --seccomp=default allows" "$CROFT" sandbox --seccomp strict --state "$folder/state" \
    --root "$root" -- sh -c 'ionice; exit 1'

echo "the root is written in a layer of its own"
same "changed" "$(sandbox -- sh -c 'echo changed >/etc/input; cat /etc/input')"
same "as it was" "$(cat "$root/etc/input")"
fails 1 "Read-only file system" sandbox --writable /out -- sh -c 'echo >/out/a && echo >/etc/b'

echo "a root that an ordinary user cannot have is refused with the reason"
mkdir -m 1777 "$folder/user"
chmod 711 "$folder"
fails 125 "it does not show what lies below mounts, as / has them; name a root without any" setpriv --reuid 65533 \
    --regid 65533 --clear-groups "$CROFT" sandbox --state "$folder/user/state" --root / -- true

echo "a spec says it all"
cat >"$folder/spec" <<JSON
{
  "root": ["$root"], "writable": ["/out"],
  "command": ["sh", "-c", "echo \$GREETING >/out/text; ln -s text /out/link; id -u; hostname; pwd; cat /there/secret"],
  "environment": {"PATH": "/bin", "GREETING": "hello"}, "working_directory": "/out",
  "uid": 1000, "gid": 1000, "hostname": "box", "outputs": ["/out", "/none"],
  "mounts": [{"source": "$folder/mounted", "target": "/there"}],
  "limits": {"wall_ms": 60000, "processes": 100, "memory_bytes": 100000000}
}
JSON
mkdir "$folder/mounted"
echo secret >"$folder/mounted/secret"
chmod 755 "$folder"
sed -i 's/"uid": 1000, "gid": 1000/"uid": 0, "gid": 0/' "$folder/spec"
same "0
box
/out
secret" "$("$CROFT" sandbox -q --state "$folder/state" --spec "$folder/spec" --json 2>&1 >"$folder/json")"
same exit "$(field end)"
same 0 "$(field exit_code)"
python3 - "$folder/json" <<'PYTHON'
import hashlib, json, sys
outputs = {entry["path"]: entry for entry in json.load(open(sys.argv[1]))["outputs"]}
assert sorted(outputs) == ["/out", "/out/link", "/out/text"], outputs
assert outputs["/out/link"]["target"] == "text", outputs
assert hashlib.sha256(b"hello\n").hexdigest() in json.dumps(outputs["/out/text"]), outputs
PYTHON

echo "a wrong spec names the field"
echo '{"comand": []}' >"$folder/spec"
fails 125 'there is no field "comand"' sandbox --spec "$folder/spec" -- true
echo '{"limits": {"wall_ms": -1}}' >"$folder/spec"
fails 125 '"wall_ms" is to be' sandbox --spec "$folder/spec" -- true
echo '{"limits": {"wall": 1}}' >"$folder/spec"
fails 125 'there is no limit "wall"' sandbox --spec "$folder/spec" -- true
echo '{"mounts": [1]}' >"$folder/spec"
fails 125 '"mounts" is to be' sandbox --spec "$folder/spec" -- true
echo '{' >"$folder/spec"
fails 125 'line' sandbox --spec "$folder/spec" -- true

echo "limits end it, with their reason"
fails 137 "" sandbox --json --timeout 1 -- sh -c 'trap "" TERM; while :; do sleep 1; done'
cp "$folder/stdout" "$folder/json"
same wall-clock "$(field end)"
echo '{"limits": {"output_log_bytes": 1000}}' | sandbox --spec - --json -- yes >"$folder/json" 2>/dev/null || true
same log "$(field end)"

echo "a terminal"
python3 - "$CROFT" "$folder/state" "$root" <<'PYTHON'
import os, pty, sys
croft, state, root = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(croft, [croft, "sandbox", "-q", "--state", state, "--root", root, "-t", "--",
                     "sh", "-c", "test -t 0 && read line && echo got $line; exit 5"])
os.write(fd, b"words\n")
said = b""
while True:
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    if not data:
        break
    said += data
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 5 and b"got words" in said, (status, said)
PYTHON

echo "a signal to croft ends it"
mkfifo "$folder/ready"
sandbox -- sh -c 'echo up; sleep 1000' >"$folder/ready" &
pid=$!
read -r line <"$folder/ready"
same up "$line"
# `sandbox` is a function: croft is the child of the shell that runs it, or the shell itself.
croft=$(pgrep -P "$pid" -x croft || echo "$pid")
kill -TERM "$croft"
status=0
wait "$pid" || status=$?
same 143 "$status"

echo "nothing is left behind"
nothing_left
