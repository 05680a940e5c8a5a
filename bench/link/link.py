# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two network namespaces and a link between them that has a delay and a rate (see link.c)."""
import os
import subprocess

ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Link:
    def __init__(self, program, round_trip_us, mbit):
        self.names = [f"croft-{os.getpid()}-{end}" for end in "ab"]
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        ends = [word for name, address in zip(self.names, ADDRESSES)
                for word in (f"/run/netns/{name}", address)]
        self.process = subprocess.Popen([program, *ends, str(round_trip_us), str(mbit)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline().strip() != b"ready":
            self.stop()
            raise SystemExit("the link did not come up")

    def enter(self, end):
        """What to put before a command so that it runs at that end, 0 or 1."""
        return ["ip", "netns", "exec", self.names[end]]

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False)
