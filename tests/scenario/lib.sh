# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by every scenario: a folder of its own, processes that are ended by pid, short checks.
# CROFT is the binary; a scenario is run alone by `tests/scenario/NAME.sh build/cli/croft`.
set -euo pipefail
CROFT=$(realpath "${1:-${CROFT:?the path of the croft binary is missing}}")
export LC_ALL=C.UTF-8
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/croft-scenario-XXXXXX")
pids=()

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
