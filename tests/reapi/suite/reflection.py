# SPDX-License-Identifier: LGPL-2.1-or-later
"""Server reflection is no part of REAPI; where it is served, it has to be right."""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

from .requirements import sane
from .server import Skip, check, equal


def ask(s, *requests):
    messages = [s.reflect.ServerReflectionRequest(**r) for r in requests]
    try:
        answers = list(s.reflection.ServerReflectionInfo(iter(messages)))
    except grpc.RpcError as problem:
        if problem.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise Skip("the server has no reflection")
        raise
    equal(len(answers), len(messages), "number of answers")
    return answers


def services(s):
    return [one.name for one in ask(s, {"list_services": ""})[0].list_services_response.service]


@sane("The services that answer are listed.")
def lists_services(s):
    names = services(s)
    for name in ("build.bazel.remote.execution.v2.Capabilities",
                 "build.bazel.remote.execution.v2.ContentAddressableStorage",
                 "google.bytestream.ByteStream"):
        check(name in names, f"{name} among the services", names)


@sane("From the file of each service and those that it imports, all types can be built.")
def files_are_complete(s):
    files = {}
    names = services(s)

    def take(answer):
        equal(answer.WhichOneof("message_response"), "file_descriptor_response", "kind of answer")
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            files[file.name] = file
    for name in names:
        take(ask(s, {"file_containing_symbol": name})[0])
    while True:
        wanted = {d for f in files.values() for d in f.dependency} - set(files)
        if not wanted:
            break
        for name in wanted:
            take(ask(s, {"file_by_filename": name})[0])
    pool = descriptor_pool.DescriptorPool()

    def add(name):
        try:
            pool.FindFileByName(name)
        except KeyError:
            for dependency in files[name].dependency:
                add(dependency)
            pool.Add(files[name])
    for name in files:
        add(name)
    for name in names:
        check(pool.FindServiceByName(name).methods, f"methods of {name}")


@sane("Symbols are found by the names of services, methods, messages, nested types and enums.")
def symbols(s):
    base = "build.bazel.remote.execution.v2."
    answers = ask(s, *[{"file_containing_symbol": base + name} for name in (
        "Capabilities", "Capabilities.GetCapabilities", "Digest",
        "Command.EnvironmentVariable", "DigestFunction.Value")])
    for answer in answers:
        equal(answer.WhichOneof("message_response"), "file_descriptor_response",
              f"kind of answer for {answer.original_request.file_containing_symbol}")


@sane("What is not there is answered with an error that ends nothing.")
def unknown(s):
    answers = ask(s, {"file_containing_symbol": "no.such.Symbol"},
                  {"file_by_filename": "no/such/file.proto"}, {"list_services": ""})
    for answer in answers[:2]:
        equal(answer.WhichOneof("message_response"), "error_response", "kind of answer")
        equal(answer.error_response.error_code, 5, "error code (5 is NOT_FOUND)")
    equal(answers[2].WhichOneof("message_response"), "list_services_response", "kind of answer")
