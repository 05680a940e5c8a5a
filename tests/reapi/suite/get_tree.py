# SPDX-License-Identifier: LGPL-2.1-or-later
from .cas import key
from .requirements import error, must, sane
from .server import check, equal, fails


def directory(s, children=(), files=(), links=()):
    """children and files: (name, digest); sorted here."""
    message = s.re.Directory()
    for name, digest in sorted(files):
        message.files.add(name=name, digest=digest)
    for name, digest in sorted(children):
        message.directories.add(name=name, digest=digest)
    for name, target in sorted(links):
        message.symlinks.add(name=name, target=target)
    return message


def a_tree(s, width=3, depth=2):
    """Uploads a tree; (root digest, all its directories)."""
    everything = []

    def build(level):
        children = [(f"d{i}", build(level - 1)) for i in range(width)] if level else []
        message = directory(s, children, [("file", s.absent())])
        everything.append(message)
        return s.put(message)
    return build(depth), everything


def get_tree(s, root, **more):
    return list(s.cas.GetTree(s.re.GetTreeRequest(
        instance_name=s.instance, root_digest=root, **more)))


def digests(s, pages):
    return [key(s.digest(d)) for page in pages for d in page.directories]


@sane("All directories below the root come, and the root too.")
def whole_tree(s):
    root, everything = a_tree(s)
    equal(set(digests(s, get_tree(s, root))), {key(s.digest(d)) for d in everything},
          "digests of the directories")


@sane("A root without subdirectories is a tree of one.")
def single_directory(s):
    message = directory(s, files=[("a", s.absent())], links=[("l", "a")])
    equal(digests(s, get_tree(s, s.put(message))), [key(s.digest(message))], "directories")


@must("The empty Directory, which is the empty blob, is there without having been uploaded.")
def empty_root(s):
    pages = get_tree(s, s.digest(b""))
    equal({d for d in digests(s, pages)} or {key(s.digest(b""))}, {key(s.digest(b""))},
          "directories (the empty one or none)")


@error("A root that is not there is NOT_FOUND.")
def missing_root(s):
    fails(lambda: get_tree(s, s.absent()), "NOT_FOUND")


@sane("What is missing below the root is left out, the rest comes.")
def missing_subdirectory(s):
    here = directory(s, files=[("f", s.absent())])
    root = directory(s, [("gone", s.absent()), ("here", s.put(here))])
    equal(set(digests(s, get_tree(s, s.put(root)))), {key(s.digest(root)), key(s.digest(here))},
          "directories")


@sane("No response holds more directories than page_size, and together they hold all.")
def page_size(s):
    root, everything = a_tree(s)
    pages = get_tree(s, root, page_size=2)
    seen = digests(s, pages)
    token = pages[-1].next_page_token
    while token:  # a server may end the stream after each page
        pages = get_tree(s, root, page_size=2, page_token=token)
        seen += digests(s, pages)
        check(all(len(p.directories) <= 2 for p in pages), "at most 2 directories in a page")
        token = pages[-1].next_page_token
    check(all(len(p.directories) <= 2 for p in pages), "at most 2 directories in a page",
          [len(p.directories) for p in pages])
    equal(set(seen), {key(s.digest(d)) for d in everything}, "directories")


@sane("A page token continues the traversal behind the page that it came with.")
def page_token(s):
    root, everything = a_tree(s)
    pages = get_tree(s, root, page_size=3)
    first = next((p for p in pages if p.next_page_token), None)
    s.need(first, "the server gives no page tokens")
    rest = get_tree(s, root, page_size=3, page_token=first.next_page_token)
    while rest[-1].next_page_token:
        rest += get_tree(s, root, page_size=3, page_token=rest[-1].next_page_token)
    at = pages.index(first)
    equal(set(digests(s, pages[:at + 1])) | set(digests(s, rest)),
          {key(s.digest(d)) for d in everything}, "directories before and behind the token")


@sane("The last page has no token.")
def last_page_has_no_token(s):
    root, _ = a_tree(s, depth=1)
    pages = get_tree(s, root)
    while pages[-1].next_page_token:
        pages = get_tree(s, root, page_token=pages[-1].next_page_token)
    equal(pages[-1].next_page_token, "", "token of the last page")


@error("A page token that was never given out is an invalid argument.")
def foreign_token(s):
    root, _ = a_tree(s, depth=0)
    fails(lambda: get_tree(s, root, page_token="no such token"), "INVALID_ARGUMENT")


@error("A request without a root, or with a malformed one, is an invalid argument (or not found).")
def malformed_root(s):
    fails(lambda: list(s.cas.GetTree(s.re.GetTreeRequest(instance_name=s.instance))),
          "INVALID_ARGUMENT", "NOT_FOUND")
    fails(lambda: get_tree(s, s.re.Digest(hash="xyz", size_bytes=3)), "INVALID_ARGUMENT",
          "NOT_FOUND")


@sane("A blob that is no Directory fails, with an error that is the client's.")
def root_is_no_directory(s):
    fails(lambda: get_tree(s, s.put(b"\xff" * 40 + s.bytes(10))), "INVALID_ARGUMENT",
          "FAILED_PRECONDITION", "NOT_FOUND", "DATA_LOSS")
