"""A client in a soak run, and the records that the ledger must contain for it."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from websockets.sync.client import ClientConnection, connect

TIMEOUT_SECONDS = 30.0
BODY = json.dumps({"model": "gpt-5.5", "stream": True, "input": "hi"}).encode()


class Row(NamedTuple):
    """A turn as recorded in the ledger.

    :ivar input_tokens: the turn's unique number; ``None`` if upstream did not report the usage.
    """

    user: str
    transport: str
    status: str
    input_tokens: int | None


class UnexpectedResponse(Exception):
    """A client received something unexpected."""


@dataclass
class Tally:
    """What clients did. Thread-safe under the global interpreter lock: each change is one operation on a built-in type.

    :ivar rows: the turns that the ledger must contain in the end.
    :ivar actions: their names.
    :ivar failures: of actions, as sentences.
    """

    rows: list[Row] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def action_counts(self) -> Counter[str]:
        """Return the number of actions of each kind."""
        return Counter(self.actions)


@dataclass(frozen=True)
class SoakClient:
    """A client that performs random actions.

    :param choose: its own random generator.
    """

    address: tuple[str, int]
    user: str
    token: str = field(repr=False)
    tally: Tally
    choose: random.Random

    def expect_record(self, transport: str, status: str, number: int | None = None) -> None:
        """Note that the ledger must contain this turn."""
        self.tally.rows.append(Row(self.user, transport, status, number))

    def number(self) -> int:
        """Return a number that no other turn has."""
        return next(self.tally.numbers)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that the caller closes."""
        return http.client.HTTPConnection(*self.address, timeout=TIMEOUT_SECONDS)

    def fields(self, plan: Mapping[str, Any]) -> dict[str, str]:
        """Return the header fields of a request to be answered according to the plan."""
        return {"Authorization": f"Bearer {self.token}", "X-Simulate": json.dumps(plan)}

    def request(
        self, connection: http.client.HTTPConnection, plan: Mapping[str, Any], path: str = "/v1/responses"
    ) -> http.client.HTTPResponse:
        """Send a request and return its response."""
        connection.request("POST", path, BODY, self.fields(plan))
        return connection.getresponse()

    @contextmanager
    def websocket(self, plan: Mapping[str, Any]) -> Iterator[ClientConnection]:
        """Open a WebSocket, compressed or not, on which each turn is answered according to the plan."""
        host, port = self.address
        with connect(
            f"ws://{host}:{port}/v1/responses",
            compression=self.choose.choice(["deflate", None]),
            proxy=None,
            additional_headers=self.fields(plan),
            open_timeout=TIMEOUT_SECONDS,
            close_timeout=5,
        ) as client:
            yield client

    def pause(self, least: float, most: float) -> None:
        """Wait for a random time, as people do."""
        threading.Event().wait(self.choose.uniform(least, most))
