"""The WebSocket of ``ocm check --url``: opened to OpenAI, pinged and closed, and each way in which that fails."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ocm_wsgi.checks import Level, address, websocket
from ocm_wsgi.checks.tickets import ticket
from ocm_wsgi.simulator import Plan
from tests.faults.stack import eventually

TIMEOUT_SECONDS = 10.0
PONG = b"\x8a\x03ocm"
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def websocket_finding(owner: Any, running: Any) -> dict[str, str]:
    """Check a service and return the finding about its WebSocket."""
    configuration = str(running.folder / "ocm.json")
    report = owner.check("--url", running.url, "--silence", "0", OCM_CONFIG=configuration)
    (found,) = [each for each in report.findings if each["code"] == "websocket"]
    return dict(found)


def accepting(head: str) -> bytes:
    """Return a server's response to an opening handshake."""
    key = re.search(r"Sec-WebSocket-Key: (\S+)", head)
    assert key
    accept = base64.b64encode(hashlib.sha1((key[1] + _GUID).encode()).digest()).decode()
    lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
    return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode()


@pytest.fixture
def probe() -> Iterator[Callable[[Callable[[str], bytes]], None]]:
    """Return a function that probes a WebSocket with a server that responds once, then ends the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        servers = []

        def serve(answer: Callable[[str], bytes]) -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as received:
                head = b"".join(iter(received.readline, b"\r\n"))
                connection.sendall(answer(head.decode()))
                connection.shutdown(socket.SHUT_WR)
                received.read()

        def probe(answer: Callable[[str], bytes]) -> None:
            servers.append(threading.Thread(target=serve, args=(answer,)))
            servers[-1].start()
            host, port = listener.getsockname()
            with closing(HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)) as connection:
                connection.connect()
                websocket.probe(connection, {"Authorization": "Bearer check-none"})

        yield probe
        for server in servers:
            server.join(TIMEOUT_SECONDS)
            assert not server.is_alive()


def test_websocket_reaches_openai(owner: Any, service: Any) -> None:
    """A WebSocket is opened to OpenAI with the owner's account and closed cleanly, without a turn."""
    running = service(workers=1)
    assert websocket_finding(owner, running)["level"] == "ok"
    (handshake,) = [seen for seen in running.simulator.requests if seen.target == "/backend-api/codex/responses"]
    assert handshake.field("upgrade") == "websocket"
    assert "check-" not in (handshake.field("authorization") or "")
    assert running.simulator.turns == []
    # It was closed cleanly: otherwise the log line would say so.
    assert eventually(
        lambda: re.search(r"GET /ocm/v1/check/websocket 101 \d+ B [\d.]+ s\n", running.log_text()) is not None
    )


@pytest.mark.parametrize(
    ("plan", "remedy"),
    [
        pytest.param({"status": 403, "error": ("forbidden", "Not for you.")}, "ocm login", id="refused"),
        pytest.param({"status": 429, "error": ("slow", "Not for you.")}, "supports_websockets = false", id="limited"),
        pytest.param({"status": 503, "error": ("down", "Not for you.")}, "journalctl", id="failing"),
    ],
)
def test_refusal_by_openai_is_reported(owner: Any, service: Any, plan: dict[str, Any], remedy: str) -> None:
    """OpenAI's response is reported with its status and message."""
    running = service(workers=1)
    running.simulator.plan(Plan(upgrade=True, **plan))
    found = websocket_finding(owner, running)
    assert found["level"] == "warning"
    assert f"{plan['status']}: Not for you." in found["text"]
    assert remedy in found["remedy"]


def test_worker_without_tunnels_is_reported(owner: Any, service: Any) -> None:
    """Another worker class does not support WebSockets; the finding says how to fix this."""
    running = service(workers=1, arguments=("--worker-class", "gthread"))
    found = websocket_finding(owner, running)
    assert (found["level"], "426" in found["text"]) == ("warning", True)
    assert "worker_class" in found["remedy"]


def test_handshake_timeout_is_reported(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a response the check goes on after Codex's own timeout."""
    monkeypatch.setattr(websocket, "TIMEOUT_SECONDS", 0.5)
    running = service(workers=1)
    running.simulator.plan(Plan(upgrade=True, silence_before_status=True))
    running.state_path.mkdir(exist_ok=True)
    found = [*address.findings(address.Address.parse(running.url), running.state_path, silence_seconds=0)]
    (finding,) = [each for each in found if each.code == "websocket"]
    assert (finding.level, "takes longer than" in finding.text) == (Level.WARNING, True)


def test_no_turn_over_the_websocket_of_a_check(service: Any) -> None:
    """A ticket cannot be used to consume any of the subscription."""
    running = service(workers=1)
    url = f"{running.url.replace('http', 'ws')}{websocket.TARGET}"
    running.state_path.mkdir(exist_ok=True)
    with ticket(running.state_path) as text:
        fields = {"Authorization": f"Bearer {text}"}
        with connect(url, proxy=None, compression=None, additional_headers=fields) as client:
            client.send(json.dumps({"type": "response.create", "model": "gpt-5.5", "input": []}))
            refusal = json.loads(client.recv(TIMEOUT_SECONDS))
            assert (refusal["type"], refusal["status"]) == ("error", 401)
            client.close()
            with pytest.raises(ConnectionClosed):
                client.recv(TIMEOUT_SECONDS)
    assert running.simulator.turns == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(lambda head: accepting("Sec-WebSocket-Key: x") + PONG, "does not match", id="another-handshake"),
        pytest.param(accepting, "ends immediately", id="end"),
        pytest.param(lambda head: accepting(head) + b"\x81\x02hi", "ends immediately", id="no-pong"),
        pytest.param(lambda head: accepting(head) + b"HTTP/1.1 400", "a reserved bit is set", id="no-frames"),
    ],
)
def test_unusable_websocket_is_broken(probe: Callable[..., None], answer: Callable[[str], bytes], words: str) -> None:
    """Status 101 alone is not enough: the response has to match the handshake, and a pong has to arrive."""
    with pytest.raises(websocket.Broken, match=words):
        probe(answer)


def test_pong_after_other_frames_is_enough(probe: Callable[..., None]) -> None:
    """OpenAI may send other messages first, and the connection may end without a close frame."""
    probe(lambda head: accepting(head) + b"\x81\x02hi" + PONG)


def test_message_of_a_refusal_is_safe_for_a_terminal(probe: Callable[..., None]) -> None:
    """An error's message is shown as one line of plain text; other bodies are omitted."""
    body = json.dumps({"error": {"message": "No \x1b[2J\n" + "x" * 1000}}).encode()
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n"
    with pytest.raises(websocket.Declined, match=r"^400: No \[2Jx{100,195}$"):
        probe(lambda _: head % len(body) + body)
    with pytest.raises(websocket.Declined, match=r"^400$"):
        probe(lambda _: head % 2 + b"<>")
