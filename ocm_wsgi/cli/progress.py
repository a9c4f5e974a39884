"""A progress bar for long work, on a terminal only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import click


class ProgressBar:
    """Shows the steps of some work on standard error, one after another."""

    def __init__(self, closing: ExitStack, *, is_shown: bool) -> None:
        self._closing = closing
        self._is_shown = is_shown
        self._bar: Any = None

    def begin(self, step: str, length: int) -> None:
        """Begin a step of so many rows."""
        self._closing.close()
        self._bar = None
        if length and self._is_shown:
            bar = click.progressbar(length=length, label=f"{step:<10}", file=sys.stderr)
            self._bar = self._closing.enter_context(bar)

    def advance(self, count: int) -> None:
        """Report that this many more rows of the step are done."""
        if self._bar is not None:
            self._bar.update(count)


@contextlib.contextmanager
def progress_bar(*, is_shown: bool = True) -> Iterator[ProgressBar]:
    """Return a progress bar that is finished at the end of the context.

    :param is_shown: whether to show it on a terminal; not if the output goes there too.
    """
    with ExitStack() as closing:
        yield ProgressBar(closing, is_shown=is_shown and sys.stderr.isatty())
