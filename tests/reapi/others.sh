#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Servers of others: as upstreams of ours, and under the suite, which shows whether the suite itself is right: whatever fails
# there must be explained in others/NAME, a line for each test: its name, and what the server does.
. "$(dirname "$0")/../clients/lib.sh"
lists=$(realpath "$(dirname "$0")")/others
suite=$lists/../run
wants dpkg-deb dpkg

install buildbox-sid sh -c 'rmdir "$2" && "$1" "$2" buildbox coreutils dash base-files' sh "$here/sid.py"
buildbox=$client
# BuildGrid's scheduler keeps its jobs in PostgreSQL alone.
install postgresql-sid sh -c 'rmdir "$2" && "$1" "$2" postgresql coreutils dash base-files util-linux' \
    sh "$here/sid.py"
postgresql=$client
# It does without psycopg2 from SQLAlchemy 2.1 on, but then calls what only psycopg2 has.
python_environment() {
    /usr/bin/python3 -m venv "$1" &&
        "$1/bin/pip" install 'buildgrid[database]==0.4.4' 'sqlalchemy<2.1'
}
install buildgrid-0.4.4 python_environment
buildgrid=$client

# Only loopback is spoken to from here on.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy

# root FOLDER COPY: a copy that can be written to and has /dev.
root() {
    cp -al "$1" "$2" 2>/dev/null || cp -a "$1" "$2"
    mkdir -p "$2/dev" "$2/work"
    mount --bind /dev "$2/dev"
}
some_run() {
    local pid
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && return; done
    return 1
}
leave() {
    local status=$? made
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    # buildbox-casd may wait for its stagers for ever.
    for _ in $(seq 100); do
        some_run || break
        sleep 0.1
    done
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # The stagers' own, too, where one died of a name that no file can have.
    awk -v folder="$folder/" 'index($2, folder) == 1 {print $2}' /proc/mounts | tac |
        while read -r made; do umount -l "$made"; done
    finish "$status"
}
trap leave EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# background LOG COMMAND ARGUMENT...
background() {
    local log=$1
    shift
    "$@" >"$folder/$log.log" 2>&1 &
    pids+=("$!")
}

# answers PORT LOG: waits until something listens there.
answers() {
    for _ in $(seq 600); do
        (: </dev/tcp/127.0.0.1/"$1") 2>/dev/null && return
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "nothing answers at port $1:" >&2
    tail -n 20 "$folder/$2.log" >&2
    return 1
}

box() { # box ROOT COMMAND ARGUMENT...: its pid is that of the command.
    exec chroot "$1" /usr/bin/env -i PATH=/usr/bin HOME=/work LC_ALL=C "${@:2}"
}

# compare NAME PORT: the suite's failures there against those that are explained.
compare() {
    local failures explained unexplained
    SERVER=127.0.0.1:$2 PATIENCE=30 "$suite" >"$folder/$1.out" || true
    tail -n 1 "$folder/$1.out" | sed "s/^/$1: /"
    grep -q '^[0-9]* passed, ' "$folder/$1.out"
    failures=$(sed -n 's/^FAIL *[A-Za-z]* *//p' "$folder/$1.out" | sort)
    explained=$(sed -n 's/^\([a-z_]*\.[a-z_]*\):.*/\1/p' "$lists/$1" | sort)
    unexplained=$(comm -23 <(echo "$failures") <(echo "$explained"))
    if [ -n "$unexplained" ]; then
        cat "$folder/$1.out" >&2
        echo "not explained in $lists/$1:" >&2
        echo "$unexplained" >&2
        return 1
    fi
    comm -13 <(echo "$failures") <(echo "$explained") | sed "s/^/    passes now, and is explained in vain: /"
    # A server that does nothing fails nothing that is not explained: enough must have passed.
    [ "$(sed -n 's/^\([0-9]*\) passed.*/\1/p' "$folder/$1.out")" -ge "$3" ]
}

