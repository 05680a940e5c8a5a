# SPDX-License-Identifier: LGPL-2.1-or-later
from .get_tree import directory
from .requirements import error, must, sane, should
from .server import check, equal, fails


def an_action(s):
    """Uploads a Command and an Action that no one has run."""
    command = s.re.Command(arguments=["true", s.bytes(8).hex()])
    s.put(command)
    action = s.re.Action(command_digest=s.digest(command), input_root_digest=s.digest(b""))
    s.put(action)
    return s.digest(action)


def get(s, action, instance=None, **more):
    return s.ac.GetActionResult(s.re.GetActionResultRequest(
        instance_name=s.instance if instance is None else instance, action_digest=action, **more))


def update(s, action, result):
    s.need(s.caps.cache_capabilities.action_cache_update_capabilities.update_enabled,
           "the action cache cannot be updated")
    return s.ac.UpdateActionResult(s.re.UpdateActionResultRequest(
        instance_name=s.instance, action_digest=action, action_result=result))


def refused_or_not_served(s, action, result):
    """What names blobs that are not there must not come back."""
    try:
        update(s, action, result)
    except Exception as problem:
        code = getattr(problem, "code", lambda: None)()
        if code is None:
            raise
        check(code.name in ("FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND"),
              "FAILED_PRECONDITION", code.name)
    fails(lambda: get(s, action), "NOT_FOUND")


@error("An action that was never run is NOT_FOUND.")
def unknown_action(s):
    fails(lambda: get(s, an_action(s)), "NOT_FOUND")


@sane("What was put in comes out.")
def update_and_get(s):
    action = an_action(s)
    file, out = s.bytes(500), s.bytes(300)
    s.put(file, out)
    leaf = directory(s, files=[("leaf", s.digest(file))])
    top = directory(s, [("sub", s.put(leaf))])
    tree = s.re.Tree(root=top, children=[leaf])
    result = s.re.ActionResult(exit_code=0)
    result.output_files.add(path="a/b", digest=s.digest(file), is_executable=True)
    result.output_symlinks.add(path="link", target="a/b")
    result.output_directories.add(path="dir", tree_digest=s.put(tree))
    result.stdout_digest.CopyFrom(s.digest(out))
    result.execution_metadata.worker = "the suite"
    update(s, action, result)
    got = get(s, action)
    equal([(f.path, f.digest.hash, f.is_executable) for f in got.output_files],
          [("a/b", s.digest(file).hash, True)], "output_files")
    equal([(d.path, d.tree_digest.hash) for d in got.output_directories],
          [("dir", s.digest(tree).hash)], "output_directories")
    equal([(link.path, link.target) for link in got.output_symlinks], [("link", "a/b")],
          "output_symlinks")
    equal(got.stdout_digest.hash, s.digest(out).hash, "stdout_digest")
    equal(got.execution_metadata.worker, "the suite", "worker")


@sane("A later result replaces an earlier one.")
def update_replaces(s):
    action = an_action(s)
    for code in (1, 2):
        result = s.re.ActionResult(exit_code=code)
        result.execution_metadata.worker = "the suite"
        update(s, action, result)
        equal(get(s, action).exit_code, code, "exit_code")


@should("A result is only returned while its output files are there.")
def missing_output_file(s):
    result = s.re.ActionResult()
    result.output_files.add(path="gone", digest=s.absent())
    refused_or_not_served(s, an_action(s), result)


@should("The same for files in output directories, which only the Tree names.")
def missing_file_in_tree(s):
    tree = s.re.Tree(root=directory(s, files=[("gone", s.absent())]))
    result = s.re.ActionResult()
    result.output_directories.add(path="dir", tree_digest=s.put(tree))
    refused_or_not_served(s, an_action(s), result)


@should("The same for the Tree itself.")
def missing_tree(s):
    result = s.re.ActionResult()
    result.output_directories.add(path="dir", tree_digest=s.absent())
    refused_or_not_served(s, an_action(s), result)


