# SPDX-License-Identifier: LGPL-2.1-or-later
from .requirements import error, must, sane
from .server import equal, fails

HEADER = "build.bazel.remote.execution.v2.resource-name"


def stored(s, size):
    data = s.bytes(size)
    if size <= s.batch_limit // 2:
        return data, s.put(data)
    digest = s.digest(data)
    s.write(s.write_name(digest), data)
    return data, digest


@sane("A blob comes as it was stored.")
def whole(s):
    for size in (1, 1000, 100000):
        data, digest = stored(s, size)
        equal(s.read(s.read_name(digest)), data, f"{size} bytes")


@sane("A blob that no message can hold comes in several.")
def large(s):
    data, digest = stored(s, 20 << 20)
    parts = [m.data for m in s.bytestream.Read(s.bs.ReadRequest(resource_name=s.read_name(digest)))]
    equal(b"".join(parts) == data, True, "the data is as written")
    equal(max(map(len, parts)) <= 4 << 20, True, "no message over gRPC's default limit of 4 MiB")


@must("The empty blob can be read without having been uploaded.")
def empty_blob(s):
    equal(s.read(s.read_name(s.digest(b""))), b"", "data")


@sane("read_offset skips bytes, read_limit bounds them, zero is no limit.")
def ranges(s):
    data, digest = stored(s, 70000)
    name = s.read_name(digest)
    for offset, limit in ((0, 0), (1, 0), (69999, 0), (0, 1), (0, 70000), (0, 999999),
                          (1000, 50000), (65536, 10)):
        equal(s.read(name, offset, limit), data[offset:offset + limit if limit else None],
              f"offset {offset}, limit {limit}")


@sane("From the very end on there is nothing to read, which is no error.")
def offset_at_the_end(s):
    data, digest = stored(s, 100)
    equal(s.read(s.read_name(digest), 100), b"", "data")


@error("An offset past the end, or a negative one, is OUT_OF_RANGE.")
def offset_out_of_range(s):
    _, digest = stored(s, 100)
    for offset in (101, 1 << 40, -1):
        fails(lambda: s.read(s.read_name(digest), offset), "OUT_OF_RANGE")


@error("A negative limit is an error.")
def negative_limit(s):
    _, digest = stored(s, 100)
    fails(lambda: s.read(s.read_name(digest), 0, -1), "INVALID_ARGUMENT", "OUT_OF_RANGE")


@error("A blob that is not there is NOT_FOUND.")
def missing(s):
    fails(lambda: s.read(s.read_name(s.absent())), "NOT_FOUND")


@must("The size is part of the digest: a wrong one is not served.")
def wrong_size(s):
    _, digest = stored(s, 100)
    for size in (99, 101):
        digest.size_bytes = size
        fails(lambda: s.read(s.read_name(digest)), "NOT_FOUND", "INVALID_ARGUMENT")


@error("A name that does not follow the grammar is refused.")
def malformed_names(s):
    _, digest = stored(s, 100)
    prefix = s.prefix()
    for name in ("", "blobs", prefix + "blobs", prefix + f"blobs/{digest.hash}",
                 prefix + f"blobs/{digest.hash}/", prefix + f"blobs/{digest.hash}/x",
                 prefix + f"blobs/{digest.hash}/-1", prefix + f"blobs/{digest.hash[1:]}/100",
                 prefix + f"blobs/{digest.hash.upper()}/100", prefix + f"blob/{digest.hash}/100"):
        fails(lambda: s.read(name), "INVALID_ARGUMENT", "NOT_FOUND")


@must("A resource name that is also sent as a header is served when the two are equal.")
def name_in_header(s):
    data, digest = stored(s, 100)
    name = s.read_name(digest)
    equal(s.read(name, metadata=[(HEADER, name)]), data, "data")
