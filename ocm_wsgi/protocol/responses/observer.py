"""Observes the octets of a response that is being relayed, for its outcome and usage. Pure; no I/O.

An observer is fed every read, in any split, and modifies nothing. Its contract guarantees "recorded before seen": the
end of a turn must not reach the client before its record is committed.

``feed(data)`` returns ``(sendable, outcome)``. The first ``sendable`` octets of ``data`` may be sent immediately. With
an outcome, the turn ends within this read, and the other octets must wait until the record is committed. Without one,
``sendable`` is all of the read. An outcome is returned once; whatever follows it (e.g. ``[DONE]``) may be sent
immediately.

With Server-Sent Events a turn ends with its terminal event, which is complete at its blank line. If a terminal event
spans several reads, the earlier ones are sent as they arrive, since a client ignores an incomplete event. Only the read
that completes the event waits, from where the event starts in it. A JSON body ends where its framing says so: ``feed``
never returns an outcome, and the caller calls ``finish()`` before sending the last octets or the last chunk.

Call ``finish(complete=...)`` at the end of the stream; ``complete`` says whether the body arrived in full. It repeats
an outcome that was returned before. A stream of events without its terminal event was cut, even if the transport
ended cleanly.

If the usage is missing in the end, ``output_tokens()`` estimates the output from what was fed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.http.content_coding import Decoder, DecodingError, decoder_for
from ocm_wsgi.protocol.responses import estimate
from ocm_wsgi.protocol.responses.bounded_buffer import BUFFER_LIMIT_BYTES, BoundedBuffer
from ocm_wsgi.protocol.responses.outcome import error_outcome, large_object_outcome, object_outcome, parse_json
from ocm_wsgi.protocol.responses.sse_observer import SseObserver
from ocm_wsgi.protocol.responses.turn import Outcome

# A decoded copy is observed up to this size, then given up.
_OBSERVED_LIMIT_BYTES = 1024 * 1024 * 1024


class Observer(Protocol):
    """Observes one response; the module's docstring is the contract."""

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        """Observe one read; return how much of it may be sent, and the outcome if the turn ends in it."""

    def finish(self, *, complete: bool = True) -> Outcome:
        """Return how the turn ended, after the last read."""

    def output_tokens(self) -> int:
        """Return an estimate of the output in what was fed, in tokens. For a turn without usage, once, at its end."""


def observer_for(
    *,
    status: int,
    media_type: str,
    content_encoding: str = "",
    family: Family = "responses",
    error_code: str | None = None,
) -> Observer:
    """Return an observer for a response.

    :param media_type: the value of ``Content-Type``, with parameters, or ``""``.
    :param content_encoding: the value of ``Content-Encoding``, or ``""``.
    :param family: how the endpoint reports usage.
    :param error_code: of an error whose body names none.
    """
    kind = media_type.partition(";")[0].strip().lower()
    observer: Observer
    if status >= 400:
        observer = JsonObserver(status=status, error_code=error_code)
    elif is_event_stream(media_type, family=family):
        observer = UndecidedObserver(family) if not kind else SseObserver(family)
    elif kind in ("", "application/json") or kind.endswith("+json"):
        observer = JsonObserver(status=status, family=family)
    else:
        return OpaqueObserver()
    unreadable = OpaqueObserver(status=status, is_text=True, error_code=error_code)
    try:
        decoder = decoder_for(content_encoding)
    except DecodingError:
        return unreadable
    return observer if decoder is None else DecodingObserver(observer, decoder, unreadable)


def is_event_stream(media_type: str, *, family: Family = "responses") -> bool:
    """Return whether a response is to be relayed as a stream of events.

    A response without a media type is, where the endpoint can stream text, as in sing-box.

    :param media_type: the value of ``Content-Type``, with parameters, or ``""``.
    """
    kind = media_type.partition(";")[0].strip().lower()
    return kind == "text/event-stream" or (not kind and family in ("responses", "chat", "completions"))


