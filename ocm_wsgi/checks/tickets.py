"""Tickets: they prove to the running service that a check may write its state, and so may see what it sees.

A ticket is a random string; while the check runs, an empty file in ``state_path`` is named by its digest.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIFETIME_SECONDS = 900


@contextmanager
def ticket(state_path: Path) -> Iterator[str]:
    """Issue a ticket that is valid until the context ends, and for 15 minutes at most.

    :raises OSError: ``state_path`` does not exist or is not writable.
    """
    text = f"check-{secrets.token_urlsafe(32)}"
    path = _path(state_path, text)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        yield text
    finally:
        path.unlink(missing_ok=True)


def is_valid(state_path: Path, text: str) -> bool:
    """Return whether a ticket is valid."""
    try:
        age_seconds = time.time() - _path(state_path, text).stat().st_mtime
    except OSError:
        return False
    return age_seconds <= LIFETIME_SECONDS


def _path(state_path: Path, text: str) -> Path:
    return state_path / f"check-{hashlib.sha256(text.encode()).hexdigest()}"
