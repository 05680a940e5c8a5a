#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ccache (Debian 12) keeps its results in the farm's HTTP cache: another machine compiles nothing.
. "$(dirname "$0")/lib.sh"
wants ccache ccache

serve server
export CCACHE_REMOTE_STORAGE="http://$plane|layout=bazel" CCACHE_COMPILERCHECK=content
printf '#include "hello.h"\nint main(void) { return HELLO; }\n' >"$folder/hello.c"
echo '#define HELLO 7' >"$folder/hello.h"
# compile MACHINE: with a cache of its own; its counts go to $folder/MACHINE.counts.
compile() {
    export CCACHE_DIR=$folder/$1
    (cd "$folder" && loopback ccache gcc -c hello.c -o "$1.o")
    ccache --print-stats >"$folder/$1.counts"
}
counts() { awk -v name="$2" '$1 == name { print $2 }' "$folder/$1.counts"; }

echo "what one machine compiled another finds"
compile first
same 1 "$(counts first cache_miss)"
same 0 "$(counts first remote_storage_error)"
compile second
same 0 "$(counts second cache_miss)"
same 1 "$(counts second remote_storage_hit)"
cmp "$folder/first.o" "$folder/second.o"

echo "a header that changed is another input"
echo '#define HELLO 8' >"$folder/hello.h"
compile third
same 1 "$(counts third cache_miss)"

echo "without the farm it compiles by itself"
crash
compile fourth
same 1 "$(counts fourth cache_miss)"
cmp "$folder/third.o" "$folder/fourth.o"
