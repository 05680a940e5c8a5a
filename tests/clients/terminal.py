#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""terminal.py FILE COMMAND...: runs it on a terminal. Once the file is there Ctrl-C is typed, and "terminate" at
the prompt that follows. Ends as the command did; what it printed goes to standard output."""
import os
import pty
import select
import sys

file, *command = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
printed, typed = b"", 0
while True:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:
            break
        if not data:
            break
        printed += data
        os.write(1, data)
    if typed == 0 and os.path.exists(file):
        typed = os.write(terminal, b"\x03")
    elif typed == 1 and b"Choice:" in printed:
        typed += os.write(terminal, b"terminate\n")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
