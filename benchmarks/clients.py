"""Clients with one connection each: a stream, a WebSocket, or small turns one after another."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from benchmarks import wire
from benchmarks.responses import Damaged, Events, Head, StreamedResponse, TurnResponse
from benchmarks.rewritten import RewrittenResponse, RewrittenTurn
from benchmarks.tally import Tally


class Client(asyncio.Protocol):
    """A connection that sends a request as soon as it is open.

    :ivar ended: done when everything has arrived; fails with :class:`Damaged`.
    :ivar successor: the client that continues over another connection.
    """

    successor: Client | None = None

    def __init__(self, request: bytes, tally: Tally) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._tally = tally
        self._sent_ns = 0
        self._has_first_byte = False

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

    def _send(self) -> None:
        self._has_first_byte = False
        self._sent_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def _take(self, received: bytes, now_ns: int) -> None:
        raise NotImplementedError

    def _end(self, failure: Damaged | None = None) -> None:
        if self.ended.done():
            return
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)
        self._transport.close()


class StreamClient(Client):
    """One stream.

    :param rewritten: whether only the response's content has to match upstream's.
    """

    def __init__(self, request: bytes, tally: Tally, events: int, *, rewritten: bool = False) -> None:
        super().__init__(request, tally)
        self._response = (RewrittenResponse if rewritten else StreamedResponse)(events, tally.latencies)

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
    """

    def __init__(self, handshake: bytes, tally: Tally, events: int) -> None:
        super().__init__(handshake, tally)
        self._head: Head | None = Head(101)
        self._events = Events(wire.WEBSOCKET, events, tally.latencies)
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
        if self._events.has_ended:
            self._transport.write(wire.CLIENT_CLOSE)

    def _take_close(self, received: bytes) -> None:
        self._close_frame += received
        if self._close_frame == wire.CLOSED:
            self._tally.ended += 1
            self._end()
        elif not wire.CLOSED.startswith(self._close_frame):
            raise Damaged("a Close frame that differs from the one sent")


class TurnClient(Client):
    """Small turns, each as soon as the previous one has ended.

    :param until: when to stop, on the clock of ``time.monotonic``.
    :param rewritten: whether only the responses' content has to match upstream's.
    """

    def __init__(self, request: bytes, tally: Tally, until: float, *, rewritten: bool = False) -> None:
        super().__init__(request, tally)
        self._until = until
        self._rewritten = rewritten
        self._new_response = RewrittenTurn if rewritten else TurnResponse
        self._response = self._new_response()

    def _take(self, received: bytes, now_ns: int) -> None:
        if not self._response.feed(received):
            return
        self._tally.ended += 1
        self._tally.latencies.append(now_ns - self._sent_ns)
        if now_ns >= self._until * 1e9:
            self._end()
        elif self._response.closes:
            self.successor = TurnClient(self._request, self._tally, self._until, rewritten=self._rewritten)
            self._end()
        else:
            self._response = self._new_response()
            self._send()
