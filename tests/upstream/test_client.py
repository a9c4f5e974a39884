"""Requests to OpenAI and their responses: exact in both directions, without delay, and nothing left open."""

from __future__ import annotations

import hashlib
import io
import ssl
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme

from ocm_wsgi.config.tls import Certificate
from ocm_wsgi.credentials import Credential, CredentialSource, Mode
from ocm_wsgi.errors import (
    CredentialUnavailable,
    OcmError,
    RequestUnauthorized,
    UpstreamCut,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from ocm_wsgi.gateway.request_body import Body
from ocm_wsgi.gateway.waiting import notify_waiting
from ocm_wsgi.protocol.http.targets import api_target
from ocm_wsgi.simulator import Plan, Simulator
from ocm_wsgi.tls.contexts import build_upstream_context
from ocm_wsgi.upstream.client import ClientRequest, Upstream, UpstreamResponse
from ocm_wsgi.upstream.exchange import Exchange
from tests.proxies import ForwardProxy, HttpProxy, Socks5

RESPONSES = b'{"model": "gpt-5.5", "stream": true, "input": "hi"}'


@dataclass
class FixedCredentials(CredentialSource):
    """Provides the given credentials in order."""

    credentials: list[Credential]
    replaced: list[Credential] = field(default_factory=list)
    error_codes: list[str | None] = field(default_factory=list)

    def current(self) -> Credential:
        """Return the first one."""
        return self.credentials[0]

    def replacement(self, rejected: Credential, error_code: str | None = None) -> Credential:
        """Return the next one, from now on."""
        self.replaced.append(rejected)
        self.error_codes.append(error_code)
        if len(self.credentials) > 1:
            self.credentials.pop(0)
        return self.credentials[0]


def chatgpt(simulator: Simulator, **options: Any) -> Credential:
    """Return a ChatGPT credential newly issued by the simulator."""
    tokens = simulator.credential(**options)["tokens"]
    return Credential(Mode.CHATGPT, tokens["access_token"], account_id=tokens["account_id"])


def upstream_for(simulator: Simulator, *credentials: Credential, **options: Any) -> Upstream:
    """Return an upstream with the given credentials, or with a new ChatGPT one."""
    fixed = options.pop("fixed", None) or FixedCredentials(list(credentials) or [chatgpt(simulator)])
    return Upstream(
        fixed,
        chatgpt_base_url=simulator.chatgpt_base_url,
        api_base_url=simulator.api_base_url,
        **{"overrides": {}, "tls": ssl.create_default_context(), "proxy_url": None, **options},
    )


def post(target: str = "/v1/responses", body: bytes = RESPONSES, **options: Any) -> ClientRequest:
    """Return a client's request."""
    fields = options.pop("fields", [("content-type", "application/json"), ("accept", "text/event-stream")])
    return ClientRequest("POST", api_target(target), fields, Body(io.BytesIO(body), len(body)), **options)


def get(target: str, method: str = "GET", fields: list[tuple[str, str]] | None = None) -> ClientRequest:
    """Return a client's request without a body."""
    return ClientRequest(method, api_target(target), fields or [], None)


def read_body(response: UpstreamResponse) -> bytes:
    """Return the body of the response, read to its end."""
    try:
        return b"".join(response.pieces())
    finally:
        response.close()


@pytest.fixture
def upstream(simulator: Simulator) -> Iterator[Upstream]:
    """An upstream with a new ChatGPT credential."""
    opened = upstream_for(simulator)
    yield opened
    opened.close()


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate", "zstd"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("chunking", ["event", "byte", "whole", 7])
def test_bytes_arrive_as_sent(
    simulator: Simulator, upstream: Upstream, framing: str, chunking: str | int, encoding: str | None
) -> None:
    """Every framing, chunking and content encoding is passed on byte for byte."""
    simulator.plan(Plan(framing=framing, chunking=chunking, encoding=encoding, events=20, event_bytes=100))
    response = upstream.open(post())
    body = read_body(response)
    assert hashlib.sha256(body).hexdigest() == simulator.sent[-1].body_sha256
    assert dict(response.fields).get("Content-Encoding") == encoding


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_an_event_is_passed_on_immediately(simulator: Simulator, upstream: Upstream, framing: str) -> None:
    """The first event arrives before the second is sent, with any framing."""
    gate = simulator.gate().after(1)
    simulator.plan(Plan(framing=framing, gate=gate, events=3))
    response = upstream.open(post())
    pieces = response.pieces()
    first = next(pieces)
    assert b"response.created" in first
    assert b"response.completed" not in first
    assert not gate.released
    gate.release()
    assert b"response.completed" in b"".join(pieces)
    response.close()


def test_waits_are_announced(simulator: Simulator, upstream: Upstream) -> None:
    """A server knows when a thread waits for the head, for the first events, and for the body."""
    gate = simulator.gate().after(1)
    simulator.plan(Plan(gate=gate, events=3))
    notified: list[bool] = []
    until_head: list[bool] = []

    def work() -> None:
        notify_waiting(notified.append)
        response = upstream.open(post())
        until_head.extend(notified)
        response.peek_stream(30, lambda beginning: b"response.created" in beginning)
        gate.release()
        read_body(response)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert until_head == [True, False]
    assert len(notified) >= 4
    assert notified == [True, False] * (len(notified) // 2)


def test_a_piece_of_a_chunk_does_not_wait_for_the_rest(simulator: Simulator, upstream: Upstream) -> None:
    """A large chunk is passed on as it arrives, not when it is complete."""
    gate = simulator.gate().after(1)
    simulator.plan(Plan(framing="length", body=bytes(300_000), event_bytes=100_000, gate=gate))
    response = upstream.open(post())
    pieces = response.pieces()
    assert len(next(pieces)) <= 65536
    gate.release()
    assert sum(map(len, pieces)) > 200_000
    response.close()


def test_a_large_body_is_not_read_ahead(simulator: Simulator, upstream: Upstream) -> None:
    """No more is read than requested: no piece is larger than a block."""
    simulator.plan(Plan(body=bytes(8 * 2**20), framing="chunked", chunking="whole"))
    response = upstream.open(post())
    sizes = [len(piece) for piece in response.pieces()]
    response.close()
    assert sum(sizes) == 8 * 2**20
    assert max(sizes) <= 65536


def test_the_request_is_sent_exactly(simulator: Simulator, upstream: Upstream) -> None:
    """The request has its target byte for byte, the client's fields in order, the owner's account, and nothing else."""
    fields = [
        ("session_id", "s-1"),
        ("CONVERSATION_ID", "c-1"),
        ("x-multi", "1"),
        ("x-multi", "2"),
        ("Authorization", "Bearer theirs"),
        ("ChatGPT-Account-Id", "theirs"),
        ("Cookie", "a=b"),
    ]
    read_body(upstream.open(post("/v1/responses?a=%2f&b=%2F..&C[]=1&d={}&", fields=fields)))
    (seen,) = simulator.requests
    assert seen.target == "/backend-api/codex/responses?a=%2f&b=%2F..&C[]=1&d={}&"
    assert [name for name, _ in seen.fields] == [
        "host",
        "session_id",
        "conversation_id",
        "x-multi",
        "x-multi",
        "authorization",
        "chatgpt-account-id",
        "content-length",
    ]
    assert seen.field("chatgpt-account-id") == "acct-owner"
    assert seen.values("x-multi") == ["1", "2"]
    assert seen.body == RESPONSES


@pytest.mark.parametrize("target", ["/v1/models?", "/v1/models/a%2fb", "/v1/x;y=%7e", "/v1/%7Ex/"])
def test_the_target_is_not_normalized(simulator: Simulator, upstream: Upstream, target: str) -> None:
    """Escapes keep their case, and an empty query its question mark."""
    read_body(upstream.open(get(target)))
    assert simulator.requests[0].target == "/backend-api/codex" + target[len("/v1") :]


def test_a_replacement_of_another_kind_is_not_used(simulator: Simulator) -> None:
    """What was allowed with a ChatGPT sign-in is not sent with an API key that has just taken its place."""
    revoked = Credential(Mode.CHATGPT, "revoked", account_id="acct-owner")
    upstream = upstream_for(simulator, revoked, Credential(Mode.API_KEY, simulator.api_key()))
    with pytest.raises(CredentialUnavailable, match="signed in differently") as raised:
        upstream.open(post())
    assert raised.value.retry_after_seconds == 1
    assert len(simulator.requests) == 1
    upstream.close()


def test_an_api_key_goes_to_the_platform(simulator: Simulator) -> None:
    """With an API key, /v1 stays in the path, and no account is sent."""
    upstream = upstream_for(simulator, Credential(Mode.API_KEY, simulator.api_key()))
    assert b'"object":"list"' in read_body(upstream.open(get("/v1/models")))
    assert simulator.requests[0].target == "/v1/models"
    assert simulator.requests[0].field("chatgpt-account-id") is None
    upstream.close()


def test_configured_headers_go_out(simulator: Simulator) -> None:
    """The configuration's headers replace the client's."""
    upstream = upstream_for(simulator, overrides={"User-Agent": ("ours",), "X-Added": ("1", "2")})
    read_body(upstream.open(post(fields=[("user-agent", "theirs")])))
    assert simulator.requests[0].values("user-agent") == ["ours"]
    assert simulator.requests[0].values("x-added") == ["1", "2"]
    upstream.close()


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 301), ("GET", 404), ("GET", 200)]
)
def test_connections_are_reused(simulator: Simulator, upstream: Upstream, method: str, status: int) -> None:
    """The connection is reused after a response has ended, also one without a body."""
    for _ in range(3):
        simulator.plan(
            Plan(status=status, body=b"gone" if status not in {204, 304} else b"", fields=[("Location", "/x")])
        )
        response = upstream.open(get("/v1/models", method))
        assert response.status == status
        assert read_body(response) == (b"" if response.is_bodiless else b"gone")
    assert len({seen.connection_id for seen in simulator.requests}) == 1


