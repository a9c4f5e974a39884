"""What a check finds: how bad it is, what it means, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is; only a problem makes the whole check fail."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Holds no secret.

    :ivar subject: what it is about: ``credential``, ``state`` and the like.
    :ivar code: what was looked at or found, for programs.
    :ivar text: what it means.
    :ivar remedy: how to mend it; ``""`` where there is nothing to mend.
    """

    subject: str
    level: Level
    code: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Subject:
    """Makes findings about one subject."""

    name: str

    def ok(self, code: str, text: str) -> Finding:
        """As it should be."""
        return Finding(self.name, Level.OK, code, text)

    def note(self, code: str, text: str, remedy: str = "") -> Finding:
        """Worth knowing."""
        return Finding(self.name, Level.NOTE, code, text, remedy)

    def warning(self, code: str, text: str, remedy: str) -> Finding:
        """Works, and may not for long, or not for everybody."""
        return Finding(self.name, Level.WARNING, code, text, remedy)

    def problem(self, code: str, text: str, remedy: str) -> Finding:
        """Does not work."""
        return Finding(self.name, Level.PROBLEM, code, text, remedy)
