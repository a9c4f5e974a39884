"""The real Codex client with gunicorn and the simulator."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Plan
from tests.clients.codex import EARLIER_PROGRAM, MODEL, run_codex

BEARER_TOKEN = "sk-ocm-alice-with-codex"
TEXT = "Hello from far away."


@pytest.fixture
def codex_home(tmp_path: Path) -> Path:
    """Return the home directory for Codex."""
    return tmp_path / "codex-home"


def say_hi(service: Any, home: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Codex against a service, as alice."""
    return run_codex(f"{service.url}/v1", options.pop("bearer_token", BEARER_TOKEN), "say hi", home=home, **options)


@pytest.fixture
def running(service: Any) -> Any:
    """Run the service with one user."""
    return service(users={"alice": BEARER_TOKEN})


def test_exec_over_sse(running: Any, codex_home: Path) -> None:
    """A turn completes, with one upstream request that has the owner's credential and Codex's own fields."""
    running.simulator.plan(Plan(text=TEXT))
    result = say_hi(running, codex_home)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    [seen] = running.simulator.requests
    assert (seen.method, seen.target) == ("POST", "/backend-api/codex/responses")
    assert seen.field("Authorization") != f"Bearer {BEARER_TOKEN}"
    assert seen.field("ChatGPT-Account-Id") == "acct-owner"
    assert seen.field("originator") == "codex_exec"
    assert "codex_exec/" in (seen.field("User-Agent") or "")
    assert seen.field("session-id") == seen.field("thread-id") == seen.field("x-client-request-id")
    assert [turn.model for turn in running.simulator.turns] == [MODEL]


def test_exec_over_websocket(running: Any, codex_home: Path) -> None:
    """A turn completes over a WebSocket, without any HTTP request."""
    running.simulator.plan(Plan(text=TEXT))
    result = say_hi(running, codex_home, websockets=True)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    assert [turn.transport for turn in running.simulator.turns] == ["websocket"]
    assert [seen.method for seen in running.simulator.requests] == ["GET"]


def test_exec_of_an_earlier_release(running: Any, codex_home: Path) -> None:
    """A turn of the release before the pinned one completes over a WebSocket."""
    running.simulator.plan(Plan(text=TEXT))
    result = say_hi(running, codex_home, websockets=True, program=EARLIER_PROGRAM)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    assert [turn.transport for turn in running.simulator.turns] == ["websocket"]


def test_exec_with_a_message_beyond_the_limit(running: Any, codex_home: Path) -> None:
    """Codex obeys the announced limit of messages, and sends a longer one over HTTP."""
    running.simulator.plan(Plan(upgrade=True, fields=(("x-codex-websocket-max-message-bytes", "1000"),)))
    running.simulator.plan(Plan(text=TEXT))
    result = say_hi(running, codex_home, websockets=True)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    assert [seen.method for seen in running.simulator.requests] == ["GET", "POST"]
    assert running.simulator.creates == []


def test_exec_with_websockets_refused(service: Any, codex_home: Path) -> None:
    """If WebSockets are not supported, Codex immediately falls back to HTTP, without using up a retry."""
    running = service(users={"alice": BEARER_TOKEN}, arguments=("-k", "gthread"))
    running.simulator.plan(Plan(text=TEXT))
    result = say_hi(running, codex_home, websockets=True)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    assert [seen.method for seen in running.simulator.requests] == ["POST"]
    assert running.log_lines("GET /v1/responses 426")


def test_exec_with_wrong_bearer_token(running: Any, codex_home: Path) -> None:
    """An unknown bearer token fails with a clear message, and nothing reaches upstream."""
    result = say_hi(running, codex_home, bearer_token="sk-ocm-nobody")
    assert result.returncode == 1
    assert "401 Unauthorized" in result.stderr
    assert "bearer token" in result.stderr
    assert running.simulator.requests == []


def test_exec_beyond_usage_limit(running: Any, codex_home: Path) -> None:
    """The user sees Codex's own message about the subscription's limit, with the time of its reset."""
    resets_at = int(datetime(2030, 3, 17, 17, 46, tzinfo=timezone.utc).timestamp())
    error = {"type": "usage_limit_reached", "message": "not shown", "plan_type": "pro", "resets_at": resets_at}
    running.simulator.plan(Plan(status=429, json={"error": error}))
    result = say_hi(running, codex_home)
    assert result.returncode == 1
    assert "hit your usage limit" in result.stderr
    assert "Mar 17th, 2030 5:46 PM" in result.stderr
    assert len(running.simulator.requests) == 1
