"""One connection of a client each: a stream, or small turns one after another."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from benchmarks.responses import Damaged, StreamedResponse, TurnResponse
from benchmarks.tally import Tally


class Client(asyncio.Protocol):
    """A connection that sends a request as soon as it is open.

    :ivar ended: done when all has arrived; fails with :class:`Damaged`.
    """

    def __init__(self, request: bytes, tally: Tally) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._tally = tally
        self._sent_ns = 0
        self._has_first_byte = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Damaged("a connection that was closed too early"))

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

    def _take(self, octets: bytes, now_ns: int) -> None:
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
    """One stream."""

    def __init__(self, request: bytes, tally: Tally, events: int) -> None:
        super().__init__(request, tally)
        self._response = StreamedResponse(events, tally.latencies)

    def _take(self, octets: bytes, now_ns: int) -> None:
        response = self._response
        had_begun, before = response.has_begun, response.events
        has_ended = response.feed(octets, now_ns)
        self._tally.opened += response.has_begun and not had_begun
        self._tally.events += response.events - before
        if has_ended:
            self._tally.ended += 1
            self._end()


class TurnClient(Client):
    """Turn after turn, as soon as the one before has ended.

    :param until: when to stop, on the clock of ``time.monotonic``.
    """

    def __init__(self, request: bytes, tally: Tally, until: float) -> None:
        super().__init__(request, tally)
        self._until_ns = int(until * 1e9)
        self._response = TurnResponse()

    def _take(self, octets: bytes, now_ns: int) -> None:
        if not self._response.feed(octets):
            return
        self._tally.ended += 1
        self._tally.latencies.append(now_ns - self._sent_ns)
        if now_ns < self._until_ns:
            self._response = TurnResponse()
            self._send()
        else:
            self._end()
