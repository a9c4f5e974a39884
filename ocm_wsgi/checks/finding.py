"""The results of checks: their level, what they mean, and how to fix them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """The severity; only a problem makes the whole check fail."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check. Contains no secret.

    :ivar subject: the area, such as ``credential`` or ``state``.
    :ivar code: the check or its result, for programs.
    :ivar text: what it means, for people.
    :ivar remedy: how to fix it, or ``""``.
    """

    subject: str
    level: Level
    code: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Subject:
    """Creates findings about one subject."""

    name: str

    def ok(self, code: str, text: str) -> Finding:
        """Return a finding that all is well."""
        return Finding(self.name, Level.OK, code, text)

    def note(self, code: str, text: str, remedy: str = "") -> Finding:
        """Return a finding worth knowing."""
        return Finding(self.name, Level.NOTE, code, text, remedy)

    def warning(self, code: str, text: str, remedy: str) -> Finding:
        """Return a finding about something that works, but perhaps not for long or not for everyone."""
        return Finding(self.name, Level.WARNING, code, text, remedy)

    def problem(self, code: str, text: str, remedy: str) -> Finding:
        """Return a finding about something that does not work."""
        return Finding(self.name, Level.PROBLEM, code, text, remedy)
