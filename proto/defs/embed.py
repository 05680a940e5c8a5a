# SPDX-License-Identifier: LGPL-2.1-or-later
"""embed.py PROTOC OUTPUT.c FOLDER SYSTEM-FOLDER PROTO...

Writes a C file with the FileDescriptorSet of the definitions and all that they import."""

import os
import subprocess
import sys

protoc, output, folder, system, *protos = sys.argv[1:]
data = output + ".set"
subprocess.run([protoc, "-I", folder, "-I", system, "--include_imports",
                "--descriptor_set_out=" + data] +
               [os.path.join(folder, proto + ".proto") for proto in protos], check=True)
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
