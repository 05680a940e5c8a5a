#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# moon (npm) keeps what its tasks make in the farm: over gRPC, plain and compressed, and over HTTP.
. "$(dirname "$0")/lib.sh"
wants npm npm
wants git git

install moon-2.5.5 npm_packages @moonrepo/cli@2.5.5
moon() { # VARIABLE=VALUE... ARGUMENT...: in the folder of $work
    (cd "$work" && loopback PATH="$client/node_modules/.bin:$PATH" MOON_TOGGLE_TELEMETRY=false "$@") >"$folder/moon.log" 2>&1 || {
        cat "$folder/moon.log" >&2
        return 1
    }
}

mkdir -p "$folder/first/.moon" "$folder/first/one"
cat >"$folder/first/.moon/workspace.yml" <<'TEXT'
projects: [one]
telemetry: false
TEXT
# How often it ran is no input and no output.
cat >"$folder/first/one/moon.yml" <<'TEXT'
tasks:
  build:
    command: sh make.sh
    inputs: [make.sh, in.txt]
    outputs: [out]
TEXT
cat >"$folder/first/one/make.sh" <<TEXT
echo "it is made"
echo ran >>"$folder/runs"
mkdir -p out/deep
tr a-z A-Z <in.txt >out/deep/text
printf '#!/bin/sh\necho tool\n' >out/tool
chmod 755 out/tool
head -c 9000000 /dev/urandom >out/large
TEXT
git -C "$folder/first" init -q
git -C "$folder/first" -c user.name=name -c user.email=name@host.example commit -q --allow-empty -m empty
ran() { wc -l <"$folder/runs"; }

# fresh: a copy that has never built anything.
copies=0
fresh() {
    copies=$((copies + 1))
    work=$folder/work-$copies
    cp -r "$folder/first" "$work"
    echo "$1" >"$work/one/in.txt"
}

# shared INPUT VARIABLE=VALUE...: what one machine made another finds.
shared() {
    local input=$1 first before
    shift
    fresh "$input"
    first=$work before=$(ran)
    moon "$@" moon run one:build
    has 'Tasks: 1 completed$' "$folder/moon.log"
    same $((before + 1)) "$(ran)"
    fresh "$input"
    moon "$@" moon run one:build
    has 'cached from remote' "$folder/moon.log"
    has 'it is made' "$folder/moon.log"
    same $((before + 1)) "$(ran)"
    diff -r "$first/one/out" "$work/one/out"
    same tool "$("$work/one/out/tool")"
}
touch "$folder/runs"
serve server

echo "by gRPC"
shared one MOON_REMOTE_HOST="grpc://$address"
echo "by gRPC, compressed"
shared two MOON_REMOTE_HOST="grpc://$address" MOON_REMOTE_CACHE_COMPRESSION=zstd
echo "by HTTP"
shared three MOON_REMOTE_API=http MOON_REMOTE_HOST="http://$plane"

echo "another input is made anew"
fresh four
moon MOON_REMOTE_HOST="grpc://$address" moon run one:build
same 4 "$(ran)"

echo "without the farm it builds by itself"
crash
fresh one
moon MOON_REMOTE_HOST="grpc://$address" moon run one:build
same 5 "$(ran)"
