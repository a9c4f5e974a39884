"""Checks that this process can use the state folder, and says in one sentence what is wrong if it cannot."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ocm_wsgi.errors import StateUnusable
from ocm_wsgi.storage.files import make_private_folder

# With less, not even the database can be created.
_LEAST_FREE_BYTES = 1024 * 1024


def require_usable(folder: Path) -> None:
    """Create the state folder if it is missing, and make sure that this process can write to it.

    :raises StateUnusable: it cannot: another user owns it, the disk is full or read-only, or there is something else.
    """
    try:
        make_private_folder(folder)
    except OSError as exc:
        raise _unusable(folder, exc) from exc
    require_own(folder)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise _not_permitted(folder)
    if shutil.disk_usage(folder).free < _LEAST_FREE_BYTES:
        raise StateUnusable(f"The disk of the state folder {folder} is full: free some space.")


def require_own(folder: Path) -> None:
    """Make sure that what exists of the state is this user's. Creates nothing.

    root could use it too, but would leave files that the service's own user cannot use.

    :raises StateUnusable: the folder or a file in it belongs to another user, who has to run this.
    """
    for path, status in _existing(folder):
        is_foreign = status.st_uid != os.geteuid()
        if is_foreign and (os.geteuid() == 0 or not os.access(path, os.R_OK | os.W_OK)):
            raise StateUnusable(_belongs_to_another(path, status.st_uid, folder))


def _existing(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the folder, if there is one, and the files in it that this user can see."""
    try:
        yield folder, os.stat(folder)
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:  # Removed meanwhile.
            continue
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            yield path, status


def _belongs_to_another(path: Path, owner: int, folder: Path) -> str:
    user, us = _name(owner), _name(os.geteuid())
    remedy = f"run this as {user}"
    if path != folder:
        remedy += f", or give it to {_name(os.stat(folder).st_uid)}"
    return f"{path} belongs to the user {user}, and this is {us}: {remedy}."


def _unusable(folder: Path, exc: OSError) -> StateUnusable:
    if exc.errno in (errno.EACCES, errno.EPERM):
        return _not_permitted(folder)
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateUnusable(f"The disk of the state folder {folder} is full: free some space.")
    return StateUnusable(f"The state folder {folder} cannot be created: {exc.strerror}. Set state_path to another one.")


def _not_permitted(folder: Path) -> StateUnusable:
    return StateUnusable(
        f"The user {_name(os.geteuid())} may not write to the state folder {folder}: "
        "run this as its owner, or set state_path to another one."
    )


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
