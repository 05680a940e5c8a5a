#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server in front of another cache: a second croft by gRPC and by HTTP, nginx, with TLS as well; and ccache,
# which keeps its results in a blob plane.
. "$(dirname "$0")/lib.sh"

# another NAME ARGUMENT...: a server beside those that run.
another() {
    address=127.0.0.1:0 plane=127.0.0.1:0
    serve "$@"
}

# On a port that is free; nothing else may be had from nginx but what is below /cache.
# start_nginx LISTEN_OPTION SETTING...
nginx_pid=
start_nginx() {
    local listen=${1:-}
    shift || true
    mkdir -p "$folder/www/cache" "$folder/nginx"
    for _ in $(seq 10); do
        nginx_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        cat >"$folder/nginx/conf" <<NGINX
daemon off; master_process off; pid $folder/nginx/pid;
events {}
http {
  access_log off; client_max_body_size 0; client_body_temp_path $folder/nginx/body;
  proxy_temp_path $folder/nginx/t2; fastcgi_temp_path $folder/nginx/t3;
  uwsgi_temp_path $folder/nginx/t4; scgi_temp_path $folder/nginx/t5;
  server {
    listen 127.0.0.1:$nginx_port $listen;
    $*
    location /cache/ { root $folder/www; dav_methods PUT; create_full_put_path on; }
  }
}
NGINX
        nginx -e "$folder/nginx.log" -c "$folder/nginx/conf" 2>/dev/null &
        nginx_pid=$!
        for _ in $(seq 100); do
            kill -0 "$nginx_pid" 2>/dev/null || break
            if (: </dev/tcp/127.0.0.1/"$nginx_port") 2>/dev/null; then
                pids+=("$nginx_pid")
                return 0
            fi
            sleep 0.1
        done
    done
    echo "nginx does not start" >&2
    return 1
}

tree=$folder/tree
mkdir -p "$tree/a/b"
for i in $(seq 300); do echo "file $i" >"$tree/a/b/$i"; done
head -c 3000000 /dev/urandom >"$tree/large"

serve behind
behind=$address behind_plane=$plane behind_pid=$server
digest=$("$CROFT" import "$tree")

echo "what the upstream has is read through, by gRPC"
another front --upstream "grpc://$behind"
front=$address front_plane=$plane
"$CROFT" export "$digest" "$folder/out"
diff -r "$tree" "$folder/out"

echo "what is written is written through"
echo new >"$tree/a/new"
head -c 2000000 /dev/urandom >"$tree/new-large"
second=$("$CROFT" import "$tree")
till "$CROFT" cat --server "grpc://$behind" "$second:new-large"
"$CROFT" cat --server "grpc://$behind" "$second:new-large" | cmp - "$tree/new-large"

echo "what is damaged is fetched again"
for name in "file 7" "file 8"; do
    python3 - "$folder/front/store/segments" "$name" <<'PYTHON'
import os, sys
needle = sys.argv[2].encode() + b"\n"
for name in os.listdir(sys.argv[1]):
    with open(os.path.join(sys.argv[1], name), "r+b") as file:
        at = file.read().find(needle)
        if at >= 0:
            file.seek(at)
            file.write(b"F")
            sys.exit()
sys.exit("it is nowhere in the store")
PYTHON
done
rm -rf "$folder/out"
"$CROFT" export "$second" "$folder/out"
diff -r "$tree" "$folder/out"

echo "a dead upstream is a miss, and all that was read is still there"
kill -KILL "$behind_pid"
rm -rf "$folder/out"
"$CROFT" export "$second" "$folder/out"
diff -r "$tree" "$folder/out"
fails 1 "" "$CROFT" blob stat "$(printf '%064d-7' 0)"
echo newer >"$tree/a/newer"
third=$("$CROFT" import "$tree")

echo "what was written meanwhile is sent when it is back"
address=$behind plane=$behind_plane
serve behind
behind_pid=$server
till "$CROFT" cat --server "grpc://$behind" "$third:a/newer"

echo "by HTTP"
another web --upstream "http://$behind_plane"
web_plane=$plane
"$CROFT" export "$third" "$folder/out-web"
diff -r "$tree" "$folder/out-web"
hash=$(sha256sum "$tree/large" | cut -d' ' -f1)
another web2 --upstream "http://$web_plane"
curl -sSf "http://$plane/cas/$hash" | cmp - "$tree/large"

echo "nginx as the upstream"
start_nginx
another cached --upstream "http://127.0.0.1:$nginx_port/cache/"
cached_plane=$plane
curl -sSf -T "$tree/large" "http://$plane/cas/$hash"
till cmp "$tree/large" "$folder/www/cache/cas/$hash"
another cached2 --upstream "http://127.0.0.1:$nginx_port/cache"
curl -sSf "http://$plane/cas/$hash" | cmp - "$tree/large"
"$CROFT" blob get "$hash-3000000" | cmp - "$tree/large"

