# SPDX-License-Identifier: LGPL-2.1-or-later
"""embed.py PROTOC OUTPUT.c FOLDER SYSTEM-FOLDER PROTO...

Writes a C file with the FileDescriptorSet of the definitions and all that they import. What they say to
protobuf-c alone is left out: it is nobody else's business, and clients choke on options they do not know."""

import os
import subprocess
import sys
import tempfile

protoc, output, folder, system, *protos = sys.argv[1:]
data = output + ".set"
with tempfile.TemporaryDirectory() as copies:
    for proto in protos:
        with open(f"{folder}/{proto}.proto") as file:
            lines = [line for line in file if "protobuf-c/" not in line and "(pb_c_file)" not in line]
        os.makedirs(os.path.dirname(f"{copies}/{proto}"), exist_ok=True)
        with open(f"{copies}/{proto}.proto", "w") as file:
            file.writelines(lines)
    subprocess.run([protoc, "-I", copies, "-I", system, "--include_imports", "--descriptor_set_out=" + data] +
                   [f"{copies}/{proto}.proto" for proto in protos], check=True)
with open(data, "rb") as file:
    content = file.read()
os.unlink(data)
with open(output, "w") as file:
    file.write("/* Generated from the .proto files. */\n"
               '#include "proto/defs/descriptors.h"\n\n'
               f"const size_t croft_descriptors_size = {len(content)};\n"
               "const uint8_t croft_descriptors[] = {")
    for at in range(0, len(content), 20):
        file.write("\n\t" + ",".join(map(str, content[at:at + 20])) + ",")
    file.write("\n};\n")
