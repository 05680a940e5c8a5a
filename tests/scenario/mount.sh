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
"$CROFT" import --name tree "$tree" >/dev/null

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

echo "a part of it, beside it"
"$CROFT" mount --state "$folder/caches" tree:a/b "$folder/second"
same 17 "$(cat "$folder/second/file17")"

echo "unmounting ends it"
unmount "$folder/mnt"
unmount "$folder/second"
# Their processes give back the caches a moment later.
for cache in "$folder"/caches/[0-9]*/; do flock -w 60 "$cache" true; done

echo "what was read is read again without the farm"
digest=$("$CROFT" import "$tree")
crash
"$CROFT" mount --state "$folder/caches" --plane "$plane" "$digest" "$folder/mnt"
diff -r --no-dereference "$tree" "$folder/mnt"
unmount "$folder/mnt"

echo "what cannot be mounted is explained"
fails 1 'No such file' "$CROFT" mount --plane "$plane" "$digest" "$folder/nowhere"
fails 1 'is the server running' "$CROFT" mount tree "$folder/mnt"
