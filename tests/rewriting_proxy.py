"""A stand-in for the other programs that the benchmarks measure: relays events, but reformats them.

Started as they are: ``PYTHON rewriting_proxy.py ANSWER ARGUMENTS --host HOST --port PORT``. ANSWER is ``relay`` or, for
one that does not work, ``refuse``.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

BASE_URL = os.environ.get("CHATGPT_API_BASE", "https://chatgpt.com/backend-api/codex")
#: Printed once by each worker.
STARTED = "Running on this address\nApplication startup complete.\nApplication startup complete."


class Handler(BaseHTTPRequestHandler):
    """Sends requests to upstream without the client's query, and closes the connection after each response."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if sys.argv[1] == "refuse":
            self.send_error(500, "Will not")
            return
        with requests.post(f"{BASE_URL}/responses", data=body, stream=True, timeout=10) as upstream:
            self.send_response(upstream.status_code)
            self.send_header("Connection", "close")
            self._send_events(upstream)

    def _send_events(self, upstream: requests.Response) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in upstream.iter_lines(chunk_size=None):
            if line.startswith(b"data: "):
                event = {"model": "another", **json.loads(line.removeprefix(b"data: "))}
                self._send_chunk(f"data: {json.dumps(event)}\n\n".encode())
        self._send_chunk(b"data: [DONE]\n\n")
        self._send_chunk(b"")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


if __name__ == "__main__":
    with ThreadingHTTPServer((sys.argv[-3], int(sys.argv[-1])), Handler) as server:
        print(STARTED, flush=True)
        server.serve_forever()