def test_a_redirect_is_passed_on(simulator: Simulator, upstream: Upstream) -> None:
    """A 307 is passed on unchanged for the client to follow."""
    simulator.plan(Plan(status=307, body=b"over there", fields=[("Location", "https://x.example/\xfc?%zz")]))
    response = upstream.open(post())
    assert dict(response.fields)["Location"] == "https://x.example/\xfc?%zz"
    assert read_body(response) == b"over there"
    assert len(simulator.requests) == 1


def test_interim_responses_do_not_shift_responses(simulator: Simulator, upstream: Upstream) -> None:
    """After a 102 and a 103 the next request on the connection still gets its own response."""
    simulator.plan(Plan(early_hints=True, body=b"first"))
    simulator.plan(Plan(body=b"second"))
    assert read_body(upstream.open(get("/v1/models"))) == b"first"
    assert read_body(upstream.open(get("/v1/models"))) == b"second"
    assert len({seen.connection_id for seen in simulator.requests}) == 1


def test_cookies_cross_no_request(simulator: Simulator, upstream: Upstream) -> None:
    """Upstream's cookies are neither stored, nor sent again, nor passed on."""
    simulator.plan(Plan(set_cookie=["a=1; Path=/", "b=2"]))
    response = upstream.open(post())
    read_body(response)
    read_body(upstream.open(post(fields=[("cookie", "mine=1")])))
    assert not any(name.lower() == "set-cookie" for name, _ in response.fields)
    assert [seen.field("cookie") for seen in simulator.requests] == [None, None]


