# SPDX-License-Identifier: LGPL-2.1-or-later
"""The server under test: its services as Python objects, and what many tests do with it."""

import hashlib
import os
import random
import uuid

import grpc

from . import protos

TIMEOUT = float(os.environ.get("TIMEOUT", "30"))


class Failure(Exception):
    """The server did not do what the specification asks."""


class Skip(Exception):
    """The test does not apply to this server."""


class Method:
    def __init__(self, channel, service, descriptor, factory):
        make = getattr(channel, ("stream" if descriptor.client_streaming else "unary") + "_" +
                       ("stream" if descriptor.server_streaming else "unary"))
        self._call = make(f"/{service.full_name}/{descriptor.name}",
                          request_serializer=lambda message: message.SerializeToString(),
                          response_deserializer=factory.GetPrototype(
                              descriptor.output_type).FromString)

    def __call__(self, request, timeout=None, metadata=None):
        return self._call(request, timeout=timeout or TIMEOUT, metadata=metadata)


class Service:
    def __init__(self, channel, descriptor, factory):
        for method in descriptor.methods:
            setattr(self, method.name, Method(channel, descriptor, method, factory))


class Server:
    def __init__(self, target, instance=""):
        services, packages, factory = protos.load()
        self.target = target
        self.instance = instance
        self.channel = grpc.insecure_channel(target, options=[
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.max_send_message_length", 64 << 20),
            # Tests run one after another; one failed connection must not fail the next ones.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000)])
        for name, package in packages.items():
            setattr(self, name, package)
        execution = "build.bazel.remote.execution.v2."
        for attribute, name in {
                "capabilities": execution + "Capabilities",
                "cas": execution + "ContentAddressableStorage",
                "ac": execution + "ActionCache",
                "execution": execution + "Execution",
                "bytestream": "google.bytestream.ByteStream",
                "operations": "google.longrunning.Operations",
                "fetch": "build.bazel.remote.asset.v1.Fetch",
                "push": "build.bazel.remote.asset.v1.Push",
                "healthz": "grpc.health.v1.Health",
                "reflection": "grpc.reflection.v1.ServerReflection"}.items():
            setattr(self, attribute, Service(self.channel, services[name], factory))
        self.seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
        self.random = random.Random(self.seed)
        self._caps = None

    # What the server says of itself ------------------------------------------------------------

    @property
    def caps(self):
        if self._caps is None:
            self._caps = self.capabilities.GetCapabilities(
                self.re.GetCapabilitiesRequest(instance_name=self.instance))
        return self._caps

    @property
    def batch_limit(self):
        return self.caps.cache_capabilities.max_batch_total_size_bytes or 4000000

    def has_zstd(self):
        return 1 in self.caps.cache_capabilities.supported_compressors

    def has_batch_zstd(self):
        return 1 in self.caps.cache_capabilities.supported_batch_update_compressors

    def need(self, condition, reason):
        if not condition:
            raise Skip(reason)

    # Content -----------------------------------------------------------------------------------

    def bytes(self, size):
        """New bytes in each run, so that no server has them."""
        return self.random.randbytes(size)

    def text(self, size):
        """The same, but such that can be compressed."""
        words = [self.random.randbytes(8).hex().encode() for _ in range(64)]
        out = bytearray()
        while len(out) < size:
            out += words[self.random.randrange(64)]
        return bytes(out[:size])

    def digest(self, data):
        if not isinstance(data, bytes):
            data = data.SerializeToString(deterministic=True)
        return self.re.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    def absent(self, size=100):
        """The digest of a blob that the server does not have."""
        return self.digest(self.bytes(size))

    def put(self, *blobs):
        """Uploads in batches; messages are encoded. The digest of the last one."""
        request = self.re.BatchUpdateBlobsRequest(instance_name=self.instance)
        for blob in blobs:
            data = blob if isinstance(blob, bytes) else blob.SerializeToString(deterministic=True)
            request.requests.add(digest=self.digest(data), data=data)
        for one in self.cas.BatchUpdateBlobs(request).responses:
            if one.status.code != 0:
                raise Failure(f"upload of a valid blob failed: {one.status}")
        return self.digest(blobs[-1])

    def missing(self, *digests):
        request = self.re.FindMissingBlobsRequest(instance_name=self.instance, blob_digests=digests)
        return [(d.hash, d.size_bytes)
                for d in self.cas.FindMissingBlobs(request).missing_blob_digests]

    def has(self, digest):
        return not self.missing(digest)

    # ByteStream --------------------------------------------------------------------------------

    def prefix(self, instance=None):
        instance = self.instance if instance is None else instance
        return instance + "/" if instance else ""

    def read_name(self, digest, instance=None, kind="blobs"):
        return f"{self.prefix(instance)}{kind}/{digest.hash}/{digest.size_bytes}"

    def write_name(self, digest, instance=None, kind="blobs", upload=None, tail=""):
        return (f"{self.prefix(instance)}uploads/{upload or uuid.uuid4()}/{kind}/{digest.hash}/"
                f"{digest.size_bytes}{tail}")

    def read(self, name, offset=0, limit=0, metadata=None):
        request = self.bs.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        return b"".join(m.data for m in self.bytestream.Read(request, metadata=metadata))

    def write(self, name, data, chunk=1 << 20, start=0, finish=True, metadata=None):
        """Writes data[start:] in messages of at most `chunk` bytes."""
        def messages():
            at = start
            while True:
                part = data[at:at + chunk]
                last = at + len(part) == len(data)
                yield self.bs.WriteRequest(resource_name=name if at == start else "",
                                           write_offset=at, data=part,
                                           finish_write=last and finish)
                at += len(part)
                if last:
                    return
        return self.bytestream.Write(messages(), metadata=metadata)

    def write_messages(self, *messages):
        return self.bytestream.Write(iter([self.bs.WriteRequest(**m) for m in messages]))

    def query(self, name):
        """Several servers have no resumption and hence no such method."""
        try:
            return self.bytestream.QueryWriteStatus(
                self.bs.QueryWriteStatusRequest(resource_name=name))
        except grpc.RpcError as problem:
            if problem.code() == grpc.StatusCode.UNIMPLEMENTED:
                raise Skip("the server has no QueryWriteStatus")
            raise


# Checks --------------------------------------------------------------------------------------------

def check(condition, expected, got=None):
    if not condition:
        raise Failure(f"expected: {expected}" + ("" if got is None else f"\n    got: {got}"))


def equal(got, expected, what):
    if got != expected:
        def short(value):
            text = repr(value)
            return text if len(text) < 300 else text[:300] + f"… ({len(text)} characters)"
        raise Failure(f"{what}\n    expected: {short(expected)}\n    got: {short(got)}")


def code_of(call):
    """The status code with which the call ends (streams are read to their end)."""
    try:
        result = call()
        if hasattr(result, "__next__"):
            for _ in result:
                pass
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


def fails(call, *codes):
    """The call must fail with one of these codes (any code when none is given)."""
    try:
        result = call()
        if hasattr(result, "__next__"):
            result = list(result)
    except grpc.RpcError as error:
        code = error.code()
        names = [c if isinstance(c, str) else c.name for c in codes]
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) and \
                code.name not in names:
            raise Failure(f"expected a failure {names}\n    got: {code.name}: {error.details()}")
        if names and code.name not in names:
            raise Failure(f"expected: {' or '.join(names)}\n    got: {code.name}: "
                          f"{error.details()}")
        return error
    raise Failure(f"expected: {' or '.join(codes) or 'an error'}\n    got: OK, "
                  f"{str(result)[:300]!r}")
