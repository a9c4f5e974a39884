"""The real Codex client the whole way: TLS with a chain, nginx, the service, the simulator."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Plan
from tests.clients.codex import run_codex
from tests.conftest import ALICE
from tests.faults.stack import Stack

TEXT = "Hello from far away, over TLS."


def say_hi(stack: Stack, home: Path, *, websockets: bool) -> subprocess.CompletedProcess[str]:
    """Run Codex once through nginx, as alice."""
    options: dict[str, Any] = {"home": home, "websockets": websockets, "authority": stack.nginx.authority}
    return run_codex(f"{stack.nginx.url}/v1", ALICE, "say hi", **options)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return where Codex may keep its things."""
    return tmp_path / "codex-home"


def test_turn_over_sse(start_stack: Callable[..., Stack], home: Path) -> None:
    """A turn completes over SSE alone."""
    stack = start_stack()
    stack.simulator.plan(Plan(text=TEXT))
    result = say_hi(stack, home, websockets=False)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    assert [(seen.method, seen.target) for seen in stack.simulator.requests] == [
        ("POST", "/backend-api/codex/responses")
    ]
    assert [turn.transport for turn in stack.simulator.turns] == ["sse"]


def test_turn_over_websocket(start_stack: Callable[..., Stack], home: Path) -> None:
    """A prewarm and the turn that goes on from it share one WebSocket, and nothing is asked for over HTTP."""
    stack = start_stack()
    stack.simulator.plan(Plan(text=TEXT))
    result = say_hi(stack, home, websockets=True)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    (handshake,) = stack.simulator.requests
    assert (handshake.method, handshake.field("Upgrade")) == ("GET", "websocket")
    prewarm, turn = stack.simulator.creates
    assert (prewarm.generates, turn.generates) == (False, True)
    assert turn.previous_response_id is not None
    assert [turn.transport for turn in stack.simulator.turns] == ["websocket"]
