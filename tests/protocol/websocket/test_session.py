"""WebSocket sessions: turns open and end in order, limits are reported, refusals come between messages."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from ocm_wsgi.errors import (
    AuthenticationFailed,
    ModelNotAllowed,
    OcmError,
    StateError,
    TooManyConcurrent,
    UsageLimitReached,
)
from ocm_wsgi.protocol.responses.rate_limits import RateLimitWindow
from ocm_wsgi.protocol.responses.turn import Outcome, Usage
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.frames import server_close
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.refusals import refusal_message
from ocm_wsgi.protocol.websocket.session import LimitsReceived, TurnEnded, WebSocketSession
from tests.websocket_peers import DEFLATES, SPLITS, Peer, Split

REFUSAL = ModelNotAllowed("You may not use this model here.")


def event_text(type_: str, **members: object) -> bytes:
    """Return a message's text."""
    return json.dumps({"type": type_, **members}, separators=(",", ":")).encode()


CREATE = event_text("response.create", model="gpt-5.5")
DELTA = event_text("response.output_text.delta", delta="text")
COMPLETED = event_text(
    "response.completed",
    response={"id": "resp_1", "model": "gpt-5.5", "usage": {"input_tokens": 5, "output_tokens": 7}},
)
DONE = Outcome("completed", usage=Usage(5, 0, 7), model="gpt-5.5")

