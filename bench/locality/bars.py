#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Replays one trace under every policy, on 64 and on 512 agents, and holds the locality policy against
the baselines. Whole packages are read, as in the figures that others publish; run times are synthetic."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

SEEDS = (1, 2, 3)


def bar(name, value, goal, right):
    print(f"BAR {name} {value} {goal} {'ok' if right else 'short'}", flush=True)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def ratio(seeds, field, of, policy="locality"):
    """Of the policy's to another's, seed by seed."""
    return mean(rows[policy][field] / rows[of][field] for rows in seeds)


class Bench:
    def __init__(self, croft, decide, folder):
        self.croft, self.decide, self.folder = croft, decide, folder
        self.debian = f"{folder}/debian.zst"
        self.run("--state", f"{folder}/apt", "--whole", "--write-trace", self.debian)

    def run(self, *arguments):
        return subprocess.run([self.croft, "bench", "locality", *arguments], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def of_debian(self, _seed):
        return self.debian

    def of_graph(self, seed):
        trace = f"{self.folder}/graph-{seed}"
        with open(trace, "w") as file:
            subprocess.run([sys.executable, os.path.join(os.path.dirname(__file__), "graph.py"), str(seed)],
                           check=True, stdout=file)
        return trace

    def replay(self, title, trace_of, *arguments):
        """Rows by policy, of each seed: what one seed says of a small difference is chance."""
        print(f"\n{title}, mean of seeds {', '.join(map(str, SEEDS))}", flush=True)
        seeds = [{row["policy"]: row for row in json.loads(
            self.run("--trace", trace_of(seed), "--json", "--seed", str(seed), *arguments))} for seed in SEEDS]
        print(f"  {'policy':14} {'moved':>10} {'x random':>9} {'makespan':>9} {'p99 wait':>9} {'map':>8}")
        for name in seeds[0]:
            def of(field, name=name):
                return mean(rows[name][field] for rows in seeds)
            print(f"  {name:14} {of('bytes_moved') / 1e9:7.1f} GB {ratio(seeds, 'bytes_moved', 'random', name):8.3f}x "
                  f"{of('makespan'):8.0f}s {of('wait_p99'):8.1f}s {of('presence_bytes') / 1e6:5.1f} MB", flush=True)
        return seeds

    def stream(self, agents):
        seeds = self.replay(f"A stream of jobs at 70 % load, {agents} agents with 4 slots", self.of_debian,
                            "--agents", str(agents), "--mode", "stream")
        random = ratio(seeds, "bytes_moved", "random")
        best = max(ratio(seeds, "bytes_moved", name) for name in seeds[0] if name not in ("no-eviction", "locality"))
        bar(f"locality-stream-{agents}-of-random", f"{random:.3f}", "<=0.25", random <= 0.25)
        bar(f"locality-stream-{agents}-of-best-baseline", f"{best:.3f}", "<=0.80", best <= 0.80)
        self.waits(f"stream-{agents}", seeds)

    def saturated(self, agents):
        seeds = self.replay(f"Everything at once, {agents} agents with 4 slots", self.of_debian,
                            "--agents", str(agents), "--mode", "saturated")
        random = ratio(seeds, "bytes_moved", "random")
        longer = ratio(seeds, "makespan", "least-loaded")
        bar(f"locality-saturated-{agents}-of-random", f"{random:.3f}", "<=0.42", random <= 0.42)
        bar(f"locality-saturated-{agents}-makespan", f"{longer:.3f}", "<=1.03", longer <= 1.03)
        self.waits(f"saturated-{agents}", seeds)

    def graph(self, agents):
        """A build whose jobs wait for one another: who begins a long chain late ends late."""
        seeds = self.replay(f"A build of 1,500 jobs that wait for others, {agents} agents with 4 slots", self.of_graph,
                            "--agents", str(agents), "--mode", "recorded", "--cache", "8G")
        longer = ratio(seeds, "makespan", "least-loaded")
        bar(f"locality-graph-{agents}-makespan", f"{longer:.3f}", "<=1.03", longer <= 1.03)
        self.waits(f"graph-{agents}", seeds)

    def waits(self, name, seeds):
        most = max(rows["locality"]["most_skips"] for rows in seeds)
        bound = min(rows["locality"]["skip_bound"] for rows in seeds)
        bar(f"locality-{name}-skips", most, f"<={bound}", most <= bound)

    def decisions(self):
        """With 10,000 agents that hold 2,300 of 100,000 roots each."""
        done = subprocess.run([self.decide], check=True, stdout=subprocess.PIPE, text=True)
        print(f"\nDecisions, 10,000 agents with 4 slots: {done.stdout.strip()}")
        mine = json.loads(done.stdout)
        bar("placement-decisions-per-second", f"{mine['decisions_per_second']}", ">=100000",
            mine["decisions_per_second"] >= 100000)
        bar("placement-decision-p99-us", f"{mine['p99_us']:.1f}", "<100", mine["p99_us"] < 100)
        bar("placement-map-megabytes", f"{mine['map_bytes'] / 1e6:.1f}", "<80", mine["map_bytes"] < 80e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("croft")
    parser.add_argument("decide", help="bench/sched/decide.c")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="croft-locality-",
                                     dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        bench = Bench(arguments.croft, arguments.decide, folder)
        for agents in (64, 512):
            bench.stream(agents)
            bench.saturated(agents)
        for agents in (8, 16):
            bench.graph(agents)
        bench.decisions()


if __name__ == "__main__":
    main()
