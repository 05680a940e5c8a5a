# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real commands on a worker. They need nothing of it but to run a static program of the input root:
busybox, by a path relative to the working directory, so that it does not matter whether the server
takes the input root for "/" or for a folder. PLATFORM="name=value,..." is sent with each action."""

import os
import threading
import time

import grpc

from .requirements import error, must, sane, should
from .server import Skip, check, equal

BUSYBOX = "/bin/busybox"
PATIENCE = float(os.environ.get("PATIENCE", "60"))


def platform(s):
    message = s.re.Platform()
    for pair in sorted(p for p in os.environ.get("PLATFORM", "").split(",") if p):
        name, value = pair.split("=", 1)
        message.properties.add(name=name, value=value)
    return message


def busybox(s):
    s.need(os.path.exists(BUSYBOX), f"{BUSYBOX} (Debian: busybox-static) is missing")
    if not hasattr(s, "busybox_digest"):
        with open(BUSYBOX, "rb") as file:
            data = file.read()
        s.busybox_digest = s.digest(data)
        if not s.has(s.busybox_digest):
            s.write(s.write_name(s.busybox_digest), data)
    return s.busybox_digest


def tree(s, entries):
    """{"path": bytes | ("x", bytes) | ("link", target) | None for a directory}: the root's digest."""
    def build(level):
        message = s.re.Directory()
        for name in sorted(level):
            entry = level[name]
            if isinstance(entry, dict):
                message.directories.add(name=name, digest=build(entry))
            elif isinstance(entry, tuple) and entry[0] == "link":
                message.symlinks.add(name=name, target=entry[1])
            else:
                executable = isinstance(entry, tuple)
                content = entry[1] if executable else entry
                digest = content if not isinstance(content, bytes) else s.digest(content)
                if isinstance(content, bytes) and content:
                    s.put(content)
                message.files.add(name=name, digest=digest, is_executable=executable)
        return s.put(message) if message.ByteSize() else s.digest(b"")
    top = {}
    for path, entry in entries.items():
        level = top
        *parents, name = path.split("/")
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = {} if entry is None else entry
    return build(top)


class Job:
    """An action that runs a shell script; made so that no two are the same."""

    def __init__(self, s, script, inputs=None, timeout=None, env=None, folder="", unique=True,
                 do_not_cache=False, **outputs):
        self.s = s
        self.outcome = None
        entries = dict(inputs or {})
        entries[(folder + "/" if folder else "") + "busybox"] = ("x", busybox(s))
        command = s.re.Command(arguments=["./busybox", "sh", "-c", script],
                               working_directory=folder, platform=platform(s), **outputs)
        environment = dict(env or {})
        if unique:
            environment["REAPI_SUITE"] = s.bytes(8).hex()
        for name in sorted(environment):
            command.environment_variables.add(name=name, value=environment[name])
        action = s.re.Action(command_digest=s.put(command), input_root_digest=tree(s, entries),
                             platform=platform(s), do_not_cache=do_not_cache)
        if timeout is not None:
            action.timeout.seconds = timeout
        self.action = s.put(action)

    def start(self, **more):
        return self.s.execution.Execute(self.s.re.ExecuteRequest(
            instance_name=self.s.instance, action_digest=self.action, **more), timeout=PATIENCE)

    def run(self, **more):
        """The ExecuteResponse; keeps all operations of the stream."""
        self.operations = list(self.start(**more))
        last = self.operations[-1]
        check(last.done, "the last operation of the stream is done", last)
        return self.response(last)

    def response(self, operation):
        equal(operation.WhichOneof("result"), "response", "result of the operation")
        response = self.s.re.ExecuteResponse()
        check(operation.response.Unpack(response), "an ExecuteResponse in the operation",
              operation.response.type_url)
        return response

    def ok(self, **more):
        """Runs it; its ActionResult, which must be of a command that ended with 0."""
        response = self.run(**more)
        equal(response.status.code, 0, f"status ({response.status.message})")
        equal(response.result.exit_code, 0,
              f"exit code; stderr: {text(self.s, response.result, 'stderr')!r}")
        return response.result


