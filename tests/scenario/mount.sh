#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# croft mount: a tree of the farm as a directory, without an agent.
. "$(dirname "$0")/lib.sh"
[ -e /dev/fuse ] || { echo "there is no /dev/fuse here"; exit 77; }

tree=$folder/tree
mkdir -p "$tree/a/b" "$tree/empty" "$folder/mnt" "$folder/second"
for i in $(seq 300); do echo "$i" >"$tree/a/b/file$i"; done
head -c 20000000 /dev/urandom >"$tree/large"
printf '#!/bin/sh\necho ran\n' >"$tree/a/run"
chmod +x "$tree/a/run"
ln -s a/run "$tree/link"
serve server
digest=$("$CROFT" import --name tree "$tree")
other=$("$CROFT" import "$tree/a")

unmount() {
    fusermount3 -u "$1" 2>/dev/null || umount "$1"
    for _ in $(seq 100); do grep -q " $1 " /proc/mounts || return 0; sleep 0.1; done
    return 1
}
leave() {
    local status=$?
    for at in "$folder/mnt" "$folder/second"; do umount -l "$at" 2>/dev/null || true; done
    finish $status
}
trap leave EXIT

echo "a tree is seen as it is"
"$CROFT" mount --state "$folder/caches" tree "$folder/mnt"
diff -r --no-dereference "$tree" "$folder/mnt"
same ran "$("$folder/mnt/link")"
if echo x 2>/dev/null >"$folder/mnt/new"; then exit 1; fi

echo "what it has fetched is told"
"$CROFT" mount --status "$folder/mnt" | grep >/dev/null "^3[0-9]* blobs, .* MiB fetched\$"
"$CROFT" mount --status --json "$folder/mnt/a" >"$folder/status"
python3 - "$folder/status" <<'EOF'
import json, sys
status = json.load(open(sys.argv[1]))
assert 20_000_000 < status["fetched_bytes"] < 21_000_000 and status["waiting_blobs"] == 0, status
EOF
fails 1 "in no mount of croft's" "$CROFT" mount --status "$folder/tree"

echo "a terminal is shown it while the mount is in the foreground"
script -qc "'$CROFT' mount -f --state '$folder/caches' tree '$folder/second'" /dev/null >"$folder/shown" </dev/null &
shown=$!
pids+=("$shown")
till mountpoint -q "$folder/second"
cat "$folder/second/large" >/dev/null
till grep -q ' blobs, [0-9.]* MiB fetched' "$folder/shown"
unmount "$folder/second"
wait "$shown"

echo "a part of it, beside it"
"$CROFT" mount --state "$folder/caches" tree:a/b "$folder/second"
same 17 "$(cat "$folder/second/file17")"

echo "without a REF every tree is there"
unmount "$folder/second"
"$CROFT" mount --state "$folder/caches" "$folder/second"
same "actions by-digest failed names" "$(ls "$folder/second" | xargs)"
diff -r --no-dereference "$tree" "$folder/second/by-digest/$digest"
diff -r --no-dereference "$tree/a" "$folder/second/by-digest/$other"
fails 2 'No such file' ls "$folder/second/by-digest/$(printf '%064d-7' 0)" </dev/null
later=$("$CROFT" import "$tree/a/b")
diff -r "$tree/a/b" "$folder/second/by-digest/$later"

# eventually EXPECTED COMMAND...: what it prints becomes that.
eventually() {
    local expected=$1
    shift
    for _ in $(seq 100); do [ "$("$@" 2>&1 | xargs)" = "$expected" ] && return; sleep 0.1; done
    echo "expected \"$expected\", came \"$("$@" 2>&1 | xargs)\" of: $*" >&2
    return 1
}
echo "by name too, and new names are seen"
same tree "$(ls "$folder/second/names")"
diff -r --no-dereference "$tree" "$folder/second/names/tree"
"$CROFT" import --name project/lib/a "$tree/a" >/dev/null
"$CROFT" import --name project/lib "$tree/a/b" >/dev/null
"$CROFT" import --name project/app "$tree/a" >/dev/null
"$CROFT" import --name a//b%c "$tree/a" >/dev/null
eventually "a%2F%2Fb%25c project tree" ls "$folder/second/names"
eventually "app lib lib%2Fa" ls "$folder/second/names/project"
diff -r "$tree/a/b" "$folder/second/names/project/lib"
diff -r --no-dereference "$tree/a" "$folder/second/names/project/lib%2Fa"
diff -r --no-dereference "$tree/a" "$folder/second/names/a%2F%2Fb%25c"
fails 2 'No such file' ls "$folder/second/names/project/none"
same "$(stat -c %i "$folder/second/by-digest/$other/b/file17")" "$(stat -c %i "$folder/second/names/project/app/b/file17")"

