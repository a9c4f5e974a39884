"""The state database, atomic file replacement, and values per process."""

from __future__ import annotations

__all__ = ["database", "driver_cursor", "engines", "files", "per_process", "schema", "state_folder", "upgrades"]
