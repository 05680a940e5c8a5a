# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paired runs in turn, medians of the ratios of neighbours; see bench/plane/run."""
import argparse
import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../tests/lib"))
from farm import Farm  # noqa: E402

MIB = 1 << 20


class Nginx:
    """One worker, as the plane is one thread; sendfile, as its own documentation advises."""

    def __init__(self, folder, root, port):
        self.folder, self.port = folder, port
        os.makedirs(folder)
        with open(f"{folder}/conf", "w") as conf:
            conf.write(f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; location / {{ root {root}; }} }} }}
""")
        self.process = subprocess.Popen(["nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/conf"])
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/none").close()
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"nginx did not start: see {folder}/error.log")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def free_port():
    import socket
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def make_file(path, size, seed):
    """Random bytes; its hash."""
    source, digest = random.Random(seed), hashlib.sha256()
    with open(path, "wb") as out:
        for at in range(0, size, MIB):
            piece = source.randbytes(min(MIB, size - at))
            digest.update(piece)
            out.write(piece)
    return digest.hexdigest()


def processor_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, arguments, folder):
        self.client = os.path.abspath(arguments.client)
        self.arguments, self.folder = arguments, folder
        self.good = True
        self.farm = Farm(arguments.croft, f"{folder}/farm")
        self.farm.serve()
        self.port = self.farm.plane.rsplit(":", 1)[1]

    def run(self, *words, lines=None, expect):
        """Seconds of one run of the client."""
        given = open(lines) if lines else subprocess.DEVNULL
        done = subprocess.run([self.client, *map(str, words)], stdin=given, capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise SystemExit(f"client {words}: {done.stderr}")
        seconds, count = done.stdout.split()
        if int(count) < expect:
            raise SystemExit(f"client {words}: {count} bytes came where {expect} were expected")
        return float(seconds)

    def paired(self, ours, theirs):
        """Both in turn; seconds of each and the median of theirs / ours."""
        ours(), theirs()
        pairs = []
        for i in range(self.arguments.runs):
            pair = [None, None]
            for which in ((0, 1) if i % 2 else (1, 0)):
                pair[which] = (ours, theirs)[which]()
            pairs.append(pair)
        return (statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs),
                statistics.median(p[1] / p[0] for p in pairs))

    def bar(self, name, value, goal):
        met = value >= goal
        self.good &= met
        print(f"BAR {name} {value:.2f} >={goal} {'ok' if met else 'short'}", flush=True)

    def large(self, size):
        root = f"{self.folder}/www"
        os.makedirs(root)
        path = f"{root}/file"
        hash = make_file(path, size, 1)
        subprocess.run(["curl", "-sSf", "-T", path, f"http://127.0.0.1:{self.port}/cas/{hash}"],
                       check=True)
        back = subprocess.Popen(["curl", "-sSf", f"http://127.0.0.1:{self.port}/cas/{hash}"],
                                stdout=subprocess.PIPE)
        if hashlib.file_digest(back.stdout, "sha256").hexdigest() != hash if hasattr(
                hashlib, "file_digest") else False:
            raise SystemExit("other bytes came back")
        back.wait()
        nginx = Nginx(f"{self.folder}/nginx", root, free_port())
        try:
            for name, range in (("1MiB", MIB), ("16MiB", 16 * MIB), ("whole", size)):
                burnt = [processor_seconds(self.farm.server.pid), processor_seconds(nginx.process.pid)]
                ours, theirs, ratio = self.paired(
                    lambda: self.run("ranges", "127.0.0.1", self.port, f"/cas/{hash}", size, range,
                                     expect=size),
                    lambda: self.run("ranges", "127.0.0.1", nginx.port, "/file", size, range,
                                     expect=size))
                burnt[0] = processor_seconds(self.farm.server.pid) - burnt[0]
                burnt[1] = processor_seconds(nginx.process.pid) - burnt[1]
                print(f"{size // MIB} MiB in ranges of {name}: plane {size / MIB / ours:.0f} MiB/s "
                      f"({burnt[0]:.2f} s of processor), nginx {size / MIB / theirs:.0f} MiB/s "
                      f"({burnt[1]:.2f} s); ratio {ratio:.2f}", flush=True)
                self.bar(f"plane-ranges-{name}", ratio, 0.9)
        finally:
            nginx.stop()

    def small(self, count, size):
        folder, lines = f"{self.folder}/small", f"{self.folder}/lines"
        source = random.Random(2)
        os.makedirs(folder)
        with open(lines, "w") as out:
            for i in range(count):
                data = source.randbytes(size)
                with open(f"{folder}/{i}", "wb") as file:
                    file.write(data)
                out.write(f"{hashlib.sha256(data).hexdigest()}-{size}\n")
        self.farm.run("import", folder)
        for batch in (64, 256, 1024):
            ours, theirs, ratio = self.paired(
                lambda: self.run("batches", "127.0.0.1", self.port, batch, lines=lines,
                                 expect=count * size),
                lambda: self.run("gets", "127.0.0.1", self.port, "/cas/", lines=lines,
                                 expect=count * size))
            print(f"{count} blobs of {size} bytes: batches of {batch} {ours:.3f} s "
                  f"({ours / count * 1e6:.1f} µs each), a GET each {theirs:.3f} s "
                  f"({theirs / count * 1e6:.1f} µs each); ratio {ratio:.2f}", flush=True)
            if batch == 256:
                self.bar("plane-batches", ratio, 5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--croft", required=True)
    parser.add_argument("--client", required=True)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the large file")
    parser.add_argument("--count", type=int, default=20000, help="small blobs")
    parser.add_argument("--folder", default=None, help="where to work (else a temporary one)")
    parser.add_argument("--only", choices=("large", "small"))
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="croft-bench-plane-", dir=arguments.folder)
    bench = Bench(arguments, folder)
    try:
        if arguments.only != "small":
            bench.large(arguments.size * MIB)
        if arguments.only != "large":
            bench.small(arguments.count, 8192)
    finally:
        bench.farm.stop()
        shutil.rmtree(folder)
    sys.exit(0 if bench.good else 1)


if __name__ == "__main__":
    main()
