#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A farm that knows its clients by certificates: who has none gets nothing, neither by calls nor by the blob
# planes of the server and of agents.
. "$(dirname "$0")/lib.sh"

certificate() { # NAME SUBJECT
    openssl req -newkey rsa:2048 -nodes -keyout "$folder/$1.key" -out "$folder/$1.csr" -subj "/CN=$2" \
        >/dev/null 2>&1
    openssl x509 -req -in "$folder/$1.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial \
        -days 2 -out "$folder/$1.pem" -extfile <(echo "subjectAltName=IP:127.0.0.1") >/dev/null 2>&1
}
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$folder/ca.key" -out "$folder/ca.pem" -days 2 \
    -subj "/CN=a farm" >/dev/null 2>&1
certificate server server
certificate client somebody

serve server --tls-cert "$folder/server.pem" --tls-key "$folder/server.key" --tls-client-ca "$folder/ca.pem"
export CROFT_SERVER=grpcs://$address
known=(--tls-ca "$folder/ca.pem" --tls-cert "$folder/client.pem" --tls-key "$folder/client.key")

root=$folder/root
mkdir -p "$root/bin"
cp /bin/busybox "$root/bin/sh"
head -c 3000000 /dev/urandom >"$root/large"

echo "calls want a certificate"
fails 1 "" "$CROFT" import --tls-ca "$folder/ca.pem" "$root"
digest=$("$CROFT" import "${known[@]}" --name root "$root")

echo "agents and jobs"
peers=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$CROFT" agent --state "$folder/agent" --name one --plane "$peers" "${known[@]}" >>"$folder/agent.log" 2>&1 &
pids+=("$!")
for _ in $(seq 300); do "$CROFT" agents "${known[@]}" | grep ' ready ' >/dev/null && break; sleep 0.1; done
same hello "$("$CROFT" run -q "${known[@]}" -d root -- /bin/sh -c 'cat /large >/dev/null; echo hello')"

echo "blobs want the key, on every plane"
hash=$(sha256sum "$root/bin/sh" | cut -d' ' -f1)
key=$(cat "$folder/server/plane-key")
same "600" "$(stat -c %a "$folder/server/plane-key")"
status() {
    curl -s -o "$folder/body" -w '%{http_code}' --cacert "$folder/ca.pem" --cert "$folder/client.pem" \
        --key "$folder/client.key" "$@" || true
}
for at in "$plane" "$peers"; do
    same 401 "$(status "https://$at/cas/$hash")"
    same 401 "$(status -u croft:wrong "https://$at/cas/$hash")"
    same 401 "$(status --data "$hash-1" "https://$at/batch")"
    same 200 "$(status -u "croft:$key" "https://$at/cas/$hash")"
    cmp "$folder/body" "$root/bin/sh"
    echo "$at: nothing in clear text, nothing for strangers"
    same 000 "$(status -u "croft:$key" "http://$at/cas/$hash")"
    same 000 "$(curl -s -o /dev/null -w '%{http_code}' --cacert "$folder/ca.pem" -u "croft:$key" "https://$at/cas/$hash" || true)"
done
same 401 "$(status -T "$root/bin/sh" "https://$plane/cas/$hash")"
if cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -F -f "$folder/server/plane-key"; then
    echo "the key is among the arguments of a process" >&2
    exit 1
fi

echo "a mount, by name and by digest"
mkdir "$folder/mnt"
"$CROFT" mount "${known[@]}" --state "$folder/caches" root "$folder/mnt"
cmp "$folder/mnt/large" "$root/large"
umount "$folder/mnt"
"$CROFT" mount "${known[@]}" --state "$folder/caches" "$folder/mnt"
cmp "$folder/mnt/names/root/large" "$root/large"
umount "$folder/mnt"
CROFT_PLANE_KEY=$key "$CROFT" mount "${known[@]}" --plane "https://$plane" --state "$folder/caches" "$digest" "$folder/mnt"
cmp "$folder/mnt/bin/sh" "$root/bin/sh"
umount "$folder/mnt"

echo "the same key after a restart"
crash
serve server --tls-cert "$folder/server.pem" --tls-key "$folder/server.key" --tls-client-ca "$folder/ca.pem"
export CROFT_SERVER=grpcs://$address
same "$key" "$(cat "$folder/server/plane-key")"
for _ in $(seq 300); do "$CROFT" agents "${known[@]}" | grep ' ready ' >/dev/null && break; sleep 0.1; done
head -c 100000 /dev/urandom >"$folder/more"
mkdir "$folder/input"
mv "$folder/more" "$folder/input/"
same "100000" "$("$CROFT" run -q "${known[@]}" -d root -i "$folder/input:in" -- /bin/sh -c 'wc -c </in/more')"
