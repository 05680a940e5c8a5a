#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What BuildStream 2 asks of a job, one thing after another: users, network, roots that may be written in part
# alone, whole roots as output, times of files, kinds of elements, calls of the farm from within, build trees.
. "$(dirname "$0")/bst.sh"
wants dpkg-deb dpkg
toolchain
install meson-root sh -c 'rmdir "$2" && "$1" "$2" gcc libc6-dev meson ninja-build python3 bash dash coreutils sed \
    grep base-files' sh "$here/toolchain.py"
meson_root=$client
install buildbox-sid sh -c 'rmdir "$2" && "$1" "$2" buildbox coreutils dash base-files' sh "$here/sid.py"
buildbox=$client

project
copy "$meson_root" "$folder/work/mesonroot"
# recc, and the libraries that it was linked with: another C library than that of the root.
mkdir "$folder/work/recc"
loader=$(basename "$(readlink -f "$buildbox/lib64/ld-linux-x86-64.so.2")")
chroot "$buildbox" "/lib64/ld-linux-x86-64.so.2" --list /usr/bin/recc | grep -o '/[^ ]*' | sort -u |
    while read -r library; do cp -L "$buildbox$library" "$folder/work/recc/"; done
cp "$buildbox/usr/bin/recc" "$folder/work/recc/recc"
mv "$folder/work/recc/$loader" "$folder/work/recc/loader"

serve server
agent one --slots 2 --root-image "$toolchain" --allow-nested
ready 1
fetched() { "$CROFT" status --json | python3 -c 'import json, sys; print(sum(a["fetched_bytes"] for a in json.load(sys.stdin)["agents"]))'; }
stored() { "$CROFT" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["store"]["blobs"])'; }

echo "a script whose output is the whole root: what is captured, fetched and kept goes with what changed"
home first remote
bst build base.bst
bst build open.bst
bst artifact checkout --directory "$folder/open" open.bst
same more "$(cat "$folder/open/last")"
files=$(find root -type f | wc -l)
bytes=$(du -sb root | cut -f1)
# The input root itself is uploaded with the build, and would be in the store as often as it is captured.
blobs=$(stored)
sed -i 's/echo more/echo other/' elements/open.bst
before=$(fetched)
bst build open.bst
grown=$(($(stored) - blobs)) read=$(($(fetched) - before))
echo "    $grown blobs more, $read bytes fetched; the root has $files files of $bytes bytes"
[ "$grown" -lt 60 ] && [ $((read * 10)) -lt "$bytes" ]

echo "users, network, times, a root that is read-only in part; meson, filter, stack"
bst build elements.bst
has 'Build Queue: .* failed 0' "$folder/bst.log"
checked_out() { rm -rf "$folder/$1"; bst artifact checkout --deps none --directory "$folder/$1" "$1.bst"; }
for element in sandbox sealed meson split user; do checked_out $element; done
same here "$(cat "$folder/sandbox/here")"
same one "$(cat "$folder/sealed/usr/share/four")"
same changed "$(tail -n 1 "$folder/user/usr/lib/sum.c")"
same 42 "$("$folder/meson/usr/bin/answer")"
same ./usr/include/sum.h "$(cd "$folder/split" && find . -type f)"

echo "recc in a build compiles on the same farm"
jobs() { "$CROFT" status --json | python3 -c 'import json, sys; print(sum(a["jobs_done"] for a in json.load(sys.stdin)["agents"]))'; }
before=$(jobs)
bst build nested.bst || { cat "$folder/bst.log"; exit 1; }
same $((before + 2)) "$(jobs)"
checked_out nested
status=0
"$folder/nested/seven" || status=$?
same 7 "$status"

echo "a workspace is built again where its files changed alone, by their times"
bst workspace open --directory "$folder/space" library.bst
bst build library.bst
has 'ar rcD libsum.a' "$(ls -t "$folder"/first/logs/clients/library/*-build.*.log | head -n 1)"
sed -i 's/-m 644 sum.h/-m 755 sum.h/' "$folder/space/Makefile"
bst build library.bst
log=$(ls -t "$folder"/first/logs/clients/library/*-build.*.log | head -n 1)
grep -q 'ar rcD libsum.a' "$log" && { echo "what had not changed was built again" >&2; exit 1; }
checked_out library
[ -x "$folder/library/usr/include/sum.h" ]
bst workspace close --remove-dir library.bst

echo "the log and the build tree of a failed build are there for others"
status=0
bst build failing.bst || status=$?
[ "$status" -ne 0 ]
home second remote
status=0
bst build failing.bst || status=$?
[ "$status" -ne 0 ]
has 'Build Queue: +processed 0' "$folder/bst.log"
bst artifact log --out "$folder/logs" failing.bst
grep -rq 'this build fails' "$folder/logs"
if builds_here; then
    bst --pull-buildtrees shell --build --use-buildtree failing.bst -- cat behind
    has '^left$' "$folder/bst.log"
else
    echo "(a shell in it is left out: bubblewrap cannot run in a chroot)"
fi
