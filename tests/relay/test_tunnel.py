"""WebSockets through the real service: a real client on one side, the simulator on the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from websockets.sync.client import ClientConnection, connect

from ocm_wsgi import database as db
from ocm_wsgi.database import Database
from tests.conftest import ALICE, RunningService, ServiceFactory

TIMEOUT = 10.0
BOTH = pytest.mark.parametrize("compression", ["deflate", None])


@contextmanager
def through(running: RunningService, token: str = ALICE, compression: str | None = None) -> Iterator[ClientConnection]:
    """A WebSocket through the service."""
    host, port = running.address
    with connect(
        f"ws://{host}:{port}/v1/responses",
        compression=compression,
        proxy=None,
        additional_headers={"Authorization": f"Bearer {token}"},
        close_timeout=5,
    ) as client:
        yield client


def say(client: ClientConnection, **members: Any) -> None:
    """Ask for a turn."""
    client.send(json.dumps({"type": "response.create", "model": "gpt-5.5", "input": [], **members}))


def hear(client: ClientConnection) -> list[bytes]:
    """The messages of a turn, to its end."""
    said: list[bytes] = []
    while not said or json.loads(said[-1])["type"] not in ("response.completed", "error"):
        said.append(str(client.recv(TIMEOUT)).encode())
    return said


def ask(client: ClientConnection, **members: Any) -> list[bytes]:
    """Ask for a turn and return its messages."""
    say(client, **members)
    return hear(client)


def records(running: RunningService) -> list[tuple[str, str, str]]:
    """User, transport and status of the turns in the ledger."""
    columns = (db.turn.c.user, db.turn.c.transport, db.turn.c.status)
    with Database(f"sqlite:///{running.state_path / 'ocm.db'}").read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(db.turn.c.started_at))]


@BOTH
def test_turns_pass_unchanged(service: ServiceFactory, compression: str | None) -> None:
    """A prewarm and the turns that go on from it arrive as they were said; each real turn is recorded once."""
    running = service(workers=1)
    with through(running, compression=compression) as client:
        said = ask(client, generate=False)
        for size in (10, 300_000, 1000):
            previous = json.loads(said[-1])["response"]["id"]
            said += ask(client, previous_response_id=previous, input=[{"text": "x" * size}])
            assert len(records(running)) == len(running.simulator.turns)
    assert running.simulator.sent[0].body_sha256 == hashlib.sha256(b"".join(said)).hexdigest()
    assert records(running) == [("alice", "websocket", "completed")] * 3
    (handshake,) = running.simulator.requests
    assert ALICE not in (handshake.field("authorization") or "")
