#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""reflect.py HOST:PORT: a client that knows nothing but gRPC and its reflection: it finds out what services there
are, builds their types from what it is told, and calls every method with an empty message. That a method
refuses it is fine; that it is not there, or fails by itself, is not."""
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# By google/longrunning/operations.proto a server need not have it; REAPI's own WaitExecution does its work.
OPTIONAL_METHODS = {"/google.longrunning.Operations/WaitOperation"}
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
# The only types that a generic client brings along: those of reflection itself, by their numbers.
OPTIONAL, REPEATED = 1, 3
STRING, BYTES, MESSAGE = 9, 12, 11


def own_types():
    file = descriptor_pb2.FileDescriptorProto(name="own.proto", package="own", syntax="proto3")

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for field, number, kind, label, more in fields:
            made.field.add(name=field, number=number, type=kind, label=label,
                           type_name=f".own.{more}" if more else None)
    message("Request", ("file_by_filename", 3, STRING, OPTIONAL, ""),
            ("file_containing_symbol", 4, STRING, OPTIONAL, ""), ("list_services", 7, STRING, OPTIONAL, ""))
    message("Files", ("file_descriptor_proto", 1, BYTES, REPEATED, ""))
    message("Service", ("name", 1, STRING, OPTIONAL, ""))
    message("Services", ("service", 1, MESSAGE, REPEATED, "Service"))
    message("Response", ("files", 4, MESSAGE, OPTIONAL, "Files"), ("services", 6, MESSAGE, OPTIONAL, "Services"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return [factory.GetPrototype(pool.FindMessageTypeByName(f"own.{name}")) for name in ("Request", "Response")]


class Server:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.request, response = own_types()
        self.reflect = self.channel.stream_stream(f"/{REFLECTION}/ServerReflectionInfo",
                                                  lambda message: message.SerializeToString(), response.FromString)
        self.files = {}
        self.pool = descriptor_pool.DescriptorPool()

    def ask(self, **fields):
        # proto3 leaves out an empty string, and the question with it.
        fields = {name: value or "*" for name, value in fields.items()}
        return next(self.reflect(iter([self.request(**fields)]), timeout=60))

    def services(self):
        return [one.name for one in self.ask(list_services="").services.service]

    def take(self, answer):
        for data in answer.files.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name in self.files:
                continue
            self.files[file.name] = file
            for name in file.dependency:
                if name not in self.files:
                    self.take(self.ask(file_by_filename=name))
            self.pool.Add(file)

    def call(self, method):
        factory = message_factory.MessageFactory(self.pool)
        request = factory.GetPrototype(method.input_type)()
        response = factory.GetPrototype(method.output_type)
        name = f"/{method.containing_service.full_name}/{method.name}"
        described = descriptor_pb2.MethodDescriptorProto()
        method.CopyToProto(described)
        kind = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary",
                (True, True): "stream_stream"}[described.client_streaming, described.server_streaming]
        stub = getattr(self.channel, kind)(name, lambda message: message.SerializeToString(), response.FromString)
        try:
            answer = stub(iter([request]) if described.client_streaming else request, timeout=5)
            if described.server_streaming:
                for _ in answer:
                    break
                answer.cancel()
            return name, grpc.StatusCode.OK
        except grpc.RpcError as problem:
            return name, problem.code()


def main(address):
    server = Server(address)
    bad, called = [], 0
    services = server.services()
    for service in services:
        server.take(server.ask(file_containing_symbol=service))
    for service in services:
        for method in server.pool.FindServiceByName(service).methods:
            name, code = server.call(method)
            print(f"{name}: {code.name}")
            called += 1
            if name in OPTIONAL_METHODS:
                continue
            if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL,
                        grpc.StatusCode.UNAVAILABLE):
                bad.append(f"{name}: {code.name}")
    print(f"{called} methods of {len(services)} services")
    if bad or called < 20:
        raise SystemExit("\n".join(["these failed:", *bad]))


main(sys.argv[1])
