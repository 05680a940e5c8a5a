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
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../../tests/lib")
from farm import Farm


def bar(name, value, goal, right):
    print(f"BAR {name} {value} {goal} {'ok' if right else 'short'}", flush=True)


def processor_by_name(folder, root):
    """Seconds of each kind of process of an agent: those below it, or that name its folder; and of their children that
    are gone, which are the sandboxes'."""
    found, parents = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                head, words = stat.read().rsplit(")", 1)
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                command = cmdline.read().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        words = words.split()
        parents[int(pid)] = int(words[1])
        name = command.split()[1] if command.startswith("croft ") else head.split("(", 1)[1]
        found[int(pid)] = (name, command, [int(word) for word in words[11:15]])
    seconds = {}
    for pid, (name, command, ticks) in found.items():
        above = pid
        while above not in (0, root):
            above = parents.get(above, 0)
        if above != root and folder not in command:
            continue
        for label, spent in (name, ticks[0] + ticks[1]), (f"{name}'s children", ticks[2] + ticks[3]):
            seconds[label] = seconds.get(label, 0) + spent / os.sysconf("SC_CLK_TCK")
    return seconds


class Bench:
    def __init__(self, croft, load):
        self.load_program = load
        self.folder = tempfile.mkdtemp(prefix="croft-sched-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.farm = Farm(croft, self.folder)

    def serve(self, cores=None):
        """On these cores only, from the start."""
        self.farm.stop()
        self.farm.enter["serve"] = ["taskset", "-c", cores] if cores else []
        self.farm.serve()

    def processor_seconds(self):
        with open(f"/proc/{self.farm.server.pid}/stat") as stat:
            words = stat.read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def load(self, *options, cores=None):
        before = self.processor_seconds()
        command = ["taskset", "-c", cores] if cores else []
        done = subprocess.run([*command, self.load_program, self.farm.address, *options],
                              stdout=subprocess.PIPE, text=True, check=True)
        run = json.loads(done.stdout)
        spent = (self.processor_seconds() - before) / run["operations"]
        print(f"  load {' '.join(options)}: {done.stdout.strip()}, {spent * 1e6:.0f} us of the server's "
              "processor time each", flush=True)
        return run

    def memory_megabytes(self):
        with open(f"/proc/{self.farm.server.pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        print("  " + ", ".join(f"{key} {int(lines[key].split()[0]) / 1024:.0f} MB"
                               for key in ("VmRSS", "RssAnon", "RssFile")), flush=True)
        return int(lines["VmRSS"].split()[0]) / 1024

    def fake_agents(self):
        others = f"1-{os.cpu_count() - 1}" if os.cpu_count() > 1 else "0"
        self.serve("0")
        self.load("--operations", "3000", cores=others)
        best = max((self.load("--operations", "20000", "--clients", clients, cores=others)
                    for clients in ("64", "256", "512")), key=lambda run: run["per_second"])
        bar("sched-operations-per-second", f"{best['per_second']:.0f}", ">=15000",
            best["per_second"] >= 15000)
        half = self.load("--operations", "30000", "--clients", "512", "--rate", "7500", cores=others)
        bar("sched-p99-ms-at-half-load", f"{half['p99_ms']:.1f}", "<5", half["p99_ms"] < 5)
        self.serve()

    def real_agents(self):
        image = f"{self.folder}/image"
        os.makedirs(f"{image}/bin")
        shutil.copy("/bin/busybox", f"{image}/bin/busybox")
        os.symlink("busybox", f"{image}/bin/true")
        self.farm.agent("real", "--root-image", image, slots=os.cpu_count() * 2)
        self.farm.wait_agents(1)
        arguments = ("--agents", "0", "--clients", "16", "--command", "/bin/true")
        self.load(*arguments, "--operations", "200")
        before = processor_by_name(f"{self.folder}/real", self.farm.agents["real"].pid)
        run = self.load(*arguments, "--operations", "2000")
        after = processor_by_name(f"{self.folder}/real", self.farm.agents["real"].pid)
        spent = {name: (seconds - before.get(name, 0)) / 2000 * 1e6 for name, seconds in after.items()}
        print("  us of processor time an action: " + ", ".join(
            f"{name} {each:.0f}" for name, each in sorted(spent.items(), key=lambda item: -item[1]) if each >= 1),
              flush=True)
        bar("sched-real-actions-per-second", f"{run['per_second']:.0f}", ">=400",
            run["per_second"] >= 400)
        self.farm.stop_agent("real")

    def queue(self, count):
        before = self.memory_megabytes()
        run = self.load("--queue", str(count), "--operations", "2000", "--clients", "1", "--agents", "1")
        after = self.memory_megabytes()
        print(f"  {before:.0f} MB before, {after:.0f} MB with {count} queued")
        bar("sched-queue-megabytes", f"{after:.0f}", "<400", after < 400)
        bar("sched-queue-execute-p99-ms", f"{run['p99_ms']:.1f}", "<10", run["p99_ms"] < 10)

    def restart(self, count):
        """A killed server answers again; a queue of its own, so that the count is right."""
        self.farm.stop()
        shutil.rmtree(f"{self.folder}/serve")
        self.farm.serve()
        self.load("--queue", str(count), "--operations", "1", "--clients", "1", "--agents", "1")
        self.farm.kill_server()
        begun = time.monotonic()
        self.farm.serve()
        found = self.farm.status()["queued"]
        seconds = time.monotonic() - begun
        bar("sched-restart-seconds", f"{seconds:.2f}", "<2", seconds < 2 and found == count)

    def run(self, rows, queued):
        self.serve()
        if "fake" in rows:
            self.fake_agents()
        if "real" in rows:
            self.real_agents()
        if "queue" in rows:
            self.queue(queued)
        if "restart" in rows:
            self.restart(queued // 2)

    def stop(self):
        self.farm.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("croft")
    parser.add_argument("load")
    parser.add_argument("--queue", type=int, default=200000)
    rows = ["fake", "real", "queue", "restart"]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    arguments = parser.parse_args()
    bench = Bench(os.path.abspath(arguments.croft), os.path.abspath(arguments.load))
    try:
        bench.run(arguments.rows, arguments.queue)
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
