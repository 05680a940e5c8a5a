# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the tests of a scenario, which share one farm, one after the other, and tells how each went."""
import glob
import os
import shutil
import sys
import time


def need_root_and_fuse():
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("skipped: root and /dev/fuse are needed")
        sys.exit(77)


def print_logs(folder, most=3000):
    for path in sorted(glob.glob(f"{folder}/*.log")):
        with open(path, errors="replace") as log:
            print(f"--- {os.path.basename(path)}\n{log.read()[-most:]}")


def run_whole(test):
    """One test of several parts, which has `folder`, run() and stop(); what run() returns is its exit status. What a
    failed one left stays to be looked at."""
    try:
        status = test.run()
    except BaseException:
        print(f"FAILED; what it left is in {test.folder}", file=sys.stderr)
        test.stop()
        raise
    test.stop()
    shutil.rmtree(test.folder)
    sys.exit(status)


def run(scenario, tests, after_failure=lambda: None):
    """`NAME.py CROFT [TEST…]`: all of `tests`, or those named. The scenario has `folder`, a Farm and stop()."""
    wanted, failed = sys.argv[2:], 0
    if unknown := set(wanted) - {test.__name__ for test in tests}:
        scenario.stop()
        sys.exit(f"no such test: {', '.join(sorted(unknown))}; there are {', '.join(test.__name__ for test in tests)}")
    try:
        for test in tests:
            if wanted and test.__name__ not in wanted:
                continue
            start = time.monotonic()
            try:
                test(scenario)
                print(f"ok    {test.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
            except (Exception, SystemExit) as error:  # the next test may still tell something
                failed += 1
                print(f"FAIL  {test.__name__}: {type(error).__name__}: {error}\n      again: {sys.argv[0]} {sys.argv[1]} "
                      f"{test.__name__}", flush=True)
                after_failure()
        if failed:
            print_logs(scenario.folder)
            print_logs(scenario.farm.folder)
    finally:
        scenario.stop()
    sys.exit(1 if failed else 0)
