"""JSON paths for messages, and default locations in the file system."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

JsonPath = tuple[str | int, ...]


def json_path(path: JsonPath) -> str:
    """Return a path such as ``$.users[1].token``; names that are not identifiers are quoted."""
    text = "$"
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step):
            text += f".{step}"
        else:
            text += '["' + step.replace("\\", "\\\\").replace('"', '\\"') + '"]'
    return text


def home(environ: Mapping[str, str]) -> Path | None:
    """Return the home folder of the user that the service runs as, or ``None`` if it has none."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def owner_home(environ: Mapping[str, str]) -> Path | None:
    """Return the home folder of the person who started the service, even if they used sudo.

    The credential is there: ``sudo gunicorn ...`` serves the subscription of the person who ran it, as in sing-box.
    """
    try:
        return Path(pwd.getpwnam(environ["SUDO_USER"]).pw_dir)
    except KeyError:
        return home(environ)


def credential_path(environ: Mapping[str, str]) -> str | None:
    """Return where Codex stores its credential, or ``None`` if no home folder is known."""
    if environ.get("CODEX_HOME"):
        return str(Path(environ["CODEX_HOME"]) / "auth.json")
    folder = owner_home(environ)
    return None if folder is None else str(folder / ".codex" / "auth.json")


def state_path(environ: Mapping[str, str]) -> str | None:
    """Return the default state folder (XDG Base Directory Specification), or ``None`` if no home folder is known."""
    if environ.get("XDG_STATE_HOME", "").startswith("/"):
        return str(Path(environ["XDG_STATE_HOME"]) / "ocm")
    folder = home(environ)
    return None if folder is None else str(folder / ".local" / "state" / "ocm")
