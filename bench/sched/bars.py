#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load on a real server: durable transitions, real gRPC, the server on one core and the load on the
others. Then real agents and sandboxes, and a queue of 200,000 operations."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../../tests/lib")
from farm import Farm


def bar(name, value, goal, right):
    print(f"BAR {name} {value} {goal} {'ok' if right else 'short'}", flush=True)


class Bench:
    def __init__(self, croft, load):
        self.load_program = load
        self.folder = tempfile.mkdtemp(prefix="croft-sched-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.farm = Farm(croft, self.folder)

    def pin(self, cores):
        """The server's present threads, and those that they make."""
        subprocess.run(["taskset", "-apc", cores, str(self.farm.server.pid)], check=True,
                       stdout=subprocess.DEVNULL)

    def load(self, *options, cores=None):
        command = ["taskset", "-c", cores] if cores else []
        done = subprocess.run([*command, self.load_program, self.farm.address, *options],
                              stdout=subprocess.PIPE, text=True, check=True)
        print(f"  load {' '.join(options)}: {done.stdout.strip()}", flush=True)
        return json.loads(done.stdout)

    def memory_megabytes(self):
        with open(f"/proc/{self.farm.server.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    def fake_agents(self):
        others = f"1-{os.cpu_count() - 1}" if os.cpu_count() > 1 else "0"
        self.pin("0")
        self.load("--operations", "3000", cores=others)
        best = max((self.load("--operations", "20000", "--clients", clients, cores=others)
                    for clients in ("64", "256", "512")), key=lambda run: run["per_second"])
        bar("sched-operations-per-second", f"{best['per_second']:.0f}", ">=15000",
            best["per_second"] >= 15000)
        half = self.load("--operations", "5000", "--rate", str(int(best["per_second"] / 2)),
                         cores=others)
        bar("sched-p99-ms-at-half-load", f"{half['p99_ms']:.1f}", "<5", half["p99_ms"] < 5)
        self.pin(f"0-{os.cpu_count() - 1}")

    def real_agents(self):
        image = f"{self.folder}/image"
        os.makedirs(f"{image}/bin")
        shutil.copy("/bin/busybox", f"{image}/bin/busybox")
        os.symlink("busybox", f"{image}/bin/true")
        self.farm.agent("real", "--root-image", image, slots=os.cpu_count() * 2)
        self.farm.wait_agents(1)
        arguments = ("--agents", "0", "--clients", "16", "--command", "/bin/true")
        self.load(*arguments, "--operations", "200")
        run = self.load(*arguments, "--operations", "2000")
        bar("sched-real-actions-per-second", f"{run['per_second']:.0f}", ">=400",
            run["per_second"] >= 400)
        self.farm.stop_agent("real")

    def queue(self, count):
        before = self.memory_megabytes()
        run = self.load("--queue", str(count), "--operations", "2000", "--clients", "1", "--agents", "1")
        print(f"  {before:.0f} MB before, {self.memory_megabytes():.0f} MB with {count} queued")
        bar("sched-queue-megabytes", f"{self.memory_megabytes():.0f}", "<400",
            self.memory_megabytes() < 400)
        bar("sched-queue-execute-p99-ms", f"{run['p99_ms']:.1f}", "<10", run["p99_ms"] < 10)

    def run(self, queued):
        self.farm.serve()
        self.fake_agents()
        self.real_agents()
        self.queue(queued)

    def stop(self):
        self.farm.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("croft")
    parser.add_argument("load")
    parser.add_argument("--queue", type=int, default=200000)
    arguments = parser.parse_args()
    bench = Bench(os.path.abspath(arguments.croft), os.path.abspath(arguments.load))
    try:
        bench.run(arguments.queue)
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
