"""The opening handshake of a WebSocket: relayed and refused requests, and upstream's response."""

from __future__ import annotations

import pytest
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from ocm_wsgi.errors import BadRequest, OcmError, UpgradeUnavailable, UpstreamError
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.handshake import HandshakeResponse, require_opening_handshake, upgrade_request_fields

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [
    ("Host", "proxy"),
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
]


def accepting(*more: tuple[str, str]) -> HandshakeResponse:
    """Return a response of upstream that accepts the handshake."""
    return HandshakeResponse(101, "Switching Protocols", [("Upgrade", "WebSocket"), ("Connection", "Upgrade"), *more])


def replaced(name: str, value: str | None) -> Fields:
    """Return the handshake with one field changed, added or, for ``None``, removed."""
    fields = [field for field in HANDSHAKE if field[0] != name]
    return fields if value is None else [*fields, (name, value)]


def test_require_opening_handshake_accepts_a_valid_one() -> None:
    """The handshake of Codex is accepted, and so is one with other spelling."""
    require_opening_handshake("GET", "HTTP/1.1", "responses", HANDSHAKE)
    for name, value in (("Upgrade", "h2c, WebSocket"), ("Connection", "UPGRADE"), ("Content-Length", "0")):
        require_opening_handshake("GET", "HTTP/1.1", "responses", replaced(name, value))


@pytest.mark.parametrize(
    ("method", "version", "endpoint"),
    [("POST", "HTTP/1.1", "responses"), ("GET", "HTTP/1.0", "responses"), ("GET", "HTTP/1.1", "realtime")],
)
def test_require_opening_handshake_refuses_other_requests(method: str, version: str, endpoint: str) -> None:
    """Only GET over HTTP/1.1 at the one endpoint can become a WebSocket; for others Codex falls back to HTTP."""
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
    """Every part that RFC 6455 section 4.2.1 demands is required."""
    with pytest.raises(error) as raised:
        require_opening_handshake("GET", "HTTP/1.1", "responses", replaced(name, value))
    fields = {"Sec-WebSocket-Version": "13"} if name == "Sec-WebSocket-Version" else {}
    assert raised.value.response_fields == fields


def test_upgrade_request_fields_replace_the_account_and_keep_the_handshake() -> None:
    """The owner's account goes upstream, not the client's; the handshake's fields are the client's."""
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
    """Other protocols offered by a client do not reach upstream."""
    fields = upgrade_request_fields(replaced("Upgrade", "h2c, websocket"), host="h", account=[], overrides={})
    assert [value for name, value in fields if name == "upgrade"] == ["websocket"]


@pytest.mark.parametrize(
    ("offered", "sent"),
    [
        (
            "realtime, openai-insecure-api-key.sk-ocm-alice, openai-beta.realtime-v1",
            "realtime, openai-beta.realtime-v1",
        ),
        ("realtime,OpenAI-Organization.org-x ,openai-project.proj-x", "realtime"),
        ("openai-organization.org-x", None),
        ("a,b", "a,b"),
    ],
)
def test_upgrade_request_fields_drop_subprotocols_that_name_an_account(offered: str, sent: str | None) -> None:
    """The key, the organization and the project are the owner's to choose, in a subprotocol as in a field."""
    client = replaced("Sec-WebSocket-Protocol", offered)
    fields = upgrade_request_fields(client, host="h", account=[], overrides={})
    assert [value for name, value in fields if name == "sec-websocket-protocol"] == ([] if sent is None else [sent])


def test_handshake_through_the_proxy() -> None:
    """A client and a server connected through the proxy agree, including the compression."""
    client = ClientProtocol(parse_uri("ws://proxy/v1/responses"), extensions=[ClientPerMessageDeflateFactory()])
    requested = [*client.connect().headers.raw_items(), ("Authorization", "Bearer sk-ocm-alice")]
    require_opening_handshake("GET", "HTTP/1.1", "responses", requested)
    fields = upgrade_request_fields(
        requested, host="upstream", account=[("authorization", "Bearer owner")], overrides={}
    )
    extension = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_max_window_bits=11)
    server = ServerProtocol(extensions=[extension])
    lines = ["GET /backend-api/codex/responses?x=1 HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    server.receive_data("\r\n".join([*lines, "", ""]).encode())
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert (request.path, request.headers["authorization"]) == ("/backend-api/codex/responses?x=1", "Bearer owner")
    response = server.accept(request)
    response.headers["x-request-id"] = "req_1"
    answer = HandshakeResponse(response.status_code, response.reason_phrase, list(response.headers.raw_items()))
    answer.require_websocket()
    assert answer.deflate() == DeflateParameters(server_no_context_takeover=True, client_max_window_bits=11)
    client.receive_data(answer.head())
    assert client.handshake_exc is None
    client.receive_data(b"")
    (passed,) = client.events_received()
    assert isinstance(passed, Response)
    assert isinstance(passed.headers, Headers)
    assert passed.headers["x-request-id"] == "req_1"


def test_response_forwards_all_fields_but_the_forbidden_ones() -> None:
    """Upstream's fields reach Codex, except cookies and instructions to nginx."""
    answer = accepting(
        ("openai-model", "gpt-5.5"),
        ("x-codex-primary-used-percent", "5"),
        ("Set-Cookie", "a=b"),
        ("X-Accel-Redirect", "/x"),
        ("Sec-WebSocket-Accept", "x"),
    )
    assert answer.head().split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"openai-model: gpt-5.5",
        b"x-codex-primary-used-percent: 5",
        b"Sec-WebSocket-Accept: x",
        b"x-codex-websocket-max-message-bytes: 67108864",
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    ("values", "announced"),
    [
        ((), 64 << 20),
        (("1000",), 1000),
        ((" 1000 ", "900"), 900),
        (("99999999999",), 64 << 20),
        (("-1", "1e3", "", "\u0661"), 64 << 20),
        (("9" * 5000,), 64 << 20),
    ],
)
def test_response_announces_the_smaller_limit(values: tuple[str, ...], announced: int) -> None:
    """The client learns the longest message that both upstream and the service accept."""
    answer = accepting(*(("X-Codex-WebSocket-Max-Message-Bytes", value) for value in values))
    lines = [line for line in answer.head().split(b"\r\n") if b"max-message-bytes" in line.lower()]
    assert lines == [b"x-codex-websocket-max-message-bytes: %d" % announced]


def test_deflate_refuses_extensions_that_cannot_be_read() -> None:
    """A socket whose frames could not be read, and turns not be accounted, is not opened."""
    with pytest.raises(UpstreamError):
        accepting(("Sec-WebSocket-Extensions", "x-other")).deflate()


@pytest.mark.parametrize("value", ["h2c", "websocket2", ""])
def test_require_websocket_refuses_other_protocols(value: str) -> None:
    """Upstream must switch to the protocol that the client requested."""
    with pytest.raises(UpstreamError):
        HandshakeResponse(101, "Switching Protocols", [("Upgrade", value)]).require_websocket()
    accepting().require_websocket()


@pytest.mark.parametrize("field", [("a", "b\r\nc: d"), ("a\nb", "c"), ("a", "b\0")])
def test_head_is_safe_from_injection(field: tuple[str, str]) -> None:
    """No field can inject another one: it is unfolded or dropped."""
    added = set(accepting(field).head().split(b"\r\n")) - set(accepting().head().split(b"\r\n"))
    assert added <= {b"a: b c: d"}
