"""Other users of the credential: holders of its locks, and running Codex processes, as far as ``/proc`` shows them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config

_SUBJECT = Subject("sharing")
# A line of /proc/locks: `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF` (proc_locks(5)).
_LOCK = re.compile(r"\d+: FLOCK\s+\S+\s+\S+\s+(\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ")


def findings(config: Config, *, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Look for other processes that use the credential."""
    for lock in dict.fromkeys(lock for account in config.accounts for lock in _locks(account.credential_path)):
        for pid in _holders(lock, proc):
            yield _SUBJECT.note(
                "locked",
                f"{lock} is held by process {pid} ({_name(pid, proc)}). A refresh holds it for a few seconds.",
                "If this persists, end that process.",
            )
    running = list(_codex(proc))
    if running:
        yield _SUBJECT.note(
            "codex",
            f"Codex is running (process {', '.join(map(str, running))}). It may share this file, which is locked for "
            "refreshing; if it uses a copy of the file, each one's refresh ends the other's sign-in.",
            "It is safest to sign the service in separately: ocm login (docs/credentials.md).",
        )
    else:
        yield _SUBJECT.ok("alone", "No running Codex was found on this machine.")


def _locks(path: Path) -> tuple[Path, Path]:
    target = Path(os.path.realpath(path))
    return path.parent / "auth.lock", target.with_name(f"{target.name}.lock")


def _holders(lock: Path, proc: Path) -> Iterator[int]:
    try:
        inode = os.stat(lock).st_ino
        lines = (proc / "locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        matched = _LOCK.match(line)
        if matched and int(matched[2]) == inode:
            yield int(matched[1])


def _codex(proc: Path) -> Iterator[int]:
    for folder in sorted(proc.glob("[0-9]*"), key=lambda folder: int(folder.name)):
        if _name(int(folder.name), proc) == "codex":
            yield int(folder.name)


def _name(pid: int, proc: Path) -> str:
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "name unknown"
    return name if name.isprintable() else "unprintable name"
