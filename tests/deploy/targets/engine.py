"""Stands in for an engine over nodes: rank 0 serves until all others have asked it, then all end."""

import http.client
import http.server
import json
import os
import sys
import time
from pathlib import Path

head, rank, nodes, port, out = sys.argv[1:6]
found = {"argv": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
Path(f"{out}-{rank}").write_text(json.dumps(found))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.server.asked += 1


def ask():
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
    connection.request("GET", "/health")
    return connection.getresponse().status


if rank == "0":
    server = http.server.HTTPServer(("127.0.0.1", int(port)), Handler)
    server.asked = 0
    while server.asked < int(nodes) - 1:
        server.handle_request()
else:
    for _ in range(100):
        try:
            sys.exit(ask() != 200)
        except OSError:
            time.sleep(0.1)
    sys.exit("The head did not answer.")
