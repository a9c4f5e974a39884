"""urllib3 connections that send a request exactly as given and return the response as it arrives.

requests and urllib3 are made for fetching documents. A relay has other requirements:

- The request is sent exactly as given: the target byte for byte, the fields in order with duplicates, nothing added
  (:class:`~ocm_wsgi.upstream.exchange.RequestHead`).
- The response is read by our own code (``response``) as it arrives: the standard library takes a 103 for the final
  response, and its e-mail parser for the fields costs more than everything else.
- A host with several addresses is connected to at the first that accepts, not at the first alone
  (:class:`~ocm_wsgi.tcp.happy_eyeballs.HappyEyeballsMixin`). A SOCKS proxy resolves the name itself.
- Connections that became stale in the pool are distinguished from those that failed (:class:`StaleConnection`).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import select
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.contrib.socks import (
    SOCKSConnection,
    SOCKSHTTPConnectionPool,
    SOCKSHTTPSConnection,
    SOCKSHTTPSConnectionPool,
    SOCKSProxyManager,
)
from urllib3.util import make_headers, parse_url

from ocm_wsgi.protocol.http.response_head import HeadReader, ResponseHead
from ocm_wsgi.tcp.happy_eyeballs import HappyEyeballsMixin
from ocm_wsgi.tls.session_cache import ResumingContext
from ocm_wsgi.upstream.exchange import Aborted, Exchange, RequestHead
from ocm_wsgi.upstream.response import BLOCK_SIZE, RawResponse
from ocm_wsgi.upstream.reuse import IdleConnections

#: A pooled connection is not reused after it was idle for longer. Servers close theirs after 60 s or more.
IDLE_LIMIT_SECONDS = 50.0
#: For sending one block of a request body.
SEND_TIMEOUT_SECONDS = 60.0
#: The maximum for one read of a response head. No TLS record is larger, so nothing stays buffered in the TLS layer.
HEAD_READ_SIZE = 16 * 1024
#: More interim responses than this before a final response are an attack or a bug.
INTERIM_RESPONSE_LIMIT = 32


class StaleConnection(ConnectionError):
    """A pooled connection was closed before any byte of the response arrived.

    Upstream most likely closed it while it was idle, before it received the request.
    """


class _VerbatimMixin:
    """For urllib3's connections: sends a :class:`RequestHead` verbatim, and detects a stale connection."""

    sock: socket.socket | None
    timeout: float | None
    _exchange: Exchange | None = None
    _method = ""
    _responses = 0
    _idle_since = 0.0
    _poll: select.poll | None = None
    _polled: socket.socket | None = None

    def connect(self) -> None:
        self._responses = 0
        super().connect()  # type: ignore[misc]  # the other base class has it

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        """Send a request. The target is the head's own, because ``url`` was normalized by urllib3.

        :param body: ``None``, or a readable object at its start.
        """
        head: RequestHead = headers
        self._exchange, self._method = head.exchange, method
        head_bytes = head.encode(method)
        if self.sock is None:
            self.connect()
        assert self.sock is not None
        head.exchange.attach(self.sock)
        block = head_bytes if body is None else head_bytes + body.read(BLOCK_SIZE)
        while block:
            self._send_block(self.sock, block)
            block = b"" if body is None else body.read(BLOCK_SIZE)

    def _send_block(self, connection: socket.socket, block: bytes) -> None:
        """Send a block. Usually that is the whole request, and the kernel takes it at once.

        An idle connection is non-blocking. Each change of that takes a system call, for which this thread may have to
        wait for the GIL.
        """
        sent = 0
        if connection.gettimeout() == 0:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sent = connection.send(block)
        if sent < len(block):
            # So far this was the connect timeout; a large body may take longer, block by block.
            connection.settimeout(SEND_TIMEOUT_SECONDS)
            connection.sendall(memoryview(block)[sent:])

    def getresponse(self) -> Any:
        """Return a :class:`RawResponse`, which has everything that urllib3 and requests need of a response here."""
        assert self.sock is not None
        if self._exchange is not None:
            self._exchange.is_sent = True
        self.sock.settimeout(self.timeout)
        reader = HeadReader()
        try:
            head = self._final_head(reader)
        except (ConnectionResetError, BrokenPipeError) as exc:
            if self._exchange is not None and self._exchange.aborted:
                raise Aborted("the client is gone") from exc
            if self._responses:
                raise StaleConnection("a pooled connection was closed by upstream") from exc
            raise
        self._responses += 1
        return RawResponse(self, head, reader.unread, self._method)

    def _final_head(self, reader: HeadReader) -> ResponseHead:
        """Return the head of the final response; interim ones (1xx, RFC 9110 section 15.2) are dropped.

        :raises ConnectionResetError: the connection was closed before any byte arrived.
        :raises http.client.HTTPException: the response is invalid or incomplete.
        """
        for _ in range(INTERIM_RESPONSE_LIMIT):
            head = self._next_head(reader)
            status = head.status
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return head
        raise http.client.HTTPException(f"more than {INTERIM_RESPONSE_LIMIT} interim responses")

    def _next_head(self, reader: HeadReader) -> ResponseHead:
        assert self.sock is not None
        while (head := reader.next_head()) is None:
            try:
                data = self.sock.recv(HEAD_READ_SIZE)
            except ConnectionResetError as exc:
                if not reader.has_begun:
                    raise
                raise http.client.HTTPException("the connection broke within a response head") from exc
            if not data and not reader.has_begun:
                raise http.client.RemoteDisconnected("closed without a response")
            if not data:
                raise http.client.HTTPException("the connection was closed within a response head")
            reader.feed(data)
        return head

    def mark_idle(self) -> None:
        """Detach the exchange: a late ``abort()`` must not close a connection that is back in the pool."""
        self._idle_since = time.monotonic()
        if self._exchange is not None:
            self._exchange.detach()
            self._exchange = None

    @property
    def is_connected(self) -> bool:
        """Whether it is open, as far as is known. urllib3 makes an object to poll with each time."""
        if self.sock is None:
            return False
        if self._poll is None or self._polled is not self.sock:
            self._poll, self._polled = select.poll(), self.sock
            self._poll.register(self.sock, select.POLLIN)
        return not self._poll.poll(0)

    @property
    def has_idled_too_long(self) -> bool:
        """Whether it was idle for so long that upstream may be about to close it."""
        return self.sock is not None and time.monotonic() - self._idle_since > IDLE_LIMIT_SECONDS


