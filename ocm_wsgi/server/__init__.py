"""gunicorn: its hooks, our worker class, the listening socket."""

from __future__ import annotations

__all__ = ["hooks", "worker"]
