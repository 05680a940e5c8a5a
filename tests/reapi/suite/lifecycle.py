# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of operations: how they end, what may be done with them afterwards, what is kept of them."""

import time

import grpc

from .jobs import PATIENCE, Job, cached, metadata, need_worker, text
from .requirements import error, must, sane, should
from .server import Skip, check, equal, fails


def offered(call):
    try:
        return call()
    except grpc.RpcError as problem:
        if problem.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise Skip("the server does not offer this method, which is allowed")
        raise


def get(s, name):
    return s.operations.GetOperation(s.ops.GetOperationRequest(name=name))


@must("An operation is done if and only if its stage is COMPLETED; then the stream ends. `error` is never set.")
def done_means_completed(s):
    need_worker(s)
    for script in ("./busybox sleep 1", "exit 3"):
        job = Job(s, script)
        job.run()
        for number, operation in enumerate(job.operations):
            equal(operation.done, metadata(s, operation).stage == 4, "done, beside a stage of "
                  f"{metadata(s, operation).stage} (4 is COMPLETED)")
            check(operation.WhichOneof("result") != "error", "no `error` in an operation")
            equal(operation.done, number == len(job.operations) - 1, "done is the last, and only that")


@should("A platform property that no worker knows is refused, by the call or as the operation's end.")
def unknown_property(s):
    import os
    need_worker(s)
    before = os.environ.get("PLATFORM")
    os.environ["PLATFORM"] = ",".join(filter(None, [before, "no-worker-knows-this=value"]))
    try:
        job = Job(s, "true")
    finally:
        os.environ.pop("PLATFORM")
        if before is not None:
            os.environ["PLATFORM"] = before
    try:
        code = job.run().status.code
    except grpc.RpcError as problem:
        code = problem.code().value[0]
        if problem.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise Skip(f"it still waits for a worker after {PATIENCE:.0f} s: see PATIENCE")
    check(code in (3, 9), "INVALID_ARGUMENT (3) or FAILED_PRECONDITION (9)", code)


@must("A timeout beyond the server's own is refused, and any other is none of the job's concern.")
def enormous_timeout(s):
    need_worker(s)
    job = Job(s, "echo run", timeout=300 * 365 * 86400)
    try:
        response = job.run()
    except grpc.RpcError as problem:
        equal(problem.code().name, "INVALID_ARGUMENT", "status")
        return
    check(response.status.code in (0, 3), "OK (0) or INVALID_ARGUMENT (3)", response.status)
    if not response.status.code:
        equal(text(s, response.result, "stdout"), b"run\n", "stdout")


@should("What skip_cache_lookup ran replaces the result that was in the cache.")
def run_again_replaces(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 1; ./busybox date +%s")  # two runs never tell the same second
    first = text(s, job.ok(), "stdout")
    second = text(s, job.ok(skip_cache_lookup=True), "stdout")
    check(first != second, "another run", second)
    found = s.ac.GetActionResult(s.re.GetActionResultRequest(
        instance_name=s.instance, action_digest=job.action, inline_stdout=True))
    equal(text(s, found, "stdout"), second, "stdout of the result in the cache")


@must("A result whose status is another than OK is not cached: the action runs again.")
def cancelled_is_not_cached(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 50")
    stream = job.start()
    name = next(stream).name
    offered(lambda: s.operations.CancelOperation(s.ops.CancelOperationRequest(name=name)))
    try:
        list(stream)
    except grpc.RpcError as problem:
        equal(problem.code().name, "CANCELLED", "status")
    check(not cached(s, job), "nothing in the action cache")
    again = job.start()
    operation = next(again)
    check(operation.name != name or not operation.done, "another run of it")
    s.operations.CancelOperation(s.ops.CancelOperationRequest(name=operation.name))
    again.cancel()


@sane("To cancel what has ended is no error, and changes nothing.")
def cancel_after_the_end(s):
    need_worker(s)
    job = Job(s, "echo ended")
    job.ok()
    name = job.operations[-1].name
    for _ in range(2):
        try:
            offered(lambda: s.operations.CancelOperation(s.ops.CancelOperationRequest(name=name)))
        except grpc.RpcError as problem:  # to forget operations once they are done is allowed
            equal(problem.code().name, "NOT_FOUND", "status")
            raise Skip("the server forgets completed operations")
    equal(text(s, job.response(get(s, name)).result, "stdout"), b"ended\n", "stdout")


@sane("A deleted operation is gone for GetOperation and WaitExecution; its result stays.")
def delete(s):
    need_worker(s)
    job = Job(s, "echo kept")
    job.ok()
    name = job.operations[-1].name
    try:
        offered(lambda: s.operations.DeleteOperation(s.ops.DeleteOperationRequest(name=name)))
    except grpc.RpcError as problem:
        equal(problem.code().name, "NOT_FOUND", "status")
        raise Skip("the server forgets completed operations")
    fails(lambda: get(s, name), "NOT_FOUND")
    fails(lambda: s.execution.WaitExecution(s.re.WaitExecutionRequest(name=name)), "NOT_FOUND")
    check(cached(s, job), "the result in the action cache")


@sane("A running operation is among those that are listed, page by page, each once.")
def listed(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 3")
    stream = job.start()
    name = next(stream).name
    # Names may say of which instance and collection they are.
    names, token = [], ""
    for _ in range(1000):
        page = offered(lambda: s.operations.ListOperations(s.ops.ListOperationsRequest(
            name=name.rpartition("/")[0] if name.count("/") else "operations", page_size=100, page_token=token)))
        check(len(page.operations) <= 100, "no more than page_size", len(page.operations))
        names += [operation.name for operation in page.operations]
        token = page.next_page_token
        if not token:
            break
    stream.cancel()
    equal(names.count(name), 1, "times that the operation is listed")


@error("A deadline of the call ends the call alone: the operation goes on.")
def deadline_of_the_call(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 3; echo done")
    began = time.time()
    stream = s.execution.Execute(s.re.ExecuteRequest(instance_name=s.instance, action_digest=job.action), timeout=1)
    name = ""
    try:
        for operation in stream:
            name = operation.name
        check(False, "DEADLINE_EXCEEDED of the call", f"an end after {time.time() - began:.1f} s")
    except grpc.RpcError as problem:
        equal(problem.code().name, "DEADLINE_EXCEEDED", "status")
    s.need(name, "no operation was told of within a second")
    waited = list(s.execution.WaitExecution(s.re.WaitExecutionRequest(name=name), timeout=PATIENCE))
    equal(text(s, job.response(waited[-1]).result, "stdout"), b"done\n", "stdout")
