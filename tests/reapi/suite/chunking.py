# SPDX-License-Identifier: LGPL-2.1-or-later
from .requirements import error, must, should
from .server import check, equal, fails


def need_split(s):
    s.need(s.caps.cache_capabilities.split_blob_support, "split_blob_support is false")


def need_splice(s):
    s.need(s.caps.cache_capabilities.splice_blob_support, "splice_blob_support is false")


def large(s):
    data = s.bytes(6 << 20)
    digest = s.digest(data)
    s.write(s.write_name(digest), data)
    return data, digest


def split(s, digest, function=0):
    return s.cas.SplitBlob(s.re.SplitBlobRequest(
        instance_name=s.instance, blob_digest=digest, chunking_function=function))


def splice(s, digest, chunks):
    return s.cas.SpliceBlob(s.re.SpliceBlobRequest(
        instance_name=s.instance, blob_digest=digest, chunk_digests=chunks))


@must("The chunks are in the store, and joined in order they are the blob.")
def split_joins_to_the_blob(s):
    need_split(s)
    data, digest = large(s)
    chunks = list(split(s, digest).chunk_digests)
    check(chunks, "at least one chunk")
    equal(sum(c.size_bytes for c in chunks), len(data), "sum of the chunks' sizes")
    equal(s.missing(*chunks), [], "missing chunks")
    equal(b"".join(s.read(s.read_name(c)) for c in chunks) == data, True,
          "the chunks joined are the blob")


@must("The chunking function UNKNOWN is always accepted, and any other falls back.")
def split_takes_any_function(s):
    need_split(s)
    _, digest = large(s)
    for function in (0, 1, 2):
        check(split(s, digest, function).chunk_digests, f"chunks with function {function}")


@should("The cuts depend on the content: what stands in front does not move those behind.")
def split_is_content_defined(s):
    need_split(s)
    data, digest = large(s)
    shifted = s.bytes(1000) + data
    other = s.digest(shifted)
    s.write(s.write_name(other), shifted)
    first = {c.hash for c in split(s, digest).chunk_digests}
    second = {c.hash for c in split(s, other).chunk_digests}
    check(len(first & second) * 2 >= len(first), "at least half of the chunks in common",
          (len(first & second), len(first)))


@must("FastCDC's average is from 1 KiB to 1 MiB; chunks are from a quarter of it (but the last) to four times.")
def fast_cdc_sizes(s):
    need_split(s)
    cache = s.caps.cache_capabilities
    s.need(cache.HasField("fast_cdc_2020_params"), "FastCDC is not advertised")
    average = cache.fast_cdc_2020_params.avg_chunk_size_bytes
    check(1 << 10 <= average <= 1 << 20, "an average from 1 KiB to 1 MiB", average)
    _, digest = large(s)
    answer = split(s, digest, 1)
    s.need(answer.chunking_function == 1, "the server cut it by another function, which is allowed")
    sizes = [chunk.size_bytes for chunk in answer.chunk_digests]
    check(max(sizes) <= 4 * average, f"no chunk over {4 * average} bytes", max(sizes))
    check(all(size >= average // 4 for size in sizes[:-1]), f"no chunk but the last under {average // 4} bytes", sizes)


@error("A blob that is not there is NOT_FOUND.")
def split_of_missing(s):
    need_split(s)
    fails(lambda: split(s, s.absent(1 << 20)), "NOT_FOUND")


@must("A spliced blob is there as if it had been uploaded.")
def splice_makes_the_blob(s):
    need_splice(s)
    parts = [s.bytes(n) for n in (300000, 1, 700000)]
    s.put(*parts)
    data = b"".join(parts)
    digest = s.digest(data)
    answer = splice(s, digest, [s.digest(p) for p in parts])
    equal((answer.blob_digest.hash, answer.blob_digest.size_bytes),
          (digest.hash, digest.size_bytes), "digest in the answer")
    equal(s.read(s.read_name(digest)) == data, True, "it reads back as the parts joined")


@must("The digest is verified: other content is an invalid argument and is not stored.")
def splice_verifies(s):
    need_splice(s)
    parts = [s.bytes(100000) for _ in range(2)]
    s.put(*parts)
    digest = s.digest(b"".join(parts))
    fails(lambda: splice(s, digest, [s.digest(p) for p in reversed(parts)]), "INVALID_ARGUMENT")
    check(not s.has(digest), "nothing is stored")


@error("A missing chunk is NOT_FOUND.")
def splice_with_missing_chunk(s):
    need_splice(s)
    first, second = s.bytes(1000), s.bytes(1000)
    s.put(first)
    fails(lambda: splice(s, s.digest(first + second), [s.digest(first), s.digest(second)]),
          "NOT_FOUND")


@must("Servers that do not advertise it do not pretend.")
def unadvertised(s):
    cache = s.caps.cache_capabilities
    s.need(not (cache.split_blob_support and cache.splice_blob_support), "both are supported")
    if not cache.split_blob_support:
        fails(lambda: split(s, s.put(s.bytes(100))))
    if not cache.splice_blob_support:
        data = s.bytes(100)
        fails(lambda: splice(s, s.digest(data + data), [s.put(data)] * 2))
