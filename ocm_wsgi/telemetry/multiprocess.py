"""The folder through which the processes of one gunicorn share their metrics. Must be known before prometheus_client
is first imported, so nothing here imports it.

Each master has a folder of its own, new at its start, on tmpfs where there is one: the files are mapped into memory,
and no disk may hold a worker up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

#: Where prometheus_client looks for the folder.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "ocm-metrics-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - tmpfs; the folder made in it is private
#: A folder so young may be one whose master has not yet come to lock it, in seconds.
_YOUTH_SECONDS = 60.0


class _State:
    """What this master has made."""

    folder: Path | None = None
    lock: int | None = None


def prepare() -> None:
    """Make the folder and name it in the environment, once a master; gunicorn.conf.py calls this.

    A folder that the operator named is emptied and used. One that is named because a master before us made it (at
    USR2 a new master inherits the environment of the old one) is left alone.
    """
    if _State.folder is not None:
        return
    named = os.environ.get(VARIABLE, "")
    if named and not Path(named).name.startswith(_PREFIX):
        _State.folder = Path(named)
        _State.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in _State.folder.glob("*.db"):
            file.unlink(missing_ok=True)
        return
    parent = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    _sweep(parent)
    _State.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    # Kept open for life, by the workers too: the folder is swept when the last of them has gone.
    _State.lock = os.open(_State.folder, os.O_RDONLY)
    fcntl.flock(_State.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.environ[VARIABLE] = str(_State.folder)


def ensure() -> None:
    """Make the folder anew where somebody has removed it: what was counted is gone, and no process may fail for it.

    systemd's ``RemoveIPC`` does that when the owner of the service signs out of the machine.
    """
    if folder := os.environ.get(VARIABLE):
        os.makedirs(folder, mode=0o700, exist_ok=True)


def remove() -> None:
    """Remove the folder that this master has made, at its end."""
    if _State.folder is not None and _State.lock is not None:
        shutil.rmtree(_State.folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the folders of masters that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _YOUTH_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
