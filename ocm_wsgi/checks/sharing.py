"""Who else uses the credential right now: who holds its locks, and which Codex runs. As far as ``/proc`` shows it."""

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
    """Look for others."""
    path = config.credential_path
    target = Path(os.path.realpath(path))
    for lock in (path.parent / "auth.lock", target.with_name(f"{target.name}.lock")):
        for pid in _holders(lock, proc):
            yield _SUBJECT.note(
                "locked",
                f"{lock} is held by process {pid} ({_name(pid, proc)}). For some seconds, that is a renewal.",
                "If it stays so, end that process.",
            )
    running = list(_codex(proc))
    if running:
        yield _SUBJECT.note(
            "codex",
            f"Codex is running (process {', '.join(map(str, running))}). If it uses the same file, the two take turns; "
            "a copy of the file ends the sign-in of the other.",
            "Safest is a sign-in of the service's own: flask ocm login (docs/credentials.md).",
        )
    else:
        yield _SUBJECT.ok("alone", "No Codex is seen running on this machine.")


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
        return "of which nothing more is known"
    return name if name.isprintable() else "of an odd name"
