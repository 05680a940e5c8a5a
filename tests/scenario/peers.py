#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Agents give one another what they have: what the server sends is counted on its way, peers lie and
die. `peers.py CROFT [NAME…]` runs all tests, or those named."""
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from farm import Farm
from scenario import run

BIG = 24 << 20
SERVER_SEEN_AS = "127.0.0.2"  # agents reach the server there, through what counts


class Counter:
    """Passes connections on, and counts the bytes that come back."""

    def __init__(self, port):
        self.target, self.bytes, self.lock = ("127.0.0.1", port), 0, threading.Lock()
        self.lets_through = threading.Event()
        self.lets_through.set()
        self.listener = socket.create_server((SERVER_SEEN_AS, port), backlog=128)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.target)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self.pass_on, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(far, near, True), daemon=True).start()

    def pass_on(self, source, sink, counts):
        try:
            while data := source.recv(1 << 16):
                if counts:
                    self.lets_through.wait()
                sink.sendall(data)
                if counts:
                    with self.lock:
                        self.bytes += len(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def take(self):
        with self.lock:
            count, self.bytes = self.bytes, 0
        return count


class Liar(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """In an agent's place: a blob of the wanted hash is `answer(handler)`'s."""
    daemon_threads = True

    def __init__(self, port, answer):
        self.asked = 0
        liar = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                liar.asked += 1
                answer(self, liar)

            def log_message(self, *arguments):
                pass

        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, address):
        pass  # those who found it out hang up


class Scenario:
    def __init__(self, croft):
        self.folder = tempfile.mkdtemp(prefix="croft-scenario-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.farm = Farm(croft, f"{self.folder}/farm")
        self.farm.serve()
        port, plane = (int(a.rpartition(":")[2]) for a in (self.farm.address, self.farm.plane))
        Counter(port)
        self.plane = Counter(plane)
        self.server = self.farm.address
        root = f"{self.folder}/root"
        os.makedirs(f"{root}/bin")
        for name in ("busybox", "sh", "cat", "sleep"):
            shutil.copy("/bin/busybox", f"{root}/bin/{name}")
        self.big = os.urandom(BIG)
        with open(f"{root}/big", "wb") as file:
            file.write(self.big)
        self.farm.run("import", "--name", "root", root)
        self.agent("one")

    def agent(self, name, *options):
        self.farm.address = self.server.replace("127.0.0.1", SERVER_SEEN_AS)
        self.farm.agent(name, "-p", f"box={name}", *options, slots=1)
        self.farm.address = self.server
        for _ in range(300):
            status = self.status(name)
            if status and status["state"] == "ready" and (status["blob_url"] or "--no-peers" in options):
                return
            time.sleep(0.1)
        raise SystemExit(f"agent {name} did not come")

    def status(self, name):
        return next((a for a in self.farm.status()["agents"] if a["id"].startswith(name + "-")), None)

    def daemon(self, name):
        """The filesystem daemon of an agent."""
        wanted = f"--state\0{self.folder}/farm/{name}/fs\0".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if wanted in open(f"/proc/{pid}/cmdline", "rb").read():
                    return int(pid)
            except OSError:
                pass
        raise SystemExit(f"agent {name} has no daemon")

    def job(self, name, script="cat /big >/copy", check=True):
        """On that agent: its result, the bytes that the server sent meanwhile, and its hash of /big."""
        self.plane.take()
        done = self.farm.run("run", "--json", "--no-cache", "-d", "root", "-e", "PATH=/bin", "-p", f"box={name}",
                             "-o", "copy", "--", "sh", "-c", script, check=check, timeout=120)
        result = json.loads(done.stdout)
        output = subprocess.run([self.farm.croft, "cat", "--server", f"grpc://{self.server}",
                                 result["input_root"] + ":big"], capture_output=True, check=True).stdout
        equal(output, self.big, "the file")
        return result, self.plane.take()

    def drop(self, name):
        self.farm.stop_agent(name)
        # That of a daemon that was killed stays.
        subprocess.run(["umount", "--quiet", "--lazy", f"{self.folder}/farm/{name}/fs/mnt"],
                       stderr=subprocess.DEVNULL)
        shutil.rmtree(f"{self.folder}/farm/{name}")

    def stop(self):
        self.farm.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def equal(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: expected {str(wanted)[:100]!r}, got {str(found)[:100]!r}")


def output_is_whole(s, result):
    """What the job copied is what it was given."""
    copy = subprocess.run([s.farm.croft, "blob", "get", "--server", f"grpc://{s.server}",
                           result["outputs"][0]["digest"]], capture_output=True, check=True).stdout
    equal(copy == s.big, True, "the job's copy is the file")


def the_second_agent_gets_it_from_the_first(s):
    result, sent = s.job("one")
    output_is_whole(s, result)
    assert sent >= BIG, f"the server sent {sent} to the first agent"
    s.agent("two")
    result, sent = s.job("two")
    output_is_whole(s, result)
    status = s.status("two")
    print(f"  the second agent fetched {result['inputs']['fetched_bytes']} bytes; the server sent {sent}")
    assert result["inputs"]["fetched_bytes"] >= BIG
    # How much depends on how soon a busy machine's peer answers: the server is asked for the rest.
    assert sent < BIG, f"the server still sent {sent}"
    for _ in range(200):  # each tells its part by heartbeats
        status, first = s.status("two"), s.status("one")
        if status["from_peers_bytes"] >= BIG - sent and first["served_bytes"] >= BIG - sent:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(f"{BIG - sent} bytes did not go between {first} and {status}")
    s.drop("two")


def an_agent_without_peers_asks_and_serves_nobody(s):
    s.job("one")
    s.agent("alone", "--no-peers")
    equal(s.status("alone")["blob_url"], "", "its address")
    result, sent = s.job("alone")
    assert sent >= BIG, f"the server sent {sent}"
    s.drop("alone")


def what_is_being_fetched_is_told_while_it_is(s):
    s.agent("watched", "--no-peers")
    s.plane.lets_through.clear()
    results = []
    job = threading.Thread(target=lambda: results.append(s.job("watched")))
    job.start()
    for _ in range(200):
        status = s.status("watched")
        if status["fetching_blobs"] and status["fetching_bytes"]:
            break
        time.sleep(0.1)
    text = s.farm.run("status").stdout
    s.plane.lets_through.set()
    job.join()
    assert status["fetching_blobs"] and status["fetching_bytes"], f"nothing is told of what is fetched: {status}"
    assert " left" in text, f"croft status says nothing of it: {text}"
    output_is_whole(s, results[0][0])
    for _ in range(200):
        status = s.status("watched")
        if status["fetching_blobs"] == 0:
            break
        time.sleep(0.1)
    equal((status["fetching_blobs"], status["fetching_bytes"]), (0, 0), "what is fetched when all is there")
    s.drop("watched")


def an_agent_serves_whole_blobs_and_takes_nothing(s):
    result, _ = s.job("one")
    url = s.status("one")["blob_url"]
    equal(url.rpartition(":")[0], "127.0.0.1", "where it listens")

    def ask(method, path, body=b""):
        host, _, port = url.rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                               "Connection: close\r\n\r\n".encode() + body)
            answer = b""
            while data := connection.recv(1 << 16):
                answer += data
        return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]

    digest = result["outputs"][0]["digest"]
    status, body = ask("GET", f"/cas/{digest.split('-')[0]}")
    equal((status, body == s.big), (200, True), "a blob of its cache")
    equal(ask("GET", "/cas/" + "0" * 64)[0], 404, "one that it has not")
    equal(ask("PUT", f"/cas/{digest.split('-')[0]}", b"x")[0] // 100, 4, "an upload")
    equal(ask("GET", f"/ac/{digest.split('-')[0]}")[0], 404, "an action")


def with_one_replaced(s, answer):
    """A job on a new agent while the first, which the scheduler names to it, is `answer` instead."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    s.agent("fake", "--plane", f"127.0.0.1:{port}")
    s.job("fake")
    # Before the farm takes it for lost.
    os.kill(s.farm.agents["fake"].pid, signal.SIGSTOP)
    os.kill(s.daemon("fake"), signal.SIGKILL)
    for _ in range(100):
        try:
            liar = Liar(port, answer)
            break
        except OSError:
            time.sleep(0.05)
    s.drop("one")
    s.agent("two")
    result, sent = s.job("two")
    output_is_whole(s, result)
    liar.shutdown()
    liar.server_close()
    os.kill(s.farm.agents["fake"].pid, signal.SIGCONT)
    s.drop("two")
    s.drop("fake")
    s.agent("one")
    return liar, sent


