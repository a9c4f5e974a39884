"""TLS sessions to upstream are resumed, but only when that is safe."""

from __future__ import annotations

import contextlib
import ctypes
import io
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme

from ocm_wsgi.config.tls import Certificate
from ocm_wsgi.credentials import Credential, CredentialSource, Mode
from ocm_wsgi.errors import UpstreamUnreachable
from ocm_wsgi.gateway.request_body import read_body
from ocm_wsgi.protocol.http.targets import api_target
from ocm_wsgi.tls import contexts
from ocm_wsgi.tls.session_cache import ResumingContext
from ocm_wsgi.upstream.client import ClientRequest, Upstream

NAMES = ("localhost", "127.0.0.1")


class Handler(socketserver.BaseRequestHandler):
    """Reports in one response whether the connection resumed a session, and closes it. Reads no request body."""

    server: Server

    def handle(self) -> None:
        if self.server.is_refusing:
            return
        # Unacknowledged data would be lost because the rest of the request was not read.
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.server.context.wrap_socket(self.request, server_side=True) as connection:
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            body = b"resumed" if connection.session_reused else b"full"
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
            connection.sendall(body)


class Server(socketserver.ThreadingTCPServer):
    """A TLS server.

    :ivar is_refusing: it closes connections before the handshake.
    """

    def __init__(self, authority: trustme.CA, version: ssl.TLSVersion) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._authority = authority
        self._version = version
        self.is_refusing = False
        self.forget()

    def forget(self) -> None:
        """Use new keys for tickets, as after a restart."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.maximum_version = self._version
        self._authority.issue_cert(*NAMES).configure_cert(self.context)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The certificate authority that the client trusts."""
    return trustme.CA()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def server(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Server]:
    """A running server of each version of TLS."""
    with Server(authority, request.param) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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


def trusting(authority: trustme.CA) -> ResumingContext:
    """Return a context with the options of the service."""
    return contexts.build_upstream_context(Certificate(certificate=authority.cert_pem.bytes().decode()), {})


@contextlib.contextmanager
def client_of(server: Server, authority: trustme.CA) -> Iterator[Upstream]:
    """Return an upstream with the options of the service, for the server."""
    upstream = Upstream(
        OneCredential(),
        chatgpt_base_url="https://unused.example",
        api_base_url=f"https://localhost:{server.server_address[1]}",
        overrides={},
        tls=trusting(authority),
        proxy_url=None,
    )
    yield upstream
    upstream.close()


def ask(upstream: Upstream) -> bytes:
    """Return the server's report about a new connection."""
    return b"".join(upstream.open(ClientRequest("GET", api_target("/v1/models"), [], None)).pieces())


def test_a_response_before_the_end_of_the_request(server: Server, authority: trustme.CA) -> None:
    """An early response is read although the request failed and OpenSSL still has a part of it to send."""
    content = io.BytesIO(bytes(16 * 1024 * 1024))
    with client_of(server, authority) as upstream, read_body(content, announced=None, limit=2**25) as body:
        answer = b"".join(upstream.open(ClientRequest("POST", api_target("/v1/responses"), [], body)).pieces())
    assert answer == b"full"


def test_later_connections_resume(server: Server, authority: trustme.CA) -> None:
    """The first connection does a full handshake, and all later ones resume its session."""
    with client_of(server, authority) as upstream:
        assert [ask(upstream) for _ in range(4)] == [b"full", b"resumed", b"resumed", b"resumed"]


def test_a_server_that_forgot(server: Server, authority: trustme.CA) -> None:
    """A session that the server has forgotten causes one full handshake."""
    with client_of(server, authority) as upstream:
        answers = [ask(upstream), ask(upstream)]
        server.forget()
        answers += [ask(upstream), ask(upstream)]
    assert answers == [b"full", b"resumed", b"full", b"resumed"]


def test_a_failed_handshake(server: Server, authority: trustme.CA) -> None:
    """A session is not offered again after a failed handshake."""
    with client_of(server, authority) as upstream:
        answers = [ask(upstream), ask(upstream)]
        server.is_refusing = True
        with pytest.raises(UpstreamUnreachable):
            ask(upstream)
        server.is_refusing = False
        answers += [ask(upstream), ask(upstream)]
    assert answers == [b"full", b"resumed", b"full", b"resumed"]


def test_a_session_is_for_one_name(server: Server, authority: trustme.CA) -> None:
    """For another name the certificate is verified again, because a session does not cover that name."""
    context = trusting(authority)
    reused = []
    for name in ("localhost", "127.0.0.1", "localhost", "127.0.0.1"):
        with (
            socket.create_connection(server.server_address[:2]) as connection,  # type: ignore[arg-type]  # IPv4
            context.wrap_socket(connection, server_hostname=name) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert secured.recv(65536)
            reused.append(secured.session_reused)
            context.keep_session(secured)
    assert reused == [False, False, True, True]


class Heap(ctypes.Structure):
    """The statistics of glibc's heaps (mallinfo2(3)) that are used here."""

    _fields_ = (("_others", ctypes.c_size_t * 7), ("used", ctypes.c_size_t), ("_more", ctypes.c_size_t * 2))


heap = ctypes.CDLL(None).mallinfo2
heap.restype = Heap


def shake_hands(*sides: ssl.SSLSocket) -> None:
    """Complete the handshake between two non-blocking ends of a connection."""
    waiting = set(sides)
    while waiting:
        for side in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_response_that_has_begun_holds_no_buffer(authority: trustme.CA, version: ssl.TLSVersion) -> None:
    """Once a response has begun, OpenSSL has freed its buffers, and nothing was sent to upstream for that."""
    context, server_context = trusting(authority), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.maximum_version = version
    authority.issue_cert(*NAMES).configure_cert(server_context)
    for is_resumed in (False, True):
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        with (
            context.wrap_socket(ends[0], do_handshake_on_connect=False, server_hostname="localhost") as client,
            server_context.wrap_socket(ends[1], True, do_handshake_on_connect=False) as server,
        ):
            shake_hands(client, server)
            client.send(b"request")
            assert server.recv(100) == b"request"
            server.send(b"response")
            before = heap().used
            assert client.recv(100) == b"response"
            client.settimeout(5)
            context.keep_session(client)
            assert heap().used - before < 12 * 1024
            assert client.gettimeout() == 5
            assert client.session_reused == is_resumed
            assert not select.select([server], [], [], 0)[0]
