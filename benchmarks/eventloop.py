"""The event loop of the processes that make and take the load."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
from collections.abc import Coroutine
from typing import Any


def has_uvloop() -> bool:
    """Return whether uvloop is installed; with it the load generator takes less than half the CPU."""
    return importlib.util.find_spec("uvloop") is not None


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on the fastest loop that is there."""
    # A collection would stop every stream at once, and be taken for the server's latency. These processes are short.
    gc.disable()
    if has_uvloop():
        importlib.import_module("uvloop").run(main)
    else:
        asyncio.run(main)
