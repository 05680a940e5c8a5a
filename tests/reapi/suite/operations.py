# SPDX-License-Identifier: LGPL-2.1-or-later
import grpc

from .requirements import error
from .server import Skip, fails


def or_skip(call):
    try:
        return call()
    except grpc.RpcError as problem:
        if problem.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise Skip("the server does not implement this method")
        raise


@error("An operation that does not exist is NOT_FOUND.")
def get_unknown(s):
    s.need(s.caps.execution_capabilities.exec_enabled, "execution is not enabled")
    fails(lambda: or_skip(lambda: s.operations.GetOperation(
        s.ops.GetOperationRequest(name="operations/no-such-operation"))), "NOT_FOUND",
        "INVALID_ARGUMENT")


@error("To cancel an operation that does not exist is NOT_FOUND.")
def cancel_unknown(s):
    s.need(s.caps.execution_capabilities.exec_enabled, "execution is not enabled")
    fails(lambda: or_skip(lambda: s.operations.CancelOperation(
        s.ops.CancelOperationRequest(name="operations/no-such-operation"))), "NOT_FOUND",
        "INVALID_ARGUMENT")


@error("To wait for an operation that does not exist is NOT_FOUND.")
def wait_unknown(s):
    s.need(s.caps.execution_capabilities.exec_enabled, "execution is not enabled")
    fails(lambda: or_skip(lambda: list(s.execution.WaitExecution(
        s.re.WaitExecutionRequest(name="operations/no-such-operation")))), "NOT_FOUND",
        "INVALID_ARGUMENT")
