# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every row is done by all stores in turn, over and over; a bar is the median, over the rounds, of the
best peer's time by ours. See bench/store/run."""
import argparse
import glob
import mmap
import operator
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, f"{HERE}/../../tests/lib"]
from farm import Farm  # noqa: E402
from peers import PEERS, run  # noqa: E402

GIB = 1 << 30
PACKAGES = "libpython3.11-stdlib perl-modules-5.36 libc6-dev linux-libc-dev cpp-12 git".split()


class Croft:
    name = "croft"

    def __init__(self, croft, folder):
        self.farm = Farm(croft, folder)
        self.farm.serve()
        self.target = self.farm.address
        self.pid = self.farm.server.pid

    def stop(self):
        self.farm.stop()


class Empty:
    """The gRPC core with handlers that only send and receive."""
    name = "empty"

    def __init__(self, client):
        self.process = subprocess.Popen([client, "empty"], stdout=subprocess.PIPE, text=True)
        self.target = f"127.0.0.1:{int(self.process.stdout.readline())}"
        self.pid = self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()


def settle(size):
    """As in a server that has run for a while: nothing waits to be written, and the pages that come next are
    backed. A virtual machine's host takes back what is free, and gives it at a few hundred MB a second."""
    os.sync()
    with mmap.mmap(-1, size) as pages:
        for at in range(0, size, mmap.PAGESIZE):
            pages[at] = 1


