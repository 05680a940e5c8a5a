#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that can go wrong on a farm goes wrong while clients have jobs run: servers and agents are killed,
frozen and cut off, disks fill up, the network between them is slow, loses packets or is cut, also one way only. Every job must end once, with the right bytes or with the true reason; at the
end the store is whole, and a quiet run gives the same.
`chaos.py CROFT [SECONDS [SEED]]`: 180 seconds and a new seed, if not given."""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from farm import Farm
from network import Network

AGENTS, CLIENTS, KINDS = 3, 6, 400
DISK_MB = 256
PATIENCE = 120  # seconds that a client waits for a server that is away
LIMIT = 400     # seconds after which a job is taken for lost


def expected(number):
    """What job `number` prints and leaves; some fail, as jobs do."""
    text = f"job {number}\n".encode() * (number % 50 + 1)
    return text, (number % 7 if number % 10 == 3 else 0)


def script(number):
    lines = number % 50 + 1
    return (f"i=0; while [ $i -lt {lines} ]; do echo job {number}; i=$((i+1)); done >out; cat out; "
            f"cat /data/{number % 100} >read; sleep 0.{number % 4}; exit {expected(number)[1]}")


class Chaos:
    def __init__(self, croft, seconds, seed):
        self.seconds, self.random = seconds, random.Random(seed)
        self.folder = tempfile.mkdtemp(prefix="croft-chaos-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.farm = Farm(croft, f"{self.folder}/farm")
        agents = [f"agent{i}" for i in range(AGENTS)]
        self.network = Network(["serve", "client", *agents], seed)
        self.farm.enter = {name: self.network.enter(name) for name in self.network.nodes}
        self.farm.address = self.farm.plane = f"{self.network.nodes['serve'].address}:0"
        os.makedirs(f"{self.folder}/farm/serve")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", f"{self.folder}/farm/serve"],
                       check=True)
        self.farm.serve()
        self.make_root()
        for i in range(AGENTS):
            self.start_agent(i)
        self.farm.wait_agents(AGENTS)
        self.lock = threading.Lock()
        self.over = False
        self.done, self.refused, self.wrong, self.faults = 0, {}, [], {}

    def make_root(self):
        root = f"{self.folder}/root"
        os.makedirs(f"{root}/bin")
        os.makedirs(f"{root}/data")
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        for applet in ("sh", "cat", "sleep", "echo", "ls"):
            os.symlink("busybox", f"{root}/bin/{applet}")
        for i in range(100):
            with open(f"{root}/data/{i}", "w") as file:
                file.write(f"file {i}\n" * 3000)
        self.farm.run("import", "--name", "root", root)

    # Clients ---------------------------------------------------------------------------------------

    def run_job(self, number, *options):
        target = f"{self.folder}/out-{threading.get_ident()}"
        shutil.rmtree(target, ignore_errors=True)
        return subprocess.run(
            [*self.network.enter("client"), "timeout", "--kill-after=10", str(LIMIT), self.farm.croft, "run", "--json", "--server",
             f"grpc://{self.farm.address}", "--patience", str(PATIENCE), "-d", "root", "-e", "PATH=/bin", "-o", "out",
             "-o", "read", *options, "--", "sh", "-c", script(number)],
            capture_output=True, check=False)

    def judge(self, number, done):
        """None: right. A text: what is wrong. False: refused for a true reason."""
        text, status = expected(number)
        said = done.stderr.decode(errors="replace")
        if done.returncode in (124, 137):
            return f"job {number} was lost: it did not end within {LIMIT} s"
        if done.returncode == 125:
            reasons = ("is full", "No space left", "RESOURCE_EXHAUSTED", "lost its agent", "agents were lost",
                       "no room")
            if any(reason in said for reason in reasons):
                with self.lock:
                    line = said.strip().splitlines()[-1] if said.strip() else ""
                    self.refused[line[:160]] = self.refused.get(line[:160], 0) + 1
                return False
            return f"job {number} failed and should not: {said[-600:]}"
        if done.returncode != status:
            return f"job {number} ended with {done.returncode} instead of {status}: {said[-600:]}"
        result = json.loads(done.stdout)
        outputs = {output["path"]: output for output in result["outputs"]}
        wanted = {"out": text, "read": f"file {number % 100}\n".encode() * 3000}
        for name, data in wanted.items():
            digest = f"{hashlib.sha256(data).hexdigest()}-{len(data)}"
            if outputs.get(name, {}).get("digest", "").replace("/", "-") != digest:
                return f"job {number}: {name} is {outputs.get(name)} and should be {digest}"
        if text not in done.stderr and not result["cached"]:
            return f"job {number} printed something else: {said[-600:]}"
        return None

    def client(self, index):
        random_jobs = random.Random(self.random.random() + index)
        while not self.over:
            number = random_jobs.randrange(KINDS)
            options = ["--skip-cache"] if random_jobs.random() < 0.7 else []
            verdict = self.judge(number, self.run_job(number, *options))
            with self.lock:
                self.done += verdict is None
                if verdict:
                    self.wrong.append(verdict)

    # Faults ----------------------------------------------------------------------------------------

    def start_agent(self, index):
        self.farm.agent(f"agent{index}", "--cache", "64M")

    def any_agent(self):
        return f"agent{self.random.randrange(AGENTS)}"

    def kill_server(self):
        self.farm.kill_server()
        time.sleep(self.random.random() * 2)
        self.farm.serve()

    def stop_server(self):
        self.farm.server.send_signal(signal.SIGTERM)
        self.farm.server.wait(60)
        self.farm.serve()

    def kill_agent(self):
        name = self.any_agent()
        self.farm.agents[name].kill()
        self.farm.agents[name].wait()
        time.sleep(self.random.random() * 3)
        self.start_agent(int(name[5:]))

    def stop_agent(self):
        name = self.any_agent()
        self.farm.stop_agent(name)
        self.start_agent(int(name[5:]))

    def freeze(self, process, seconds):
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def freeze_agent(self):
        """As a network that is cut: nothing goes either way, for less or longer than the server waits."""
        self.freeze(self.farm.agents[self.any_agent()], self.random.random() * 20)

    def freeze_server(self):
        self.freeze(self.farm.server, self.random.random() * 4)

    def cut(self):
        """An agent, or the server, is alone; or hears nothing; or is not heard."""
        node = self.network.nodes[self.random.choice(["serve", *(f"agent{i}" for i in range(AGENTS))])]
        node.deaf, node.mute = self.random.choice([(True, True), (True, False), (False, True)])
        time.sleep(self.random.random() * 20)
        self.network.heal()

    def slow(self):
        """A far network, of which every twentieth packet is lost."""
        for node in self.network.nodes.values():
            node.delay, node.loss = self.random.random() * 0.05, self.random.random() * 0.05
        time.sleep(self.random.random() * 10)
        self.network.heal()

    def fill_disk(self):
        path = f"{self.folder}/farm/serve/filler"
        try:
            with open(path, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError:
            pass
        time.sleep(self.random.random() * 3)
        os.unlink(path)

    def fault(self):
        fault = self.random.choice([self.kill_server, self.kill_server, self.stop_server, self.kill_agent,
                                    self.kill_agent, self.stop_agent, self.freeze_agent, self.freeze_server,
                                    self.fill_disk, self.cut, self.cut, self.slow])
        self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
        fault()

    # All of it --------------------------------------------------------------------------------------

    def quiet_run(self):
        for number in range(0, KINDS, 20):
            verdict = self.judge(number, self.run_job(number, "--skip-cache"))
            if verdict is not None:
                self.wrong.append(f"in quiet: {verdict or 'refused'}")

    def run(self):
        threads = [threading.Thread(target=self.client, args=(i,)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + self.seconds
        try:
            while time.monotonic() < end and not self.wrong:
                time.sleep(self.random.random() * 4)
                self.fault()
        finally:
            self.over = True
            for thread in threads:
                thread.join()
        print(f"{self.done} jobs ended as they should, {sum(self.refused.values())} were refused; "
              f"faults: {self.faults}")
        for reason, count in self.refused.items():
            print(f"  refused {count} times: {reason}")
        if not self.wrong:
            self.farm.wait_agents(AGENTS)
            self.quiet_run()
        status = self.farm.status()
        if not self.wrong and (status["queued"] or status["running"]):
            self.wrong.append(f"something is left in the queue: {status['queued']} queued, {status['running']} running")
        self.farm.stop()
        fsck = subprocess.run([self.farm.croft, "fsck", "--state", f"{self.farm.folder}/serve"], capture_output=True,
                              text=True, check=False)
        if fsck.returncode:
            self.wrong.append(f"fsck: {fsck.stdout}{fsck.stderr}")
        if self.done < self.seconds / 4:
            self.wrong.append(f"only {self.done} jobs ended")
        return not self.wrong

    def end(self, good):
        self.network.heal()
        self.farm.stop()
        self.network.stop()
        subprocess.run(["umount", "-l", f"{self.folder}/farm/serve"], check=False)
        if good:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    if os.geteuid() != 0:
        print("skipped: chaos needs root, for a disk of its own that fills up")
        sys.exit(77)
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 180
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().randrange(1 << 32)
    print(f"{seconds:g} s, seed {seed}", flush=True)
    chaos, good = Chaos(sys.argv[1], seconds, seed), False
    try:
        good = chaos.run()
    finally:
        for wrong in chaos.wrong[:10]:
            print(f"WRONG: {wrong}")
        if not good:
            print(f"what is left is in {chaos.folder}")
            for name in ["serve", *(f"agent{i}" for i in range(AGENTS))]:
                log = f"{chaos.folder}/farm/{name}.log"
                if os.path.exists(log):
                    print(f"== {name}\n" + "".join(open(log, errors="replace").readlines()[-30:]))
        chaos.end(good)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