class OpaqueObserver:
    """For bodies that report no usage, or that cannot be read."""

    def __init__(self, *, status: int = 200, is_text: bool = False, error_code: str | None = None) -> None:
        self._status = status
        self._error_code = error_code
        self._is_text = is_text
        self._octets = 0

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        self._octets += len(data)
        return len(data), None

    def finish(self, *, complete: bool = True) -> Outcome:
        if self._status >= 400:
            return Outcome("error", error_code=self._error_code)
        return Outcome("completed" if complete else "cut")

    def output_tokens(self) -> int:
        # Compressed text has an octet for each token at least, so this is never too low.
        return self._octets if self._is_text else 0


class JsonObserver:
    """For a JSON body: a Responses object, a chat completion, a compaction, an error. ``feed`` returns no outcome.

    :param limit: of a larger body, only the ends are read.
    """

    def __init__(
        self,
        *,
        status: int = 200,
        family: Family = "responses",
        error_code: str | None = None,
        limit: int = BUFFER_LIMIT_BYTES,
    ) -> None:
        self._status = status
        self._error_code = error_code
        self._family: Family = family
        self._body = BoundedBuffer(limit)
        self._octets = 0

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        self._octets += len(data)
        self._body.append(data)
        return len(data), None

    def finish(self, *, complete: bool = True) -> Outcome:
        body = parse_json(self._body.octets) if self._body.is_quick_to_parse else None
        if self._status >= 400:
            outcome = error_outcome(body)
            return outcome if outcome.error_code is not None else replace(outcome, error_code=self._error_code)
        if isinstance(body, dict):
            outcome = object_outcome(body, family=self._family)
        elif self._body.is_quick_to_parse:
            outcome = Outcome("completed")
        else:
            outcome = large_object_outcome(self._body, family=self._family)
        return outcome if complete else replace(outcome, status="cut")

    def output_tokens(self) -> int:
        body = parse_json(self._body.octets) if self._body.is_quick_to_parse else None
        return estimate.tokens_in_body(body, self._octets)


class UndecidedObserver:
    """For a body without a media type: an object if it begins with a brace, else a stream of events."""

    def __init__(self, family: Family) -> None:
        self._family: Family = family
        self._observer: Observer | None = None

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        if self._observer is None:
            if not data.strip():
                return len(data), None
            is_object = data.lstrip().startswith(b"{")
            self._observer = JsonObserver(family=self._family) if is_object else SseObserver(self._family)
        return self._observer.feed(data)

    def finish(self, *, complete: bool = True) -> Outcome:
        return Outcome("cut") if self._observer is None else self._observer.finish(complete=complete)

    def output_tokens(self) -> int:
        return 0 if self._observer is None else self._observer.output_tokens()


class DecodingObserver:
    """Observes a decoded copy of an encoded body. A decoding error never breaks the relay."""

    def __init__(self, inner: Observer, decoder: Decoder, fallback: Observer) -> None:
        self._inner = inner
        self._decoder: Decoder | None = decoder
        self._fallback = fallback
        self._decoded = 0

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        """Observe one read. An outcome holds back all of it: the last octets may be enough to decode the rest."""
        if self._decoder is None:
            self._fallback.feed(data)
            return len(data), None
        outcome = None
        try:
            for piece in self._decoder.decode(data):
                self._decoded += len(piece)
                outcome = self._inner.feed(piece)[1] or outcome
            if self._decoded > _OBSERVED_LIMIT_BYTES:
                raise DecodingError("The decoded body is too large to observe.")
        except DecodingError:
            self._decoder = None
            self._fallback.feed(data)
        if outcome is None:
            return len(data), None
        self._decoder = None
        self._fallback = self._inner
        return 0, outcome

    def finish(self, *, complete: bool = True) -> Outcome:
        return (self._fallback if self._decoder is None else self._inner).finish(complete=complete)

    def output_tokens(self) -> int:
        # Both count: the fallback counts what came after the decoding had failed.
        return self._inner.output_tokens() + (0 if self._fallback is self._inner else self._fallback.output_tokens())
