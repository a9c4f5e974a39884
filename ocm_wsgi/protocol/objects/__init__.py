"""What OpenAI stores: which objects an answer names for the first time, and which ones a request body refers to."""

from __future__ import annotations

__all__ = ["answers", "references", "stored_object"]
