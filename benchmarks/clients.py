"""The protocols of clients with one connection each: a stream, a WebSocket, or turns one after another."""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import cast

from benchmarks import wire
from benchmarks.responses import Damaged, Events, Head, StreamedResponse, Times
from benchmarks.rewritten import RewrittenResponse
from benchmarks.tally import Tally


def _response(events: int, latencies: Times, *, rewritten: bool) -> StreamedResponse:
    return (RewrittenResponse if rewritten else StreamedResponse)(events, latencies)


class Client(asyncio.Protocol):
    """A connection that sends a request as soon as it is open.

    :ivar ended: done when everything has arrived; fails with :class:`Damaged`.
    """

    def __init__(self, request: bytes, tally: Tally) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._tally = tally
        self._sent_ns = 0
        self._has_first_byte = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another class
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Damaged("a connection closed too early"))

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if not self._has_first_byte:
            self._has_first_byte = True
            self._tally.first_bytes.append(now_ns - self._sent_ns)
        try:
            self._take(data, now_ns)
        except Damaged as exc:
            self._end(exc)

    def abort(self) -> None:
        """Close the connection, if there is one."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self) -> None:
        self._has_first_byte = False
        self._sent_ns = time.monotonic_ns()
        self._write(self._request)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _take(self, received: bytes, now_ns: int) -> None:
        raise NotImplementedError

    def _end(self, failure: Damaged | None = None) -> None:
        if self.ended.done():
            return
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)
        if self._transport is not None:
            self._transport.close()


class StreamClient(Client):
    """One stream.

    :param latencies: where to add the latency of each event, instead of the tally.
    :param rewritten: whether only the response's content has to match upstream's.
    """

    def __init__(
        self, request: bytes, tally: Tally, events: int, *, latencies: Times | None = None, rewritten: bool = False
    ) -> None:
        super().__init__(request, tally)
        self._response = _response(events, tally.latencies if latencies is None else latencies, rewritten=rewritten)

    def _take(self, received: bytes, now_ns: int) -> None:
        response = self._response
        had_begun, before = response.has_begun, response.events.count
        has_ended = response.feed(received, now_ns)
        self._tally.opened += response.has_begun and not had_begun
        self._tally.events += response.events.count - before
        if has_ended:
            self._tally.ended += 1
            self._end()


class SocketClient(Client):
    """One WebSocket: the opening handshake, one turn, and Close frames in both directions.

    The message that requests the turn counts as the request.

    :param closes: whether there are Close frames; otherwise the connection is closed after the turn.
    """

    def __init__(self, handshake: bytes, tally: Tally, events: int, *, closes: bool = True) -> None:
        super().__init__(handshake, tally)
        self._head: Head | None = Head(101)
        self._events = Events(wire.WEBSOCKET, events, tally.latencies)
        self._closes = closes
        self._close_frame = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._has_first_byte = True  # The handshake's first byte does not matter.

    def _take(self, received: bytes, now_ns: int) -> None:
        if self._head is not None:
            if self._head.feed(received) is not None:
                self._head = None
                self._request = wire.CREATE
                self._send()
        elif self._events.has_ended:
            self._take_close(received)
        else:
            self._take_events(received, now_ns)

    def _take_events(self, received: bytes, now_ns: int) -> None:
        before = self._events.count
        self._events.feed(received, now_ns)
        self._tally.opened += before == 0 < self._events.count
        self._tally.events += self._events.count - before
        if not self._events.has_ended:
            return
        if self._closes:
            self._write(wire.CLIENT_CLOSE)
        else:
            self._tally.ended += 1
            self._end()

    def _take_close(self, received: bytes) -> None:
        self._close_frame += received
        if self._close_frame == wire.CLOSED:
            self._tally.ended += 1
            self._end()
        elif not wire.CLOSED.startswith(self._close_frame):
            raise Damaged("a Close frame that differs from the one sent")


class TurnConnection(asyncio.Protocol):
    """A connection for short turns one after another.

    :param rewritten: whether only the responses' content has to match upstream's.
    :ivar is_closed: whether no other turn can follow.
    """

    def __init__(self, *, rewritten: bool = False) -> None:
        self.is_closed = False
        self._rewritten = rewritten
        self._transport: asyncio.Transport | None = None
        self._response = _response(0, array("q"), rewritten=rewritten)
        self._ended: asyncio.Future[None] | None = None
        self._first_bytes: array[int] | None = None
        self._sent_ns = 0

    async def turn(self, request: bytes, latencies: Times, first_bytes: array[int]) -> None:
        """Send a request and receive its response.

        :param latencies: where to add the latency of each event.
        :param first_bytes: where to add the time until the first byte.
        :raises Damaged: the response differs from what upstream sent.
        """
        assert self._transport is not None
        self._ended = asyncio.get_running_loop().create_future()
        self._response = _response(wire.SHORT_EVENTS, latencies, rewritten=self._rewritten)
        self._first_bytes = first_bytes
        self._sent_ns = time.monotonic_ns()
        self._transport.write(request)
        try:
            await self._ended
        except BaseException:
            self.close()
            raise
        if self._response.closes:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another class

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(Damaged("a connection closed too early"))

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if self._ended is None or self._ended.done():
            self.close()
            return
        if self._first_bytes is not None:
            self._first_bytes.append(now_ns - self._sent_ns)
            self._first_bytes = None
        try:
            if self._response.feed(data, now_ns):
                self._ended.set_result(None)
        except Damaged as exc:
            self._ended.set_exception(exc)
