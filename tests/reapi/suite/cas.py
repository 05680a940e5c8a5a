# SPDX-License-Identifier: LGPL-2.1-or-later
from . import zstd
from .requirements import error, must, sane, should
from .server import check, equal, fails


def key(digest):
    return (digest.hash, digest.size_bytes)


def update(s, *parts):
    request = s.re.BatchUpdateBlobsRequest(instance_name=s.instance)
    for part in parts:
        request.requests.add(**part)
    return s.cas.BatchUpdateBlobs(request)


def statuses(response):
    return {key(one.digest): one.status.code for one in response.responses}


def batch_read(s, digests, compressors=()):
    return s.cas.BatchReadBlobs(s.re.BatchReadBlobsRequest(
        instance_name=s.instance, digests=digests, acceptable_compressors=compressors))


# FindMissingBlobs -------------------------------------------------------------------------------

@sane("Blobs that nobody uploaded are missing; uploaded ones are not.")
def find_missing_tells_them_apart(s):
    here = [s.bytes(n) for n in (1, 100, 5000)]
    s.put(*here)
    gone = [s.absent(n) for n in (1000, 100, 5000)]
    mixed = [s.digest(here[0]), gone[0], s.digest(here[1]), gone[1], gone[2], s.digest(here[2])]
    equal(sorted(s.missing(*mixed)), sorted(map(key, gone)), "missing blobs")


@must("An empty blob is there without having been uploaded.")
def empty_blob_is_never_missing(s):
    equal(s.missing(s.digest(b"")), [], "missing blobs")


@sane("A request for nothing is answered with nothing.")
def find_missing_of_nothing(s):
    equal(s.missing(), [], "missing blobs")


@sane("Thousands of digests fit into one request.")
def find_missing_of_thousands(s):
    digests = [s.absent() for _ in range(5000)]
    equal(len(s.missing(*digests)), 5000, "number of missing blobs")


@must("The size is part of the digest: the right hash with a wrong size is not the blob.")
def find_missing_with_wrong_size(s):
    digest = s.put(s.bytes(100))
    digest.size_bytes = 99
    try:
        equal(s.missing(digest), [key(digest)], "missing blobs")
    except Exception as problem:  # refusing the request is as good
        if getattr(problem, "code", lambda: None)() is None:
            raise
        fails(lambda: s.missing(digest), "INVALID_ARGUMENT")


@error("A hash that is no lower-case hex of the function's length is an invalid argument.")
def find_missing_with_malformed_hash(s):
    for bad in ("abc", "X" * 64, "A" * 64, ""):
        fails(lambda: s.missing(s.re.Digest(hash=bad, size_bytes=1)), "INVALID_ARGUMENT")


@error("A negative size is an invalid argument.")
def find_missing_with_negative_size(s):
    fails(lambda: s.missing(s.re.Digest(hash="0" * 64, size_bytes=-1)), "INVALID_ARGUMENT")


@error("A digest function that is not advertised is an invalid argument.")
def find_missing_with_unsupported_function(s):
    unsupported = [n for n in range(2, 11)
                   if n not in s.caps.cache_capabilities.digest_functions]
    s.need(unsupported, "all digest functions are supported")
    request = s.re.FindMissingBlobsRequest(instance_name=s.instance, blob_digests=[s.absent()],
                                           digest_function=unsupported[0])
    fails(lambda: s.cas.FindMissingBlobs(request), "INVALID_ARGUMENT")


# BatchUpdateBlobs -------------------------------------------------------------------------------

@sane("What was uploaded in a batch is answered with OK each and can be read back.")
def batch_update_stores(s):
    blobs = [s.bytes(n) for n in (1, 2, 1000, 70000)] + [bytes(range(256))]
    response = update(s, *[{"digest": s.digest(b), "data": b} for b in blobs])
    equal(statuses(response), {key(s.digest(b)): 0 for b in blobs}, "statuses")
    equal({key(one.digest): one.data for one in
           batch_read(s, [s.digest(b) for b in blobs]).responses},
          {key(s.digest(b)): b for b in blobs}, "what is read back")


@must("The server stores nothing under a digest that is not that of the data; the other blobs of "
      "the batch fare independently.")
def batch_update_with_wrong_hash(s):
    good, bad = s.bytes(100), s.bytes(100)
    wrong = s.absent(100)
    response = update(s, {"digest": s.digest(good), "data": good}, {"digest": wrong, "data": bad})
    equal(statuses(response), {key(s.digest(good)): 0, key(wrong): 3},
          "statuses (3 is INVALID_ARGUMENT)")
    check(s.has(s.digest(good)), "the good blob is stored")
    check(not s.has(wrong), "nothing is stored under the wrong digest")
    check(not s.has(s.digest(bad)), "nothing is stored that was not asked for")


@must("The size is part of the digest: a wrong one is refused.")
def batch_update_with_wrong_size(s):
    data = s.bytes(100)
    for size in (99, 101, 0):
        digest = s.digest(data)
        digest.size_bytes = size
        equal([one.status.code for one in update(s, {"digest": digest, "data": data}).responses],
              [3], f"status with size {size} (3 is INVALID_ARGUMENT)")
    check(not s.has(s.digest(data)), "nothing is stored")


@sane("Uploading the same blob again, and twice in a batch, is fine.")
def batch_update_twice(s):
    data = s.bytes(500)
    part = {"digest": s.digest(data), "data": data}
    for _ in range(2):
        equal(set(statuses(update(s, part, part)).values()), {0}, "statuses")


@must("The empty blob can be uploaded.")
def batch_update_of_empty_blob(s):
    equal(statuses(update(s, {"digest": s.digest(b""), "data": b""})), {key(s.digest(b"")): 0},
          "statuses")