class _HTTPConnection(HappyEyeballsMixin, _VerbatimMixin, HTTPConnection):
    pass


class _TLSResumptionMixin(_VerbatimMixin):
    """For urllib3's TLS connections: resumes TLS sessions."""

    host: str
    is_verified: bool
    proxy: Any
    ssl_context: ssl.SSLContext | None
    _is_sent = False

    def connect(self) -> None:
        if self.proxy is not None:
            super().connect()
            return
        # As in urllib3 for a context that verifies. But urllib3 sets the context's mode and ALPN again for each
        # connection while other threads use the context for theirs, which takes as long as a quarter of a handshake.
        self._responses = 0
        assert self.ssl_context is not None
        connection: socket.socket = self._new_conn()  # type: ignore[attr-defined]  # the other base class has it
        self.sock = self.ssl_context.wrap_socket(connection, server_hostname=self.host)
        self.is_verified = True

    def request(self, *arguments: Any, **options: Any) -> None:
        self._is_sent = False
        try:
            super().request(*arguments, **options)
        except ssl.SSLEOFError as exc:
            # Raised by Python 3.10 to 3.12 when a connection breaks during a write. urllib3 knows that a response may
            # have arrived after a broken pipe.
            raise BrokenPipeError(errno.EPIPE, "the connection broke within the request") from exc
        self._is_sent = True

    def getresponse(self) -> Any:
        response = super().getresponse()
        if (
            self._responses == 1
            and self._is_sent
            and isinstance(self.ssl_context, ResumingContext)
            and isinstance(self.sock, ssl.SSLSocket)
        ):
            self.ssl_context.keep_session(self.sock)
        return response


class _HTTPSConnection(HappyEyeballsMixin, _TLSResumptionMixin, HTTPSConnection):
    pass


class _SOCKSConnection(_VerbatimMixin, SOCKSConnection):
    pass


class _SOCKSHTTPSConnection(_TLSResumptionMixin, SOCKSHTTPSConnection):
    pass


class _IdleTimeoutMixin(IdleConnections):
    """For urllib3's pools: closes connections that were idle for too long instead of reusing them."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.mark_idle()
        super()._put_conn(conn)  # type: ignore[misc]  # the other base class has it

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn = super()._get_conn(timeout)  # type: ignore[misc]  # the other base class has it
        if conn.has_idled_too_long:
            conn.close()
        return conn


class _HTTPPool(_IdleTimeoutMixin, HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_IdleTimeoutMixin, HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _SOCKSHTTPPool(_IdleTimeoutMixin, SOCKSHTTPConnectionPool):
    ConnectionCls = _SOCKSConnection


class _SOCKSHTTPSPool(_IdleTimeoutMixin, SOCKSHTTPSConnectionPool):
    ConnectionCls = _SOCKSHTTPSConnection


_PLAIN_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
_SOCKS_POOLS = {"http": _SOCKSHTTPPool, "https": _SOCKSHTTPSPool}


def pool_manager(proxy_url: str | None, tls: ssl.SSLContext, options: dict[str, Any]) -> Any:
    """Return a urllib3 pool manager with such connections.

    :param proxy_url: ``socks5h://``, ``socks4a://``, ``http://`` or ``https://``; ``None`` connects directly.
    :param tls: verifies an ``https://`` proxy.
    :param options: passed on to urllib3's pools.
    """
    if proxy_url is None:
        manager: PoolManager = PoolManager(**options)
        manager.pool_classes_by_scheme = _PLAIN_POOLS
    elif proxy_url.startswith("socks"):
        manager = SOCKSProxyManager(proxy_url, **options)
        manager.pool_classes_by_scheme = _SOCKS_POOLS
    else:
        proxy = parse_url(proxy_url)
        fields = _proxy_fields(proxy.auth)
        manager = ProxyManager(
            proxy._replace(auth=None).url,
            proxy_headers=fields,
            proxy_ssl_context=tls if proxy.scheme == "https" else None,
            **options,
        )
        manager.pool_classes_by_scheme = _PLAIN_POOLS
    return manager


def _proxy_fields(user_info: str | None) -> Mapping[str, str]:
    """Return ``Proxy-Authorization`` for a proxy URL's user and password (RFC 7617), if it has any."""
    if not user_info:
        return {}
    user, _, password = user_info.partition(":")
    return make_headers(proxy_basic_auth=f"{unquote(user)}:{unquote(password)}")
