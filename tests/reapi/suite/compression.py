# SPDX-License-Identifier: LGPL-2.1-or-later
import threading

from . import zstd
from .bytestream_write import break_off
from .requirements import error, must, sane
from .server import check, equal, fails

KIND = "compressed-blobs/zstd"


def need_zstd(s):
    s.need(s.has_zstd(), "zstd is not advertised")


def write(s, digest, sent, chunk=1 << 20, name=None):
    return s.write(name or s.write_name(digest, kind=KIND), sent, chunk=chunk)


def read(s, digest, offset=0, limit=0):
    packed = s.read(s.read_name(digest, kind=KIND), offset, limit)
    return zstd.decompress(packed, digest.size_bytes) if packed else b""


@must("What is written compressed can be read plain, and the other way round.")
def both_ways(s):
    need_zstd(s)
    for size in (1, 1000, 5 << 20):
        data = s.text(size)
        digest = s.digest(data)
        packed = zstd.compress(data)
        check(write(s, digest, packed, chunk=50000).committed_size in (-1, len(packed)),
              "committed_size is -1 or the compressed size")
        equal(s.read(s.read_name(digest)) == data, True, f"{size} bytes read plain")
        equal(read(s, digest) == data, True, f"{size} bytes read compressed")
        data = s.text(size) if size > 1 else b"y"
        digest = s.digest(data)
        s.write(s.write_name(digest), data)
        equal(read(s, digest) == data, True, f"{size} bytes written plain, read compressed")


@sane("Data that does not compress is no problem.")
def incompressible(s):
    need_zstd(s)
    data = s.bytes(3 << 20)
    digest = s.digest(data)
    write(s, digest, zstd.compress(data))
    equal(read(s, digest) == data, True, "read compressed")


@must("The empty blob can be written and read compressed.")
def empty_blob(s):
    need_zstd(s)
    check(write(s, s.digest(b""), zstd.compress(b"")).committed_size in (
        -1, 0, len(zstd.compress(b""))), "committed_size of an empty blob")
    equal(read(s, s.digest(b"")), b"", "what is read")


@must("read_offset is an offset in the uncompressed blob.")
def offset(s):
    need_zstd(s)
    data = s.text(300000)
    digest = s.put(data)
    for at in (1, 1000, 299999, 300000):
        equal(read(s, digest, at), data[at:], f"from offset {at}")


@must("read_limit must be zero for compressed reads: anything else is an invalid argument.")
def limit(s):
    need_zstd(s)
    digest = s.put(s.text(1000))
    fails(lambda: read(s, digest, 0, 10), "INVALID_ARGUMENT")


@error("Offsets out of the blob are OUT_OF_RANGE; blobs that are not there NOT_FOUND.")
def read_errors(s):
    need_zstd(s)
    digest = s.put(s.text(1000))
    fails(lambda: read(s, digest, 1001), "OUT_OF_RANGE")
    fails(lambda: read(s, digest, -1), "OUT_OF_RANGE")
    fails(lambda: read(s, s.absent()), "NOT_FOUND")


@must("Data that does not decode to the digest is an invalid argument, and nothing is stored.")
def wrong_data(s):
    need_zstd(s)
    data = s.text(100000)
    digest = s.digest(data)
    for sent in (zstd.compress(s.text(100000)), zstd.compress(data[:-1]),
                 zstd.compress(data + b"x"), zstd.compress(data)[:-4], data,
                 zstd.compress(data) + b"junk"):
        fails(lambda: write(s, digest, sent), "INVALID_ARGUMENT")
        fails(lambda: write(s, digest, sent, chunk=10000), "INVALID_ARGUMENT")
    check(not s.has(digest), "nothing is stored")


@sane("A little compressed data that decodes to very much is refused, not unpacked.")
def bomb(s):
    need_zstd(s)
    digest = s.absent(1000)
    fails(lambda: write(s, digest, zstd.compress(bytes(256 << 20))), "INVALID_ARGUMENT")


@must("A blob that is there already is answered at once with -1.")
def existing_blob(s):
    need_zstd(s)
    data = s.text(100000)
    digest = s.put(data)
    packed = zstd.compress(data)
    gate = threading.Event()

    def messages():
        yield s.bs.WriteRequest(resource_name=s.write_name(digest, kind=KIND), data=packed[:10])
        gate.wait(10)
    try:
        equal(s.bytestream.Write(messages(), timeout=5).committed_size, -1, "committed_size")
    finally:
        gate.set()


@must("Later offsets count compressed bytes.")
def later_offsets(s):
    need_zstd(s)
    data = s.text(100000)
    digest = s.digest(data)
    packed = zstd.compress(data)
    fails(lambda: s.write_messages(
        {"resource_name": s.write_name(digest, kind=KIND), "data": packed[:100]},
        {"write_offset": 101, "data": packed[100:], "finish_write": True}))
    check(not s.has(digest), "nothing is stored")


@sane("A compressed upload that broke off is gone on with from an offset in the blob.")
def resume(s):
    need_zstd(s)
    data = s.bytes(600000)
    digest = s.digest(data)
    name = s.write_name(digest, kind=KIND)
    # Two frames, so that the first decodes to something by itself.
    break_off(s, name, zstd.compress(data[:200000]), 10 ** 9)
    try:
        committed = s.query(name).committed_size
    except Exception as problem:
        s.need(getattr(problem, "code", lambda: None)() is None,
               "the server keeps nothing of broken uploads (NOT_FOUND)")
        raise
    check(0 <= committed <= 200000, "committed_size within what was sent", committed)
    rest = zstd.compress(data[committed:])
    s.write_messages({"resource_name": name, "write_offset": committed, "data": rest[:1000]},
                     {"write_offset": committed + 1000, "data": rest[1000:],
                      "finish_write": True})
    equal(s.read(s.read_name(digest)) == data, True, "it reads back as written")


@error("A compressor that is not advertised is refused.")
def unsupported_compressor(s):
    supported = s.caps.cache_capabilities.supported_compressors
    for number, name in ((2, "deflate"), (3, "brotli")):
        if number not in supported:
            digest = s.put(s.text(1000))
            fails(lambda: s.read(s.read_name(digest, kind="compressed-blobs/" + name)),
                  "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND")
    data = s.text(1000)
    fails(lambda: s.write(s.write_name(s.digest(data), kind="compressed-blobs/none"), data),
          "INVALID_ARGUMENT", "UNIMPLEMENTED")
