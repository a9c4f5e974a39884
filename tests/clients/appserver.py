"""``codex app-server``: one Codex process that takes several turns, driven by JSON-RPC over its standard streams.

Codex's own desktop app and editor extensions use it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients.codex import PROGRAM

ANSWER_SECONDS = 30.0


class AppServer:
    """A running app-server with one thread, which is Codex's word for a conversation.

    :ivar thread_id: the conversation that all turns belong to.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._received = b""
        self._requests = 0
        self._call("initialize", {"clientInfo": {"name": "ocm-tests", "version": "0"}})
        self._send({"method": "initialized"})
        started = self._call("thread/start", {"approvalPolicy": "never", "sandbox": "read-only", "ephemeral": True})
        self.thread_id: str = started["thread"]["id"]

    def turn(self, prompt: str) -> tuple[str, str]:
        """Take a turn to its end; return its status and the model's text."""
        self._call("turn/start", {"threadId": self.thread_id, "input": [{"type": "text", "text": prompt}]})
        text = ""
        while True:
            message = self._receive()
            params = message.get("params", {})
            if message.get("method") == "item/completed" and params["item"]["type"] == "agentMessage":
                text += params["item"]["text"]
            elif message.get("method") == "turn/completed":
                return params["turn"]["status"], text

    def _call(self, method: str, params: Mapping[str, Any]) -> Any:
        self._requests += 1
        self._send({"id": self._requests, "method": method, "params": params})
        while True:
            message = self._receive()
            if message.get("id") == self._requests and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        """Return the next message of any kind."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._process.stdout], [], [], left)
            assert readable, f"Codex sent nothing for {ANSWER_SECONDS} s"
            data = os.read(self._process.stdout.fileno(), 65536)
            assert data, "Codex has exited"
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def run_app_server(home: Path, environ: Mapping[str, str]) -> Iterator[AppServer]:
    """Run an app-server until the end of the context.

    :param home: prepared by :func:`tests.clients.codex.prepare_home`, which also returned `environ`.
    """
    with (home / "stderr.log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROGRAM), "app-server", "--strict-config"],
            cwd=home,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    with process:
        try:
            yield AppServer(process)
        finally:
            # Codex is a Node script that starts the real program; a separate session allows killing both.
            os.killpg(process.pid, signal.SIGKILL)
