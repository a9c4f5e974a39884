"""Moves the state: backups, which SQLite and PostgreSQL share, and exports and imports of users and turns.

A backup and a restoration copy rows, never files, so that both may run beside the service, and between databases of
different kinds. What was copied is compared with what was read before it takes effect.
"""

from __future__ import annotations

__all__ = ["backup", "backup_file", "exports", "fields", "imports", "restoration", "sealing", "steps"]
