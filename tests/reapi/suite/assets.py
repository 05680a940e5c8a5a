# SPDX-License-Identifier: LGPL-2.1-or-later
import time

import grpc

from .get_tree import directory
from .requirements import error, must, sane, should
from .server import Skip, check, equal, fails


def uri(s):
    return "urn:reapi-suite:" + s.bytes(12).hex()


def qualifiers(s, pairs):
    return [s.asset.Qualifier(name=name, value=value) for name, value in pairs]


def call(method, request):
    """Servers without the service are skipped."""
    try:
        return method(request)
    except grpc.RpcError as problem:
        if problem.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise Skip("the server has no such service: " + (problem.details() or ""))
        raise


def push_blob(s, uris, digest, pairs=(), **more):
    return call(s.push.PushBlob, s.asset.PushBlobRequest(
        instance_name=s.instance, uris=uris, qualifiers=qualifiers(s, pairs), blob_digest=digest,
        **more))


def push_directory(s, uris, digest, pairs=(), **more):
    return call(s.push.PushDirectory, s.asset.PushDirectoryRequest(
        instance_name=s.instance, uris=uris, qualifiers=qualifiers(s, pairs),
        root_directory_digest=digest, **more))


def fetch(s, uris, pairs=(), directory=False, **more):
    """The response, or None where the asset is not found (by either way of saying so)."""
    kind = "Directory" if directory else "Blob"
    request = getattr(s.asset, f"Fetch{kind}Request")(
        instance_name=s.instance, uris=uris, qualifiers=qualifiers(s, pairs), **more)
    try:
        response = call(getattr(s.fetch, f"Fetch{kind}"), request)
    except grpc.RpcError as problem:
        if problem.code() == grpc.StatusCode.NOT_FOUND:
            return None
        raise
    if response.status.code == 5:
        return None
    equal(response.status.code, 0, "status in the response")
    return response


@error("An asset that nobody pushed is NOT_FOUND, as status of the call or in the response.")
def unknown(s):
    equal(fetch(s, [uri(s)]), None, "response")
    equal(fetch(s, [uri(s)], directory=True), None, "response")


@must("Requests need at least one URI: without any they are invalid.")
def no_uris(s):
    digest = s.put(s.bytes(10))
    root = s.put(directory(s, files=[("f", digest)]))
    fails(lambda: fetch(s, []), "INVALID_ARGUMENT")
    fails(lambda: fetch(s, [], directory=True), "INVALID_ARGUMENT")
    fails(lambda: push_blob(s, [], digest), "INVALID_ARGUMENT")
    fails(lambda: push_directory(s, [], root), "INVALID_ARGUMENT")


@sane("A pushed blob is fetched by any of its URIs, which the response names.")
def push_and_fetch_blob(s):
    digest = s.put(s.bytes(100))
    names = [uri(s), uri(s)]
    push_blob(s, names, digest)
    for name in names:
        response = fetch(s, [name])
        check(response, "the asset is found")
        equal((response.blob_digest.hash, response.uri), (digest.hash, name), "digest and URI")
    response = fetch(s, [uri(s), names[1]])
    check(response, "the asset is found by its second URI")
    equal(response.uri, names[1], "URI in the response")


@sane("A pushed directory is fetched by its URI.")
def push_and_fetch_directory(s):
    file = s.put(s.bytes(100))
    root = s.put(directory(s, files=[("f", file)]))
    name = uri(s)
    push_directory(s, [name], root)
    response = fetch(s, [name], directory=True)
    check(response, "the asset is found")
    equal((response.root_directory_digest.hash, response.uri), (root.hash, name),
          "digest and URI")


@sane("A later push under the same name replaces the earlier.")
def push_replaces(s):
    name = uri(s)
    for _ in range(2):
        digest = s.put(s.bytes(100))
        push_blob(s, [name], digest)
        equal(fetch(s, [name]).blob_digest.hash, digest.hash, "digest")


@sane("Qualifiers tell assets of one URI apart, in whatever order they come.")
def qualifiers_distinguish(s):
    name = uri(s)
    first, second = s.put(s.bytes(10)), s.put(s.bytes(10))
    push_blob(s, [name], first, [("a", "1"), ("b", "2")])
    push_blob(s, [name], second, [("b", "3"), ("a", "1")])
    equal(fetch(s, [name], [("b", "2"), ("a", "1")]).blob_digest.hash, first.hash, "digest")
    equal(fetch(s, [name], [("a", "1"), ("b", "3")]).blob_digest.hash, second.hash, "digest")
    equal(fetch(s, [name], [("a", "1"), ("b", "4")]), None, "response for other qualifiers")


@must("Qualifier names are unique within a request.")
def qualifier_twice(s):
    fails(lambda: fetch(s, [uri(s)], [("a", "1"), ("a", "2")]), "INVALID_ARGUMENT")


@should("Expired assets are not returned; pushing again alters the expiry.")
def expiry(s):
    name, digest = uri(s), s.put(s.bytes(10))
    soon = s.pb.Timestamp(seconds=int(time.time()) + 2)
    push_blob(s, [name], digest, expire_at=soon)
    check(fetch(s, [name]), "the asset is found before it expires")
    time.sleep(3.2)
    equal(fetch(s, [name]), None, "response after the expiry")
    later = s.pb.Timestamp(seconds=int(time.time()) + 3600)
    push_blob(s, [name], digest, expire_at=later)
    check(fetch(s, [name]), "the asset is found again")


@should("Content older than the client accepts is not returned.")
def oldest_content(s):
    name, digest = uri(s), s.put(s.bytes(10))
    push_blob(s, [name], digest)
    now = int(time.time())
    check(fetch(s, [name], oldest_content_accepted=s.pb.Timestamp(seconds=now - 3600)),
          "the asset is young enough")
    equal(fetch(s, [name], oldest_content_accepted=s.pb.Timestamp(seconds=now + 3600)), None,
          "response for content from the future only")


@should("What an asset names is there when it is fetched.")
def content_is_there(s):
    name = uri(s)
    try:
        push_blob(s, [name], s.absent())
    except grpc.RpcError as problem:
        check(problem.code().name in ("FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND"),
              "FAILED_PRECONDITION", problem.code().name)
    equal(fetch(s, [name]), None, "response for an asset whose content is missing")


@should("References are accepted and kept.")
def references(s):
    blob, file = s.put(s.bytes(10)), s.put(s.bytes(20))
    root = s.put(directory(s, files=[("f", file)]))
    digest = s.put(s.bytes(30))
    name = uri(s)
    push_blob(s, [name], digest, references_blobs=[blob], references_directories=[root])
    check(fetch(s, [name]), "the asset is found")
    equal(s.missing(blob, file, root, digest), [], "missing blobs")


@error("A push without a digest, or with a malformed one, is an invalid argument.")
def malformed_digest(s):
    fails(lambda: push_blob(s, [uri(s)], None), "INVALID_ARGUMENT")
    fails(lambda: push_blob(s, [uri(s)], s.re.Digest(hash="abc", size_bytes=1)),
          "INVALID_ARGUMENT")
    fails(lambda: push_directory(s, [uri(s)], None), "INVALID_ARGUMENT")
