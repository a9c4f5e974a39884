"""One response on its way from upstream to a client, in the event loop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ocm_wsgi.accounting.turn_accounting import OpenTurn
from ocm_wsgi.protocol.http.framing import LAST_CHUNK, Framing, FramingError, chunk, framing_for
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.peer import DISCONNECTED, Peer

_log = logging.getLogger(__name__)

CLIENT_LEFT = "client left"
CLIENT_STALLED = "client stalled"


class UpstreamBody(Protocol):
    """A response's body on the wire; ``upstream.response.RawResponse`` is one."""

    socket: socket.socket
    buffered: bytes
    is_chunked: bool
    length: int | None

    def give_back(self) -> None:
        """The body was read to its end."""

    def close(self) -> None:
        """End the request, if it was not given back."""


@dataclass(frozen=True)
class Timeouts:
    """How long a stream may stand still, in seconds.

    :ivar stall: a client that has not taken what was sent to it.
    :ivar silence: upstream, between two reads.
    :ivar record: the ledger, which tells within a second unless the disk does not answer at all.
    """

    stall_seconds: float
    silence_seconds: float
    record_seconds: float = 2.0


class Stream:
    """Moves a response's body, and keeps its end back until its turn is recorded.

    :param head: of the response; sent with the first of the body, or at once when nothing of that is there.
    :param head_waits: it is never sent at once. Of an answer that refuses a WebSocket, Codex reads only the part of
        the body that comes with the head.
    :param is_chunked: whether the head promises the chunked coding.
    :param turn: what the response is accounted as, or ``None``.
    :param defer: has something called soon, in the loop's thread; callable from any thread.
    :param on_end: called once, with how it ended, ``""`` being well. The client's socket is its caller's again.
    :ivar sent_bytes: of the body, sent or about to be.
    """

    def __init__(
        self,
        loop: Loop,
        body: UpstreamBody,
        client: socket.socket,
        *,
        head: bytes,
        is_chunked: bool,
        turn: OpenTurn | None,
        timeouts: Timeouts,
        head_waits: bool = False,
        defer: Callable[[Callable[[], None]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.sent_bytes = 0
        self._loop = loop
        self._body = body
        self._client = Peer(loop, client, self._on_client)
        self._upstream = Peer(loop, body.socket, self._on_upstream)
        self._framing: Framing = framing_for(is_chunked=body.is_chunked, length=body.length)
        self._head = head
        self._head_waits = head_waits
        self._is_chunked = is_chunked
        self._turn = turn
        self._timeouts = timeouts
        self._defer = defer
        self._on_end = on_end
        self._active_at = loop.now
        self._is_reading = False
        self._is_recording = False
        self._last_piece = b""  # of the body, until the turn is recorded
        self._end: str | None = None  # set when all that is to be sent has been handed to the client's side
        self._is_over = False

    def start(self) -> None:
        """Begin. It may be over when this returns."""
        self._active_at = self._loop.now
        self._loop.add(self)
        buffered, self._body.buffered = self._body.buffered, b""
        if buffered:
            self._guarded(self._take, buffered)
        elif self._framing.has_ended:
            self._guarded(self._take, b"")
        elif self._head_waits or self._send(b""):
            self._advance()

    def check(self, now: float) -> None:
        """Look at what is waited for, and for how long it has been."""
        waited = now - self._active_at
        if self._is_recording:
            if waited > self._timeouts.record_seconds:
                self._on_recorded()
        elif self._client.unsent:
            if waited > self._timeouts.stall_seconds:
                self._finish(CLIENT_STALLED)
        elif waited > self._timeouts.silence_seconds:
            self._cut("it was silent for too long")
        elif self._is_reading:
            self._upstream.acknowledge_later()

    def abort(self, end: str) -> None:
        """Give the stream up."""
        self._finish(end)

    def _on_upstream(self, mask: int) -> None:
        try:
            data = self._upstream.receive()
        except OSError as exc:
            self._cut(f"{type(exc).__name__}: {exc}")
            return
        if data is None:
            return
        self._active_at = self._loop.now
        try:
            if data:
                self._take(data)
                self._upstream.rearm(mask, data)
            elif self._framing.close():
                self._take(data)
            else:
                self._cut("it ended before its end")
        except Exception:
            self._fail()

    def _on_client(self, mask: int) -> None:
        if mask & DISCONNECTED:
            self._finish(CLIENT_LEFT)
            return
        unsent = len(self._client.unsent)
        try:
            is_all_sent = self._client.flush()
        except OSError:
            self._finish(CLIENT_LEFT)
            return
        if len(self._client.unsent) < unsent:
            self._active_at = self._loop.now
        if is_all_sent:
            self._client.wait()
            self._advance()

    def _guarded(self, step: Callable[[bytes], None], data: bytes) -> None:
        """A defect may end a stream, and nothing else."""
        try:
            step(data)
        except Exception:
            self._fail()

    def _fail(self) -> None:
        _log.exception("A stream failed")
        self._finish("failed")

    def _take(self, data: bytes) -> None:
        """Pass on what upstream sent."""
        framing, turn = self._framing, self._turn
        try:
            piece = framing.feed(data)
        except FramingError as exc:
            self._cut(str(exc), exc.decoded)
            return
        if framing.has_ended:
            self._release_upstream()
        passing = turn.feed(piece) if piece and turn is not None else piece
        if framing.has_ended:
            self._last_piece = passing
            self._complete()
            return
        if passing or self._head:
            is_verbatim = framing.was_single_chunk and passing is piece
            if not self._send(passing, framed=data if is_verbatim and self._is_chunked else b""):
                return
        if turn is not None and turn.is_due:
            self._record(turn)
        elif self._client.unsent or not self._is_reading:
            self._advance()

    def _send(self, piece: bytes, last: bytes = b"", *, framed: bytes = b"") -> bool:
        """Send a piece of the body, behind the head if that is still here; return whether the client is too.

        :param framed: the piece as a chunk, where it is at hand.
        """
        self.sent_bytes += len(piece)
        if not framed:
            framed = chunk(piece) if piece and self._is_chunked else piece
        if last:
            framed += last
        if self._head:
            framed, self._head = self._head + framed, b""
        try:
            self._client.send(framed)
        except OSError:
            self._finish(CLIENT_LEFT)
            return False
        return True

    def _record(self, turn: OpenTurn) -> None:
        self._is_recording = True
        self._active_at = self._loop.now
        self._pause()
        turn.record_async(lambda _place: self._defer(self._on_recorded))

    def _on_recorded(self) -> None:
        """Send on: the turn's record is safe, or has taken too long."""
        if self._is_over or not self._is_recording:
            return
        self._is_recording = False
        self._active_at = self._loop.now
        if self._framing.has_ended:
            self._complete()
        elif self._turn is not None and self._send(self._turn.release()):
            self._advance()

    def _complete(self) -> None:
        """The body has ended as it should: send the last of it, when the turn is recorded, and its end."""
        if self._turn is not None:
            self._turn.finish()
            if self._turn.is_due:
                self._record(self._turn)
                return
            self._last_piece += self._turn.release()
        self._end = ""
        if self._send(self._last_piece, LAST_CHUNK if self._is_chunked else b""):
            self._advance()

    def _cut(self, detail: str, before: bytes = b"") -> None:
        """Upstream failed: the client gets what came before, and no end."""
        self._pause()
        self._body.close()
        self._end = f"upstream cut it: {detail}"
        if before and self._turn is not None:
            before = self._turn.feed(before)
        if not (before or self._head) or self._send(before):
            self._advance()

    def _release_upstream(self) -> None:
        self._pause()
        if self._framing.has_excess:
            self._body.close()
        else:
            self._body.give_back()

    def _advance(self) -> None:
        """Wait for what is next."""
        if self._is_recording:
            return
        if self._client.unsent:
            self._pause()
            self._client.wait()
        elif self._end is not None:
            self._finish(self._end)
        elif not self._is_reading:
            self._is_reading = True
            self._upstream.wait(to_read=True)
            # Not before: a response that came whole with its head is not worth the two system calls.
            self._client.wait()

    def _pause(self) -> None:
        """Read nothing for a while: not even of its end would upstream be heard otherwise without end."""
        if self._is_reading:
            self._is_reading = False
            self._upstream.stop_watching()

    def _finish(self, end: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._loop.discard(self)
        self._pause()
        self._client.stop_watching()
        self._body.close()
        try:
            if self._turn is not None:
                self._turn.close_async()
        finally:
            self._on_end(end)
