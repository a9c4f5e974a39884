"""Records of the simulator's requests and responses, for tests.

All are in one :class:`Journal`, whose condition is notified of each change, so that tests can wait without sleeping.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

#: The part of a request's body that is recorded, in bytes; length and hash are always those of the whole body.
MAX_STORED_BODY = 1024 * 1024
#: The journal drops its oldest requests when their bodies exceed this many bytes, or when there are too many.
MAX_STORED_BODIES = 256 * 1024 * 1024
MAX_STORED_RECORDS = 100_000


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as received.

    :ivar number: counts all requests from 1; :class:`Sent` and :class:`Turn` of the same request have it too.
    :ivar target: the exact bytes of the request target, decoded as latin-1.
    :ivar fields: names and values as sent, preserving order, case and duplicates.
    :ivar body: the first MiB that was read; length and hash cover everything that was read.
    :ivar connection_id: counts TCP connections from 1.
    """

    number: int
    method: str
    target: str
    http_version: str
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    body_length: int
    body_sha256: str
    body: bytes = field(repr=False)
    connection_id: int
    at: float

    def field(self, name: str) -> str | None:
        """Return the first value of a field, ignoring case, or ``None``."""
        return next(iter(self.values(name)), None)

    def values(self, name: str) -> list[str]:
        """Return the values of all fields with this name, in order."""
        return [value for each, value in self.fields if each.lower() == name.lower()]


class Sent:
    """One response's body as sent: encoded, without chunk framing.

    Updated before each write, so it is complete once the last byte has been received.
    """

    def __init__(self, number: int, target: str, status: int) -> None:
        self.number = number
        self.target = target
        self.status = status
        self.body_length = 0
        self._hash = hashlib.sha256()

    def add(self, payload: bytes) -> None:
        self.body_length += len(payload)
        self._hash.update(payload)

    @property
    def body_sha256(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True)
class Refresh:
    """One use of a refresh token.

    :ivar outcome: ``rotated``, ``kept`` (no new refresh token in the response), ``reused``, ``expired``,
        ``invalidated``, ``unknown``, ``refused`` (by plan) or ``cut`` (by plan, before anything happened).
    :ivar reason: the request's ``refresh_reason``, which newer clients send.
    """

    refresh_token_sha256: str
    outcome: str
    at: float
    client_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Turn:
    """One turn of a model. Tokens are as reported to the client, or 0 if they were not.

    :ivar number: the request's number, which all turns on one WebSocket share.
    :ivar transport: ``sse``, ``json`` or ``websocket``.
    :ivar account: the ChatGPT account, or ``api`` for a platform key.
    :ivar status: ``completed``, ``incomplete``, ``failed`` or ``cut`` (the client received no end).
    :ivar others: what else was billed: tokens of images and audio, ``media_ms``, ``characters`` and ``items``.
    """

    number: int
    response_id: str
    model: str
    service_tier: str
    transport: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    account: str
    status: str
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Create:
    """One ``response.create`` received over a WebSocket.

    :ivar number: the number of the request that opened the WebSocket.
    :ivar generates: ``False`` for a prewarm (``"generate": false``).
    :ivar previous_response_id: the response that it continues.
    """

    number: int
    generates: bool
    previous_response_id: str | None


class Journal:
    """All records. Every method is thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._changed = threading.Condition()
        self._requests: deque[ReceivedRequest] = deque()
        self._sent: deque[Sent] = deque(maxlen=MAX_STORED_RECORDS)
        self._turns: deque[Turn] = deque(maxlen=MAX_STORED_RECORDS)
        self._refreshes: deque[Refresh] = deque(maxlen=MAX_STORED_RECORDS)
        self._creates: deque[Create] = deque(maxlen=MAX_STORED_RECORDS)
        self._bad_messages: deque[str] = deque(maxlen=MAX_STORED_RECORDS)
        self._stored_bytes = 0
        self._numbers = 0
        self._open_streams = 0
        self._open_connections = 0

    def number(self) -> int:
        with self._changed:
            self._numbers += 1
            return self._numbers

    def add_request(self, seen: ReceivedRequest) -> None:
        with self._changed:
            self._requests.append(seen)
            self._stored_bytes += len(seen.body)
            while self._stored_bytes > MAX_STORED_BODIES or len(self._requests) > MAX_STORED_RECORDS:
                self._stored_bytes -= len(self._requests.popleft().body)
            self._changed.notify_all()

    def add_sent(self, sent: Sent) -> None:
        with self._changed:
            self._sent.append(sent)

    def add_turn(self, turn: Turn) -> None:
        with self._changed:
            self._turns.append(turn)
            self._changed.notify_all()

    def add_create(self, create: Create) -> None:
        with self._changed:
            self._creates.append(create)
            self._changed.notify_all()

    def add_bad_message(self, reason: str) -> None:
        with self._changed:
            self._bad_messages.append(reason)
            self._changed.notify_all()

    def add_refresh(self, refresh: Refresh) -> None:
        with self._changed:
            self._refreshes.append(refresh)
            self._changed.notify_all()

    @contextmanager
    def open_stream(self) -> Iterator[None]:
        """Count a response that is being sent."""
        with self._changed:
            self._open_streams += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._open_streams -= 1
                self._changed.notify_all()

    @contextmanager
    def open_connection(self) -> Iterator[None]:
        """Count a TCP connection."""
        with self._changed:
            self._open_connections += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._open_connections -= 1
                self._changed.notify_all()

    @property
    def requests(self) -> list[ReceivedRequest]:
        with self._changed:
            return list(self._requests)

    @property
    def bad_messages(self) -> list[str]:
        with self._changed:
            return list(self._bad_messages)

    @property
    def sent(self) -> list[Sent]:
        with self._changed:
            return list(self._sent)

    @property
    def turns(self) -> list[Turn]:
        with self._changed:
            return list(self._turns)

    @property
    def creates(self) -> list[Create]:
        with self._changed:
            return list(self._creates)

    @property
    def refreshes(self) -> list[Refresh]:
        with self._changed:
            return list(self._refreshes)

    @property
    def open_streams(self) -> int:
        return self._open_streams

    @property
    def open_connections(self) -> int:
        return self._open_connections

    def clear(self) -> None:
        """Drop all records, but keep the counts of open streams and connections."""
        with self._changed:
            for records in (
                self._requests,
                self._bad_messages,
                self._sent,
                self._turns,
                self._refreshes,
                self._creates,
            ):
                records.clear()
            self._stored_bytes = 0
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], object], timeout: float) -> bool:
        """Wait until ``condition()``, called again after each change, is true; return whether it is.

        :param timeout: seconds of real time, independent of the simulator's clock.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(remaining)
            return True
