#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A farm replays what it ran: its operation log becomes a trace with what was measured, as the jobs' own accounts say.
. "$(dirname "$0")/lib.sh"

busybox_root "$folder/root"
mkdir "$folder/root/data"
head -c 3000000 /dev/urandom >"$folder/root/data/read"
head -c 5000000 /dev/urandom >"$folder/root/data/unread"
start_farm -n 2 --slots 2
ready 2
"$CROFT" import --name root "$folder/root" >/dev/null

echo "jobs run, one of them fails, one is answered from the cache"
for i in 1 2 3 4; do
    "$CROFT" run --json -d root -e PATH=/bin -o out -- sh -c "cat /data/read >/dev/null; echo $i >out" \
        >"$folder/job-$i.json" 2>/dev/null
done
fails 3 "" "$CROFT" run -d root -e PATH=/bin -- sh -c 'exit 3'
"$CROFT" run --json -d root -e PATH=/bin -o out -- sh -c "cat /data/read >/dev/null; echo 4 >out" \
    >"$folder/cached.json" 2>/dev/null
grep -q '"cached": true' "$folder/cached.json"
kill -INT "$farm"
wait "$farm"

log=$folder/farm/serve/operations.log
same "croft-operation-log 1" "$(head -1 "$log")"
same 5 "$(grep -c '^run ' "$log")"
grep -q ' end=exit:3 ' "$log"

echo "the trace is of these jobs"
"$CROFT" bench locality --own "$folder/farm" --write-trace "$folder/trace"
"$CROFT" bench locality --own "$log" --write-trace "$folder/same"
cmp "$folder/trace" "$folder/same"
"$CROFT" bench locality --trace "$folder/trace" --mode recorded --agents 2 --slots 2 --json >"$folder/report"
python3 - "$folder" <<'END'
import json, re, sys
folder = sys.argv[1]
jobs = [json.load(open(f"{folder}/job-{i}.json")) for i in range(1, 5)]
runs = {}
for line in open(f"{folder}/farm/serve/operations.log"):
    if line.startswith("run "):
        fields = dict(word.split("=", 1) for word in line.split()[1:])
        runs[fields["operation"]] = fields
for job in jobs:
    run = runs[job["operation"].rpartition("/")[2]]
    account = job["inputs"]
    assert run["agent"] == job["agent"], (run, job)
    for name, field in ("fetched", "fetched_bytes"), ("touched", "touched_bytes"), ("inputs", "bytes"), ("stall", "stall_ms"):
        assert int(run[name]) == account[field], (name, run, account)
    waited = job["milliseconds"]["execution"] - account["stall_ms"]
    assert abs(int(run["run"]) - max(waited, 0)) <= 2, (run, job["milliseconds"])
    assert int(run["outputs"]) == 1 and int(run["output-bytes"]) == 2, run

roots, reads, notes = [], 0, []
for line in open(f"{folder}/trace"):
    words = line.rstrip("\n").split(" ")
    if words[0] == "root":
        roots.append(int(words[1]))
    elif words[0] == "note":
        notes.append(words[1])
    elif words[0] == "job":
        for read in words[7].split(",") if words[7] != "-" else []:
            root, _, share = read.partition(":")
            reads += roots[int(root)] * float(share or 1000) / 1000
assert "measured" in notes and "synthetic" not in notes, notes
# What is read stands in the log, what is not read does not count.
assert sum(roots) >= 8000000, roots
logged = sum(int(root.split(":")[1]) for run in runs.values() for root in run.get("roots", "").split(",") if root)
assert abs(reads - logged) <= logged / 1000, (reads, logged)
assert logged < 5 * sum(roots), (logged, roots)
for row in json.load(open(f"{folder}/report")):
    assert row["jobs"] == 5, row
    assert abs(row["bytes_read"] - reads) <= reads / 1000, (row, reads)
END

echo "what is not there, and what is of another version, is said"
fails 1 "there is no operation log at" "$CROFT" bench locality --own "$folder/root"
sed 's/^croft-locality-trace 1$/croft-locality-trace 2/' "$folder/trace" >"$folder/later"
fails 1 "another version" "$CROFT" bench locality --trace "$folder/later"
fails 1 "only one makes a trace" "$CROFT" bench locality --trace "$folder/trace" --own "$folder/farm"

echo "a server keeps none if it is told so"
serve quiet --operation-log 0
"$CROFT" status >/dev/null
[ ! -e "$folder/quiet/operations.log" ]
