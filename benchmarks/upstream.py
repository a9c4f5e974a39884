"""OpenAI as the benchmark needs it: raw HTTP/1.1 that costs as little as can be, so that it is never what is measured.

A request whose target names a number of events is answered with a chunked event stream, any other with a small turn;
where a server passes no query on, the text in the body names it.
On a WebSocket a message asks for the events that the target of its opening handshake names.
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
_UPGRADE = re.compile(rb"\r\nupgrade: *websocket\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_BACKLOG = 4096
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

# What the backend tells of the subscription with each response; the service reads it.
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
    b"Sec-WebSocket-Accept: " + wire.SOCKET_ACCEPT.encode() + b"\r\n" + _FIELDS + b"\r\n"
)
_TURN_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(wire.TURN)
    + _FIELDS
    + b"\r\n"
    + wire.TURN
)


@dataclass(frozen=True)
class Way:
    """A way to upstream.

    :ivar listener: open already; several processes may share it.
    :ivar certificate: speak TLS with it.
    :ivar is_tunnel: but only behind a CONNECT (RFC 9110 section 9.3.6), to whatever host. Upstream answers it as a
        proxy would, so that a program which knows upstream by name only is measured without another hop.
    """

    listener: socket.socket
    certificate: Certificate | None
    is_tunnel: bool = False


def serve(ways: Sequence[Way]) -> None:
    """Serve until this process is ended."""
    eventloop.run(_serve(ways))


async def _serve(ways: Sequence[Way]) -> None:
    for way in ways:
        await _listen(way)
    await asyncio.get_running_loop().create_future()


async def _listen(way: Way) -> None:
    tls = None
    if way.certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(way.certificate.chain, way.certificate.key)
    loop = asyncio.get_running_loop()
    if way.is_tunnel and tls is not None:
        await loop.create_server(partial(_Tunnel, tls), sock=way.listener, backlog=_BACKLOG)
    else:
        await loop.create_server(_Connection, sock=way.listener, ssl=tls, backlog=_BACKLOG)


def _chunk(octets: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(octets), octets)


@dataclass(frozen=True)
class _Kind:
    """What a stream looks like on the wire: before its events, each of them, behind them."""

    head: bytes
    template: bytes
    last: bytes


# A template of events that all have one length is one itself when it is framed.
_SIZE = b"%x\r\n" % wire.SSE.event_bytes
_SSE = _Kind(_STREAM_HEAD, _SIZE + wire.SSE.template + b"\r\n", _chunk(wire.SSE.completed) + _chunk(b""))
_WEBSOCKET = _Kind(b"", wire.WEBSOCKET.template, wire.WEBSOCKET.completed)


class _Connection(asyncio.Protocol):
    """One connection of a proxy: requests one after another, each answered in full before the next is read."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._stream: _Stream | None = None
        # Of a WebSocket: the head of its opening handshake.
        self._handshake = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        # asyncio does it only where the socket names its protocol, which a listener's connections do not. With
        # Nagle's algorithm an event would wait for the acknowledgement of the one before, for up to 40 ms.
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
            self._hear()
            return
        head, separator, rest = self._received.partition(_HEAD_END)
        length = _CONTENT_LENGTH.search(head)
        body_bytes = int(length[1]) if length else 0
        if separator and len(rest) >= body_bytes:
            self._received = rest[body_bytes:]
            self._answer(head, rest[:body_bytes])

    def _answer(self, head: bytes, body: bytes) -> None:
        if _UPGRADE.search(head + b"\r\n"):
            self._handshake = head
            self._transport.write(_SWITCHING)
        elif not self._start_stream(head, _SSE, body):
            self._transport.write(_TURN_RESPONSE)

    def _start_stream(self, head: bytes, kind: _Kind, body: bytes = b"") -> bool:
        asked = _STREAM_QUERY.search(head.split(b"\r\n", 1)[0]) or _STREAM_QUERY.search(body)
        if asked is not None:
            self._stream = _Stream(self._loop, self._transport, kind, int(asked[1]), float(asked[2]))
            self._stream.start()
        return asked is not None

    def _hear(self) -> None:
        """Take a client's message, which must be as it was sent, or its farewell."""
        if self._received == wire.CREATE:
            self._received = b""
            self._start_stream(self._handshake, _WEBSOCKET)
        elif self._received == wire.CLIENT_CLOSE:
            self._transport.write(wire.CLOSED)
            self._transport.close()
        elif not wire.CREATE.startswith(self._received) and not wire.CLIENT_CLOSE.startswith(self._received):
            self._transport.abort()


class _Tunnel(_Connection):
    """A connection on which TLS begins when it has asked for a tunnel."""

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
            # What comes next is for TLS.
            self._transport.pause_reading()
            self._transport.write(_ESTABLISHED)
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            transport = await self._loop.start_tls(self._transport, self, self._tls, server_side=True)
        except OSError:
            return  # The client has gone, or does not trust us, which it says itself.
        self._transport = cast(asyncio.Transport, transport)
        self._is_open = True
        # With what came at the end of the handshake.
        super().data_received(b"")


class _Stream:
    """One response: its head, so many events at their times, the terminal one."""

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
        """Hold back events whose reader is behind: stamped now, they would count our own buffer as its latency."""
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
