#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""table.py RESULTS: which case is covered in which world, from what worlds.sh printed."""
import re
import sys

worlds, kernel, world, failures = [], "", None, []
cases = {}  # case -> world -> "contained" or why not
for line in open(sys.argv[1], errors="replace"):
    line = line.rstrip("\n")
    if match := re.search(r"== kernel (\S+)", line):
        kernel = match[1]
    elif match := re.match(r"== (.*): (escape|unit) (\d+)", line):
        if match[3] != "0":
            failures.append(f"{match[2]} in {world}")
    elif match := re.match(r"== (.*)", line):
        world = f"{match[1]} (Linux {kernel})"
        worlds.append(world)
    elif match := re.match(r"(contained|not here) +(\w+)(?:: (.*))?", line):
        cases.setdefault(match[2], {})[world] = "contained" if match[1] == "contained" else match[3]
    elif line.startswith(("FAILED", "[  FAILED")):
        failures.append(f"{line} in {world}")

print()
for number, name in enumerate(worlds):
    covered = sum(1 for case in cases.values() if case.get(name) == "contained")
    print(f"{'abcdefghijklmnop'[number]}  {covered:3} cases  {name}")
print("\nCovered in all of them but:")
for case, where in cases.items():
    lacking = [(i, where.get(name)) for i, name in enumerate(worlds) if where.get(name) != "contained"]
    if not lacking:
        continue
    reasons = {}
    for number, reason in lacking:
        reasons.setdefault(reason or "it was not tried", []).append("abcdefghijklmnop"[number])
    print(f"  {case:28} " + "; ".join(f"{','.join(letters)}: {reason}" for reason, letters in reasons.items()))
nowhere = [case for case, where in cases.items() if "contained" not in where.values()]
unsaid = [case for case, where in cases.items() if len(where) != len(worlds)]
for failure in failures:
    print(f"FAILED: {failure}")
print()
wanted = {"root, version 2", "root, version 2, delegated", "user, version 2, delegated", "root, version 1", "root, no cgroups"}
print(f"BAR sandbox-worlds {len(worlds)} >=9 {'ok' if len(worlds) >= 9 and wanted <= {w.split(' (')[0] for w in worlds} else 'short'}")
print(f"BAR sandbox-cases-covered-nowhere {len(nowhere)} 0 {'ok' if not nowhere else 'short'}")
print(f"BAR sandbox-cases-skipped-silently {len(unsaid)} 0 {'ok' if not unsaid else 'short'}")
print(f"BAR sandbox-failures {len(failures)} 0 {'ok' if not failures else 'short'}")
sys.exit(bool(failures))
