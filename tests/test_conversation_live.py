"""Handshake and conversation between a real client and the simulator, moved by the smallest tunnel there can be."""

from __future__ import annotations

import hashlib
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import parse_headers
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ocm_wsgi.conversation import Conversation, LimitsTold, TurnEnded
from ocm_wsgi.creates import ResponseCreate
from ocm_wsgi.errors import UsageLimitReached
from ocm_wsgi.gate import HeldMessage
from ocm_wsgi.handshake import Answer, AnswerParser, request_head, require_opening_handshake, upgrade_request_fields
from ocm_wsgi.simulator import Plan, Simulator

TIMEOUT = 10.0
#: Small and no power of two, so that frames are cut up.
READ_SIZE = 1000


class Tunnel:
    """One client, one upstream, in one thread.

    :ivar turns: what was asked for and how it ended.
    :ivar refused: models that are refused.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.turns: list[tuple[ResponseCreate, TurnEnded[ResponseCreate]]] = []
        self.limits: list[LimitsTold] = []
        self.refused: set[str] = set()
        self._simulator = simulator
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Tunnel:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join(TIMEOUT)
        self._listener.close()

    def _serve(self) -> None:
        self._client, _ = self._listener.accept()
        host, _, port = self._simulator.url.removeprefix("http://").partition(":")
        self._upstream = socket.create_connection((host, int(port)), TIMEOUT)
        with self._client, self._upstream:
            answer = self._shake_hands()
            if not answer.is_accepting:
                self._pass_refusal_on(answer)
                return
            self._client.sendall(answer.head())
            self._conversation: Conversation[ResponseCreate] = Conversation(answer.deflate())
            self._to_client(answer.rest)
            while not self._conversation.is_over and self._move():
                pass
            self._end(self._conversation.end())

    def _shake_hands(self) -> Answer:
        with self._client.makefile("rb") as head:
            method, _, version = head.readline().decode().split()
            fields = parse_headers(head).items()
        require_opening_handshake(method, version, "responses", fields)
        credential = self._simulator.credential()["tokens"]
        account = [
            ("authorization", f"Bearer {credential['access_token']}"),
            ("chatgpt-account-id", credential["account_id"]),
        ]
        sent = upgrade_request_fields(fields, host="simulator", account=account, overrides={})
        self._upstream.sendall(request_head("/backend-api/codex/responses", sent))
        parser = AnswerParser()
        answer = None
        while answer is None:
            answer = parser.feed(self._upstream.recv(READ_SIZE))
        return answer

    def _pass_refusal_on(self, answer: Answer) -> None:
        assert isinstance(answer.framing, int)
        body = answer.rest
        while len(body) < answer.framing:
            body += self._upstream.recv(READ_SIZE)
        fields = "".join(f"{name}: {value}\r\n" for name, value in answer.forwardable_fields())
        self._client.sendall(f"HTTP/1.1 {answer.status} {answer.reason}\r\n{fields}\r\n".encode() + body)

    def _move(self) -> bool:
        for source in select.select([self._client, self._upstream], [], [], TIMEOUT)[0]:
            data = source.recv(READ_SIZE)
            if not data:
                return False
            if source is self._client:
                self._to_upstream(self._conversation.from_client(data))
            else:
                self._to_client(data)
            self._client.sendall(self._conversation.own())
        return True

    def _to_upstream(self, items: list[bytes | HeldMessage]) -> None:
        for item in items:
            if isinstance(item, bytes):
                self._upstream.sendall(item)
                continue
            create = item.read()
            if create is not None and create.facts.model in self.refused:
                error = UsageLimitReached("Used up.", advice="ask", resets_at=2000, resets_in_seconds=50)
                self._to_upstream(self._conversation.refuse(error))
            else:
                self._to_upstream(self._conversation.let_pass(create))

    def _to_client(self, data: bytes) -> None:
        for item in self._conversation.from_server(data):
            if isinstance(item, bytes):
                self._client.sendall(item)
            elif isinstance(item, TurnEnded):
                self._end([item])
            else:
                self.limits.append(item)

    def _end(self, ended: list[TurnEnded[ResponseCreate]]) -> None:
        for end in ended:
            assert end.turn is not None
            self.turns.append((end.turn, end))


@contextmanager
def through(tunnel: Tunnel, compression: str | None, **fields: str) -> Iterator[ClientConnection]:
    """A client on the other side of the tunnel."""
    url = f"ws://127.0.0.1:{tunnel.port}/v1/responses"
    with connect(url, compression=compression, proxy=None, additional_headers=fields, close_timeout=1) as client:
        yield client


def ask(client: ClientConnection, **members: Any) -> list[bytes]:
    """Ask for a turn and return its messages."""
    client.send(json.dumps({"type": "response.create", "model": "gpt-5.5", "input": [], **members}))
    said: list[bytes] = []
    while not said or json.loads(said[-1])["type"] not in ("response.completed", "error"):
        said.append(str(client.recv(TIMEOUT)).encode())
    return said


@pytest.mark.parametrize("compression", ["deflate", None])
def test_turns_pass_and_are_known(simulator: Simulator, compression: str | None) -> None:
    """What upstream says arrives as it was said, and how each turn ended is known, prewarm included."""
    with Tunnel(simulator) as tunnel, through(tunnel, compression) as client:
        prewarm = ask(client, generate=False)
        previous = json.loads(prewarm[-1])["response"]["id"]
        said = ask(client, previous_response_id=previous, input=[{"text": "x" * 100_000}])
        failed = ask(client, previous_response_id="unknown")
    assert simulator.sent[0].body_sha256 == hashlib.sha256(b"".join(prewarm + said + failed)).hexdigest()
    (counted,) = simulator.turns
    (warm, _), (create, end), (_, error) = tunnel.turns
    assert (warm.is_prewarm, create.is_prewarm, create.previous_response_id) == (True, False, previous)
    assert end.outcome.status == counted.status == "completed"
    assert end.outcome.usage is not None
    assert end.outcome.usage.input_tokens == counted.input_tokens
    assert (error.outcome.error_code, error.http_status) == ("previous_response_not_found", 400)
    assert tunnel.limits[0].limits.primary is not None


@pytest.mark.parametrize("compression", ["deflate", None])
def test_refused_turn_never_reaches_upstream(simulator: Simulator, compression: str | None) -> None:
    """The client is told, upstream hears nothing, and only a compressing client has to come again."""
    with Tunnel(simulator) as tunnel, through(tunnel, compression) as client:
        tunnel.refused.add("gpt-5.4")
        ask(client)
        error = json.loads(ask(client, model="gpt-5.4")[-1])
        assert (error["status"], error["error"]["type"]) == (429, "usage_limit_reached")
        if compression is None:
            ask(client)
        else:
            with pytest.raises(ConnectionClosedError, match="1008"):
                client.recv(TIMEOUT)
    assert len(simulator.turns) == len(tunnel.turns) == (2 if compression is None else 1)


def test_dropped_connection_cuts_the_turn(simulator: Simulator) -> None:
    """A turn whose upstream goes away in its midst is cut."""
    simulator.plan(Plan(cut_after=2))
    with Tunnel(simulator) as tunnel, through(tunnel, "deflate") as client:
        client.send(json.dumps({"type": "response.create", "model": "gpt-5.5"}))
        with pytest.raises(ConnectionClosedError):
            list(client)
    ((_, end),) = tunnel.turns
    assert end.outcome.status == "cut"


def test_refused_handshake_is_passed_on(simulator: Simulator) -> None:
    """The client sees upstream's own status, fields and body."""
    simulator.plan(Plan(upgrade=True, status=429, error=("rate_limit_exceeded", "Too many.")))
    with (
        Tunnel(simulator) as tunnel,
        pytest.raises(InvalidStatus) as refused,
        through(tunnel, None),
    ):
        pass
    response = refused.value.response
    assert response.status_code == 429
    assert json.loads(response.body or b"")["error"]["message"] == "Too many."
