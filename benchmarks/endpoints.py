"""The cost of finding a request's endpoint: ``python -m benchmarks.endpoints``.

For a turn, for a path with IDs, and for what is refused: the CPU time of one look-up in the table. It is part of every
request, and must stay below 5 microseconds for what passes.
"""

from __future__ import annotations

import time
import timeit
from contextlib import suppress

from ocm_wsgi.errors import OcmError
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, EndpointTable

LOOK_UPS = 100_000
ROUNDS = 5
CASES: tuple[tuple[str, EndpointTable, str, str], ...] = (
    ("turn, ChatGPT", CHATGPT, "POST", "responses"),
    ("turn, API key", PLATFORM, "POST", "responses"),
    ("one ID", PLATFORM, "GET", "responses/resp_68b0f0c8a1f481a2b0d3c4e5f6a7b8c9"),
    ("two IDs", PLATFORM, "GET", "vector_stores/vs_68b0f0c8a1f4/file_batches/vsfb_68b0f0c8a1f4/files"),
    ("refused", CHATGPT, "GET", "remote_control/hosts"),
)


def microseconds(table: EndpointTable, method: str, path: str) -> float:
    """Return the least CPU time of one look-up among several rounds."""

    def find() -> None:
        with suppress(OcmError):
            table.find(method, path, is_admin=False)

    def nothing() -> None:
        with suppress(OcmError):
            pass

    def best(call: object) -> float:
        return min(timeit.repeat(call, timer=time.process_time, number=LOOK_UPS, repeat=ROUNDS))  # type: ignore[arg-type]

    return (best(find) - best(nothing)) / LOOK_UPS * 1e6


def main() -> None:
    """Print the table."""
    for name, table, method, path in CASES:
        print(f"{name:<14} {microseconds(table, method, path):6.2f} µs")


if __name__ == "__main__":
    main()