@error("A batch over the advertised limit is an invalid argument.")
def batch_update_over_the_limit(s):
    limit = s.caps.cache_capabilities.max_batch_total_size_bytes
    s.need(0 < limit < 60 << 20, "no limit that can be tested is advertised")
    blobs = [s.bytes(limit // 2 + 1000) for _ in range(2)]
    fails(lambda: update(s, *[{"digest": s.digest(b), "data": b} for b in blobs]),
          "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


@should("A batch of just the advertised limit is accepted.")
def batch_update_of_the_limit(s):
    limit = s.caps.cache_capabilities.max_batch_total_size_bytes
    s.need(0 < limit < 60 << 20, "no limit that can be tested is advertised")
    blobs = [s.bytes(limit // 2), s.bytes(limit - limit // 2)]
    response = update(s, *[{"digest": s.digest(b), "data": b} for b in blobs])
    equal(set(statuses(response).values()), {0}, "statuses")


@sane("A compressed blob in a batch is stored as what it decodes to.")
def batch_update_compressed(s):
    s.need(s.has_batch_zstd(), "zstd is not advertised for batches")
    data = s.text(10000)
    digest = s.digest(data)
    equal(statuses(update(s, {"digest": digest, "data": zstd.compress(data), "compressor": 1})),
          {key(digest): 0}, "statuses")
    equal(batch_read(s, [digest]).responses[0].data, data, "what is read back")


@must("Compressed data is verified after decoding.")
def batch_update_compressed_wrong(s):
    s.need(s.has_batch_zstd(), "zstd is not advertised for batches")
    data = s.text(10000)
    other = s.text(10000)
    for name, sent in (("another blob", zstd.compress(other)),
                       ("a shorter blob", zstd.compress(data[:9999])),
                       ("a longer blob", zstd.compress(data + b"x")),
                       ("cut off data", zstd.compress(data)[:-5]), ("no zstd", data)):
        response = update(s, {"digest": s.digest(data), "data": sent, "compressor": 1})
        equal([one.status.code for one in response.responses], [3],
              f"status for {name} (3 is INVALID_ARGUMENT)")
    check(not s.has(s.digest(data)), "nothing is stored")


@error("A compressor that is not advertised is refused.")
def batch_update_unsupported_compressor(s):
    supported = s.caps.cache_capabilities.supported_batch_update_compressors
    compressor = next((n for n in (3, 2) if n not in supported), None)
    s.need(compressor, "all compressors are supported")
    data = s.bytes(100)
    response = None
    try:
        response = update(s, {"digest": s.digest(data), "data": data, "compressor": compressor})
    except Exception:
        fails(lambda: update(s, {"digest": s.digest(data), "data": data,
                                 "compressor": compressor}), "INVALID_ARGUMENT", "UNIMPLEMENTED")
    if response:
        check(response.responses[0].status.code in (3, 12), "INVALID_ARGUMENT for that blob",
              response.responses[0].status)


# BatchReadBlobs ---------------------------------------------------------------------------------

@sane("Blobs that are missing have the status NOT_FOUND; the others come all the same.")
def batch_read_tells_what_is_missing(s):
    data = s.bytes(1234)
    here, gone = s.put(data), s.absent()
    answers = {key(one.digest): one for one in batch_read(s, [here, gone]).responses}
    equal(set(answers), {key(here), key(gone)}, "digests in the answer")
    equal(answers[key(here)].status.code, 0, "status of the blob that is there")
    equal(answers[key(here)].data, data, "its data")
    equal(answers[key(gone)].status.code, 5, "status of the missing blob (5 is NOT_FOUND)")


@must("An empty blob can be read without having been uploaded.")
def batch_read_of_empty_blob(s):
    response = batch_read(s, [s.digest(b"")])
    equal([(one.status.code, one.data) for one in response.responses], [(0, b"")], "answer")


@sane("A request for nothing is answered with nothing.")
def batch_read_of_nothing(s):
    equal(len(batch_read(s, []).responses), 0, "number of answers")


@must("The size is part of the digest: a wrong one is not served.")
def batch_read_with_wrong_size(s):
    digest = s.put(s.bytes(100))
    digest.size_bytes = 50
    try:
        response = batch_read(s, [digest])
    except Exception:
        fails(lambda: batch_read(s, [digest]), "INVALID_ARGUMENT", "NOT_FOUND")
        return
    check(response.responses[0].status.code in (3, 5), "INVALID_ARGUMENT or NOT_FOUND",
          response.responses[0].status)
    equal(response.responses[0].data, b"", "data")


@error("To read more than the advertised limit is an invalid argument.")
def batch_read_over_the_limit(s):
    limit = s.caps.cache_capabilities.max_batch_total_size_bytes
    s.need(0 < limit < 60 << 20, "no limit that can be tested is advertised")
    digests = []
    for _ in range(3):
        data = s.bytes(limit // 2)
        s.put(data)
        digests.append(s.digest(data))
    fails(lambda: batch_read(s, digests), "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


@must("Data is only compressed as the request accepts.")
def batch_read_uses_accepted_compressors(s):
    data = s.text(20000)
    digest = s.put(data)
    one = batch_read(s, [digest]).responses[0]
    equal((one.compressor, one.data), (0, data), "without acceptable_compressors")
    one = batch_read(s, [digest], [0, 1]).responses[0]
    check(one.compressor in (0, 1), "IDENTITY or ZSTD", one.compressor)
    equal(zstd.decompress(one.data, len(data)) if one.compressor else one.data, data, "data")
