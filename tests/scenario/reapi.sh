#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The conformity suite against a farm of ours, which must pass all of it.
. "$(dirname "$0")/lib.sh"

/usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || {
    echo "python3-grpcio or python3-protobuf is missing: not run" >&2
    exit 77
}
[ "$(id -u)" -eq 0 ] && [ -e /dev/fuse ] || { echo "root and /dev/fuse are needed: not run" >&2; exit 77; }
serve server --unfit-wait 2
"$CROFT" agent --state "$folder/agent" --name one --slots 2 >>"$folder/agent.log" 2>&1 &
pids+=($!)
suite=$(dirname "$0")/../reapi/run
SERVER=$address "$suite" --json "$folder/found.json" --junit "$folder/found.xml"
python3 - "$folder" <<'PYTHON'
import json, sys, xml.etree.ElementTree as xml
found, cases = json.load(open(sys.argv[1] + "/found.json")), xml.parse(sys.argv[1] + "/found.xml").getroot()
assert (len(found["tests"]), found["failed"]) == (len(cases), int(cases.get("failures"))), found
assert {case.get("name") for case in cases.findall("testcase[skipped]")} == {
    test["name"].split(".")[1] for test in found["tests"] if test["outcome"] == "skipped"}, found
PYTHON
SERVER=$address INSTANCE=some/instance "$suite"
