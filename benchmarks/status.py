"""A temporary status line on a terminal. Shows nothing if standard error is not a terminal."""

from __future__ import annotations

import sys

_CLEAR_LINE = "\r\033[K"


class Status:
    """The status line, as a context manager that clears it."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step = 0
        self._text = ""
        self._is_shown = sys.stderr.isatty()

    def __enter__(self) -> Status:
        return self

    def __exit__(self, *failure: object) -> None:
        self._show("")

    def next_step(self, text: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._text = f"[{self._step}/{self._steps}] {text}"
        self._show(self._text)

    def detail(self, text: str) -> None:
        """Show the progress of the step."""
        self._show(f"{self._text}, {text}")

    def _show(self, text: str) -> None:
        if self._is_shown:
            print(f"{_CLEAR_LINE}{text}", end="", file=sys.stderr, flush=True)