# A server message, and how it ends an open turn; None if it does not.
ENDS = [
    pytest.param(COMPLETED, TurnEnded("turn", DONE), id="completed"),
    pytest.param(
        event_text("response.incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}}),
        TurnEnded("turn", Outcome("incomplete", error_code="max_output_tokens")),
        id="incomplete",
    ),
    pytest.param(
        event_text("response.failed", response={"error": {"code": "server_is_overloaded"}}),
        TurnEnded("turn", Outcome("failed", error_code="server_is_overloaded")),
        id="failed",
    ),
    pytest.param(
        event_text("error", status=429, error={"code": "usage_limit_reached"}),
        TurnEnded("turn", Outcome("error", error_code="usage_limit_reached"), 429),
        id="error-with-a-status",
    ),
    pytest.param(
        event_text("error", status_code=500, error={"type": "server_error"}),
        TurnEnded("turn", Outcome("error", error_code="server_error"), 500),
        id="error-with-a-status-by-its-other-name",
    ),
    pytest.param(
        event_text("error", error={"code": "previous_response_not_found"}),
        TurnEnded("turn", Outcome("error", error_code="previous_response_not_found"), 400),
        id="error-with-a-code-that-is-known",
    ),
    pytest.param(event_text("error", error={"code": "odd"}), None, id="error-without-a-status"),
    pytest.param(event_text("error", status="429"), None, id="error-with-no-good-status"),
    pytest.param(DELTA, None, id="delta"),
    pytest.param(event_text("response.output_text.done", text="response.completed"), None, id="mentions-an-end"),
    pytest.param(b'{"response":{"type":"response.completed"},"x":1}', None, id="end-within-another"),
    pytest.param(b"no JSON", None, id="no-json"),
]


def adopted(model: str | None) -> str:
    """Return the turn of a response that no message has asked for."""
    return f"adopted {model}"


def opened(deflate: DeflateParameters | None = None, turns: tuple[str, ...] = ("turn",)) -> WebSocketSession[str]:
    """Return a session with some open turns."""
    session: WebSocketSession[str] = WebSocketSession(deflate, adopted)
    peer = Peer(deflate, is_client=True)
    for turn in turns:
        (held,) = session.from_client(peer.text(CREATE))
        assert isinstance(held, HeldMessage)
        held.read()
        session.forward(turn)
    return session


@pytest.mark.parametrize(("text", "end"), ENDS)
def test_from_server_ends_the_open_turn(text: bytes, end: TurnEnded[str] | None) -> None:
    """The end of a turn comes between what may be sent before and what must wait for the record."""
    session = opened()
    before, message, behind = Peer().text(DELTA), Peer().text(text), Peer().text(DELTA)
    items = session.from_server(before + message + behind)
    assert items == ([before + message + behind] if end is None else [before, end, message + behind])
    assert session.has_open_turn is (end is None)


def test_from_server_ends_turns_in_the_order_they_opened() -> None:
    """Two turns that end in one read have two ends, each before its own message."""
    session = opened(turns=("first", "second"))
    failed = event_text("response.failed", response={})
    assert session.from_server(Peer().text(COMPLETED) + Peer().text(failed)) == [
        TurnEnded("first", DONE),
        Peer().text(COMPLETED),
        TurnEnded("second", Outcome("failed")),
        Peer().text(failed),
    ]
    assert session.end() == []


@given(DEFLATES, SPLITS)
def test_from_server_changes_no_octet(deflate: DeflateParameters | None, split: Split) -> None:
    """In any split all octets pass in order, and the end comes before the read that completes its message."""
    peer = Peer(deflate)
    stream = b"".join(peer.text(text) for text in (DELTA, DELTA * 50, COMPLETED))
    end, stream = len(stream), stream + peer.text(DELTA)
    session = opened(deflate)
    passed, ends = b"", 0
    for data in split.of(stream):
        for item in session.from_server(data):
            if isinstance(item, bytes):
                passed += item
            else:
                assert item == TurnEnded("turn", DONE)
                assert len(passed) < end
                ends += 1
        assert ends == (len(passed) >= end)
    assert passed == stream


def test_from_server_reports_limits() -> None:
    """A message about limits and the fields of an error both report the windows' use."""
    session = opened()
    window = {"used_percent": 42, "window_minutes": 300, "reset_at": 1000}
    limits = Peer().text(event_text("codex.rate_limits", plan_type="pro", rate_limits={"primary": window}))
    report, octets = session.from_server(limits)
    assert isinstance(report, LimitsReceived)
    assert report.limits.own is not None
    assert report.limits.own.primary is not None
    assert (report.limits.own.primary.used_percent, report.limits.plan_type) == (42.0, "pro")
    assert octets == limits
    fields = {"x-codex-primary-used-percent": "99.5", "x-codex-primary-window-minutes": 300, "x": None}
    report, ended, _ = session.from_server(Peer().text(event_text("error", status=429, headers=fields)))
    assert isinstance(report, LimitsReceived)
    assert report.limits.own is not None
    assert report.limits.own.primary == RateLimitWindow(99.5, 300)
    assert isinstance(ended, TurnEnded)


def test_from_server_reports_unexpected_usage() -> None:
    """Usage is recorded even if no known message asked for it; anything else is not a turn."""
    session: WebSocketSession[str] = WebSocketSession(None, adopted)
    assert session.from_server(Peer().text(COMPLETED))[0] == TurnEnded("adopted gpt-5.5", DONE)
    for text in (event_text("response.completed", response={}), event_text("error", status=400)):
        assert session.from_server(Peer().text(text)) == [Peer().text(text)]


def test_from_server_with_an_oversized_terminal_message() -> None:
    """The type and the usage of an oversized terminal message are known."""
    session = opened(DeflateParameters())
    text = COMPLETED.replace(b'"id"', b'"x":"' + b"x" * (65 << 20) + b'","id"')
    ended = session.from_server(Peer(DeflateParameters()).text(text))[0]
    assert ended == TurnEnded("turn", Outcome("completed", usage=Usage(5, 0, 7)))


def test_end_cuts_open_turns() -> None:
    """The end of the connection ends all turns; one with an error has it as its outcome."""
    session = opened(turns=("first", "second"))
    session.from_server(Peer().text(event_text("error", error={"code": "odd"})) + server_close(1011))
    assert session.close_code == 1011
    assert session.end() == [
        TurnEnded("first", Outcome("error", error_code="odd")),
        TurnEnded("second", Outcome("cut")),
    ]
    assert session.end() == []


def test_forward_opens_no_turn_for_other_messages() -> None:
    """A message that asks for no turn is forwarded and opens none."""
    session: WebSocketSession[str] = WebSocketSession(None, adopted)
    data = Peer(is_client=True).text(event_text("response.interrupt", response_id="resp_1"))
    (held,) = session.from_client(data)
    assert isinstance(held, HeldMessage)
    assert held.read().purpose == "control"
    assert session.forward(None) == [data]
    assert not session.has_open_turn


def test_unreadable_upstream_is_still_relayed() -> None:
    """If upstream can no longer be parsed its octets are still relayed, and the turn counts as cut."""
    session = opened()
    noise = b"\xff" * 10 + Peer().text(COMPLETED)
    assert session.from_server(noise) == [noise]
    assert session.observation_error
    assert session.data_to_send() == b""
    assert session.end() == [TurnEnded("turn", Outcome("cut"))]


ERRORS = [
    pytest.param(
        UsageLimitReached("Used up.", advice="ask", resets_at=2000, resets_in_seconds=50),
        429,
        {
            "type": "usage_limit_reached",
            "code": "usage_limit_reached",
            "message": "Used up.",
            "plan_type": "business",
            "resets_at": 2000,
            "resets_in_seconds": 50,
        },
        {"x-codex-promo-message": "ask", "x-should-retry": "false"},
        id="limit",
    ),
    pytest.param(
        TooManyConcurrent("Too many.", retry_after_seconds=5),
        429,
        {"type": "rate_limit_exceeded", "code": "too_many_concurrent", "message": "Too many."},
        {"retry-after": "5"},
        id="concurrent",
    ),
    pytest.param(
        AuthenticationFailed("Unknown."),
        401,
        {"type": "authentication_error", "code": "invalid_bearer_token", "message": "Unknown."},
        {},
        id="revoked",
    ),
    pytest.param(
        StateError("Not now.", detail="secret"),
        503,
        {"type": "api_error", "code": "state_unavailable", "message": "Not now."},
        {},
        id="state",
    ),
]


def received(data: bytes, deflate: DeflateParameters | None = None) -> ClientProtocol:
    """Return a client that has received these octets."""
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
    client.extensions = [] if deflate is None else [PerMessageDeflate(False, False, 15, 15)]
    client.receive_data(data)
    return client


@pytest.mark.parametrize("deflate", [None, DeflateParameters()])
@pytest.mark.parametrize(("error", "status", "content", "fields"), ERRORS)
def test_refusal_message_is_an_error_of_openai(
    deflate: DeflateParameters | None,
    error: OcmError,
    status: int,
    content: dict[str, object],
    fields: dict[str, str],
) -> None:
    """The client receives status, error and fields as over HTTP, compressed or not, without the detail."""
    (frame,) = received(refusal_message(error), deflate).events_received()
    assert isinstance(frame, Frame)
    assert json.loads(bytes(frame.data)) == {"type": "error", "status": status, "error": content, "headers": fields}


@pytest.mark.parametrize("deflate", [None, DeflateParameters(client_no_context_takeover=True)])
def test_refuse_drops_one_message(deflate: DeflateParameters | None) -> None:
    """A refused message is dropped, the client receives the error, and the next message is handled normally."""
    session: WebSocketSession[str] = WebSocketSession(deflate, adopted)
    peer = Peer(deflate, is_client=True)
    first, second, ping = peer.text(CREATE), peer.text(CREATE), peer.frame(Opcode.PING, b"")
    session.from_client(first + ping + second)
    passing = session.refuse(REFUSAL)
    assert passing[0] == ping
    assert isinstance(passing[1], HeldMessage)
    assert session.data_to_send() == refusal_message(REFUSAL)
    assert session.data_to_send() == b""
    assert session.forward("turn") == [second]
    assert not session.should_close


def test_refuse_closes_a_session_with_context_takeover() -> None:
    """If later messages depend on the refused one's compression, the error is followed by a Close frame."""
    deflate = DeflateParameters()
    session: WebSocketSession[str] = WebSocketSession(deflate, adopted)
    peer = Peer(deflate, is_client=True)
    session.from_client(peer.text(CREATE) + peer.text(CREATE))
    assert session.refuse(REFUSAL) == []
    client = received(session.data_to_send(), deflate)
    assert len(client.events_received()) == 2
    assert client.close_rcvd == Close(1008, "refused")
    assert session.should_close


def test_refuse_does_not_cut_a_turn() -> None:
    """A turn in progress is completed before a session is closed after a refusal."""
    deflate = DeflateParameters()
    session = opened(deflate)
    session.from_client(Peer(deflate, is_client=True).text(CREATE))
    session.refuse(REFUSAL)
    assert session.data_to_send() == refusal_message(REFUSAL)
    assert not session.should_close
    session.from_server(Peer(deflate).text(COMPLETED))
    assert session.data_to_send() == server_close(1008, "refused")
    assert session.should_close


def test_data_to_send_waits_for_the_end_of_a_message() -> None:
    """None of our frames is inserted into a frame or between the fragments of a message."""
    session: WebSocketSession[str] = WebSocketSession(None, adopted)
    first, second = Peer().fragments([DELTA[:10], DELTA[10:]])
    session.from_server(first + second[:1])
    session.from_client(Peer(is_client=True).text(CREATE))
    session.refuse(REFUSAL)
    assert session.data_to_send() == b""
    session.from_server(second[1:-1])
    assert session.data_to_send() == b""
    session.from_server(second[-1:])
    assert session.data_to_send() == refusal_message(REFUSAL)


def test_data_to_send_is_empty_after_a_close_frame() -> None:
    """After upstream's Close frame nothing is sent."""
    session: WebSocketSession[str] = WebSocketSession(None, adopted)
    session.from_server(server_close(1000))
    session.from_client(Peer(is_client=True).text(CREATE))
    session.refuse(REFUSAL)
    assert session.data_to_send() == b""


def test_close_when_idle_waits_for_the_open_turn() -> None:
    """At a reload a session is closed between two turns."""
    session = opened()
    session.close_when_idle()
    assert session.data_to_send() == b""
    session.from_server(Peer().text(COMPLETED))
    assert session.data_to_send() == server_close(1001)
    assert session.should_close


def start_a_message(session: WebSocketSession[str]) -> None:
    session.from_server(Peer().text(DELTA)[:5])


def do_nothing(session: WebSocketSession[str]) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "frames"), [(do_nothing, server_close(1002, "the opcode is reserved")), (start_a_message, b"")]
)
def test_violation_closes_the_session_immediately(
    prepare: Callable[[WebSocketSession[str]], None], frames: bytes
) -> None:
    """A violation closes the session, with a Close frame if one can be inserted, and its turn is cut."""
    session = opened()
    prepare(session)
    assert session.from_client(b"\x83\x80") == []
    assert session.violation is not None
    assert session.data_to_send() == frames
    assert session.should_close
    assert session.end() == [TurnEnded("turn", Outcome("cut"))]
