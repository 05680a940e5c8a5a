# SPDX-License-Identifier: LGPL-2.1-or-later
"""The gear table of FastCDC: the upper halves of MD5 sums, of 64 times each byte as in the paper's own code (which
remote_execution.proto shortens to "the byte")."""
import hashlib

for byte in range(256):
    digest = hashlib.md5(bytes([byte]) * 64, usedforsecurity=False).digest()
    print(f"UINT64_C(0x{digest[:8].hex()}),")
