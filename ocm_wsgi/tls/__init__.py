"""TLS contexts, for connections to OpenAI and from clients."""

from __future__ import annotations

__all__ = ["cipher_suites", "contexts", "session_cache"]