def processor_seconds(pid):
    """Of the process and those that it started."""
    total = 0
    for task in [pid, *map(int, open(f"/proc/{pid}/task/{pid}/children").read().split())]:
        fields = open(f"/proc/{task}/stat").read().rsplit(") ", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.client = os.path.abspath(arguments.client)
        self.seed = random.randrange(1 << 40)
        self.stores = []

    def start(self):
        os.makedirs(self.arguments.cache, exist_ok=True)
        self.stores.append(Croft(self.arguments.croft, f"{self.folder}/croft"))
        for peer in PEERS:
            if not self.arguments.peers or peer.name in self.arguments.peers:
                os.makedirs(f"{self.folder}/{peer.name}")
                self.stores.append(peer(self.arguments.cache, f"{self.folder}/{peer.name}"))

    def stop(self):
        for store in self.stores:
            store.stop()

    def call(self, store, what, *words, lines=None):
        given = open(lines) if lines else subprocess.DEVNULL
        done = subprocess.run([self.client, what, store.target, *map(str, words)], stdin=given,
                              capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise SystemExit(f"{store.name}: {what} {words}: {done.stderr}")
        return float(done.stdout)

    def fresh(self):
        self.seed += 1 << 24
        return self.seed

    def rounds(self, stores, work):
        """Seconds of each round of each store; the order turns."""
        times = {store.name: [] for store in stores}
        self.burnt = {store.name: -processor_seconds(store.pid) for store in stores}
        for i in range(self.arguments.runs):
            turn = i % len(stores)
            for store in stores[turn:] + stores[:turn]:
                settle(2 * self.arguments.size << 20)
                times[store.name].append(work(store, i))
        for store in stores:
            self.burnt[store.name] += processor_seconds(store.pid)
        return times

    def report(self, row, times, unit, amount):
        for name, taken in times.items():
            middle = statistics.median(taken)
            print(f"  {row}: {name} {middle * 1e3:.1f} ms ({amount / middle:.0f} {unit}; "
                  f"{self.burnt[name] / len(taken) * 1e3:.0f} ms of processor)", flush=True)

    def compare(self, row, work, unit, amount, core=None):
        """With the bare core in the same rounds, it is told what that reaches of the same bar."""
        times = self.rounds(self.stores + ([core] if core else []), work)
        self.report(row, times, unit, amount)
        ours, bare = times.pop("croft"), times.pop("empty", None)
        best = [min(taken) for taken in zip(*times.values())]
        if best:
            self.bar(f"store-{row}", statistics.median(map(operator.truediv, best, ours)), 2)
        if best and bare:
            print(f"  {row}: core itself {statistics.median(map(operator.truediv, best, bare)):.2f}", flush=True)
        if bare:
            return statistics.median(map(operator.truediv, bare, ours))
        return None

    def bar(self, name, value, goal):
        print(f"BAR {name} {value:.2f} >={goal} {'ok' if value >= goal else 'short'}", flush=True)

    # Rows -------------------------------------------------------------------------------------------

    def find(self):
        seed, count, calls = self.fresh(), 10000, 10
        for store in self.stores:
            self.call(store, "update", count, 4096, seed)
        self.compare("find-missing", lambda store, i: self.call(store, "find", count, seed, calls),
                     "digests/s", count * calls)

    def batches(self):
        count, seeds = 10000, [self.fresh() for _ in range(self.arguments.runs)]
        self.compare("batch-update", lambda store, i: self.call(store, "update", count, 4096, seeds[i]),
                     "blobs/s", count)
        self.compare("batch-read", lambda store, i: self.call(store, "read", count, 4096, seeds[i]),
                     "blobs/s", count)

    def streams(self):
        size, seeds = self.arguments.size << 20, [self.fresh() for _ in range(self.arguments.runs)]
        core = Empty(self.client)
        try:
            self.compare("stream-write", lambda store, i: self.call(store, "write", size, seeds[i]),
                         "MiB/s", size >> 20, core)
            for store in self.stores:
                self.call(store, "stream", size, seeds[-1], "check")
            by_core = self.compare("stream-read", lambda store, i: self.call(store, "stream", size, seeds[-1]),
                                   "MiB/s", size >> 20, core)
            self.bar("store-stream-read-by-core", by_core, 0.8)
        finally:
            core.stop()

    def packages(self):
        """A file with the names of the files of real packages, one a line."""
        packages, tree, lines = (f"{self.arguments.cache}/{name}" for name in ("debs", "tree", "files"))
        if not os.path.exists(lines):
            os.makedirs(packages, exist_ok=True)
            run("apt-get", "-q", "download", *PACKAGES, cwd=packages)
            for package in glob.glob(f"{packages}/*.deb"):
                run("dpkg-deb", "-x", package, tree)
            names = [f"{folder}/{name}" for folder, _, files in os.walk(tree) for name in sorted(files)]
            names = [name for name in names if os.path.isfile(name) and not os.path.islink(name)]
            with open(lines, "w") as out:
                out.write("".join(f"{name}\n" for name in names))
        return lines

    def compress(self):
        """What compressing at rest would save, and cost; no bar."""
        for level in (1, 3, 9):
            with open(self.packages()) as lines:
                done = subprocess.run([f"{os.path.dirname(self.client)}/bench-store-compress", str(level)],
                                      stdin=lines, capture_output=True, text=True, check=True)
            print(done.stdout, end="", flush=True)

    def tree(self):
        lines = self.packages()
        names = open(lines).read().split("\n")[:-1]
        size = sum(os.path.getsize(name) for name in names)
        print(f"  tree: {len(names)} files, {size >> 20} MiB")
        for store in self.stores:
            self.call(store, "put-tree", lines=lines)
        core = Empty(self.client)
        try:
            self.compare("tree", lambda store, i: self.call(store, "tree", 64, lines=lines), "files/s",
                         len(names), core)
        finally:
            core.stop()

    # Of ours alone ------------------------------------------------------------------------------------

    def memory(self):
        """An idle server; and a store of ten million blobs, a tenth of which were looked for."""
        server = Croft(self.arguments.croft, f"{self.folder}/idle")
        try:
            time.sleep(2)
            status = open(f"/proc/{server.pid}/status").read()
            resident = int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024 / 1e6
        finally:
            server.stop()
        self.most("store-idle-MB", resident, 30)
        place = f"{self.folder}/many"
        resident, own = run(f"{os.path.dirname(self.client)}/bench-store-memory", place,
                            str(self.arguments.blobs)).split()
        print(f"  memory: {self.arguments.blobs} blobs, {resident} MB resident, {own} of them not the "
              "page cache's")
        self.most("store-memory-MB", float(resident), 1000)
        shutil.rmtree(place)

    def crash(self):
        """Killed, and with the power failing, 200 times each (tests/unit/fs/test_store_crash.c)."""
        self.test("crash", "CROFT_CRASHES", self.arguments.crashes)

    def eviction(self):
        """At the budget, with leases held (tests/unit/fs/test_store_pressure.c)."""
        self.test("pressure", "CROFT_SECONDS", self.arguments.seconds)

    def test(self, name, variable, value):
        program = f"{os.path.dirname(self.client)}/../tests/unit/fs-test_store_{name}"
        done = subprocess.run([program], env={**os.environ, variable: str(value)}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        print(done.stdout[-3000:])
        self.most(f"store-{name}-failures", len(re.findall(r"\[  FAILED  \] \w+$", done.stdout, re.M))
                  or int(done.returncode != 0), 0)

    def most(self, name, value, goal):
        print(f"BAR {name} {value:g} <={goal} {'ok' if value <= goal else 'short'}", flush=True)


PAIRED = ("find", "batches", "streams", "tree")
ALONE = ("memory", "crash", "eviction", "compress")
ROWS = PAIRED + ALONE


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--croft", required=True)
    parser.add_argument("--client", required=True)
    parser.add_argument("--runs", type=int, default=5, help="rounds of each row")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the large blob")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--blobs", type=int, default=10_000_000, help="of the row memory")
    parser.add_argument("--crashes", type=int, default=200, help="of each kind in the row crash")
    parser.add_argument("--seconds", type=int, default=600, help="that the row eviction takes")
    parser.add_argument("--peers", nargs="*", help="only these (else all); croft is always there")
    parser.add_argument("--folder", default=os.environ.get("TMPDIR", "/var/tmp"))
    parser.add_argument("--cache", help="where the peers and packages are kept",
                        default=os.path.expanduser("~/.cache/croft-bench"))
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="croft-bench-store-", dir=arguments.folder)
    bench = Bench(arguments, folder)
    try:
        if set(arguments.rows) & set(PAIRED):
            bench.start()
        for row in arguments.rows:
            getattr(bench, row)()
    finally:
        bench.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
