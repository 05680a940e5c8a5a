#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A generic gRPC client (grpcio of Debian 12) that knows reflection alone calls every method of every service.
. "$(dirname "$0")/lib.sh"
/usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || skip "python3-grpcio, python3-protobuf are missing: not run"

serve server
agent one --slots 1
ready 1
loopback /usr/bin/python3 "$here/reflect.py" "$address" >"$folder/called" 2>&1 || { cat "$folder/called" >&2; exit 1; }
tail -n 1 "$folder/called"
for method in Execution/Execute Execution/WaitExecution ByteStream/Write ContentAddressableStorage/GetTree \
    ActionCache/GetActionResult Capabilities/GetCapabilities Push/PushBlob Fetch/FetchDirectory Operations/GetOperation; do
    has "$method: " "$folder/called"
done
"$CROFT" agents | grep -q ' ready '
