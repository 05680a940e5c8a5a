#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The warm path: the same work in the same sandbox, in turn over the lazy mount and over plain files.
Each run is a job of its own, so its overlay is fresh. Figures are medians of paired ratios (plain time
by lazy time: 1 is as fast), once the agent has made what it makes of trees that jobs share. A pair counts when both
were warm: the disk gave nothing to either, the mount's daemon nothing to the lazy one. A kernel that pages out what lies idle (DAMON) makes others."""
import argparse
import glob
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [f"{HERE}/../demo", f"{HERE}/../../tests/lib"]
from debian import Apt
from farm import Farm

PAIRS = 7
ROWS = "small-files,sequential-2GiB,list-100000,hello-c,boost-cpp,compiler-start"
TRIES = 4  # times as many pairs, to have PAIRS warm ones
WARM_BYTES = 1 << 20  # no more read anew: a job's own start is not what is measured
ENVIRONMENT = ["-e", "PATH=/usr/bin:/bin", "-e", "LC_ALL=C", "-e", "HOME=/tmp"]
BOOST = r"""#include <boost/asio.hpp>
#include <boost/spirit/include/qi.hpp>
int main() { boost::asio::io_context io; return io.run() != 0; }
"""


class Bench:
    def __init__(self, arguments):
        self.keep = arguments.state is not None
        self.folder = os.path.abspath(arguments.state) if self.keep else tempfile.mkdtemp(
            prefix="croft-warm-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.quick = arguments.quick
        self.rows = arguments.rows.split(",")
        self.tree = f"{self.folder}/tree"
        self.reader = arguments.reader
        shutil.rmtree(f"{self.folder}/farm", ignore_errors=True)
        self.farm = Farm(arguments.croft, f"{self.folder}/farm")

    def make_files(self):
        """What to read: beside a toolchain, 20,000 small files, 100,000 empty ones, a large one."""
        top = f"{self.folder}/files"
        os.makedirs(f"{top}/bench/bin", exist_ok=True)
        shutil.copy(self.reader, f"{top}/bench/bin/reader")
        if os.path.isdir(f"{top}/bench/source"):  # the last that is made
            return top
        random = os.urandom(1 << 20)
        for i in range(20000):
            os.makedirs(f"{top}/bench/small/{i % 200}", exist_ok=True)
            size = 200 + (i * 7919) % 4000
            with open(f"{top}/bench/small/{i % 200}/{i}", "wb") as file:
                file.write(i.to_bytes(4, "little") + random[i:i + size])
        for i in range(100000):
            if i % 1000 == 0:
                os.makedirs(f"{top}/bench/many/{i // 1000}")
            open(f"{top}/bench/many/{i // 1000}/{i}", "w").close()
        with open(f"{top}/bench/large", "wb") as file:
            for i in range(2048):
                file.write(i.to_bytes(4, "little") + random[4:])
        os.makedirs(f"{top}/bench/source")
        with open(f"{top}/bench/source/hello.c", "w") as file:
            file.write('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
        with open(f"{top}/bench/source/boost.cpp", "w") as file:
            file.write(BOOST)
        return top

    def prepare(self):
        self.farm.serve()
        files = self.make_files()
        packages = Apt(f"{self.folder}/debian").packages()
        with open(f"{self.folder}/list", "w") as listing:
            for name, path in packages.items():
                listing.write(f"pkg-{name}={path}\n")
            listing.write(f"files={files}\n")
        self.farm.run("import", "--list", f"{self.folder}/list", timeout=1200)
        self.roots = []
        for name in [f"pkg-{package}" for package in packages] + ["files"]:
            self.roots += ["-d", name]
        self.farm.agent("lazy", "--property", "files=lazy")
        self.farm.wait_agents(1)
        root = self.job("lazy", "run", "true")[0]["input_root"]
        self.daemon = self.find_daemon()
        # From here on the tree by its digest: merging the packages anew before each job would leave the
        # lazy jobs with colder processor caches than the plain ones.
        self.roots = ["-d", root]
        if not os.path.isdir(self.tree):
            self.farm.run("export", root, self.tree, timeout=1200)
        shutil.copy(self.reader, f"{self.tree}/bench/bin/reader")  # as it is now, where the tree was kept
        self.farm.agent("plain", "--property", "files=plain", "--root-image", self.tree)
        self.farm.wait_agents(2)

    def find_daemon(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue  # it has ended
            if b"fs-daemon" in words and f"{self.farm.folder}/lazy/fs".encode() in words:
                return pid
        raise SystemExit("the lazy agent has no filesystem daemon")

    def job(self, where, *command):
        inputs = self.roots if where == "lazy" else ["-i", f"{self.folder}/files/bench/source"]
        done = self.farm.run("run", "--json", "--skip-cache", "--platform", f"files={where}", *inputs,
                             *ENVIRONMENT, "--", "/bench/bin/reader", *command, timeout=600)
        return json.loads(done.stdout), done.stderr

    def given(self):
        """Bytes that the lazy mount's daemon has written, which is to the kernel, and to the agent."""
        with open(f"/proc/{self.daemon}/io") as file:
            return int(re.search(r"wchar: (\d+)", file.read()).group(1))

    def time(self, where, *command):
        """Nanoseconds, and the bytes that had to be read anew."""
        before = self.given()
        took, disk = re.search(r"took (\d+) ns, .* (\d+) from disk", self.job(where, *command)[1]).groups()
        return int(took), int(disk) + (self.given() - before if where == "lazy" else 0)

    def made(self):
        """How many bytes stand in for those of the tree, with what is being written."""
        top, total = f"{self.folder}/farm/lazy/fs/standins", 0
        for path in glob.glob(f"{top}/files/*") + glob.glob(f"{top}/trees/*/image"):
            try:
                total += os.stat(path).st_blocks + 1
            except FileNotFoundError:
                pass  # it has got its name, or there is a newer one
        return total

    def settle(self):
        """What two jobs used is made behind them."""
        before, same = self.made(), 0
        while same < 10:
            time.sleep(0.2)
            now = self.made()
            before, same = now, same + 1 if now == before else 0

    def pair(self, name, goal, *command):
        if name not in self.rows:
            return
        for where in ("lazy", "lazy", "plain"):  # caches warm: the disk's, the kernel's, ours
            self.time(where, *command)
        self.settle()
        self.time("lazy", *command)
        wanted = 3 if self.quick else PAIRS
        warm, cold = [], []
        while len(warm) < wanted and len(warm) + len(cold) < wanted * TRIES:
            (plain, plain_again), (lazy, lazy_again) = (self.time(where, *command) for where in ("plain", "lazy"))
            (warm if max(plain_again, lazy_again) <= WARM_BYTES else cold).append((plain / lazy, lazy))
        ratios, lazy = zip(*(warm or cold))
        value = statistics.median(ratios)
        print(f"  {name}: {statistics.median(lazy) / 1e6:.1f} ms lazily, ratios {min(ratios):.2f} to "
              f"{max(ratios):.2f} of {len(ratios)} pairs{'' if warm else ', none of them warm'}; the kernel had let "
              f"go of something in {len(cold)}")
        print(f"BAR warm-{name} {value:.3f} >={goal} {'ok' if value >= goal else 'short'}", flush=True)

    def run(self):
        self.prepare()
        print("Warm, a fresh overlay each time: plain files' time by the lazy mount's")
        self.pair("small-files", 0.90, "read", "/bench/small")
        self.pair("sequential-2GiB", 0.97, "file", "/bench/large")
        self.pair("list-100000", 0.80, "list", "/bench/many")
        self.pair("hello-c", 0.93, "run", "gcc", "-c", "/bench/source/hello.c", "-o", "/tmp/hello.o")
        self.pair("boost-cpp", 0.97, "run", "g++", "-c", "/bench/source/boost.cpp", "-o", "/tmp/boost.o")
        self.pair("compiler-start", 0.97, "run", "g++", "-E", "-x", "c++", "/dev/null", "-o", "/tmp/none")

    def stop(self):
        self.farm.stop()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("croft")
    parser.add_argument("reader")
    parser.add_argument("--state", help="keep trees and packages here for the next time")
    parser.add_argument("--quick", action="store_true", help="three pairs of each")
    parser.add_argument("--rows", default=ROWS, help="only these of %(default)s")
    bench = Bench(parser.parse_args())
    try:
        bench.run()
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
