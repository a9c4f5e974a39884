"""Requests to the API of a running service, sent and read byte for byte."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import requests

from tests.conftest import ALICE, RunningService

TURN = {"model": "gpt-5.5", "stream": True, "input": "hi"}
BODY = json.dumps(TURN).encode()
LENGTH = {"Content-Length": len(BODY)}


def post(
    running: RunningService, target: str = "/v1/responses", token: str = ALICE, **options: Any
) -> requests.Response:
    """Send a request that ignores the machine's proxy and netrc settings."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        if not {"json", "data"} & options.keys():
            options["json"] = TURN
        return session.post(running.url + target, headers=headers, timeout=30, **options)


@contextmanager
def connected(running: RunningService) -> Iterator[socket.socket]:
    """Open a plain TCP connection to the service."""
    with socket.create_connection(running.address, timeout=20) as connection:
        yield connection


def head(method: str = "POST", target: str = "/v1/responses", /, token: object = ALICE, **fields: object) -> bytes:
    """Return the exact bytes of a request head."""
    lines = [f"{method} {target} HTTP/1.1", "Host: ocm", f"Authorization: Bearer {token}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_response(connection: socket.socket, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
    """Read one response and return its status, its fields with lowercase names, and its body."""
    with closing(http.client.HTTPResponse(connection, method=method)) as response:
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def receive_until(connection: socket.socket, marker: bytes) -> bytes:
    """Return what is received up to the marker, at least."""
    received = b""
    while marker not in received:
        piece = connection.recv(65536)
        assert piece, "the connection ended early"
        received += piece
    return received


def exchange(running: RunningService, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request and read its response."""
    with connected(running) as connection:
        connection.sendall(request)
        return read_response(connection, request.partition(b" ")[0].decode())


def error_of(body: bytes) -> dict[str, str]:
    """Return the error of an error response, and check its members."""
    content = json.loads(body)
    assert content.keys() == {"error"}
    assert content["error"].keys() == {"type", "code", "message"}
    error: dict[str, str] = content["error"]
    return error
