"""Relays one response from upstream to a client, in the event loop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ocm_wsgi.protocol.http.framing import LAST_CHUNK, Framing, FramingError, chunk, framing_for
from ocm_wsgi.relay.answer import RelayedAnswer
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.peer import DISCONNECTED, Peer
from ocm_wsgi.relay.read_on import READ_ON_SECONDS, ReadOns

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
        """Return the connection to the pool, after the body was read to its end."""

    def close(self) -> None:
        """Close the connection, unless it was given back."""


@dataclass(frozen=True)
class Timeouts:
    """How long a stream may make no progress.

    :ivar stall_seconds: until a client must have read something of what was sent to it.
    :ivar silence_seconds: between two reads from upstream.
    :ivar record_seconds: for the ledger, which reports within a second unless the disk does not respond at all.
    """

    stall_seconds: float
    silence_seconds: float
    record_seconds: float = 2.0


class Stream:
    """Relays a response's body, and withholds its end until its turn is recorded.

    :param head: of the response; sent with the first bytes of the body, or immediately if there are none yet.
    :param holds_head: true if the head always waits for the body. When a WebSocket is refused, Codex reads only the
        part of the body that arrives with the head.
    :param is_chunked: whether the head announces the chunked coding.
    :param turn: the turn or the stored objects that must be recorded, or ``None``.
    :param read_ons: bounds what is read on after the client has left; ``user`` is the client's.
    :param defer: schedules a callback in the loop's thread; may be called from any thread.
    :param on_end: called once with the reason for the end (``""``: success). The caller then owns the client's socket.
    :ivar sent_bytes: bytes of the body that were sent or buffered.
    """

    def __init__(
        self,
        loop: Loop,
        body: UpstreamBody,
        client: socket.socket,
        *,
        head: bytes,
        is_chunked: bool,
        turn: RelayedAnswer | None,
        timeouts: Timeouts,
        holds_head: bool = False,
        read_ons: ReadOns,
        user: str,
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
        self._holds_head = holds_head
        self._is_chunked = is_chunked
        self._turn = turn
        self._timeouts = timeouts
        self._read_ons = read_ons
        self._user = user
        self._defer = defer
        self._on_end = on_end
        self._active_at = loop.now
        self._is_reading = False
        self._is_recording = False
        self._last_piece = b""  # of the body, until the turn is recorded
        self._end: str | None = None  # set when everything to send has been handed to the client's peer
        self._left: str | None = None  # how the client has left, if the answer is read on
        self._read_on_until = 0.0
        self._is_over = False

    def start(self) -> None:
        """Begin. The stream may have ended when this returns."""
        self._active_at = self._loop.now
        self._loop.add(self)
        buffered, self._body.buffered = self._body.buffered, b""
        if buffered:
            self._guarded(self._take, buffered)
        elif self._framing.has_ended:
            self._guarded(self._take, b"")
        elif self._holds_head or self._send(b""):
            self._advance()

    def check(self, now: float) -> None:
        """End the stream if it has made no progress for too long."""
        waited = now - self._active_at
        if self._is_recording:
            if waited > self._timeouts.record_seconds:
                self._on_recorded()
        elif self._left is not None and now > self._read_on_until:
            self._finish(self._left)
        elif self._client.unsent:
            if waited > self._timeouts.stall_seconds:
                self._leave(CLIENT_STALLED)
        elif waited > self._timeouts.silence_seconds:
            self._cut("it was silent for too long")
        elif self._is_reading:
            self._upstream.acknowledge_later()

    def abort(self, end: str) -> None:
        """End the stream before its end."""
        self._finish(end)

    def _on_upstream(self, mask: int) -> None:
        try:
            data = self._upstream.receive(mask)
        except OSError as exc:
            self._cut(f"{type(exc).__name__}: {exc}")
            return
        if data is None:
            return
        self._active_at = self._loop.now
        try:
            if data or self._framing.close():
                self._take(data)
            else:
                self._cut("it ended before its end")
        except Exception:
            self._fail()

    def _on_client(self, mask: int) -> None:
        unsent = len(self._client.unsent)
        try:
            is_all_sent = not mask & DISCONNECTED and self._client.flush()
        except OSError:
            mask = DISCONNECTED
        if mask & DISCONNECTED:
            self._leave(CLIENT_LEFT)
            return
        if len(self._client.unsent) < unsent:
            self._active_at = self._loop.now
        if is_all_sent:
            self._client.wait()
            self._advance()

    def _guarded(self, step: Callable[[bytes], None], data: bytes) -> None:
        """Run a step; a bug in it must end only this stream."""
        try:
            step(data)
        except Exception:
            self._fail()

    def _fail(self) -> None:
        _log.exception("Unhandled exception while relaying a response")
        self._finish("failed")

    def _take(self, data: bytes) -> None:
        """Forward bytes that upstream sent."""
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
        if turn is not None and self._left is not None and turn.outcome is not None:
            self._finish(self._left)
        elif turn is not None and turn.is_due:
            self._record(turn)
        elif self._client.unsent or not self._is_reading:
            self._advance()

    def _send(self, piece: bytes, last: bytes = b"", *, framed: bytes = b"") -> bool:
        """Send a piece of the body, after the head if that is unsent; return whether the client is still connected.

        :param framed: the piece as a chunk, if available.
        """
        if self._left is not None:
            return True
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
            return self._leave(CLIENT_LEFT)
        return True

    def _leave(self, end: str) -> bool:
        """Finish without the client, or read its answer on if that may tell the usage. Return whether it is read on."""
        is_complete = self._is_recording or self._end is not None or self._framing.has_ended
        if is_complete or self._turn is None or not self._turn.client_left() or not self._read_ons.begin(self._user):
            self._finish(end)
            return False
        self._left = end
        self._read_on_until = self._loop.now + READ_ON_SECONDS
        self._client.stop_watching()
        self._client.unsent.clear()
        self._advance()
        return True

    def _record(self, turn: RelayedAnswer) -> None:
        self._is_recording = True
        self._active_at = self._loop.now
        self._pause()
        turn.record_async(lambda _place: self._defer(self._on_recorded))

    def _on_recorded(self) -> None:
        """Continue: the turn's record is safe, or has taken too long."""
        if self._is_over or not self._is_recording:
            return
        self._is_recording = False
        self._active_at = self._loop.now
        if self._framing.has_ended:
            self._complete()
        elif self._turn is not None and self._send(self._turn.release()):
            if self._turn.is_due:
                self._record(self._turn)
            else:
                self._advance()

    def _complete(self) -> None:
        """The body has ended as framed: send its last bytes and its end, once the turn is recorded."""
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
        """Upstream failed: send the client the bytes that arrived before, without an end."""
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
        """Wait for the next event, or finish."""
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
            # Only now: a response that arrived whole with its head is not worth the two system calls.
            if self._left is None:
                self._client.wait()

    def _pause(self) -> None:
        """Stop polling upstream: a level-triggered EPOLLRDHUP would otherwise spin."""
        if self._is_reading:
            self._is_reading = False
            self._upstream.stop_watching()

    def _finish(self, end: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._left is not None:
            end = self._left
            self._read_ons.end(self._user)
        self._loop.discard(self)
        self._pause()
        self._client.stop_watching()
        self._body.close()
        try:
            if self._turn is not None:
                if end in (CLIENT_LEFT, CLIENT_STALLED):
                    self._turn.client_left()
                self._turn.close_async()
        finally:
            self._on_end(end)
