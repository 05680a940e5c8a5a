#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""origin.py PORT FOLDER FILE: serves the folder by HTTP. Who asked, by its User-Agent, is a line of the file, which is
there once questions are heard."""
import functools
import http.server
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *_):
        with open(sys.argv[3], "a") as file:
            file.write(f"{self.command} {self.path} {self.headers.get('User-Agent')}\n")


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])),
                                         functools.partial(Handler, directory=sys.argv[2]))
open(sys.argv[3], "w").close()
server.serve_forever()
