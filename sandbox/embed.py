#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""embed.py NAME INPUT OUTPUT: a text file as a C string constant."""
import sys

name, source, target = sys.argv[1:]
with open(source) as text, open(target, "w") as header:
    header.write(f"static const char {name}[] =\n")
    for line in text:
        escaped = line.rstrip("\n").replace("\\", "\\\\").replace('"', '\\"')
        header.write(f'\t"{escaped}\\n"\n')
    header.write("\t;\n")
