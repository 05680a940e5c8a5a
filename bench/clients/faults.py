# SPDX-License-Identifier: LGPL-2.1-or-later
"""A build in whose middle the client, the server and an agent are killed. Nothing helps it but that the client's
command is given again, as its user would, and that server and agent are started again, as an init system would."""
import os
import re
import signal
import time

import workspace


class Jobs:
    """How many have ended on the farm. A server that is started again counts from 0, one that lost an agent may
    have forgotten what that did."""

    def __init__(self, farm):
        self.farm, self.before, self.seen = farm, 0, {}

    def done(self):
        for agent in self.farm.status()["agents"]:
            self.seen[agent["id"]] = max(self.seen.get(agent["id"], 0), agent["jobs_done"])
        return self.before + sum(self.seen.values())

    def server_goes(self):
        self.before = self.done()
        self.seen = {}

    def wait(self, count, build):
        while self.done() < count:
            if build.poll() is not None:
                raise SystemExit(f"the build ended before {count} jobs had:\n{build.stdout.read()[-4000:]}")
            time.sleep(0.1)


def counted(said):
    """What Bazel says that it did: {"remote cache hit": 12, "remote": 30, ...}"""
    lines = re.findall(r"processes: (.*)\.$", said, re.M)
    return {what: int(count) for count, what in re.findall(r"(\d+) ([a-z ]+)", lines[-1])} if lines else {}


def build(farm, bazel, targets, flags):
    jobs_at_once = 4 * len(os.sched_getaffinity(0))
    command = ["build", f"--remote_executor={farm.address}", f"--jobs={jobs_at_once}", *flags, "//..."]
    jobs, server, agents = Jobs(farm), farm.children[0], farm.children[1:]
    bazel.started()
    started = time.monotonic()
    running = bazel.start(*command)
    jobs.wait(targets // 3, running)
    for pid in bazel.servers():
        os.kill(pid, signal.SIGKILL)
    running.wait()
    known = jobs.done()
    print(f"the client was killed after {known} jobs", flush=True)

    running = bazel.start(*command)
    jobs.wait(2 * targets // 3, running)
    jobs.server_goes()
    gone = time.monotonic()
    farm.kill(server)
    farm.serve()
    farm.children.insert(0, farm.children.pop())
    print(f"the server was killed, and started again: {time.monotonic() - gone:.1f} s", flush=True)

    jobs.wait(targets, running)
    farm.kill(agents[0])
    print("an agent was killed", flush=True)
    jobs.wait(targets + targets // 10, running)
    farm.agent(0, 1)
    print("... and started again", flush=True)

    said = running.communicate()[0]
    if running.returncode:
        raise SystemExit(f"the build failed:\n{said[-4000:]}")
    did = counted(said)
    print(f"built in {time.monotonic() - started:.1f} s; the second command: {did}", flush=True)
    # What had ended for the first client is found by the second, on the farm or in what the first had noted here.
    jobs_in_all = workspace.JOBS_PER_TARGET * targets
    if did.get("remote", 0) > jobs_in_all - known:
        raise SystemExit(f"{known} of {jobs_in_all} jobs had ended, and {did['remote']} were run for the second command")
    return bazel.programs()
