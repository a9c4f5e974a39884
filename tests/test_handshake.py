"""The opening handshake of a WebSocket: what passes, what is refused, how upstream's answer is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from ocm_wsgi.deflate import DeflateParameters
from ocm_wsgi.errors import BadRequest, OcmError, UpgradeUnavailable, UpstreamError
from ocm_wsgi.fields import Fields
from ocm_wsgi.handshake import (
    Answer,
    AnswerParser,
    Framing,
    request_head,
    require_opening_handshake,
    upgrade_request_fields,
)
from tests.websocket_peers import SPLITS, Split

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [
    ("Host", "proxy"),
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
]
ACCEPTING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def replaced(name: str, value: str | None) -> Fields:
    """The handshake with one field changed, added or, for ``None``, missing."""
    fields = [field for field in HANDSHAKE if field[0] != name]
    return fields if value is None else [*fields, (name, value)]


def test_require_opening_handshake_takes_a_valid_one() -> None:
    """The handshake of Codex passes, and so does one in another spelling."""
    require_opening_handshake("GET", "HTTP/1.1", "responses", HANDSHAKE)
    for name, value in (("Upgrade", "h2c, WebSocket"), ("Connection", "UPGRADE"), ("Content-Length", "0")):
        require_opening_handshake("GET", "HTTP/1.1", "responses", replaced(name, value))


@pytest.mark.parametrize(
    ("method", "version", "endpoint"),
    [("POST", "HTTP/1.1", "responses"), ("GET", "HTTP/1.0", "responses"), ("GET", "HTTP/1.1", "realtime")],
)
def test_require_opening_handshake_refuses_other_requests(method: str, version: str, endpoint: str) -> None:
    """Only GET over HTTP/1.1 at the one endpoint can become a WebSocket; elsewhere Codex is sent to HTTP."""
    with pytest.raises(BadRequest if endpoint == "responses" else UpgradeUnavailable):
        require_opening_handshake(method, version, endpoint, HANDSHAKE)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("Upgrade", None, BadRequest),
        ("Upgrade", "h2c", BadRequest),
        ("Connection", None, BadRequest),
        ("Connection", "keep-alive", BadRequest),
        ("Content-Length", "5", BadRequest),
        ("Transfer-Encoding", "chunked", BadRequest),
        ("Sec-WebSocket-Key", None, BadRequest),
        ("Sec-WebSocket-Key", "short", BadRequest),
        ("Sec-WebSocket-Version", None, UpgradeUnavailable),
        ("Sec-WebSocket-Version", "8", UpgradeUnavailable),
    ],
)
def test_require_opening_handshake_refuses_broken_ones(name: str, value: str | None, error: type[OcmError]) -> None:
    """Each part that RFC 6455 section 4.2.1 asks for is required."""
    with pytest.raises(error) as raised:
        require_opening_handshake("GET", "HTTP/1.1", "responses", replaced(name, value))
    fields = {"Sec-WebSocket-Version": "13"} if name == "Sec-WebSocket-Version" else {}
    assert raised.value.response_fields == fields


def test_upgrade_request_fields_replace_the_account_and_keep_the_handshake() -> None:
    """The owner's account goes upstream and not the client's; the fields of the handshake are the client's."""
    client = [
        *HANDSHAKE,
        ("Authorization", "Bearer sk-ocm-alice"),
        ("chatgpt-account-id", "client"),
        ("Cookie", "a=b"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("OpenAI-Beta", "responses_websockets=2026-02-06"),
        ("session_id", "s"),
    ]
    account = [("authorization", "Bearer owner"), ("chatgpt-account-id", "owner")]
    assert upgrade_request_fields(client, host="upstream", account=account, overrides={"X-Set": ["1"]}) == [
        ("host", "upstream"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("openai-beta", "responses_websockets=2026-02-06"),
        ("session_id", "s"),
        *account,
        ("x-set", "1"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
    ]


def test_upgrade_request_fields_ask_for_a_websocket_only() -> None:
    """What else a client would like to switch to does not reach upstream."""
    fields = upgrade_request_fields(replaced("Upgrade", "h2c, websocket"), host="h", account=[], overrides={})
    assert [value for name, value in fields if name == "upgrade"] == ["websocket"]


@pytest.mark.parametrize("fields", [[("a", "b\r\nc: d")], [("a\nb", "c")], [("a", "b\0")]])
def test_request_head_refuses_what_would_split_it(fields: Fields) -> None:
    """No field can bring another one along."""
    with pytest.raises(BadRequest):
        request_head("/v1/responses", fields)


def test_handshake_is_made_through_the_proxy() -> None:
    """A client and a server that only see what goes through here agree, down to the compression."""
    client = ClientProtocol(parse_uri("ws://proxy/v1/responses"), extensions=[ClientPerMessageDeflateFactory()])
    asked = [*client.connect().headers.raw_items(), ("Authorization", "Bearer sk-ocm-alice")]
    require_opening_handshake("GET", "HTTP/1.1", "responses", asked)
    fields = upgrade_request_fields(asked, host="upstream", account=[("authorization", "Bearer owner")], overrides={})
    extension = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_max_window_bits=11)
    server = ServerProtocol(extensions=[extension])
    server.receive_data(request_head("/backend-api/codex/responses?x=1", fields))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert (request.path, request.headers["authorization"]) == ("/backend-api/codex/responses?x=1", "Bearer owner")
    response = server.accept(request)
    response.headers["x-request-id"] = "req_1"
    server.send_response(response)
    answer = AnswerParser().feed(b"".join(server.data_to_send()))
    assert answer is not None
    assert answer.is_accepting
    assert answer.deflate() == DeflateParameters(server_no_context_takeover=True, client_max_window_bits=11)
    client.receive_data(answer.head())
    assert client.handshake_exc is None
    client.receive_data(b"")
    (passed,) = client.events_received()
    assert isinstance(passed.headers, Headers)
    assert passed.headers["x-request-id"] == "req_1"


@given(SPLITS)
def test_feed_reads_an_answer_in_any_split(split: Split) -> None:
    """However the answer is cut up it is read, interim ones are dropped, and what follows its head is kept."""
    octets = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ACCEPTING + b"X-A: 1\r\nx-a: 2\r\n\r\n"
    frames = b"\x81\x02{}\r\n\r\n"
    parser = AnswerParser()
    answer, rest = None, b""
    for read in split.of(octets + frames):
        if answer is None:
            answer = parser.feed(read)
        else:
            rest += read
    assert answer is not None
    assert (answer.status, answer.reason) == (101, "Switching Protocols")
    assert answer.fields[2:] == [("X-A", "1"), ("x-a", "2")]
    assert answer.rest + rest == frames
    assert answer.deflate() is None


def test_answer_passes_all_fields_but_the_forbidden_ones() -> None:
    """Codex needs upstream's fields; nobody needs upstream's cookies or instructions to nginx."""
    more = b"openai-model: gpt-5.5\r\nx-codex-primary-used-percent: 5\r\nSet-Cookie: a=b\r\nX-Accel-Redirect: /x\r\n"
    answer = AnswerParser().feed(ACCEPTING + more + b"Sec-WebSocket-Accept: x\r\n\r\n")
    assert answer is not None
    assert answer.head().split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"openai-model: gpt-5.5",
        b"x-codex-primary-used-percent: 5",
        b"Sec-WebSocket-Accept: x",
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    ("status", "field", "framing"),
    [
        ("429 Too Many Requests", "Content-Length: 17", 17),
        ("429 Too Many Requests", "Content-Length: 17\r\nContent-Length: 17", 17),
        ("403 Forbidden", "Transfer-Encoding: Chunked", "chunked"),
        ("403 Forbidden", "Transfer-Encoding: gzip, chunked\r\nContent-Length: 3", "chunked"),
        ("403 Forbidden", "Transfer-Encoding: gzip", "close"),
        ("500", "Connection: close", "close"),
        ("204 No Content", "X: y", 0),
        ("304 Not Modified", "Content-Length: 17", 0),
    ],
)
def test_answer_says_how_long_the_body_of_a_refusal_is(status: str, field: str, framing: Framing) -> None:
    """Length, chunks or the end of the connection: as RFC 9112 section 6.3 ranks them."""
    answer = AnswerParser().feed(f"HTTP/1.1 {status}\r\n{field}\r\n\r\nbody".encode())
    assert answer is not None
    assert not answer.is_accepting
    assert answer.framing == framing
    assert answer.rest == b"body"
    assert all(name not in ("Connection", "Transfer-Encoding") for name, _ in answer.forwardable_fields())


@pytest.mark.parametrize(
    "lengths", ["Content-Length: 1\r\nContent-Length: 2", "Content-Length: x", "Content-Length: -1"]
)
def test_answer_does_not_guess_a_length(lengths: str) -> None:
    """A length that two readers could read differently is none."""
    answer = AnswerParser().feed(f"HTTP/1.1 400 Bad\r\n{lengths}\r\n\r\n".encode())
    assert isinstance(answer, Answer)
    with pytest.raises(UpstreamError):
        _ = answer.framing


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"SSH-2.0-x\r\n\r\n", id="another-protocol"),
        pytest.param(b"HTTP/2 200\r\n\r\n", id="another-version"),
        pytest.param(b"HTTP/1.1 101 OK\r\nUpgrade: h2c\r\n\r\n", id="another-upgrade"),
        pytest.param(b"HTTP/1.1 101 OK\r\n\r\n", id="no-upgrade"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 40, id="no-end-of-interim-answers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, id="too-long"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", id="too-many-fields"),
    ],
)
def test_feed_refuses_what_is_no_answer(octets: bytes) -> None:
    """What does not answer an opening handshake is upstream's failure."""
    with pytest.raises(UpstreamError):
        AnswerParser().feed(octets)


def test_deflate_refuses_extensions_that_cannot_be_read() -> None:
    """Where frames could not be read turns could not be counted, so such a socket is not opened."""
    answer = AnswerParser().feed(ACCEPTING + b"Sec-WebSocket-Extensions: x-other\r\n\r\n")
    assert answer is not None
    with pytest.raises(UpstreamError):
        answer.deflate()
