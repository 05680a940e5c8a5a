#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""stage.py ADDRESS HASH-SIZE PATH READY: asks a buildbox-casd to stage a tree at PATH, makes the file READY when it
stands, and holds it until it is ended. (build.buildgrid.LocalContentAddressableStorage/StageTree, whose messages
are so small that they are written by hand: StageTreeRequest {2: root_digest, 3: path}.)"""
import queue
import sys

import grpc


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


def main():
    address, digest, path, ready = sys.argv[1:]
    hash_text, _, size = digest.partition("-")
    number, size_bytes = int(size), b""
    while number > 127:
        size_bytes += bytes([number & 127 | 128])
        number >>= 7
    message = field(1, hash_text.encode()) + b"\x10" + size_bytes + bytes([number])
    requests = queue.Queue()
    requests.put(field(2, message) + field(3, path.encode()))
    channel = grpc.insecure_channel(address)
    call = channel.stream_stream("/build.buildgrid.LocalContentAddressableStorage/StageTree")
    answers = call(iter(requests.get, None), wait_for_ready=True)
    next(answers)
    open(ready, "w").close()
    for _ in answers:
        pass


if __name__ == "__main__":
    main()