@should("The same for what stands below root_directory_digest.")
def missing_below_root_directory(s):
    root = directory(s, [("sub", s.put(directory(s, files=[("gone", s.absent())])))])
    result = s.re.ActionResult()
    result.output_directories.add(path="dir", root_directory_digest=s.put(root))
    refused_or_not_served(s, an_action(s), result)


@should("The same for stdout and stderr.")
def missing_logs(s):
    for field in ("stdout_digest", "stderr_digest"):
        result = s.re.ActionResult()
        getattr(result, field).CopyFrom(s.absent())
        refused_or_not_served(s, an_action(s), result)


@must("Empty outputs are there without having been uploaded.")
def empty_outputs(s):
    action = an_action(s)
    result = s.re.ActionResult()
    result.output_files.add(path="empty", digest=s.digest(b""))
    result.stdout_digest.CopyFrom(s.digest(b""))
    update(s, action, result)
    equal(get(s, action).output_files[0].path, "empty", "output file")


@should("Logs and files are not inlined unless asked for; if they are, they are right.")
def inlining(s):
    action = an_action(s)
    out, err, file = s.bytes(100), s.bytes(200), s.bytes(300)
    s.put(out, err, file)
    result = s.re.ActionResult()
    result.stdout_digest.CopyFrom(s.digest(out))
    result.stderr_digest.CopyFrom(s.digest(err))
    result.output_files.add(path="f", digest=s.digest(file))
    result.output_files.add(path="g", digest=s.digest(file))
    update(s, action, result)
    plain = get(s, action)
    equal((plain.stdout_raw, plain.stderr_raw, plain.output_files[0].contents), (b"", b"", b""),
          "inlined bytes without being asked")
    full = get(s, action, inline_stdout=True, inline_stderr=True, inline_output_files=["f"])
    check(full.stdout_raw in (b"", out), "stdout or nothing", full.stdout_raw)
    check(full.stderr_raw in (b"", err), "stderr or nothing", full.stderr_raw)
    check(full.output_files[0].contents in (b"", file), "the file or nothing")
    equal(full.output_files[1].contents, b"", "contents of the file that was not asked for")
    equal(full.stdout_digest.hash, s.digest(out).hash, "stdout_digest beside the bytes")


@must("Inlining never makes an answer too large for a message.")
def inlining_is_bounded(s):
    action = an_action(s)
    out = s.bytes(6 << 20)
    s.write(s.write_name(s.digest(out)), out)
    result = s.re.ActionResult()
    result.stdout_digest.CopyFrom(s.digest(out))
    update(s, action, result)
    size = get(s, action, inline_stdout=True).ByteSize()
    check(size <= 4 << 20, "an answer of at most 4 MiB (gRPC's default limit)", size)


@error("An update without an action digest or with a malformed one is an invalid argument.")
def update_with_bad_action(s):
    result = s.re.ActionResult(exit_code=0)
    s.need(s.caps.cache_capabilities.action_cache_update_capabilities.update_enabled,
           "the action cache cannot be updated")
    fails(lambda: update(s, None, result), "INVALID_ARGUMENT")
    fails(lambda: update(s, s.re.Digest(hash="abc", size_bytes=3), result), "INVALID_ARGUMENT")


@error("A look-up without an action digest or with a malformed one is an invalid argument.")
def get_with_bad_action(s):
    fails(lambda: get(s, None), "INVALID_ARGUMENT")
    fails(lambda: get(s, s.re.Digest(hash="abc", size_bytes=3)), "INVALID_ARGUMENT")


@error("A malformed digest within the result is an invalid argument.")
def update_with_bad_output(s):
    result = s.re.ActionResult()
    result.output_files.add(path="f", digest=s.re.Digest(hash="xyz", size_bytes=4))
    fails(lambda: update(s, an_action(s), result), "INVALID_ARGUMENT", "FAILED_PRECONDITION")