echo "a name that is given anew shows the new tree; what is open stays the old one"
exec 5<"$folder/second/names/project/app/b/file3"
"$CROFT" import --name project/app "$tree/a/b" >/dev/null
eventually 3 cat "$folder/second/names/project/app/file3"
fails 2 'No such file' ls "$folder/second/names/project/app/b"
same 3 "$(cat <&5)"
exec 5<&-

echo "without the server names are told to be away, trees that are known are there"
crash
eventually_down() { timeout 30 ls "$folder/second/names" 2>&1 | sed 's/.*: //'; }
eventually "Host is down" eventually_down
[ "$(timeout 30 stat "$folder/second/names/nobody-asked" 2>&1 | sed 's/.*: //')" = "Host is down" ]
same 17 "$(cat "$folder/second/by-digest/$other/b/file17")"
serve server
eventually "a%2F%2Fb%25c project tree" ls "$folder/second/names"

echo "unmounting ends it, also where an agent has made its sandboxes meanwhile"
"$CROFT" agent --state "$folder/agent" --name one >>"$folder/agent.log" 2>&1 &
agent=$!
pids+=("$agent")
for _ in $(seq 300); do "$CROFT" agents | grep ' ready ' >/dev/null && break; sleep 0.1; done
unmount "$folder/mnt"
unmount "$folder/second"
# Their processes give back the caches a moment later.
for cache in "$folder"/caches/[0-9]*/; do flock -w 60 "$cache" true; done
kill -TERM "$agent"
wait "$agent"

echo "what was read is read again without the farm"
crash
"$CROFT" mount --state "$folder/caches" --plane "$plane" "$digest" "$folder/mnt"
diff -r --no-dereference "$tree" "$folder/mnt"
unmount "$folder/mnt"

echo "what cannot be mounted is explained"
fails 1 'No such file' "$CROFT" mount --plane "$plane" "$digest" "$folder/nowhere"
fails 1 'is the server running' "$CROFT" mount tree "$folder/mnt"
fails 1 'it is no directory' "$CROFT" mount --plane "$plane" "$digest" "$tree/large"

echo "an ordinary user mounts through fusermount3, if /dev/fuse is everyone's"
serve server
fails 1 'is no tree of the farm' "$CROFT" mount "$(printf '%064d-7' 0)" "$folder/mnt"
fails 1 'is no tree of the farm' "$CROFT" mount "$("$CROFT" blob put "$tree/a/run")" "$folder/mnt"
user=65534 own=$folder/own
mkdir -p "$own/mnt" "$own/state"
chmod 755 "$folder"
cp "$CROFT" "$own/croft" # where it stands others may not look
chown -R $user "$own"
# as_user MODE COMMAND...: in a mount namespace of its own, with a /dev/fuse of that mode.
as_user() {
    unshare -m bash -ec 'mount -t tmpfs -o mode=755 tmpfs '"$folder"'/second
        mknod '"$folder"'/second/fuse c 10 229; chmod '"$1"' '"$folder"'/second/fuse
        mount --bind '"$folder"'/second/fuse /dev/fuse
        exec setpriv --reuid='$user' --regid='$user' --clear-groups "${@:1}"' as_user "${@:2}"
}
as_user 666 bash -ec '
    "$0" mount --server "$1" --state "$2/state" tree "$2/mnt"
    diff -r --no-dereference "$3" "$2/mnt"
    [ "$(stat -c %u "$2/mnt/large")" = "$(id -u)" ]
    fusermount3 -u "$2/mnt"
    "$0" mount --server "$1" --state "$2/state" "$2/mnt"
    diff -r --no-dereference "$3" "$2/mnt/by-digest/$4"
    fusermount3 -u "$2/mnt"
    for cache in "$2"/state/[0-9]*/; do flock -w 60 "$cache" true; done' \
    "$own/croft" "$CROFT_SERVER" "$own" "$tree" "$digest"
fails 1 'by root only' as_user 600 "$own/croft" mount --server "$CROFT_SERVER" --state "$own/state" tree "$own/mnt"