def test_a_stale_connection_is_replaced(simulator: Simulator, upstream: Upstream) -> None:
    """A pooled connection that upstream has closed is replaced without an error, also for a request with a body."""
    simulator.plan(Plan(close_idle=True))
    read_body(upstream.open(post()))
    assert simulator.wait_for(lambda: simulator.open_connections == 0)
    assert b"response.completed" in read_body(upstream.open(post()))
    assert [seen.body for seen in simulator.requests] == [RESPONSES, RESPONSES]


def test_a_reset_on_a_pooled_connection_is_retried_once(simulator: Simulator, upstream: Upstream) -> None:
    """A pooled connection that breaks during the request is replaced once; if a new one breaks, that is an error."""
    read_body(upstream.open(post()))
    simulator.plan(Plan(cut_at="status"))
    assert b"response.completed" in read_body(upstream.open(post()))
    simulator.plan(Plan(cut_at="status"), times=2)
    with pytest.raises(UpstreamUnreachable):
        upstream.open(post())
    assert len(simulator.requests) == 5


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(cut_after=3), id="chunked-cut"),
        pytest.param(Plan(cut_after=3, framing="length"), id="length-cut"),
        pytest.param(Plan(reset_after=3), id="reset"),
        pytest.param(Plan(bad_chunk=3), id="bad-chunk-size"),
        pytest.param(Plan(wrong_length=100, framing="length"), id="shorter-than-announced"),
    ],
)
def test_a_truncated_response_is_noticed(simulator: Simulator, upstream: Upstream, plan: Plan) -> None:
    """The data before the cut is passed on; the cut is an error, and its connection is not reused."""
    simulator.plan(plan)
    response = upstream.open(post())
    received: list[bytes] = []
    with pytest.raises(UpstreamCut):
        received.extend(response.pieces())
    response.close()
    if plan.reset_after is None:
        assert b"response.created" in b"".join(received)
    read_body(upstream.open(post()))
    assert len({seen.connection_id for seen in simulator.requests}) == 2


