"""The users of the service, their bearer tokens and their sessions."""

from __future__ import annotations

__all__ = ["accounts", "directory", "sessions", "sign_ins", "tokens", "user"]
