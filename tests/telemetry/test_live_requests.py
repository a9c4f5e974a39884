"""Requests and WebSocket turns in progress, of all worker processes."""

from __future__ import annotations

import os
from pathlib import Path

import requests

from ocm_wsgi.simulator import Plan
from ocm_wsgi.telemetry.live_requests import STALE_SECONDS, LiveRequests, TrackedTurn
from tests.conftest import BOB, ServiceFactory
from tests.relay.test_live import poll
from tests.relay.test_tunnel import open_websocket, receive_turn, run_turn, start_turn


def test_turns_in_progress(service: ServiceFactory) -> None:
    """Turns in progress are shown with user and model, over HTTP and WebSocket; idle WebSockets are not."""
    running = service(workers=2)
    live = LiveRequests(running.state_path / "live")
    gates = [running.simulator.gate().after(2) for _ in range(2)]
    with open_websocket(running) as idle, open_websocket(running) as busy:
        run_turn(idle)
        running.simulator.plan(Plan(gate=gates[0]))
        start_turn(busy)
        assert gates[0].reached.wait(30)
        running.simulator.plan(Plan(gate=gates[1]))
        request = {"model": "gpt-5.4", "stream": True, "input": []}
        headers = {"Authorization": f"Bearer {BOB}"}
        with requests.post(
            f"{running.url}/v1/responses", json=request, headers=headers, stream=True, timeout=10
        ) as sse:
            expected = [("alice", "/v1/responses", "gpt-5.5"), ("bob", "/v1/responses", "gpt-5.4")]
            poll(lambda: [(turn.user, turn.path, turn.model) for turn in live.all()] == expected)
            for gate in gates:
                gate.release()
            assert b"response.completed" in sse.content
        receive_turn(busy)
        poll(lambda: live.all() == [])


def test_requests_of_a_killed_process_expire(tmp_path: Path) -> None:
    """The file of a killed process is removed once it is stale."""
    live = LiveRequests(tmp_path)
    live.track(TrackedTurn("alice", "/v1/responses", "gpt-5.5", 0.0))
    poll(lambda: bool(live.all()))
    (path,) = tmp_path.glob("*.json")
    dead = tmp_path / "1.json"
    dead.write_text(path.read_text())
    assert len(live.all()) == 2
    old = path.stat().st_mtime - STALE_SECONDS
    os.utime(dead, (old, old))
    assert len(live.all()) == 1
    assert not dead.exists()


def test_files_of_another_release_are_skipped(tmp_path: Path) -> None:
    """During a reload workers of two releases share the folder; unreadable files are skipped."""
    live = LiveRequests(tmp_path)
    live.track(TrackedTurn("alice", "/v1/responses", "gpt-5.5", 0.0))
    (tmp_path / "1.json").write_text('[["bob", "/v1/responses", 1.0, "gpt-5.5", "more"]]')
    (tmp_path / "2.json").write_text('[["bob", "/v1/responses", 1.0]]')
    (tmp_path / "3.json").write_text("{")
    poll(lambda: sorted(request.user for request in live.all()) == ["alice", "bob"])
