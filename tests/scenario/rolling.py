#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""All agents get a new binary, one after the other, while jobs run: each is drained, started anew and resumed. No job is
lost, and none is run twice. `rolling.py CROFT`."""
import os
import shutil
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from farm import Farm
from scenario import need_root_and_fuse, print_logs

AGENTS, CLIENTS = ("one", "other"), 4


class Rolling:
    def __init__(self, croft):
        self.folder = tempfile.mkdtemp(prefix="croft-rolling-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.binary = f"{self.folder}/croft"  # of the agents
        shutil.copy(croft, self.binary)
        self.farm = Farm(croft, f"{self.folder}/farm")
        self.over, self.ended, self.wrong, self.lock = False, {}, [], threading.Lock()

    def start_agent(self, name):
        server_binary, self.farm.croft = self.farm.croft, self.binary
        self.farm.agent(name)
        self.farm.croft = server_binary

    def begin(self):
        os.makedirs(f"{self.folder}/root/bin")
        shutil.copy("/bin/busybox", f"{self.folder}/root/bin/sh")
        shutil.copy("/bin/busybox", f"{self.folder}/root/bin/sleep")
        self.farm.serve()
        self.farm.run("import", "--name", "root", f"{self.folder}/root")
        for name in AGENTS:
            self.start_agent(name)
        self.farm.wait_agents(len(AGENTS))

    def client(self, number):
        count = 0
        while not self.over:
            count += 1
            text = f"{number} {count}"
            done = self.farm.run("run", "-q", "-d", "root", "--", "sh", "-c", f"sleep 0.{count % 5}; echo {text}", check=False)
            with self.lock:
                if done.returncode or done.stdout != f"{text}\n":
                    self.wrong.append(f"job {text} ended with {done.returncode}: {done.stdout} {done.stderr[-600:]}")
                self.ended[text] = done.returncode

    def agent(self, name):
        absent = {"id": name, "state": "absent", "running": 0, "jobs_done": 0}
        return next((agent for agent in self.farm.status()["agents"] if agent["id"].startswith(f"{name}-")), absent)

    def wait_for(self, what, is_so):
        for _ in range(600):
            if is_so():
                return
            time.sleep(0.1)
        raise SystemExit(f"it took a minute, and still not so: {what}")

    def more_jobs(self):
        """Until the agents have run some more, each."""
        before = {name: self.agent(name)["jobs_done"] for name in AGENTS}
        self.wait_for("every agent runs jobs", lambda: all(
            self.agent(name)["jobs_done"] > before[name] + 2 for name in AGENTS))

    def roll(self, name):
        agent_id = self.agent(name)["id"]
        self.farm.run("agents", "drain", agent_id, "--reason", "a new version")
        self.wait_for(f"{name} is idle", lambda: self.agent(name)["running"] == 0)
        self.farm.stop_agent(name)
        self.start_agent(name)
        self.wait_for(f"{name} is back", lambda: self.agent(name)["state"] == "draining")
        self.farm.run("agents", "resume", agent_id)
        self.wait_for(f"{name} takes jobs", lambda: self.agent(name)["state"] == "ready")

    def run(self):
        threads = [threading.Thread(target=self.client, args=(i,)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            self.more_jobs()
            newer = f"{self.binary}.new"
            shutil.copy(self.binary, newer)
            with open(newer, "ab") as file:
                file.write(b"newer")
            os.rename(newer, self.binary)
            for name in AGENTS:
                self.roll(name)
            self.more_jobs()
        finally:
            self.over = True
            for thread in threads:
                thread.join()
        status = self.farm.status()
        self.farm.stop()
        self.judge(status)

    def judge(self, status):
        with open(f"{self.farm.folder}/serve/operations.log") as log:
            runs = [line for line in log if line.startswith("run ")]
        if len(runs) != len(self.ended) or status["completed"] != len(self.ended):
            self.wrong.append(f"{len(self.ended)} jobs ended, and the server counts {status['completed']} and logged "
                              f"{len(runs)} runs")
        # One that an agent refused it did not run.
        self.wrong += [f"it was run twice: {line}" for line in runs if " attempt=1 " not in line]
        print(f"{len(self.ended)} jobs")


def main():
    need_root_and_fuse()
    rolling, good = Rolling(sys.argv[1]), False
    try:
        rolling.begin()
        rolling.run()
        good = not rolling.wrong
    finally:
        for wrong in rolling.wrong[:10]:
            print(f"WRONG: {wrong}")
        rolling.farm.stop()
        if good:
            shutil.rmtree(rolling.folder, ignore_errors=True)
        else:
            print_logs(rolling.farm.folder)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
