#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# BuildStream 2 builds some thirty real sources of Debian 12 on two agents, while its client, the server and
# an agent are killed; another machine gets all of it without building; a build here gives the same.
. "$(dirname "$0")/bst.sh"
wants dpkg-deb dpkg

install distribution sh -c '"$1" fetch "$2"' sh "$here/distribution.py"
fetched=$client
python3 "$here/distribution.py" project "$fetched" "$folder/work"
cp -al "$fetched/root" "$folder/work/root" 2>/dev/null || cp -a "$fetched/root" "$folder/work/root"
cd "$folder/work"

serve server
agent one --slots 1
ready 1
agent two --slots 1
two=$agent
ready 2

# built COUNT: waits until the build under way has finished so many elements.
built() {
    for _ in $(seq 6000); do
        [ "$(grep -c 'build:.*SUCCESS Caching artifact' "$folder/bst.log")" -ge "$1" ] && return
        kill -0 "$build" 2>/dev/null || break
        sleep 0.1
    done
    echo "the build ended before $1 elements were built:" >&2
    tail -n 40 "$folder/bst.log" >&2
    return 1
}

echo "a build of many elements: its client is killed, then the server, then an agent"
home first remote
bst build all.bst &
build=$!
built 4
end_bst KILL
wait "$build" 2>/dev/null && { echo "the client was killed too late" >&2; exit 1; }
end_casd
bst build all.bst &
build=$!
built 4
running 2
crash
sleep 0.5
serve server
ready 2
built 8
running 2
kill -KILL "$two"
wait "$two" 2>/dev/null || true
agent two --slots 1
two=$agent
wait "$build" || { tail -n 60 "$folder/bst.log" >&2; exit 1; }
has 'Build Queue: .*failed 0' "$folder/bst.log"
ready 2
for name in one two; do
    [ "$("$CROFT" agents | awk -v name="$name" '$1 ~ name' | wc -l)" -ge 1 ]
done
bst artifact checkout --directory "$folder/out-remote" all.bst
grep -q 'Hello, world!' "$folder/out-remote/usr/share/report"

echo "a machine that never built gets it all, without building"
home second remote
bst build --deps all all.bst
has 'Build Queue: +processed 0' "$folder/bst.log"
bst artifact checkout --directory "$folder/out-pulled" all.bst
diff -r --no-dereference "$folder/out-remote" "$folder/out-pulled"

if builds_here; then
    echo "what was built here and there is the same, file by file"
    home local
    bst build all.bst
    bst artifact checkout --directory "$folder/out-local" all.bst
    diff -r --no-dereference "$folder/out-local" "$folder/out-remote"
    modes() { (cd "$1" && find . -printf '%p %y %#m %l\n' | sort); }
    diff <(modes "$folder/out-local") <(modes "$folder/out-remote")
else
    echo "(a build here, to compare with, is left out: bubblewrap cannot run in a chroot)"
fi
find "$folder/out-remote" -type f | wc -l | sed 's/$/ files/'
