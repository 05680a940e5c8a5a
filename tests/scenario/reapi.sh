#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The conformity suite against a server of ours, which must pass all of it.
. "$(dirname "$0")/lib.sh"

/usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || {
    echo "python3-grpcio or python3-protobuf is missing: not run" >&2
    exit 77
}
serve server
SERVER=$address "$(dirname "$0")/../reapi/run"
SERVER=$address INSTANCE=some/instance "$(dirname "$0")/../reapi/run"
