#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# BuildBox 1.4 (Debian sid): casupload and casdownload, trexe, and recc as a compiler's launcher.
. "$(dirname "$0")/lib.sh"
wants dpkg-deb dpkg

install buildbox-sid sh -c 'rmdir "$2" && "$1" "$2" buildbox coreutils dash base-files' sh "$here/sid.py"
buildbox=$client
toolchain

serve server
agent one --slots 2 --root-image "$toolchain"
ready 1

# Each in a copy of the root, so that what it leaves goes with the test.
cp -al "$buildbox" "$folder/box" 2>/dev/null || cp -a "$buildbox" "$folder/box"
mkdir -p "$folder/box/work"
mkdir -p "$folder/box/dev"
mount --bind /dev "$folder/box/dev"
trap 'status=$?; umount -l "$folder/box/dev"; finish $status' EXIT
box() { # box VARIABLE=VALUE... COMMAND ARGUMENT...
    loopback chroot "$folder/box" /usr/bin/env -i -C /work PATH=/usr/bin HOME=/work LC_ALL=C "$@"
}

echo "casupload puts a tree here, casdownload gets it back"
mkdir -p "$folder/box/work/tree/sub"
echo one >"$folder/box/work/tree/one"
echo two >"$folder/box/work/tree/sub/two"
chmod 755 "$folder/box/work/tree/one"
ln -s sub/two "$folder/box/work/tree/link"
head -c 9000000 /dev/urandom >"$folder/box/work/tree/large"
box casupload --remote="http://$address" --output-digest-file=digest tree >"$folder/casupload.log" 2>&1
digest=$(cat "$folder/box/work/digest")
same "large link one sub" "$("$CROFT" ls "${digest/\//-}" | tr '\n' ' ' | sed 's/ $//')"
box casdownload --remote="http://$address" --root-digest="$digest" --destination-dir=back \
    >"$folder/casdownload.log" 2>&1
diff -r --no-dereference "$folder/box/work/tree" "$folder/box/work/back"
[ -x "$folder/box/work/back/one" ]

echo "trexe runs a command on the farm"
mkdir "$folder/box/work/input"
echo 'int main(void) { return 7; }' >"$folder/box/work/input/seven.c"
box trexe --remote="http://$address" --input-path=input --output-path=seven --d=out \
    --env=PATH=/usr/bin --log-level=info /usr/bin/gcc seven.c -o seven >"$folder/trexe.log" 2>&1 || { cat "$folder/trexe.log"; exit 1; }
status=0
"$folder/box/work/out/seven" || status=$?
same 7 "$status"

echo "a job has the agent's network where it asks for it and the agent allows it, and else none"
reach() { # NETWORK: by a folder of its own
    rm -rf "$folder/box/work/out"
    box trexe --remote="http://$address" --input-path=input --output-path=reached --d=out --env=PATH=/usr/bin \
        --platform-properties="network=$1" --log-level=info \
        /usr/bin/bash -c "exec 3<>/dev/tcp/${plane%:*}/${plane#*:} && echo reached >reached" >"$folder/trexe.log" 2>&1
}
status=0
reach on || status=$?
[ "$status" -ne 0 ]
has 'this agent does not allow: start it with --allow-network' "$folder/trexe.log"
kill -TERM "$agent"
wait "$agent" || true
agent one --slots 2 --root-image "$toolchain" --allow-network
ready 1
reach on || { cat "$folder/trexe.log"; exit 1; }
same reached "$(cat "$folder/box/work/out/reached")"
status=0
reach off || status=$?
[ "$status" -ne 0 ] && [ ! -e "$folder/box/work/out/reached" ]

echo "recc compiles on the farm, and the second time from its cache"
cat >"$folder/box/work/hello.c" <<'TEXT'
#include "hello.h"
#include <stdio.h>
int main(void) { puts(HELLO); return 0; }
TEXT
echo '#define HELLO "hello from the farm"' >"$folder/box/work/hello.h"
compile() {
    rm -f "$folder/box/work/hello.o"
    box RECC_SERVER="http://$address" RECC_PROJECT_ROOT=/work RECC_LOG_LEVEL=info \
        RECC_DEPS_OVERRIDE=hello.c,hello.h RECC_OUTPUT_FILES_OVERRIDE=hello.o recc /usr/bin/gcc -c hello.c -o hello.o >"$folder/recc.log" 2>&1 ||
        { cat "$folder/recc.log"; exit 1; }
}
compile
has "Executing action remotely" "$folder/recc.log"
compile
has "[Cc]ache hit" "$folder/recc.log"
gcc "$folder/box/work/hello.o" -o "$folder/hello"
same "hello from the farm" "$("$folder/hello")"
