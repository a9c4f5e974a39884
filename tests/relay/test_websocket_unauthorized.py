"""A 401 within an open WebSocket, with the real service, a real client and the simulator's tokens."""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import ConnectionClosed

from ocm_wsgi.simulator import Plan, shapes
from tests.conftest import ServiceFactory
from tests.relay.test_tunnel import TIMEOUT, open_websocket, recorded_turns, run_turn


@pytest.mark.parametrize(
    ("answer", "code", "refreshes"),
    [
        pytest.param(shapes.TOKEN_EXPIRED, "websocket_connection_limit_reached", 1, id="token"),
        pytest.param(shapes.NOT_PERMITTED, "upstream_unauthorized", 0, id="request"),
        pytest.param(shapes.UNAUTHORIZED, "upstream_unauthorized", 0, id="no-code"),
    ],
)
@pytest.mark.parametrize("compression", ["deflate", None])
def test_unauthorized(
    service: ServiceFactory, answer: Plan, code: str, refreshes: int, compression: str | None
) -> None:
    """The client gets no 401, and the socket is closed; if the token is to blame, the next one has another token."""
    running = service(workers=1)
    with open_websocket(running, compression=compression) as client:
        assert json.loads(run_turn(client)[-1])["type"] == "response.completed"
        running.simulator.plan(answer)
        error = json.loads(run_turn(client)[-1])
        assert (error["status"], error["error"]["code"]) == (400, code)
        with pytest.raises(ConnectionClosed):
            client.recv(TIMEOUT)
    assert running.simulator.wait_for(lambda: len(running.simulator.refreshes) == refreshes)
    with open_websocket(running, compression=compression) as client:
        assert json.loads(run_turn(client)[-1])["type"] == "response.completed"
    assert [refresh.outcome for refresh in running.simulator.refreshes] == ["rotated"] * refreshes
    statuses = [status for _, _, status in recorded_turns(running)]
    assert statuses == ["completed", "error", "completed"]
