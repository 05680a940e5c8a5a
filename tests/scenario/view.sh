#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Jobs as trees: by action or by operation, of success and of failure, listed, compared and mounted.
. "$(dirname "$0")/lib.sh"
[ -e /dev/fuse ] || { echo "there is no /dev/fuse here"; exit 77; }

mkdir -p "$folder/root/bin" "$folder/root/src" "$folder/mnt" "$folder/all"
for name in sh mkdir cp chmod ln; do cp /bin/busybox "$folder/root/bin/$name"; done
echo 'int main;' >"$folder/root/src/main.c"
start_farm -n 1 --slots 1
"$CROFT" import --name root "$folder/root" >/dev/null
leave() {
    local status=$?
    umount -l "$folder/mnt" "$folder/all" 2>/dev/null || true
    finish $status
}
trap leave EXIT

# build STATUS: a job that makes a tree and a tool and ends like that; sets action and operation.
build() {
    local status=0
    timeout 100 "$CROFT" run --json -d root -o out -o tool -- sh -c "mkdir -p out/sub; cp src/main.c out/sub/copy
        ln -s sub/copy out/link; cp bin/sh tool; chmod +x tool; echo made; echo said >&2; exit $1" \
        >"$folder/run.json" 2>/dev/null || status=$?
    same "$1" "$status"
    action=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["action"])' "$folder/run.json")
    operation=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["operation"])' "$folder/run.json")
}

# looks REF: the job is there whole.
looks() {
    same "inputs outputs stderr stdout" "$("$CROFT" ls "$1" | sed 's,/$,,' | sort | xargs)"
    same made "$("$CROFT" cat "$1:stdout")"
    same said "$("$CROFT" cat "$1:stderr")"
    same 'int main;' "$("$CROFT" cat "$1:outputs/out/link")"
    "$CROFT" find "$1" | grep -q 'outputs/out/sub/copy$'
    "$CROFT" du "$1" >/dev/null
    "$CROFT" diff "$1:inputs" root
}

"$CROFT" mount --state "$folder/caches" "$folder/all"
same "" "$(ls "$folder/all/failed" "$folder/all/actions" | grep -v : | xargs)"
for status in 0 3; do
    echo "a job that ends with $status is a tree by its operation and its action"
    build $status
    looks "$operation"
    looks "$action"
    "$CROFT" mount --state "$folder/caches" "$action" "$folder/mnt"
    diff -r --no-dereference "$folder/root" "$folder/mnt/inputs"
    same "made said" "$(cat "$folder/mnt/stdout" "$folder/mnt/stderr" | xargs)"
    cmp "$folder/mnt/outputs/out/sub/copy" "$folder/root/src/main.c"
    same "sub/copy" "$(readlink "$folder/mnt/outputs/out/link")"
    [ -x "$folder/mnt/outputs/tool" ]
    umount "$folder/mnt"
    diff -r --no-dereference "$folder/root" "$folder/all/actions/$action/inputs"
    same "made said" "$(cat "$folder/all/actions/$action/stdout" "$folder/all/actions/$action/stderr" | xargs)"
    cmp "$folder/all/actions/$action/outputs/out/sub/copy" "$folder/root/src/main.c"
    flock -w 60 "$folder/caches/1" true
done

echo "those that failed are listed, with what they left"
for _ in $(seq 100); do [ "$(ls "$folder/all/failed")" = "$operation" ] && break; sleep 0.1; done
same "$operation" "$(ls "$folder/all/failed")"
for place in "$folder/all/failed/$operation" "$folder/all/failed/$action"; do
    same "made said" "$(cat "$place/stdout" "$place/stderr" | xargs)"
    cmp "$place/outputs/out/sub/copy" "$folder/root/src/main.c"
    cmp "$place/inputs/bin/sh" "$folder/root/bin/sh"
done
fails 2 'No such file' ls "$folder/all/failed/$(printf '%064d-7' 0)"
fails 2 'No such file' ls "$folder/all/actions/none"
umount "$folder/all"
flock -w 60 "$folder/caches/0" true

echo "what failed is remembered, and run again all the same"
build 3
same False "$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["cached"])' "$folder/run.json")"

echo "what nobody knows is told"
fails 1 'nor a job' "$CROFT" ls 00000000000000000000000000000000

echo "a job whose outputs find no room in the store says so, keeps its log and names no output"
kill -TERM "$farm"
wait "$farm" || true
rm -r "$folder/farm"
start_farm -n 1 --slots 1 --budget 30M
"$CROFT" import --name root "$folder/root" >/dev/null
fails 125 "is full" timeout 100 "$CROFT" run -d root -o small -o large -- \
    sh -c 'echo small >small; echo said; head -c 60000000 /dev/urandom >large'
operation=$(sed -n 's/^run operation=\([^ ]*\).*/\1/p' "$(find "$folder/farm" -name operations.log)" | tail -n 1)
same "inputs stderr stdout" "$("$CROFT" ls "$operation" | sed 's,/$,,' | sort | xargs)"
same said "$("$CROFT" cat "$operation:stdout")"
