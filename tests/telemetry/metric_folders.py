"""Finds the metrics folder of a running service."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import requests

from tests.conftest import RunningService


def folder_of(running: RunningService) -> Path:
    """Return the metrics folder that a running master holds open."""
    requests.get(f"{running.url}/ocm/healthz", timeout=20).close()
    opened = set()
    for link in Path(f"/proc/{running.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            opened.add(Path(os.readlink(link)))
    (folder,) = (path for path in opened if path.name.startswith("ocm-metrics-"))
    return folder
