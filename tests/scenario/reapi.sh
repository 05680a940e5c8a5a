#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The conformity suite against a farm of ours, which must pass all of it.
. "$(dirname "$0")/lib.sh"

/usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || {
    echo "python3-grpcio or python3-protobuf is missing: not run" >&2
    exit 77
}
[ "$(id -u)" -eq 0 ] && [ -e /dev/fuse ] || { echo "root and /dev/fuse are needed: not run" >&2; exit 77; }
serve server
"$CROFT" agent --state "$folder/agent" --name one --slots 2 >>"$folder/agent.log" 2>&1 &
pids+=($!)
suite=$(dirname "$0")/../reapi/run
SERVER=$address "$suite"
SERVER=$address INSTANCE=some/instance "$suite"
