"""The bytes on a connection to upstream, and when a request is retried."""

from __future__ import annotations

import io
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ocm_wsgi.credentials import Credential, CredentialSource, Mode
from ocm_wsgi.errors import UpstreamUnreachable
from ocm_wsgi.gateway.request_body import Body
from ocm_wsgi.protocol.http.targets import api_target
from ocm_wsgi.upstream.client import ClientRequest, Upstream
from ocm_wsgi.upstream.exchange import Exchange, RequestHead

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b'{"model": "gpt-5.5"}'


class OneCredential(CredentialSource):
    """Provides a credential that is never rejected."""

    def __init__(self) -> None:
        """There is no file."""

    def current(self) -> Credential:
        """Return the credential."""
        return Credential(Mode.API_KEY, "sk-x")

    def replacement(self, rejected: Credential, error_code: str | None = None) -> Credential:
        """Return the same credential."""
        return rejected


class Scripted(threading.Thread):
    """A server that sends the given responses to successive requests, and then exits.

    :ivar reads: the bytes of each read.
    """

    def __init__(self, *answers: bytes) -> None:
        super().__init__()
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.reads: list[bytes] = []
        self.start()

    def run(self) -> None:
        with self._listener:
            connection, _ = self._listener.accept()
        with connection:
            for answer in self._answers:
                received = b""
                while not received.endswith(BODY):
                    if not (read := connection.recv(65536)):
                        return
                    self.reads.append(read)
                    received += read
                connection.sendall(answer)


@contextmanager
def upstream_at(server: Scripted) -> Iterator[Upstream]:
    """Return an upstream with the options of the service, for the server."""
    upstream = Upstream(
        OneCredential(),
        chatgpt_base_url="http://unused.example",
        api_base_url=f"http://127.0.0.1:{server.port}",
        overrides={},
        tls=ssl.create_default_context(),
        proxy_url=None,
        silence_timeout_seconds=30,
    )
    yield upstream
    upstream.close()
    server.join(30)
    assert not server.is_alive()


def ask(upstream: Upstream) -> bytes:
    """Send the request; return the body of the response."""
    request = ClientRequest("POST", api_target("/v1/responses"), [], Body(io.BytesIO(BODY), len(BODY)))
    return b"".join(upstream.open(request).pieces())


def test_a_small_request_is_sent_in_one_piece() -> None:
    """Head and body arrive in one read: no packet waits for the previous one."""
    server = Scripted(WHOLE)
    with upstream_at(server) as upstream:
        assert ask(upstream) == b"ok"
    (request,) = server.reads
    assert request == (
        b"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer sk-x\r\ncontent-length: 20\r\n\r\n"
        % server.port
        + BODY
    )


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="part-of-a-head"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n", id="hints-alone"),
    ],
)
def test_a_request_that_was_received_is_not_retried(answer: bytes) -> None:
    """A pooled connection that is closed after some bytes was not stale: upstream is already processing the turn."""
    server = Scripted(WHOLE, answer)
    with upstream_at(server) as upstream:
        assert ask(upstream) == b"ok"
        with pytest.raises(UpstreamUnreachable, match="cannot be reached") as raised:
            ask(upstream)
    # A second attempt would have failed: the server accepts one connection.
    assert "closed within a response head" in (raised.value.detail or "")


def test_a_response_that_is_not_http_is_rejected() -> None:
    """A response that is not HTTP is rejected at its first bytes, without waiting for a line to end."""
    server = Scripted(b"SSH-2.0-", WHOLE)
    with upstream_at(server) as upstream, pytest.raises(UpstreamUnreachable):
        ask(upstream)


@pytest.mark.parametrize("value", ["a\r\nx: b", "a\nx: b", "a\rb", "a\0b"])
@pytest.mark.parametrize("place", ["target", "name", "value"])
def test_a_request_cannot_be_split(value: str, place: str) -> None:
    """A line break is refused anywhere in the head."""
    fields = {"target": ("x", "y"), "name": (value, "y"), "value": ("x", value)}[place]
    head = RequestHead(value if place == "target" else "/", [fields], Exchange())
    with pytest.raises(ValueError, match="not allowed in fields"):
        head.encode("POST")
