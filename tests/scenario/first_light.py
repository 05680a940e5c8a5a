#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A farm of real processes, mounts and sandboxes: jobs run, move only what they read, and survive
restarts. `first_light.py CROFT [NAME…]` runs all tests, or those named."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from farm import Farm
from scenario import need_root_and_fuse, run

PATH = ["-e", "PATH=/bin"]
# A job that nobody runs must not keep the test for ever.
LIMIT = ["timeout", "--foreground", "100"]


class Scenario:
    def __init__(self, croft):
        self.folder = tempfile.mkdtemp(prefix="croft-scenario-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.farm = Farm(croft, f"{self.folder}/farm")
        self.farm.serve()
        self.make_root()
        self.farm.agent("one")
        self.farm.wait_agents(1)

    def make_root(self):
        """A root of busybox, and a hundred files that most jobs do not read."""
        root = f"{self.folder}/root"
        os.makedirs(f"{root}/bin")
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True,
                                     text=True).stdout.split():
            if applet != "busybox":
                os.symlink("busybox", f"{root}/bin/{applet}")
        os.makedirs(f"{root}/data/deep/er")
        for i in range(100):
            with open(f"{root}/data/{i}", "w") as file:
                file.write(f"file {i}\n" * 50)
        with open(os.fsencode(f"{root}/data/deep/er/") + b"odd \xff name", "wb") as file:
            file.write(b"odd\n")
        os.symlink("../0", f"{root}/data/deep/link")
        os.chmod(f"{root}/data/1", 0o755)
        self.root = root
        self.digest = self.farm.run("import", "--name", "root", root).stdout.split()[0]

    def job(self, script, *options, check=True, root="root"):
        done = self.farm.run("run", "--json", "-d", root, *PATH, *options, "--", "sh", "-c", script,
                             check=check, timeout=120)
        return (json.loads(done.stdout) if done.stdout.strip() else None), done

    def stop(self):
        self.farm.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def equal(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, got {found!r}")


def a_job_runs_and_is_cached(s):
    result, done = s.job("echo out; echo err >&2; cat /data/7 >result", "-o", "result")
    equal(result["exit_code"], 0, "exit code")
    equal(result["cached"], False, "cached")
    assert "out" in done.stderr and "err" in done.stderr, done.stderr
    equal(s.farm.run("cat", result["outputs"][0]["digest"], check=False).returncode in (0, 1), True, "cat")
    result, _ = s.job("echo out; echo err >&2; cat /data/7 >result", "-o", "result")
    equal(result["cached"], True, "cached the second time")


def the_exit_status_is_passed_on(s):
    done = s.farm.run("run", "-d", "root", *PATH, "--", "sh", "-c", "exit 42", check=False)
    equal(done.returncode, 42, "exit status")
    done = s.farm.run("run", "-d", "root", *PATH, "--", "no-such-command", check=False)
    equal(done.returncode, 127, "exit status of a missing command")


def no_file_that_was_not_read_is_fetched(s):
    s.farm.stop_agent("one")
    s.farm.agent("fresh")
    s.farm.wait_agents(1)
    # In an instance where no job of this kind has run: nothing is fetched ahead.
    unseen = ["--skip-cache", "--instance", "unseen"]
    result, _ = s.job("cat /data/3 /data/4; test -e /data/5; ls /data/deep/er", *unseen, root=s.digest)
    equal(result["inputs"].get("prefetched_files", 0), 0, "files fetched ahead")
    # busybox, and the two files: a look at a name or a listing fetches no bytes
    equal(result["inputs"]["fetched_files"], 3, "files fetched")
    size = sum(os.path.getsize(f"{s.root}/{name}") for name in ("bin/busybox", "data/3", "data/4"))
    equal(result["inputs"]["fetched_bytes"], size, "bytes fetched")
    result, _ = s.job("cat /data/3 /data/4", "--skip-cache")
    equal(result["inputs"]["fetched_files"], 0, "files fetched when warm")
    s.farm.stop_agent("fresh")
    s.farm.agent("fresh")
    s.farm.wait_agents(1)
    result, _ = s.job("cat /data/3 /data/4", "--skip-cache")
    equal(result["inputs"]["fetched_files"], 0, "files fetched after a restart of the agent")
    s.farm.stop_agent("fresh")
    s.farm.agent("one")
    s.farm.wait_agents(1)


def outputs_come_back_as_they_were_made(s):
    script = """mkdir -p tree/sub tree/empty; echo text >tree/file; ln -s file tree/link
        echo run >tree/sub/tool; chmod +x tree/sub/tool; cp /data/9 tree/sub; printf 'x' >alone
        ln tree/file tree/hard; echo b >"tree/$(printf 'odd \\377\\nname')"
        truncate -s 3M tree/sparse; echo end >>tree/sparse; truncate -s 5M tree/sparse"""
    target = f"{s.folder}/outputs"
    s.job(script, "-w", "work", "-o", "tree", "-o", "alone", "-o", "missing",
          "-x", f"tree={target}/tree", "-x", f"alone={target}/alone")
    equal(open(f"{target}/tree/file").read(), "text\n", "a file")
    equal(os.readlink(f"{target}/tree/link"), "file", "a link")
    equal(os.path.isdir(f"{target}/tree/empty"), True, "an empty directory")
    equal(os.access(f"{target}/tree/sub/tool", os.X_OK), True, "an executable")
    equal(os.access(f"{target}/tree/file", os.X_OK), False, "a plain file")
    equal(open(f"{target}/alone").read(), "x", "a file by itself")
    equal(open(f"{target}/tree/hard").read(), "text\n", "the other name of a file")
    equal(open(os.fsencode(f"{target}/tree/odd ") + b"\xff\nname").read(), "b\n", "a name that is no text")
    equal(open(f"{target}/tree/sparse", "rb").read(), bytes(3 << 20) + b"end\n" + bytes((2 << 20) - 4),
          "a file with holes")


def an_export_equals_what_was_imported(s):
    target = f"{s.folder}/export"
    s.farm.run("export", s.digest, target)
    subprocess.run(["diff", "-r", "--no-dereference", s.root, target], check=True)
    equal(os.access(f"{target}/data/1", os.X_OK), True, "executable bit")
    mounted = f"{s.folder}/mounted"
    os.mkdir(mounted)
    s.farm.run("mount", "--plane", s.farm.plane, s.digest, mounted)
    try:
        subprocess.run(["diff", "-r", "--no-dereference", s.root, mounted], check=True)
        try:
            open(f"{mounted}/data/0", "a")
            raise AssertionError("the mount can be written to")
        except OSError:
            pass
    finally:
        subprocess.run(["umount", mounted], check=True)


def a_job_sees_nothing_of_the_host(s):
    _, done = s.job("ls /; hostname; id -u; ls /proc | grep -c '^[0-9]'; cat /proc/net/dev | grep -c : ; "
                    "cat /proc/mounts; ls /dev")
    text = done.stderr
    for word in (s.folder, "eth0", os.uname().nodename + "\n", "fuse\n", "/work", "sda", "vda"):
        assert word not in text, f"{word!r} is seen inside:\n{text}"
    probe = subprocess.run(["sleep", "0"], check=True)
    _, done = s.job("for p in /proc/[0-9]*; do echo $p; done")
    assert probe.returncode == 0 and 2 <= len(done.stderr.split("/proc/")) < 8, done.stderr


def the_server_is_killed_and_nothing_is_lost(s):
    running = subprocess.Popen([*LIMIT, s.farm.croft, "run", "--server", f"grpc://{s.farm.address}", "-d", "root",
                                *PATH, "--", "sh", "-c", "echo begun; sleep 4; echo done"],
                               stdout=subprocess.PIPE, text=True)
    equal(running.stdout.readline(), "begun\n", "first line")
    s.farm.kill_server()
    time.sleep(0.5)
    s.farm.serve()
    rest, _ = running.communicate(timeout=90)
    equal(running.returncode, 0, "exit status of a job over a restart")
    equal(rest, "done\n", "its output: nothing lost, nothing twice")
    s.job("true", "--skip-cache")


def all_who_wait_for_a_job_hear_its_end_over_a_restart(s):
    def start():
        job = subprocess.Popen([*LIMIT, s.farm.croft, "run", "--server", f"grpc://{s.farm.address}", "-d", "root",
                                *PATH, "--", "sh", "-c", "echo begun; sleep 4; cat /proc/sys/kernel/random/uuid"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        equal(job.stdout.readline(), "begun\n", "first line")
        return job
    jobs = [start(), start()]
    s.farm.kill_server()
    time.sleep(0.5)
    s.farm.serve()
    ends, said = zip(*(job.communicate(timeout=90) for job in jobs))
    equal([job.returncode for job in jobs], [0, 0], "exit status of the two")
    equal(ends[0], ends[1], "their output, of one run")
    assert not any("lost the operation" in text for text in said), said


def queued_jobs_keep_their_order_over_a_restart(s):
    s.farm.stop_agent("one")
    jobs = []
    for i in range(8):
        jobs.append(subprocess.Popen([*LIMIT, s.farm.croft, "run", "--server", f"grpc://{s.farm.address}",
                                      "-d", "root", *PATH, "--", "sh", "-c", f"cat /proc/uptime; sleep 0.1; : {i}"],
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        for _ in range(200):
            if s.farm.status()["queued"] == i + 1:
                break
            time.sleep(0.05)
    s.farm.kill_server()
    s.farm.serve()
    s.farm.agent("one", slots=1)
    started = [float(job.communicate(timeout=100)[0].split()[0]) for job in jobs]
    equal(started, sorted(started), "when they started, in the order in which they came")
    s.farm.stop_agent("one")
    s.farm.agent("one")
    s.farm.wait_agents(1)


def an_agent_is_killed_and_its_job_goes_elsewhere(s):
    s.farm.agent("two")
    s.farm.wait_agents(2)
    running = subprocess.Popen([*LIMIT, s.farm.croft, "run", "--json", "--server", f"grpc://{s.farm.address}",
                                "-d", "root", *PATH, "--skip-cache", "--", "sh", "-c", "sleep 3"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    victim = None
    for _ in range(100):
        busy = [a for a in s.farm.status()["agents"] if a["running"]]
        if busy:
            victim = "one" if busy[0]["id"].startswith("one") else "two"
            break
        time.sleep(0.05)
    s.farm.agents[victim].kill()
    s.farm.agents.pop(victim).wait()
    out, _ = running.communicate(timeout=90)
    equal(running.returncode, 0, "exit status")
    assert not json.loads(out)["agent"].startswith(victim), out
    s.farm.agent(victim)
    s.farm.wait_agents(2)
    s.farm.stop_agent("two")


def jobs_go_where_their_bytes_are(s):
    """Trees that share nothing but a heavy file; it pays to run where that was read before."""
    s.farm.agent("two")
    s.farm.wait_agents(2)
    heavy = f"{s.folder}/heavy"
    os.mkdir(heavy)
    with open(f"{heavy}/blob", "wb") as file:
        file.write(os.urandom(64 << 20))
    s.farm.run("import", "--name", "heavy", heavy)
    first, _ = s.job("cat /heavy/blob >/dev/null", "-d", "heavy:heavy", "--skip-cache")
    equal(first["inputs"]["fetched_bytes"] >= 64 << 20, True, "the first run fetches it")
    for i in range(6):
        os.makedirs(f"{s.folder}/small", exist_ok=True)
        with open(f"{s.folder}/small/{i}", "w") as file:
            file.write(f"{i}\n")
        result, _ = s.job(f"cat /heavy/blob >/dev/null; echo {i}", "-d", "heavy:heavy",
                          "-i", f"{s.folder}/small", "--skip-cache")
        equal(result["agent"], first["agent"], f"the agent of run {i}")
        equal(result["inputs"]["fetched_bytes"] < 1 << 20, True, "bytes fetched again")
    why = json.loads(s.farm.run("why", "--json", result["operation"]).stdout)
    equal(why["candidates"][0]["agent"], first["agent"], "the best candidate")
    assert why["candidates"][0]["bytes_there"] > 32 << 20, why
    for candidate in why["candidates"]:
        terms = [candidate[f"{name}_seconds"] for name in ("wait", "fetch", "run", "others", "apart")]
        assert min(terms) >= 0 and abs(sum(terms) - candidate["score_seconds"]) < 1e-6, why
    s.farm.stop_agent("two")


def jobs_own_their_inputs_where_owners_cannot_be_mapped(s):
    """As on kernels before 6.12."""
    s.farm.stop_agent("one")
    os.environ["CROFT_OWNERS_UNMAPPED"] = "1"
    s.farm.agent("old")
    del os.environ["CROFT_OWNERS_UNMAPPED"]
    s.farm.wait_agents(1)
    s.job("id -u; stat -c %u /data/1 | grep -qx 0 && echo more >>/data/1 && mkdir /data/deep/new && "
          "mv /data/2 /data/deep/new", "--skip-cache")
    s.farm.stop_agent("old")
    s.farm.agent("one")
    s.farm.wait_agents(1)


def a_job_can_be_cancelled(s):
    running = subprocess.Popen([*LIMIT, s.farm.croft, "run", "--server", f"grpc://{s.farm.address}", "-d", "root",
                                *PATH, "--", "sh", "-c", "echo begun; sleep 1000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    equal(running.stdout.readline(), "begun\n", "first line")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode != 0
    for _ in range(100):
        if s.farm.status()["running"] == 0:
            return
        time.sleep(0.1)
    raise AssertionError("the job still runs")


def a_timeout_ends_a_job_with_its_reason(s):
    _, done = s.job("sleep 1000", "--timeout", "1", check=False)
    assert done.returncode != 0 and "timeout" in done.stderr.lower(), done.stderr


def missing_inputs_are_named(s):
    absent = hashlib.sha256(b"absent").hexdigest()
    done = s.farm.run("run", "-d", f"{absent}-6", *PATH, "--", "true", check=False)
    assert done.returncode == 125 and absent in done.stderr, done.stderr


def the_same_job_twice_at_once_runs_once(s):
    command = [*LIMIT, s.farm.croft, "run", "--json", "--server", f"grpc://{s.farm.address}", "-d", "root", *PATH,
               "--", "sh", "-c", "sleep 2; cat /proc/sys/kernel/random/uuid"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    said = [one.communicate(timeout=60)[1] for one in both]
    uuids = [[word for word in text.split() if len(word) == 36] for text in said]
    equal(uuids[0], uuids[1], "output of the two")
    equal(len(uuids[0]), 1, "number of runs")


TESTS = [a_job_runs_and_is_cached, the_exit_status_is_passed_on, no_file_that_was_not_read_is_fetched,
         outputs_come_back_as_they_were_made, an_export_equals_what_was_imported,
         a_job_sees_nothing_of_the_host, the_server_is_killed_and_nothing_is_lost,
         all_who_wait_for_a_job_hear_its_end_over_a_restart, queued_jobs_keep_their_order_over_a_restart,
         an_agent_is_killed_and_its_job_goes_elsewhere, jobs_go_where_their_bytes_are,
         jobs_own_their_inputs_where_owners_cannot_be_mapped, a_job_can_be_cancelled,
         a_timeout_ends_a_job_with_its_reason, missing_inputs_are_named,
         the_same_job_twice_at_once_runs_once]


def main():
    need_root_and_fuse()
    run(Scenario(sys.argv[1]), TESTS)


if __name__ == "__main__":
    main()