# before NAME PORT: a store of ours with that one as its upstream: what is put gets there, and another finds it there.
before() {
    local digest state
    address=127.0.0.1:0 plane=127.0.0.1:0
    serve "$1-writes" --upstream "grpc://127.0.0.1:$2"
    digest=$("$CROFT" import "$folder/tree")
    for _ in $(seq 300); do
        "$CROFT" export --server "grpc://127.0.0.1:$2" "$digest" "$folder/$1-sent" 2>/dev/null && break
        rm -rf "$folder/$1-sent"
        sleep 0.1
    done
    diff -r "$folder/tree" "$folder/$1-sent"
    address=127.0.0.1:0 plane=127.0.0.1:0
    serve "$1-reads" --upstream "grpc://127.0.0.1:$2"
    "$CROFT" export "$digest" "$folder/$1-read"
    diff -r "$folder/tree" "$folder/$1-read"
    echo "$1: is an upstream"
}
mkdir "$folder/tree"
for i in $(seq 50); do echo "file $i" >"$folder/tree/$i"; done
head -c 3000000 /dev/urandom >"$folder/tree/large"

root "$buildbox" "$folder/box"

echo "buildbox-casd, with --buildbox-run for jobs"
port=$(free_port)
background casd box "$folder/box" buildbox-casd --bind="127.0.0.1:$port" \
    --buildbox-run=/usr/bin/buildbox-run-hosttools /work/casd
answers "$port" casd
compare buildbox-casd "$port" 100
before buildbox-casd "$port"

echo "BuildGrid, with PostgreSQL, and BuildBox's worker for jobs"
root "$postgresql" "$folder/sql"
programs=$(cd "$folder/sql" && echo usr/lib/postgresql/*/bin)
rm -f "$folder/sql/etc/passwd"
echo "sql:x:65534:65534::/work:/bin/sh" >"$folder/sql/etc/passwd"
chown 65534:65534 "$folder/sql/work"
chmod 1777 "$folder/sql/tmp"
sql() {
    box "$folder/sql" setpriv --reuid 65534 --regid 65534 --clear-groups "/$programs/$1" -D /work/db "${@:2}"
}
(sql initdb -E UTF8 -U bgd -A trust --no-sync) >"$folder/initdb.log" 2>&1
port=$(free_port) sql_port=$(free_port) cas_port=$(free_port)
background sql sql postgres -c listen_addresses=127.0.0.1 -c "port=$sql_port" \
    -c unix_socket_directories= -c fsync=off
answers "$sql_port" sql
database=postgresql+psycopg2://bgd@127.0.0.1:$sql_port/postgres
cat >"$folder/buildgrid.yml" <<TEXT
server:
  - !channel
    address: "127.0.0.1:$port"
    insecure-mode: true
authorization:
  method: none
connections:
  - !sql-connection &sql
    connection-string: $database
storages:
  - !disk-storage &blobs
    path: $folder/blobs
caches:
  - !lru-action-cache &results
    storage: *blobs
    max-cached-refs: 1000
    allow-updates: true
    cache-failed-actions: true
schedulers:
  - !sql-scheduler &scheduler
    sql: *sql
    storage: *blobs
    action-cache: *results
    assigners:
      - !priority-age-assigner
        interval: 0.1
instances:
  - name: ''
    services:
      - !action-cache
        cache: *results
      - !execution
        scheduler: *scheduler
      - !bots
        scheduler: *scheduler
      - !cas
        storage: *blobs
      - !bytestream
        storage: *blobs
thread-pool-size: 100
TEXT
# The venv's scripts name the folder that it was first in.
bgd() { exec "$buildgrid/bin/python3" -c 'from buildgrid.server.app import cli; cli()' "$@"; }
(bgd migrate apply "$database") >"$folder/migrate.log" 2>&1
background bgd bgd server start "$folder/buildgrid.yml"
answers "$port" bgd
background worker-casd box "$folder/box" buildbox-casd --cas-remote="http://127.0.0.1:$port" \
    --bind="127.0.0.1:$cas_port" /work/worker
answers "$cas_port" worker-casd
background worker box "$folder/box" buildbox-worker --bots-remote="http://127.0.0.1:$port" \
    --cas-remote="http://127.0.0.1:$cas_port" --buildbox-run=/usr/bin/buildbox-run-hosttools \
    --concurrent-jobs=2 one
compare buildgrid "$port" 80
before buildgrid "$port"
