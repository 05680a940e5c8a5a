# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds the tests, runs them and counts."""

import argparse
import fnmatch
import importlib
import os
import re
import sys
import time
import traceback
from collections import namedtuple

import grpc

from . import reports, requirements
from .server import Failure, Server, Skip

AREAS = ["capabilities", "cas", "get_tree", "bytestream_read", "bytestream_write", "compression",
         "chunking", "action_cache", "execution", "jobs", "canonical", "lifecycle", "operations", "assets", "health",
         "reflection"]
TABLE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "requirements.md")

Result = namedtuple("Result", "test outcome text seconds")


def run_one(test, server):
    """(outcome, text)"""
    try:
        test.function(server)
        return "ok", ""
    except Skip as skip:
        return "skip", str(skip)
    except Failure as failure:
        return "FAIL", str(failure)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED and test.optional:
            return "skip", "the server does not implement this: " + (error.details() or "")
        return "FAIL", f"unexpected {error.code().name}: {error.details()}"
    except Exception:  # a bug of the suite must not hide the other results
        return "FAIL", traceback.format_exc()


def chosen(test, options):
    """By a part of the name, by a pattern for all of it, and by its level."""
    return (options.k in test.name and
            (not options.filter or any(fnmatch.fnmatchcase(test.name, pattern) for pattern in options.filter)) and
            (not options.level or test.level in options.level))


def check_table(tests):
    """requirements.md names tests that there are, and each that is for a MUST or a SHOULD."""
    with open(TABLE) as file:
        named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", file.read()))
    wrong = [f"requirements.md names {name}, which is no test" for name in named - {test.name for test in tests}]
    wrong += [f"requirements.md lacks {test.name}" for test in tests
              if test.level in ("MUST", "SHOULD") and test.name not in named]
    if wrong:
        raise SystemExit("\n".join(sorted(wrong)))


def parse(arguments):
    parser = argparse.ArgumentParser(prog="SERVER=host:port tests/reapi/run")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the tests that pass")
    parser.add_argument("-k", metavar="WORD", default="", help="only tests whose name has WORD")
    parser.add_argument("--filter", metavar="PATTERN", action="append",
                        help="only tests whose name is like this ('cas.*'); may be repeated")
    parser.add_argument("--level", action="append", choices=["MUST", "SHOULD", "error", "sane"],
                        help="only requirements of this level; may be repeated")
    parser.add_argument("--json", metavar="FILE", help="write what was found for programs")
    parser.add_argument("--junit", metavar="FILE", help="the same as JUnit's XML")
    parser.add_argument("--list", action="store_true", help="list the requirements and end")
    options = parser.parse_args(arguments)
    if not options.list and not os.environ.get("SERVER"):
        parser.error("SERVER is not set: give the host:port of the server to check")
    return options


def report(result, server, verbose):
    test = result.test
    if result.outcome != "ok" or verbose:
        print(f"{result.outcome:4} {test.level:6} {test.name}")
    if result.outcome == "FAIL":
        print(f"    {test.text}\n    {result.text}\n    alone: SERVER={server.target} SEED={server.seed} "
              f"tests/reapi/run -k {test.name}")
    elif result.text and (verbose or result.outcome == "skip"):
        print(f"    {result.text}")
    sys.stdout.flush()


def main(arguments):
    options = parse(arguments)
    for area in AREAS:
        importlib.import_module("." + area, __package__)
    check_table(requirements.tests)
    tests = [test for test in requirements.tests if chosen(test, options)]
    if not tests:
        print("no test has such a name and level", file=sys.stderr)
        return 2
    if options.list:
        for test in tests:
            print(f"{test.level:6} {test.name}\n       {test.text}")
        return 0
    server = Server(os.environ["SERVER"], os.environ.get("INSTANCE", ""))
    try:
        grpc.channel_ready_future(server.channel).result(timeout=20)
    except grpc.FutureTimeoutError:
        print(f"no gRPC server answers at {server.target}", file=sys.stderr)
        return 2
    results = []
    for test in tests:
        began = time.monotonic()
        results.append(Result(test, *run_one(test, server), time.monotonic() - began))
        report(results[-1], server, options.verbose)
    if options.json:
        reports.write_json(options.json, server.target, server.seed, results)
    if options.junit:
        reports.write_junit(options.junit, server.target, results)
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in ("ok", "FAIL", "skip")}
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] else 0
