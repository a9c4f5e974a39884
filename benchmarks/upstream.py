"""A minimal OpenAI for benchmarks: raw HTTP/1.1 with little overhead, so that it does not distort the results.

A request whose target has a number of events gets a chunked event stream; for servers that do not pass on the query,
the text in the body has the number. On a WebSocket, each message requests the events in the target of the opening
handshake.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from benchmarks import eventloop, wire
from benchmarks.certificates import Certificate

_STREAM_QUERY = re.compile(rb"\?events=(\d+)&rate=([\d.]+) ")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nupgrade: *websocket\r\n", re.IGNORECASE)
_SOCKET_KEY = re.compile(rb"\r\nsec-websocket-key: *(\S+) *\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_BACKLOG = 4096
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

# The backend's fields about the subscription in each response, which the service parses.
_FIELDS = (
    b"x-codex-plan-type: plus\r\n"
    b"x-codex-primary-used-percent: 12\r\nx-codex-primary-window-minutes: 300\r\n"
    b"x-codex-primary-reset-at: 2000000000\r\n"
    b"x-codex-secondary-used-percent: 34\r\nx-codex-secondary-window-minutes: 10080\r\n"
    b"x-codex-secondary-reset-at: 2000000000\r\n"
    b"x-request-id: req_0a1b2c3d4e5f60718293a4b5c6d7e8f9\r\n"
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n" + _FIELDS + b"\r\n"
)
_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: %s\r\n" + _FIELDS + b"\r\n"
)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Endpoint:
    """An address of upstream.

    :ivar listener: an open socket, which several processes may share.
    :ivar certificate: speak TLS with it.
    :ivar is_tunnel: whether TLS begins only after a CONNECT (RFC 9110 section 9.3.6), for any host. Upstream acts as
        the proxy itself, so that a program with a fixed upstream is measured without another hop.
    """

    listener: socket.socket
    certificate: Certificate | None
    is_tunnel: bool = False


def serve(endpoints: Sequence[Endpoint]) -> None:
    """Serve until this process is stopped."""
    eventloop.run(_serve(endpoints))


async def _serve(endpoints: Sequence[Endpoint]) -> None:
    for endpoint in endpoints:
        await _listen(endpoint)
    await asyncio.get_running_loop().create_future()


async def _listen(endpoint: Endpoint) -> None:
    tls = None
    if endpoint.certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(endpoint.certificate.chain, endpoint.certificate.key)
    loop = asyncio.get_running_loop()
    if endpoint.is_tunnel and tls is not None:
        await loop.create_server(partial(_Tunnel, tls), sock=endpoint.listener, backlog=_BACKLOG)
    else:
        await loop.create_server(_Connection, sock=endpoint.listener, ssl=tls, backlog=_BACKLOG)


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


@dataclass(frozen=True)
class _Kind:
    """The bytes of a kind of stream: before its events, each event, and after them."""

    head: bytes
    template: bytes
    last: bytes


# As all events have the same length, a framed template is a template again.
_SIZE = b"%x\r\n" % wire.SSE.event_bytes
_SSE = _Kind(_STREAM_HEAD, _SIZE + wire.SSE.template + b"\r\n", _chunk(wire.SSE.completed) + _chunk(b""))
_WEBSOCKET = _Kind(b"", wire.WEBSOCKET.template, wire.WEBSOCKET.completed)


class _Connection(asyncio.Protocol):
    """A connection from a proxy, with requests one after another, without pipelining."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._stream: _Stream | None = None
        # The head of a WebSocket's opening handshake.
        self._handshake = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another class
        # asyncio disables Nagle's algorithm only if the socket has its protocol set, which accepted connections do
        # not. With it, an event would wait for the acknowledgement of the previous one, for up to 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None:
            self._stream.stop()

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._handshake:
            self._take_frames()
            return
        head, separator, rest = self._received.partition(_HEAD_END)
        if separator and _is_complete(head, rest):
            self._received = b""
            self._answer(head, rest)

    def _answer(self, head: bytes, body: bytes) -> None:
        if _UPGRADE.search(head + b"\r\n"):
            self._handshake = head
            key = _SOCKET_KEY.search(head + b"\r\n")
            self._transport.write(_SWITCHING % wire.socket_accept(key[1] if key else b""))
        elif not self._start_stream(head, _SSE, body):
            self._transport.write(_NOT_FOUND)

    def _start_stream(self, head: bytes, kind: _Kind, body: bytes = b"") -> bool:
        requested = _STREAM_QUERY.search(head.split(b"\r\n", 1)[0]) or _STREAM_QUERY.search(body)
        if requested is not None:
            self._stream = _Stream(self._loop, self._transport, kind, int(requested[1]), float(requested[2]))
            self._stream.start()
        return requested is not None

    def _take_frames(self) -> None:
        """Process a client's message or Close frame, which must match the expected bytes, with any mask."""
        if len(self._received) > len(wire.CLIENT_CLOSE):
            if self._received == wire.remasked(self._received, wire.CREATE):
                self._received = b""
                self._start_stream(self._handshake, _WEBSOCKET)
            elif len(self._received) >= len(wire.CREATE):
                self._transport.abort()
        elif self._received == wire.CLIENT_CLOSE:
            self._transport.write(wire.CLOSED)
            self._transport.close()


def _is_complete(head: bytes, body: bytes) -> bool:
    """Return whether a request's body has arrived; nothing follows it, as nobody sends another one too early."""
    if _CHUNKED.search(head):
        return body.endswith(_LAST_CHUNK)
    length = _CONTENT_LENGTH.search(head)
    return len(body) >= (int(length[1]) if length else 0)


class _Tunnel(_Connection):
    """A connection on which TLS begins after a CONNECT request."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__()
        self._tls = tls
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False

    def data_received(self, data: bytes) -> None:
        if self._is_open:
            super().data_received(data)
            return
        self._received += data
        if self._opening is None and self._received.endswith(_HEAD_END):
            self._received = b""
            # From now on, everything is TLS.
            self._transport.pause_reading()
            self._transport.write(_ESTABLISHED)
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            transport = await self._loop.start_tls(self._transport, self, self._tls, server_side=True)
        except OSError:
            return  # The client has disconnected or does not trust the certificate, which it reports itself.
        self._transport = cast(asyncio.Transport, transport)
        self._is_open = True
        # Including data that arrived with the end of the handshake.
        super().data_received(b"")


class _Stream:
    """One response: its head, its events at their times, and the terminal one."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, kind: _Kind, events: int, rate: float
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._kind = kind
        self._events = events
        self._interval = 1 / rate
        self._sent = 0
        self._has_ended = False
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = self._loop.time()
        if self._kind.head:
            self._transport.write(self._kind.head)
        self._send()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def pause(self) -> None:
        """Delay events while the reader is behind: with timestamps of now, our own buffer would count as latency."""
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._schedule()

    def _send(self) -> None:
        if self._sent == self._events:
            self._has_ended = True
            self._transport.write(self._kind.last)
            return
        self._transport.write(self._kind.template % (self._sent, time.monotonic_ns()))
        self._sent += 1
        self._due += self._interval
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_paused and not self._has_ended:
            self._timer = self._loop.call_at(self._due, self._send)
