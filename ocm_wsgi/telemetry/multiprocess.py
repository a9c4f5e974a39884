"""The folder in which the processes of one gunicorn share their metrics.

prometheus_client reads its name when it is first imported, so nothing here imports it.

Each master creates a new folder when it starts, on tmpfs if there is one: the files are mapped into memory, and a slow
disk must not block a worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from ocm_wsgi.storage.files import make_private_folder

#: The environment variable that names the folder to prometheus_client.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "ocm-metrics-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - tmpfs; the folder created in it is private
# A folder younger than this may be one that its master has not locked yet, in seconds.
_GRACE_SECONDS = 60.0


class _State:
    """What this master has created."""

    folder: Path | None = None
    lock: int | None = None


def prepare() -> None:
    """Create the folder and name it in the environment, once per master; gunicorn.conf.py calls this.

    A folder named by the operator is emptied and used. One created by an earlier master is left alone (at USR2, the new
    master inherits the old one's environment).
    """
    if _State.folder is not None:
        return
    named = os.environ.get(VARIABLE, "")
    if named and not Path(named).name.startswith(_PREFIX):
        _State.folder = Path(named)
        make_private_folder(_State.folder)
        for file in _State.folder.glob("*.db"):
            file.unlink(missing_ok=True)
        return
    parent = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    _sweep(parent)
    _State.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    # Stays open in the master and its workers: the folder may be swept once the last of them has exited.
    _State.lock = os.open(_State.folder, os.O_RDONLY)
    fcntl.flock(_State.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.environ[VARIABLE] = str(_State.folder)


def ensure() -> None:
    """Create the folder again if it was removed: the counts are lost, but no process may fail because of that.

    systemd's ``RemoveIPC`` removes it when the service's user logs out of the machine.
    """
    if folder := os.environ.get(VARIABLE):
        make_private_folder(Path(folder))


def remove() -> None:
    """Remove the folder that this master created, at its end."""
    if _State.folder is not None and _State.lock is not None:
        shutil.rmtree(_State.folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the folders of killed masters."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _GRACE_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
