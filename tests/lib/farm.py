# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real processes of a farm on this machine, each with its own state, ended by pid."""
import json
import os
import signal
import subprocess
import time


class Farm:
    def __init__(self, croft, folder):
        self.croft = os.path.abspath(croft)
        self.folder = folder
        self.server = None
        self.agents = {}
        self.address = self.plane = "127.0.0.1:0"
        self.enter = {}  # before the command of a process ("serve", "client", an agent's name)
        os.makedirs(folder, exist_ok=True)

    def start(self, name, *arguments):
        log = open(f"{self.folder}/{name}.log", "a")
        return subprocess.Popen([*self.enter.get(name, []), self.croft, *arguments], stdout=log, stderr=log)

    def serve(self):
        ports = f"{self.folder}/ports"
        if os.path.exists(ports):
            os.unlink(ports)
        self.server = self.start("serve", "serve", "--state", f"{self.folder}/serve", "--listen",
                                 self.address, "--plane", self.plane, "--ports-file", ports)
        text = ""
        for _ in range(300):
            if os.path.exists(ports):
                text = open(ports).read()
            if len(text.split()) == 2 or self.server.poll() is not None:
                break
            time.sleep(0.1)
        if len(text.split()) != 2:
            raise SystemExit(f"the server did not start: see {self.folder}/serve.log")
        # A restarted server comes back where its clients and agents look for it.
        host = self.address.rpartition(":")[0]
        self.address, self.plane = (f"{host}:{port}" for port in text.split())

    def kill_server(self):
        self.server.kill()
        self.server.wait()

    def agent(self, name, *options, slots=2):
        self.agents[name] = self.start(name, "agent", "--server", f"grpc://{self.address}", "--state",
                                       f"{self.folder}/{name}", "--name", name, "--slots", str(slots),
                                       *options)

    def run(self, *arguments, check=True, **keywords):
        done = subprocess.run([*self.enter.get("client", []), self.croft, arguments[0], "--server", f"grpc://{self.address}",
                               *arguments[1:]], capture_output=True, text=True, **keywords)
        if check and done.returncode:
            raise SystemExit(f"croft {' '.join(arguments)[:300]} failed with {done.returncode}:\n"
                             f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done

    def status(self):
        return json.loads(self.run("status", "--json").stdout)

    def wait_agents(self, count):
        for _ in range(300):
            ready = [a for a in self.status()["agents"] if a["state"] == "ready"]
            if len(ready) >= count:
                return ready
            time.sleep(0.1)
        raise SystemExit(f"the agents did not come: see the logs in {self.folder}")

    def stop_agent(self, name):
        agent = self.agents.pop(name)
        agent.send_signal(signal.SIGTERM)
        agent.wait(60)

    def stop(self):
        for name in list(self.agents):
            self.stop_agent(name)
        if self.server and self.server.poll() is None:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait(60)