def text(s, result, stream):
    raw = getattr(result, stream + "_raw")
    digest = getattr(result, stream + "_digest")
    if raw or not digest.size_bytes:
        return raw
    return s.read(s.read_name(digest))


def metadata(s, operation):
    message = s.re.ExecuteOperationMetadata()
    check(operation.metadata.Unpack(message), "ExecuteOperationMetadata in the operation",
          operation.metadata.type_url)
    return message


def need_worker(s):
    """Runs one job; if none takes it in time, the tests of this file do not apply."""
    if not hasattr(s, "worker_problem"):
        s.worker_problem = None
        if not s.caps.execution_capabilities.exec_enabled:
            s.worker_problem = "execution is not enabled"
        else:
            try:
                Job(s, "true").run()
            except grpc.RpcError as problem:
                s.worker_problem = f"no worker ran a job: {problem.code().name}"
    s.need(not s.worker_problem, s.worker_problem)


# The result ---------------------------------------------------------------------------------------

@sane("A command's output and exit code come back.")
def output_and_exit_code(s):
    need_worker(s)
    job = Job(s, "echo to stdout; echo to stderr >&2")
    result = job.ok()
    equal(text(s, result, "stdout"), b"to stdout\n", "stdout")
    equal(text(s, result, "stderr"), b"to stderr\n", "stderr")


@must("A command that fails is a normal result, with its exit code and what it made.")
def failing_command(s):
    need_worker(s)
    response = Job(s, "echo why >&2; echo part > out; exit 7", output_paths=["out"]).run()
    equal(response.status.code, 0, "status")
    equal(response.result.exit_code, 7, "exit code")
    equal(text(s, response.result, "stderr"), b"why\n", "stderr")
    equal([f.path for f in response.result.output_files], ["out"], "output files")


@should("The result tells the worker and when each stage began and ended.")
def execution_metadata(s):
    need_worker(s)
    data = Job(s, "true").ok().execution_metadata
    check(data.worker, "a worker's name")
    times = [getattr(data, name + "_timestamp") for name in (
        "queued", "worker_start", "execution_start", "execution_completed", "worker_completed")]
    check(all(t.seconds for t in times), "all timestamps are set", data)
    values = [(t.seconds, t.nanos) for t in times]
    equal(values, sorted(values), "timestamps in the order of the stages")


@sane("Large output comes whole.")
def large_output(s):
    need_worker(s)
    result = Job(s, "./busybox seq 1 300000").ok()
    expected = b"".join(b"%d\n" % n for n in range(1, 300001))
    equal(text(s, result, "stdout") == expected, True, "stdout is what was printed")


# The stream ---------------------------------------------------------------------------------------

@must("All operations of a stream have one name, and metadata of type ExecuteOperationMetadata.")
def operations_of_a_stream(s):
    need_worker(s)
    job = Job(s, "true")
    job.ok()
    equal(len({o.name for o in job.operations}), 1, "number of names")
    check(job.operations[0].name, "a name that is not empty")
    equal(metadata(s, job.operations[-1]).stage, 4, "stage of the last (4 is COMPLETED)")
    stages = [metadata(s, o).stage for o in job.operations]
    equal(stages, sorted(stages), "stages in order")
    equal(metadata(s, job.operations[-1]).action_digest.hash, job.action.hash, "action digest")


@must("WaitExecution of a completed operation answers with it.")
def wait_for_completed(s):
    need_worker(s)
    job = Job(s, "echo hello")
    job.ok()
    try:
        again = list(s.execution.WaitExecution(
            s.re.WaitExecutionRequest(name=job.operations[0].name)))
    except grpc.RpcError as problem:
        # To forget operations once they are done is allowed.
        equal(problem.code().name, "NOT_FOUND", "status")
        raise Skip("the server forgets completed operations")
    check(again[-1].done, "the last operation is done")
    equal(text(s, job.response(again[-1]).result, "stdout"), b"hello\n", "stdout")