@pytest.mark.parametrize("is_pooled", [False, True])
@pytest.mark.parametrize(
    ("plan", "error"),
    [
        pytest.param(Plan(status_line_garbage=True), UpstreamUnreachable, id="no-http"),
        pytest.param(Plan(endless_field=200_000), UpstreamUnreachable, id="endless-field"),
        pytest.param(Plan(silence_before_status=True), UpstreamTimeout, id="silence"),
        pytest.param(Plan(framing="length", fields=[("Content-Length", "5")]), UpstreamError, id="two-lengths"),
    ],
)
def test_failures_before_the_response(simulator: Simulator, plan: Plan, error: type[OcmError], is_pooled: bool) -> None:
    """Every failure before the response is raised as one of our errors, with a fixed message.

    A connection that was in the pool is closed then.
    """
    upstream = upstream_for(simulator, silence_timeout_seconds=2 if error is UpstreamTimeout else 30)
    if is_pooled:
        read_body(upstream.open(post()))
    simulator.plan(plan)
    with pytest.raises(error) as raised:
        upstream.open(post())
    assert raised.value.detail
    assert raised.value.message.startswith("OpenAI")
    read_body(upstream.open(post()))
    *before, failed, after = [seen.connection_id for seen in simulator.requests]
    assert before == [failed] * is_pooled
    assert after != failed
    upstream.close()


def test_close_without_a_response(simulator: Simulator, upstream: Upstream) -> None:
    """A new connection that is closed before the response is a failure, and the request is not sent again."""
    simulator.plan(Plan(cut_at="status"))
    with pytest.raises(UpstreamUnreachable):
        upstream.open(post())
    assert len(simulator.requests) == 1


