# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network of its own for the processes of a test: a network namespace for each node, and a switch between
them that can delay packets, lose some, or pass nothing on. The kernel needs no module for that but tun."""
import ctypes
import fcntl
import heapq
import os
import random
import struct
import subprocess
import threading
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
MTU = 9000
CLONE_NEWNET = 0x40000000


class Node:
    def __init__(self, namespace, number):
        self.namespace, self.address = namespace, f"10.78.0.{number}"
        self.deaf = self.mute = False  # nothing comes to it, nothing goes from it
        self.delay, self.loss = 0.0, 0.0
        self.device = None


class Network:
    def __init__(self, names, seed):
        self.random = random.Random(seed)
        self.nodes = {name: Node(f"croft-{os.getpid()}-{name}", number + 1) for number, name in enumerate(names)}
        self.by_number = {number + 1: node for number, node in enumerate(self.nodes.values())}
        self.waiting, self.order, self.changed = [], 0, threading.Condition()
        self.over = False
        self.threads = []
        for node in self.nodes.values():
            self.open(node)
            self.threads.append(threading.Thread(target=self.read, args=(node,), daemon=True))
        self.threads.append(threading.Thread(target=self.deliver, daemon=True))
        for thread in self.threads:
            thread.start()

    def open(self, node):
        subprocess.run(["ip", "netns", "add", node.namespace], check=True)
        opened = threading.Thread(target=self.open_device, args=(node,))  # only this thread enters the namespace
        opened.start()
        opened.join()
        if node.device is None:
            raise OSError(f"no tunnel device in {node.namespace}")
        for command in ("link set lo up", f"link set net0 mtu {MTU} up", f"address add {node.address}/24 dev net0"):
            subprocess.run(["ip", "-n", node.namespace, *command.split()], check=True)

    @staticmethod
    def open_device(node):
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{node.namespace}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                return
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22s", b"net0", IFF_TUN | IFF_NO_PI, b""))
        node.device = device

    def enter(self, name):
        """What to put before a command so that it runs there."""
        return ["nsenter", f"--net=/run/netns/{self.nodes[name].namespace}"]

    def heal(self):
        for node in self.nodes.values():
            node.deaf = node.mute = False
            node.delay = node.loss = 0.0

    # The switch ------------------------------------------------------------------------------------

    def read(self, node):
        while not self.over:
            try:
                packet = os.read(node.device, MTU + 100)
            except OSError:
                return
            to = self.by_number.get(packet[19]) if len(packet) >= 20 and packet[0] >> 4 == 4 else None
            if to is None or node.mute or to.deaf or self.random.random() < node.loss + to.loss:
                continue
            delay = node.delay + to.delay
            if not delay and not self.waiting:
                self.write(to, packet)
                continue
            with self.changed:
                self.order += 1  # of packets due at the same time
                heapq.heappush(self.waiting, (time.monotonic() + delay, self.order, to, packet))
                self.changed.notify()

    @staticmethod
    def write(node, packet):
        try:
            os.write(node.device, packet)
        except OSError:
            pass  # as networks do: the device is full or down

    def deliver(self):
        with self.changed:
            while not self.over:
                now = time.monotonic()
                while self.waiting and self.waiting[0][0] <= now:
                    _, _, node, packet = heapq.heappop(self.waiting)
                    if not node.deaf:
                        self.write(node, packet)
                self.changed.wait(self.waiting[0][0] - now if self.waiting else None)

    def stop(self):
        with self.changed:
            self.over = True
            self.changed.notify()
        for node in self.nodes.values():
            subprocess.run(["ip", "netns", "delete", node.namespace], check=False)
