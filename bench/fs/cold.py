#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cold path: one compilation on an agent with an empty cache, over a link with a round trip of
1 ms and 1 Gbit/s, against fetching the whole root first and against what it reads; then the same on a
further agent, with the profile that the first one's jobs left. Medians of rounds; each has new agents, and
a platform property of its own, so that it learns nothing from the rounds before."""
import argparse
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
sys.path[:0] = [f"{HERE}/../demo", f"{HERE}/../link", f"{HERE}/../../tests/lib"]
from debian import Apt
from farm import Farm
from link import ADDRESSES, Link

ROUND_TRIP_US, MBIT = 1000, 1000
ENVIRONMENT = ["-e", "PATH=/usr/bin:/bin", "-e", "LC_ALL=C", "-e", "HOME=/tmp"]
COMMAND = ["gcc", "-c", "/source/hello.c", "-o", "/tmp/hello.o"]


class Bench:
    def __init__(self, arguments):
        self.keep = arguments.state is not None
        self.folder = os.path.abspath(arguments.state) if self.keep else tempfile.mkdtemp(
            prefix="croft-cold-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.rounds = 3 if arguments.quick else 5
        shutil.rmtree(f"{self.folder}/farm", ignore_errors=True)
        self.link = Link(arguments.link, ROUND_TRIP_US, MBIT)
        self.farm = Farm(arguments.croft, f"{self.folder}/farm")
        self.farm.address = self.farm.plane = f"{ADDRESSES[0]}:0"
        self.farm.enter = {"serve": self.link.enter(0), "client": self.link.enter(0)}

    def prepare(self):
        self.farm.serve()
        os.makedirs(f"{self.folder}/source", exist_ok=True)
        with open(f"{self.folder}/source/hello.c", "w") as file:
            file.write('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
        packages = Apt(f"{self.folder}/debian").packages()
        with open(f"{self.folder}/list", "w") as listing:
            for name, path in packages.items():
                listing.write(f"pkg-{name}={path}\n")
        self.farm.run("import", "--list", f"{self.folder}/list", timeout=1200)
        self.roots = [word for name in packages for word in ("-d", f"pkg-{name}")]
        self.roots += ["-i", f"{self.folder}/source:source"]

    def agent(self, name, turn):
        self.farm.enter[name] = self.link.enter(1)
        self.farm.agent(name, "-p", f"round={turn}", "--no-peers")
        self.farm.wait_agents(1)

    def drop(self, name):
        self.farm.stop_agent(name)
        shutil.rmtree(f"{self.folder}/farm/{name}")

    def job(self, *extra):
        start = time.monotonic()
        done = self.farm.run("run", "--json", "--skip-cache", *extra, *self.roots, *ENVIRONMENT, "--", *COMMAND,
                             timeout=600)
        return time.monotonic() - start, json.loads(done.stdout)

    def opened_bytes(self, tree):
        """What is in the files that the command opens, once each, as strace sees it."""
        trace = f"{self.folder}/trace"
        subprocess.run(["strace", "-f", "-o", trace, "-e", "trace=openat,open,execve", "chroot", tree,
                        "/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C", *COMMAND], check=True)
        files = {}
        for line in open(trace, errors="replace"):
            match = re.search(r'(?:openat|open|execve)\((?:AT_FDCWD, )?"(/[^"]*)".* = \d+', line)
            if not match or "O_WRONLY" in line or "O_RDWR" in line:
                continue
            path = os.path.normpath(tree + match.group(1))
            while os.path.islink(path):
                target = os.readlink(path)
                path = tree + target if target.startswith("/") else os.path.join(os.path.dirname(path), target)
            path = os.path.realpath(path)
            if path.startswith(os.path.realpath(tree)) and os.path.isfile(path):
                files[os.stat(path).st_ino] = os.path.getsize(path)
        # The loader of dynamic programs is opened by the kernel.
        for loader in ("lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"):
            path = os.path.realpath(f"{tree}/{loader}")
            if path.startswith(os.path.realpath(tree)) and os.path.isfile(path):
                files[os.stat(path).st_ino] = os.path.getsize(path)
        return sum(files.values()), len(files)

    def fetch_everything(self, root):
        """Seconds to bring the whole root over the link: as a farm without lazy inputs would."""
        target = f"{self.folder}/everything"
        shutil.rmtree(target, ignore_errors=True)
        self.farm.enter["client"] = self.link.enter(1)
        start = time.monotonic()
        self.farm.run("export", root, target, timeout=1200)
        self.farm.enter["client"] = self.link.enter(0)
        return time.monotonic() - start, target

    def bar(self, name, value, goal, good):
        print(f"BAR cold-{name} {value:.3f} {goal} {'ok' if good else 'short'}", flush=True)

    def show(self, what, seconds, result):
        inputs = result["inputs"]
        print(f"  {what}: {seconds:.2f} s; {inputs['prefetched_bytes'] / 1e6:.1f} MB in {inputs['prefetched_files']} "
              f"files came ahead, {inputs['wasted_bytes'] / 1e6:.2f} MB of it for nothing; {inputs['fetched_bytes'] / 1e6:.1f} "
              f"MB when asked for, {inputs['stall_ms']} ms waited; in ms: {result['milliseconds']}", flush=True)

    def run(self):
        self.prepare()
        cold, warm, profiled, fetched, result = [], [], [], [], None
        for i in range(self.rounds):
            kind = ["-p", f"round={i}"]
            self.agent(f"cold{i}", i)
            seconds, result = self.job(*kind)
            cold.append(seconds)
            self.show("without", seconds, result)
            fetched.append((result["inputs"]["fetched_bytes"], result["inputs"]["fetched_files"]))
            warm.append(min(self.job(*kind)[0] for _ in range(3)))
            self.drop(f"cold{i}")
            self.agent(f"profiled{i}", i)
            seconds, told = self.job(*kind)
            profiled.append(seconds)
            self.show("with its profile", seconds, told)
            self.drop(f"profiled{i}")
        whole, tree = self.fetch_everything(result["input_root"])
        opened, count = self.opened_bytes(tree)
        first, usual = statistics.median(cold), statistics.median(warm)
        moved = statistics.median(size for size, _ in fetched)
        print(f"  hello.c over {ROUND_TRIP_US / 1000:g} ms and {MBIT} Mbit/s: {first:.2f} s cold, {usual:.2f} s warm; "
              f"{moved / 1e6:.1f} MB in {fetched[0][1]} files fetched; it opens {opened / 1e6:.1f} MB in {count} files; "
              f"the root has {result['inputs']['bytes'] / 1e9:.2f} GB in {result['inputs']['files']} files, "
              f"which take {whole:.1f} s to fetch")
        self.bar("fetched-by-opened", moved / opened, "<=1.05", moved <= 1.05 * opened)
        self.bar("fetch-first-by-lazy", (whole + usual) / first, ">=10", whole + usual >= 10 * first)
        ideal = usual + moved * 8 / (MBIT * 1e6)
        print(f"  without a profile: {first / ideal:.2f} of warm time and transfer")
        ahead = statistics.median(profiled)
        self.bar("profiled-by-ideal", ahead / ideal, "<=1.5", ahead <= 1.5 * ideal)

    def stop(self):
        self.farm.stop()
        self.link.stop()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("croft")
    parser.add_argument("link", help="the program that is the link")
    parser.add_argument("--state", help="keep packages here for the next time")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    bench = Bench(parser.parse_args())
    try:
        bench.run()
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