def test_silence_before_the_response_to_a_handshake(simulator: Simulator) -> None:
    """An opening handshake without a response times out long before a turn would."""
    upstream = upstream_for(simulator, handshake_timeout_seconds=0.3)
    simulator.plan(Plan(upgrade=True, silence_before_status=True))
    fields = [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
    with pytest.raises(UpstreamTimeout):
        upstream.open(ClientRequest("GET", api_target("/v1/responses"), fields, None, is_upgrade=True))
    upstream.close()


def test_silence_within_a_response_ends_it(simulator: Simulator) -> None:
    """If upstream is silent within a stream, the stream is cut after the configured timeout."""
    upstream = upstream_for(simulator, silence_timeout_seconds=3)
    simulator.plan(Plan(silence_after=2))
    response = upstream.open(post())
    with pytest.raises(UpstreamCut):
        list(response.pieces())
    response.close()
    assert simulator.wait_for(lambda: simulator.open_streams == 0)
    upstream.close()


def test_connection_refused(simulator: Simulator, upstream: Upstream) -> None:
    """A refused connection is raised as one of our errors."""
    simulator.stop()
    with pytest.raises(UpstreamUnreachable, match=r"^OpenAI cannot be reached\.$"):
        upstream.open(post())


@pytest.mark.parametrize("plan", [Plan(silence_before_status=True), Plan(silence_after=1)])
def test_abort_wakes_a_silent_exchange(simulator: Simulator, upstream: Upstream, plan: Plan) -> None:
    """An aborted exchange ends immediately, before its response or within it, and is not retried."""
    read_body(upstream.open(post()))
    simulator.plan(plan)
    request = post(exchange=Exchange())
    ended = threading.Event()

    def use() -> None:
        try:
            list(upstream.open(request).pieces())
        except UpstreamError:
            ended.set()

    thread = threading.Thread(target=use)
    thread.start()
    assert simulator.wait_for(lambda: len(simulator.requests) == 2 and simulator.open_connections == 1)
    request.exchange.abort()
    thread.join(30)
    assert ended.is_set()
    assert simulator.wait_for(lambda: simulator.open_connections == 0)
    assert len(simulator.requests) == 2


def test_late_abort_does_not_affect_the_next_exchange(simulator: Simulator, upstream: Upstream) -> None:
    """After a response has ended, a late abort does not affect the next request on its connection."""
    first = post(exchange=Exchange())
    read_body(upstream.open(first))
    gate = simulator.gate().after(1)
    simulator.plan(Plan(gate=gate))
    second = upstream.open(post())
    first.exchange.abort()
    gate.release()
    assert b"response.completed" in read_body(second)
    assert len({seen.connection_id for seen in simulator.requests}) == 1


def test_401_is_retried_once_with_another_credential(simulator: Simulator) -> None:
    """A credential that upstream rejects is replaced, and the body is sent again."""
    stale, fresh = chatgpt(simulator, expires_in=-5), chatgpt(simulator)
    upstream = upstream_for(simulator, stale, fresh)
    assert b"response.completed" in read_body(upstream.open(post()))
    assert [seen.body for seen in simulator.requests] == [RESPONSES, RESPONSES]
    upstream.close()


def test_401_twice_is_not_passed_on(simulator: Simulator) -> None:
    """Upstream's 401 never reaches the client, which would sign in again needlessly."""
    upstream = upstream_for(simulator, chatgpt(simulator, expires_in=-5))
    with pytest.raises(RequestUnauthorized, match="owner must sign in again"):
        upstream.open(post())
    assert len(simulator.requests) == 2
    upstream.close()


_ERROR = {"error": {"code": "token_expired", "message": "m"}}


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        pytest.param(Plan(status=401, json=_ERROR), "token_expired", id="json"),
        pytest.param(Plan(status=401, json=_ERROR, encoding="gzip"), "token_expired", id="gzip"),
        pytest.param(Plan(status=401, json=_ERROR, framing="close"), "token_expired", id="close"),
        pytest.param(Plan(status=401, json={"detail": {"code": "x"}}), "x", id="detail"),
        pytest.param(Plan(status=401, json={"detail": "Unauthorized"}), None, id="no-code"),
        pytest.param(Plan(status=401, body=b"<html>"), None, id="no-json"),
        pytest.param(Plan(status=401, body=b"{" + b" " * 70_000 + b'"code": "x"}'), None, id="too-large"),
        pytest.param(
            Plan(status=401, body=b"", fields=[("X-Error-Json", "eyJlcnJvciI6eyJjb2RlIjoidG9rZW5fZXhwaXJlZCJ9fQ==")]),
            "token_expired",
            id="x-error-json",
        ),
    ],
)
def test_401_names_its_code(simulator: Simulator, plan: Plan, code: str | None) -> None:
    """Whether the credential is to blame is decided by the code of the error, wherever upstream puts it."""
    credentials = FixedCredentials([chatgpt(simulator)])
    upstream = upstream_for(simulator, fixed=credentials)
    simulator.plan(plan)
    assert b"response.completed" in read_body(upstream.open(post()))
    assert credentials.error_codes == [code]
    upstream.close()


def test_early_response_is_passed_on(simulator: Simulator, upstream: Upstream) -> None:
    """A response sent before the request body was read is passed on."""
    simulator.plan(Plan(status=413, refuse_body=True, error=("too_large", "too large")))
    response = upstream.open(post(body=bytes(4 * 2**20)))
    assert response.status == 413
    assert b"too large" in read_body(response)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority for the tests only."""
    return trustme.CA()


@pytest.fixture
def secure_simulator(authority: trustme.CA) -> Iterator[Simulator]:
    """OpenAI over TLS, at ``localhost``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with Simulator("localhost", ssl_context=context) as running:
        yield running


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return a context that trusts only the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def test_tls_is_verified_and_reused(secure_simulator: Simulator, authority: trustme.CA) -> None:
    """Over TLS the bytes are the same, and one handshake serves many turns."""
    upstream = upstream_for(secure_simulator, tls=trusting(authority))
    for _ in range(3):
        body = read_body(upstream.open(post()))
        assert hashlib.sha256(body).hexdigest() == secure_simulator.sent[-1].body_sha256
    assert len({seen.connection_id for seen in secure_simulator.requests}) == 1
    upstream.close()


