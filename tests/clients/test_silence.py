"""Silence through nginx: longer than the usual proxy timeout, shorter than a model may think.

The test waits in real time, once for all connections, while others run.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import closing

import pytest

from ocm_wsgi.simulator import Gate, Plan
from tests.clients.http2 import connect_http2
from tests.clients.sockets import connect_socket, receive_until, request_turn
from tests.conftest import ALICE
from tests.faults.stack import BODY, Stack

SILENCE_SECONDS = 150.0
TARGET = "/v1/responses"


@pytest.mark.slow
@pytest.mark.timeout(SILENCE_SECONDS + 60)
def test_silence(start_stack: Callable[..., Stack]) -> None:
    """Streams of both HTTP versions and WebSockets, within a turn and between two, survive 150 s of silence."""
    stack = start_stack()
    simulator = stack.simulator
    gate = Gate().after(1)
    with (
        closing(stack.connect()) as http1,
        connect_http2(stack.nginx) as http2,
        connect_socket(stack) as busy,
        connect_socket(stack) as idle,
    ):
        request_turn(idle)
        receive_until(idle)
        simulator.plan(Plan(gate=gate), times=3)
        request_turn(busy)
        receive_until(busy, "response.created")
        stream = http2.post(TARGET, BODY, ALICE)
        http2.read_event(stream)
        http1.request("POST", TARGET, BODY, {"Authorization": f"Bearer {ALICE}"})
        with http1.getresponse() as response:
            while response.readline() != b"\n":
                pass
            # Nothing arrives, and no connection is closed.
            assert select.select([http1.sock, http2], [], [], SILENCE_SECONDS) == ([], [], [])
            assert simulator.open_streams == 3
            gate.release()
            assert b"response.completed" in response.read()
        assert b"response.completed" in http2.read_rest(stream)
        assert receive_until(busy)
        request_turn(idle)
        assert receive_until(idle)
    assert [turn.status for turn in simulator.turns] == ["completed"] * 5
    # Both WebSockets stayed connected.
    assert len({create.number for create in simulator.creates}) == 2
