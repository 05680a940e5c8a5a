#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hundreds of agents that only speak the protocol, and clients with them, in networks of their own that are slow, lose
packets or are cut, also one way only; the server and whole groups of agents are killed and frozen. All by one seed. Every
operation that was accepted ends once, with the right result or the true reason, nobody waits for ever, and nothing is
left at the end. `squad.py CROFT SQUAD [SECONDS [SEED]]`: 25 seconds and a new seed, if not given."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from farm import Farm
from network import Network

GROUPS, AGENTS, CLIENTS = 4, 75, 8  # agents and clients of each group
LIMIT = 300  # seconds after which what is asked for is taken for lost
MEMORY_MB = 500


class Squads:
    def __init__(self, croft, squad, seconds, seed):
        self.seconds, self.seed, self.random = seconds, seed, random.Random(seed)
        self.squad = os.path.abspath(squad)
        self.folder = tempfile.mkdtemp(prefix="croft-squad-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.farm = Farm(croft, f"{self.folder}/farm")
        self.groups = [f"group{i}" for i in range(GROUPS)]
        self.network = Network(["serve", "client", *self.groups], seed)
        self.farm.enter = {name: self.network.enter(name) for name in self.network.nodes}
        self.farm.address = self.farm.plane = f"{self.network.nodes['serve'].address}:0"
        self.processes, self.started, self.faults, self.memory = {}, 0, {}, 0

    def begin(self):
        self.farm.serve()
        for name in self.groups:
            self.start(name)
        self.farm.wait_agents(GROUPS * AGENTS)

    def start(self, name):
        """Jobs of one number are the same in all groups and after each start: some are found in the cache."""
        self.started += 1
        self.processes[name] = subprocess.Popen(
            [*self.network.enter(name), self.squad, self.farm.address, name, str(AGENTS), str(CLIENTS),
             str(self.seed + self.started % 2)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(f"{self.folder}/{name}.log", "a"), text=True)

    # Faults ----------------------------------------------------------------------------------------

    def kill_server(self):
        self.farm.kill_server()
        time.sleep(self.random.random() * 2)
        self.farm.serve()

    def kill_group(self):
        name = self.random.choice(self.groups)
        process = self.processes[name]
        process.kill()
        process.communicate()
        self.start(name)

    def freeze(self):
        """For less or longer than the server waits."""
        process = self.random.choice([self.farm.server, *self.processes.values()])
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.random() * (4 if process is self.farm.server else 12))
        process.send_signal(signal.SIGCONT)

    def cut(self):
        node = self.network.nodes[self.random.choice(["serve", *self.groups])]
        node.deaf, node.mute = self.random.choice([(True, True), (True, False), (False, True)])
        time.sleep(self.random.random() * 12)
        self.network.heal()

    def slow(self):
        for node in self.network.nodes.values():
            node.delay, node.loss = self.random.random() * 0.05, self.random.random() * 0.05
        time.sleep(self.random.random() * 5)
        self.network.heal()

    def fault(self):
        fault = self.random.choice([self.kill_server, self.kill_group, self.freeze, self.cut, self.slow])
        self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
        fault()
        with open(f"/proc/{self.farm.server.pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        self.memory = max(self.memory, int(lines["VmRSS"].split()[0]) // 1024)

    # All of it --------------------------------------------------------------------------------------

    def run(self):
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            time.sleep(self.random.random() * 3)
            self.fault()
        for process in self.processes.values():
            process.stdin.close()
        counts = [json.loads(process.stdout.readline()) for process in self.processes.values()]
        held = {agent: held for count in counts for agent, held in count.pop("held").items()}
        counts = {key: sum(count[key] for count in counts) for key in counts[0]}
        print(f"{counts}; faults: {self.faults}; the server took up to {self.memory} MB", flush=True)
        wrong = []
        if counts["wrong"]:
            wrong.append(f"{counts['wrong']} things went wrong: see the groups' logs")
        if counts["done"] < self.seconds * 4:
            wrong.append(f"only {counts['done']} operations ended as they should")
        if self.memory > MEMORY_MB:
            wrong.append(f"the server took {self.memory} MB")
        return wrong + self.left_over(held)

    def left_over(self, held):
        """What clients asked for that were killed ends, too; then all agents are there and idle, and the server knows
        what they hold."""
        end = time.monotonic() + LIMIT
        while True:
            status = self.farm.status()
            ready = [agent for agent in status["agents"] if agent["state"] == "ready" and not agent["running"]]
            unlike = [agent["id"] for agent in ready if held[agent["id"]] != agent["tracked_bytes"]]
            if not status["queued"] and not status["running"] and len(ready) == GROUPS * AGENTS and not unlike:
                return []
            if time.monotonic() > end:
                return [f"{status['queued']} are queued and {status['running']} run still; {len(ready)} of "
                        f"{GROUPS * AGENTS} agents are ready and idle, of which the map has wrong: {unlike[:10]}"]
            time.sleep(0.5)

    def end(self, good):
        self.network.heal()
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.farm.stop()
        self.network.stop()
        if good:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    if os.geteuid() != 0:
        print("skipped: network namespaces need root")
        sys.exit(77)
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 25
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.SystemRandom().randrange(1 << 32)
    print(f"{seconds:g} s, seed {seed}", flush=True)
    squads, wrong = Squads(sys.argv[1], sys.argv[2], seconds, seed), ["it did not come to its end"]
    try:
        squads.begin()
        wrong = squads.run()
    finally:
        for text in wrong:
            print(f"WRONG: {text}")
        if wrong:
            print(f"what is left is in {squads.folder}; again: {' '.join(sys.argv[:3])} {seconds:g} {seed}")
            for name in squads.groups:
                log = f"{squads.folder}/{name}.log"
                if os.path.exists(log):
                    print(f"== {name}\n" + "".join(open(log, errors="replace").readlines()[-10:]))
        squads.end(not wrong)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
