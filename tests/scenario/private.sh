#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A farm whose blobs are private: jobs and mounts of one tenant work as ever, and show another nothing.
. "$(dirname "$0")/lib.sh"

serve server --private-blobs
key=$folder/server/agent-key
same 600 "$(stat -c %a "$key")"
root=$folder/root
mkdir -p "$root/bin"
cp /bin/busybox "$root/bin/sh"
head -c 6000000 /dev/urandom >"$root/large"

echo "an agent without the key is none"
head -c 20 /dev/zero | tr '\0' x >"$folder/wrong"
"$CROFT" agent --state "$folder/stranger" --name stranger --agent-key "$folder/wrong" >"$folder/stranger.log" 2>&1 &
pids+=("$!")
for _ in $(seq 300); do grep "must know its key" "$folder/stranger.log" >/dev/null && break; sleep 0.1; done
grep -q "must know its key" "$folder/stranger.log"
same 0 "$("$CROFT" agents | grep -c ' ready ' || true)"

echo "a tenant's job"
"$CROFT" agent --state "$folder/agent" --name one --agent-key "$key" >>"$folder/agent.log" 2>&1 &
pids+=("$!")
ready 1
export CROFT_INSTANCE=ann
digest=$("$CROFT" import --name root "$root")
job=(-d "$digest" -o out -- /bin/sh -c 'cat /large >out; wc -c </large')
same 6000000 "$("$CROFT" run -q "${job[@]}")"
same 6000000 "$("$CROFT" run -q "${job[@]}")"

echo "another's"
hash=$(sha256sum "$root/large" | cut -d' ' -f1)
status() { curl -s -o "$folder/body" -w '%{http_code}' "$@"; }
same 200 "$(status "http://$plane/ann/cas/$hash")"
same 404 "$(status "http://$plane/bob/cas/$hash")"
same 404 "$(status "http://$plane/cas/$hash")"
same 404 "$(status -u croft:wrong "http://$plane/cas/$hash")"
same 200 "$(status -u "croft:$(cat "$key")" "http://$plane/cas/$hash")"
fails 125 "$digest" env CROFT_INSTANCE=bob "$CROFT" run -q "${job[@]}" # that he knows its name helps nothing
CROFT_INSTANCE=bob "$CROFT" import --name root "$root" >/dev/null
same 6000000 "$(CROFT_INSTANCE=bob "$CROFT" run -q "${job[@]}")"
same 200 "$(status "http://$plane/bob/cas/$hash")"

echo "a mount"
mkdir "$folder/mnt"
"$CROFT" mount --state "$folder/caches" root "$folder/mnt"
cmp "$folder/mnt/large" "$root/large"
umount "$folder/mnt"

echo "after a restart"
crash
serve server --private-blobs
same 200 "$(status "http://$plane/ann/cas/$hash")"
same 404 "$(status "http://$plane/eve/cas/$hash")"

echo "not with an upstream"
fails 1 "blobs cannot be private with an upstream" "$CROFT" serve --state "$folder/other" --listen 127.0.0.1:0 \
    --plane 127.0.0.1:0 --private-blobs --upstream http://127.0.0.1:1
