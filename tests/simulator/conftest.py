"""Fixtures for the simulator's own tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ocm_wsgi.simulator import Simulator


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """Return a running simulator, and check afterwards that all its threads have ended."""
    with Simulator() as simulator:
        yield simulator
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("simulator")]