echo "wrong bytes are a miss"
small=$(sha256sum "$tree/a/new" | cut -d' ' -f1)
echo bad >"$folder/www/cache/cas/$small"
same 404 "$(curl -s -o /dev/null -w '%{http_code}' "http://$plane/cas/$small")"
fails 1 "" "$CROFT" blob stat "$small-4"

echo "nginx with TLS: its certificate must be for its name, and of whom we believe"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$folder/nginx.key" -out "$folder/nginx.pem" -days 2 \
    -subj "/CN=nginx" -addext subjectAltName=IP:127.0.0.1 >/dev/null 2>&1
tls=("ssl_certificate $folder/nginx.pem;" "ssl_certificate_key $folder/nginx.key;")
plain_port=$nginx_port
start_nginx ssl "${tls[@]}"
another secret --upstream "https://127.0.0.1:$nginx_port/cache" --upstream-ca "$folder/nginx.pem"
curl -sSf "http://$plane/cas/$hash" | cmp - "$tree/large"
newest=$(sha256sum "$tree/new-large" | cut -d' ' -f1)
curl -sSf -T "$tree/new-large" "http://$plane/cas/$newest"
till cmp "$tree/new-large" "$folder/www/cache/cas/$newest"
another unbelieving --upstream "https://127.0.0.1:$nginx_port/cache"
same 404 "$(curl -s -o /dev/null -w '%{http_code}' "http://$plane/cas/$hash")"
till grep -q 'TLS with a peer: self-signed certificate' "$folder/unbelieving.log"
another misnamed --upstream "https://localhost:$nginx_port/cache" --upstream-ca "$folder/nginx.pem"
same 404 "$(curl -s -o /dev/null -w '%{http_code}' "http://$plane/cas/$hash")"
till grep -q 'TLS with a peer: ' "$folder/misnamed.log"
another unsecret --upstream "https://127.0.0.1:$plain_port/cache"
same 404 "$(curl -s -o /dev/null -w '%{http_code}' "http://$plane/cas/$hash")"

echo "an upstream that dies in mid-read is a miss"
kill -KILL "$nginx_pid"
another slow --upstream "https://127.0.0.1:$nginx_port/cache" --upstream-ca "$folder/nginx.pem"
slow_plane=$plane
start_nginx ssl "${tls[@]}" "limit_rate 200k;"
another dying --upstream "https://127.0.0.1:$nginx_port/cache" --upstream-ca "$folder/nginx.pem"
curl -s -o /dev/null -w '%{http_code}' "http://$plane/cas/$hash" >"$folder/code" &
reader=$!
till grep -qE "$(printf '[0-9A-F]{8}:%04X [0-9A-F]{8}:[0-9A-F]{4} 01 ' "$nginx_port")" /proc/net/tcp
kill -KILL "$nginx_pid"
wait "$reader"
same 404 "$(cat "$folder/code")"
same 404 "$(curl -s -o /dev/null -w '%{http_code}' "http://$slow_plane/cas/$hash")"

echo "ccache keeps its results here"
cat >"$folder/source.c" <<'C'
#include <stdio.h>
int main(void) { puts("hello"); return 0; }
C
# compile NAME PLANE: with a local cache of its own, which is empty.
compile() {
    (
        export CCACHE_DIR=$folder/ccache-$1 CCACHE_CONFIGPATH=$folder/ccache-$1.conf
        export CCACHE_REMOTE_STORAGE="http://$2|layout=bazel" CCACHE_LOGFILE=$folder/ccache-$1.log
        rm -f "$folder/source.o"
        cd "$folder"
        ccache gcc -c source.c -o source.o
        ccache --print-stats >"$folder/ccache-$1.stats"
    )
}
# count NAME COUNTER
count() {
    awk -v name="$2" '$1 == name { print $2 }' "$folder/ccache-$1.stats"
}
compile one "$cached_plane"
same 1 "$(count one cache_miss)"
cp "$folder/source.o" "$folder/first.o"
compile two "$cached_plane"
same 0 "$(count two cache_miss)"
cmp "$folder/source.o" "$folder/first.o"

echo "and finds them through an upstream"
till test -n "$(find "$folder/www/cache/ac" -type f -print -quit)"
another cached3 --upstream "http://$cached_plane"
compile three "$plane"
same 0 "$(count three cache_miss)"
cmp "$folder/source.o" "$folder/first.o"

for state in behind front web cached cached2 cached3 secret dying; do
    "$CROFT" fsck --state "$folder/$state" | grep '^clean' >/dev/null
done
