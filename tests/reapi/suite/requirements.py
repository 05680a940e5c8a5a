# SPDX-License-Identifier: LGPL-2.1-or-later
"""How tests are declared: one requirement of the specification each.

    @must("An empty blob is there without having been uploaded.")
    def empty_blob_is_never_missing(s): ...

Levels: MUST and SHOULD as the specification has them; "error" for the status codes that it lists for
a method; "sane" for what it does not say but every client relies on."""

from collections import namedtuple

Test = namedtuple("Test", "name level text function optional")
tests = []


def _declare(level, optional):
    def with_text(text, optional=optional):
        def decorate(function):
            area = function.__module__.rsplit(".", 1)[-1]
            tests.append(Test(f"{area}.{function.__name__}", level, text, function, optional))
            return function
        return decorate
    return with_text


must = _declare("MUST", False)
should = _declare("SHOULD", False)
error = _declare("error", False)
sane = _declare("sane", False)
