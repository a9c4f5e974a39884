"""Clients for the simulator's own tests, as low-level as necessary."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ocm_wsgi.simulator import Simulator

TIMEOUT = 10.0
TURN = {"model": "gpt-5.5", "stream": True, "store": False, "input": []}


@dataclass(frozen=True)
class Reply:
    """A complete response."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def field(self, name: str) -> str | None:
        return next((value for each, value in self.fields if each.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def owner_fields(credential: dict[str, Any]) -> dict[str, str]:
    """Return the request fields for a credential."""
    tokens = credential["tokens"]
    return {"Authorization": f"Bearer {tokens['access_token']}", "ChatGPT-Account-Id": tokens["account_id"]}


@contextmanager
def connect(sim: Simulator, *, tls: ssl.SSLContext | None = None) -> Iterator[http.client.HTTPConnection]:
    """Open one persistent connection."""
    where = urlsplit(sim.url)
    if tls is None:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
    else:
        connection = http.client.HTTPSConnection(where.hostname or "", where.port, timeout=TIMEOUT, context=tls)
    try:
        yield connection
    finally:
        connection.close()


def call(sim: Simulator, method: str, target: str, *, body: Any = None, fields: dict[str, str] | None = None) -> Reply:
    """Make one request on its own connection. A ``dict`` body is sent as JSON."""
    with connect(sim) as connection:
        return call_on(connection, method, target, body=body, fields=fields)


def call_on(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    *,
    body: Any = None,
    fields: dict[str, str] | None = None,
) -> Reply:
    sent = dict(fields or {})
    if isinstance(body, dict):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    connection.request(method, target, body=body, headers=sent)
    with connection.getresponse() as response:
        return Reply(response.status, response.getheaders(), response.read())


def take_turn(sim: Simulator, *, fields: dict[str, str] | None = None, **members: Any) -> Reply:
    """Request one turn with a new credential."""
    fields = {**owner_fields(sim.credential()), **(fields or {})}
    return call(sim, "POST", "/backend-api/codex/responses", body={**TURN, **members}, fields=fields)


def turn_bytes(sim: Simulator, *, target: str = "/backend-api/codex/responses") -> bytes:
    """Return a turn's request as bytes, for a raw socket."""
    body = json.dumps(TURN).encode()
    fields = {"Host": "simulator", **owner_fields(sim.credential()), "Content-Length": str(len(body))}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def dial(sim: Simulator) -> socket.socket:
    where = urlsplit(sim.url)
    return socket.create_connection((where.hostname or "", where.port or 0), timeout=TIMEOUT)


def exchange_raw(sim: Simulator, request: bytes) -> bytes:
    """Send bytes and return everything received until the simulator closes the connection."""
    with dial(sim) as sock:
        sock.sendall(request)
        return read_to_end(sock)


def read_to_end(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def read_until(sock: socket.socket, marker: bytes) -> bytes:
    received = b""
    while marker not in received:
        data = sock.recv(65536)
        assert data, f"the connection ended before {marker!r}: {received!r}"
        received += data
    return received


def events_of(body: bytes) -> list[dict[str, Any]]:
    """Return the data of a stream's events."""
    lines = body.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


def said(body: bytes) -> str:
    """Return the concatenated text of a stream's deltas."""
    return "".join(event["delta"] for event in events_of(body) if event["type"] == "response.output_text.delta")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
