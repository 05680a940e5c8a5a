# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one form of trees: of those that clients give, and of those that servers make of outputs."""

from .execution import outcome
from .jobs import PATIENCE, Job, need_worker, platform
from .requirements import error, must, should
from .server import check, equal


def code_for(s, root):
    """The code with which an action over this input root ends, which any worker could run."""
    need_worker(s)
    command = s.put(s.re.Command(arguments=["./busybox", "true"], platform=platform(s)))
    action = s.put(s.re.Action(command_digest=command, input_root_digest=s.put(root), platform=platform(s)))
    code, _ = outcome(s, lambda: s.execution.Execute(s.re.ExecuteRequest(
        instance_name=s.instance, action_digest=action), timeout=PATIENCE))
    return code


def refused(s, root, what):
    check(code_for(s, root) in (3, 9), f"INVALID_ARGUMENT (3) or FAILED_PRECONDITION (9) for {what}",
          code_for(s, root))


def with_busybox(s):
    from .jobs import busybox
    root = s.re.Directory()
    root.files.add(name="busybox", digest=busybox(s), is_executable=True)
    return root


@error("Names are one segment of a path: no other is taken, in whichever list it stands.")
def names_of_one_segment(s):
    need_worker(s)
    data = s.put(s.bytes(10))
    for name in ("", ".", "..", "a/b", "/a", "../a"):
        root = with_busybox(s)
        root.files.add(name=name, digest=data)
        refused(s, root, f"the file {name!r}")
        root = with_busybox(s)
        root.directories.add(name=name, digest=s.digest(b""))
        refused(s, root, f"the directory {name!r}")
        root = with_busybox(s)
        root.symlinks.add(name=name, target="busybox")
        refused(s, root, f"the symlink {name!r}")


@error("Names are unique among files, directories and symlinks together.")
def one_name_in_two_lists(s):
    need_worker(s)
    root = with_busybox(s)
    root.directories.add(name="busybox", digest=s.digest(b""))
    refused(s, root, "a file and a directory")
    root = with_busybox(s)
    root.symlinks.add(name="busybox", target="elsewhere")
    refused(s, root, "a file and a symlink")


@error("Lists are sorted by name; a server that minds refuses others as the client's error.")
def unsorted_names(s):
    need_worker(s)
    root = s.re.Directory()
    root.files.add(name="z", digest=s.put(s.bytes(10)))
    root.files.add(name="a", digest=s.put(s.bytes(10)))
    root.files.extend(with_busybox(s).files)
    code = code_for(s, root)
    s.need(code, "the server takes them as they are, which is allowed")
    check(code in (3, 9), "INVALID_ARGUMENT (3) or FAILED_PRECONDITION (9)", code)


def output_tree(s, script, **more):
    result = Job(s, script, output_paths=["out"], **more).ok()
    return result.output_directories[0]


@should("Equal output directories are equal Trees, in whichever order they were made.")
def equal_outputs_are_equal_trees(s):
    need_worker(s)
    made = "for d in {}; do ./busybox mkdir -p out/$d/sub; echo $d > out/$d/sub/file; done"
    first, second = (output_tree(s, made.format(order)).tree_digest for order in ("c a b", "b c a"))
    s.need(first.hash, "the server gives no Trees, which is allowed")
    equal(first.hash, second.hash, "digest of the Tree")


def records(data):
    """(tag, bytes) of each record of a Tree that is a stream of records."""
    at = 0
    while at < len(data):
        tag, size, shift = data[at], 0, 0
        at += 1
        while True:
            check(at < len(data), "a whole size behind each tag")
            size |= (data[at] & 0x7f) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                break
        check(at + size <= len(data), "a record that is whole")
        yield tag, data[at:at + size]
        at += size


@must("A Tree that says that it is topologically sorted is a stream of records: parents come before their "
      "children, and each directory once.")
def trees_are_sorted_as_they_say(s):
    need_worker(s)
    output = output_tree(s, "./busybox mkdir -p out/a/x/same out/b/y/same out/c; echo 1 > out/a/x/same/file; "
                            "echo 1 > out/b/y/same/file")
    s.need(output.is_topologically_sorted, "is_topologically_sorted is not set, which is allowed")
    awaited, seen = set(), set()
    for number, (tag, data) in enumerate(records(s.read(s.read_name(output.tree_digest)))):
        equal(tag, 0x12 if number else 0x0a, f"tag of record {number}")
        digest = s.digest(data)
        check(number == 0 or digest.hash in awaited, f"a parent of record {number} before it")
        check(digest.hash not in seen, f"record {number} is not there already")
        seen.add(digest.hash)
        below = {d.digest.hash for d in s.re.Directory.FromString(data).directories}
        equal(below & seen, set(), f"children of record {number} that came before it")
        awaited |= below
    equal(awaited - seen, set(), "directories that are named and do not come")
