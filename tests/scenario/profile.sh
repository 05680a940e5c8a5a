#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What jobs read is counted, warm or cold, and fetched ahead for the next of their kind.
. "$(dirname "$0")/lib.sh"

mkdir -p "$folder/root/bin" "$folder/root/data"
cp /bin/busybox "$folder/root/bin/sh"; cp /bin/busybox "$folder/root/bin/cat"
for i in $(seq 20); do echo "file $i" >"$folder/root/data/$i"; done
start_farm -n 2 --slots 1
"$CROFT" import --name root "$folder/root" >/dev/null

# run COMMAND: its account of inputs as "NAME VALUE" lines in $folder/account.
run() {
    timeout 120 "$CROFT" run --json --no-cache -d root -- sh -c "$1" >"$folder/run.json" 2>"$folder/run.err"
    python3 -c 'import json,sys
for name, value in json.load(open(sys.argv[1]))["inputs"].items(): print(name, value)' \
        "$folder/run.json" >"$folder/account"
}
count() { sed -n "s/^$1 //p" "$folder/account"; }
busybox=$(stat -c %s /bin/busybox)

echo "what a job opens is counted, and what is warm as well"
run 'cat /data/3 /data/7'
same 22 "$(count files)"
same 3 "$(count touched_files)"
same $((busybox + 14)) "$(count touched_bytes)"
run 'cat /data/3 /data/7 /data/3; test -e /data/4'
same 0 "$(count fetched_bytes)"
same 3 "$(count touched_files)"

echo "what was never read is told, by directory, by dependency and by file"
mkdir -p "$folder/other/lib/deep/deeper"
echo one >"$folder/other/lib/one"; echo two >"$folder/other/lib/deep/deeper/two"; echo a >"$folder/other/lib/aa"
"$CROFT" import --name other "$folder/other" >/dev/null
# field FILE EXPRESSION: of the JSON in it, as Python has it.
field() { python3 -c 'import json,sys; j = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$folder/$1" "$2"; }
timeout 120 "$CROFT" run --json -d root -d other:opt -o out -- sh -c 'cat /data/3 /opt/lib/deep/deeper/two >out' \
    >"$folder/run.json" 2>"$folder/run.err"
action=$(field run.json 'j["action"]') operation=$(field run.json 'j["operation"]')
"$CROFT" inputs --json --files "$action" >"$folder/inputs.json"
same "25 3" "$(field inputs.json '"%d %d" % (j["files"], j["read_files"])')"
same "$((2 * busybox + 63 + 88 + 10))" "$(field inputs.json 'j["bytes"]')"
same "$((busybox + 7 + 4))" "$(field inputs.json 'j["read_bytes"]')"
same "['bin 1', 'data 19', 'opt/lib 2', 'opt/lib/deep 0']" \
    "$(field inputs.json 'sorted("%s %d" % (r["name"], r["files"] - r["read_files"]) for r in j["directories"])')"
same "22 bin/cat opt/lib/one" "$(field inputs.json '"%d %s %s" % (len(j["never_read"]), j["never_read"][0]["path"], j["never_read"][-1]["path"])')"
"$CROFT" inputs --json -d root -d other:opt "$operation" >"$folder/inputs.json"
same "['root 22 2', 'other:opt 3 1']" "$(field inputs.json '["%s %d %d" % (r["name"], r["files"], r["read_files"]) for r in j["dependencies"]]')"
"$CROFT" inputs --files "$action" >"$folder/never"
same 22 "$(wc -l <"$folder/never")"
grep -qx opt/lib/aa "$folder/never"
"$CROFT" inputs --depth 0 "$action" >"$folder/never"
grep -q '^3 of 25 input files were opened' "$folder/never"
fails 1 "no result of this action" "$CROFT" inputs "$(echo | sha256sum | cut -d' ' -f1)-1"
timeout 120 "$CROFT" run --json -d root -- sh -c 'cat /data/9; exit 3' >"$folder/run.json" 2>"$folder/run.err" || true
"$CROFT" inputs --json "$(field run.json 'j["operation"]')" >"$folder/inputs.json"
same 2 "$(field inputs.json 'j["read_files"]')"

echo "another agent fetches ahead what jobs of this kind read, also after the server was restarted"
children() { ps -o pid=,args= --ppid "$farm" | grep "croft $1 " | awk '{print $1}'; }
used=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["agent"])' "$folder/run.json")
old=$(children serve)
kill -TERM "$old"
for _ in $(seq 300); do kill -0 "$old" 2>/dev/null || break; sleep 0.1; done
ready 2
"$CROFT" agents drain "$used" >/dev/null
run 'cat /data/3 /data/7'
same 3 "$(count prefetched_files)"
same $((busybox + 14)) "$(count prefetched_bytes)"
same 0 "$(count fetched_files)"
same 0 "$(count wasted_bytes)"
