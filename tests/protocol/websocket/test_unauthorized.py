"""An error with status 401 within a WebSocket never reaches the client, and ends the session."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from ocm_wsgi.errors import OcmError, RequestUnauthorized
from ocm_wsgi.protocol.responses.turn import Outcome
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.frames import GOING_AWAY, server_close
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.refusals import refusal_message
from ocm_wsgi.protocol.websocket.session import LimitsReceived, TurnEnded, WebSocketSession
from tests.websocket_peers import DEFLATES, SPLITS, Peer, Split

CREATE = b'{"type":"response.create","model":"m","input":[]}'
DELTA = b'{"type":"response.output_text.delta","delta":"x"}'
ERROR = RequestUnauthorized("No.")
REJECTED = {"type": "error", "status": 401, "error": {"code": "token_expired", "message": "SECRET"}}


def opened(codes: list[str | None], deflate: DeflateParameters | None = None) -> WebSocketSession[str]:
    """Return a session with an open turn, that notes the codes of errors with status 401."""

    def unauthorized(code: str | None) -> OcmError:
        codes.append(code)
        return ERROR

    session: WebSocketSession[str] = WebSocketSession(deflate, lambda _: "adopted", unauthorized=unauthorized)
    (held,) = session.from_client(Peer(deflate, is_client=True).text(CREATE))
    assert isinstance(held, HeldMessage)
    held.read()
    session.forward("turn")
    return session


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, "token_expired"),
        ({"error": {"message": "No."}}, None),
        ({"status": None, "status_code": 401}, "token_expired"),
        ({"error": None, "detail": {"code": "x"}}, "x"),
    ],
)
def test_error_is_replaced(change: dict[str, object], code: str | None) -> None:
    """What came before passes, the turn ends with 401, the client gets our error, and the session is closed."""
    codes: list[str | None] = []
    session, peer = opened(codes), Peer()
    before, message, behind = peer.text(DELTA), peer.text(json.dumps(REJECTED | change).encode()), peer.text(DELTA)
    items = session.from_server(before + message + behind)
    assert [item for item in items if item] == [
        before,
        TurnEnded("turn", Outcome("error", error_code=code), 401),
        refusal_message(ERROR),
    ]
    assert codes == [code]
    assert session.data_to_send() == server_close(GOING_AWAY, "")
    assert session.should_close
    assert session.from_server(peer.text(DELTA)) == []


def test_error_without_a_turn() -> None:
    """It is replaced between two turns too; the fields in it are read, and the lane is named."""
    codes: list[str | None] = []
    session = opened(codes)
    done = b'{"type":"response.completed","response":{"id":"r","usage":null}}'
    session.from_server(Peer().text(done))
    fields = {"x-codex-primary-used-percent": "5"}
    error = REJECTED | {"headers": fields, "stream_id": "lane"}
    limits, *items = session.from_server(Peer().text(json.dumps(error).encode()))
    assert isinstance(limits, LimitsReceived)
    assert [item for item in items if item] == [refusal_message(ERROR, "lane")]


@pytest.mark.parametrize("status", [400, 403, 429, 500])
def test_other_errors_pass(status: int) -> None:
    """Any other status is forwarded unchanged."""
    codes: list[str | None] = []
    session = opened(codes)
    message = Peer().text(json.dumps(REJECTED | {"status": status}).encode())
    ended, passing = session.from_server(message)
    assert isinstance(ended, TurnEnded)
    assert (passing, codes, session.should_close) == (message, [], False)


@given(deflate=DEFLATES, split=SPLITS)
def test_error_in_any_split(deflate: DeflateParameters | None, split: Split) -> None:
    """The client never gets a whole message of upstream's: in its place our error, or else no more of the stream."""
    codes: list[str | None] = []
    session, peer = opened(codes, deflate), Peer(deflate)
    before, message = peer.text(DELTA), peer.text(json.dumps(REJECTED).encode())
    passed, ends = b"", 0
    for data in split.of(before + message + peer.text(DELTA)):
        for item in session.from_server(data):
            if isinstance(item, bytes):
                passed += item
            else:
                ends += 1
        passed += session.data_to_send()
    assert (codes, ends, session.should_close) == (["token_expired"], 1, True)
    assert passed.startswith(before)
    rest = passed[len(before) :]
    if rest.startswith(refusal_message(ERROR)):
        assert rest in (refusal_message(ERROR), refusal_message(ERROR) + server_close(GOING_AWAY, ""))
    else:
        assert message.startswith(rest)
        assert rest != message
