"""A ledger on real files, and other processes that use the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.storage.database import Database
from tests.clock import Clock

# 2026-03-02 09:00:00 UTC, the beginning of an hour.
START = 1_772_442_000.0


@pytest.fixture
def clock() -> Clock:
    """Return a clock at the beginning of an hour."""
    return Clock(START)


@pytest.fixture
def ledger(database: Database, state_path: Path, clock: Clock) -> Iterator[Ledger]:
    """Create an empty ledger."""
    ledger = Ledger(database, Spool(state_path / "spool", reserve_bytes=1 << 14), clock)
    yield ledger
    ledger.close()


@pytest.fixture
def make_turn() -> Callable[..., Turn]:
    """Return a factory of turns with 100 input and 10 output tokens for 1,500 micro-dollars, each with its own ID."""
    numbers = itertools.count()

    def make(**changes: object) -> Turn:
        values: dict[str, object] = {
            "id": f"turn-{next(numbers)}",
            "started_at": START,
            "user": "alice",
            "credential": DEFAULT_CREDENTIAL,
            "model": "gpt-5",
            "service_tier": "default",
            "context_window": 0,
            "week_start": None,
            "usage": Usage(input_tokens=100, cached_tokens=40, output_tokens=10, reasoning_tokens=4),
            "cost_micro_usd": 1_500,
            "transport": "sse",
            "status": "completed",
            "http_status": 200,
            "first_byte_ms": 300,
            "duration_ms": 2_000,
        }
        return Turn(**{**values, **changes})  # type: ignore[arg-type]

    return make
