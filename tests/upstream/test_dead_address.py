"""A dead first address of OpenAI's, such as an IPv6 address without a route, costs a moment and not 15 seconds."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme

from ocm_wsgi.oauth.refresh import Provenance, RefreshReason, exchange_refresh_token, token_endpoint
from ocm_wsgi.protocol.http.targets import Origin, api_target
from ocm_wsgi.simulator import Simulator
from ocm_wsgi.upstream.client import CONNECT_TIMEOUT_SECONDS, ClientRequest
from tests.silent_address import SILENT, resolver, silent_address
from tests.upstream.test_client import get, trusting, upstream_for

NAME = "localhost"
HANDSHAKE = [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
REQUESTS = {
    "request": get("/v1/models"),
    "websocket": ClientRequest("GET", api_target("/v1/responses"), HANDSHAKE, None, is_upgrade=True),
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority for these tests only."""
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def half_dead(
    request: pytest.FixtureRequest, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulator]:
    """OpenAI at a name whose first address is silent."""
    context = None
    if request.param == "https":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(NAME).configure_cert(context)
    monkeypatch.setattr(socket, "getaddrinfo", resolver(NAME, SILENT, "127.0.0.1"))
    with Simulator(NAME, ssl_context=context) as simulator, ExitStack() as stack:
        stack.enter_context(silent_address(Origin.parse(simulator.api_base_url).port))
        yield simulator


@pytest.fixture(autouse=True)
def stopwatch() -> Iterator[None]:
    """Check that the silent address was not waited for."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < CONNECT_TIMEOUT_SECONDS / 2


@pytest.mark.parametrize("kind", REQUESTS)
def test_requests_and_handshakes(half_dead: Simulator, authority: trustme.CA, kind: str) -> None:
    """Requests and the handshakes of WebSockets arrive, with and without TLS."""
    upstream = upstream_for(half_dead, tls=trusting(authority))
    response = upstream.open(REQUESTS[kind])
    assert response.status in (101, 200)
    response.close()
    upstream.close()


def test_refresh(half_dead: Simulator, authority: trustme.CA) -> None:
    """The credential is refreshed."""
    tokens = half_dead.credential()["tokens"]
    endpoint = token_endpoint(Provenance(), auth_base_url=half_dead.auth_base_url)
    exchange_refresh_token(
        tokens["refresh_token"], endpoint, reason=RefreshReason.PROACTIVE, ssl_context=trusting(authority)
    )
    assert [each.outcome for each in half_dead.refreshes] == ["rotated"]
