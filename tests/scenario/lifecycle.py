#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The filesystem daemon's life while jobs run: replaced, killed, without its agent, cut off from the network, with a
full disk. `lifecycle.py CROFT [NAME…]` runs all tests, or those named."""
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from farm import Farm
from network import Network
from scenario import need_root_and_fuse, run

FILES, BIG = 240, 48 << 20
# Reads files that are not here yet, for some seconds, and says how far it is.
SLOW = f"""i=0; while [ $i -lt {FILES} ]; do cat /data/$i; i=$((i+1)); sleep 0.01;
    [ $((i % 40)) -ne 0 ] || echo "at $i" >&2; done | sha256sum"""


class Scenario:
    def __init__(self, croft):
        self.folder = tempfile.mkdtemp(prefix="croft-scenario-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        os.makedirs(f"{self.folder}/bin")
        self.croft = f"{self.folder}/bin/croft"  # of the agents: it is replaced by others
        shutil.copy(croft, self.croft)
        self.network = Network(["serve", "client", "one"], 1)
        self.farm = Farm(croft, f"{self.folder}/farm")
        self.farm.enter = {name: self.network.enter(name) for name in self.network.nodes}
        host = self.network.nodes["serve"].address
        self.farm.address = self.farm.plane = f"{host}:0"
        self.farm.serve()
        self.number = 0
        self.start_agent()

    def start_agent(self, rings=False):
        farm = self.farm
        log = open(f"{farm.folder}/one.log", "a")
        # Another test may have FUSE over io_uring switched on.
        farm.agents["one"] = subprocess.Popen(
            [*farm.enter["one"], self.croft, "agent", "--server", f"grpc://{farm.address}", "--state",
             f"{farm.folder}/one", "--name", "one", "--slots", "2", *([] if rings else ["--classic-fuse"])],
            stdout=log, stderr=log)
        farm.wait_agents(1)

    def start_anew(self, rings):
        """Agent, daemon and mount."""
        daemon = self.daemon()
        for pid in (self.farm.agents["one"].pid, daemon):
            os.kill(pid, signal.SIGKILL)
        self.farm.agents["one"].wait()
        while os.path.exists(f"/proc/{daemon}"):  # what a killed agent leaves is its parent's to reap
            if open(f"/proc/{daemon}/stat").read().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.01)
        self.start_agent(rings)

    def new_root(self):
        """A root that no cache knows anything of; what SLOW prints of it."""
        self.number += 1
        root, total = f"{self.folder}/root{self.number}", hashlib.sha256()
        os.makedirs(f"{root}/bin")
        os.makedirs(f"{root}/data")
        for name in ("sh", "cat", "sleep", "sha256sum"):
            shutil.copy("/bin/busybox", f"{root}/bin/{name}")
        for i in range(FILES):
            data = f"file {i} of root {self.number}\n".encode() * (1 + i % 200)
            total.update(data)
            with open(f"{root}/data/{i}", "wb") as file:
                file.write(data)
        self.big = os.urandom(BIG)
        with open(f"{root}/big", "wb") as file:
            file.write(self.big)
        return self.farm.run("import", root).stdout.split()[0], total.hexdigest()

    def job(self, root, script):
        """Its stderr is read line by line by who started it."""
        return subprocess.Popen(
            [*self.farm.enter["client"], "timeout", "100", self.farm.croft, "run", "--server",
             f"grpc://{self.farm.address}", "--no-cache", "-d", root, "--", "sh", "-c", script],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def daemon(self):
        """Its pid."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = open(f"/proc/{pid}/cmdline").read().split("\0")
                state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if "fs-daemon" in words[1:2] and f"{self.farm.folder}/one/fs" in words and state != "Z":
                return int(pid)
        return None

    def log(self):
        return open(f"{self.farm.folder}/one.log").read()

    def await_log(self, words, count):
        for _ in range(600):
            if self.log().count(words) >= count:
                return
            time.sleep(0.05)
        raise AssertionError(f"the agent never said {words!r} {count} times")

    def stop(self):
        self.network.heal()
        self.farm.stop()
        self.network.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def equal(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, got {found!r}")


def finish(job, wanted):
    out, err = job.communicate(timeout=110)
    equal(job.returncode, 0, f"exit status of the job, which said {err[-500:]}")
    # What an attempt that was given up printed has been shown, too.
    equal(out.split("\n")[-2].split()[0], wanted, "what it read")
    return err


def lines_at(job):
    """Each time that the job says how far it is."""
    for line in job.stderr:
        if line.startswith("at "):
            yield int(line.split()[1])


def the_daemon_is_replaced_while_a_job_reads(s):
    root, wanted = s.new_root()
    before, count = s.daemon(), s.log().count("was replaced")
    job = s.job(root, SLOW)
    for at in lines_at(job):
        if at == FILES:
            break
        # As an upgrade does it: a new file under the old name.
        shutil.copy(s.farm.croft, f"{s.croft}.new")
        os.rename(f"{s.croft}.new", s.croft)
        s.farm.agents["one"].send_signal(signal.SIGUSR2)
        count += 1
        s.await_log("was replaced", count)
    finish(job, wanted)
    assert s.daemon() not in (None, before), "the daemon is the same"
    assert "ended while the job ran" not in s.log(), "the job was run twice"


@contextlib.contextmanager
def rings_on(s):
    """An agent whose mount is served by FUSE over io_uring, which programs that switch it take turns at."""
    path = "/sys/module/fuse/parameters/enable_uring"
    with open(path, "r+") as parameter:
        fcntl.flock(parameter, fcntl.LOCK_EX)
        before = parameter.read(1)
        try:
            with open(path, "w") as switch:
                switch.write("Y")
            mounts = s.log().count("FUSE over io_uring")
            s.start_anew(True)
            s.await_log("FUSE over io_uring", mounts + 1)
        finally:
            with open(path, "w") as switch:
                switch.write(before)
    yield
    s.start_anew(False)


def rings_are_handed_over_while_a_job_reads(s):
    if not os.path.exists("/sys/module/fuse/parameters/enable_uring"):
        print("    this kernel has no FUSE over io_uring")
        return
    with rings_on(s):
        the_daemon_is_replaced_while_a_job_reads(s)
        a_program_that_is_no_daemon_is_not_taken(s)
        an_upgraded_agent_takes_the_mount_over(s, rings=True)


def a_program_that_is_no_daemon_is_not_taken(s):
    root, wanted = s.new_root()
    before, count = s.daemon(), s.log().count("was not replaced")
    job = s.job(root, SLOW)
    next(lines_at(job))
    os.rename(s.croft, f"{s.croft}.good")
    with open(s.croft, "w") as file:
        file.write("#!/bin/sh\nexit 1\n")
    os.chmod(s.croft, 0o755)
    s.farm.agents["one"].send_signal(signal.SIGUSR2)
    s.await_log("was not replaced", count + 1)
    os.rename(f"{s.croft}.good", s.croft)
    finish(job, wanted)
    equal(s.daemon(), before, "the daemon")


def a_job_whose_daemon_is_killed_is_run_again(s):
    root, wanted = s.new_root()
    # It looks at no error: what it prints then would be wrong, and it would exit with 0.
    job = s.job(root, SLOW.replace("cat", "cat 2>/dev/null"))
    next(lines_at(job))
    os.kill(s.daemon(), signal.SIGKILL)
    finish(job, wanted)
    assert "ended while the job ran" in open(f"{s.farm.folder}/serve.log").read(), "it was not run again"


def the_daemon_outlives_its_agent(s):
    root, wanted = s.new_root()
    finish(s.job(root, SLOW), wanted)
    before = s.daemon()
    s.farm.agents["one"].kill()
    s.farm.agents["one"].wait()
    equal(s.daemon(), before, "the daemon without its agent")
    s.start_agent()
    finish(s.job(root, SLOW), wanted)
    equal(s.daemon(), before, "the daemon of the new agent")


def an_upgraded_agent_takes_the_mount_over(s, rings=False):
    root, wanted = s.new_root()
    finish(s.job(root, SLOW), wanted)
    before = s.daemon()
    held = open(f"{s.farm.folder}/one/fs/mnt/by-digest/{root}/big", "rb")  # by a person, say
    s.farm.agents["one"].kill()
    s.farm.agents["one"].wait()
    shutil.copy(s.farm.croft, f"{s.croft}.new")
    os.rename(f"{s.croft}.new", s.croft)
    s.start_agent(rings)
    finish(s.job(root, SLOW), wanted)
    assert s.daemon() not in (None, before), "the daemon is the same"
    equal(hashlib.sha256(held.read()).hexdigest(), hashlib.sha256(s.big).hexdigest(), "what was open")


def a_cut_network_stalls_and_recovers(s):
    root, wanted = s.new_root()
    job = s.job(root, SLOW)
    node, cut = s.network.nodes["one"], 0
    for at in lines_at(job):
        if at == FILES:
            break
        if cut < 2:
            cut += 1
            node.deaf = node.mute = True
            time.sleep(1.5)
            node.deaf = node.mute = False
    finish(job, wanted)
    equal(cut, 2, "cuts")


def a_server_that_is_killed_in_mid_read_is_waited_for(s):
    root, _ = s.new_root()
    s.network.nodes["one"].delay = 0.002
    job = s.job(root, "echo at 0 >&2; cat /big | sha256sum")
    next(lines_at(job))
    s.farm.kill_server()
    s.farm.serve()
    s.network.heal()
    finish(job, hashlib.sha256(s.big).hexdigest())


def a_server_that_comes_back_elsewhere_is_found(s):
    """Its blob plane has another port then, which Welcome tells."""
    root, wanted = s.new_root()
    before = s.daemon()
    job = s.job(root, SLOW)
    next(lines_at(job))
    old = s.farm.plane
    s.farm.kill_server()
    s.farm.plane = old.rpartition(":")[0] + ":0"
    s.farm.serve()
    assert s.farm.plane != old, "the server has its old port"
    finish(job, wanted)
    equal(s.daemon(), before, "the daemon")


def mount(s, root, state):
    """By a process in the foreground, which says what went wrong to a file."""
    folder = f"{s.folder}/mounted"
    os.makedirs(folder, exist_ok=True)
    os.makedirs(state, exist_ok=True)
    with open(f"{s.folder}/mount.log", "w") as log:
        process = subprocess.Popen([*s.farm.enter["client"], s.farm.croft, "mount", "--foreground", "--plane",
                                    s.farm.plane, "--state", state, root, folder], stderr=log)
    for _ in range(200):
        if os.path.ismount(folder):
            return folder, process
        time.sleep(0.05)
    raise AssertionError("it was not mounted")


def a_full_disk_is_told_and_leaves_all_right(s):
    root, wanted = s.new_root()
    state = f"{s.folder}/small"
    os.makedirs(state)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", state], check=True)
    folder, process = mount(s, root, state)
    try:
        total = hashlib.sha256()
        for i in range(FILES // 2):
            total.update(open(f"{folder}/data/{i}", "rb").read())
        with open(f"{state}/filler", "wb") as filler:
            try:
                while True:
                    filler.write(b"\0" * 65536)
                    filler.flush()
            except OSError:
                pass
        try:
            open(f"{folder}/big", "rb").read()
            raise AssertionError("a file was read that there is no room for")
        except OSError as error:
            equal(error.errno, 5, f"errno ({error})")
        said = open(f"{s.folder}/mount.log").read()
        assert "No space left" in said, f"why is not said: {said[-1000:]}"
        os.unlink(f"{state}/filler")
        for i in range(FILES // 2, FILES):
            total.update(open(f"{folder}/data/{i}", "rb").read())
        equal(total.hexdigest(), wanted, "the small files")
        equal(open(f"{folder}/big", "rb").read() == s.big, True, "the large file")
    finally:
        process.terminate()
        process.wait(30)
        subprocess.run(["umount", state], check=True)


def a_mount_that_is_cut_off_can_be_ended(s):
    root, _ = s.new_root()
    folder, process = mount(s, root, f"{s.folder}/caches")
    node = s.network.nodes["client"]
    os.listdir(folder)
    node.deaf = node.mute = True
    reader = subprocess.Popen(["cat", f"{folder}/big"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(200):  # it waits for the network
        if "fuse" in open(f"/proc/{reader.pid}/stack").read() or "folio" in open(f"/proc/{reader.pid}/stack").read():
            break
        time.sleep(0.02)
    process.terminate()
    process.wait(30)
    _, said = reader.communicate(timeout=30)
    assert reader.returncode != 0 and "not connected" in said, (reader.returncode, said)
    node.deaf = node.mute = False
    assert folder not in open("/proc/mounts").read(), "it is still mounted"


TESTS = [the_daemon_is_replaced_while_a_job_reads, a_program_that_is_no_daemon_is_not_taken,
         a_job_whose_daemon_is_killed_is_run_again, an_upgraded_agent_takes_the_mount_over,
         the_daemon_outlives_its_agent, a_cut_network_stalls_and_recovers,
         a_server_that_is_killed_in_mid_read_is_waited_for, a_server_that_comes_back_elsewhere_is_found,
         a_full_disk_is_told_and_leaves_all_right,
         a_mount_that_is_cut_off_can_be_ended, rings_are_handed_over_while_a_job_reads]


def main():
    need_root_and_fuse()
    scenario = Scenario(os.path.abspath(sys.argv[1]))
    run(scenario, TESTS, after_failure=scenario.network.heal)


if __name__ == "__main__":
    main()
