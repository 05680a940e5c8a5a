# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds the tests, runs them and counts."""

import argparse
import importlib
import os
import sys
import traceback

import grpc

from . import requirements
from .server import Failure, Server, Skip

AREAS = ["capabilities", "cas", "get_tree", "bytestream_read", "bytestream_write", "compression",
         "chunking", "action_cache", "execution", "jobs", "operations", "assets", "health", "reflection"]


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


def main(arguments):
    parser = argparse.ArgumentParser(prog="SERVER=host:port tests/reapi/run")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the tests that pass")
    parser.add_argument("-k", metavar="WORD", default="", help="only tests whose name has WORD")
    parser.add_argument("--list", action="store_true", help="list the requirements and end")
    options = parser.parse_args(arguments)
    for area in AREAS:
        importlib.import_module("." + area, __package__)
    tests = [test for test in requirements.tests if options.k in test.name]
    if options.list:
        for test in tests:
            print(f"{test.level:6} {test.name}\n       {test.text}")
        return 0
    target = os.environ.get("SERVER")
    if not target:
        parser.error("SERVER is not set: give the host:port of the server to check")
    server = Server(target, os.environ.get("INSTANCE", ""))
    try:
        grpc.channel_ready_future(server.channel).result(timeout=20)
    except grpc.FutureTimeoutError:
        print(f"no gRPC server answers at {target}", file=sys.stderr)
        return 2
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for test in tests:
        outcome, text = run_one(test, server)
        counts[outcome] += 1
        if outcome != "ok" or options.verbose:
            print(f"{outcome:4} {test.level:6} {test.name}")
        if outcome == "FAIL":
            print(f"    {test.text}\n    {text}\n    alone: SERVER={target} SEED={server.seed} "
                  f"tests/reapi/run -k {test.name}")
        elif text and (options.verbose or outcome == "skip"):
            print(f"    {text}")
        sys.stdout.flush()
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] else 0