def a_peer_that_sends_wrong_bytes_is_found_out(s):
    with urllib.request.urlopen(f"http://{s.farm.plane}/chunks/{hashlib.sha256(s.big).hexdigest()}") as answer:
        sizes = dict(line.split("-") for line in answer.read().decode().split())

    def lie(handler, liar):
        size = int(sizes.get(handler.path.removeprefix("/cas/"), 0))
        handler.send_response(200 if size else 404)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(bytes(size))

    liar, sent = with_one_replaced(s, lie)
    print(f"  the liar was asked {liar.asked} times; the server sent {sent}")
    # Once on each connection: eight, and those that took the place of one that was too slow to wait for. Who goes on
    # asking does so for each chunk.
    print(f"  {len(sizes)} chunks")
    assert 1 <= liar.asked < len(sizes), "it was asked again and again"
    assert sent >= BIG


def a_peer_that_dies_in_the_middle_is_made_up_for(s):
    def die(handler, liar):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(b"x" * 1000)
        handler.close_connection = True
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    liar, sent = with_one_replaced(s, die)
    assert liar.asked >= 1
    assert sent >= BIG


TESTS = [the_second_agent_gets_it_from_the_first, an_agent_without_peers_asks_and_serves_nobody,
         what_is_being_fetched_is_told_while_it_is, an_agent_serves_whole_blobs_and_takes_nothing, a_peer_that_sends_wrong_bytes_is_found_out,
         a_peer_that_dies_in_the_middle_is_made_up_for]


def main():
    run(Scenario(sys.argv[1]), TESTS)


if __name__ == "__main__":
    main()
