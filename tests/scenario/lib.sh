# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by every scenario: a folder of its own, processes that are ended by pid, short checks.
# CROFT is the binary; a scenario is run alone by `tests/scenario/NAME.sh build/cli/croft`.
set -euo pipefail
CROFT=$(realpath "${1:-${CROFT:?the path of the croft binary is missing}}")
export LC_ALL=C.UTF-8
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/croft-scenario-XXXXXX")
pids=()

# till COMMAND...: waits until it succeeds, a minute at most.
till() {
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    echo "in vain: $*" >&2
    return 1
}

# finish [STATUS]
finish() {
    local status=${1:-$?}
    set +e
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null && { echo "$pid did not end by itself and was killed" >&2; ps -o args= -p "$pid"; tail -n 5 "$folder"/*.log; }
        wait "$pid" 2>/dev/null
    done
    if [ "$status" -ne 0 ]; then
        tail -n 40 "$folder"/*.log 2>/dev/null
        echo "FAILED: $0; what it left is in $folder" >&2
    else
        rm -rf "$folder"
    fi
    exit "$status"
}
trap finish EXIT

# serve NAME ARGUMENT...: a server on free ports the first time, on the same ones after that.
address=127.0.0.1:0 plane=127.0.0.1:0
serve() {
    local name=$1
    shift
    rm -f "$folder/ports"
    "$CROFT" serve --state "$folder/$name" --listen "$address" --plane "$plane" \
        --ports-file "$folder/ports" "$@" >>"$folder/$name.log" 2>&1 &
    server=$!
    pids+=("$server")
    for _ in $(seq 300); do
        [ -s "$folder/ports" ] && break
        kill -0 "$server" 2>/dev/null || { echo "the server ended at once" >&2; return 1; }
        sleep 0.1
    done
    local port plane_port
    read -r port plane_port <"$folder/ports"
    address=127.0.0.1:$port plane=127.0.0.1:$plane_port
    export CROFT_SERVER=grpc://$address
}

# crash: the server is gone at once, as by kill -9.
crash() {
    kill -KILL "$server"
    wait "$server" 2>/dev/null || true
}

# fails STATUS WORDS COMMAND...: ends with that status (or one of "1 or 2") and says these words on standard error.
fails() {
    local expected=$1 words=$2 status=0
    shift 2
    "$@" >"$folder/stdout" 2>"$folder/stderr" || status=$?
    if [[ ! " $expected " == *" $status "* ]] || { [ -n "$words" ] && ! grep -qF -- "$words" "$folder/stderr"; }; then
        echo "expected status $expected and \"$words\" of: $*" >&2
        echo "came status $status and: $(cat "$folder/stderr")" >&2
        return 1
    fi
}

# same EXPECTED GOT
same() {
    [ "$1" = "$2" ] || { echo "expected \"$1\", came \"$2\"" >&2; return 1; }
}

# ready COUNT: waits until that many agents take jobs.
ready() {
    for _ in $(seq 600); do
        [ "$("$CROFT" agents 2>/dev/null | grep -c ' ready ')" -eq "$1" ] && return
        sleep 0.1
    done
    echo "there are no $1 ready agents" >&2
    return 1
}

# busybox_root DIR: a root in which a shell and the usual commands run.
busybox_root() {
    local applet
    mkdir -p "$1/bin"
    cp /bin/busybox "$1/bin/"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
    done
}

# start_farm ARGUMENT...: `croft farm` in $folder/farm, on free ports; its pid is $farm.
start_farm() {
    "$CROFT" farm --state "$folder/farm" --listen 127.0.0.1:0 "$@" >"$folder/farm.out" 2>"$folder/farm.log" &
    farm=$!
    pids+=("$farm")
    for _ in $(seq 300); do grep -qs '^farm at' "$folder/farm.out" && break; sleep 0.1; done
    CROFT_SERVER=$(sed -n 's/^farm at \([^,]*\),.*/\1/p' "$folder/farm.out")
    export CROFT_SERVER
}
