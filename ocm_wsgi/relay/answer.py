"""What a relay needs of the answer that it moves, beside its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from ocm_wsgi.ownership.open_answer import Answer


class RelayedAnswer(Answer, Protocol):
    """An answer with something to record before its end: a turn, or one that names stored objects, or both.

    ``accounting.turn_accounting.OpenTurn`` says when to call which method.
    """

    def observed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a response's body, and each part only once what is due before it is durable."""
