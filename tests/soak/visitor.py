"""Who comes to the service in an endurance run, and what the ledger owes them."""

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
    """A turn as the ledger has it.

    :ivar input_tokens: the turn's own number; ``None`` where upstream never told the usage.
    """

    user: str
    transport: str
    status: str
    input_tokens: int | None


class Wrong(Exception):
    """A client got something else than it should have."""


@dataclass
class Tally:
    """What clients did. Thread-safe by the global lock: each change is one operation of a built-in type.

    :ivar rows: that the ledger must have in the end.
    :ivar visits: by name.
    :ivar failures: of visits that went wrong, in words.
    """

    rows: list[Row] = field(default_factory=list)
    visits: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def counted(self) -> Counter[str]:
        """How many visits there were of each kind."""
        return Counter(self.visits)


@dataclass(frozen=True)
class Visitor:
    """Who comes to the service, again and again.

    :param choose: its own source of chance.
    """

    address: tuple[str, int]
    user: str
    token: str = field(repr=False)
    tally: Tally
    choose: random.Random

    def owes(self, transport: str, status: str, number: int | None = None) -> None:
        """Note that the ledger must have this turn."""
        self.tally.rows.append(Row(self.user, transport, status, number))

    def number(self) -> int:
        """Return a number that no other turn has."""
        return next(self.tally.numbers)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that the caller closes."""
        return http.client.HTTPConnection(*self.address, timeout=TIMEOUT_SECONDS)

    def fields(self, plan: Mapping[str, Any]) -> dict[str, str]:
        """The fields of a request that is to be answered so."""
        return {"Authorization": f"Bearer {self.token}", "X-Simulate": json.dumps(plan)}

    def ask(
        self, connection: http.client.HTTPConnection, plan: Mapping[str, Any], path: str = "/v1/responses"
    ) -> http.client.HTTPResponse:
        """Send a request and return its response."""
        connection.request("POST", path, BODY, self.fields(plan))
        return connection.getresponse()

    @contextmanager
    def websocket(self, plan: Mapping[str, Any]) -> Iterator[ClientConnection]:
        """A WebSocket on which each turn is answered so; compressed or not."""
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
        """Do nothing for a while, as people do."""
        threading.Event().wait(self.choose.uniform(least, most))
