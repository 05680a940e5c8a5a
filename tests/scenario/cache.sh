#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Caches that are smaller than what is read: several processes share a state directory, none takes more of the disk
# than it may (files that are deleted and still open included), and one that is killed harms no other.
. "$(dirname "$0")/lib.sh"
[ -e /dev/fuse ] || { echo "there is no /dev/fuse here"; exit 77; }

tree=$folder/tree budget=33554432 mounts=(0 1 2)
mkdir -p "$tree/small"
for i in $(seq 40); do head -c $((1000000 + i * 30000)) /dev/urandom >"$tree/blob$i"; done
for i in $(seq 500); do echo "small $i" >"$tree/small/$i"; done
head -c 40000000 /dev/urandom >"$tree/large" # more than a cache may hold
serve server
"$CROFT" import --name tree "$tree" >/dev/null
(cd "$tree" && find . -type f | sort | xargs sha256sum) >"$folder/sums"

leave() {
    local status=$?
    for i in "${mounts[@]}"; do umount -l "$folder/mnt$i" 2>/dev/null || true; done
    finish $status
}
trap leave EXIT

# serving I: the pid of the process that serves that mount.
serving() {
    local process words
    for process in /proc/[0-9]*; do
        words=$(tr '\0' ' ' 2>/dev/null <"$process/cmdline") || continue
        [[ $words != *" --foreground "*" $folder/mnt$1 " ]] || { echo "${process#/proc/}"; return; }
    done
    echo "nobody serves $folder/mnt$1" >&2
    return 1
}
show() { "$CROFT" mount --state "$folder/caches" --cache $budget tree "$folder/mnt$1"; }
for i in "${mounts[@]}"; do
    mkdir "$folder/mnt$i"
    show "$i"
done

cat >"$folder/watch.py" <<'END'
"""What each process's cache takes of the disk at most, until standard input ends."""
import os, select, sys
caches, most = {int(pid): None for pid in sys.argv[2:]}, 0
for pid in caches:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = os.readlink(f"/proc/{pid}/fd/{fd}")
        if path.startswith(sys.argv[1] + "/") and os.path.isdir(path):
            caches[pid] = "/".join([sys.argv[1], path[len(sys.argv[1]) + 1:].split("/")[0]])
assert len(set(caches.values())) == 3, f"a cache has two processes: {caches}"
def taken(pid, folder):
    seen = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.stat(f"{place}/{name}")
                seen[stat.st_ino] = stat.st_blocks * 512
            except OSError:
                pass
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
            if path.startswith(folder + "/") and path.endswith(" (deleted)"):
                stat = os.stat(f"/proc/{pid}/fd/{fd}")
                seen[stat.st_ino] = stat.st_blocks * 512
        except OSError:
            pass
    return sum(seen.values())
while not select.select([0], [], [], 0.02)[0]:
    most = max([most, *(taken(pid, folder) for pid, folder in caches.items())])
print(most)
END

echo "three processes, each with a cache of 32 MiB, read 107 MB by three readers, who hold files open"
processes="$(serving 0) $(serving 1) $(serving 2)"
mkfifo "$folder/end"
# shellcheck disable=SC2086
python3 "$folder/watch.py" "$folder/caches" $processes <"$folder/end" >"$folder/most" 2>"$folder/watch.log" &
watcher=$!
exec 7>"$folder/end"
readers=()
for i in "${mounts[@]}"; do
    for order in sort "sort -R" tac; do
        (cd "$folder/mnt$i" && exec 8<large 9<blob7 && $order "$folder/sums" | sha256sum -c --quiet) >>"$folder/wrong" 2>&1 &
        readers+=($!)
    done
done
for pid in "${readers[@]}"; do wait "$pid" || { cat "$folder/wrong"; exit 1; }; done
exec 7>&-
wait "$watcher" || { cat "$folder/watch.log"; exit 1; }
echo "    the largest cache took $(cat "$folder/most") bytes"
[ "$(cat "$folder/most")" -gt $((budget / 2)) ]
[ "$(cat "$folder/most")" -le $budget ]

echo "one of them is killed while its mount is read: an error, and nothing for the others"
(cd "$folder/mnt1" && while sha256sum -c --quiet "$folder/sums"; do :; done) >"$folder/killed" 2>&1 &
reader=$!
kill -KILL "$(serving 1)"
wait "$reader" || true
grep -q "not connected" "$folder/killed"
! grep -q "FAILED$" "$folder/killed" # a wrong sum, not an error of reading
(cd "$folder/mnt0" && sha256sum -c --quiet "$folder/sums")
umount -l "$folder/mnt1"
show 1
(cd "$folder/mnt1" && sha256sum -c --quiet "$folder/sums")
same 3 "$(find "$folder/caches" -mindepth 1 -maxdepth 1 -type d | wc -l)"
