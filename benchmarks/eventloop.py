"""The event loop of the load generator's and upstream's processes."""

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
    """Run a coroutine on the fastest event loop available."""
    # Garbage collection would pause all streams together and appear as the server's latency.
    gc.disable()
    if has_uvloop():
        importlib.import_module("uvloop").run(main)
    else:
        asyncio.run(main)
