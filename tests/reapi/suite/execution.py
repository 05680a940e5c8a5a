# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be checked of Execute without a worker; jobs.py runs real commands."""

from .requirements import error, must, should
from .server import check, equal, fails


def need_execution(s):
    s.need(s.caps.execution_capabilities.exec_enabled, "execution is not enabled")


def execute(s, action, **more):
    return s.execution.Execute(s.re.ExecuteRequest(
        instance_name=s.instance, action_digest=action, **more))


def outcome(s, call):
    """The error with which Execute ends, whether of the call or in the ExecuteResponse:
    (code, [google.rpc.PreconditionFailure])."""
    import grpc
    try:
        for operation in call():
            if operation.done:
                check(operation.WhichOneof("result") != "error",
                      "no `error` in the Operation (errors belong into the ExecuteResponse)")
                response = s.re.ExecuteResponse()
                operation.response.Unpack(response)
                status = response.status
                break
        else:
            check(False, "an operation that is done at the end of the stream")
    except grpc.RpcError as problem:
        status = s.rpc.Status(code=problem.code().value[0], message=problem.details())
        for name, value in problem.trailing_metadata() or ():
            if name == "grpc-status-details-bin":
                status = s.rpc.Status.FromString(value)
    failures = []
    for detail in status.details:
        failure = s.rpc.PreconditionFailure()
        if detail.Unpack(failure):
            failures.append(failure)
    return status.code, failures


def check_missing(s, call, digest):
    code, failures = outcome(s, call)
    equal(code, 9, "status code (9 is FAILED_PRECONDITION)")
    return [(v.type, v.subject) for f in failures for v in f.violations], \
        ("MISSING", f"blobs/{digest.hash}/{digest.size_bytes}")


@error("A missing Action is FAILED_PRECONDITION.")
def missing_action(s):
    need_execution(s)
    action = s.absent()
    check_missing(s, lambda: execute(s, action, skip_cache_lookup=True), action)


@error("A missing Command is FAILED_PRECONDITION.")
def missing_command(s):
    need_execution(s)
    action = s.put(s.re.Action(command_digest=s.absent(), input_root_digest=s.digest(b"")))
    check_missing(s, lambda: execute(s, action, skip_cache_lookup=True), action)


@should("Each missing blob is named in a PreconditionFailure of type MISSING.")
def missing_inputs_are_named(s):
    need_execution(s)
    command = s.put(s.re.Command(arguments=["true"]))
    gone = s.absent()
    root = s.re.Directory()
    root.files.add(name="gone", digest=gone)
    action = s.put(s.re.Action(command_digest=command, input_root_digest=s.put(root)))
    named, wanted = check_missing(
        s, lambda: execute(s, action, skip_cache_lookup=True), gone)
    check(wanted in named, f"a violation {wanted}", named)
    action = s.put(s.re.Action(command_digest=gone, input_root_digest=s.digest(b"")))
    named, wanted = check_missing(
        s, lambda: execute(s, action, skip_cache_lookup=True), gone)
    check(wanted in named, f"a violation {wanted}", named)


@error("A request without an action, or with a malformed digest, is an invalid argument.")
def malformed_action_digest(s):
    need_execution(s)
    fails(lambda: execute(s, None), "INVALID_ARGUMENT")
    fails(lambda: execute(s, s.re.Digest(hash="abc", size_bytes=3)), "INVALID_ARGUMENT")


@error("A digest function that is not supported is an invalid argument.")
def unsupported_function(s):
    need_execution(s)
    fails(lambda: execute(s, s.absent(), digest_function=3), "INVALID_ARGUMENT")


@must("An action whose blob is no Action is refused.")
def action_is_no_action(s):
    need_execution(s)
    action = s.put(b"\xff\xff\xff" + s.bytes(20))
    code, _ = outcome(s, lambda: execute(s, action, skip_cache_lookup=True))
    check(code in (3, 9), "INVALID_ARGUMENT (3) or FAILED_PRECONDITION (9)", code)
