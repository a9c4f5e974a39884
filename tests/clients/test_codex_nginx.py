"""The real Codex client with the whole stack: TLS with a chain, nginx, the service, the simulator."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Plan
from tests.clients.appserver import run_app_server
from tests.clients.codex import prepare_home, run_codex
from tests.conftest import ALICE
from tests.faults.stack import Stack, eventually, workers_of

TEXT = "Hello from far away, over TLS."


def say_hi(stack: Stack, home: Path, *, websockets: bool) -> subprocess.CompletedProcess[str]:
    """Run Codex once through nginx, as alice, with its default retries."""
    options: dict[str, Any] = {"home": home, "websockets": websockets, "authority": stack.nginx.authority}
    return run_codex(f"{stack.nginx.url}/v1", ALICE, "say hi", retries=True, **options)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the home directory for Codex."""
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
    """A prewarm and the turn that continues it share one WebSocket, and no HTTP request is made."""
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


def test_upgrade_refused_with_426(start_stack: Callable[..., Stack], home: Path) -> None:
    """If the server does not support WebSockets, Codex silently falls back to SSE."""
    stack = start_stack(arguments=("-k", "gthread"))
    stack.simulator.plan(Plan(text=TEXT))
    result = say_hi(stack, home, websockets=True)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    assert [seen.method for seen in stack.simulator.requests] == ["POST"]
    assert len(stack.running.log_lines("GET /v1/responses 426")) == 1
    assert "Falling back" not in result.stderr


def test_upgrade_refused_with_429(start_stack: Callable[..., Stack], home: Path) -> None:
    """The user sees Codex's own message about the subscription's limit in the handshake; nothing is retried."""
    stack = start_stack()
    resets_at = int(datetime(2030, 3, 17, 17, 46, tzinfo=timezone.utc).timestamp())
    error = {"type": "usage_limit_reached", "message": "not shown", "plan_type": "pro", "resets_at": resets_at}
    stack.simulator.plan(Plan(upgrade=True, status=429, json={"error": error}), times=9)
    result = say_hi(stack, home, websockets=True)
    assert result.returncode == 1
    assert "hit your usage limit" in result.stderr
    assert "Mar 17th, 2030 5:46 PM" in result.stderr
    assert len(stack.simulator.requests) <= 2  # for the prewarm and for the turn


def test_limit_reached(start_stack: Callable[..., Stack], home: Path) -> None:
    """The user sees the service's message about their own limit on the WebSocket; nothing is retried."""
    limits = [{"per": "month", "requests": 1}]
    stack = start_stack(user_entries=[{"name": "alice", "token": ALICE, "limits": limits}])
    assert stack.turn(ALICE).has_ended
    stack.simulator.clear()
    result = say_hi(stack, home, websockets=True)
    assert result.returncode == 1
    assert "hit your usage limit" in result.stderr
    assert "request per month; ask the owner" in result.stderr
    assert (stack.simulator.creates, stack.simulator.turns) == ([], [])
    assert len(stack.simulator.requests) <= 2


def test_reload_between_turns(start_stack: Callable[..., Stack], home: Path) -> None:
    """The user of a running Codex does not notice a reload between two turns over WebSocket."""
    stack = start_stack()
    simulator = stack.simulator
    options: dict[str, Any] = {"websockets": True, "authority": stack.nginx.authority, "retries": False}
    environ = prepare_home(home, f"{stack.nginx.url}/v1", ALICE, **options)
    with run_app_server(home, environ) as codex:
        simulator.plan(Plan(text=TEXT), times=3)
        assert codex.turn("one") == codex.turn("two") == ("completed", TEXT)
        before = workers_of(stack.running)
        os.kill(stack.running.pid, signal.SIGHUP)
        assert eventually(lambda: len(now := workers_of(stack.running)) == 2 and not set(before) & set(now))
        assert codex.turn("three") == ("completed", TEXT)
    assert [(turn.transport, turn.status) for turn in simulator.turns] == [("websocket", "completed")] * 3
    # The prewarm and two turns on one socket, the last on another.
    first, second = simulator.requests
    assert [create.number for create in simulator.creates] == [first.number] * 3 + [second.number]
