"""Reporting the progress of long work. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Progress(Protocol):
    """Receives the progress of one piece of work."""

    def begin(self, step: str, length: int) -> None:
        """Begin a step.

        :param step: what is being done, for people, such as ``Copying turns``.
        :param length: the number of rows that it takes.
        """

    def advance(self, count: int) -> None:
        """Report that this many more rows of the step are done."""


class NoProgress:
    """Reports nothing."""

    def begin(self, step: str, length: int) -> None:
        """Do nothing."""

    def advance(self, count: int) -> None:
        """Do nothing."""


def advancing(progress: Progress, chunks: Iterable[list[_T]]) -> Iterator[list[_T]]:
    """Yield chunks of rows, and report each once it has been used."""
    for chunk in chunks:
        yield chunk
        progress.advance(len(chunk))
