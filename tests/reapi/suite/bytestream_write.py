# SPDX-License-Identifier: LGPL-2.1-or-later
import threading
import uuid

import grpc

from .requirements import error, must, sane, should
from .server import check, equal, fails


def fresh(s, size):
    data = s.bytes(size)
    return data, s.digest(data)


@sane("A blob that is written can be read, and the whole size is committed.")
def whole(s):
    for size in (1, 1000, 100000):
        data, digest = fresh(s, size)
        equal(s.write(s.write_name(digest), data).committed_size, size, "committed_size")
        equal(s.read(s.read_name(digest)), data, "what is read back")


@sane("A blob may come in any number of messages.")
def many_messages(s):
    data, digest = fresh(s, 100001)
    equal(s.write(s.write_name(digest), data, chunk=1000).committed_size, len(data),
          "committed_size")
    equal(s.read(s.read_name(digest)), data, "what is read back")


@sane("Blobs over any message's limit can be written.")
def large(s):
    data, digest = fresh(s, 20 << 20)
    equal(s.write(s.write_name(digest), data, chunk=2 << 20).committed_size, len(data),
          "committed_size")
    equal(s.read(s.read_name(digest)) == data, True, "it reads back as written")


@must("The empty blob can be written.")
def empty_blob(s):
    equal(s.write(s.write_name(s.digest(b"")), b"").committed_size, 0, "committed_size")


@must("Behind the size a name may carry metadata of the client's own.")
def optional_metadata(s):
    data, digest = fresh(s, 100)
    s.write(s.write_name(digest, tail="/some/file name.c"), data)
    check(s.has(digest), "the blob is stored")


@must("One UUID may serve for uploads of several blobs.")
def one_uuid_for_many(s):
    upload = str(uuid.uuid4())
    for _ in range(3):
        data, digest = fresh(s, 1000)
        equal(s.write(s.write_name(digest, upload=upload), data).committed_size, 1000, "committed_size")
        equal(s.read(s.read_name(digest)), data, "what is read back")


@should("A blob over the advertised size is an invalid argument.")
def over_the_largest(s):
    limit = s.caps.cache_capabilities.max_cas_blob_size_bytes
    s.need(limit, "no such limit is advertised")
    digest = s.re.Digest(hash=s.absent().hash, size_bytes=limit + 1)
    fails(lambda: s.write_messages({"resource_name": s.write_name(digest), "data": b"begin"}), "INVALID_ARGUMENT")


@must("The name need be set in the first message only, and may be repeated.")
def name_repeated(s):
    data, digest = fresh(s, 300)
    name = s.write_name(digest)
    s.write_messages({"resource_name": name, "data": data[:100]},
                     {"resource_name": name, "write_offset": 100, "data": data[100:200]},
                     {"write_offset": 200, "data": data[200:], "finish_write": True})
    equal(s.read(s.read_name(digest)), data, "what is read back")


@must("Messages may carry no data.")
def messages_without_data(s):
    data, digest = fresh(s, 100)
    s.write_messages({"resource_name": s.write_name(digest)}, {"data": data},
                     {"write_offset": 100}, {"write_offset": 100, "finish_write": True})
    equal(s.read(s.read_name(digest)), data, "what is read back")


@must("A blob that is there already is answered at once, with its whole size, whatever was sent.")
def existing_blob(s):
    data, digest = fresh(s, 100000)
    s.put(data)
    # Not all of it is sent, and the stream stays open: only an early answer ends the call.
    gate = threading.Event()

    def messages():
        yield s.bs.WriteRequest(resource_name=s.write_name(digest), data=data[:10])
        gate.wait(10)
    try:
        equal(s.bytestream.Write(messages(), timeout=5).committed_size, len(data),
              "committed_size")
    finally:
        gate.set()


@error("Data of another digest is an invalid argument, and nothing is stored.")
def wrong_hash(s):
    data, _ = fresh(s, 1000)
    digest = s.absent(1000)
    fails(lambda: s.write(s.write_name(digest), data), "INVALID_ARGUMENT")
    check(not s.has(digest), "nothing is stored under the wrong digest")
    large_data, _ = fresh(s, 3 << 20)
    digest = s.absent(3 << 20)
    fails(lambda: s.write(s.write_name(digest), large_data), "INVALID_ARGUMENT")
    check(not s.has(digest), "nothing is stored under the wrong digest")


@error("More or less data than the size says is an invalid argument.")
def wrong_size(s):
    data, digest = fresh(s, 1000)
    for sent in (data + b"x", data[:-1], b""):
        fails(lambda: s.write(s.write_name(digest), sent), "INVALID_ARGUMENT")
        fails(lambda: s.write(s.write_name(digest), sent, chunk=300), "INVALID_ARGUMENT")
    check(not s.has(digest), "nothing is stored")


@must("After a failed upload the same blob can be uploaded again, also under the same UUID.")
def again_after_failure(s):
    data, digest = fresh(s, 1000)
    name = s.write_name(digest)
    fails(lambda: s.write(name, bytes(1000)), "INVALID_ARGUMENT")
    equal(s.write(name, data).committed_size, 1000, "committed_size")


@error("An offset in a later message that is not the sum of what was sent is an error.")
def wrong_later_offset(s):
    data, digest = fresh(s, 300)
    for offset in (0, 99, 101, -1):
        fails(lambda: s.write_messages(
            {"resource_name": s.write_name(digest), "data": data[:100]},
            {"write_offset": offset, "data": data[100:], "finish_write": True}))
    check(not s.has(digest), "nothing is stored")


