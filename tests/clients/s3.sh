#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A bucket as the upstream: S3rver (npm), plain and with TLS. It looks at whose the key is, but not at what version 4 of
# signatures sign: tests/unit/fs/test_s3.c does that.
. "$(dirname "$0")/lib.sh"
wants npm npm
wants openssl openssl

install s3rver-3.7.1 npm_packages s3rver@3.7.1
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy
unset AWS_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_SESSION_TOKEN AWS_ENDPOINT_URL_S3
export AWS_SHARED_CREDENTIALS_FILE=$folder/credentials

# bucket ARGUMENT...: sets `bucket_port` and `bucket_pid`.
bucket() {
    for _ in $(seq 10); do
        bucket_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        node "$client/node_modules/.bin/s3rver" -d "$folder/buckets" -a 127.0.0.1 -p "$bucket_port" --silent \
            --configure-bucket blobs "$@" >>"$folder/s3rver.log" 2>&1 &
        bucket_pid=$!
        pids+=("$bucket_pid")
        for _ in $(seq 100); do
            kill -0 "$bucket_pid" 2>/dev/null || break
            (: </dev/tcp/127.0.0.1/"$bucket_port") 2>/dev/null && return 0
            sleep 0.1
        done
    done
    cat "$folder/s3rver.log" >&2
    return 1
}
# front NAME ARGUMENT...: a store in front of the bucket.
front() {
    address=127.0.0.1:0 plane=127.0.0.1:0
    serve "$1" --upstream s3://blobs/some/where "${@:2}"
}
# stored COUNT: so many objects are in the bucket.
stored() { [ "$(find "$folder/buckets/blobs" -name '*_object' | wc -l)" -ge "$1" ]; }

tree=$folder/tree
mkdir -p "$tree/a"
for i in $(seq 100); do echo "file $i" >"$tree/a/$i"; done
head -c 3000000 /dev/urandom >"$tree/large"

echo "without credentials it does not start"
fails 1 "no credentials" "$CROFT" serve --state "$folder/none" --listen 127.0.0.1:0 --upstream s3://blobs

echo "blobs and results are written to it, each request signed"
bucket
export AWS_ENDPOINT_URL=http://127.0.0.1:$bucket_port
printf '[default]\naws_access_key_id = S3RVER\naws_secret_access_key = S3RVER\n' >"$AWS_SHARED_CREDENTIALS_FILE"
front one
digest=$("$CROFT" import "$tree")
echo value >"$folder/value"
curl -sSf -T "$folder/value" "http://$plane/ac/$(printf '%064d' 7)"
till stored 104 # files, two Directories, the value
crash

echo "and read from it"
front two
"$CROFT" export "$digest" "$folder/out"
diff -r "$tree" "$folder/out"
curl -sSf "http://$plane/ac/$(printf '%064d' 7)" | cmp - "$folder/value"
crash

echo "with a key that nobody has all is a miss, and nothing gets there"
AWS_ACCESS_KEY_ID=nobody AWS_SECRET_ACCESS_KEY=S3RVER front three
fails 1 "" "$CROFT" export "$digest" "$folder/never"
till grep -q 'answers with 403: what it does not give counts as missing' "$folder/three.log"
before=$(find "$folder/buckets/blobs" -name '*_object' | wc -l)
mkdir "$folder/other"
echo "not for the bucket" >"$folder/other/file"
"$CROFT" import "$folder/other" >/dev/null
till grep -q 'answered a PUT with 403' "$folder/three.log"
same "$before" "$(find "$folder/buckets/blobs" -name '*_object' | wc -l)"
crash

echo "objects that hold other bytes are misses"
small=$(echo "file 5" | sha256sum | cut -d' ' -f1)
object=$(find "$folder/buckets/blobs" -path "*$small*_object")
echo "file 6" >"$object"
front four
same 404 "$(curl -s -o /dev/null -w '%{http_code}' "http://$plane/cas/$small")"
crash

echo "with TLS, where the certificate is believed and only there"
kill "$bucket_pid"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$folder/key.pem" -out "$folder/ca.pem" -days 2 \
    -subj "/CN=bucket" -addext subjectAltName=IP:127.0.0.1 >/dev/null 2>&1
bucket --key "$folder/key.pem" --cert "$folder/ca.pem"
export AWS_ENDPOINT_URL=https://127.0.0.1:$bucket_port
large=$(sha256sum "$tree/large" | cut -d' ' -f1)
front five --upstream-ca "$folder/ca.pem"
curl -sSf "http://$plane/cas/$large" | cmp - "$tree/large"
crash
front six
same 404 "$(curl -s -o /dev/null -w '%{http_code}' "http://$plane/cas/$large")"
till grep -q 'TLS with a peer: self-signed certificate' "$folder/six.log"