@must("WaitExecution of a running operation streams until it is done.")
def wait_for_running(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 2; echo done")
    stream = job.start()
    name = next(stream).name
    waited = list(s.execution.WaitExecution(s.re.WaitExecutionRequest(name=name),
                                            timeout=PATIENCE))
    equal({o.name for o in waited}, {name}, "names")
    equal(text(s, job.response(waited[-1]).result, "stdout"), b"done\n", "stdout")
    check(list(stream)[-1].done, "the first stream ends with the done operation too")


@sane("A client that goes away does not end the operation.")
def client_goes_away(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 2; echo done")
    stream = job.start()
    name = next(stream).name
    stream.cancel()
    waited = list(s.execution.WaitExecution(s.re.WaitExecutionRequest(name=name),
                                            timeout=PATIENCE))
    equal(text(s, job.response(waited[-1]).result, "stdout"), b"done\n", "stdout")


@sane("GetOperation tells of a running operation and of a completed one.", optional=True)
def get_operation(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 1")
    stream = job.start()
    name = next(stream).name
    equal(s.operations.GetOperation(s.ops.GetOperationRequest(name=name)).name, name, "name")
    list(stream)
    try:
        check(s.operations.GetOperation(s.ops.GetOperationRequest(name=name)).done, "done")
    except grpc.RpcError as problem:
        equal(problem.code().name, "NOT_FOUND", "status")


@error("A cancelled operation ends with CANCELLED.", optional=True)
def cancel(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 50")
    stream = job.start()
    name = next(stream).name
    s.operations.CancelOperation(s.ops.CancelOperationRequest(name=name))
    began = time.time()
    try:
        last = list(stream)[-1]
    except grpc.RpcError as problem:
        equal(problem.code().name, "CANCELLED", "status")
    else:
        check(last.done, "the operation is done")
        equal(job.response(last).status.code, 1, "status (1 is CANCELLED)")
    check(time.time() - began < 30, "an end within 30 seconds")


# Inputs -------------------------------------------------------------------------------------------

@must("The input root is there as described: files, executable bits, directories, symlinks.")
def inputs(s):
    need_worker(s)
    data = s.bytes(3000)
    result = Job(s, """
        set -e
        ./busybox cmp a/b/data a/copy
        ./busybox test -x a/busybox
        ./busybox test ! -x a/b/data -o "$(./busybox id -u)" = 0
        ./busybox test -d empty
        ./busybox test "$(./busybox ls -A empty)" = ""
        ./busybox readlink link
        ./a/busybox echo runs
        ./busybox wc -c < nothing
        """, {"a/b/data": data, "a/copy": data, "a/busybox": ("x", busybox(s)), "empty": None,
              "link": ("link", "a/b"), "nothing": b""}).ok()
    equal(text(s, result, "stdout"), b"a/b\nruns\n0\n", "stdout")


@must("The environment holds the variables of the command.")
def environment(s):
    need_worker(s)
    result = Job(s, "echo \"$FIRST|$SECOND|$EMPTY\"",
                 env={"FIRST": "1 with space", "SECOND": "=\u00fc", "EMPTY": ""}).ok()
    equal(text(s, result, "stdout"), "1 with space|=\u00fc|\n".encode(), "stdout")


@must("The command runs in its working directory, and output paths are relative to it.")
def working_directory(s):
    need_worker(s)
    result = Job(s, "./busybox cat near ../far; echo made > out", {
        "some/folder/near": b"near\n", "some/far": b"far\n"}, folder="some/folder",
        output_paths=["out"]).ok()
    equal(text(s, result, "stdout"), b"near\nfar\n", "stdout")
    equal([f.path for f in result.output_files], ["out"], "output files")


@error("A missing input is FAILED_PRECONDITION.")
def missing_input(s):
    need_worker(s)
    job = Job(s, "true", {"gone": s.absent()})
    try:
        code = job.run(skip_cache_lookup=True).status.code
    except grpc.RpcError as problem:
        code = problem.code().value[0]
    equal(code, 9, "status (9 is FAILED_PRECONDITION)")


# Outputs ------------------------------------------------------------------------------------------

@must("Output files are uploaded and listed with digest and executable bit; parents were made.")
def output_files(s):
    need_worker(s)
    for field in ("output_paths", "output_files"):
        result = Job(s, """
            set -e
            echo plain > deep/er/plain
            echo tool > tool; ./busybox chmod +x tool
            ./busybox touch empty
            """, **{field: ["deep/er/plain", "empty", "never-made", "tool"]}).ok()
        found = {f.path: f for f in result.output_files}
        equal(sorted(found), ["deep/er/plain", "empty", "tool"], f"output files with {field}")
        equal(s.read(s.read_name(found["deep/er/plain"].digest)), b"plain\n", "content")
        equal([found[p].is_executable for p in ("deep/er/plain", "tool")], [False, True],
              "executable bits")
        equal(found["empty"].digest.size_bytes, 0, "size of the empty file")


def read_tree(s, output):
    """{path: content} of an output directory, by its Tree."""
    tree_message = s.re.Tree.FromString(s.read(s.read_name(output.tree_digest)))
    by_digest = {s.digest(child).hash: child for child in tree_message.children}
    found = {}

    def walk(directory, prefix):
        names = [e.name for kind in ("files", "directories", "symlinks")
                 for e in getattr(directory, kind)]
        equal(len(set(names)), len(names), "names are unique")
        for kind in ("files", "directories", "symlinks"):
            of_kind = [e.name.encode() for e in getattr(directory, kind)]
            equal(of_kind, sorted(of_kind), f"{kind} are sorted")
        for file in directory.files:
            found[prefix + file.name] = s.read(s.read_name(file.digest))
        for link in directory.symlinks:
            found[prefix + link.name] = ("link", link.target)
        for child in directory.directories:
            found[prefix + child.name + "/"] = None
            check(child.digest.size_bytes == 0 or child.digest.hash in by_digest,
                  f"{prefix}{child.name} among the Tree's children")
            walk(by_digest.get(child.digest.hash, s.re.Directory()), prefix + child.name + "/")
    walk(tree_message.root, "")
    return found


@must("An output directory is a Tree in canonical form, whose files are uploaded.")
def output_directory(s):
    need_worker(s)
    script = """
        set -e
        ./busybox mkdir -p out/z out/a/deep out/empty
        echo 1 > out/z/file; echo 2 > out/a/deep/file; echo 3 > out/B
        ./busybox ln -s ../B out/a/link
        """
    expected = {"z/": None, "z/file": b"1\n", "a/": None, "a/deep/": None,
                "a/deep/file": b"2\n", "a/link": ("link", "../B"), "empty/": None, "B": b"3\n"}
    for field in ("output_paths", "output_directories"):
        result = Job(s, script, **{field: ["out"]}).ok()
        equal([d.path for d in result.output_directories], ["out"],
              f"output directories with {field}")
        equal(read_tree(s, result.output_directories[0]), expected, f"content with {field}")


@must("With DIRECTORY_ONLY the root Directory is named, and all below it is in the store.")
def output_directory_format(s):
    need_worker(s)
    result = Job(s, "./busybox mkdir -p out/sub; echo 1 > out/sub/file", output_paths=["out"],
                 output_directory_format=1).ok()
    output = result.output_directories[0]
    s.need(output.root_directory_digest.hash, "the server gives Trees only, which is allowed")
    root = s.re.Directory.FromString(s.read(s.read_name(output.root_directory_digest)))
    sub = s.re.Directory.FromString(s.read(s.read_name(root.directories[0].digest)))
    equal(s.read(s.read_name(sub.files[0].digest)), b"1\n", "content")


@sane("With TREE_AND_DIRECTORY both are named, and say the same.")
def output_directory_both_formats(s):
    need_worker(s)
    result = Job(s, "./busybox mkdir -p out/sub; echo 1 > out/sub/file", output_paths=["out"],
                 output_directory_format=2).ok()
    output = result.output_directories[0]
    s.need(output.root_directory_digest.hash, "the server gives Trees only, which is allowed")
    equal(read_tree(s, output), {"sub/": None, "sub/file": b"1\n"}, "content by the Tree")
    tree_message = s.re.Tree.FromString(s.read(s.read_name(output.tree_digest)))
    equal(s.digest(tree_message.root).hash, output.root_directory_digest.hash, "the two roots")


@sane("A file with two names is two outputs; one with holes has zeros there.")
def output_hard_links_and_holes(s):
    need_worker(s)
    result = Job(s, """
        set -e
        ./busybox mkdir out; echo x > out/one; ./busybox ln out/one out/two; ./busybox ln out/one three
        ./busybox truncate -s 700000 out/holes; echo end >> out/holes
        """, output_paths=["out", "three"]).ok()
    equal(read_tree(s, result.output_directories[0]),
          {"one": b"x\n", "two": b"x\n", "holes": bytes(700000) + b"end\n"}, "content")
    equal(s.read(s.read_name(result.output_files[0].digest)), b"x\n", "the third name")


@sane("Node properties that the command asks for are those of the outputs.")
def output_node_properties(s):
    need_worker(s)
    result = Job(s, "echo 1 > out; ./busybox chmod 751 out; ./busybox touch -d @1000000000 out",
                 output_paths=["out"], output_node_properties=["mtime", "unix_mode"]).ok()
    properties = result.output_files[0].node_properties
    s.need(properties.HasField("mtime") and properties.HasField("unix_mode"),
           "the server keeps no node properties of outputs, which is allowed")
    equal((properties.mtime.seconds, properties.mtime.nanos, properties.unix_mode.value),
          (1000000000, 0, 0o751), "mtime and mode")


@sane("A job whose outputs cannot be taken still shows what it printed.")
def output_refused(s):
    need_worker(s)
    response = Job(s, "echo said; ./busybox mkfifo out", output_paths=["out"]).run()
    s.need(response.status.code, "the server takes or ignores fifos")
    s.need(response.HasField("result"), "no result comes with the failure, which is allowed")
    equal(text(s, response.result, "stdout"), b"said\n", "stdout")


@must("Output symlinks are listed as such, with their target.")
def output_symlinks(s):
    need_worker(s)
    result = Job(s, "echo 1 > file; ./busybox ln -s file link; ./busybox ln -s nowhere broken",
                 output_paths=["broken", "file", "link"]).ok()
    equal([f.path for f in result.output_files], ["file"], "output files")
    equal(sorted((link.path, link.target) for link in result.output_symlinks),
          [("broken", "nowhere"), ("link", "file")], "output symlinks")


@should("Links among output_files and output_directories are listed in the older fields, too.")
def older_output_symlinks(s):
    need_worker(s)
    result = Job(s, "echo 1 > file; ./busybox mkdir d; ./busybox ln -s file f; ./busybox ln -s d l",
                 output_files=["f"], output_directories=["l"]).ok()
    s.need(result.output_file_symlinks or result.output_directory_symlinks,
           "the server has left the older fields, which is allowed")
    equal([[(link.path, link.target) for link in links] for links in
           (result.output_file_symlinks, result.output_directory_symlinks)],
          [[("f", "file")], [("l", "d")]], "links to a file and to a directory")


@must("An output that was not made is left out.")
def no_outputs(s):
    need_worker(s)
    result = Job(s, "true", output_paths=["never", "made/either"]).ok()
    equal((len(result.output_files), len(result.output_directories)), (0, 0), "outputs")


@sane("Inputs can be outputs too, changed or not.")
def input_as_output(s):
    need_worker(s)
    result = Job(s, "echo more >> changed", {"kept": b"kept\n", "changed": b"one\n"},
                 output_paths=["changed", "kept"]).ok()
    equal({f.path: s.read(s.read_name(f.digest)) for f in result.output_files},
          {"kept": b"kept\n", "changed": b"one\nmore\n"}, "outputs")


# Caching ------------------------------------------------------------------------------------------

def cached(s, job):
    try:
        s.ac.GetActionResult(s.re.GetActionResultRequest(instance_name=s.instance,
                                                         action_digest=job.action))
        return True
    except grpc.RpcError as problem:
        equal(problem.code().name, "NOT_FOUND", "status of GetActionResult")
        return False


@sane("A second Execute of the same action is served from the cache, and says so.")
def cache_hit(s):
    need_worker(s)
    job = Job(s, "./busybox date +%s%N")
    first = job.run()
    check(not first.cached_result, "the first result is not a cached one")
    second = job.run()
    check(second.cached_result, "the second result is a cached one")
    equal(text(s, second.result, "stdout"), text(s, first.result, "stdout"), "stdout")
    check(cached(s, job), "the result is in the action cache")


@must("skip_cache_lookup runs the action again.")
def skip_cache_lookup(s):
    need_worker(s)
    job = Job(s, "./busybox cat /proc/uptime; ./busybox date +%s%N; echo $$")
    job.ok()
    check(not job.run(skip_cache_lookup=True).cached_result, "the result is not a cached one")


@must("With do_not_cache the result is not kept.")
def do_not_cache(s):
    need_worker(s)
    job = Job(s, "true", do_not_cache=True)
    job.ok()
    check(not cached(s, job), "nothing in the action cache")
    check(not job.run().cached_result, "the result is not a cached one")


@sane("Equal actions at the same time all get the result.")
def equal_actions_at_once(s):
    need_worker(s)
    job = Job(s, "./busybox sleep 1; echo same")
    results = []

    def one():
        try:
            results.append(text(s, job.response(list(job.start())[-1]).result, "stdout"))
        except Exception as problem:
            results.append(problem)
    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(results, [b"same\n"] * 4, "outputs")


# Limits -------------------------------------------------------------------------------------------

@error("A command over its timeout is ended with DEADLINE_EXCEEDED, and not cached.")
def timeout(s):
    need_worker(s)
    job = Job(s, "echo before; ./busybox sleep 50", timeout=1)
    began = time.time()
    response = job.run()
    equal(response.status.code, 4, "status (4 is DEADLINE_EXCEEDED)")
    check(time.time() - began < 40, "an end long before the command's own")
    check(not cached(s, job), "nothing in the action cache")
    for name, log in response.server_logs.items():
        equal(len(s.read(s.read_name(log.digest))), log.digest.size_bytes, f"bytes of the server log {name}")


@error("A negative timeout is an invalid argument.")
def negative_timeout(s):
    need_worker(s)
    job = Job(s, "true", timeout=-5)
    try:
        code = job.run().status.code
    except grpc.RpcError as problem:
        code = problem.code().value[0]
    equal(code, 3, "status (3 is INVALID_ARGUMENT)")


@error("A command without arguments is refused.")
def no_arguments(s):
    need_worker(s)
    command = s.re.Command(platform=platform(s), output_paths=[s.bytes(4).hex()])
    action = s.put(s.re.Action(command_digest=s.put(command), platform=platform(s),
                               input_root_digest=s.digest(b"")))
    try:
        last = list(s.execution.Execute(s.re.ExecuteRequest(
            instance_name=s.instance, action_digest=action), timeout=PATIENCE))[-1]
        response = s.re.ExecuteResponse()
        last.response.Unpack(response)
        code = response.status.code
    except grpc.RpcError as problem:
        code = problem.code().value[0]
    check(code in (3, 9), "INVALID_ARGUMENT (3) or FAILED_PRECONDITION (9)", code)


@error("Input roots out of the canonical form (here with one name twice) are refused.")
def name_twice(s):
    need_worker(s)
    digest = s.put(s.bytes(10))
    root = s.re.Directory()
    for _ in range(2):
        root.files.add(name="twice", digest=digest)
    command = s.put(s.re.Command(arguments=["true"], platform=platform(s)))
    action = s.put(s.re.Action(command_digest=command, input_root_digest=s.put(root),
                               platform=platform(s)))
    try:
        last = list(s.execution.Execute(s.re.ExecuteRequest(
            instance_name=s.instance, action_digest=action), timeout=PATIENCE))[-1]
        response = s.re.ExecuteResponse()
        last.response.Unpack(response)
        code = response.status.code
    except grpc.RpcError as problem:
        code = problem.code().value[0]
    check(code in (3, 9), "INVALID_ARGUMENT (3) or FAILED_PRECONDITION (9)", code)