@error("A first offset past what was committed is an error.")
def wrong_first_offset(s):
    data, digest = fresh(s, 300)
    for offset in (100, 300, 301, -1):
        fails(lambda: s.write_messages({"resource_name": s.write_name(digest),
                                        "write_offset": offset, "data": data[100:],
                                        "finish_write": True}))
    check(not s.has(digest), "nothing is stored")


@error("A name that changes within the stream is an error.")
def name_changes(s):
    data, digest = fresh(s, 300)
    fails(lambda: s.write_messages(
        {"resource_name": s.write_name(digest), "data": data[:100]},
        {"resource_name": s.write_name(s.absent(300)), "write_offset": 100, "data": data[100:],
         "finish_write": True}))


@error("A message after the one with finish_write is an error.")
def message_after_the_end(s):
    data, digest = fresh(s, 300)
    fails(lambda: s.write_messages(
        {"resource_name": s.write_name(digest), "data": data, "finish_write": True},
        {"write_offset": 300, "data": b"more"}))


@error("A stream without any message is an error.")
def no_message(s):
    fails(lambda: s.bytestream.Write(iter([])))


@error("A name that does not follow the grammar is an invalid argument.")
def malformed_names(s):
    data, digest = fresh(s, 100)
    prefix = s.prefix()
    for name in ("", "uploads", prefix + f"blobs/{digest.hash}/100",
                 prefix + f"uploads/{uuid.uuid4()}/{digest.hash}/100",
                 prefix + f"uploads/{uuid.uuid4()}/blobs/{digest.hash}",
                 prefix + f"uploads/{uuid.uuid4()}/blobs/{digest.hash}/x",
                 prefix + f"uploads/{uuid.uuid4()}/blobs/{digest.hash}/-100",
                 prefix + f"uploads/{uuid.uuid4()}/blobs/{digest.hash[2:]}/100"):
        fails(lambda: s.write(name, data), "INVALID_ARGUMENT")


# Resumption -------------------------------------------------------------------------------------

def break_off(s, name, data, sent):
    """Sends the first bytes, then cancels once the server has taken them (or some time went by)."""
    gate = threading.Event()

    def messages():
        yield s.bs.WriteRequest(resource_name=name, data=data[:sent])
        gate.wait(20)
    call = s.bytestream.Write._call.future(messages(), timeout=30)
    committed = None
    for _ in range(100):
        try:
            committed = s.query(name).committed_size
        except Exception:  # not there yet, or no such method
            committed = None
        if committed == sent or call.done():
            break
        threading.Event().wait(0.02)
    call.cancel()
    gate.set()
    return committed


@sane("An upload that broke off is gone on with from the committed size, under the same name.")
def resume(s):
    data, digest = fresh(s, 300000)
    name = s.write_name(digest)
    break_off(s, name, data, 100000)
    try:
        committed = s.query(name).committed_size
    except Exception as problem:
        s.need(getattr(problem, "code", lambda: None)() is None,
               "the server keeps nothing of broken uploads")
        raise
    check(0 <= committed <= 100000, "committed_size of at most what was sent", committed)
    check(not s.has(digest), "the blob is not there before it is whole")
    equal(s.write(name, data, start=committed).committed_size, len(data), "committed_size")
    equal(s.read(s.read_name(digest)), data, "what is read back")


@sane("An upload that broke off can also begin anew, under another UUID.")
def begin_anew(s):
    data, digest = fresh(s, 300000)
    break_off(s, s.write_name(digest), data, 100000)
    equal(s.write(s.write_name(digest), data).committed_size, len(data), "committed_size")
    equal(s.read(s.read_name(digest)), data, "what is read back")


@must("Without finish_write the blob is not complete, and the answer says how much was committed.")
def not_finished(s):
    data, digest = fresh(s, 300)
    name = s.write_name(digest)
    try:
        answer = s.write(name, data[:100], finish=False)
    except Exception as problem:
        code = problem.code().name
        check(code not in ("INTERNAL", "UNKNOWN", "DATA_LOSS"), "an answer or a client's error",
              code)
    else:
        check(0 <= answer.committed_size <= 100, "committed_size of at most 100",
              answer.committed_size)
        equal(s.query(name).complete, False, "complete")
    check(not s.has(digest), "the blob is not there")


@must("The status of a blob that is there is complete, with its size.")
def status_of_complete(s):
    data, digest = fresh(s, 300)
    name = s.write_name(digest)
    s.write(name, data)
    status = s.query(name)
    equal((status.committed_size, status.complete), (300, True), "committed_size and complete")


@error("The status of a write that never began is NOT_FOUND, or that nothing is committed (Bazel stops at an error).")
def status_of_unknown(s):
    _, digest = fresh(s, 300)
    try:
        status = s.query(s.write_name(digest))
    except grpc.RpcError as problem:
        equal(problem.code().name, "NOT_FOUND", "the code")
    else:
        equal((status.committed_size, status.complete), (0, False), "committed_size and complete")


@sane("The same blob can be uploaded by several clients at a time.")
def concurrent(s):
    data, digest = fresh(s, 2 << 20)
    results = []

    def one():
        try:
            results.append(s.write(s.write_name(digest), data, chunk=100000).committed_size)
        except Exception as problem:
            results.append(problem)
    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(results, [len(data)] * 6, "committed sizes")
    equal(s.read(s.read_name(digest)) == data, True, "it reads back as written")
