#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# grpc-js (npm) and a reflection client on top of it: every method of every service is called.
. "$(dirname "$0")/lib.sh"
wants npm npm

install grpc-js-1.14.7 npm_packages @grpc/grpc-js@1.14.7 grpc-js-reflection-client@1.4.2
serve server
agent one --slots 1
ready 1
loopback node "$here/reflect.js" "$address" "$client/node_modules" >"$folder/called" 2>&1 || {
    cat "$folder/called" >&2
    exit 1
}
tail -n 1 "$folder/called"
for method in Execution/Execute Execution/WaitExecution ByteStream/Write ContentAddressableStorage/GetTree \
    ActionCache/GetActionResult Capabilities/GetCapabilities Push/PushBlob Fetch/FetchDirectory Operations/GetOperation; do
    has "$method: " "$folder/called"
done
"$CROFT" agents | grep ' ready ' >/dev/null