def test_a_certificate_for_another_name_is_refused(authority: trustme.CA) -> None:
    """A trusted certificate is refused if it has another name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("elsewhere.test").configure_cert(context)
    with Simulator("localhost", ssl_context=context) as simulator:
        upstream = upstream_for(simulator, tls=trusting(authority))
        with pytest.raises(UpstreamUnreachable, match="TLS failed"):
            upstream.open(post())
        assert simulator.requests == []
        upstream.close()


class Finished(ssl.SSLContext):
    """A context that must not be changed any more."""

    is_finished = False

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        assert not self.is_finished, "other threads are shaking hands with it"
        super().set_alpn_protocols(alpn_protocols)

    def __setattr__(self, name: str, value: object) -> None:
        assert not self.is_finished, f"{name}: other threads are shaking hands with it"
        super().__setattr__(name, value)


def test_the_context_is_not_modified(secure_simulator: Simulator, authority: trustme.CA) -> None:
    """The shared context is not modified for new connections, which many threads make concurrently."""
    context = Finished(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.is_finished = True
    upstream = upstream_for(secure_simulator, tls=context)
    assert b"response.completed" in read_body(upstream.open(post()))
    upstream.close()


def test_abort_wakes_a_silent_exchange_over_tls(secure_simulator: Simulator, authority: trustme.CA) -> None:
    """An abort works over TLS, too."""
    upstream = upstream_for(secure_simulator, tls=trusting(authority))
    secure_simulator.plan(Plan(silence_after=1))
    response = upstream.open(post())
    pieces = response.pieces()
    next(pieces)
    threading.Timer(0.05, response.exchange.abort).start()
    with pytest.raises(UpstreamCut):
        list(pieces)
    response.close()
    upstream.close()


def test_an_unknown_authority_is_refused(secure_simulator: Simulator) -> None:
    """A certificate that cannot be verified ends the request before anything is sent."""
    upstream = upstream_for(secure_simulator, tls=build_upstream_context(Certificate(store="mozilla"), {}))
    with pytest.raises(UpstreamUnreachable, match="TLS failed"):
        upstream.open(post())
    assert secure_simulator.requests == []
    upstream.close()


@pytest.fixture(params=["socks5h", "http"])
def proxy(request: pytest.FixtureRequest) -> Iterator[tuple[str, ForwardProxy]]:
    """A proxy that requires a password with special characters, and its URL."""
    handler = Socks5 if request.param == "socks5h" else HttpProxy
    with ForwardProxy(handler).running() as running:
        yield f"{request.param}://scout:p%40ss%3Aword@127.0.0.1:{running.port}", running


def test_the_configured_proxy_is_used(
    secure_simulator: Simulator, authority: trustme.CA, proxy: tuple[str, ForwardProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests go through the configured proxy, which resolves the name; the environment's proxies are ignored."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    url, running = proxy
    upstream = upstream_for(secure_simulator, tls=trusting(authority), proxy_url=url)
    for _ in range(2):
        assert b"response.completed" in read_body(upstream.open(post()))
    (target,) = running.targets
    assert target.removeprefix("CONNECT ").startswith("localhost:")
    upstream.close()


def test_a_proxy_that_refuses(secure_simulator: Simulator, proxy: tuple[str, ForwardProxy]) -> None:
    """A wrong password for the proxy is an error that does not show it."""
    url, _ = proxy
    upstream = upstream_for(secure_simulator, proxy_url=url.replace("p%40ss", "wrong"))
    with pytest.raises(UpstreamUnreachable) as raised:
        upstream.open(post())
    assert "wrong" not in f"{raised.value.message} {raised.value.detail}"
    upstream.close()


def test_plain_http_through_an_http_proxy() -> None:
    """Plain HTTP goes to the proxy in absolute-form, with the proxy's credentials."""
    with ForwardProxy(HttpProxy).running() as running:
        upstream = Upstream(
            FixedCredentials([Credential(Mode.API_KEY, "sk-x")]),
            chatgpt_base_url="http://chatgpt.example/codex",
            api_base_url="http://api.example:8080",
            overrides={},
            tls=ssl.create_default_context(),
            proxy_url=f"http://scout:p%40ss%3Aword@127.0.0.1:{running.port}",
        )
        assert read_body(upstream.open(get("/v1/models?a=%2f"))) == b"forwarded"
        assert running.targets == ["GET http://api.example:8080/v1/models?a=%2f"]
        upstream.close()


def test_netrc_is_not_read(simulator: Simulator, upstream: Upstream, tmp_path: Any) -> None:
    """A .netrc that names upstream's host changes nothing."""
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login eve password secret\n")
    read_body(upstream.open(post()))
    assert (simulator.requests[0].field("authorization") or "").startswith("Bearer ")
