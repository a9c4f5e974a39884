"""Sending responses: framing, content encoding, chunking, and every planned fault."""

from __future__ import annotations

import email.utils
import http
import zlib
from collections.abc import Iterable
from typing import Protocol

import zstandard

from ocm_wsgi.simulator.connection import ClientGone, Connection, Cut
from ocm_wsgi.simulator.exchange import Event, Response, reach
from ocm_wsgi.simulator.plans import Plan
from ocm_wsgi.simulator.receiving import Head
from ocm_wsgi.simulator.recording import Journal, Sent

#: How long to wait for the sender of a refused body to disconnect before resetting the connection, in seconds.
LINGER_SECONDS = 2.0


def reason_phrase(status: int) -> str:
    """Return the standard reason phrase of a status, or ``Simulated`` if it has none."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Simulated"


def head_bytes(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the bytes of a response head, including the empty line."""
    lines = [f"HTTP/1.1 {status} {reason_phrase(status)}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def before_status(connection: Connection, plan: Plan) -> None:
    """Apply the plan before the response begins.

    :raises ClientGone: the client disconnected while waiting.
    :raises Cut: the plan sends nothing more.
    """
    reach(connection, plan, "status")
    if plan.silence_before_status:
        connection.wait(lambda: False)
    if plan.early_hints:
        connection.send(head_bytes(102, ()) + head_bytes(103, [("Link", "</simulated.css>; rel=preload; as=style")]))
    if plan.status_line_garbage:
        connection.send(b"This is not HTTP at all\r\n\r\n")
        raise Cut


class Encoder(Protocol):
    """A content encoding, flushed after each event so that the client can decode it immediately."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class _Identity:
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Deflate:
    def __init__(self, window_bits: int) -> None:
        self._compressor = zlib.compressobj(wbits=window_bits)

    def feed(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._compressor.flush()


class _Zstandard:
    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor().compressobj()

    def feed(self, data: bytes) -> bytes:
        compressed = bytes(self._compressor.compress(data))
        return compressed + bytes(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))

    def finish(self) -> bytes:
        return bytes(self._compressor.flush())


def encoder_for(encoding: str | None) -> Encoder:
    """Return an encoder for a content coding, or one that changes nothing."""
    if encoding == "gzip":
        return _Deflate(31)
    if encoding == "deflate":
        return _Deflate(15)
    if encoding == "zstd":
        return _Zstandard()
    return _Identity()


class Delivery:
    """One response being sent.

    :param number: the request's number, for the journal.
    """

    def __init__(
        self, connection: Connection, head: Head, plan: Plan, response: Response, journal: Journal, number: int
    ) -> None:
        self._connection = connection
        self._head = head
        self._plan = plan
        self._response = response
        self._journal = journal
        self._status = plan.status or response.status
        self._has_body = head.method != "HEAD" and self._status >= 200 and self._status not in (204, 304)
        self._framing = plan.framing or ("chunked" if response.is_streamed else "length")
        if self._framing == "chunked" and head.http_version == "HTTP/1.0":
            self._framing = "close"
        self._encoder = encoder_for(plan.encoding)
        self._buffer = bytearray()
        self._sent = Sent(number, head.target, self._status)
        self._is_finished = False

    def run(self, *, body_was_read: bool) -> bool:
        """Send the complete response; return whether the connection can serve another request.

        :raises ClientGone: the client disconnected before the end.
        :raises Cut: the plan ended the response early.
        """
        stays = body_was_read and self._head.keeps_alive and self._framing != "close" and not self._plan.wrong_length
        with self._journal.open_stream():
            self._journal.add_sent(self._sent)
            try:
                self._send(stays=stays)
            finally:
                self._finish("cut")
        if not body_was_read:
            self._linger()
        return stays and not self._plan.close_idle

    def _send(self, *, stays: bool) -> None:
        events = self._response.events
        length = None
        if self._framing == "length":
            events, length = self._measured(events)
        self._connection.send(head_bytes(self._status, self._fields(length, stays=stays)))
        if self._has_body:
            self._reach(0)
            for number, event in enumerate(events, 1):
                self._send_event(number, event)
            self._write(self._encoder.finish())
            self._flush()
            if self._framing == "chunked":
                self._connection.send(b"0\r\n\r\n")
        else:
            self._finish("completed")
        if self._plan.extra_response:
            self._connection.send(self._plan.extra_response)

    def _measured(self, events: Iterable[Event]) -> tuple[list[Event], int]:
        """Encode all events in advance, because the length has to be known."""
        encoded = [Event(self._encoder.feed(event.data), event.ends) for event in events]
        encoded.append(Event(self._encoder.finish()))
        self._encoder = encoder_for(None)
        return encoded, sum(len(event.data) for event in encoded)

    def _fields(self, length: int | None, *, stays: bool) -> list[tuple[str, str]]:
        plan = self._plan
        fields = [("Date", email.utils.formatdate(usegmt=True)), ("Server", "simulator")]
        fields += [
            (name, value)
            for name, value in self._response.fields
            if not (plan.no_content_type and name == "Content-Type")
        ]
        fields += [(str(name), str(value)) for name, value in plan.fields]
        fields += [("Set-Cookie", value) for value in plan.set_cookie]
        if plan.endless_field:
            fields.append(("X-Endless", "a" * plan.endless_field))
        if plan.encoding:
            fields.append(("Content-Encoding", plan.encoding))
        if self._framing == "chunked" and self._has_body:
            fields.append(("Transfer-Encoding", "chunked"))
        elif length is not None and self._status not in (204, 304):
            fields.append(("Content-Length", str(length + plan.wrong_length)))
        if not stays:
            fields.append(("Connection", "close"))
        return fields

    def _send_event(self, number: int, event: Event) -> None:
        if self._plan.interval and number > 1:
            self._connection.wait(lambda: False, timeout=self._plan.interval)
        if event.ends is not None:
            self._finish(event.ends)
        self._write(self._encoder.feed(event.data))
        self._reach(number)

    def _finish(self, status: str) -> None:
        if not self._is_finished and self._response.finish is not None:
            self._response.finish(status)
        self._is_finished = True

    def _write(self, payload: bytes) -> None:
        """Send all chunks that the planned chunking makes complete; buffer the rest."""
        self._buffer += payload
        size = {"byte": 1, "event": len(self._buffer), "whole": 0}.get(str(self._plan.chunking))
        if size is None:
            size = int(self._plan.chunking)
        complete = len(self._buffer) // size * size if size else 0
        self._emit([bytes(self._buffer[start : start + size]) for start in range(0, complete, size or 1)])
        del self._buffer[:complete]

    def _flush(self) -> None:
        self._emit([bytes(self._buffer)] if self._buffer else [])
        self._buffer.clear()

    def _emit(self, chunks: list[bytes]) -> None:
        if not chunks:
            return
        self._sent.add(b"".join(chunks))
        if self._framing == "chunked":
            chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
        self._connection.send(b"".join(chunks))

    def _reach(self, number: int) -> None:
        """Apply the plan after this event."""
        plan = self._plan
        at_gate = plan.gate is not None and plan.gate.point == number
        if not at_gate and number not in (plan.silence_after, plan.cut_after, plan.reset_after, plan.bad_chunk):
            return
        self._flush()
        reach(self._connection, plan, number)
        if plan.silence_after == number:
            self._connection.wait(lambda: False)
        if plan.bad_chunk == number:
            self._connection.send(b"this is no chunk size\r\n")
            raise Cut
        if number in (plan.cut_after, plan.reset_after):
            raise Cut(reset=plan.reset_after == number)

    def _linger(self) -> None:
        """Give the client time to read the response, as closing with unread data resets the connection."""
        try:
            self._connection.finish_sending()
        except OSError as exc:
            raise ClientGone from exc
        self._connection.wait_for_hang_up(LINGER_SECONDS)
