#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""cut.py HOST:PORT FILE: passes connections on to there from a free port of its own, whose number goes to the file.
From SIGUSR1 to SIGUSR2 there is no way through, and all connections are gone."""
import os
import signal
import socket
import sys
import threading

target, file = sys.argv[1:]
host, port = target.rsplit(":", 1)
listener = socket.create_server(("127.0.0.1", 0))
with open(file + ".new", "w") as out:
    out.write(str(listener.getsockname()[1]))
os.rename(file + ".new", file)
lock, cut, ends = threading.Lock(), False, []


def pump(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    for one in (source, sink):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def accept():
    while True:
        here, _ = listener.accept()
        with lock:
            if cut:
                here.close()
                continue
            there = socket.create_connection((host, int(port)))
            ends.extend((here, there))
        for pair in ((here, there), (there, here)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))
threading.Thread(target=accept, daemon=True).start()
while True:
    heard = signal.sigwait((signal.SIGUSR1, signal.SIGUSR2))
    with lock:
        cut = heard == signal.SIGUSR1
        while cut and ends:
            try:
                ends.pop().shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
