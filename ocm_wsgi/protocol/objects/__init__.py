"""What OpenAI stores: the objects that an answer names."""

from __future__ import annotations

__all__ = ["answers", "stored_object"]
