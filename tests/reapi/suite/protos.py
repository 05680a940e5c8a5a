# SPDX-License-Identifier: LGPL-2.1-or-later
"""Message classes made at run time from the .proto files, without generated Python: protoc writes a
descriptor set, and the classes come from a pool of their own (so that other packages' google.rpc does
not get in the way)."""

import os
import subprocess
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DEFS = os.path.join(os.path.dirname(__file__), "..", "..", "..", "proto", "defs")
FILES = [
    "build/bazel/remote/asset/v1/remote_asset.proto",
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/semver/semver.proto",
    "google/bytestream/bytestream.proto",
    "google/longrunning/operations.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
]


class Package:
    """The messages of one proto package as attributes; nested ones by their class."""

    def __init__(self, pool, factory, package):
        self._pool = pool
        self._factory = factory
        self._package = package

    def __getattr__(self, name):
        full = f"{self._package}.{name}"
        try:
            value = self._factory.GetPrototype(self._pool.FindMessageTypeByName(full))
        except KeyError:
            value = self._pool.FindEnumTypeByName(full)
        setattr(self, name, value)
        return value


def load(include=None):
    """(services, packages): services maps full names to descriptors."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "set")
        subprocess.run(
            ["protoc", "-I", include or DEFS, "-I", "/usr/include", "--include_imports",
             "--descriptor_set_out=" + path] + FILES, check=True)
        with open(path, "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    services = []
    for file in files.file:
        pool.Add(file)
        services += [f"{file.package}.{service.name}" for service in file.service]
    factory = message_factory.MessageFactory(pool)
    packages = {
        "re": Package(pool, factory, "build.bazel.remote.execution.v2"),
        "asset": Package(pool, factory, "build.bazel.remote.asset.v1"),
        "bs": Package(pool, factory, "google.bytestream"),
        "ops": Package(pool, factory, "google.longrunning"),
        "rpc": Package(pool, factory, "google.rpc"),
        "health": Package(pool, factory, "grpc.health.v1"),
        "reflect": Package(pool, factory, "grpc.reflection.v1"),
        "pb": Package(pool, factory, "google.protobuf"),
    }
    return {name: pool.FindServiceByName(name) for name in services}, packages, factory
