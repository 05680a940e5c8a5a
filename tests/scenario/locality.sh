#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A BuildStream project becomes a trace, which every policy replays: each job runs after those it waits for.
. "$(dirname "$0")/lib.sh"
top=$(cd "$(dirname "$0")/../.." && pwd)

mkdir -p "$folder/inner/files" "$folder/outer/elements"
echo 'name: inner' >"$folder/inner/project.conf"
echo 'kind: manual' >"$folder/inner/libc.bst"
printf 'kind: stack\nruntime-depends: [libc.bst]\n' >"$folder/inner/base.bst"
printf 'name: outer\nelement-path: elements\n' >"$folder/outer/project.conf"
echo 'kind: junction' >"$folder/outer/elements/sdk.bst"
cat >"$folder/outer/elements/library.bst" <<'END'
kind: autotools
build-depends:
- sdk.bst:base.bst
runtime-depends:
- sdk.bst:libc.bst
END
cat >"$folder/outer/elements/app.bst" <<'END'
kind: meson
depends:
- filename: library.bst
  type: build
- junction: sdk.bst
  filename: base.bst
END

make_trace() { python3 "$top/bench/locality/bst.py" "$folder/outer" "$@"; }

make_trace --junction "sdk.bst=$folder/inner" >"$folder/trace"
# The libc, the library on it, the application on both; stacks and junctions are no jobs.
[ "$(grep -c '^job ' "$folder/trace")" -eq 3 ]
[ "$(grep -c '^root ' "$folder/trace")" -eq 3 ]
grep -q '^root [0-9]* sdk.bst:libc.bst$' "$folder/trace"
[ "$(grep '^job ' "$folder/trace" | cut -d ' ' -f 9 | tr ',\n' ' ')" = "- 0 1 0 " ] ||
    [ "$(grep '^job ' "$folder/trace" | cut -d ' ' -f 9 | tr ',\n' ' ')" = "- 0 0 1 " ]
make_trace --junction "sdk.bst=$folder/inner" | cmp - "$folder/trace"

# What stands behind a junction that is not there is an artifact, and no job.
make_trace >"$folder/without"
[ "$(grep -c '^job ' "$folder/without")" -eq 2 ]

"$CROFT" bench locality --trace "$folder/trace" --mode recorded --agents 2 --json >"$folder/report"
python3 - "$folder/report" <<'END'
import json, sys
rows = json.load(open(sys.argv[1]))
assert {"random", "locality", "dask-stealing", "delay", "no-eviction"} <= {row["policy"] for row in rows}
for row in rows:
    # One after the other: as long as their run times together, at least.
    assert row["makespan"] > 3, row
END

"$CROFT" bench locality --trace "$folder/trace" --mode recorded --agents 2 --csv --svg "$folder/chart" >"$folder/csv"
python3 - "$folder" <<'END'
import csv, json, sys, xml.etree.ElementTree as xml
folder = sys.argv[1]
rows = list(csv.DictReader(open(folder + "/csv")))
reported = json.load(open(folder + "/report"))
assert [row["policy"] for row in rows] == [row["policy"] for row in reported]
for row, same in zip(rows, reported):
    assert abs(float(row["makespan"]) - same["makespan"]) < 0.001 * same["makespan"], (row, same)
name = "{http://www.w3.org/2000/svg}"
chart = xml.parse(folder + "/chart").getroot()
assert {row["policy"] for row in rows} <= {text.text for text in chart.iter(name + "text")}
assert len(chart.findall(name + "rect")) == 3 * len(rows)
END

echo 'kind: manual
depends: [loop.bst]' >"$folder/outer/elements/loop.bst"
if make_trace >/dev/null 2>"$folder/why"; then exit 1; fi
grep -q 'loop.bst depends on itself' "$folder/why"
